//! finish: each verdict, the books, the fence, the flag.

use super::beat::not_held;
use super::pool_test;
use super::worker::{Hand, failure, give_back, retry, unspoken};
use crate::domain::attempt::{Class, Verdict};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::attempt::finish_as_kept;

#[tokio::test]
async fn each_verdict_leads_to_its_state_and_its_event() {
    pool_test(async |pool| {
        for (verdict, state, event, reason) in [
            (Verdict::Complete, State::Completed, "running complete completed 1", None),
            (Verdict::Fail(failure()), State::Failed, "running fail failed 1", None),
            (Verdict::Cancel("asked".into()), State::Cancelled, "running cancel cancelled 1", Some("asked")),
            (retry(0), State::Pending, "running retry pending 1", Some("overloaded")),
            (retry(500), State::Delayed, "running retry delayed 1", Some("overloaded")),
            (give_back(0), State::Pending, "running give_back pending 1", Some("the worker ends")),
            (unspoken(500), State::Delayed, "running give_back delayed 1", Some("overloaded")),
        ] {
            let id = pool.submit(TaskOptions::default()).await;
            let mut worker = pool.join("w1").await;
            worker.call = 100 * id.number();
            let held = worker.take().await;
            worker.beat(&held).await;
            let call = worker.finish_call(&held, 77, &verdict);
            assert_eq!(pool.words(&call).await, ["ok", state.word()]);
            let record = pool.record(id).await;
            assert_eq!((record.state, record.reason.as_deref()), (state, reason), "{verdict:?}");
            assert_eq!(pool.last_event(id).await, event);
            assert_eq!((record.cost_microusd, record.runs[0].cost_microusd), (77, 77));
            assert!(record.runs[0].ended_ms.is_some() && record.worker.is_none() && record.tool.is_none());
            assert_eq!(record.ended_ms.is_some(), state.is_terminal());
            assert_eq!(record.output.is_some(), state.is_terminal());
            let error = record.error.map(|error| (error.class, error.status, error.message, error.hint));
            let expected = (Class::Transient, Some(529), "overloaded".to_owned(), Some("wait".to_owned()));
            assert_eq!(error, (state == State::Failed).then_some(expected));
            assert_eq!(pool.field("worker:w1", "task").await.as_deref(), Some(""));
            assert_eq!(pool.field("worker:w1", "done").await, Some(id.number().to_string()));
            // What is not over would be taken next.
            pool.call(&crate::store::task::cancellation(id, "next")).await;
        }
    })
    .await;
}

/// What a worker leaves behind in a file is the call that it would have made.
#[tokio::test]
async fn a_finish_that_was_kept_is_the_same_call() {
    pool_test(async |pool| {
        for verdict in [Verdict::Complete, Verdict::Fail(failure()), give_back(0)] {
            let id = pool.submit(TaskOptions::default()).await;
            let mut worker = pool.join("w1").await;
            worker.call = 100 * id.number();
            let held = worker.take().await;
            let call = worker.finish_call(&held, 77, &verdict);
            let texts = call.texts();
            let kept = finish_as_kept(&texts).expect("it is one");
            let told = pool.words(&kept).await;
            assert_eq!(told[0], "ok", "{verdict:?}");
            assert_eq!(pool.words(&call).await, told, "its number says that it is the same");
            assert_eq!(pool.record(id).await.cost_microusd, 77);
            for damaged in [&texts[..texts.len() - 1], &texts[1..], &[]] {
                assert!(finish_as_kept(damaged).is_none(), "{damaged:?}");
            }
            pool.call(&crate::store::task::cancellation(id, "next")).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_charged_counts_and_what_is_given_back_does_not() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions { max_attempts: Some(9), ..TaskOptions::default() }).await;
        let mut worker = pool.join("w1").await;
        // Verdict, then attempt, uncharged and unspoken as the next claim tells them.
        for (verdict, attempt, uncharged, in_a_row) in [
            (unspoken(0), 1, 1, 1),
            (unspoken(0), 1, 2, 2),
            (retry(0), 2, 2, 0),
            (give_back(0), 2, 2, 0),
            (unspoken(0), 2, 3, 1),
            (give_back(0), 2, 3, 0),
            (retry(0), 3, 3, 0),
        ] {
            let held = worker.take().await;
            worker.finish(&held, &verdict).await;
            let held = worker.take().await;
            let history = held.history;
            assert_eq!((history.attempt, history.uncharged, history.unspoken), (attempt, uncharged, in_a_row));
            worker.finish(&held, &give_back(0)).await;
            pool.set_field(&format!("task:{id}"), "unspoken", &in_a_row.to_string()).await;
        }
        let runs = pool.record(id).await.runs;
        assert_eq!(runs.len(), 14);
        assert_eq!(runs.iter().filter(|run| run.charged).count(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_delayed_task_comes_when_its_time_has_come() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        worker.finish(&held, &retry(60_000)).await;
        pool.take_token("default").await;
        pool.forward(50_000).await;
        assert_eq!(pool.sweep_in_grace("s").await.due, 0);
        assert!(worker.claim().await.is_none());
        pool.forward(10_001).await;
        assert_eq!(pool.sweep_in_grace("s").await.due, 1);
        assert_eq!(pool.last_event(id).await, "delayed due pending 1");
        assert_eq!(pool.tokens("default").await, 1, "somebody is woken");
        let held = worker.take().await;
        assert_eq!((held.run, held.history.attempt), (2, 2));
    })
    .await;
}

#[tokio::test]
async fn with_the_flag_up_anything_but_a_success_is_cancelled() {
    pool_test(async |pool| {
        for (verdict, state) in [
            (Verdict::Complete, State::Completed),
            (Verdict::Review, State::Cancelled),
            (Verdict::Fail(failure()), State::Cancelled),
            (Verdict::Cancel("the worker's word".into()), State::Cancelled),
            (retry(0), State::Cancelled),
            (retry(500), State::Cancelled),
            (give_back(0), State::Cancelled),
            (unspoken(500), State::Cancelled),
        ] {
            let id = pool.submit(TaskOptions::default()).await;
            let mut worker = pool.join("w1").await;
            worker.call = 100 * id.number();
            let held = worker.take().await;
            pool.call(&crate::store::task::cancellation(id, "the caller's word")).await;
            assert_eq!(worker.finish(&held, &verdict).await, ["ok", state.word()], "{verdict:?}");
            let record = pool.record(id).await;
            let wanted = (state == State::Cancelled).then_some("the caller's word");
            assert_eq!((record.state, record.reason.as_deref()), (state, wanted));
            assert_eq!(record.error, None, "{verdict:?}");
            assert!(record.cancel, "it says that the flag was up");
            let left: Vec<String> = pool.redis(redis::cmd("ZRANGE").arg(pool.key("due")).arg(&["0", "-1"])).await;
            assert_eq!(left, Vec::<String>::new());
        }
    })
    .await;
}

#[tokio::test]
async fn a_late_figure_replaces_the_runs_cost_and_moves_nothing_else() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let (mut first, mut second) = (pool.join("w1").await, pool.join("w2").await);
        let lost = first.take().await;
        let call = first.beat_call(&lost, 100);
        pool.call(&call).await;
        pool.age("default", &lost.entry, 60_000).await;
        pool.sweep("s").await;
        let held = second.take().await;
        let call = second.beat_call(&held, 1000);
        pool.call(&call).await;
        for (late, state) in [(100_000_000_000_007, "running"), (150, "running"), (150, "completed")] {
            if state == "completed" {
                second.finish(&held, &Verdict::Complete).await;
            }
            let before = pool.dump().await;
            let task = pool.hash(&format!("task:{id}")).await;
            let call = first.finish_call(&lost, late, &Verdict::Fail(failure()));
            assert_eq!(pool.words(&call).await, ["stale", state]);
            let mut after = pool.dump().await;
            let mut expected = task.clone();
            let own = if state == "running" { 1000 } else { 0 };
            expected.insert("cost".into(), (own + late).to_string());
            expected.insert("run:1:cost".into(), late.to_string());
            assert_eq!(pool.hash(&format!("task:{id}")).await, expected);
            let key = pool.key(&format!("task:{id}"));
            after.insert(key.clone(), before[&key].clone());
            assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
            assert!(before == after, "nothing but the books");
        }
        // A worker that never had that run books nothing.
        let call = second.finish_call(&lost, 5, &Verdict::Complete);
        assert_eq!(pool.refused(&call).await[0], "stale");
    })
    .await;
}

#[tokio::test]
async fn the_fence_lets_nobody_else_settle() {
    pool_test(async |pool| {
        pool.submit_all(vec![TaskOptions::default(); 2]).await;
        let (mut worker, mut other) = (pool.join("w1").await, pool.join("w2").await);
        let (held, second) = (worker.take().await, worker.take().await);
        let verdict = Verdict::Complete;
        for (what, wrong, word) in not_held(&held, &second) {
            assert_eq!(pool.refused(&worker.finish_call(&wrong, 0, &verdict)).await[0], word, "{what}");
        }
        let mut round = held.clone();
        round.round = "2".into();
        assert_eq!(pool.refused(&worker.finish_call(&round, 0, &verdict)).await, ["moved", "1"]);
        assert_eq!(pool.refused(&other.finish_call(&held, 9, &verdict)).await, ["stale", "running"]);
        assert_eq!(pool.refused(&Hand::new(pool, "w9").finish_call(&held, 9, &verdict)).await, ["unknown", "w9"]);
        worker.call = 40;
        worker.beat(&held).await;
        worker.call = 2;
        assert_eq!(pool.refused(&worker.finish_call(&held, 0, &verdict)).await, ["superseded", "41"]);
        worker.call = 50;
        pool.refuses_foreign_schema(&worker.finish_call(&held, 0, &verdict)).await;
        let lane = pool.store.keys.lane("default", "normal");
        let _: i64 = pool.redis(redis::cmd("XACK").arg(&lane).arg("workers").arg(&held.entry)).await;
        assert_eq!(pool.refused(&worker.finish_call(&held, 0, &verdict)).await, ["stale", "running"], "not pending");
        pool.sweep("s").await;
        let again = other.take().await;
        let first = other.finish(&again, &verdict).await;
        assert_eq!(first, ["ok", "completed"]);
        assert_eq!(pool.refused(&other.finish_call(&again, 0, &retry(0))).await, ["stale", "completed"]);
    })
    .await;
}
