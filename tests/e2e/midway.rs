//! What happens to chains, fan-outs and decisions in the middle: stopped, held up, refused in part, tried anew.

use motorpool::domain::route::{Carried, Hints, Route};
use motorpool::pool::Router;
use motorpool::{Chain, ChainStep, FanOut, Id, Spec, State, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::project::User;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn options(json: Value) -> TaskOptions {
    TaskOptions::from_json(json.as_object().expect("an object")).expect("the options do")
}

fn chain(steps: Vec<ChainStep>) -> Chain {
    Chain { steps, ..Chain::default() }
}

fn item(prompt: &str, given: Value) -> Spec {
    Spec::new(prompt, options(given)).expect("it does")
}

async fn state(fleet: &Fleet, id: impl Into<Id>) -> State {
    fleet.pool.state_of(id.into()).await.expect("the pool answers").expect("there is such a thing")
}

#[tokio::test]
async fn a_submission_in_parts_that_was_refused_is_made_whole_under_the_same_key() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let much = "x".repeat(900_000);
    let fan_out = |third: Value| FanOut {
        items: vec![
            item(&format!("{much}\n@say one"), json!({})).into(),
            item(&format!("{much}\n@say two"), json!({})).into(),
            item(&format!("{much}\n@say three"), third).into(),
        ],
        options: options(json!({"once": "nightly"})),
        ..FanOut::default()
    };
    let error = fleet.pool.fan_out(fan_out(json!({"after": ["t9999"]}))).await.expect_err("it follows nothing");
    assert!(error.message().contains("no task t9999"), "{error}");
    assert_eq!(state(&fleet, "t1".parse::<Id>().expect("an id")).await, State::Cancelled);
    assert_eq!(fleet.pool.examine().await.expect("it answers").broken, Vec::<String>::new());
    fleet.worker(&[]);
    let made = fleet.pool.fan_out(fan_out(json!({}))).await.expect("it is taken");
    assert!(made.fresh, "{made:?}");
    fleet
        .until("all of it is done", async |fleet| (state(fleet, made.id).await == State::Completed).then_some(()))
        .await;
    let again = fleet.pool.fan_out(fan_out(json!({}))).await.expect("it is known");
    assert_eq!((again.fresh, again.id, again.members), (false, made.id, made.members));
    assert_eq!(fleet.pool.examine().await.expect("it answers").broken, Vec::<String>::new());
    fleet.end().await;
}

#[tokio::test]
async fn a_step_goes_on_with_a_session_when_that_is_there_and_not_before() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let running = fleet.submit("@say a session", json!({"delay_s": 3600})).await;
    let given = json!({"continue_from": running.to_string()});
    let step = ChainStep { options: options(given.clone()), ..ChainStep::new("one", "@say on") };
    let made = fleet.pool.submit_chain(chain(vec![step])).await.expect("it is taken");
    assert_eq!(state(&fleet, made.members[0]).await, State::Waiting);
    let items = vec![item("@say on", given.clone()).into()];
    let made = fleet.pool.fan_out(FanOut { items, ..FanOut::default() }).await.expect("it is taken");
    assert_eq!(state(&fleet, made.members[0]).await, State::Waiting);
    fleet.pool.cancel(running, "x").await.expect("it is stopped");
    let items = vec![item("@say on", given).into()];
    let error = fleet.pool.fan_out(FanOut { items, ..FanOut::default() }).await.expect_err("there is none");
    assert!(error.message().contains("has no session to continue"), "{error}");
    fleet.end().await;
}

#[tokio::test]
async fn what_is_tried_anew_still_follows_what_is_not_over() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let delayed = fleet.submit("@say late", json!({"delay_s": 3600})).await;
    let after = json!({"after": [delayed.to_string()]});
    let whole = Chain { options: options(after.clone()), ..chain(vec![ChainStep::new("one", "@say one")]) };
    let made = fleet.pool.submit_chain(whole).await.expect("it is taken");
    let alone = fleet.submit("@say alone", json!({"after": [delayed.to_string()], "after_failure": "run"})).await;
    fleet.pool.cancel(made.id, "x").await.expect("it is stopped");
    fleet.pool.cancel(alone, "x").await.expect("it is stopped");
    let again = fleet.pool.retry_chain(made.id).await.expect("it is taken");
    assert_eq!(state(&fleet, again.members[0]).await, State::Waiting);
    let retried = fleet.pool.retry(alone).await.expect("it is taken").id;
    assert_eq!(state(&fleet, retried).await, State::Waiting);
    // What will never succeed is named.
    fleet.pool.cancel(delayed, "x").await.expect("it is stopped");
    assert_eq!(state(&fleet, again.id).await, State::Cancelled);
    let error = fleet.pool.retry_chain(again.id).await.expect_err("it would not begin");
    assert!(error.message().contains(&format!("was to follow {delayed}, which is cancelled")), "{error}");
    fleet.end().await;
}

#[tokio::test]
async fn a_chain_is_tried_anew_from_the_step_that_owes_a_value() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.worker(&[]);
    let steps = vec![
        ChainStep::new("kept", "@say kept"),
        ChainStep::new("owes", "@say no JSON").output_var("v", "a.b"),
        ChainStep::new("needs", "@say {steps.owes.v}"),
    ];
    let made = fleet.pool.submit_chain(chain(steps)).await.expect("it is taken");
    fleet.until("it fails", async |fleet| (state(fleet, made.id).await == State::Failed).then_some(())).await;
    let again = fleet.pool.retry_chain(made.id).await.expect("it is taken");
    assert_eq!(again.members[0], made.members[0], "what is done stays");
    assert_ne!(again.members[1], made.members[1], "what owes a value is done anew");
    fleet.end().await;
}

#[tokio::test]
async fn what_waits_for_a_judgement_says_so_and_goes_on_after_it() {
    let user = User::new(Cli::StandIn).await;
    let file = user.project("one").join("f.json");
    let text = json!({"review": true, "items": ["@say one", "@say two"], "collect": "@say gathered {outputs}"});
    std::fs::write(&file, text.to_string()).expect("a file");
    let done = user.motorpool("one", &["fan-out", "f.json", "--linger", "10m"]).await;
    assert_eq!(done.code, Some(0), "{done:#?}");
    assert!(done.err.contains("b1 waits for review: `motorpool approve b1`"), "{}", done.err);
    assert_eq!(user.motorpool("one", &["approve", "b1"]).await.code, Some(0));
    let done = user.motorpool("one", &["result", "b1", "--wait"]).await;
    assert!(done.code == Some(0) && done.out.contains("gathered"), "{done:#?}");
    let text = json!({"steps": [{"name": "draft", "prompt": "@say draft", "review": true}, "@say end"]});
    std::fs::write(&file, text.to_string()).expect("a file");
    let done = user.motorpool("one", &["chain", "f.json"]).await;
    assert!(done.code == Some(0) && done.err.contains("c1 waits for review"), "{done:#?}");
    assert_eq!(user.motorpool("one", &["approve", "c1"]).await.code, Some(0));
    let done = user.motorpool("one", &["result", "c1", "--wait"]).await;
    assert_eq!((done.code, done.out.trim()), (Some(0), "end"), "{done:#?}");
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
}

#[tokio::test]
async fn a_pool_whose_claude_is_signed_out_ends_chains_and_decisions_too() {
    let mut user = User::new(Cli::Real).await;
    user.env_remove("ANTHROPIC_API_KEY");
    // None is fit for a moment because it looks again.
    user.env("MOTORPOOL_PROBE_AGAIN_MS", "600000");
    for (file, text) in [("c.json", json!({"steps": ["@say 1", "@say 2"]})), ("f.json", json!({"items": ["@say 1"]}))] {
        std::fs::write(user.project("one").join(file), text.to_string()).expect("a file");
    }
    for args in [&["chain", "c.json", "--linger", "10m"][..], &["fan-out", "f.json"], &["auto", "Do it."]] {
        let done = user.motorpool("one", args).await;
        assert_eq!(done.code, Some(1), "{args:?}: {done:#?}");
        for words in ["no worker can take", "signed in", "hint:", "login"] {
            assert!(done.err.contains(words), "{args:?}: {}", done.err);
        }
    }
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
}

#[tokio::test]
async fn a_decision_that_is_interrupted_starts_nothing() {
    let user = User::new(Cli::StandIn).await;
    let route = json!({"route": "single"});
    let prompt = format!("Do it.\n@sleep 300000\n@json {route}");
    let mut command = user.command("one", &["auto", "--linger", "10m", &prompt]);
    let child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    user.until("it decides", |user| (!user.processes(&["stream-json"]).is_empty()).then_some(())).await;
    kill(Pid::from_raw(child.id().expect("it lives") as i32), Signal::SIGINT).expect("it lives");
    let output = child.wait_with_output().await.expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("t1 was cancelled: interrupted at the command line"), "{told}");
    let listed = user.motorpool("one", &["list", "--json"]).await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
}

#[tokio::test]
async fn a_decision_leads_to_the_work_that_it_has_started() {
    let user = User::new(Cli::StandIn).await;
    let route =
        json!({"route": "parallel", "prompts": ["@say one", "@bash until [ -e go ]; do sleep 0.02; done\n@say two"]});
    let auto = ["auto", "--detach", "--permission-mode", "acceptEdits", "--linger", "10m"];
    let prompt = format!("Do both.\n@json {route}");
    let done = user.motorpool("one", &[&auto[..], &[&prompt]].concat()).await;
    assert_eq!((done.code, done.out.trim()), (Some(0), "t1"), "{done:#?}");
    let decided = user.motorpool("one", &["result", "t1", "--wait", "--json"]).await.json();
    assert_eq!((&decided["output"], &decided["structured"]["made"]), (&json!("b1: 2 tasks at once"), &json!("b1")));
    let late = user.motorpool("one", &["cancel", "t1"]).await;
    assert!(late.code == Some(6) && late.err.contains("`motorpool cancel b1` stops that"), "{late:#?}");
    std::fs::write(user.project("one").join("go"), "").expect("a file");
    let done = user.motorpool("one", &["result", "t1", "--wait"]).await;
    assert!(done.code == Some(0) && done.out.contains("one") && done.out.contains("two"), "{done:#?}");
    assert!(done.err.contains("t1 decided how the work is done: b1, 2 tasks at once"), "{}", done.err);
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
}

/// The worker stands still while its Claude answers and the decision is cancelled; what comes first when it goes on
/// does not matter.
#[tokio::test]
async fn a_decision_that_was_cancelled_starts_nothing_whatever_it_came_to() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 60).await;
    let worker = fleet.joined(&[]).await;
    let bash = "@bash touch begun; until [ -e go ]; do sleep 0.02; done";
    let prompt = format!("Do it.\n{bash}\n@json {}", json!({"route": "single"}));
    let auto = fleet.pool.auto(&prompt, &Hints::default(), &Router::default(), TaskOptions::default()).await;
    let decides = auto.expect("it is taken").id;
    fleet.until("Claude decides", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    motorpool_tests::faults::signal(worker, Signal::SIGSTOP);
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    fleet.pool.cancel(decides, "changed my mind").await.expect("it is asked");
    motorpool_tests::faults::signal(worker, Signal::SIGCONT);
    let record = fleet.over(decides).await;
    assert_eq!((record.state, record.reason.as_deref()), (State::Cancelled, Some("changed my mind")), "{record:#?}");
    let tasks = fleet.pool.list(&motorpool::Filter::default(), 10).await.expect("the pool answers").items;
    assert_eq!(tasks.len(), 1, "{tasks:#?}");
    fleet.end().await;
}

#[tokio::test]
async fn a_decision_that_is_made_twice_starts_one_piece_of_work() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let keyed = options(json!({"once": "work of t1"}));
    let both = Route::Parallel { prompts: vec!["@say one".into(), "@say two".into()] };
    let made = fleet.pool.execute(&both, &keyed, None).await.expect("it is taken");
    for other in [Route::Single { prompt: "@say it".into() }, both] {
        assert_eq!(fleet.pool.execute(&other, &keyed, None).await.expect("it is known"), made, "{other:?}");
    }
    let unknown = options(json!({"after": ["t99"]}));
    let error =
        fleet.pool.auto("x", &Hints::default(), &Router::default(), unknown).await.expect_err("it never begins");
    assert!(error.message().contains("no task t99"), "{error}");
    assert!(Carried::of(&fleet.pool.task("t1".parse().expect("an id")).await.expect("it is there")).is_none());
    fleet.end().await;
}
