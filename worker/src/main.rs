//! `motorpool-worker`: a slot, or a host that keeps several.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, Command};
use motorpool::domain::slot::base_name;
use motorpool::embedded::{self, Joined, Place, Presence, Starter};
use motorpool::names::OwnName;
use motorpool::outbox::Outbox;
use motorpool::settings::{self, Scope, Settings, Sources, flags};
use motorpool::{Error, Name, Pool, PoolBuilder, Result, telemetry};
use motorpool_worker::claude::command::{Filter, environment};
use motorpool_worker::workplace::{Workplace, labels};
use motorpool_worker::{host, slot, stop};

/// What the keeper hands its host, so that the host can start another keeper: a JSON list, program first.
const KEEPER: &str = "MOTORPOOL_KEEPER";
/// When an unfit worker first looks whether it is fit again, in milliseconds: for tests, which cannot wait so long.
const PROBE_AGAIN_MS: &str = "MOTORPOOL_PROBE_AGAIN_MS";
const PROBE_AGAIN: Duration = Duration::from_secs(5);
const SCOPES: &[Scope] = &[Scope::Base, Scope::Pool, Scope::Worker];

fn cli() -> Command {
    let host = Command::new("host")
        .about("Keep several workers alive on this machine")
        .after_help("Example:\n  motorpool-worker host --slots 4 --redis-url redis://queue.local:6379");
    let worker = Command::new("motorpool-worker")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Motorpool's worker: claims tasks from a pool and runs Claude Code on them, one at a time")
        .after_help(
            "Without a Redis URL it joins the running embedded pool of the project.\n\
             SIGTERM lets it finish what it runs; a second one gives the task back.\n\n\
             Exit codes: 0 told to stop, 2 settings are wrong, 3 no Redis or no pool at the start, 6 the pool refuses.",
        );
    flags::add(flags::add(worker, SCOPES), &[Scope::Slot]).subcommand(flags::add(host, SCOPES))
}

fn main() -> ExitCode {
    let matches = match cli().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("the program cannot start: {error}")))
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, run(&matches)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            leave_word(&error);
            eprintln!("error: {}", error.message());
            if let Some(hint) = error.hint_text() {
                eprintln!("  hint: {hint}");
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Why this worker ends, for its host to tell.
fn leave_word(error: &Error) {
    let Some(file) = std::env::var_os(host::LAST_WORDS).filter(|file| !file.is_empty()) else { return };
    let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
    // What is lost is a remark: it stands on stderr too.
    let _ = std::fs::write(file, format!("{}{hint}", error.message()));
}

async fn run(matches: &ArgMatches) -> Result<()> {
    let (given, is_host) = match matches.subcommand() {
        Some((_, inner)) => {
            let mut given = flags::given(matches, SCOPES);
            given.extend(flags::given(inner, SCOPES));
            (given, true)
        }
        None => {
            let mut given = flags::given(matches, SCOPES);
            given.extend(flags::given(matches, &[Scope::Slot]));
            (given, false)
        }
    };
    let current_dir = std::env::current_dir()
        .map_err(|error| Error::failed(format!("the current directory cannot be told: {error}")))?;
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let sources = Sources::of_process(given.clone(), env, &current_dir);
    let settings = settings::load(&sources)?;
    telemetry::init(&settings.log, settings.log_format, !sources.env.contains_key("NO_COLOR"))?;
    if sources.env.contains_key("MOTORPOOL_RUN") {
        return Err(Error::refused("this is a run of a Motorpool itself; no worker is started in it")
            .hint("start workers outside of tasks"));
    }
    // A host that a terminal started ends with the terminal; any other one is told so to renew its workers.
    let renews = is_host && !std::io::stdin().is_terminal();
    let stopping = stop::listen(settings.drain_timeout, !renews)?;
    motorpool::process::adopt_orphans()
        .map_err(|error| Error::failed(format!("orphans of tasks cannot be adopted: {error}")))?;
    let joined = if settings.redis_url.is_none() { Some(join(&settings, &sources).await?) } else { None };
    if joined.is_none() && !settings.working_dir.is_dir() {
        return Err(Error::usage(format!(
            "{}: {} is no directory",
            settings.origin("working-dir"),
            settings.working_dir.display()
        ))
        .hint("make it, or name another: tasks work there"));
    }
    if is_host {
        let bounds = bounds(&settings)?;
        let pool = match (&settings.redis_url, &joined) {
            // What is wrong from the beginning is told now, not by each worker again and again.
            (Some(url), _) => connect(&settings, url.expose(), None).await?,
            // Whose keeper may be coming back just now.
            (None, Some(joined)) => builder(&settings, &joined.url(), Some(joined))?.build()?,
            (None, None) => return Err(Error::failed("there is no Redis URL")),
        };
        let program = std::env::current_exe()
            .map_err(|error| Error::failed(format!("the worker's program cannot be told: {error}")))?;
        // Not as an argument: those are seen by every user of the machine.
        let url = settings.redis_url.iter().map(|url| ("MOTORPOOL_REDIS_URL".into(), url.expose().into()));
        let mut env: Vec<(OsString, OsString)> = url.collect();
        // The file that the URL came from would be a second one; empty counts as unset.
        env.push(("MOTORPOOL_REDIS_URL_FILE".into(), OsString::new()));
        let args = passed_on(given);
        let renewals = if renews { Some(stop::renewals()?) } else { None };
        let (dir, of_pool) = names_of(&settings, joined.as_ref(), &pool);
        let base = base_name(&sources.machine);
        let name = Box::new(move |number| OwnName::take(&dir, &of_pool, &base, number));
        let max_restarts = settings.max_restarts;
        let options = host::Options { bounds, max_restarts, program, args, env, pool, name, joined };
        return host::keep(options, stopping, renewals).await;
    }
    let url = match (&settings.redis_url, &joined) {
        (Some(url), _) => url.expose().to_owned(),
        (None, Some(joined)) => joined.url(),
        (None, None) => return Err(Error::failed("there is no Redis URL")),
    };
    let pool = connect(&settings, &url, joined.as_ref()).await?;
    let mut options = options(&settings, &sources, joined.is_some(), &url)?;
    // Held until the end of the process.
    let mut _own = None;
    match &settings.slot {
        Some(slot) => options.slot.clone_from(slot),
        None => {
            let (dir, of_pool) = names_of(&settings, joined.as_ref(), &pool);
            let name = OwnName::take(&dir, &format!("{of_pool} alone"), &base_name(&sources.machine), 1)?;
            name.name().clone_into(&mut options.slot);
            _own = Some(name);
        }
    }
    slot::work(&pool, &options, stopping).await
}

/// How many workers a host may keep. The built-in bound gives way to a larger number of slots.
fn bounds(settings: &Settings) -> Result<host::Bounds> {
    let (slots, min) = (settings.slots, settings.min_slots);
    let is_default = settings.origin("max-slots") == "the default";
    let max = if is_default { settings.max_slots.max(slots).max(min) } else { settings.max_slots };
    let slots = if settings.origin("slots") == "the default" { slots.clamp(min, max.max(min)) } else { slots };
    if min > max || slots < min || slots > max {
        return Err(Error::usage(format!("{slots} slots do not lie between {min} and {max}"))
            .hint("correct --slots, --min-slots or --max-slots"));
    }
    Ok(host::Bounds { slots, min, max })
}

/// Where names are taken, and among whom.
fn names_of(settings: &Settings, joined: Option<&Joined>, pool: &Pool) -> (PathBuf, String) {
    let of_pool = match joined {
        Some(joined) => joined.place().dir().display().to_string(),
        None => format!("{} {}", pool.redis(), settings.pool),
    };
    (settings.state_dir.join("names"), of_pool)
}

/// The project's running embedded pool.
async fn join(settings: &Settings, sources: &Sources) -> Result<Joined> {
    let place = Place::of(settings, sources);
    let keeper: Vec<String> =
        std::env::var(KEEPER).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let mut words = keeper.into_iter();
    let starter = Starter {
        program: words.next().unwrap_or_else(|| "motorpool".to_owned()).into(),
        args: words.map(OsString::from).collect(),
        env: Vec::new(),
    };
    embedded::find(&place, &starter, Presence::Worker).await?.ok_or_else(|| {
        Error::redis(format!("no pool runs for {}", place.project().display()))
            .hint("start one with `motorpool up --detach`, or name a Redis with --redis-url")
    })
}

async fn connect(settings: &Settings, url: &str, joined: Option<&Joined>) -> Result<Pool> {
    builder(settings, url, joined)?.connect().await
}

fn builder(settings: &Settings, url: &str, joined: Option<&Joined>) -> Result<PoolBuilder> {
    let builder = Pool::builder(url).lease(settings.lease);
    Ok(match joined {
        // An embedded pool is alone in its Redis, and a new keeper may have chosen another socket.
        Some(joined) => builder.name(Name::default()).whereabouts(Arc::new(joined.whereabouts())),
        None => builder.name(settings.pool.parse()?),
    })
}

fn options(settings: &Settings, sources: &Sources, embedded: bool, url: &str) -> Result<slot::Options> {
    let own = std::env::vars_os().collect();
    let filter = Filter { clean: settings.clean_env, pass: settings.pass_env.clone(), secrets: secrets(url) };
    let scratch = settings.state_dir.join("runs");
    std::fs::create_dir_all(&scratch).map_err(|error| {
        Error::failed(format!("{} cannot be made: {error}", scratch.display())).hint("name another --state-dir")
    })?;
    Ok(slot::Options {
        claude_bin: settings.claude_bin.clone(),
        env: environment(&own, &filter),
        workplace: Workplace {
            working_dir: settings.working_dir.clone(),
            embedded,
            allow_dir: settings.allow_dir.clone(),
            allow_mode: settings.allow_mode.parse()?,
            allow_mcp: settings.allow_mcp,
        },
        lanes: settings.lanes.clone(),
        account: account(settings)?,
        labels: labels(&settings.labels, &sources.machine),
        scratch,
        outbox: Outbox::new(settings.state_dir.join("outbox")),
        host: sources.machine.clone(),
        slot: String::new(),
        probe_again: std::env::var(PROBE_AGAIN_MS)
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(PROBE_AGAIN, Duration::from_millis),
    })
}

/// The account's name, as it stands in the pool.
fn account(settings: &Settings) -> Result<Option<String>> {
    let Some(name) = &settings.account else { return Ok(None) };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if name.len() > 64 || !name.chars().all(plain) {
        return Err(Error::usage(format!("{}: {name} is no name of an account", settings.origin("account")))
            .hint("up to 64 letters, digits and . _ @ -"));
    }
    Ok(Some(format!("name:{name}")))
}

/// What must not reach Claude in any variable: the URL where it holds a password.
fn secrets(url: &str) -> Vec<String> {
    // Files that are named behind it are no part of its password.
    let url = if url.starts_with("rediss://") { url.split('?').next().unwrap_or(url) } else { url };
    let credentials =
        url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(credentials, _)| credentials);
    let password = credentials.and_then(|credentials| credentials.split_once(':')).map(|(_, password)| password);
    let queried = url.split_once("pass=").map(|(_, rest)| rest.split('&').next().unwrap_or(rest));
    [password, queried].into_iter().flatten().filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

/// The host's settings as its workers' arguments.
fn passed_on(given: BTreeMap<String, Vec<String>>) -> Vec<OsString> {
    let own = ["slots", "min-slots", "max-slots", "max-restarts", "redis-url", "redis-url-file"];
    let kept = given.into_iter().filter(|(name, _)| !own.contains(&name.as_str()));
    kept.flat_map(|(name, values)| values.into_iter().map(move |value| format!("--{name}={value}").into())).collect()
}
