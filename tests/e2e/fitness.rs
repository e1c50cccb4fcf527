//! Whether a worker can work: what stops it, what it says of it, and that it goes on by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use motorpool::{Class, State};
use motorpool_tests::fleet::{Cli, Fleet, real_claude};
use serde_json::{Value, json};

/// Waits until each of these workers was heard so many more times: they have had their chance to do what they should
/// not.
async fn heard(fleet: &Fleet, pids: &[i32], times: usize) {
    let mut seen: BTreeMap<i32, Vec<u128>> = BTreeMap::new();
    fleet
        .until("the workers are heard", async |fleet| {
            let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis();
            for worker in fleet.pool.workers().await.expect("the pool answers") {
                let times = seen.entry(worker.pid as i32).or_default();
                let at = now - u128::from(worker.silent_ms);
                if times.last().is_none_or(|last| at > last + 100) {
                    times.push(at);
                }
            }
            pids.iter().all(|pid| seen.get(pid).is_some_and(|seen| seen.len() > times)).then_some(())
        })
        .await;
}

enum Credential {
    Key(&'static str),
    Token(&'static str),
}
use Credential::{Key, Token};

#[tokio::test]
async fn an_account_that_is_refused_stops_its_worker_and_costs_the_task_nothing() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("MOTORPOOL_LEASE", "12s");
    fleet.env("CLAUDE_CODE_MAX_RETRIES", "0");
    // Whether a key is good is not known before it is used: who looks again tries again. Not while this test looks.
    fleet.env("MOTORPOOL_PROBE_AGAIN_MS", "600000");
    let cases = [
        ("credit", Key("k"), "@status 400 Your credit balance is too low to access the API.", Class::Limit, "balance"),
        (
            "spent",
            Key("k"),
            "@status 400 You have reached your specified API usage limits. You will regain access on 2099-01-01.",
            Class::Limit,
            "regain access on",
        ),
        ("org", Key("k"), "@status 400 This organization has been disabled.", Class::Auth, "disabled organization"),
        ("billing", Key("k"), "@status 402 Pay first.", Class::Limit, "Pay first."),
        ("refused", Key("k"), "@status 403 Not for you.", Class::Auth, "Not for you."),
        ("key", Key("bad"), "@say no", Class::Auth, "Invalid API key"),
        ("token", Token("revoked"), "@say no", Class::Auth, "revoked|does not have access"),
        ("limit", Token("t"), "@limit 3600", Class::Limit, "limit"),
    ];
    let mut started = Vec::new();
    for (lane, credential, ..) in &cases {
        fleet.env_remove("ANTHROPIC_API_KEY");
        fleet.env_remove("CLAUDE_CODE_OAUTH_TOKEN");
        match credential {
            Key(key) => fleet.env("ANTHROPIC_API_KEY", key),
            Token(token) => fleet.env("CLAUDE_CODE_OAUTH_TOKEN", token),
        }
        started.push(fleet.joined(&["--lanes", lane]).await);
    }
    let mut ids = Vec::new();
    for (lane, _, prompt, ..) in &cases {
        ids.push(fleet.submit(prompt, json!({"lane": lane})).await);
    }
    for ((pid, id), (lane, _, _, class, message)) in started.iter().zip(&ids).zip(&cases) {
        let worker = fleet.worker_is(*pid, "unfit", |worker| worker.unfit.is_some()).await;
        let unfit = worker.unfit.expect("it is");
        eprintln!("{lane}: {unfit:?}");
        assert_eq!(unfit.class, *class, "{lane}: {unfit:?}");
        // The CLI's versions have different words for it.
        let says = |text: &str| message.split('|').any(|words| text.contains(words));
        assert!(says(&unfit.message), "{lane}: {unfit:?}");
        assert!(unfit.hint.is_some(), "{lane}: {unfit:?}");
        assert_eq!(unfit.until_ms.is_some(), *class == Class::Limit, "{lane}: {unfit:?}");
        let record = fleet.reaches(*id, State::Pending).await;
        assert_eq!((record.run, record.attempt), (1, 0), "{lane}: {record:#?}");
        let run = &record.runs[0];
        assert_eq!((run.class, run.charged), (Some(*class), false), "{lane}: {record:#?}");
        assert!(says(run.message.as_deref().unwrap_or_default()), "{lane}: {record:#?}");
    }
    // They claim nothing more, be it an old task or a new one.
    let requests = fleet.api.requests().len();
    let mut more = Vec::new();
    for (lane, ..) in &cases {
        more.push(fleet.submit("@say no", json!({"lane": lane})).await);
    }
    heard(&fleet, &started, 2).await;
    for (old, new) in ids.into_iter().zip(more) {
        for (id, runs) in [(old, 1), (new, 0)] {
            let record = fleet.pool.task(id).await.expect("the pool answers");
            assert_eq!((record.state, record.run), (State::Pending, runs), "{record:#?}");
        }
    }
    assert_eq!(fleet.api.requests().len(), requests);
    fleet.end().await;
}

#[tokio::test]
async fn a_worker_with_another_credential_does_what_one_was_refused_for() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("CLAUDE_CODE_MAX_RETRIES", "0");
    fleet.env("ANTHROPIC_API_KEY", "bad");
    let bad = fleet.joined(&[]).await;
    let id = fleet.submit("@say done by another", json!({})).await;
    let bad = fleet.worker_is(bad, "unfit", |worker| worker.unfit.is_some()).await;
    fleet.env("ANTHROPIC_API_KEY", "good");
    fleet.worker(&[]);
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("done by another")), "{record:#?}");
    assert_eq!((record.run, record.attempt), (2, 1), "{record:#?}");
    assert_eq!(record.runs[0].worker, bad.id);
    assert_ne!(record.runs[1].worker, bad.id);
    fleet.end().await;
}

#[tokio::test]
async fn a_limit_that_ends_lets_the_same_worker_go_on() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env_remove("ANTHROPIC_API_KEY");
    fleet.env("CLAUDE_CODE_OAUTH_TOKEN", "t");
    let pid = fleet.joined(&[]).await;
    let id = fleet.submit("@once-limit short 4\n@say after the limit", json!({})).await;
    let worker = fleet.worker_is(pid, "unfit", |worker| worker.unfit.is_some()).await;
    assert_eq!(worker.unfit.expect("it is").class, Class::Limit);
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("after the limit")), "{record:#?}");
    assert_eq!((record.run, record.attempt), (2, 1), "{record:#?}");
    assert_eq!(record.runs[0].worker, record.runs[1].worker);
    assert!(record.runs[0].session_id.is_some());
    assert_eq!(record.runs[1].resumed, record.runs[0].session_id, "one session, continued: {record:#?}");
    fleet.worker_is(pid, "fit again", |worker| worker.unfit.is_none()).await;
    fleet.end().await;
}

/// A limit of an account is met once: its other workers stop without a request, another account goes on, and after the
/// reset the first one does.
#[tokio::test]
async fn a_limit_stops_every_worker_of_its_account_and_no_other() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env_remove("ANTHROPIC_API_KEY");
    fleet.env("CLAUDE_CODE_OAUTH_TOKEN", "ours");
    let ours = [fleet.joined(&[]).await, fleet.joined(&[]).await];
    let id = fleet.submit("@once-limit week 8\n@say after the limit", json!({})).await;
    for pid in ours {
        fleet.worker_is(pid, "fit or not", |_| true).await;
    }
    // Whoever met it: the other one hears of it at its next claim.
    let first = fleet
        .until("the limit is met", async |fleet| {
            let workers = fleet.pool.workers().await.expect("the pool answers");
            workers.into_iter().find(|worker| worker.unfit.is_some())
        })
        .await;
    let more = fleet.submit("@say more", json!({})).await;
    for pid in ours {
        let worker = fleet.worker_is(pid, "stopped", |worker| worker.unfit.is_some()).await;
        let unfit = worker.unfit.expect("it is");
        assert_eq!((unfit.class, unfit.until_ms.is_some()), (Class::Limit, true));
        assert_eq!(worker.account, first.account);
    }
    let (now, waiting) = (fleet.pool.task(id).await.unwrap(), fleet.pool.task(more).await.unwrap());
    assert_eq!((now.state, now.run, waiting.run), (State::Pending, 1, 0), "{now:#?}\n{}", fleet.logs());
    fleet.env("CLAUDE_CODE_OAUTH_TOKEN", "theirs");
    let other = fleet.joined(&["--lanes", "theirs"]).await;
    let theirs = fleet.run("@say meanwhile", json!({"lane": "theirs"})).await;
    assert_eq!(theirs.output.as_deref(), Some("meanwhile"), "{theirs:#?}");
    assert_ne!(fleet.worker_is(other, "fit", |worker| worker.unfit.is_none()).await.account, first.account);
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("after the limit")), "{record:#?}");
    assert_eq!((record.run, record.attempt, record.runs[0].charged), (2, 1, false), "{record:#?}");
    assert_eq!(fleet.over(more).await.run, 1);
    fleet.end().await;
}

/// A key is an account, unless somebody says otherwise.
#[tokio::test]
async fn accounts_are_told_apart_by_their_key_or_by_name() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let spent = "@status 400 You have reached your specified API usage limits. You will regain access on 2099-01-01.";
    for (names, shares) in [(None, true), (Some(("a", "b")), false), (Some(("c", "c")), true)] {
        let start = |n: usize| {
            let lane = format!("{}-{n}", names.map_or("key", |(first, _)| first));
            let account = names.map(|(first, second)| if n == 0 { first } else { second });
            let account = account.map(|name| ["--account".to_owned(), name.to_owned()]);
            let args = ["--lanes".to_owned(), lane.clone()].into_iter().chain(account.into_iter().flatten());
            (lane, args.collect::<Vec<String>>())
        };
        let mut workers = Vec::new();
        for (lane, args) in [start(0), start(1)] {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            workers.push((fleet.joined(&args).await, lane));
        }
        let accounts = [&workers[0], &workers[1]].map(|(pid, _)| *pid);
        let accounts = [
            fleet.worker_is(accounts[0], "there", |_| true).await,
            fleet.worker_is(accounts[1], "there", |_| true).await,
        ]
        .map(|worker| worker.account.unwrap_or_default());
        assert_eq!(accounts[0] == accounts[1], shares, "{names:?}: {accounts:?}");
        assert!(!accounts[0].contains("dummy"), "no key is shown: {accounts:?}");
        fleet.submit(spent, json!({"lane": workers[0].1})).await;
        fleet.worker_is(workers[0].0, "at its limit", |worker| worker.unfit.is_some()).await;
        let other = fleet.submit("@say done", json!({"lane": workers[1].1})).await;
        if shares {
            let worker = fleet.worker_is(workers[1].0, "at its limit", |worker| worker.unfit.is_some()).await;
            assert_eq!(worker.unfit.map(|why| why.class), Some(Class::Limit));
            assert_eq!(fleet.pool.task(other).await.expect("the pool answers").run, 0, "{names:?}");
        } else {
            assert_eq!(fleet.over(other).await.state, State::Completed, "{names:?}");
        }
    }
    let refused = fleet.worker(&["--account", "a b"]);
    assert_eq!(fleet.ended(refused).await, Some(2));
    assert!(fleet.logs().contains("no name of an account"), "{}", fleet.logs());
    fleet.end().await;
}

/// The whole story of two accounts in one lane of work: the limit stops one, the other goes on, and the session of the
/// task that met it is gone on with after the reset.
#[tokio::test]
async fn a_limit_is_waited_out_by_its_account_while_another_works() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env_remove("ANTHROPIC_API_KEY");
    fleet.env("CLAUDE_CODE_OAUTH_TOKEN", "ours");
    let ours = fleet.joined(&["--lanes", "ours,default"]).await;
    fleet.env("CLAUDE_CODE_OAUTH_TOKEN", "theirs");
    let theirs = fleet.joined(&["--lanes", "default"]).await;
    let id = fleet.submit("@once-limit story 8\n@say after the limit", json!({"lane": "ours"})).await;
    let limited = fleet.worker_is(ours, "at its limit", |worker| worker.unfit.is_some()).await;
    let mut others = Vec::new();
    for n in 0..2 {
        others.push(fleet.run(&format!("@say other {n}"), json!({})).await);
    }
    let other = fleet.worker_is(theirs, "fit", |worker| worker.unfit.is_none()).await;
    assert!(others.iter().all(|task| task.run == 1 && task.runs[0].worker == other.id), "{others:#?}");
    assert!(others.iter().all(|task| task.state == State::Completed), "{others:#?}");
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("after the limit")), "{record:#?}");
    assert_eq!((record.run, record.attempt, record.runs[0].charged), (2, 1, false), "{record:#?}");
    assert!(record.runs.iter().all(|run| run.worker == limited.id), "{record:#?}");
    assert!(record.runs[0].session_id.is_some());
    assert_eq!(record.runs[1].resumed, record.runs[0].session_id, "one session, continued: {record:#?}");
    fleet.end().await;
}

/// A limit of one kind of model holds back what needs that, and nothing else.
#[tokio::test]
async fn a_limit_of_one_model_lets_the_others_go_on() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env_remove("ANTHROPIC_API_KEY");
    fleet.env("CLAUDE_CODE_OAUTH_TOKEN", "t");
    let pid = fleet.joined(&[]).await;
    let met = fleet.submit("@once-limit model 12 seven_day_opus\n@say after it", json!({"model": "opus"})).await;
    let record = fleet.reaches(met, State::Delayed).await;
    assert_eq!((record.run, record.attempt, record.runs[0].class), (1, 0, Some(Class::Limit)), "{record:#?}");
    let requests = fleet.api.requests().len();
    let same = fleet.submit("@say the same model", json!({"model": "claude-opus-4-1"})).await;
    let record = fleet.reaches(same, State::Delayed).await;
    assert_eq!((record.attempt, record.runs[0].charged, record.cost_microusd), (0, false, 0), "{record:#?}");
    assert_eq!(fleet.api.requests().len(), requests, "Claude was not started for it");
    let status = fleet.motorpool_json(&["status"]).await;
    let waits = status["waits"].as_array().expect("a list").iter().find(|one| one["why"] == "back_off");
    let waits = waits.unwrap_or_else(|| panic!("{status}"));
    assert_eq!((waits["count"].as_u64(), waits["until"].is_string()), (Some(2), true), "{waits}");
    assert!(waits["what"].as_str().is_some_and(|what| what.contains("(limit)") && what.contains("limit")), "{waits}");
    let other = fleet.run("@say another model", json!({"model": "sonnet"})).await;
    assert_eq!((other.state, other.run), (State::Completed, 1), "{other:#?}");
    for id in [met, same] {
        assert_eq!(fleet.pool.task(id).await.expect("the pool answers").state, State::Delayed, "{}", fleet.logs());
    }
    fleet.worker_is(pid, "fit all the time", |worker| worker.unfit.is_none()).await;
    for (id, output) in [(met, "after it"), (same, "the same model")] {
        let record = fleet.over(id).await;
        assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some(output)), "{record:#?}");
        assert_eq!((record.run, record.attempt), (2, 1), "{record:#?}");
    }
    let record = fleet.over(met).await;
    assert_eq!(record.runs[1].resumed, record.runs[0].session_id, "one session, continued: {record:#?}");
    fleet.end().await;
}

/// A reset that is no time of this world costs no run and stops no worker for ever.
#[tokio::test]
async fn a_limit_without_sense_is_bounded() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env_remove("ANTHROPIC_API_KEY");
    fleet.env("CLAUDE_CODE_OAUTH_TOKEN", "t");
    let pid = fleet.joined(&[]).await;
    let id = fleet.submit("@limit 10000000000000 five_hour", json!({})).await;
    let worker = fleet.worker_is(pid, "unfit", |worker| worker.unfit.is_some()).await;
    let until_ms = worker.unfit.and_then(|why| why.until_ms).expect("an end");
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis() as u64;
    assert!(until_ms < now_ms + 9 * 24 * 3_600_000, "{until_ms}");
    let record = fleet.reaches(id, State::Pending).await;
    assert_eq!((record.run, record.attempt, record.runs[0].charged), (1, 0, false), "{record:#?}\n{}", fleet.logs());
    fleet.end().await;
}

/// The claim of a sign-in that was stored by `claude auth login`, as far as the CLI looks at it.
fn stored_sign_in() -> Value {
    json!({"claudeAiOauth": {"accessToken": "stored", "refreshToken": "stored", "expiresAt": 4_102_444_800_000_u64,
        "scopes": ["user:inference", "user:profile"], "subscriptionType": "max"}})
}

#[tokio::test]
async fn a_missing_old_or_signed_out_claude_is_told_and_mended_without_a_restart() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("MOTORPOOL_LEASE", "3s");
    fleet.env("MOTORPOOL_PROBE_AGAIN_MS", "300");
    let old = fleet.script("old", "#!/bin/sh\necho '1.0.0 (Claude Code)'\n");
    let missing = fleet.path("missing");
    let start = |fleet: &mut Fleet, lane: &str, bin: &std::path::Path| {
        fleet.worker(&["--lanes", lane, "--claude-bin", &bin.display().to_string()])
    };
    let pids = [start(&mut fleet, "missing", &missing), start(&mut fleet, "old", &old)];
    fleet.env_remove("ANTHROPIC_API_KEY");
    let out = fleet.worker(&["--lanes", "out"]);
    let cases = [
        ("missing", pids[0], Class::Internal, "missing is no program", "npm install"),
        ("old", pids[1], Class::Internal, "1.0.0 is too old; 2.1.197 is the oldest", "update"),
        ("out", out, Class::Auth, "not signed in", "claude auth login"),
    ];
    let mut ids = Vec::new();
    for (lane, ..) in cases {
        ids.push(fleet.submit("@say at last", json!({"lane": lane})).await);
    }
    for (lane, pid, class, message, hint) in cases {
        let worker = fleet.worker_is(pid, "unfit", |worker| worker.unfit.is_some()).await;
        let unfit = worker.unfit.expect("it is");
        assert_eq!((unfit.class, worker.claude), (class, None), "{lane}: {unfit:?}");
        assert!(unfit.message.contains(message), "{lane}: {unfit:?}");
        assert!(unfit.hint.unwrap_or_default().contains(hint), "{lane}");
        assert!(fleet.logs().contains(message), "{lane}\n{}", fleet.logs());
    }
    heard(&fleet, &[pids[0], pids[1], out], 2).await;
    for id in &ids {
        assert_eq!(fleet.pool.task(*id).await.expect("the pool answers").run, 0);
    }
    assert_eq!(fleet.api.requests().len(), 0);

    let real = format!("#!/bin/sh\nexec '{}' \"$@\"\n", real_claude().display());
    fleet.script("missing", &real);
    fleet.script("old", &real);
    let config = fleet.path("home/.claude");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join(".credentials.json"), stored_sign_in().to_string()).unwrap();
    for (id, (lane, pid, ..)) in ids.into_iter().zip(cases) {
        let record = fleet.over(id).await;
        assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("at last")), "{lane} {record:#?}");
        let worker = fleet.worker_is(pid, "fit", |worker| worker.unfit.is_none()).await;
        let version = worker.claude.unwrap_or_default();
        assert!(real_version().starts_with(&version) && version.starts_with("2.1."), "{lane}: {version}");
    }
    fleet.end().await;
}

/// A worker that is unfit and told to stop does so at once.
#[tokio::test]
async fn an_unfit_worker_ends_when_it_is_told() {
    // By itself it would look again after half a minute.
    let mut fleet = Fleet::with_lease(Cli::Real, 600).await;
    let pid = fleet.joined(&["--claude-bin", "/nowhere/claude"]).await;
    let told = std::time::Instant::now();
    fleet.kill(pid, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(fleet.ended(pid).await, Some(0));
    assert!(told.elapsed() < Duration::from_secs(20));
    assert!(fleet.pool.workers().await.expect("the pool answers").is_empty());
    fleet.end().await;
}

/// What the CLI in use says of itself.
fn real_version() -> String {
    let output = std::process::Command::new(real_claude()).arg("--version").output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
