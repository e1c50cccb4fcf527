//! Chains and fan-outs all the way: what a step is asked, what becomes of it, whoever lives meanwhile.

use motorpool::pool::{GroupView, Known, Member};
use motorpool::{Chain, ChainStep, FanOut, GroupId, Spec, State, TaskOptions};
use motorpool_tests::faults::PREFIX;
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::json;

fn options(json: serde_json::Value) -> TaskOptions {
    TaskOptions::from_json(json.as_object().expect("an object")).expect("the options do")
}

fn chain(steps: Vec<ChainStep>) -> Chain {
    Chain { steps, ..Chain::default() }
}

async fn over(fleet: &Fleet, id: GroupId) -> GroupView {
    fleet
        .until(&format!("{id} is over"), async |fleet| {
            let view = fleet.pool.group_view(id).await.expect("the pool answers");
            view.state.is_terminal().then_some(view)
        })
        .await
}

/// `name state runs` of each member.
fn told(view: &GroupView) -> Vec<String> {
    let one = |(at, member): (usize, &Member)| match member {
        Member::Task(record) => format!("{} {} {}", view.name_of(at), record.state, record.run),
        Member::Group(inner) => format!("{} {}", view.name_of(at), inner.state),
    };
    view.members.iter().enumerate().map(one).collect()
}

#[tokio::test]
async fn each_step_is_fed_by_those_before() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let schema =
        json!({"model": "haiku", "json_schema": {"type": "object", "properties": {"files": {"type": "array"}}}});
    let plan = ChainStep {
        options: options(schema),
        ..ChainStep::new("plan", r#"@json {"files": [{"name": "a {{steps.x.y} b"}]}"#)
            .output_var("first", "files.0.name")
    };
    let steps = vec![
        plan,
        ChainStep::new("write", "@say wrote {steps.plan.first} {previous_output} {{x}"),
        ChainStep::new("check", "@say checked <{previous_output}>"),
    ];
    let made = fleet.pool.submit_chain(chain(steps)).await.expect("it is taken");
    let view = over(&fleet, made.id).await;
    assert_eq!(told(&view), ["plan completed 1", "write completed 1", "check completed 1"], "{}", fleet.logs());
    let last = fleet.pool.task(view.last_done().expect("a last step").id).await.expect("the pool answers");
    assert_eq!(
        last.output.as_deref(),
        // What came from an output is not read again.
        Some(r#"checked <wrote a {steps.x.y} b {"files":[{"name":"a {steps.x.y} b"}]} {x}>"#)
    );
    assert!(view.cost_microusd() > 0);
    fleet.end().await;
}

#[tokio::test]
async fn a_missing_value_fails_the_step_before_claude_starts() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.worker(&[]);
    let steps = vec![
        ChainStep::new("one", "@say no JSON at all").output_var("v", "a.b"),
        ChainStep::new("two", "@say {steps.one.v}"),
        ChainStep::new("three", "@say x"),
    ];
    let made = fleet.pool.submit_chain(chain(steps)).await.expect("it is taken");
    let view = over(&fleet, made.id).await;
    assert_eq!(view.state, State::Failed);
    assert_eq!(told(&view), ["one completed 1", "two failed 1", "three cancelled 0"], "{}", fleet.logs());
    let Member::Task(two) = &view.members[1] else { panic!("{view:?}") };
    let message = &two.error.as_ref().expect("why").message;
    assert_eq!(message, "step 2 (two): there is no value for {steps.one.v}");
    assert_eq!(two.cost_microusd, 0);
    fleet.end().await;
}

#[tokio::test]
async fn a_step_is_tried_anew_then_recovers_and_a_failed_chain_goes_on_where_it_stopped() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.worker(&[]);
    let no_json = || options(json!({"json_schema": {"type": "object"}}));
    let shaky = |name: &str, recovery: &str| ChainStep {
        retries: 1,
        recovery_prompt: Some(recovery.into()),
        options: no_json(),
        ..ChainStep::new(name, "@text-instead\n@say no")
    };
    let steps = vec![
        shaky("mended", r#"@json {"why": "{error}"}"#),
        shaky("broken", "@text-instead\n@say {error}"),
        ChainStep::new("last", "@say never"),
    ];
    let made = fleet.pool.submit_chain(chain(steps)).await.expect("it is taken");
    let view = over(&fleet, made.id).await;
    assert_eq!(told(&view), ["mended completed 3", "broken failed 3", "last cancelled 0"], "{}", fleet.logs());
    for member in &view.members[..2] {
        let Member::Task(record) = member else { panic!("{view:?}") };
        assert_eq!((record.failures, record.recovering), (2, true));
    }
    let mended = fleet.pool.known(made.members[0]).await.expect("the pool answers");
    let Known::Task(mended) = mended else { panic!("{mended:?}") };
    let why = mended.structured.as_ref().map(|value| value["why"].to_string()).unwrap_or_default();
    assert!(why.contains("without the JSON"), "{why}");
    // The next one begins where this one stopped, however often it is asked for.
    let again = fleet.pool.retry_chain(made.id).await.expect("it is taken");
    assert_eq!(again.members[0], made.members[0], "what is done is done");
    assert_eq!(fleet.pool.retry_chain(made.id).await.expect("it is found").id, again.id);
    let view = over(&fleet, again.id).await;
    assert_eq!(told(&view), ["mended completed 3", "broken failed 3", "last cancelled 0"]);
    fleet.end().await;
}

#[tokio::test]
async fn a_killed_worker_repeats_its_step_alone_and_nobody_else_is_needed() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 6).await;
    fleet.worker(&[]);
    let steps = vec![
        ChainStep::new("one", "@say 1"),
        ChainStep::new("two", "@bash echo on > two; until [ -e go ]; do sleep 0.02; done\n@say {previous_output}2"),
        ChainStep::new("three", "@say {previous_output}3"),
        ChainStep::new("four", "@say {previous_output}4"),
    ];
    let made = fleet.pool.submit_chain(chain(steps)).await.expect("it is taken");
    fleet.written("two").await;
    let holder = fleet.holder(match made.members[1] {
        motorpool::Id::Task(id) => id,
        motorpool::Id::Group(id) => panic!("{id}"),
    });
    let holder = holder.await;
    fleet.kill(holder, Signal::SIGKILL);
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    fleet.worker(&[]);
    let view = over(&fleet, made.id).await;
    assert_eq!(
        told(&view),
        ["one completed 1", "two completed 2", "three completed 1", "four completed 1"],
        "{}",
        fleet.logs()
    );
    let last = fleet.pool.task(view.last_done().expect("a last step").id).await.expect("the pool answers");
    assert_eq!(last.output.as_deref(), Some("1234"));
    fleet.end().await;
}

#[tokio::test]
async fn what_collects_is_given_every_output_in_order_with_what_failed() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    for _ in 0..2 {
        fleet.worker(&[]);
    }
    let item = |prompt: &str| Spec::new(prompt, TaskOptions::default()).expect("the prompt does").into();
    let failing = Spec::new("@text-instead\n@say no", options(json!({"json_schema": {"type": "object"}})));
    let fan_out = FanOut {
        items: vec![item("@say alpha"), failing.expect("it does").into(), item("@say gamma")],
        collect: Some(Spec::new("@bash cat > asked <<'END'\n{outputs}\nEND", TaskOptions::default()).expect("it does")),
        options: TaskOptions::default(),
    };
    let made = fleet.pool.fan_out(fan_out).await.expect("it is taken");
    let Known::Group(view) = fleet.pool.wait_for(made.id, None).await.expect("the pool answers") else { panic!() };
    assert_eq!(
        told(&view),
        ["item 1 completed 1", "item 2 failed 1", "item 3 completed 1", "collect completed 1"],
        "{}",
        fleet.logs()
    );
    assert_eq!(view.state, State::Failed);
    let collected = fleet.pool.task(view.tasks().last().expect("it").id).await.expect("the pool answers");
    assert!(collected.output.is_some());
    fleet.end().await;
}

#[tokio::test]
async fn what_was_rejected_goes_on_in_its_session_and_elsewhere_repeats_all_feedback() {
    let mut fleet = Fleet::with_lease(Cli::Real, 6).await;
    let worker = fleet.worker(&[]);
    let prompt = "Write it.\n@say a first draft";
    let options = json!({"review": true, "model": "haiku", "max_rejections": 4, "permission_mode": "acceptEdits",
        "allowed_tools": ["Bash"]});
    let id = fleet.submit(prompt, options).await;
    let first = fleet.reviewable(id, 1).await;
    let none = TaskOptions::default();
    fleet.pool.reject(id, Some(1), "me", "Too short.\n@now\n@say a second draft", &none).await.expect("it is taken");
    let second = fleet.reviewable(id, 2).await;
    assert_eq!(second.output.as_deref(), Some("a second draft"), "{}", fleet.logs());
    // The same conversation: its first question is still there.
    let last = fleet.api.requests().last().cloned().expect("a request");
    assert!(last.mentions("Write it.") && last.mentions("Too short."), "{last:#?}");
    assert_eq!(second.runs[1].resumed, first.runs[0].session_id);
    // Its session is gone: the prompt again, with all that was said.
    std::fs::remove_dir_all(fleet.path("home/.claude/projects")).expect("sessions");
    fleet.pool.reject(id, Some(2), "me", "Too long.", &none).await.expect("it is taken");
    let third = fleet.reviewable(id, 3).await;
    assert_eq!(third.runs[2].resumed, None);
    let last = fleet.api.requests().last().cloned().expect("a request");
    let text = last.last_user_text();
    assert!(["Write it.", "Too short.", "Too long."].iter().all(|words| text.contains(words)), "{text}");
    let kept: Vec<_> = third.rounds.iter().map(|round| round.output.clone().unwrap_or_default()).collect();
    assert_eq!(kept, ["a first draft", "a second draft"]);
    // A worker that dies in the fourth round costs that run, and not the round.
    let feedback = "Once more.\n@now\n@bash [ -e on ] || { echo on > on; sleep 300; }\n@say the last draft";
    fleet.pool.reject(id, Some(3), "me", feedback, &none).await.expect("it is taken");
    fleet.written("on").await;
    fleet.kill(worker, Signal::SIGKILL);
    fleet.worker(&[]);
    let fourth = fleet.reviewable(id, 4).await;
    assert_eq!((fourth.run, fourth.attempt), (5, 2), "{}", fleet.logs());
    assert_eq!(fourth.output.as_deref(), Some("the last draft"));
    fleet.pool.approve(id, Some(4), "me", "").await.expect("it is taken");
    assert_eq!(fleet.over(id).await.state, State::Completed);
    fleet.end().await;
}

#[tokio::test]
async fn a_task_goes_on_with_another_ones_session_on_the_same_machine() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let first = fleet.run("The word is plum.\n@say I know it", json!({"model": "haiku"})).await;
    let options = json!({"model": "haiku", "continue_from": first.id.to_string()});
    let second = fleet.run("Which word?\n@say plum", options.clone()).await;
    assert_eq!(second.state, State::Completed, "{second:#?}\n{}", fleet.logs());
    let last = fleet.api.requests().last().cloned().expect("a request");
    assert!(last.mentions("The word is plum."), "{last:#?}");
    assert_eq!(second.runs[0].resumed, first.runs[0].session_id);
    assert_ne!(second.runs[0].session_id, first.runs[0].session_id, "a branch of its own");
    assert!(second.lane.contains("host:"), "it waits for a worker of that machine: {}", second.lane);
    std::fs::remove_dir_all(fleet.path("home/.claude/projects")).expect("sessions");
    let third = fleet.run("Which word?\n@say plum", options).await;
    let message = third.error.map(|error| error.message).unwrap_or_default();
    assert!(message.contains("the session of t1 cannot be gone on with: it is not there any more"), "{message}");
    fleet.end().await;
}

/// Asked for before it was known on which machine the session would be: whoever takes it elsewhere hands it over there.
#[tokio::test]
async fn what_goes_on_with_a_session_finds_its_way_to_the_machine_of_that() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let bash = json!({"permission_mode": "acceptEdits", "allowed_tools": ["Bash"]});
    let first = fleet.submit("@bash echo on > on; until [ -e go ]; do sleep 0.02; done\n@say done", bash).await;
    fleet.written("on").await;
    let second = fleet.submit("@say never", json!({"continue_from": first.to_string()})).await;
    // As if it ran on another machine.
    let mut set = redis::cmd("HSET");
    set.arg(format!("{PREFIX}task:{first}")).arg("run:1:host").arg("faraway");
    set.query_async::<()>(&mut fleet.redis().await).await.expect("Redis answers");
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    assert_eq!(fleet.over(first).await.state, State::Completed);
    let moved = fleet
        .until("it is handed over", async |fleet| {
            let record = fleet.pool.task(second).await.expect("the pool answers");
            (record.run == 1 && record.state == State::Pending).then_some(record)
        })
        .await;
    assert_eq!((moved.lane.as_str(), moved.attempt), ("default+host:faraway", 0), "{moved:#?}");
    assert_eq!(moved.reason.as_deref(), Some("the session of t1 is on the machine faraway"));
    assert!(!moved.runs[0].charged, "{moved:#?}");
    // One that goes by that name and is not that machine says so.
    fleet.worker(&["--labels", "host:faraway"]);
    let failed = fleet.over(second).await;
    let message = failed.error.map(|error| error.message).unwrap_or_default();
    assert!(message.contains("is on the machine faraway, and this is "), "{message}");
    assert_eq!(failed.run, 2);
    fleet.end().await;
}

#[tokio::test]
async fn what_was_handed_back_goes_on_where_it_stopped_unless_it_is_not_to() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("MOTORPOOL_DRAIN_TIMEOUT", "1s");
    for (n, resumes) in [(1, true), (2, false)] {
        let worker = fleet.worker(&[]);
        let prompt = format!("Begin.\n@bash echo on > on{n}; until [ -e go{n} ]; do sleep 0.02; done\n@say ended");
        let options = json!({"permission_mode": "acceptEdits", "allowed_tools": ["Bash"], "resume_on_retry": resumes});
        let id = fleet.submit(&prompt, options).await;
        fleet.written(&format!("on{n}")).await;
        fleet.kill(worker, Signal::SIGTERM);
        fleet.ended(worker).await;
        std::fs::write(fleet.work.join(format!("go{n}")), "").expect("a file");
        let other = fleet.worker(&[]);
        let record = fleet.over(id).await;
        assert_eq!(
            (record.state, record.run, record.attempt),
            (State::Completed, 2, 1),
            "{record:#?}\n{}",
            fleet.logs()
        );
        assert_eq!(record.runs[1].resumed.is_some(), resumes, "{record:#?}");
        let last = fleet.api.requests().last().cloned().expect("a request");
        assert_eq!(last.mentions("You were interrupted"), resumes, "{last:#?}");
        fleet.kill(other, Signal::SIGTERM);
        fleet.ended(other).await;
    }
    fleet.end().await;
}

/// Outputs that look like places, braces, JSON that is none, much text, all kinds of letters.
#[tokio::test]
async fn whatever_an_output_is_it_goes_into_the_next_prompt_as_it_is() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let hostile = [
        "{previous_output} {steps.s0.all} {error} {outputs}",
        "{{previous_output}} {{ }} {",
        r#"{"a": {"b": [1, {"c": "{steps.s0.all}"}]}}"#,
        r#"{"a": {"b""#,
        "\u{1F980} \u{202E}abc\u{0301} \u{FEFF}",
    ];
    for output in hostile {
        let steps = vec![
            ChainStep::new("s0", format!("@say {}", output.replace('{', "{{")))
                .output_var("all", ".")
                .output_var("deep", "a.b.1.c"),
            ChainStep::new("s1", "Next.\n<{previous_output}>\n<{steps.s0.all}>\n@say done"),
        ];
        let made = fleet.pool.submit_chain(chain(steps)).await.expect("it is taken");
        let view = over(&fleet, made.id).await;
        assert_eq!(view.state, State::Completed, "{output}\n{}", fleet.logs());
        let asked = fleet.api.requests().last().cloned().expect("a request");
        let text = asked.last_user_text();
        assert!(text.contains(&format!("Next.\n<{output}>\n<{output}>\n@say done")), "{output}: {text}");
    }
    // Much of it is cut in the middle, which says so and where the whole is.
    let much = "0123456789".repeat(30_000);
    let steps =
        vec![ChainStep::new("s0", format!("@say {much}")), ChainStep::new("s1", "{previous_output}\n@say done")];
    let made = fleet.pool.submit_chain(chain(steps)).await.expect("it is taken");
    assert_eq!(over(&fleet, made.id).await.state, State::Completed, "{}", fleet.logs());
    let asked = fleet.api.requests().last().cloned().expect("a request");
    let text = asked.last_user_text();
    assert!(text.len() < 110_000 && text.contains("cut here: 300000 characters in all"), "{}", text.len());
    assert!(text.contains("the whole of it: `motorpool result t11`"), "{:.300}", text);
    fleet.end().await;
}

#[tokio::test]
async fn a_session_that_cannot_be_gone_on_with_costs_nothing_but_a_start_anew() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let id = fleet.submit("Write it.\n@say a draft", json!({"review": true, "model": "haiku"})).await;
    fleet.reviewable(id, 1).await;
    let projects = std::fs::read_dir(fleet.path("home/.claude/projects")).expect("sessions").flatten();
    for file in projects.flat_map(|dir| std::fs::read_dir(dir.path()).expect("a directory").flatten()) {
        if file.path().is_file() {
            std::fs::write(file.path(), "{\"torn\": ").expect("it is written");
        }
    }
    fleet.pool.reject(id, Some(1), "me", "Longer.", &TaskOptions::default()).await.expect("it is taken");
    let record = fleet.reviewable(id, 2).await;
    assert_eq!((record.attempt, record.runs.last().and_then(|run| run.resumed.clone())), (1, None), "{record:#?}");
    let last = fleet.api.requests().last().cloned().expect("a request");
    assert!(last.last_user_text().contains("Write it.") && last.last_user_text().contains("Longer."), "{last:#?}");
    fleet.end().await;
}
