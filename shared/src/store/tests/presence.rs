//! presence: join, report, leave.

use super::pool_test;
use super::worker::Hand;
use crate::domain::attempt::Class;
use crate::domain::fleet::Unfit;
use crate::store::fleet::{self, Presence};

#[tokio::test]
async fn the_first_to_come_names_the_pool_and_its_lease() {
    pool_test(async |pool| {
        let first = fleet::presence("w1", "join", "pool-a", 9_000, &Presence::default());
        assert_eq!(pool.words(&first).await, ["ok", "pool-a", "9000", "0"]);
        let second = fleet::presence("w2", "join", "pool-b", 15_000, &Presence::default());
        assert_eq!(pool.words(&second).await, ["ok", "pool-a", "9000", "0"]);
        assert_eq!(pool.field("meta", "schema").await.as_deref(), Some("1"));
        assert_eq!(pool.field("worker:w1", "call").await.as_deref(), Some("0"));
    })
    .await;
}

#[tokio::test]
async fn a_report_says_how_it_is() {
    pool_test(async |pool| {
        let worker = pool.join("w1").await;
        let unfit = Unfit {
            class: Class::Limit,
            message: "five-hour limit".into(),
            hint: Some("wait".into()),
            until_ms: Some(4_102_444_800_000),
        };
        let presence = Presence { unfit: Some(unfit.clone()), draining: true, ..Presence::default() };
        let told = pool.words(&fleet::presence(&worker.id, "report", "x", 1, &presence)).await;
        assert_eq!(told[3], "1", "one that cannot work can still sweep");
        let shown = pool.store.workers().await.unwrap().remove(0);
        assert_eq!((shown.unfit, shown.draining, shown.id.as_str()), (Some(unfit), true, "w1"));
        pool.call(&worker.presence("report")).await;
        assert_eq!(pool.store.workers().await.unwrap()[0].unfit, None);
        let stranger = Hand::new(pool, "w9").presence("report");
        assert_eq!(pool.refused(&stranger).await, ["unknown", "w9"]);
        pool.refuses_foreign_schema(&worker.presence("join")).await;
    })
    .await;
}

#[tokio::test]
async fn who_leaves_is_remembered_for_an_hour() {
    pool_test(async |pool| {
        let worker = pool.join("w1").await;
        pool.call(&worker.presence("leave")).await;
        assert_eq!(pool.store.workers().await.unwrap().len(), 0);
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("worker:w1"))).await;
        assert!((3_500_000..=3_600_000).contains(&left), "{left}");
        assert_eq!(pool.words(&Hand::new(pool, "w9").presence("leave")).await[0], "ok", "a stranger may leave");
        assert!(!pool.exists("worker:w9").await);
    })
    .await;
}

#[tokio::test]
async fn joining_again_keeps_the_numbers() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        worker.claim().await;
        worker.claim().await;
        pool.call(&worker.presence("join")).await;
        assert_eq!(pool.field("worker:w1", "call").await.as_deref(), Some("2"));
    })
    .await;
}
