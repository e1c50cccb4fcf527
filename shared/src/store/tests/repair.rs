//! repair: what an operator's hand takes out of a lane comes back.

use super::{TestPool, pool_test};
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;

/// Ways in which a lane loses what stands in it: the command, whether a waiting task loses its place.
fn damages(pool: &TestPool) -> Vec<(&'static str, redis::Cmd, bool)> {
    let lane = pool.store.keys.lane("default", "normal");
    vec![
        ("consumer", redis::cmd("XGROUP").arg("DELCONSUMER").arg(&lane).arg(&["workers", "w"]).to_owned(), false),
        ("trim", redis::cmd("XTRIM").arg(&lane).arg(&["MAXLEN", "0"]).to_owned(), true),
        ("delete", redis::cmd("DEL").arg(&lane).to_owned(), true),
        ("group", redis::cmd("XGROUP").arg("DESTROY").arg(&lane).arg("workers").to_owned(), true),
        ("read", redis::cmd("XREADGROUP").arg(&["GROUP", "workers", "x", "STREAMS", &lane, ">"]).to_owned(), true),
    ]
}

#[tokio::test]
async fn what_loses_its_place_gets_a_new_one() {
    pool_test(async |pool| {
        for n in 0..5 {
            let (what, damage, moves) = damages(pool).swap_remove(n);
            let mut worker = pool.join(&format!("w{n}")).await;
            let running = pool.submit(TaskOptions::default()).await;
            worker.take().await;
            let waiting = pool.submit(TaskOptions::default()).await;
            pool.sweep("s").await;
            pool.take_token("default").await;
            let entry = pool.record(waiting).await.entry.unwrap();
            let _: redis::Value = pool.redis(&damage).await;
            assert!(pool.sweep("s").await.repaired > 0, "{what}");
            assert_eq!(pool.sweep_in_grace("s").await.repaired, 0, "{what}: all is in order");
            let record = pool.record(waiting).await;
            assert_eq!(record.state, State::Pending, "{what}");
            if moves && what != "group" {
                assert_ne!(record.entry.as_deref(), Some(entry.as_str()), "{what}");
                assert_eq!(pool.last_event(waiting).await, "pending repair pending 0", "{what}");
            }
            // Reading by hand leaves the running one where it is.
            let expected = if what == "read" { "pending claim running 1" } else { "running lost pending 1" };
            assert_eq!(pool.last_event(running).await, expected, "{what}");
            assert_eq!(pool.tokens("default").await, 1, "{what}: somebody is woken");
            let mut other = pool.join(&format!("o{n}")).await;
            while let Some(held) = other.claim().await {
                other.finish(&held, &Verdict::Complete).await;
            }
            let wanted = if what == "read" { State::Running } else { State::Completed };
            assert_eq!((pool.state(waiting).await, pool.state(running).await), (State::Completed, wanted), "{what}");
            pool.examine().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_claim_goes_on_where_the_group_is_gone() {
    pool_test(async |pool| {
        let lane = pool.store.keys.lane("default", "normal");
        let mut worker = pool.join("w1").await;
        let first = pool.submit(TaskOptions::default()).await;
        let _: i64 = pool.redis(redis::cmd("XGROUP").arg("DESTROY").arg(&lane).arg("workers")).await;
        assert!(worker.claim().await.is_none(), "idle, not broken");
        // The next submit makes the group anew, and what stood there can be delivered again.
        pool.submit(TaskOptions::default()).await;
        assert_eq!(worker.take().await.id, first);
    })
    .await;
}

#[tokio::test]
async fn repair_looks_at_fifty_of_a_state_and_goes_round() {
    pool_test(async |pool| {
        pool.submit_all(vec![TaskOptions::default(); 120]).await;
        let mut worker = pool.join("w1").await;
        for _ in 0..10 {
            pool.store.call(&worker.claim_call("")).await.unwrap();
        }
        pool.sweep("s").await;
        pool.sweep("s").await;
        pool.set_field("meta", "repaired:pending", "0").await;
        pool.set_field("meta", "repaired:running", "0").await;
        let lane = pool.store.keys.lane("default", "normal");
        let _: i64 = pool.redis(redis::cmd("DEL").arg(&lane)).await;
        let mut counts = Vec::new();
        for _ in 0..5 {
            counts.push(pool.sweep_in_grace("s").await.repaired);
        }
        assert_eq!(counts, [60, 50, 10, 0, 0], "the ten that ran, fifty that wait; then the rest; then none");
        assert_eq!(pool.store.count(&[State::Pending]).await.unwrap(), [120]);
    })
    .await;
}
