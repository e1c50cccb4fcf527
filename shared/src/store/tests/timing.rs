//! How long the largest scripts hold Redis: printed (`cargo test timing -- --nocapture`), and bounded generously and in
//! the middle of several, so that a loop over everything is found and a busy machine is not.

use std::time::{Duration, Instant};

use super::{Hand, TestPool, submission};
use crate::domain::options::TaskOptions;
use crate::store::script::Call;
use crate::store::sweep;

/// Calls of one kind, one after the other.
struct Calls {
    what: &'static str,
    at_most: Duration,
    took: Vec<(Duration, u64)>,
}

impl Calls {
    fn of(what: &'static str, at_most: Duration) -> Self {
        Self { what, at_most, took: Vec::new() }
    }

    async fn make(&mut self, pool: &TestPool, call: &Call) {
        let (before, began) = (server_us(pool).await, Instant::now());
        pool.call(call).await;
        self.took.push((began.elapsed(), server_us(pool).await - before));
    }

    fn judge(mut self) {
        self.took.sort_unstable();
        let (took, us) = self.took[self.took.len() / 2];
        eprintln!("{}, the middle one: {us} us in the server, {} us in all", self.what, took.as_micros());
        assert!(took < self.at_most, "{} took {took:?}", self.what);
    }
}

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
    let mut submits = Calls::of("submit of 1,000", Duration::from_secs(2));
    for _ in 0..10 {
        submits.make(&pool, &submission(vec![TaskOptions::default(); 1000])).await;
    }
    pool.join("w1").await;
    let mut sweeps = Calls::of("sweep over 10,000 pending", Duration::from_secs(2));
    for _ in 0..5 {
        pool.redis::<()>(redis::cmd("SET").arg(pool.key("sweeper")).arg("s")).await;
        sweeps.make(&pool, &sweep::sweep("s")).await;
    }
    let mut worker = Hand::new(&pool, "w1");
    let mut claims = Calls::of("claim from 10,000", Duration::from_millis(200));
    for _ in 0..100 {
        let call = worker.claim_call("");
        claims.make(&pool, &call).await;
    }
    assert_eq!(pool.store.count(&[crate::domain::state::State::Running]).await.expect("Redis answers"), [100]);
    for calls in [submits, sweeps, claims] {
        calls.judge();
    }
    server.stop().await;
}
