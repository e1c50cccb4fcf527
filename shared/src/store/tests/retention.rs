//! Retention: an idle pool has the keys of an empty one.

use std::collections::BTreeSet;

use super::worker::{failure, give_back};
use super::{TestPool, pool_test};
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::store::event::ChunkKind;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// The pool's keys without those that go by themselves, within an hour at most.
async fn lasting(pool: &TestPool) -> BTreeSet<String> {
    let now_ms = {
        let (seconds, micros): (i64, i64) = pool.redis(&redis::cmd("TIME")).await;
        seconds * 1000 + micros / 1000
    };
    let lasts = |at: i64| at < 0 || at > now_ms + 3_600_000;
    let keys = pool.dump().await.into_iter().filter(|(_, (_, at))| lasts(*at));
    keys.map(|(key, _)| key.rsplit_once("}:").map_or(key.clone(), |(_, name)| name.to_owned())).collect()
}

#[tokio::test]
async fn an_idle_pool_has_the_keys_of_an_empty_one() {
    pool_test(async |pool| {
        let options = |lane: &str| TaskOptions {
            lane: Some(lane.parse().unwrap()),
            tags: vec!["x".into(), "y z".into()],
            coordinator: Some("boss".into()),
            once: Some(format!("key of {lane}")),
            ..TaskOptions::default()
        };
        let lanes = ["a", "b", "c", "d", "e"];
        let made = pool.submit_all(lanes.map(options).to_vec()).await;
        let mut worker = pool.join("w1").await;
        worker.lanes = lanes.map(str::to_owned).to_vec();
        let (a, b, c, d) = (worker.take().await, worker.take().await, worker.take().await, worker.take().await);
        for held in [&a, &b, &c, &d] {
            let chunks = [(ChunkKind::Text, "words".to_owned())];
            pool.store.add_output(held.id, held.run, &chunks).await.unwrap();
            worker.beat(held).await;
        }
        worker.finish(&a, &Verdict::Complete).await;
        worker.finish(&b, &Verdict::Fail(failure())).await;
        worker.finish(&c, &give_back(0)).await;
        let again = worker.take().await;
        assert_eq!((again.id, again.run), (c.id, 2));
        worker.finish(&again, &Verdict::Cancel("x".into())).await;
        pool.call(&crate::store::task::cancellation(made[4].0, "x")).await;
        pool.call(&crate::store::task::cancellation(d.id, "x")).await;
        pool.age("d", &d.entry, 60_000).await;
        pool.sweep("s").await;
        pool.call(&worker.presence("leave")).await;

        pool.forward(6 * DAY_MS).await;
        pool.sweep("s").await;
        assert_eq!(pool.store.output_since(a.id, 1, "0").await.unwrap().len(), 2, "a week has not passed");
        pool.forward(2 * DAY_MS).await;
        pool.sweep("s").await;
        let empty: BTreeSet<String> = ["events", "meta", "seq"].map(str::to_owned).into();
        assert_eq!(lasting(pool).await, empty);
        pool.store.add_output(a.id, 1, &[(ChunkKind::Text, "late".into())]).await.unwrap();
        assert_eq!(lasting(pool).await, empty, "late output makes nothing");
        let late = worker.finish_call(&a, 5, &Verdict::Complete);
        assert_eq!(pool.words(&late).await[0], "unknown");
    })
    .await;
}

#[tokio::test]
async fn a_sweep_removes_a_hundred_and_the_next_goes_on() {
    pool_test(async |pool| {
        for (id, _) in pool.submit_all(vec![TaskOptions::default(); 150]).await {
            pool.store.call(&crate::store::task::cancellation(id, "x")).await.unwrap();
        }
        pool.forward(8 * DAY_MS).await;
        assert_eq!(pool.sweep_in_grace("s").await.removed, 100);
        assert_eq!(pool.sweep_in_grace("s").await.removed, 50);
        assert_eq!(pool.sweep_in_grace("s").await.removed, 0);
    })
    .await;
}

#[tokio::test]
async fn a_lane_unused_for_a_day_goes_and_one_in_use_stays() {
    pool_test(async |pool| {
        let lane = |name: &str| TaskOptions { lane: Some(name.parse().unwrap()), ..TaskOptions::default() };
        let gone = pool.submit(lane("old")).await;
        let running = pool.submit(lane("busy")).await;
        let delayed = pool.submit(lane("later")).await;
        let mut worker = pool.join("w1").await;
        worker.lanes = vec!["busy".into(), "later".into()];
        let held = worker.take().await;
        assert_eq!(held.id, running);
        let later = worker.take().await;
        worker.finish(&later, &super::worker::retry(3 * DAY_MS as u64)).await;
        pool.call(&crate::store::task::cancellation(gone, "x")).await;
        pool.forward(DAY_MS / 2).await;
        pool.sweep("s").await;
        assert_eq!(pool.store.lanes().await.unwrap().len(), 3);
        pool.forward(DAY_MS).await;
        pool.sweep("s").await;
        let lanes: Vec<String> = pool.store.lanes().await.unwrap().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(lanes, ["busy"]);
        assert!(!pool.exists("wake:old").await && !pool.exists("lane:old:normal").await);
        pool.forward(3 * DAY_MS).await;
        pool.sweep("s").await;
        worker.finish(&held, &Verdict::Complete).await;
        assert_eq!(worker.take().await.id, delayed, "its lane is made anew");
    })
    .await;
}
