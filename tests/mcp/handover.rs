//! News, handed over once: to the coordinator it belongs to, whatever dies on the way.

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::ERAS;
use motorpool_tests::mcp::stdio::Coordinator;
use serde_json::json;

use crate::{at_gate, gated, let_go, t};

const BEFORE: &str = "(handed over before; that answer may not have arrived)";

async fn wait(it: &Coordinator) -> String {
    it.call("pool_wait", json!({"wait_s": 60})).await.good()
}

#[track_caller]
fn nothing(told: &str, coordinator: &str) {
    assert_eq!(told, format!("nothing is new, and nothing of yours is under way (coordinator {coordinator})"));
}

#[tokio::test]
async fn what_a_dead_dispatcher_waited_for_is_handed_over_by_the_next_one() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        it.begin("pool_run", json!({"prompt": gated("go"), "wait_s": 600})).await;
        fleet.reaches(t(1), State::Running).await;
        it.killed().await;
        assert_eq!(fleet.reaches(t(1), State::Running).await.reason, None);
        let_go(&fleet, "go");
        assert_eq!(fleet.over(t(1)).await.state, State::Completed);

        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let news = wait(&it).await;
        assert!(news.starts_with("t1 completed") && news.contains("\nlet go\n"), "{news}");
        assert!(!news.contains("handed over before"), "it never was: {news}");
        nothing(&wait(&it).await, "ann");
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn an_answer_that_no_call_follows_may_be_lost_and_is_given_again() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let start = async || Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let it = start().await;
        it.call("pool_submit", json!({"prompt": "@say one"})).await.good();
        assert!(!wait(&it).await.contains("handed over before"));
        // Its host dies with it, before it says anything that shows that it has heard.
        it.killed().await;

        let it = start().await;
        let again = wait(&it).await;
        assert!(again.starts_with("t1 completed") && again.contains(BEFORE), "{again}");
        // This call shows it; so it is the last time.
        nothing(&wait(&it).await, "ann");
        let replay = it.call("pool_wait", json!({"replay": 1})).await.good();
        assert!(replay.starts_with("t1 completed") && replay.contains(" (again)\n"), "{replay}");
        nothing(&wait(&it).await, "ann");
        it.killed().await;

        let it = start().await;
        nothing(&wait(&it).await, "ann");
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn coordinators_do_not_see_each_others() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let ann = Coordinator::start(&fleet, ERAS[0], &["--coordinator=ann"]).await;
    let bob = Coordinator::start(&fleet, ERAS[1], &["--coordinator=bob"]).await;
    ann.call("pool_submit", json!({"prompt": "@say for ann"})).await.good();
    nothing(&wait(&bob).await, "bob");
    bob.call("pool_submit", json!({"prompt": "@say for bob"})).await.good();
    let (to_ann, to_bob) = (wait(&ann).await, wait(&bob).await);
    assert!(to_ann.contains("\nfor ann\n") && !to_ann.contains("t2"), "{to_ann}");
    assert!(to_bob.contains("\nfor bob\n") && !to_bob.contains("t1"), "{to_bob}");
    // A look at another's task, its id known, takes nothing from its coordinator.
    ann.call("pool_submit", json!({"prompt": "@say for ann again"})).await.good();
    bob.call("pool_result", json!({"ids": ["t3"], "wait_s": 60})).await.good();
    nothing(&wait(&bob).await, "bob");
    assert!(wait(&ann).await.starts_with("t3 completed"));
    // A call may speak for another by name.
    bob.call("pool_submit", json!({"prompt": "@say for ann by bob", "coordinator": "ann"})).await.good();
    assert!(wait(&ann).await.contains("\nfor ann by bob\n"));
    for it in [ann, bob] {
        it.end().await;
    }
    fleet.end().await;
}

#[tokio::test]
async fn what_was_answered_in_full_is_no_news() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let run = it.call("pool_run", json!({"prompt": "@say one", "wait_s": 60})).await.good();
        assert!(run.starts_with("t1 completed"), "{run}");
        nothing(&wait(&it).await, "ann");
        it.call("pool_submit", json!({"prompt": "@say two"})).await.good();
        it.call("pool_result", json!({"ids": ["t2"], "wait_s": 60})).await.good();
        nothing(&wait(&it).await, "ann");
        // A wait that came to its end is none either: what it waited for is handed over later.
        let run = it.call("pool_run", json!({"prompt": gated("go"), "wait_s": 0})).await.good();
        assert!(run.starts_with("t3 is still "), "{run}");
        let still = it.call("pool_wait", json!({"wait_s": 0})).await.good();
        assert!(still.starts_with("nothing new yet; call pool_wait again\nt3 "), "{still}");
        let_go(&fleet, "go");
        assert!(wait(&it).await.starts_with("t3 completed"));
        nothing(&wait(&it).await, "ann");
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn a_stop_that_came_too_late_leaves_the_result_to_be_told() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        it.call("pool_submit", json!({"prompt": "@say one"})).await.good();
        assert_eq!(fleet.over(t(1)).await.state, State::Completed);
        it.call("pool_submit", json!({"prompt": gated("never")})).await.good();
        at_gate(&fleet, 2, "never").await;
        let stopped = it.call("pool_cancel", json!({"ids": ["t1", "t2"]})).await.good();
        assert!(
            stopped.starts_with("t1 completed (it was over already") && stopped.contains("\nt2 cancelled"),
            "{stopped}"
        );
        // The answer said of the one all there is to say, and of the other one nothing of what it brought.
        let news = wait(&it).await;
        assert!(news.starts_with("t1 completed") && news.contains("\none\n"), "{news}");
        assert!(!news.contains("handed over before") && !news.contains("t2 "), "{news}");
        nothing(&wait(&it).await, "ann");
        it.end().await;
        fleet.end().await;
    }
}

/// A host that gives a call up drops an answer that comes just then: nobody was shown it.
#[tokio::test]
async fn an_answer_that_crossed_the_word_to_give_up_is_given_again() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let calls = [
            ("pool_wait", json!({"wait_s": 60})),
            ("pool_result", json!({"ids": ["t2"], "wait_s": 60})),
            ("pool_run", json!({"prompt": "@say mine", "wait_s": 60})),
        ];
        for (number, (tool, arguments)) in (1..).zip(calls) {
            if tool != "pool_run" {
                // Not by a call, which would show what arrived before.
                fleet.submit("@say mine", json!({"coordinator": "ann"})).await;
                fleet.over(t(number)).await;
            }
            let call = it.begin(tool, arguments).await;
            let told = it.told(call).await.good();
            assert!(told.contains("mine"), "{tool}: {told}");
            // The answer has been written out for certain, since it is here.
            it.cancel(call, Some("the user pressed Esc")).await;
            let news = wait(&it).await;
            assert!(news.starts_with(&format!("t{number} completed")) && news.contains("\nmine\n"), "{tool}: {news}");
            assert!(news.contains(BEFORE), "{tool}: {news}");
            nothing(&wait(&it).await, "ann");
            let record = fleet.pool.task(t(number)).await.unwrap();
            assert!(record.state == State::Completed && !record.cancel, "{tool}: {record:#?}");
        }
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn twenty_calls_at_once_are_all_answered() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        for _ in 0..4 {
            fleet.worker(&[]);
        }
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let mut calls = Vec::new();
        for n in 0..20 {
            calls.push(it.begin("pool_run", json!({"prompt": format!("@say number {n}"), "wait_s": 60})).await);
        }
        for (n, call) in calls.into_iter().enumerate() {
            let told = it.told(call).await.good();
            assert!(told.contains(" completed, 1 turn") && told.contains(&format!("\nnumber {n}\n")), "{told}");
        }
        nothing(&wait(&it).await, "ann");
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn news_is_the_oldest_first_and_twenty_at_a_time() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, ERAS[0], &["--coordinator=ann"]).await;
    for n in 1..=25 {
        let prompt = if n == 3 { "@status 400 broken".to_owned() } else { format!("@say number {n}") };
        it.call("pool_submit", json!({ "prompt": prompt })).await.good();
    }
    fleet.joined(&[]).await;
    for n in 1..=25 {
        fleet.over(t(n)).await;
    }
    let first = wait(&it).await;
    let heads: Vec<&str> = first.lines().filter(|line| line.starts_with('t')).collect();
    assert_eq!(heads.len(), 20, "{first}");
    assert!(
        heads[2].starts_with("t3 failed, request, status 400") && heads[19].starts_with("t20 completed"),
        "{first}"
    );
    assert!(first.ends_with("5 more; pool_wait again\n"), "{first}");
    let second = wait(&it).await;
    assert!(second.starts_with("t21 completed") && !second.contains("t20 "), "{second}");
    nothing(&wait(&it).await, "ann");
    it.end().await;
    fleet.end().await;
}
