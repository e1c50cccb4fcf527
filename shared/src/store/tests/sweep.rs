//! sweep: timers, lost leases, the grace after an outage, tokens, dead presence.

use super::pool_test;
use crate::domain::attempt::{Class, Verdict};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::attempt::Held;
use crate::store::sweep;

const LEASE_MS: i64 = 15_000;

#[tokio::test]
async fn only_the_sweeper_sweeps() {
    pool_test(async |pool| {
        pool.submit(TaskOptions::default()).await;
        let _: () = pool.redis(redis::cmd("SET").arg(pool.key("sweeper")).arg("other")).await;
        assert_eq!(pool.refused(&sweep::sweep("s")).await, ["not_sweeper"]);
        pool.refuses_foreign_schema(&sweep::sweep("other")).await;
        pool.sweep("s").await;
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("sweeper"))).await;
        // On a slow machine its two seconds are over by now; without an end it would be -1.
        assert!(left <= 2000 && left != -1, "{left}");
        // Nobody took its place while it stood still.
        let _: u64 = pool.redis(redis::cmd("DEL").arg(pool.key("sweeper"))).await;
        assert_eq!(pool.words(&sweep::sweep("s")).await[0], "ok");
    })
    .await;
}

#[tokio::test]
async fn a_lost_lease_follows_its_ladder() {
    pool_test(async |pool| {
        let id = pool.submit_with_ladder(3, "700,0").await;
        let mut worker = pool.join("w1").await;
        for (run, state, event) in [
            (1, State::Delayed, "running lost delayed 1"),
            (2, State::Pending, "running lost pending 2"),
            (3, State::Failed, "running lost failed 3"),
        ] {
            let held = worker.take().await;
            assert_eq!(held.run, run);
            pool.age("default", &held.entry, 8_000).await;
            assert_eq!(pool.sweep("s").await.lost, 0, "not yet");
            pool.age("default", &held.entry, 15_500).await;
            assert_eq!(pool.sweep_in_grace("s").await.lost, 1);
            assert_eq!((pool.state(id).await, pool.last_event(id).await.as_str()), (state, event));
            assert_eq!(pool.field("worker:w1", "task").await.as_deref(), Some(""));
            let record = pool.record(id).await;
            let lost = &record.runs[run as usize - 1];
            assert_eq!((lost.class, lost.charged, lost.ended_ms.is_some()), (Some(Class::Lost), true, true));
            assert!(record.reason.as_deref().is_some_and(|reason| reason.contains("w1")), "{:?}", record.reason);
            pool.forward(1000).await;
            pool.sweep("s").await;
        }
        let error = pool.record(id).await.error.unwrap();
        assert_eq!((error.class, error.hint.is_some()), (Class::Lost, true));
    })
    .await;
}

#[tokio::test]
async fn a_sweep_loses_a_hundred_at_most_and_the_next_goes_on() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        worker.lanes = vec!["a".into(), "b".into()];
        let lane = |lane: &str| TaskOptions { lane: Some(lane.parse().unwrap()), ..TaskOptions::default() };
        let lanes = std::iter::repeat_n(lane("a"), 70).chain(std::iter::repeat_n(lane("b"), 60));
        pool.submit_all(lanes.collect()).await;
        for n in 0..130 {
            let name = if n < 70 { "a" } else { "b" };
            let held = {
                let reply = pool.store.call(&worker.claim_call("")).await.unwrap();
                crate::store::attempt::claimed(&reply, 0).unwrap().0
            };
            let crate::store::attempt::Claimed::Run(held) = held else { panic!("{n}") };
            pool.age(name, &held.entry, 60_000).await;
        }
        assert_eq!(pool.sweep_in_grace("s").await.lost, 100);
        assert_eq!(pool.sweep_in_grace("s").await.lost, 30);
        assert_eq!(pool.store.count(&[State::Pending, State::Running]).await.unwrap(), [130, 0]);
    })
    .await;
}

/// A pool at work, in which nothing is amiss: one run whose lease is over by Redis's clock.
async fn at_work<'a>(pool: &'a super::TestPool, name: &str) -> (super::Hand<'a>, Held) {
    pool.submit(TaskOptions::default()).await;
    let mut worker = pool.join(name).await;
    let held = worker.take().await;
    pool.sweep("s").await;
    pool.age("default", &held.entry, 60_000).await;
    (worker, held)
}

#[tokio::test]
async fn nothing_is_lost_within_the_grace_after_a_silence() {
    pool_test(async |pool| {
        let (_, held) = at_work(pool, "w1").await;
        pool.stop_clock().await;
        // Nobody called for more than half a lease.
        pool.forward(LEASE_MS / 2 + 1000).await;
        assert_eq!(pool.sweep_in_grace("s").await.lost, 0);
        for _ in 0..9 {
            pool.forward(1000).await;
            assert_eq!(pool.sweep_in_grace("s").await.lost, 0);
        }
        assert_eq!(pool.state(held.id).await, State::Running);
        pool.forward(2000).await;
        assert_eq!(pool.sweep_in_grace("s").await.lost, 1, "the grace is two thirds of a lease");
    })
    .await;
}

#[tokio::test]
async fn whoever_calls_first_after_a_silence_begins_the_grace() {
    pool_test(async |pool| {
        for n in 0..5 {
            let (mut worker, held) = at_work(pool, &format!("w{n}")).await;
            let mut other = pool.join(&format!("o{n}")).await;
            let call = match n {
                0 => other.claim_call(""),
                1 => worker.beat_call(&held, 0),
                2 => other.presence("report"),
                3 => worker.finish_call(&held, 0, &super::worker::give_back(0)),
                _ => worker.step_call(&held, 0, &super::worker::give_back(0)),
            };
            pool.forward(LEASE_MS).await;
            pool.call(&call).await;
            let grace: i64 = pool.field("meta", "grace").await.unwrap_or_default().parse().unwrap_or(0);
            let left = grace - pool.now_ms().await;
            assert!((5_000..=LEASE_MS * 2 / 3).contains(&left), "call {n}: {left}");
            pool.age("default", &held.entry, 60_000).await;
            assert_eq!(pool.sweep_in_grace("s").await.lost, 0, "call {n}");
            pool.call(&crate::store::task::cancellation(held.id, "next")).await;
            worker.finish(&held, &Verdict::Complete).await;
            pool.sweep("s").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_run_id_begins_a_grace_too() {
    pool_test(async |pool| {
        let (_, held) = at_work(pool, "w1").await;
        pool.stop_clock().await;
        pool.set_field("meta", "run_id", "another").await;
        assert_eq!(pool.sweep_in_grace("s").await.lost, 0);
        pool.forward(7_000).await;
        assert_eq!(pool.sweep_in_grace("s").await.lost, 0);
        pool.forward(3_100).await;
        assert_eq!(pool.sweep_in_grace("s").await.lost, 1);
        assert_eq!(pool.state(held.id).await, State::Pending);
    })
    .await;
}

#[tokio::test]
async fn time_that_went_back_sets_idle_times_to_nothing_once() {
    pool_test(async |pool| {
        let (_, held) = at_work(pool, "w1").await;
        pool.forward(-3_600_000).await;
        assert_eq!(pool.sweep_in_grace("s").await.lost, 0);
        let idle = async || {
            let lane = pool.store.keys.lane("default", "normal");
            let pending: Vec<(String, String, u64, u64)> =
                pool.redis(redis::cmd("XPENDING").arg(lane).arg(&["workers", "-", "+", "10"])).await;
            pending[0].2
        };
        assert!(idle().await < 10_000);
        assert_eq!(pool.field("meta", "rewound").await, None);
        pool.age("default", &held.entry, 60_000).await;
        pool.sweep_in_grace("s").await;
        assert!(idle().await >= 60_000, "once");
        pool.forward(7_000).await;
        pool.sweep_in_grace("s").await;
        pool.forward(3_100).await;
        assert_eq!(pool.sweep_in_grace("s").await.lost, 1);
    })
    .await;
}

/// Its place is kept for two seconds of a clock that then showed another time.
#[tokio::test]
async fn a_sweeper_that_is_gone_when_time_goes_back_is_followed_at_once() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        let hour_ms = "3602000";
        let _: () = pool.redis(redis::cmd("SET").arg(pool.key("sweeper")).arg(&["gone", "PX", hour_ms])).await;
        assert_eq!(pool.words(&worker.claim_call("")).await[1], "0");
        pool.forward(-3_600_000).await;
        assert_eq!(pool.words(&worker.claim_call("")).await[1], "1");
    })
    .await;
}

#[tokio::test]
async fn a_token_that_was_lost_is_replaced_while_something_waits() {
    pool_test(async |pool| {
        pool.submit(TaskOptions::default()).await;
        pool.take_token("default").await;
        pool.sweep("s").await;
        assert_eq!(pool.tokens("default").await, 1);
        pool.sweep("s").await;
        assert_eq!(pool.tokens("default").await, 1, "one is enough");
        let mut worker = pool.join("w1").await;
        worker.take().await;
        pool.take_token("default").await;
        pool.sweep("s").await;
        assert_eq!(pool.tokens("default").await, 0, "a running task waits for nobody");
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_is_not_heard_leaves_the_list() {
    pool_test(async |pool| {
        pool.join("w1").await;
        let mut late = pool.join("w2").await;
        assert_eq!(pool.sweep("s").await.dead, 0);
        pool.forward(LEASE_MS - 2000).await;
        late.claim().await;
        pool.forward(2500).await;
        assert_eq!(pool.sweep("s").await.dead, 1);
        let listed: Vec<String> = pool.redis(redis::cmd("ZRANGE").arg(pool.key("workers")).arg(&["0", "-1"])).await;
        assert_eq!(listed, ["w2"]);
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("worker:w1"))).await;
        assert!((3_500_000..=3_600_000).contains(&left), "an hour: {left}");
        // It was only slow: its next call lists it again.
        let mut first = super::Hand::new(pool, "w1");
        first.claim().await;
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("worker:w1"))).await;
        assert_eq!(left, -1);
        assert_eq!(pool.store.workers().await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_is_forgotten_is_not_brought_back_by_its_loss() {
    pool_test(async |pool| {
        let (_, held) = at_work(pool, "w1").await;
        let _: i64 = pool.redis(redis::cmd("DEL").arg(pool.key("worker:w1"))).await;
        pool.sweep("s").await;
        assert_eq!(pool.state(held.id).await, State::Pending);
        assert!(!pool.exists("worker:w1").await);
    })
    .await;
}
