//! serve, mcp-config: the dispatcher that a coordinator's host starts or calls, and the host's entry for it.
//!
//! Not here: what it answers (`mcp`).

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Command;
use motorpool::embedded::Joined;
use motorpool::settings::{self, Scope};
use motorpool::{Error, Result};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::reach::{self, Wish};
use super::signals::Signals;
use super::{Call, json_arg, options};
use crate::mcp::{self, Desk, http};
use crate::term::{print, print_json, tell};

/// The scopes of what may have to start the embedded pool and to listen.
const SCOPES: &[Scope] = &[Scope::Base, Scope::Pool, Scope::Worker, Scope::PoolDefault, Scope::Serve];
/// Under which name a host knows the dispatcher: its tools are `mcp__pool__…`.
const SERVER: &str = "pool";
/// Set by tests, which have no time to send a request too slowly.
const ARRIVES_WITHIN_MS: &str = "MOTORPOOL_ARRIVES_WITHIN_MS";

pub(super) fn serve_command() -> Command {
    let command = Command::new("serve")
        .about("Serve the pool to a coordinator over MCP, on standard input and output or over HTTP")
        .after_help(
            "Examples:\n  motorpool mcp-config                 what a host needs to start it\n  \
             motorpool serve --http 127.0.0.1:8787\n  \
             motorpool serve --http 0.0.0.0:8787 --token-file ~/motorpool.tokens --allowed-host example.com\n\
             It ends with its standard input, at SIGINT and at SIGTERM; no task ends with it.",
        );
    settings::flags::add(command, SCOPES)
}

pub(super) fn config_command() -> Command {
    let command = Command::new("mcp-config")
        .about("Print what connects Claude Code to this pool")
        .arg(json_arg("print the entry of .mcp.json alone"))
        .after_help("Examples:\n  motorpool mcp-config\n  motorpool mcp-config --json > .mcp.json\n  motorpool mcp-config --http 127.0.0.1:8787");
    settings::flags::add(command, SCOPES)
}

pub(super) async fn serve(call: Call) -> Result<u8> {
    call.refuse_inside_run("serve")?;
    reach::check(&call)?;
    let offer = call.settings.http.map(|address| offer(&call, address));
    let call = Arc::new(call);
    let project_dir = call.settings.redis_url.is_none().then(|| call.project_dir());
    let router = super::route::router(&call, None)?;
    let coordinator = options::coordinator(&call)?;
    let reaching = Arc::clone(&call);
    // Membership in the embedded pool, once it was reached.
    let member: Arc<OnceLock<Arc<Joined>>> = Arc::default();
    let joining = Arc::clone(&member);
    let reach: mcp::Reach = Box::new(move || {
        let (call, member) = (Arc::clone(&reaching), Arc::clone(&joining));
        Box::pin(async move {
            // A look alone brings nothing back that was ended on purpose.
            let reached = reach::reach(&call, Wish::Look).await?;
            if let Some(joined) = reached.joined {
                let _ = member.set(joined);
            }
            Ok(reached.pool)
        })
    });
    let wake: mcp::Wake = Box::new(move || {
        let member = member.get().cloned();
        Box::pin(async move {
            match member {
                Some(joined) => joined.start(tell).await,
                None => Ok(()),
            }
        })
    });
    let desk = Arc::new(Desk::new(reach, wake, project_dir, coordinator, router));
    let signals = Signals::count()?;
    let end = CancellationToken::new();
    let http = match &offer {
        Some(offer) => Some(http::Http::listen(Arc::clone(&desk), offer).await?),
        None => None,
    };
    // A host waits for the first answer, which needs no pool; the pool is reached meanwhile.
    let early = Arc::clone(&desk);
    let warming = tokio::spawn(async move {
        if let Err(error) = early.pool().await {
            tell(&format!("the pool is not reached yet: {error}"));
        }
    });
    let ended = end.clone();
    tokio::spawn(async move {
        signals.reach(1).await;
        ended.cancel();
    });
    let mut hangups =
        signal(SignalKind::hangup()).map_err(|error| Error::failed(format!("cannot listen for signals: {error}")))?;
    let served = match http {
        Some(http) => {
            tell(&format!("serving MCP on http://{}/mcp", http.address()?));
            let hangup = async || {
                hangups.recv().await;
            };
            http.serve(end, hangup).await;
            Ok(())
        }
        None => {
            tokio::select! {
                served = mcp::serve_stdio(desk, end) => served,
                // The host's terminal is gone.
                _ = hangups.recv() => Ok(()),
            }
        }
    };
    warming.abort();
    served.map(|()| 0)
}

fn offer(call: &Call, address: SocketAddr) -> http::Offer {
    let within = call.sources.env.get(ARRIVES_WITHIN_MS).and_then(|text| text.parse().ok());
    http::Offer {
        address,
        token_file: call.settings.token_file.clone(),
        hosts: call.settings.allowed_host.clone(),
        origins: call.settings.allowed_origin.clone(),
        arrives_within: within.map_or(http::ARRIVES_WITHIN, Duration::from_millis),
    }
}

pub(super) fn config(call: &Call) -> Result<u8> {
    let program =
        std::env::current_exe().map_err(|error| Error::failed(format!("cannot find this program: {error}")))?;
    let entry = entry(call, &program.to_string_lossy());
    let document = json!({ "mcpServers": { SERVER: entry } });
    if call.json {
        print_json(&document)?;
        return Ok(0);
    }
    let reads: Vec<String> = mcp::tools::reads().map(|name| format!("mcp__{SERVER}__{name}")).collect();
    let rules = json!({ "permissions": { "allow": reads } });
    print(&format!(
        "# .mcp.json, in the project's directory:\n{document:#}\n\n\
         # or, instead of the file:\n{}\n\n\
         # .claude/settings.json: what only looks needs no permission\n{rules:#}\n",
        add_line(&entry)
    ))?;
    Ok(0)
}

/// The host's entry: absolute paths, and no secret.
fn entry(call: &Call, program: &str) -> Value {
    if let Some(address) = call.settings.http {
        let mut entry = json!({ "type": "http", "url": format!("http://{address}/mcp") });
        if call.settings.token_file.is_some() {
            entry["headers"] = json!({ "Authorization": "Bearer ${MOTORPOOL_TOKEN}" });
        }
        return entry;
    }
    let mut env = Map::new();
    if call.settings.redis_url.is_some() {
        let flags = &call.sources.flags;
        let file = flags.get("redis-url-file").and_then(|values| values.first());
        let file = file.or_else(|| call.sources.env.get("MOTORPOOL_REDIS_URL_FILE")).filter(|file| !file.is_empty());
        match file {
            Some(file) => {
                let file = call.sources.current_dir.join(file);
                env.insert("MOTORPOOL_REDIS_URL_FILE".into(), file.to_string_lossy().into());
            }
            // It may hold a password: the host takes it from its own environment.
            None if call.settings.origin("redis-url").starts_with("redis_url in") => {}
            None => {
                env.insert("MOTORPOOL_REDIS_URL".into(), "${MOTORPOOL_REDIS_URL}".into());
            }
        }
    }
    let given = reach::given_args(call, &[Scope::Pool, Scope::Worker, Scope::PoolDefault]);
    let mut args = vec![Value::from("serve")];
    for arg in given.iter().map(|arg| arg.to_string_lossy()) {
        let name = arg.trim_start_matches("--").split('=').next().unwrap_or_default();
        // What the environment and files say holds for the host's dispatcher too.
        if call.sources.flags.contains_key(name) {
            args.push(arg.as_ref().into());
        }
    }
    for name in ["pool", "coordinator"] {
        if let Some(value) = call.sources.flags.get(name).and_then(|values| values.first()) {
            args.push(format!("--{name}={value}").into());
        }
    }
    let mut entry = json!({ "command": program, "args": args });
    if !env.is_empty() {
        entry["env"] = env.into();
    }
    entry
}

/// The same as a command line. Variables stay names: the host fills them in when it starts the dispatcher, so that no
/// secret comes into the arguments of a process or into the host's files.
fn add_line(entry: &Value) -> String {
    let quoted = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte));
        if is_plain && !text.is_empty() { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
    };
    if let Some(url) = entry["url"].as_str() {
        let header = entry["headers"]["Authorization"].as_str();
        let header = header.map(|value| format!(" --header {}", quoted(&format!("Authorization: {value}"))));
        return format!("claude mcp add --transport http {SERVER} {}{}", quoted(url), header.unwrap_or_default());
    }
    let mut words = vec![format!("claude mcp add {SERVER}")];
    for (name, value) in entry["env"].as_object().into_iter().flatten() {
        words.push(format!("--env {name}={}", quoted(value.as_str().unwrap_or_default())));
    }
    words.push("--".into());
    words.push(quoted(entry["command"].as_str().unwrap_or_default()));
    words.extend(entry["args"].as_array().into_iter().flatten().filter_map(Value::as_str).map(quoted));
    words.join(" ")
}
