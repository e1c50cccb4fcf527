//! check and lane: what they read, and that they write nothing.

use super::pool_test;
use crate::domain::attempt::Verdict;
use crate::domain::ids::TaskId;
use crate::domain::options::TaskOptions;
use crate::store::script::Call;

#[tokio::test]
async fn check_sees_a_task_in_each_state() {
    pool_test(async |pool| {
        let check = || Call::new("check").arg("t1");
        assert_eq!(pool.refused(&check()).await, ["unknown", "t1"]);
        pool.submit(TaskOptions::default()).await;
        assert_eq!(pool.refused(&check()).await, ["ok", "pending", "1", "0", "0", "3", "0", "1"]);
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        assert_eq!(pool.refused(&check()).await, ["ok", "running", "1", "1", "1", "3", "1", "2"]);
        worker.finish(&held, &Verdict::Complete).await;
        assert_eq!(pool.refused(&check()).await, ["ok", "completed", "0", "0", "1", "3", "1", "3"]);
    })
    .await;
}

#[tokio::test]
async fn lane_tells_how_much_waits_and_since_when() {
    pool_test(async |pool| {
        let lane = || Call::new("lane").arg("default").arg("normal");
        assert_eq!(pool.refused(&lane()).await, ["ok", "0", "0"]);
        let first = pool.submit(TaskOptions::default()).await;
        pool.forward(1000).await;
        pool.submit(TaskOptions::default()).await;
        let ready = pool.field(&format!("task:{first}"), "ready").await.unwrap();
        assert_eq!(pool.refused(&lane()).await, ["ok".to_owned(), "2".into(), ready.clone()]);
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let told = pool.refused(&lane()).await;
        assert_eq!(told[1], "1");
        assert!(told[2] > ready, "the next one is the oldest now");
        worker.step(&held, &Verdict::Complete).await;
        assert_eq!(pool.refused(&lane()).await, ["ok", "0", "0"]);
        let _: i64 =
            pool.redis(redis::cmd("XGROUP").arg("DESTROY").arg(pool.key("lane:default:normal")).arg("workers")).await;
        assert_eq!(pool.refused(&lane()).await[1], "1", "without a group nothing is delivered");
        pool.sweep("s").await;
    })
    .await;
}

#[tokio::test]
async fn the_examination_finds_what_is_broken() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions { tags: vec!["x".into()], ..TaskOptions::default() }).await;
        let held = pool.join("w1").await.take().await;
        pool.submit(TaskOptions { after: vec![id.into()], ..TaskOptions::default() }).await;
        let lane = pool.store.keys.lane("default", "normal");
        for (invariant, damage) in [
            ("I3", redis::cmd("XTRIM").arg(&lane).arg("MAXLEN").arg("0").to_owned()),
            ("I3", redis::cmd("XDEL").arg(&lane).arg(&held.entry).to_owned()),
            ("I3", redis::cmd("XADD").arg(&lane).arg(&["*", "id", "t7"]).to_owned()),
            ("I4", redis::cmd("HSET").arg(pool.store.keys.task(id)).arg("attempt").arg("9").to_owned()),
            ("I8", redis::cmd("HINCRBY").arg(pool.store.keys.task(id)).arg("n").arg("1").to_owned()),
            ("I9", redis::cmd("SET").arg(pool.key("stray")).arg("1").to_owned()),
            ("I9", redis::cmd("SET").arg(pool.key("once:stray")).arg("t9 m").to_owned()),
            ("I11", redis::cmd("ZREM").arg(pool.store.keys.after(id)).arg("t2").to_owned()),
            ("I11", redis::cmd("DEL").arg(pool.store.keys.needs(TaskId::new(2))).to_owned()),
            ("I11", redis::cmd("SADD").arg(pool.store.keys.needs(id)).arg("t9").to_owned()),
            ("I11", redis::cmd("ZADD").arg(pool.store.keys.after(TaskId::new(2))).arg(&["1", "t1"]).to_owned()),
            ("I12", redis::cmd("ZREM").arg(pool.store.keys.index("tag", "x")).arg(id.to_string()).to_owned()),
            ("I12", redis::cmd("ZADD").arg(pool.store.keys.index("state", "failed")).arg(&["1", "t1"]).to_owned()),
        ] {
            let before = pool.dump().await;
            let mut whole: Vec<(String, Vec<u8>)> = Vec::new();
            for key in before.keys() {
                whole.push((key.clone(), pool.redis(redis::cmd("DUMP").arg(key)).await));
            }
            let _: redis::Value = pool.redis(&damage).await;
            let broken = pool.store.examine().await.unwrap().broken;
            assert!(broken.iter().any(|found| found.starts_with(invariant)), "{invariant} {damage:?}: {broken:?}");
            for (key, bytes) in &whole {
                let _: () = pool.redis(redis::cmd("RESTORE").arg(key).arg("0").arg(bytes).arg("REPLACE")).await;
            }
            for key in pool.dump().await.keys().filter(|key| !before.contains_key(*key)) {
                let _: i64 = pool.redis(redis::cmd("DEL").arg(key)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_script_that_fails_names_its_file_and_line() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        let _: () = pool.redis(redis::cmd("SET").arg(pool.key("meta")).arg("not a hash")).await;
        for call in [worker.claim_call(""), worker.presence("join"), super::submission(vec![TaskOptions::default()])] {
            let told = pool.refused(&call).await.remove(0);
            let name = call.name();
            assert!(told.starts_with(&format!("script {name} failed at parts/schema.lua:4: ")), "{told}");
            assert!(told.contains("WRONGTYPE") && told.contains("motorpool doctor"), "{told}");
        }
        let _: i64 = pool.redis(redis::cmd("DEL").arg(pool.key("meta"))).await;
    })
    .await;
}
