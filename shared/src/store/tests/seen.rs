//! seen: news is kept until it was told, once, and to its own coordinator alone.

use super::pool_test;
use super::worker::{failure, give_back};
use crate::domain::attempt::Verdict;
use crate::domain::ids::{Id, TaskId};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::listing::Filter;
use crate::store::news::{confirm, offer};
use crate::store::task::cancellation;

fn of(coordinator: &str) -> TaskOptions {
    TaskOptions { coordinator: Some(coordinator.into()), ..TaskOptions::default() }
}

#[tokio::test]
async fn what_ends_is_news_for_its_coordinator_in_the_order_of_the_ends() {
    pool_test(async |pool| {
        let made: Vec<TaskId> =
            pool.submit_all(["a", "b", "a", "a"].map(of).to_vec()).await.into_iter().map(|(id, _)| id).collect();
        let nobody = pool.submit(TaskOptions::default()).await;
        assert_eq!(pool.store.unseen("a", 10).await.unwrap(), (vec![], 0));
        pool.call(&cancellation(made[3], "x")).await;
        let mut worker = pool.join("w1").await;
        let first = worker.take().await;
        worker.finish(&first, &give_back(0)).await;
        let others = [worker.take().await, worker.take().await, worker.take().await];
        worker.finish(&others[0], &Verdict::Fail(failure())).await;
        worker.finish(&others[1], &Verdict::Complete).await;
        assert_eq!(others.each_ref().map(|held| held.id), [made[1], made[2], nobody]);
        worker.finish(&others[2], &Verdict::Complete).await;
        let first = worker.take().await;
        worker.finish(&first, &Verdict::Complete).await;
        // In the order in which they ended; handing back is none.
        assert_eq!(
            pool.store.unseen("a", 10).await.unwrap(),
            (vec![(made[3].into(), 1), (made[2].into(), 3), (made[0].into(), 4)], 3)
        );
        assert_eq!(pool.store.unseen("a", 1).await.unwrap(), (vec![(made[3].into(), 1)], 3));
        assert_eq!(pool.store.unseen("b", 10).await.unwrap(), (vec![(made[1].into(), 2)], 1));
        assert_eq!(pool.record(nobody).await.news, None);
    })
    .await;
}

#[tokio::test]
async fn news_is_offered_until_it_is_confirmed() {
    pool_test(async |pool| {
        let task = pool.submit(of("a")).await;
        let id = Id::Task(task);
        pool.call(&cancellation(task, "x")).await;
        assert_eq!(pool.words(&offer("a", &[(id, 1)])).await, ["ok", "1"]);
        assert_eq!(pool.record(task).await.offered, Some(1));
        assert_eq!(pool.store.unseen("a", 10).await.unwrap().0, [(id, 1)], "an offer may not have arrived");
        // Another's, an older one, an unknown one: nothing of them is confirmed.
        for call in [confirm("b", &[(id, 1)]), confirm("a", &[(id, 7)]), confirm("a", &[(TaskId::new(99).into(), 1)])] {
            assert_eq!(pool.refused(&call).await, ["ok", "0"]);
        }
        assert_eq!(pool.words(&confirm("a", &[(id, 1)])).await, ["ok", "1"]);
        assert_eq!(pool.store.unseen("a", 10).await.unwrap(), (vec![], 0));
        assert_eq!(pool.store.told("a", 5).await.unwrap(), [(id, 1)]);
        assert_eq!(pool.refused(&confirm("a", &[(id, 1)])).await, ["ok", "0"], "once");
        pool.refuses_foreign_schema(&confirm("a", &[(id, 1)])).await;
    })
    .await;
}

#[tokio::test]
async fn the_last_that_were_told_are_kept_for_a_replay() {
    pool_test(async |pool| {
        let most = crate::store::keys::TOLD_KEPT as usize;
        let ids: Vec<TaskId> = pool.submit_all(vec![of("a"); most]).await.into_iter().map(|(id, _)| id).collect();
        let more = pool.submit(of("a")).await;
        for id in ids.iter().chain([&more]) {
            pool.store.call(&cancellation(*id, "x")).await.unwrap();
        }
        let (marks, total) = pool.store.unseen("a", 5000).await.unwrap();
        assert_eq!((marks.len(), total), (most + 1, most as u64 + 1));
        pool.call(&confirm("a", &marks)).await;
        assert_eq!(pool.store.told("a", 2).await.unwrap(), marks[most - 1..]);
        assert_eq!(pool.store.told("a", 5000).await.unwrap(), marks[1..], "the oldest is forgotten");
    })
    .await;
}

#[tokio::test]
async fn the_unfinished_tasks_of_a_coordinator_are_found_without_the_finished_ones() {
    pool_test(async |pool| {
        let made: Vec<TaskId> =
            pool.submit_all(["a", "b", "a", "a", "b"].map(of).to_vec()).await.into_iter().map(|(id, _)| id).collect();
        let open: Vec<State> = State::ALL.iter().copied().filter(|state| state.is_unfinished()).collect();
        let filter =
            |before| Filter { states: open.clone(), coordinator: Some("a".into()), before, ..Filter::default() };
        pool.call(&cancellation(made[2], "x")).await;
        assert_eq!(pool.store.listed(&filter(None), 10).await.unwrap(), [made[3], made[0]]);
        assert_eq!(pool.store.listed(&filter(None), 1).await.unwrap(), [made[3]]);
        assert_eq!(pool.store.listed(&filter(Some(made[3])), 10).await.unwrap(), [made[0]]);
        assert!(pool.store.has_any("a", &open).await.unwrap());
        for id in [made[0], made[3]] {
            pool.call(&cancellation(id, "x")).await;
        }
        assert!(!pool.store.has_any("a", &open).await.unwrap() && pool.store.has_any("b", &open).await.unwrap());
        assert_eq!(pool.store.listed(&filter(None), 10).await.unwrap(), []);
    })
    .await;
}
