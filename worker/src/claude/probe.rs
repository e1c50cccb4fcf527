//! Whether this machine's CLI can be used: there, new enough, signed in. No model request is made.
//!
//! Asked with the environment that tasks get, or the answer would be somebody else's. Not here: a sign-in that the API
//! refuses (`classify.rs`).

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use motorpool::domain::attempt::Class;
use motorpool::domain::fleet::Unfit;
use motorpool::domain::limits::cut_middle;
use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::command::Environment;
use crate::process::Owned;

/// The oldest CLI whose lines are known.
const OLDEST: [u32; 3] = [2, 1, 197];
/// Both questions together take about a second on an idle machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A CLI that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where it is.
    pub path: PathBuf,
    /// Its version, as in `2.1.330`.
    pub version: String,
    /// How it is signed in: `api_key`, `oauth_token`, `claude.ai`, `bedrock`, …
    pub method: String,
    /// Whose account it is, where that is told: an e-mail address, else an organization.
    pub account: Option<String>,
    /// The account as a hash that tells nothing of it, for the workers that share it; empty where it cannot be told.
    pub account_id: String,
}

/// Finds the CLI and asks it. `bin` is `--claude-bin`; `cwd` is where tasks work.
pub async fn probe(bin: Option<&Path>, env: &Environment, cwd: &Path) -> Result<Probe, Unfit> {
    if !cwd.is_dir() {
        return Err(unfit(
            Class::Internal,
            format!("the working directory {} is no directory on this machine", cwd.display()),
            "make it, or start the worker with another --working-dir",
        ));
    }
    let path = find(bin, env, cwd)?;
    let asked = async {
        let version = version(&ask(&path, &["--version"], env, cwd).await?.0)?;
        if let Some(method) = credential(env) {
            let account_id = account_id(env, None);
            return Ok(Probe { path: path.clone(), version, method: method.to_owned(), account: None, account_id });
        }
        let (answer, stderr) = ask(&path, &["auth", "status", "--json"], env, cwd).await?;
        let SignedIn { method, account, login } = signed_in(&answer, &stderr)?;
        let account_id = account_id(env, login.as_deref());
        Ok(Probe { path: path.clone(), version, method, account, account_id })
    };
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(unfit(
            Class::Internal,
            format!("{} did not answer within {} s", path.display(), DEADLINE.as_secs()),
            "run it by hand on the worker's machine; see whether the machine is overloaded",
        )),
    }
}

fn unfit(class: Class, message: String, hint: &str) -> Unfit {
    Unfit { class, message, hint: Some(hint.to_owned()), until_ms: None }
}

const INSTALL: &str = "install Claude Code (npm install -g @anthropic-ai/claude-code), or name it with --claude-bin";

fn find(bin: Option<&Path>, env: &Environment, cwd: &Path) -> Result<PathBuf, Unfit> {
    let runs = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let name = bin.unwrap_or(Path::new("claude"));
    if name.components().count() > 1 {
        let path = cwd.join(name);
        let missing = || unfit(Class::Internal, format!("{} is no program", path.display()), INSTALL);
        return Some(path.clone()).filter(|path| runs(path)).ok_or_else(missing);
    }
    let paths = env.get(OsStr::new("PATH")).map(|paths| std::env::split_paths(paths).collect()).unwrap_or_default();
    let found = Vec::<PathBuf>::into_iter(paths).map(|folder| cwd.join(folder).join(name)).find(|path| runs(path));
    found.ok_or_else(|| unfit(Class::Internal, format!("no {} on PATH", name.display()), INSTALL))
}

/// Stdout and stderr, whatever the exit code.
async fn ask(path: &Path, args: &[&str], env: &Environment, cwd: &Path) -> Result<(String, String), Unfit> {
    let failed =
        |error: std::io::Error| unfit(Class::Internal, format!("cannot run {}: {error}", path.display()), INSTALL);
    let mut command = std::process::Command::new(path);
    command.args(args).env_clear().envs(env).current_dir(cwd);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    motorpool::process::die_with_parent(&mut command, Signal::SIGKILL);
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().map_err(failed)?;
    let _owned = child.id().map(Owned::new);
    let output = child.wait_with_output().await.map_err(failed)?;
    let text = |bytes: &[u8]| cut_middle(String::from_utf8_lossy(bytes).trim(), 4000);
    Ok((text(&output.stdout), text(&output.stderr)))
}

/// `2.1.330 (Claude Code)`.
fn version(answer: &str) -> Result<String, Unfit> {
    let version = answer.split_whitespace().next().unwrap_or_default();
    let numbers: Vec<u32> =
        version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).take(OLDEST.len()).collect();
    let oldest = OLDEST.map(|part| part.to_string()).join(".");
    if numbers.len() < OLDEST.len() {
        let message = format!("claude --version said {:?}, which is no version", cut_middle(answer, 200));
        return Err(unfit(Class::Internal, message, INSTALL));
    }
    if numbers.as_slice() < OLDEST.as_slice() {
        let message = format!("Claude Code {version} is too old; {oldest} is the oldest that will do");
        return Err(unfit(
            Class::Internal,
            message,
            "update it: claude update, or npm install -g @anthropic-ai/claude-code",
        ));
    }
    Ok(version.to_owned())
}

/// What counts as signed in without asking: the CLI itself looks no further.
fn credential(env: &Environment) -> Option<&'static str> {
    let set = |name: &str| env.get(OsStr::new(name)).is_some_and(|value| !value.is_empty());
    let on = |name: &str| set(name) && !["0", "false"].iter().any(|off| env[OsStr::new(name)] == **off);
    [
        (on("CLAUDE_CODE_USE_BEDROCK"), "bedrock"),
        (on("CLAUDE_CODE_USE_VERTEX"), "vertex"),
        (on("CLAUDE_CODE_USE_FOUNDRY"), "foundry"),
        (set("ANTHROPIC_API_KEY"), "api_key"),
        (set("ANTHROPIC_AUTH_TOKEN"), "oauth_token"),
        (set("CLAUDE_CODE_OAUTH_TOKEN"), "oauth_token"),
    ]
    .into_iter()
    .find_map(|(there, method)| there.then_some(method))
}

/// The stored login, else the key or token, in the order in which the CLI looks at them; the address is part of it.
fn account_id(env: &Environment, login: Option<&str>) -> String {
    let text =
        |name: &str| env.get(OsStr::new(name)).map(|value| value.as_encoded_bytes()).filter(|text| !text.is_empty());
    let names = ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"];
    let credential = names.iter().find_map(|name| Some((*name, text(name)?)));
    let (kind, secret) = match (login, credential) {
        (Some(login), _) => ("login", login.as_bytes()),
        (None, Some(credential)) => credential,
        (None, None) => return String::new(),
    };
    let mut hash = Sha256::new();
    for part in [kind.as_bytes(), b"\0", text("ANTHROPIC_BASE_URL").unwrap_or_default(), b"\0", secret] {
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A stored login, or whatever else the CLI goes by.
#[derive(Debug, PartialEq, Eq)]
struct SignedIn {
    method: String,
    account: Option<String>,
    /// What tells the account from others: a person may have one in each of several organizations.
    login: Option<String>,
}

fn signed_in(answer: &str, stderr: &str) -> Result<SignedIn, Unfit> {
    let Ok(status) = serde_json::from_str::<Value>(answer) else {
        let said = if answer.is_empty() { stderr } else { answer };
        let message = format!("claude auth status said {:?}", cut_middle(said, 200));
        return Err(unfit(Class::Internal, message, "run `claude auth status` on the worker's machine"));
    };
    if status["loggedIn"] != true {
        return Err(unfit(
            Class::Auth,
            "Claude Code is not signed in".into(),
            "on the worker's machine, as its user: `claude auth login` (or /login), or set ANTHROPIC_API_KEY",
        ));
    }
    let some = |name: &str| status[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (email, org) = (some("email"), some("orgId").or_else(|| some("orgName")));
    let login = [&email, &org].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\0");
    Ok(SignedIn {
        method: some("authMethod").unwrap_or_else(|| "unknown".into()),
        account: email.or_else(|| some("orgName")),
        login: Some(login).filter(|login| !login.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_compared() {
        for (answer, expected) in [
            ("2.1.330 (Claude Code)", Ok("2.1.330")),
            ("2.1.197", Ok("2.1.197")),
            ("2.2.0-beta.1 (Claude Code)", Ok("2.2.0-beta.1")),
            ("3.0.0", Ok("3.0.0")),
            ("2.1.99 (Claude Code)", Err("too old")),
            ("1.9.999", Err("too old")),
            ("command not found", Err("no version")),
            ("", Err("no version")),
        ] {
            match (version(answer), expected) {
                (Ok(version), Ok(expected)) => assert_eq!(version, expected),
                (Err(unfit), Err(part)) => assert!(unfit.message.contains(part), "{unfit:?}"),
                (got, _) => panic!("{answer}: {got:?}"),
            }
        }
    }

    #[test]
    fn who_is_signed_in_is_read_from_the_status() {
        let email = r#"{"loggedIn":true,"authMethod":"claude.ai","email":"a@b","orgName":"o"}"#;
        let seen = signed_in(email, "").unwrap();
        assert_eq!((seen.method.as_str(), seen.account.as_deref()), ("claude.ai", Some("a@b")));
        let elsewhere = r#"{"loggedIn":true,"authMethod":"claude.ai","email":"a@b","orgId":"o2","orgName":"o"}"#;
        assert_ne!(seen.login, signed_in(elsewhere, "").unwrap().login, "another organization is another account");
        let key = r#"{"loggedIn":true,"authMethod":"api_key","email":null}"#;
        assert_eq!(signed_in(key, "").unwrap(), SignedIn { method: "api_key".into(), account: None, login: None });
        let out = signed_in(r#"{"loggedIn":false,"authMethod":"none"}"#, "").unwrap_err();
        assert_eq!(out.class, Class::Auth);
        assert!(out.hint.unwrap().contains("claude auth login"));
        assert_eq!(signed_in("", "unknown command").unwrap_err().class, Class::Internal);
    }

    #[test]
    fn an_account_is_known_by_its_login_else_by_its_key() {
        let env = |name: &str, value: &str| -> Environment { [(name.into(), value.into())].into() };
        let (a, b) = (env("ANTHROPIC_API_KEY", "a"), env("ANTHROPIC_API_KEY", "b"));
        assert_eq!(account_id(&a, None), account_id(&a, None));
        assert_ne!(account_id(&a, None), account_id(&b, None));
        assert_eq!(account_id(&a, Some("x@y")), account_id(&b, Some("x@y")));
        assert_ne!(account_id(&env("CLAUDE_CODE_OAUTH_TOKEN", "a"), None), account_id(&a, None));
        assert_eq!((account_id(&a, None).len(), account_id(&Environment::default(), None).as_str()), (16, ""));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_missing_program_is_named_with_how_to_install_it() {
        let env: Environment = [("PATH".into(), "/nowhere".into())].into();
        let gone = probe(None, &env, Path::new("/")).await.unwrap_err();
        assert!(gone.message.contains("no claude on PATH") && gone.hint.unwrap().contains("npm install"));
        let gone = probe(Some(Path::new("/nowhere/claude")), &env, Path::new("/")).await.unwrap_err();
        assert!(gone.message.contains("/nowhere/claude"), "{gone:?}");
        let gone = probe(None, &env, Path::new("/nowhere")).await.unwrap_err();
        assert!(gone.message.contains("working directory /nowhere"), "{gone:?}");
    }
}
