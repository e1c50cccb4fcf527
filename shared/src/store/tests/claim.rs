//! claim: order, tokens, ghosts, sweeper's place, numbers.

use super::pool_test;
use super::worker::{Hand, give_back};
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::attempt;
use crate::store::event::ChunkKind;

fn in_lane(lane: &str) -> TaskOptions {
    TaskOptions { lane: Some(lane.parse().unwrap()), ..TaskOptions::default() }
}

#[tokio::test]
async fn a_claim_describes_the_run_and_writes_it_down() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        assert_eq!((held.id, held.run, held.round.as_str(), held.lease_ms), (id, 1, "1", 15_000));
        let history = held.history;
        assert_eq!((history.attempt, history.max_attempts, history.uncharged, history.unspoken), (1, 3, 0, 0));
        assert_eq!(history.uncharged_for_ms, 0);
        let record = pool.record(id).await;
        assert_eq!((record.state, record.worker.as_deref(), record.run), (State::Running, Some("w1"), 1));
        assert_eq!(record.entry.as_deref(), Some(held.entry.as_str()));
        assert_eq!((record.runs[0].worker.as_str(), record.runs[0].host.as_str()), ("w1", "h"));
        assert_eq!(pool.log(id).await, ["- submit pending 0", "pending claim running 1"]);
        assert_eq!(pool.field("worker:w1", "task").await.as_deref(), Some("t1"));
        let output = pool.store.output_since(id, 1, "0").await.unwrap();
        assert_eq!((output[0].kind, output[0].text.as_str()), (ChunkKind::Start, "w1"));
    })
    .await;
}

#[tokio::test]
async fn priority_comes_before_the_order_of_lanes() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        worker.lanes = vec!["a".into(), "b".into(), "nosuch".into()];
        let b = pool.submit(in_lane("b")).await;
        let a = pool.submit(in_lane("a")).await;
        let other = pool.submit(in_lane("c")).await;
        assert_eq!(worker.take().await.id, a);
        assert_eq!(worker.take().await.id, b);
        assert!(worker.claim().await.is_none(), "{other} stands in a lane it does not serve");
        assert_eq!(pool.state(other).await, State::Pending);
    })
    .await;
}

#[tokio::test]
async fn a_token_stands_while_entries_are_left_and_none_is_made_for_nothing() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        worker.lanes = vec!["a".into(), "b".into()];
        pool.submit_all(vec![in_lane("a"), in_lane("a"), in_lane("b")]).await;
        pool.take_token("a").await;
        pool.take_token("b").await;
        // Woken by b, served from a: both have entries left.
        let call = worker.claim_call("b");
        assert_eq!(pool.words(&call).await[5], "t1");
        assert_eq!((pool.tokens("a").await, pool.tokens("b").await), (1, 1));
        pool.take_token("a").await;
        assert_eq!(worker.take().await.id.number(), 2);
        assert_eq!(pool.tokens("a").await, 0, "a is empty");
        pool.take_token("b").await;
        assert_eq!(worker.take().await.id.number(), 3);
        let call = worker.claim_call("b");
        assert_eq!(pool.words(&call).await[0], "idle");
        assert_eq!((pool.tokens("a").await, pool.tokens("b").await), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_no_record_names_is_dropped_on_the_way() {
    pool_test(async |pool| {
        pool.join("w0").await;
        let cancelled = pool.submit(TaskOptions::default()).await;
        for (field, value) in [("id", "t99"), ("id", cancelled.to_string().as_str()), ("other", "x")] {
            let lane = pool.store.keys.lane("default", "normal");
            let _: String = pool.redis(redis::cmd("XADD").arg(lane).arg(&["*", field, value])).await;
        }
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        assert_eq!(worker.take().await.id, cancelled);
        assert_eq!(worker.take().await.id, id);
        assert!(worker.claim().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn the_first_that_finds_nobody_sweeping_is_asked_to() {
    pool_test(async |pool| {
        let (mut first, mut second) = (pool.join("w1").await, pool.join("w2").await);
        let call = first.claim_call("");
        assert_eq!(pool.words(&call).await[..2], ["idle", "1"]);
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("sweeper"))).await;
        // On a slow machine its two seconds are over by now; without an end it would be -1.
        assert!(left <= 2000 && left != -1, "{left}");
        let _: () = pool.redis(redis::cmd("SET").arg(pool.key("sweeper")).arg("w1")).await;
        let call = second.claim_call("");
        assert_eq!(pool.words(&call).await[..2], ["idle", "0"]);
        let call = first.claim_call("");
        assert_eq!(pool.words(&call).await[..2], ["idle", "1"], "its own place");
    })
    .await;
}

#[tokio::test]
async fn newer_defaults_come_with_the_claim() {
    pool_test(async |pool| {
        let defaults = TaskOptions { model: Some("haiku".into()), ..TaskOptions::default() };
        pool.call(&crate::store::host::defaults("0", &defaults).unwrap()).await;
        let worker = pool.join("w1").await;
        let lanes = vec!["default".to_owned()];
        let told = pool.words(&attempt::claim(&worker.id, 1, "", "0", &lanes)).await;
        assert_eq!(told[2..4], ["1", "{\"model\":\"haiku\"}"]);
        let told = pool.words(&attempt::claim(&worker.id, 2, "", "1", &lanes)).await;
        assert_eq!(told[2..4], ["1", ""]);
    })
    .await;
}

#[tokio::test]
async fn a_claim_is_refused_by_name_number_and_schema() {
    pool_test(async |pool| {
        pool.submit(TaskOptions::default()).await;
        let call = Hand::new(pool, "w9").claim_call("");
        assert_eq!(pool.refused(&call).await, ["unknown", "w9"]);
        let mut worker = pool.join("w1").await;
        worker.call = 8;
        let held = worker.take().await;
        let lanes = vec!["default".to_owned()];
        assert_eq!(pool.refused(&attempt::claim("w1", 8, "", "0", &lanes)).await, ["superseded", "9"]);
        pool.refuses_foreign_schema(&worker.claim_call("")).await;
        worker.finish(&held, &Verdict::Complete).await;
    })
    .await;
}

#[tokio::test]
async fn a_claim_made_again_is_the_same_run_though_another_has_the_task_by_now() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut first = pool.join("w1").await;
        let lanes = vec!["default".to_owned()];
        let held = first.take().await;
        pool.age("default", &held.entry, 60_000).await;
        assert_eq!(pool.sweep("s").await.lost, 1);
        let mut second = pool.join("w2").await;
        let now = second.take().await;
        let again = pool.refused(&attempt::claim("w1", 1, "", "0", &lanes)).await;
        assert_eq!(again[5..8], [id.to_string(), "1".into(), held.entry.clone()]);
        assert_ne!(held.entry, now.entry);
        assert_eq!(first.beat(&held).await, ["stale", "running"]);
        second.finish(&now, &Verdict::Complete).await;
        assert_eq!(first.beat(&held).await, ["stale", "completed"]);
    })
    .await;
}

#[tokio::test]
async fn runs_are_numbered_on_and_given_back_ones_are_free() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        for run in 1..=5 {
            let held = worker.take().await;
            assert_eq!((held.run, held.history.attempt), (run, 1));
            assert_eq!(worker.finish(&held, &give_back(0)).await, ["ok", "pending"]);
            pool.forward(1000).await;
        }
        let held = worker.take().await;
        assert!((4900..60_000).contains(&held.history.uncharged_for_ms), "{}", held.history.uncharged_for_ms);
        assert_eq!((held.run, held.history.uncharged), (6, 0));
        assert_eq!(pool.record(id).await.runs.iter().filter(|run| run.charged).count(), 1);
    })
    .await;
}
