//! Connections whose other end is gone without a word: those that only ever receive are noticed too.

use std::collections::BTreeSet;
use std::time::Duration;

use motorpool::Pool;
use motorpool::pool::Notice;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::proxy::{Direction, Proxy};
use serde_json::json;
use tokio::time::{Instant, timeout};

/// Within this each of them is replaced.
const NOTICED: Duration = Duration::from_secs(30);

/// The ids of the connections that listen, by whether they came by this way of a name.
async fn listeners(fleet: &Fleet) -> BTreeSet<String> {
    let mut list = redis::cmd("CLIENT");
    list.arg("LIST").arg("TYPE").arg("pubsub");
    let text: String = list.query_async(&mut fleet.redis().await).await.expect("Redis answers");
    text.lines()
        .filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("id=")))
        .map(str::to_owned)
        .collect()
}

/// How many listen to each channel of the pool.
async fn channels(fleet: &Fleet) -> Vec<(String, u64)> {
    let mut connection = fleet.redis().await;
    let names: Vec<String> =
        redis::cmd("PUBSUB").arg(&["CHANNELS", "mp:*"]).query_async(&mut connection).await.expect("Redis answers");
    let mut ask = redis::cmd("PUBSUB");
    ask.arg("NUMSUB").arg(&names).query_async(&mut connection).await.expect("Redis answers")
}

#[tokio::test]
async fn subscriptions_are_replaced_and_those_that_stand_are_left_alone() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 60).await;
    // Not by the way that dies, and without news all the time.
    let mut near = fleet.pool.notices().await;
    fleet.until("it listens", async |fleet| (listeners(fleet).await.len() == 1).then_some(())).await;
    let near_id = listeners(&fleet).await;
    let proxy = Proxy::before(&fleet.path("redis/redis.sock")).await;
    fleet.env("MOTORPOOL_REDIS_URL", proxy.url());
    let far = Pool::connect(proxy.url()).await.expect("it answers");
    let mut notices = far.notices().await;
    assert_eq!(timeout(NOTICED, notices.next()).await.expect("it listens"), Notice::Missed);
    // A host listens to what it is told, and a worker while it runs a task.
    fleet.host(1);
    let id = fleet.submit("@bash touch begun; until [ -e go ]; do sleep 0.02; done\n@say done", json!({})).await;
    fleet.until("all listen", async |fleet| (listeners(fleet).await.len() == 4).then_some(())).await;
    let old: BTreeSet<String> = listeners(&fleet).await.difference(&near_id).cloned().collect();
    let before = channels(&fleet).await;
    while timeout(Duration::from_millis(1), notices.next()).await.is_ok() {}
    while timeout(Duration::from_millis(1), near.next()).await.is_ok() {}
    let began = Instant::now();
    proxy.half_open(&[Direction::Up, Direction::Down]);
    // Who waits by it is told to look.
    assert_eq!(timeout(NOTICED, notices.next()).await.expect("it is noticed"), Notice::Missed);
    eprintln!("the feed was noticed after {:?}", began.elapsed());
    fleet
        .until("all listen anew", async |fleet| {
            let now = listeners(fleet).await;
            (now.is_disjoint(&old) && channels(fleet).await == before).then_some(())
        })
        .await;
    eprintln!("all were replaced after {:?}", began.elapsed());
    assert!(began.elapsed() < NOTICED, "{:?}", began.elapsed());
    assert!(listeners(&fleet).await.is_superset(&near_id), "one that stands was given up");
    assert!(timeout(Duration::from_millis(1), near.next()).await.is_err(), "nothing was missed there");
    // What was asked by them is not what this is about.
    proxy.cut();
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    let record = fleet.over(id).await;
    assert_eq!((record.run, record.attempt), (1, 1), "{}", fleet.logs());
    drop(far);
    fleet.end().await;
    drop(proxy);
}
