//! submit: keys, bounds, records, lanes, events.

use super::{pool_test, raw_submission, submission, words};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::Spec;
use crate::store::script::Call;

fn keyed(key: &str) -> TaskOptions {
    TaskOptions { once: Some(key.into()), ..TaskOptions::default() }
}

#[tokio::test]
async fn a_task_has_its_record_its_place_its_indexes_and_its_event() {
    pool_test(async |pool| {
        let options = TaskOptions {
            tags: vec!["a b".into(), "ü:{}*?[x]\"'\\".into(), "%s".into(), "{default}".into()],
            coordinator: Some("boss: {1}".into()),
            lane: Some("gpu".parse().unwrap()),
            max_attempts: Some(2),
            ..keyed("build #1: {x}\"")
        };
        let id = pool.submit(options.clone()).await;
        let record = pool.record(id).await;
        assert_eq!((record.state, record.lane.as_str(), record.max_attempts), (State::Pending, "gpu", 2));
        assert_eq!((record.run, record.attempt, record.round, record.n), (0, 0, 1, 1));
        assert_eq!((&record.tags, &record.coordinator), (&options.tags, &options.coordinator));
        assert_eq!(record.spec.unwrap().options, options);
        assert!((record.created_ms as i64 - pool.now_ms().await).abs() < 60_000);
        assert_eq!(pool.log(id).await, ["- submit pending 0"]);
        assert_eq!(pool.field(&format!("task:{id}"), "if_lost").await.as_deref(), Some("0"));
        for tag in &options.tags {
            assert!(pool.exists(&format!("index:tag:{tag}")).await, "{tag}");
        }
        assert_eq!(pool.tokens("gpu").await, 1);
        assert_eq!(pool.tokens("default").await, 0);
        assert_eq!(pool.field("meta", "pool_id").await.as_deref(), Some("pool-1"));
    })
    .await;
}

#[tokio::test]
async fn a_key_makes_one_task_however_often_it_comes() {
    pool_test(async |pool| {
        let call = submission(vec![keyed("a"), keyed("b"), keyed("a"), TaskOptions::default()]);
        let first = words(&pool.call(&call).await);
        assert_eq!(first, ["ok", "t1", "fresh", "t2", "fresh", "t1", "again", "t3", "fresh"]);
        assert_eq!(words(&pool.call(&call).await), first, "the same call says the same");
        let other = pool.submit_all(vec![keyed("c"), keyed("a")]).await;
        let shown: Vec<String> = other.iter().map(|(id, fresh)| format!("{id} {fresh}")).collect();
        assert_eq!(shown, ["t4 true", "t1 false"], "another call is told that it was there");
        for id in ["t1", "t2", "t3", "t4"] {
            assert_eq!(pool.log(id.parse().unwrap()).await.len(), 1);
        }
    })
    .await;
}

/// Of a server that was started anew, or that another one follows, it is known by its mark alone.
#[tokio::test]
async fn no_id_is_given_twice_where_redis_may_have_forgotten_some() {
    pool_test(async |pool| {
        let gives = async |kept: bool| {
            let spec = Spec::new("a prompt", TaskOptions::default()).unwrap();
            let call = crate::store::submission::submission(&[spec], "pool-1", 15_000, kept).unwrap();
            words(&pool.call(&call).await)[1].clone()
        };
        let is_another = async || pool.set_field("seq", "run_id", "the one before").await;
        assert_eq!((gives(true).await, gives(true).await), ("t1".to_owned(), "t2".to_owned()));
        is_another().await;
        assert_eq!(gives(false).await, "t3", "what was kept was known before");
        assert_eq!(gives(false).await, "t4", "it is the same one still");
        is_another().await;
        assert_eq!((gives(true).await, gives(true).await), ("t1005".to_owned(), "t1006".to_owned()));
        is_another().await;
        pool.set_field("seq", "kept", "0").await;
        // Who sweeps may be the first to see it: news have numbers too.
        pool.sweep("s").await;
        assert_eq!(pool.field("seq", "news").await.as_deref(), Some("2000"));
        pool.sweep("s").await;
        assert_eq!(gives(true).await, "t2007");
    })
    .await;
}

#[tokio::test]
async fn a_key_lives_as_long_as_its_record() {
    pool_test(async |pool| {
        let id = pool.submit(keyed("a")).await;
        pool.call(&crate::store::task::cancellation(id, "no")).await;
        pool.forward(6 * 24 * 3600 * 1000).await;
        pool.sweep("s").await;
        assert_eq!(pool.submit_all(vec![keyed("a")]).await, [(id, false)], "a task that is over keeps its key");
        pool.forward(2 * 24 * 3600 * 1000).await;
        assert_eq!(pool.sweep_in_grace("s").await.removed, 1);
        let (again, fresh) = pool.submit_all(vec![keyed("a")]).await[0];
        assert!(fresh && again != id, "{again}");
    })
    .await;
}

#[tokio::test]
async fn a_full_pool_refuses_the_whole_call() {
    pool_test(async |pool| {
        let call = |most: &str, key: &str| {
            let mut call = Call::new("submit").arg("pool-1").arg("15000").arg(most).arg("mark").arg("1").arg("2");
            for n in 1..=2 {
                call = call.arg(format!("{key}{n}")).args([
                    "{\"prompt\":\"p\"}",
                    "default",
                    "normal",
                    "3",
                    "0,0",
                    "",
                    "",
                    "0",
                    "0",
                    "p",
                    "",
                    "cancel",
                    "task",
                    "",
                ]);
            }
            call
        };
        pool.submit(keyed("a1")).await;
        let mut worker = pool.join("w1").await;
        assert_eq!(pool.refused(&call("2", "b")).await, ["full", "1"]);
        assert_eq!(words(&pool.call(&call("2", "a")).await), ["ok", "t1", "again", "t2", "fresh"], "one is there");
        assert_eq!(pool.refused(&call("2", "b")).await, ["full", "2"]);
        assert_eq!(pool.words(&call("0", "a")).await[0], "ok", "what is there is answered all the same");
        let held = worker.take().await;
        assert_eq!(pool.refused(&call("2", "b")).await, ["full", "1"], "a running task does not wait");
        worker.finish(&held, &super::worker::retry(1000)).await;
        assert_eq!(pool.refused(&call("3", "b")).await, ["full", "2"], "a delayed one does");
    })
    .await;
}

#[tokio::test]
async fn a_pool_without_memory_or_of_another_schema_refuses() {
    pool_test(async |pool| {
        pool.submit(keyed("a")).await;
        pool.set_field("meta", "full", "1").await;
        assert_eq!(pool.refused(&submission(vec![keyed("a"), keyed("b")])).await, ["memory"]);
        assert_eq!(pool.submit_all(vec![keyed("a")]).await[0].0.to_string(), "t1");
        pool.set_field("meta", "full", "0").await;
        pool.refuses_foreign_schema(&submission(vec![keyed("b")])).await;
    })
    .await;
}

#[tokio::test]
async fn a_thousand_tasks_go_in_one_call() {
    pool_test(async |pool| {
        let made = pool.submit_all(vec![TaskOptions::default(); 1000]).await;
        let numbers: Vec<u64> = made.iter().map(|(id, _)| id.number()).collect();
        assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
        assert_eq!(pool.store.count(&[State::Pending]).await.unwrap(), [1000]);
        assert_eq!(pool.tokens("default").await, 1);
        let mut worker = pool.join("w1").await;
        assert_eq!(worker.take().await.id.number(), 1, "the first comes first");
    })
    .await;
}

#[tokio::test]
async fn attempts_are_bounded_whatever_is_asked() {
    pool_test(async |pool| {
        for (asked, expected) in [(Some(0), 1), (None, 3), (Some(u32::MAX), 100)] {
            let id = pool.submit(TaskOptions { max_attempts: asked, ..TaskOptions::default() }).await;
            assert_eq!(pool.record(id).await.max_attempts, expected, "{asked:?}");
        }
        assert_eq!(pool.words(&raw_submission(1, "")).await[0], "ok");
    })
    .await;
}
