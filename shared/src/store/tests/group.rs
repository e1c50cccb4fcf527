//! Chains and batches: who is set free, how the whole ends, what a cancel and the retention take.

use super::worker::failure;
use super::{TestPool, pool_test, words};
use crate::domain::attempt::Verdict;
use crate::domain::batch::{FanOut, Item};
use crate::domain::chain::{Chain, ChainStep, Node};
use crate::domain::ids::{GroupId, Id, TaskId};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::Spec;
use crate::store::assemble::changed;
use crate::store::{submission, task};

const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

fn chain(steps: u32) -> Chain {
    let steps = (1..=steps).map(|n| ChainStep::new(format!("s{n}"), format!("step {n}")));
    let options = TaskOptions { coordinator: Some("boss".into()), ..TaskOptions::default() };
    Chain { steps: steps.collect(), options, project_dir: None }
}

fn item(prompt: &str) -> Item {
    Item::Task(Spec::new(prompt, TaskOptions::default()).unwrap())
}

async fn submit(pool: &TestPool, nodes: Vec<Node>) -> Vec<Id> {
    let call = submission::submission_of(&nodes, "pool-1", 15_000).unwrap();
    task::submitted_all(&pool.call(&call).await).unwrap().into_iter().map(|(id, _)| id).collect()
}

fn group_of(id: Id) -> GroupId {
    if let Id::Group(id) = id { id } else { panic!("{id} is no group") }
}

async fn state(pool: &TestPool, id: Id) -> State {
    match id {
        Id::Task(id) => pool.state(id).await,
        Id::Group(id) => pool.store.group(id).await.unwrap().expect("there is such a group").state,
    }
}

async fn states(pool: &TestPool, ids: &[Id]) -> String {
    let mut text = Vec::new();
    for id in ids {
        text.push(format!("{id} {}", state(pool, *id).await));
    }
    text.join(", ")
}

async fn news(pool: &TestPool) -> Vec<String> {
    pool.store.unseen("boss", 100).await.unwrap().0.into_iter().map(|(id, _)| id.to_string()).collect()
}

#[tokio::test]
async fn a_chain_runs_step_by_step_and_is_news_as_a_whole() {
    pool_test(async |pool| {
        let ids = submit(pool, chain(3).nodes().unwrap()).await;
        assert_eq!(states(pool, &ids).await, "t1 pending, t2 waiting, t3 waiting, c1 running");
        let mut worker = pool.join("w1").await;
        let mut held = worker.take().await;
        assert_eq!(held.group, Some(group_of(ids[3])));
        for n in 2..=3 {
            let (_, next) = worker.step(&held, &Verdict::Complete).await;
            held = next.unwrap_or_else(|| panic!("step {n} is there"));
            assert_eq!((held.id, news(pool).await.len()), (TaskId::new(n), 0));
        }
        worker.finish(&held, &Verdict::Complete).await;
        assert_eq!(states(pool, &ids).await, "t1 completed, t2 completed, t3 completed, c1 completed");
        assert_eq!(news(pool).await, ["c1"]);
    })
    .await;
}

#[tokio::test]
async fn a_step_that_fails_ends_its_chain_and_what_follows_that() {
    pool_test(async |pool| {
        let ids = submit(pool, chain(3).nodes().unwrap()).await;
        let follower = pool.submit(TaskOptions { after: vec![ids[3]], ..TaskOptions::default() }).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let anew = Verdict::Anew {
            delay_ms: 0,
            failures: 1,
            recovering: true,
            failure: failure(),
            reason: "once more".into(),
        };
        worker.finish(&held, &anew).await;
        let again = worker.take().await;
        assert_eq!((again.id, again.history.failures, again.history.recovering), (held.id, 1, true));
        assert_eq!(again.last_error, "overloaded");
        worker.finish(&again, &Verdict::Fail(failure())).await;
        assert_eq!(states(pool, &ids).await, "t1 failed, t2 cancelled, t3 cancelled, c1 failed");
        assert_eq!(pool.state(follower).await, State::Cancelled);
        assert_eq!(pool.record(TaskId::new(2)).await.reason.unwrap(), "t1, which it was to follow, failed");
        // One that comes too late.
        let late = pool.submit(TaskOptions { after: vec![ids[3]], ..TaskOptions::default() }).await;
        assert_eq!(pool.state(late).await, State::Cancelled);
    })
    .await;
}

#[tokio::test]
async fn a_batch_is_over_with_its_last_member_and_what_collects_begins_then() {
    pool_test(async |pool| {
        let options = TaskOptions { coordinator: Some("boss".into()), ..TaskOptions::default() };
        let nodes = FanOut {
            items: vec![item("a"), Item::Chain(Chain { options: TaskOptions::default(), ..chain(2) }), item("b")],
            collect: Some(Spec::new("{outputs}", TaskOptions::default()).unwrap()),
            options,
        };
        let ids = submit(pool, nodes.nodes().unwrap()).await;
        assert_eq!(ids.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t1", "t2", "t3", "c1", "t4", "t5", "b1"]);
        let mut worker = pool.join("w1").await;
        let (a, first) = (worker.take().await, worker.take().await);
        let b = worker.take().await;
        worker.finish(&a, &Verdict::Fail(failure())).await;
        worker.finish(&b, &Verdict::Complete).await;
        assert_eq!((worker.claim().await, state(pool, ids[6]).await), (None, State::Running));
        let (_, second) = worker.step(&first, &Verdict::Complete).await;
        let (_, collecting) = worker.step(&second.unwrap(), &Verdict::Complete).await;
        let collecting = collecting.expect("all items are over");
        assert_eq!((collecting.id, collecting.spec.collects), (TaskId::new(5), true));
        assert_eq!((state(pool, ids[6]).await, news(pool).await.len()), (State::Running, 0));
        worker.finish(&collecting, &Verdict::Complete).await;
        assert_eq!((state(pool, ids[6]).await, news(pool).await), (State::Failed, vec!["b1".to_owned()]));
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_chain_keeps_what_is_done_and_asks_for_what_runs() {
    pool_test(async |pool| {
        let ids = submit(pool, chain(4).nodes().unwrap()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let (_, held) = worker.step(&held, &Verdict::Complete).await;
        let held = held.unwrap();
        let cancel = task::cancellation_of(ids[4], "enough");
        assert_eq!(pool.words(&cancel).await, ["ok", "running"]);
        assert_eq!(states(pool, &ids).await, "t1 completed, t2 running, t3 cancelled, t4 cancelled, c1 running");
        assert_eq!(pool.record(TaskId::new(4)).await.reason.as_deref(), Some("enough"));
        assert_eq!(worker.beat(&held).await[..2], ["ok", "1"]);
        worker.finish(&held, &Verdict::Cancel("enough".into())).await;
        assert_eq!(state(pool, ids[4]).await, State::Cancelled);
        assert_eq!(pool.words(&cancel).await, ["ok", "cancelled"], "as it was found");
    })
    .await;
}

#[tokio::test]
async fn a_large_batch_is_cancelled_bit_by_bit() {
    pool_test(async |pool| {
        let inner = |_| Item::Chain(Chain { options: TaskOptions::default(), ..chain(2) });
        let items = (0..400).map(|n| item(&n.to_string())).chain((0..5).map(inner)).collect();
        let ids = submit(pool, FanOut { items, ..FanOut::default() }.nodes().unwrap()).await;
        let batch = *ids.last().unwrap();
        assert_eq!(pool.words(&task::cancellation_of(batch, "x")).await, ["ok", "running"]);
        for _ in 0..3 {
            pool.sweep("s").await;
        }
        assert_eq!(state(pool, batch).await, State::Cancelled);
        let open: u64 = pool.store.count(&[State::Pending, State::Waiting, State::Running]).await.unwrap().iter().sum();
        assert_eq!(open, 0);
    })
    .await;
}

#[tokio::test]
async fn chains_of_a_batch_stop_with_it_and_what_was_asked_to_stop_holds_up_no_others() {
    pool_test(async |pool| {
        let inner = |_| Item::Chain(Chain { options: TaskOptions::default(), ..chain(2) });
        let ids =
            submit(pool, FanOut { items: (0..30).map(inner).collect(), ..FanOut::default() }.nodes().unwrap()).await;
        pool.words(&task::cancellation_of(*ids.last().unwrap(), "x")).await;
        assert_eq!(pool.store.count(&[State::Pending, State::Waiting]).await.unwrap(), [0, 0], "none begins meanwhile");
        // With a bound that is easily reached.
        let (_, text) = changed::files().find(|(file, _)| *file == "parts/stop").unwrap();
        changed::change("parts/stop", &text.replace("STOPPED_AT_ONCE = 300", "STOPPED_AT_ONCE = 3"));
        let items = (0..8).map(|n| item(&n.to_string())).collect();
        let ids = submit(pool, FanOut { items, ..FanOut::default() }.nodes().unwrap()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        for n in 2..6 {
            pool.join(&format!("w{n}")).await.take().await;
        }
        pool.words(&task::cancellation_of(*ids.last().unwrap(), "x")).await;
        assert_eq!(worker.beat(&held).await[..2], ["ok", "0"], "not yet");
        for _ in 0..3 {
            pool.sweep("s").await;
        }
        assert_eq!(worker.beat(&held).await[..2], ["ok", "1"], "each hears of it");
        changed::restore();
    })
    .await;
}

#[tokio::test]
async fn nothing_is_gathered_where_every_item_was_cancelled() {
    pool_test(async |pool| {
        let failed = submit(pool, vec![Node::task(Spec::new("x", TaskOptions::default()).unwrap())]).await[0];
        pool.words(&task::cancellation_of(failed, "x")).await;
        let gather = || Some(Spec::new("gather {outputs}", TaskOptions::default()).unwrap());
        let batch = |after: Vec<Id>| {
            let options = TaskOptions { after, ..TaskOptions::default() };
            FanOut { items: vec![item("a"), item("b")], collect: gather(), options }.nodes().unwrap()
        };
        // What they were to follow has failed already.
        let ids = submit(pool, batch(vec![failed])).await;
        assert_eq!(states(pool, &ids).await, "t2 cancelled, t3 cancelled, t4 cancelled, b1 cancelled");
        let record = pool.record(TaskId::new(4)).await;
        assert_eq!(record.reason.as_deref(), Some("there is nothing to gather: every item was cancelled"));
        // Or each was stopped by itself.
        let ids = submit(pool, batch(vec![])).await;
        for id in &ids[..2] {
            pool.words(&task::cancellation_of(*id, "x")).await;
        }
        assert_eq!(states(pool, &ids).await, "t5 cancelled, t6 cancelled, t7 cancelled, b2 cancelled");
        // One that failed has something to say.
        let ids = submit(pool, batch(vec![])).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        worker.finish(&held, &Verdict::Fail(failure())).await;
        pool.words(&task::cancellation_of(ids[1], "x")).await;
        assert_eq!(states(pool, &ids).await, "t8 failed, t9 cancelled, t10 pending, b3 running");
    })
    .await;
}

#[tokio::test]
async fn a_submission_that_is_repeated_makes_no_second_chain() {
    pool_test(async |pool| {
        let options = TaskOptions { once: Some("k".into()), ..TaskOptions::default() };
        let keyed = || Chain { options: options.clone(), ..chain(2) }.nodes().unwrap();
        let first = submit(pool, keyed()).await;
        let call = submission::submission_of(&keyed(), "pool-1", 15_000).unwrap();
        let again = task::submitted_all(&pool.call(&call).await).unwrap();
        assert_eq!(again, first.iter().map(|id| (*id, false)).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_key_that_has_made_a_whole_makes_nothing_of_another_one() {
    pool_test(async |pool| {
        let options = TaskOptions { once: Some("k".into()), ..TaskOptions::default() };
        let keyed = |steps: u32| Item::Chain(Chain { options: TaskOptions::default(), ..chain(steps) });
        let batch = |items| FanOut { items, options: options.clone(), ..FanOut::default() }.nodes().unwrap();
        submit(pool, batch(vec![item("a"), keyed(2)])).await;
        for nodes in [
            batch(vec![item("a"), keyed(4), item("b")]),
            Chain { options: options.clone(), ..chain(5) }.nodes().unwrap(),
        ] {
            let call = submission::submission_of(&nodes, "pool-1", 15_000).unwrap();
            let made = task::submitted_all(&pool.call(&call).await).unwrap();
            assert_eq!(made.last().map(|(id, fresh)| (id.to_string(), *fresh)), Some(("b1".into(), false)));
            assert!(made.iter().all(|(_, fresh)| !fresh), "{made:?}");
        }
        let open: u64 = pool.store.count(&[State::Pending, State::Waiting]).await.unwrap().iter().sum();
        assert_eq!(open, 3);
    })
    .await;
}

#[tokio::test]
async fn a_chain_goes_with_its_steps_but_for_what_a_later_one_goes_on_with() {
    pool_test(async |pool| {
        let ids = submit(pool, chain(2).nodes().unwrap()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let (_, held) = worker.step(&held, &Verdict::Complete).await;
        worker.finish(&held.unwrap(), &Verdict::Fail(failure())).await;
        pool.forward(WEEK_MS / 2).await;
        let again = submit(pool, chain(2).nodes_from(&[TaskId::new(1)], group_of(ids[2])).unwrap()).await;
        assert_eq!(again.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t3", "c2"]);
        assert_eq!(states(pool, &again).await, "t3 pending, c2 running");
        pool.forward(WEEK_MS / 2 + 1000).await;
        pool.sweep("s").await;
        // Its first step is the other's now.
        assert_eq!(pool.record(TaskId::new(1)).await.group, Some(group_of(again[1])));
        assert!(pool.store.group(group_of(ids[2])).await.unwrap().is_none());
        assert!(!pool.exists("task:t2").await);
        let mut worker = pool.join("w2").await;
        let held = worker.take().await;
        worker.finish(&held, &Verdict::Complete).await;
        assert_eq!(state(pool, again[1]).await, State::Completed);
        pool.forward(WEEK_MS + 1000).await;
        pool.sweep("s").await;
        let left = ["task:t1", "task:t3", "chain:c2", "unseen:boss", "index:all:chains", "once:x"];
        for key in left {
            assert!(!pool.exists(key).await, "{key}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_batch_goes_bit_by_bit() {
    pool_test(async |pool| {
        let items = (0..250).map(|n| item(&n.to_string())).collect();
        let ids = submit(pool, FanOut { items, ..FanOut::default() }.nodes().unwrap()).await;
        pool.words(&task::cancellation_of(*ids.last().unwrap(), "x")).await;
        pool.forward(WEEK_MS + 1000).await;
        for _ in 0..3 {
            pool.sweep("s").await;
        }
        assert_eq!(pool.store.count(&[State::Cancelled]).await.unwrap(), [0]);
        assert!(!pool.exists("index:all:batches").await);
    })
    .await;
}

#[tokio::test]
async fn what_names_nothing_is_refused() {
    pool_test(async |pool| {
        let after = TaskOptions { after: vec!["c9".parse().unwrap()], ..TaskOptions::default() };
        let nodes = Chain { options: after, ..chain(2) }.nodes().unwrap();
        let call = submission::submission_of(&nodes, "pool-1", 15_000).unwrap();
        assert_eq!(pool.refused(&call).await, ["unknown", "c9"]);
        let cancel = task::cancellation_of("b9".parse().unwrap(), "x");
        assert_eq!(words(&pool.store.call(&cancel).await.unwrap()), ["unknown", "b9"]);
    })
    .await;
}
