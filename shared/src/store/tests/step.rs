//! step: a finish and a claim in one trip.

use super::beat::not_held;
use super::pool_test;
use super::worker::{Hand, failure, give_back, retry};
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;

#[tokio::test]
async fn a_step_settles_one_run_and_takes_the_next() {
    pool_test(async |pool| {
        let made = pool.submit_all(vec![TaskOptions::default(); 3]).await;
        let mut worker = pool.join("w1").await;
        let first = worker.take().await;
        let (told, next) = worker.step(&first, &Verdict::Complete).await;
        let second = next.expect("there are more");
        assert_eq!((told, second.id, second.run), (vec!["ok".into(), "completed".into()], made[1].0, 1));
        assert_eq!(pool.field("worker:w1", "task").await, Some(made[1].0.to_string()));
        let (told, next) = worker.step(&second, &Verdict::Fail(failure())).await;
        let third = next.expect("there is one more");
        assert_eq!((told[1].as_str(), third.id), ("failed", made[2].0));
        let (told, next) = worker.step(&third, &Verdict::Complete).await;
        assert_eq!((told[1].as_str(), next), ("completed", None));
        assert_eq!(pool.field("worker:w1", "task").await.as_deref(), Some(""));
        assert_eq!(pool.field("worker:w1", "done").await.as_deref(), Some("3"));
        assert_eq!(pool.last_event(made[0].0).await, "running complete completed 1");
    })
    .await;
}

#[tokio::test]
async fn a_step_may_take_its_own_task_again() {
    pool_test(async |pool| {
        pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let first = worker.take().await;
        let (told, next) = worker.step(&first, &retry(0)).await;
        let second = next.expect("the task is back");
        assert_eq!((told[1].as_str(), second.run, second.history.attempt), ("pending", 2, 2));
        let (_, next) = worker.step(&second, &give_back(0)).await;
        let third = next.expect("the task is back");
        assert_eq!((third.run, third.history.attempt), (3, 2));
        assert_eq!(worker.step(&third, &retry(900)).await, (vec!["ok".into(), "delayed".into()], None));
    })
    .await;
}

#[tokio::test]
async fn a_step_with_the_flag_up_is_cancelled_and_goes_on() {
    pool_test(async |pool| {
        let made = pool.submit_all(vec![TaskOptions::default(); 2]).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        pool.call(&crate::store::task::cancellation(held.id, "enough")).await;
        let (told, next) = worker.step(&held, &retry(0)).await;
        assert_eq!((told[1].as_str(), next.unwrap().id), ("cancelled", made[1].0));
    })
    .await;
}

#[tokio::test]
async fn who_holds_nothing_settles_nothing_and_still_gets_the_next() {
    pool_test(async |pool| {
        for n in 0..5 {
            let made = pool.submit_all(vec![TaskOptions::default(); 3]).await;
            let (mut worker, mut other) = (pool.join("w1").await, pool.join("w2").await);
            (worker.call, other.call) = (100 * (n + 1), 100 * (n + 1));
            let (held, second) = (worker.take().await, worker.take().await);
            let mut cases = not_held(&held, &second);
            let mut round = held.clone();
            round.round = "2".into();
            cases.push(("another round", round, "moved"));
            cases.push(("another worker", held.clone(), "stale"));
            let (what, wrong, word) = cases.swap_remove(n as usize);
            let caller = if what == "another worker" { &mut other } else { &mut worker };
            let (told, next) = caller.step(&wrong, &Verdict::Complete).await;
            assert_eq!(told[0], word, "{what}");
            let next = next.expect("there is another");
            assert_eq!((next.id, pool.state(held.id).await), (made[2].0, State::Running), "{what}");
            caller.finish(&next, &Verdict::Complete).await;
            worker.finish(&held, &Verdict::Complete).await;
            worker.finish(&second, &Verdict::Complete).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stale_step_keeps_the_books() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions { max_attempts: Some(1), ..TaskOptions::default() }).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        pool.age("default", &held.entry, 60_000).await;
        pool.sweep("s").await;
        let call = worker.step_call(&held, 321, &Verdict::Complete);
        assert_eq!(pool.words(&call).await[..3], ["stale", "failed", "idle"]);
        assert_eq!(pool.record(id).await.cost_microusd, 321);
        assert_eq!(pool.state(id).await, State::Failed);
    })
    .await;
}

#[tokio::test]
async fn a_step_made_again_gives_its_run_though_the_task_has_moved_on() {
    pool_test(async |pool| {
        let made = pool.submit_all(vec![TaskOptions::default(); 2]).await;
        let (mut worker, mut other) = (pool.join("w1").await, pool.join("w2").await);
        let first = worker.take().await;
        let call = worker.step_call(&first, 5, &Verdict::Complete);
        let told = pool.words(&call).await;
        let entry = told[9].clone();
        for expected in ["running", "completed"] {
            if expected == "running" {
                pool.age("default", &entry, 60_000).await;
                pool.sweep("s").await;
                other.take().await;
            } else {
                let held = pool.record(made[1].0).await;
                let held = crate::store::attempt::Held { entry: held.entry.unwrap(), run: held.run, ..first.clone() };
                let held = crate::store::attempt::Held { id: made[1].0, ..held };
                other.finish(&held, &Verdict::Complete).await;
            }
            let again = pool.refused(&call).await;
            assert_eq!(again[..3], ["ok", "completed", "ok"]);
            assert_eq!(again[7..10], [made[1].0.to_string(), "1".into(), entry.clone()]);
            assert_eq!(pool.state(made[1].0).await.word(), expected);
        }
    })
    .await;
}

#[tokio::test]
async fn a_step_is_refused_by_name_number_and_schema() {
    pool_test(async |pool| {
        pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let stranger = Hand::new(pool, "w9").step_call(&held, 9, &Verdict::Complete);
        assert_eq!(pool.refused(&stranger).await, ["unknown", "w9"]);
        worker.call = 40;
        worker.beat(&held).await;
        worker.call = 2;
        assert_eq!(pool.refused(&worker.step_call(&held, 9, &Verdict::Complete)).await, ["superseded", "41"]);
        worker.call = 50;
        pool.refuses_foreign_schema(&worker.step_call(&held, 9, &Verdict::Complete)).await;
    })
    .await;
}
