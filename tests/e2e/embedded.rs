//! No Redis given: the project's own pool comes by itself, is joined, survives, and goes.

use std::process::Stdio;

use motorpool_tests::fleet::{Cli, PATIENCE};
use motorpool_tests::project::User;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

const WRITE: &str = "Go.\n@write made.txt here\n@say done";

#[tokio::test]
async fn one_command_starts_a_pool_runs_a_prompt_and_leaves_nothing_running() {
    let user = User::new(Cli::Real).await;
    let done = user.motorpool("one", &["run", "Go.\n@say hello from the farm"]).await;
    assert_eq!((done.code, done.out.trim()), (Some(0), "hello from the farm"), "{done:#?}\n{}", user.logs());
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
    // Its state survives: the next pool of the project still knows the task.
    let done = user.motorpool("one", &["result", "t1"]).await;
    assert_eq!((done.code, done.out.trim()), (Some(0), "hello from the farm"), "{done:#?}");
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}

#[tokio::test]
async fn two_commands_at_the_same_instant_share_one_server() {
    let user = User::new(Cli::Real).await;
    let (a, b) = tokio::join!(
        user.motorpool("one", &["run", "Go.\n@upper first"]),
        user.motorpool("one", &["run", "Go.\n@upper second"])
    );
    assert_eq!((a.code, a.out.trim()), (Some(0), "FIRST"), "{a:#?}\n{}", user.logs());
    assert_eq!((b.code, b.out.trim()), (Some(0), "SECOND"), "{b:#?}\n{}", user.logs());
    let started = user.logs().matches("redis started").count();
    assert_eq!(started, 1, "{}", user.logs());
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}

#[tokio::test]
async fn two_projects_have_two_pools_and_files_land_in_the_right_tree() {
    let user = User::new(Cli::Real).await;
    let write = ["run", "--permission-mode", "acceptEdits", WRITE];
    let (a, b) = tokio::join!(user.motorpool("one", &write), user.motorpool("two", &["run", "Go.\n@say elsewhere"]));
    assert_eq!((a.code, a.out.trim()), (Some(0), "done"), "{a:#?}\n{}", user.logs());
    assert_eq!((b.code, b.out.trim()), (Some(0), "elsewhere"), "{b:#?}\n{}", user.logs());
    assert!(user.project("one").join("made.txt").exists());
    assert!(!user.project("two").join("made.txt").exists());
    user.until("the pools end", |user| user.processes(&[]).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_killed_keeper_costs_nothing() {
    let user = User::new(Cli::Real).await;
    let submitted = user.motorpool("one", &["submit", "--json", "Go.\n@sleep 3000\n@say survived"]).await;
    assert_eq!(submitted.code, Some(0), "{submitted:#?}\n{}", user.logs());
    assert_eq!(submitted.json()["id"], "t1");
    let keeper = user.until("a keeper", |user| user.processes(&["motorpool keep"]).first().copied()).await;
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    let done = user.motorpool("one", &["result", "t1", "--wait"]).await;
    assert_eq!((done.code, done.out.trim()), (Some(0), "survived"), "{done:#?}\n{}", user.logs());
    let record = user.motorpool("one", &["show", "t1", "--json"]).await.json();
    assert_eq!((&record["attempt"], &record["state"]), (&1.into(), &"completed".into()), "{record:#}");
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}

/// The user's runtime directory goes, and the pool's socket with it.
#[tokio::test]
async fn a_pool_that_loses_its_socket_moves_with_everyone_in_it() {
    let mut user = User::new(Cli::StandIn).await;
    let runtime = user.project("run");
    std::fs::create_dir(&runtime).unwrap();
    user.env("XDG_RUNTIME_DIR", &runtime.display().to_string());
    assert_eq!(user.motorpool("one", &["up", "--detach"]).await.code, Some(0));
    let wait = |mine: &str, other: &str| {
        format!("Go.\n@bash touch {mine}; until [ -e {other} ]; do sleep 0.02; done\n@say {mine}")
    };
    let follow = |prompt: String| {
        let mut command = user.command("one", &["run", "--permission-mode", "acceptEdits", &prompt]);
        let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        timeout(PATIENCE, running.wait_with_output())
    };
    // One worker is in the middle of a task that somebody follows, the other one is idle.
    let first = follow(wait("begun", "go"));
    user.until("it has begun", |user| user.project("one").join("begun").exists().then_some(())).await;
    std::fs::remove_dir_all(&runtime).unwrap();
    user.until("another server", |user| (user.logs().matches("redis started").count() == 2).then_some(())).await;
    std::fs::write(user.project("one").join("go"), "").unwrap();
    let done = first.await.unwrap_or_else(|_| panic!("it hangs\n{}", user.logs())).unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "begun", "{done:?}\n{}", user.logs());
    // Each of these needs both workers.
    let (a, b) = tokio::join!(follow(wait("a", "b")), follow(wait("b", "a")));
    for (done, says) in [(a, "a"), (b, "b")] {
        let done = done.unwrap_or_else(|_| panic!("it hangs\n{}", user.logs())).unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), says, "{done:?}\n{}", user.logs());
    }
    for id in ["t1", "t2", "t3"] {
        let record = user.motorpool("one", &["show", id, "--json"]).await.json();
        assert_eq!((&record["attempt"], record["runs"].as_array().map(Vec::len)), (&1.into(), Some(1)), "{record:#}");
    }
    assert!(!user.logs().contains("the worker ended"), "{}", user.logs());
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}

/// `run` with a Claude that cannot work: exit 1 with the class, what is wrong and what to do, and no hang.
async fn unfit(variable: (&str, &str), told: &[&str]) {
    let mut user = User::new(Cli::Real).await;
    // Who looks again finds a key that it cannot judge before it is used: none does so while the other one looks.
    user.env("MOTORPOOL_PROBE_AGAIN_MS", "600000");
    match variable {
        (name, "") => user.env_remove(name),
        (name, value) => user.env(name, value),
    }
    let done = user.motorpool("one", &["run", "Go.\n@say never"]).await;
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{done:#?}\n{}", user.logs());
    let said = done.err.to_lowercase();
    for words in told {
        assert!(said.contains(words), "{words}: {done:#?}");
    }
    let record = user.motorpool("one", &["show", "t1", "--json"]).await.json();
    assert_eq!((&record["state"], &record["attempt"]), (&"cancelled".into(), &0.into()), "{record:#}");
}

#[tokio::test]
async fn a_missing_claude_ends_a_run_with_what_to_do() {
    unfit(("MOTORPOOL_CLAUDE_BIN", "/nowhere/claude"), &["/nowhere/claude", "npm", "hint:"]).await;
}

#[tokio::test]
async fn a_claude_that_is_signed_out_ends_a_run_with_what_to_do() {
    unfit(("ANTHROPIC_API_KEY", ""), &["signed in", "login", "(auth)"]).await;
}

#[tokio::test]
async fn a_claude_that_is_refused_ends_a_run_with_what_to_do() {
    unfit(("ANTHROPIC_API_KEY", "bad-key"), &["invalid api key", "login", "(auth)"]).await;
}

#[tokio::test]
async fn an_embedded_pool_is_scaled_and_keeps_its_target_across_its_end() {
    let user = User::new(Cli::StandIn).await;
    let up = user.motorpool("one", &["up", "--detach", "--slots", "1"]).await;
    assert_eq!(up.code, Some(0), "{up:#?}\n{}", user.logs());
    let filled = async |count: usize| {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let slots = user.motorpool("one", &["slots", "--json"]).await.json();
            let ids: Vec<String> =
                slots["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
            if ids.len() == count {
                return ids;
            }
            assert!(tokio::time::Instant::now() < until, "{count} workers: {slots}\n{}", user.logs());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let first = filled(1).await;
    let told = user.motorpool("one", &["scale", "up", "2", "--json"]).await;
    assert_eq!(told.json()["target"], 3, "{told:#?}");
    let three = filled(3).await;
    assert!(three.contains(&first[0]), "{three:?}");
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0), "{}", user.logs());
    assert_eq!(user.motorpool("one", &["up", "--detach", "--slots", "1"]).await.code, Some(0), "{}", user.logs());
    assert_eq!(filled(3).await, three, "the names too");
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0), "{}", user.logs());
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}
