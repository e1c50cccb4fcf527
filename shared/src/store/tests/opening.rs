//! A submission in parts: nothing of it begins before the last one, and what never becomes whole goes again.

use super::{TestPool, pool_test, words};
use crate::domain::batch::{FanOut, Item};
use crate::domain::chain::{Chain, ChainStep, Node};
use crate::domain::ids::Id;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::Spec;
use crate::store::script::Reply;
use crate::store::submission::Submission;
use crate::store::task;

const LARGE: usize = 600 * 1024;
const MINUTES_MS: i64 = 60_000;

fn large() -> Vec<Node> {
    let text = "x".repeat(LARGE);
    let item = |n: usize| Item::Task(Spec::new(format!("{n} {text}"), TaskOptions::default()).unwrap());
    let steps = (1..=7).map(|n| ChainStep::new(format!("s{n}"), format!("{n} {text}"))).collect();
    let chain = Item::Chain(Chain { steps, ..Chain::default() });
    let options = TaskOptions { coordinator: Some("boss".into()), ..TaskOptions::default() };
    FanOut { items: vec![item(1), chain, item(2), item(3)], collect: None, options }.nodes().unwrap()
}

/// The parts one by one; gives the ids after so many of them.
async fn submit(pool: &TestPool, submission: &Submission, parts: usize) -> (String, Vec<Option<Id>>) {
    let opening = submission.opening("pool-1", 15_000, true);
    let (gate, mut ids) = submission.opened(&pool.call(&opening).await).unwrap();
    for part in submission.parts().into_iter().take(parts) {
        let call = submission.part(part.clone(), &ids, &gate, true);
        let made = task::submitted_part(&pool.call(&call).await, &gate, part.len()).unwrap();
        for (place, (id, fresh)) in part.zip(made) {
            ids[place] = Some(id);
            assert!(fresh, "{id}");
        }
    }
    (gate, ids)
}

#[tokio::test]
async fn nothing_begins_before_the_last_part_and_then_all_of_it_does() {
    pool_test(async |pool| {
        let submission = Submission::of(&large()).unwrap();
        assert!(!submission.is_one_call() && submission.call("p", 1, true).is_err());
        let count = submission.parts().len();
        assert!(count >= 3, "{count}");
        let mut worker = pool.join("w1").await;
        let (gate, _) = submit(pool, &submission, count - 1).await;
        assert_eq!(worker.claim().await, None);
        pool.examine().await;
        // The rest, from where it stopped.
        let (again, ids) = {
            let opening = submission.opening("pool-1", 15_000, true);
            let (again, mut ids) = submission.opened(&pool.store.call(&opening).await.unwrap()).unwrap();
            for part in submission.parts() {
                let call = submission.part(part.clone(), &ids, &gate, true);
                let made = task::submitted_part(&pool.call(&call).await, &gate, part.len()).unwrap();
                for (place, (id, _)) in part.zip(made) {
                    ids[place] = Some(id);
                }
            }
            (again, ids)
        };
        assert_eq!(again, gate);
        let named: Vec<String> = ids.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(named.join(" "), "t1 t2 t3 t4 t5 t6 t7 t8 c1 t9 t10 b1");
        let first: Vec<String> =
            [worker.take().await, worker.take().await].iter().map(|held| held.id.to_string()).collect();
        assert_eq!(first, ["t1", "t2"]);
        assert!(!pool.exists(&format!("opening:{gate}")).await);
        let members = pool.store.group("b1".parse().unwrap()).await.unwrap().unwrap().members;
        assert_eq!(members.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t1", "c1", "t9", "t10"]);
    })
    .await;
}

#[tokio::test]
async fn what_was_given_up_leaves_its_key_free_and_a_name_that_nobody_knows_is_told() {
    pool_test(async |pool| {
        let mut nodes = large();
        if let Some(Node::Group { options, .. }) = nodes.last_mut() {
            options.once = Some("nightly".into());
        }
        let submission = Submission::of(&nodes).unwrap();
        let (gate, ids) = submit(pool, &submission, submission.parts().len() - 1).await;
        // What a caller is told of a part that names something unknown is not that the part came too late.
        let unknown = Reply::of("submit", &["unknown", "t9999"]);
        let told = task::submitted_part(&unknown, &gate, 1).unwrap_err();
        assert!(told.message().contains("no task t9999"), "{told}");
        let late = Reply::of("submit", &["unknown", &gate]);
        assert!(task::submitted_part(&late, &gate, 1).unwrap_err().message().contains("took so long"));
        assert_eq!(pool.words(&task::abandonment(&gate)).await, ["ok", "cancelled"]);
        let first = pool.record("t1".parse().unwrap()).await;
        assert_eq!(
            (first.state, first.reason.as_deref()),
            (State::Cancelled, Some("the rest of its submission was refused"))
        );
        let left: Vec<String> = pool.dump().await.into_keys().filter(|key| key.contains(":once:nightly")).collect();
        assert_eq!(left, Vec::<String>::new());
        let (_, again) = submit(pool, &submission, submission.parts().len()).await;
        assert!(ids.iter().flatten().all(|id| !again.contains(&Some(*id))), "{ids:?} {again:?}");
        let whole = pool.store.made_by("nightly").await.unwrap();
        assert_eq!(whole, *again.last().unwrap());
        // The old ones go in their time, and take nothing of the new ones with them.
        pool.forward(8 * 24 * 60 * MINUTES_MS).await;
        pool.sweep("s").await;
        assert_eq!(pool.store.count(&[State::Cancelled]).await.unwrap(), [0]);
        assert_eq!(pool.store.made_by("nightly").await.unwrap(), whole);
    })
    .await;
}

#[tokio::test]
async fn what_never_becomes_whole_is_cancelled_and_leaves_nothing_behind() {
    pool_test(async |pool| {
        let submission = Submission::of(&large()).unwrap();
        let (gate, ids) = submit(pool, &submission, 2).await;
        pool.forward(9 * MINUTES_MS).await;
        pool.sweep("s").await;
        assert_eq!(pool.state("t1".parse().unwrap()).await, State::Waiting);
        pool.forward(2 * MINUTES_MS).await;
        pool.sweep("s").await;
        let record = pool.record("t3".parse().unwrap()).await;
        assert_eq!((record.state, record.run), (State::Cancelled, 0));
        let first = pool.record("t1".parse().unwrap()).await;
        assert_eq!(first.reason.as_deref(), Some("the rest of its submission never came"));
        // Its last part comes too late.
        let parts = submission.parts();
        let call = submission.part(parts[2].clone(), &ids, &gate, true);
        assert_eq!(words(&pool.store.call(&call).await.unwrap())[0], "unknown");
        assert!(!pool.exists(&format!("opening:{gate}")).await);
        pool.forward(8 * 24 * 60 * MINUTES_MS).await;
        pool.sweep("s").await;
        assert_eq!(pool.store.count(&[State::Cancelled]).await.unwrap(), [0]);
        let left: Vec<String> = pool.dump().await.into_keys().filter(|key| key.contains(":once:")).collect();
        assert_eq!(left, Vec::<String>::new());
    })
    .await;
}
