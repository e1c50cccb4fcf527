//! What `motorpool mcp-config` prints works as it is, with the real CLI, and holds no secret.

use std::path::Path;
use std::process::Stdio;

use motorpool::embedded::{Server, ServerOptions};
use motorpool_tests::fleet::{Cli, real_claude};
use motorpool_tests::project::{Done, User};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::yard::{call, coordinator, print};

/// A secret, and where nobody may find it.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The line that adds the server, of what was printed.
fn line(printed: &Done) -> &str {
    let line = printed.out.lines().find(|line| line.starts_with("claude mcp add "));
    line.unwrap_or_else(|| panic!("no line: {printed:#?}"))
}

/// Runs the line in a shell, as a person does who copies it.
async fn add(user: &User, line: &str) {
    let done = user.done(user.program(Path::new("/bin/sh"), "one", &["-c", line])).await;
    assert_eq!(done.code, Some(0), "{line}: {done:#?}");
    let state = std::fs::read_to_string(user.project("home").join(".claude.json")).expect("the CLI's file");
    assert!(state.contains("\"pool\"") && !state.contains(SECRET), "{state}");
    let done = user.done(user.program(&real_claude(), "one", &["mcp", "get", "pool"])).await;
    assert!(done.code == Some(0) && done.out.contains("Connected"), "{done:#?}");
    assert!(!done.out.contains(SECRET), "{done:#?}");
}

/// A user who finds `claude` on PATH.
async fn with_claude() -> User {
    let mut user = coordinator(Cli::StandIn).await;
    let claude = real_claude();
    let dir = claude.parent().expect("a directory").display();
    let path = format!("{dir}:{}", user.variables()["PATH"]);
    user.env("PATH", &path);
    user
}

/// What the pool says of itself to a coordinator in project `two`, whose `.mcp.json` this is.
async fn status_in_two(user: &User, entry: &Value) -> Value {
    std::fs::write(user.project("two").join(".mcp.json"), entry.to_string()).expect("a file in the project");
    let args = ["--mcp-config", ".mcp.json", "--strict-mcp-config", "--allowedTools", "mcp__pool__pool_status"];
    let prompt = format!("Go.\n{}\n@echo result", call("pool_status", &json!({})));
    let done = print(user, &real_claude(), "two", &args, &prompt).await.json();
    serde_json::from_str(done["result"].as_str().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {done:#}"))
}

#[tokio::test]
async fn a_pool_with_a_password_is_added_and_the_password_is_nowhere() {
    let mut user = with_claude().await;
    let dir = user.project("state").join("redis");
    std::fs::create_dir(&dir).expect("a directory");
    let (socket, path) = (dir.join("redis.sock"), std::env::var_os("PATH").unwrap_or_default());
    let server = Server::start(ServerOptions { dir, socket, path, lock: None }).await.expect("a private Redis starts");
    let client = redis::Client::open(server.url()).expect("its address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("it answers");
    let command = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(SECRET).to_owned();
    command.exec_async(&mut connection).await.expect("it takes a password");
    user.env("MOTORPOOL_REDIS_URL", &format!("{}?pass={SECRET}", server.url()));

    let printed = user.motorpool("one", &["mcp-config"]).await;
    let entry = user.motorpool("one", &["mcp-config", "--json"]).await;
    for done in [&printed, &entry] {
        assert_eq!(done.code, Some(0), "{done:#?}");
        assert!(!done.out.contains(SECRET) && !done.err.contains(SECRET), "{done:#?}");
    }
    add(&user, line(&printed)).await;
    assert_eq!(status_in_two(&user, &entry.json()).await["state"], "idle");
    assert_eq!(user.processes(&["motorpool"]), [0; 0], "a pool of its own was started beside the one that was given");
}

#[tokio::test]
async fn a_dispatcher_over_http_is_added_and_its_token_is_nowhere() {
    let mut user = with_claude().await;
    let tokens = user.project("home").join("tokens");
    std::fs::write(&tokens, format!("ann {SECRET}\n")).expect("a file");
    let tokens = tokens.display().to_string();
    let mut serve = user.command("one", &["serve", "--http=127.0.0.1:0", "--token-file", &tokens, "--slots=0"]);
    let mut serving = serve.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(serving.stderr.take().expect("a pipe")).lines();
    let mut address = String::new();
    while let Some(line) = lines.next_line().await.expect("it can be read") {
        if let Some((_, rest)) = line.split_once("serving MCP on http://") {
            address = rest.trim_end_matches("/mcp").to_owned();
            break;
        }
    }
    let http = format!("--http={address}");
    let printed = user.motorpool("one", &["mcp-config", &http, "--token-file", &tokens]).await;
    let entry = user.motorpool("one", &["mcp-config", "--json", &http, "--token-file", &tokens]).await;
    for done in [&printed, &entry] {
        assert!(done.code == Some(0) && !done.out.contains(SECRET), "{done:#?}");
    }
    user.env("MOTORPOOL_TOKEN", SECRET);
    add(&user, line(&printed)).await;
    assert_eq!(status_in_two(&user, &entry.json()).await["state"], "idle");
    // Whoever does not know the token gets no further.
    user.env("MOTORPOOL_TOKEN", "another-one-0123456789abcdef0123456789");
    let done = user.done(user.program(&real_claude(), "one", &["mcp", "get", "pool"])).await;
    assert!(!done.out.contains("Connected"), "{done:#?}");
    serving.start_kill().expect("it is ours");
    serving.wait().await.expect("it ends");
    super::yard::end(&user).await;
}
