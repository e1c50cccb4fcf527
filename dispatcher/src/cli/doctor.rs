//! doctor: what a pool stands on, one line each, with what to do.
//!
//! It starts nothing; a pool that does not run is no failure. Not here: the pool at a glance (`status.rs`).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clap::Command;
use motorpool::settings::{self, Scope};
use motorpool::{Pool, Result};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Call, json_arg, reach};
use crate::term::table::{fit, harmless};
use crate::term::{counted, print, print_json};
use crate::work;

/// The oldest CLI that is supported.
const OLDEST_CLAUDE: (u32, u32, u32) = (2, 1, 197);
/// How long a program may take to tell of itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// Variables that sign the CLI in by themselves.
const CREDENTIALS: &[&str] = &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"];

pub(super) fn command() -> Command {
    let command = Command::new("doctor")
        .about("Check what the pool stands on; exit 1 if something is wrong")
        .arg(json_arg("print {checks, ok}"))
        .after_help("Example:\n  motorpool doctor");
    settings::flags::add(command, &[Scope::Base, Scope::Worker])
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Note,
    Fails,
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    text: String,
    hint: Option<String>,
}

fn check(name: &'static str, verdict: Verdict, text: impl Into<String>, hint: Option<&str>) -> Check {
    Check { name, verdict, text: text.into(), hint: hint.map(str::to_owned) }
}

pub(super) async fn run(call: &Call) -> Result<u8> {
    reach::check(call)?;
    let mut checks = redis(call).await;
    checks.extend(claude(call).await);
    checks.push(git().await);
    checks.push(worker().await);
    let is_ok = checks.iter().all(|check| check.verdict != Verdict::Fails);
    if call.json {
        let items: Vec<Value> = checks
            .iter()
            .map(|check| json!({"name": check.name, "state": word(check.verdict), "text": check.text, "hint": check.hint}))
            .collect();
        print_json(&json!({ "ok": is_ok, "checks": items }))?;
    } else {
        for check in &checks {
            let hint = check.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
            let line = format!("{:<5} {:<12} {}{hint}", word(check.verdict), check.name, check.text);
            if !print(&format!("{}\n", harmless(&line.replace('\n', " "))))? {
                break;
            }
        }
    }
    Ok(u8::from(!is_ok))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Note => "note",
        Verdict::Fails => "fails",
    }
}

async fn redis(call: &Call) -> Vec<Check> {
    let reached = match reach::find(call).await {
        Ok(Some(reached)) => reached,
        Ok(None) => {
            let mut checks =
                vec![check("redis", Verdict::Ok, "no pool runs for this project; the next command starts one", None)];
            checks.extend(server().await);
            return checks;
        }
        Err(error) => return vec![check("redis", Verdict::Fails, error.message(), error.hint_text())],
    };
    let mut checks = Vec::new();
    match reached.pool.check_redis().await {
        Err(error) => checks.push(check("redis", Verdict::Fails, error.message(), error.hint_text())),
        Ok(redis) => {
            checks.push(check("redis", Verdict::Ok, format!("{} answers", redis.url), None));
            checks.push(check("version", Verdict::Ok, format!("Redis {}", redis.version), None));
            checks.push(check("eviction", Verdict::Ok, "off: no task is thrown away", None));
            checks.push(persistence(redis.append_only, redis.fsync.as_deref(), redis.replicas));
            checks.push(invariants(&reached.pool).await);
            checks.push(workers(&reached.pool).await);
            checks.push(hosts(&reached.pool).await);
        }
    }
    checks
}

/// What an acknowledgement of this Redis is worth.
fn persistence(append_only: bool, fsync: Option<&str>, replicas: u32) -> Check {
    let with = if replicas > 0 { format!(", {}", counted(replicas.into(), "replica")) } else { String::new() };
    match (append_only, fsync) {
        (true, Some("always")) => {
            check("persistence", Verdict::Ok, format!("what is acknowledged is on disk{with}"), None)
        }
        (true, Some(fsync)) => check(
            "persistence",
            Verdict::Note,
            format!("append-only file synced {fsync}: a crash may lose the last second{with}"),
            Some("appendfsync always loses nothing"),
        ),
        (true, None) => check(
            "persistence",
            Verdict::Note,
            format!("append-only file; when it is synced cannot be asked{with}"),
            None,
        ),
        (false, _) => check(
            "persistence",
            Verdict::Note,
            format!("no append-only file: a crash loses what came after the last snapshot{with}"),
            Some("set appendonly yes"),
        ),
    }
}

async fn invariants(pool: &Pool) -> Check {
    match pool.examine().await {
        Err(error) => check("invariants", Verdict::Fails, error.message(), error.hint_text()),
        Ok(found) if !found.broken.is_empty() => check(
            "invariants",
            Verdict::Fails,
            format!("{} broken: {}", found.broken.len(), found.broken.join("; ")),
            Some("report it with this line"),
        ),
        Ok(found) if !found.unchecked.is_empty() => {
            check("invariants", Verdict::Note, found.unchecked.join("; "), None)
        }
        Ok(found) => {
            check("invariants", Verdict::Ok, format!("hold for {}", counted(found.tasks as u64, "task")), None)
        }
    }
}

/// Whether the workers that live can work.
async fn workers(pool: &Pool) -> Check {
    let workers = match pool.workers().await {
        Ok(workers) => workers,
        Err(error) => return check("workers", Verdict::Fails, error.message(), error.hint_text()),
    };
    let unfit: Vec<_> = workers.iter().filter_map(|worker| Some((worker, worker.unfit.as_ref()?))).collect();
    let all = counted(workers.len() as u64, "live worker");
    match unfit.first() {
        _ if workers.is_empty() => check("workers", Verdict::Note, "none is alive", Some("tasks wait until one is")),
        None => check("workers", Verdict::Ok, format!("{all}, fit"), None),
        Some((worker, why)) => check(
            "workers",
            if unfit.len() == workers.len() { Verdict::Fails } else { Verdict::Note },
            format!("{} of {all} unfit; on {}: {}: {}", unfit.len(), worker.host, why.class, why.message),
            why.hint.as_deref(),
        ),
    }
}

/// Whether the hosts that live keep what they are to keep.
async fn hosts(pool: &Pool) -> Check {
    let hosts = match pool.hosts().await {
        Ok(hosts) => hosts,
        Err(error) => return check("hosts", Verdict::Fails, error.message(), error.hint_text()),
    };
    let given_up = work::given_up(&hosts);
    let Some((_, hint)) = given_up.first() else {
        let all: Vec<String> =
            hosts.iter().map(|host| format!("{} {} of {}", host.name, host.actual, host.wanted)).collect();
        let text = if all.is_empty() { "none is alive".to_owned() } else { format!("workers: {}", all.join(", ")) };
        return check("hosts", Verdict::Ok, text, None);
    };
    let texts: Vec<&str> = given_up.iter().map(|(what, _)| what.as_str()).collect();
    check("hosts", Verdict::Fails, texts.join("; "), Some(hint))
}

/// The server that an embedded pool would start.
async fn server() -> Option<Check> {
    for name in ["redis-server", "valkey-server"] {
        if let Some(program) = reach::on_path(name) {
            let told = ask(&program, &["--version"]).await;
            return Some(match told {
                Ok((_, text)) => check("server", Verdict::Ok, format!("{}: {}", program.display(), text.trim()), None),
                Err(why) => check("server", Verdict::Fails, format!("{}: {why}", program.display()), None),
            });
        }
    }
    Some(check(
        "server",
        Verdict::Fails,
        "neither redis-server nor valkey-server is on PATH",
        Some("install Redis 7 or newer, or give --redis-url"),
    ))
}

async fn claude(call: &Call) -> Vec<Check> {
    let program = &call.settings.claude_bin;
    let told = match ask(program, &["--version"]).await {
        Ok((true, text)) => text,
        Ok((false, text)) => {
            return vec![check(
                "claude",
                Verdict::Fails,
                format!("{} --version fails: {}", program.display(), text.trim()),
                None,
            )];
        }
        Err(why) => {
            let text = format!("{}: {why}", program.display());
            return vec![check("claude", Verdict::Fails, text, Some("install Claude Code, or give --claude-bin"))];
        }
    };
    let version = told.split_whitespace().next().unwrap_or_default().to_owned();
    let (a, b, c) = OLDEST_CLAUDE;
    let Some(numbers) = version_of(&version) else {
        let text = format!("{} --version says {:?}, which is no version", program.display(), fit(told.trim(), 60));
        return vec![check("claude", Verdict::Fails, text, Some("install Claude Code, or give --claude-bin"))];
    };
    let found = if numbers < OLDEST_CLAUDE {
        check(
            "claude",
            Verdict::Fails,
            format!("{version} is too old"),
            Some(&format!("at least {a}.{b}.{c} is needed: claude update")),
        )
    } else {
        check("claude", Verdict::Ok, format!("{} ({version})", program.display()), None)
    };
    vec![found, signed_in(program).await]
}

fn version_of(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

async fn signed_in(program: &Path) -> Check {
    let is_set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if let Some(name) = CREDENTIALS.iter().find(is_set) {
        return check("signed in", Verdict::Ok, format!("by {name}"), None);
    }
    match ask(program, &["auth", "status", "--json"]).await {
        Ok((true, _)) => check("signed in", Verdict::Ok, "yes (whether it still holds shows at the first task)", None),
        Ok((false, _)) => {
            check("signed in", Verdict::Fails, "no", Some("run `claude auth login`, or set ANTHROPIC_API_KEY"))
        }
        Err(why) => check("signed in", Verdict::Fails, why, None),
    }
}

async fn git() -> Check {
    match ask(Path::new("git"), &["--version"]).await {
        Ok((true, text)) => check("git", Verdict::Ok, text.trim(), None),
        // Nothing that is built needs it; Claude and projects mostly do.
        Ok((false, why)) | Err(why) => check("git", Verdict::Note, why.trim(), Some("Claude works better with git")),
    }
}

async fn worker() -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    let program = match reach::worker_bin() {
        Ok(program) => program,
        Err(error) => return check("worker", Verdict::Fails, error.message(), error.hint_text()),
    };
    match ask(&program, &["--version"]).await {
        Ok((true, text)) if text.split_whitespace().any(|word| word == ours) => {
            check("worker", Verdict::Ok, format!("{} ({ours})", program.display()), None)
        }
        Ok((_, text)) => check(
            "worker",
            Verdict::Fails,
            format!("{} is {:?}, this is {ours}", program.display(), text.trim()),
            Some("install both programs of one version"),
        ),
        Err(why) => check("worker", Verdict::Fails, format!("{}: {why}", program.display()), None),
    }
}

/// What a program says, and whether it ended well.
async fn ask(program: &Path, args: &[&str]) -> Result<(bool, String), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => Err(format!("cannot be started: {error}")),
        Ok(Ok(output)) => {
            let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version_of("2.1.330"), Some((2, 1, 330)));
        assert!(version_of("2.1.99").unwrap() < OLDEST_CLAUDE && version_of("2.10.0").unwrap() > OLDEST_CLAUDE);
        assert_eq!((version_of("2.2.0-beta.1"), version_of("dev"), version_of("")), (Some((2, 2, 0)), None, None));
    }

    #[test]
    fn an_acknowledgement_is_judged() {
        assert_eq!(persistence(true, Some("always"), 0).verdict, Verdict::Ok);
        assert_eq!(persistence(true, Some("everysec"), 1).verdict, Verdict::Note);
        assert_eq!(persistence(false, None, 0).verdict, Verdict::Note);
    }
}
