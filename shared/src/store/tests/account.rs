//! A limit belongs to the account: who shares it is given nothing until it is over, everybody else goes on.

use super::{TestPool, pool_test};
use crate::domain::attempt::{Class, Verdict};
use crate::domain::fleet::Unfit;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::fleet::{self, Presence};
use crate::store::script::Call;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

fn presence(worker: &str, account: &str, verb: &str, limit_ms: u64) -> Call {
    let unfit = (limit_ms > 0).then(|| Unfit {
        class: Class::Limit,
        message: "the week is used up".into(),
        hint: Some("wait".into()),
        until_ms: Some(1),
    });
    let (lanes, account) = (vec!["default".into()], account.into());
    fleet::presence(
        worker,
        verb,
        "pool-1",
        15_000,
        &Presence { lanes, account, limit_ms, unfit, ..Presence::default() },
    )
}

async fn meets(pool: &TestPool, worker: &str, limit_ms: u64) {
    pool.call(&presence(worker, "a", "report", limit_ms)).await;
}

#[tokio::test]
async fn the_workers_of_an_account_stop_together_and_go_on_together() {
    pool_test(async |pool| {
        pool.stop_clock().await;
        let (mut first, mut same, mut other) = (pool.join("w1").await, pool.join("w2").await, pool.join("w3").await);
        for (worker, account) in [("w1", "a"), ("w2", "a"), ("w3", "b")] {
            pool.call(&presence(worker, account, "join", 0)).await;
        }
        let ids = pool.submit_all(vec![TaskOptions::default(); 3]).await;
        let held = first.take().await;
        meets(pool, "w1", 20_000).await;
        first.finish(&held, &super::worker::give_back(0)).await;
        let told = pool.words(&same.claim_call("")).await;
        assert_eq!((told[0].as_str(), &told[2..]), ("limited", &["the week is used up".into(), "wait".to_owned()][..]));
        assert!(told[1].parse::<u64>().is_ok_and(|left_ms| (19_000..=20_000).contains(&left_ms)), "{told:?}");
        assert_eq!(pool.words(&first.claim_call("")).await[0], "limited");
        // The other account goes on.
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

/// A step of a worker whose account has met its limit meanwhile settles its run; a success says that there is none.
#[tokio::test]
async fn a_run_that_succeeds_lifts_the_limit_and_one_that_does_not_takes_nothing_more() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        pool.call(&presence("w1", "a", "join", 0)).await;
        let ids = pool.submit_all(vec![TaskOptions::default(); 3]).await;
        let held = worker.take().await;
        pool.join("w2").await;
        meets(pool, "w2", DAY_MS).await;
        let (told, next) = worker.step(&held, &Verdict::Fail(super::worker::failure())).await;
        assert_eq!((told[0].as_str(), next), ("ok", None));
        assert_eq!((pool.state(ids[0].0).await, pool.state(ids[1].0).await), (State::Failed, State::Pending));
        assert_eq!(pool.words(&worker.claim_call("")).await[0], "limited");
        // One of them may try now and then, and its success counts for all.
        pool.forward(31 * MINUTE_MS as i64).await;
        let trial = worker.take().await;
        let mut second = pool.join("w3").await;
        pool.call(&presence("w3", "a", "join", 0)).await;
        assert_eq!(pool.words(&second.claim_call("")).await[0], "limited", "one at a time");
        worker.finish(&trial, &Verdict::Complete).await;
        assert!(!pool.exists("account:a").await);
        second.take().await;
    })
    .await;
}

#[tokio::test]
async fn of_two_limits_the_longer_one_counts_and_none_is_longer_than_there_are() {
    pool_test(async |pool| {
        pool.stop_clock().await;
        let mut worker = pool.join("w1").await;
        pool.call(&presence("w1", "a", "join", 0)).await;
        for (limit_ms, lasts_ms) in [(DAY_MS, DAY_MS), (1_000, DAY_MS), (u64::MAX / 4, 8 * DAY_MS)] {
            meets(pool, "w1", limit_ms).await;
            let left_ms: u64 = pool.words(&worker.claim_call("")).await[1].parse().expect("a time");
            assert!(left_ms <= lasts_ms && left_ms > lasts_ms - MINUTE_MS, "{limit_ms}: {left_ms}");
            let ttl: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("account:a"))).await;
            assert!(ttl > 0, "it goes by itself");
        }
        // Who reports on tells it no more.
        let _: i64 = pool.redis(redis::cmd("DEL").arg(pool.key("account:a"))).await;
        meets(pool, "w1", 0).await;
        assert!(worker.claim().await.is_none());
    })
    .await;
}
