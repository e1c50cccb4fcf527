//! A limit belongs to the account: who shares it is given nothing until it is over, everybody else goes on.

use super::pool_test;
use crate::domain::attempt::{Class, Verdict};
use crate::domain::fleet::Unfit;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::fleet::{self, Presence};
use crate::store::script::Call;

fn presence(worker: &str, account: &str, verb: &str, until_ms: Option<i64>) -> Call {
    let unfit = until_ms.map(|ms| Unfit {
        class: Class::Limit,
        message: "the week is used up".into(),
        hint: Some("wait".into()),
        until_ms: u64::try_from(ms).ok(),
    });
    let known = Presence {
        lanes: vec!["default".into()],
        account: account.into(),
        limits_account: unfit.is_some(),
        unfit,
        ..Presence::default()
    };
    fleet::presence(worker, verb, "pool-1", 15_000, &known)
}

#[tokio::test]
async fn the_workers_of_an_account_stop_together_and_go_on_together() {
    pool_test(async |pool| {
        pool.stop_clock().await;
        let (mut first, mut same, mut other) = (pool.join("w1").await, pool.join("w2").await, pool.join("w3").await);
        for (worker, account) in [("w1", "a"), ("w2", "a"), ("w3", "b")] {
            pool.call(&presence(worker, account, "join", None)).await;
        }
        let ids = pool.submit_all(vec![TaskOptions::default(); 3]).await;
        let held = first.take().await;
        let until_ms = pool.now_ms().await + 20_000;
        pool.call(&presence("w1", "a", "report", Some(until_ms))).await;
        first.finish(&held, &super::worker::give_back(0)).await;
        let limited = ["limited".to_owned(), until_ms.to_string(), "the week is used up".into(), "wait".into()];
        assert_eq!(pool.words(&same.claim_call("")).await, limited);
        assert_eq!(pool.words(&first.claim_call("")).await, limited);
        // The other account goes on, and so does a run that the limit did not meet.
        let theirs = other.take().await;
        let (told, next) = other.step(&theirs, &Verdict::Complete).await;
        assert_eq!((told[0].as_str(), next.is_some()), ("ok", true));
        assert_eq!(pool.state(ids[0].0).await, State::Pending);
        pool.forward(10_000).await;
        assert_eq!(pool.words(&same.claim_call("")).await[0], "limited");
        pool.forward(10_000).await;
        let again = same.take().await;
        assert_eq!((again.id, again.run, again.history.attempt), (ids[0].0, 2, 1));
    })
    .await;
}

/// A step of a worker whose account has met its limit meanwhile settles its run and takes nothing.
#[tokio::test]
async fn a_step_brings_home_what_it_has_and_takes_nothing_more() {
    pool_test(async |pool| {
        pool.stop_clock().await;
        let mut worker = pool.join("w1").await;
        pool.call(&presence("w1", "a", "join", None)).await;
        let ids = pool.submit_all(vec![TaskOptions::default(); 2]).await;
        let held = worker.take().await;
        let until_ms = pool.now_ms().await + 20_000;
        pool.join("w2").await;
        pool.call(&presence("w2", "a", "report", Some(until_ms))).await;
        let (told, next) = worker.step(&held, &Verdict::Complete).await;
        assert_eq!((told[0].as_str(), next), ("ok", None));
        assert_eq!((pool.state(ids[0].0).await, pool.state(ids[1].0).await), (State::Completed, State::Pending));
        // One that is over when it is told, or that is a model's alone, stops nobody.
        pool.forward(20_000).await;
        pool.call(&presence("w2", "a", "report", Some(until_ms))).await;
        worker.take().await;
    })
    .await;
}
