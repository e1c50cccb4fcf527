//! Where a task runs: its environment, its MCP servers, its directory.

use std::os::unix::fs::PermissionsExt;

use motorpool::embedded::{self, KeepOptions, Place};
use motorpool::{Class, Pool, Spec, State, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet, PATIENCE, program};
use serde_json::{Value, json};
use tokio::time::Instant;

fn may_run() -> Value {
    json!({"permission_mode": "acceptEdits", "allowed_tools": ["Bash"]})
}

#[tokio::test]
async fn a_tasks_environment_is_the_workers_without_what_is_not_its_business() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let hidden = [
        ("MOTORPOOL_LOG", "info"),
        ("REDIS_URL", "redis://:HIDDEN@nowhere"),
        ("REDISCLI_AUTH", "HIDDEN"),
        ("CLAUDE_CODE_SESSION_ID", "HIDDEN"),
        ("CLAUDE_CODE_SSE_PORT", "HIDDEN"),
        ("CLAUDE_PROJECT_DIR", "/HIDDEN"),
    ];
    for (name, value) in hidden {
        fleet.env(name, value);
    }
    fleet.env("MY_OWN", "kept");
    fleet.worker(&[]);
    let record = fleet.run("@bash env > env.txt", may_run()).await;
    assert_eq!(record.state, State::Completed, "{record:#?}");
    let text = fleet.read("env.txt").expect("it was written");
    let names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("MOTORPOOL")).collect::<Vec<_>>(), [&"MOTORPOOL_RUN"]);
    assert!(text.lines().any(|line| line.starts_with("MOTORPOOL_RUN=") && line.ends_with("/t1/1")), "{text}");
    assert!(!text.contains("HIDDEN"), "{text}");
    assert!(!text.contains(&fleet.server.url()), "{text}");
    assert!(text.contains("MY_OWN=kept") && text.contains("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1"), "{text}");
    fleet.end().await;
}

/// An MCP server that says it was started, and ends: the CLI goes on without it at once.
fn server(fleet: &Fleet, name: &str) -> String {
    let text = format!("#!/bin/sh\necho \"$1 $TOKEN\" > {}\n", fleet.path(&format!("{name}.started")).display());
    fleet.script(name, &text).display().to_string()
}

#[tokio::test]
async fn only_the_mcp_servers_of_the_task_are_started() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let [of_repository, of_user, of_task] = ["repository", "user", "task"].map(|name| server(&fleet, name));
    let one =
        |name: &str, command: &str| json!({"mcpServers": {name: {"command": command, "args": ["a"]}}}).to_string();
    std::fs::write(fleet.work.join(".mcp.json"), one("repository", &of_repository)).unwrap();
    std::fs::write(fleet.path("home/.claude.json"), one("user", &of_user)).unwrap();
    fleet.env("MCP_SECRET", "SECRET-VALUE");
    fleet.worker(&[]);
    let mut options = may_run();
    options["mcp_servers"] = json!({"mine": {"command": of_task, "args": ["arg"], "env": {"TOKEN": "${MCP_SECRET}"}}});
    let id = fleet.submit("@bash echo on > on.txt; until [ -e go.txt ]; do sleep 0.02; done", options).await;
    fleet.written("on.txt").await;
    fleet.until("the task's server", async |fleet| fleet.path("task.started").exists().then_some(())).await;
    let started = std::fs::read_to_string(fleet.path("task.started")).unwrap();
    assert_eq!(started.trim(), "arg SECRET-VALUE");
    for other in ["repository", "user"] {
        assert!(!fleet.path(&format!("{other}.started")).exists(), "{other}");
    }
    // The file is this user's alone, and the secret is in no arguments.
    let files = || std::fs::read_dir(fleet.path("state/runs")).unwrap().flatten().map(|entry| entry.path());
    let modes: Vec<u32> = files().map(|path| path.metadata().unwrap().permissions().mode() & 0o777).collect();
    assert_eq!(modes, [0o600]);
    assert!(std::fs::read_to_string(files().next().unwrap()).unwrap().contains("SECRET-VALUE"));
    assert!(!fleet.strays().iter().any(|line| line.contains("SECRET-VALUE")), "{:?}", fleet.strays());
    std::fs::write(fleet.work.join("go.txt"), "").unwrap();
    assert_eq!(fleet.over(id).await.state, State::Completed);
    assert_eq!(files().count(), 0);

    // A variable that the worker does not have: told, before Claude starts.
    let before = fleet.api.requests().len();
    let options = json!({"mcp_servers": {"mine": {"command": "true", "env": {"TOKEN": "${MCP_NONE}"}}}});
    let record = fleet.run("@say no", options).await;
    let error = record.error.clone().expect("it failed");
    assert_eq!((record.state, error.class), (State::Failed, Class::Request), "{record:#?}");
    assert!(error.message.contains("MCP_NONE"), "{error:?}");
    assert_eq!(fleet.api.requests().len(), before);

    // Without strictness the others are started too, so the absence above means something.
    let record = fleet.run("@bash true", json!({"strict_mcp_config": false})).await;
    assert_eq!(record.state, State::Completed, "{record:#?}");
    fleet.until("the user's server", async |fleet| fleet.path("user.started").exists().then_some(())).await;
    fleet.end().await;
}

/// A killed worker's file goes with the next worker's first run.
#[tokio::test]
async fn secrets_of_a_killed_worker_do_not_stay_on_the_disk() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("MOTORPOOL_LEASE", "6s");
    fleet.env("MCP_SECRET", "SECRET-VALUE");
    let command = server(&fleet, "task");
    let pid = fleet.joined(&[]).await;
    let mut options = may_run();
    options["mcp_servers"] = json!({"mine": {"command": command, "env": {"TOKEN": "${MCP_SECRET}"}}});
    options["max_attempts"] = json!(1);
    let id = fleet.submit("@bash echo on > on.txt; bash -c 'sleep 300; true'", options).await;
    fleet.written("on.txt").await;
    let files = |fleet: &Fleet| std::fs::read_dir(fleet.path("state/runs")).unwrap().count();
    assert_eq!(files(&fleet), 1);
    fleet.kill(pid, nix::sys::signal::Signal::SIGKILL);
    fleet.worker(&[]);
    assert_eq!(fleet.over(id).await.error.expect("it was lost").class, Class::Lost);
    assert_eq!(fleet.run("@say next", json!({})).await.state, State::Completed);
    assert_eq!(files(&fleet), 0);
    fleet.end().await;
}

#[tokio::test]
async fn a_task_works_in_the_directory_it_names() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let other = fleet.path("other");
    for dir in [&other, &fleet.work.join("below"), &fleet.path("elsewhere")] {
        std::fs::create_dir(dir).unwrap();
    }
    fleet.worker(&["--allow-dir", &other.display().to_string()]);
    for (dir, real) in [
        (None, fleet.work.clone()),
        (Some("below".to_owned()), fleet.work.join("below")),
        (Some(fleet.work.join("below").display().to_string()), fleet.work.join("below")),
        (Some(other.display().to_string()), other.clone()),
        (Some("../other".to_owned()), other.clone()),
    ] {
        let mut options = may_run();
        if let Some(dir) = &dir {
            options["working_dir"] = json!(dir);
        }
        let record = fleet.run("@bash pwd\n@echo result", options).await;
        assert_eq!(record.output.as_deref(), Some(real.to_str().unwrap()), "{dir:?}: {record:#?}");
    }
    let before = fleet.api.requests().len();
    for dir in ["missing", "../elsewhere", "/"] {
        let record = fleet.run("@say no", json!({"working_dir": dir})).await;
        assert_eq!(record.error.clone().map(|error| error.class), Some(Class::Request), "{dir}: {record:#?}");
    }
    assert_eq!(fleet.api.requests().len(), before);
    fleet.end().await;
}

/// In an embedded pool a task works where it was submitted, as far as the pool's project goes.
#[tokio::test]
async fn an_embedded_pools_task_works_where_it_was_submitted() {
    let fleet = Fleet::new(Cli::Real).await;
    let below = fleet.work.join("below");
    std::fs::create_dir(&below).unwrap();
    let place = Place::new(&fleet.path("state"), &fleet.work, None, &fleet.path("tmp"));
    let options = KeepOptions {
        given: Vec::new(),
        slots: 1,
        linger: std::time::Duration::MAX,
        drain_timeout: std::time::Duration::from_secs(5),
        worker_bin: program("motorpool-worker"),
        worker_args: Vec::new(),
        worker_env: fleet.variables(&["MOTORPOOL_REDIS_URL"]),
        path: std::env::var_os("PATH").unwrap_or_default(),
        host: true,
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let unfinished = |_| async { Ok(0) };
    let kept =
        embedded::keep(&place, &options, unfinished, |_| {}, async { drop(stopped.await) }, std::future::pending());
    let story = async {
        let socket = fleet.until("the socket", async |_| place.socket().filter(|path| path.exists())).await;
        let pool = Pool::builder(&embedded::socket_url(&socket)).build().expect("a pool");
        let run = async |project: Option<&std::path::Path>, options: Value| {
            let options = TaskOptions::from_json(options.as_object().unwrap()).unwrap();
            let mut spec = Spec::new("@bash pwd\n@echo result", options).unwrap();
            spec.project_dir = project.map(|dir| dir.display().to_string());
            let id = pool.submit(spec).await.expect("it is taken").id;
            pool.wait(id, Some(Instant::now() + PATIENCE)).await.expect("the pool answers")
        };
        let record = run(Some(&below), may_run()).await;
        assert_eq!(record.output.as_deref(), below.to_str(), "{record:#?}");
        let record = run(None, may_run()).await;
        assert_eq!(record.output.as_deref(), fleet.work.to_str(), "{record:#?}");
        let record = run(Some(std::path::Path::new("/")), may_run()).await;
        assert_eq!(record.error.clone().map(|error| error.class), Some(Class::Request), "{record:#?}");
        stop.send(()).expect("the keeper listens");
    };
    let (end, ()) = tokio::join!(kept, story);
    assert_eq!(end.expect("it was kept"), embedded::End::Stopped);
    fleet.end().await;
}
