//! How long the largest scripts hold Redis: printed (`cargo test timing -- --nocapture`), and bounded generously, so
//! that a loop over everything is found and a busy machine is not.

use std::time::{Duration, Instant};

use super::{TestPool, submission};
use crate::domain::options::TaskOptions;
use crate::store::sweep;

/// The time that the server itself counted for scripts, in microseconds.
async fn server_us(pool: &TestPool) -> u64 {
    let info: String = pool.redis(redis::cmd("INFO").arg("commandstats")).await;
    let line = info.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default();
    line.split(',').find_map(|part| part.strip_prefix("usec=")).and_then(|us| us.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn large_calls_are_short() {
    let server = super::server().await;
    let pool = TestPool::named(&server.url(), "large", false);
    let mut shown = Vec::new();
    for n in 0..10 {
        let call = submission(vec![TaskOptions::default(); 1000]);
        let (before, began) = (server_us(&pool).await, Instant::now());
        pool.call(&call).await;
        shown.push((format!("submit of 1,000, number {n}"), began.elapsed(), server_us(&pool).await - before));
    }
    pool.join("w1").await;
    for n in 0..5 {
        pool.redis::<()>(redis::cmd("SET").arg(pool.key("sweeper")).arg("s")).await;
        let (before, began) = (server_us(&pool).await, Instant::now());
        pool.call(&sweep::sweep("s")).await;
        shown.push((
            format!("sweep over 10,000 pending, number {n}"),
            began.elapsed(),
            server_us(&pool).await - before,
        ));
    }
    let mut worker = super::Hand::new(&pool, "w1");
    let (before, began) = (server_us(&pool).await, Instant::now());
    for _ in 0..100 {
        worker.take().await;
    }
    shown.push(("100 claims from 10,000".to_owned(), began.elapsed(), server_us(&pool).await - before));
    for (what, took, us) in shown {
        eprintln!("{what}: {} us in the server, {} us in all", us, took.as_micros());
        assert!(took < Duration::from_secs(2), "{what} took {took:?}");
    }
    server.stop().await;
}
