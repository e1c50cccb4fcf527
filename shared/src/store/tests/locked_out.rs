//! A worker that Redis refuses for a while: what its run has brought is kept, and taken in the end.

use std::time::Duration;

use super::TestPool;
use super::worker::outcome;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::Spec;
use crate::embedded::Server;
use crate::pool::{Claim, Pool, Seat};
use crate::store::fleet::Presence;

/// A connection that was there before the password was set, which therefore does not need it.
struct Operator(redis::aio::MultiplexedConnection);

impl Operator {
    async fn of(server: &Server) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    async fn does<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.0).await.unwrap()
    }

    /// Nobody else gets in any more.
    async fn locks_out(&mut self) {
        let () = self.does(&["CONFIG", "SET", "requirepass", "another"]).await;
        let _: u64 = self.does(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }

    /// Waits until so many calls were refused.
    async fn sees_refused(&mut self, calls: u64) {
        loop {
            let errors: String = self.does(&["INFO", "errorstats"]).await;
            let count = errors.lines().find_map(|line| line.strip_prefix("errorstat_NOAUTH:count=")?.parse().ok());
            if count.is_some_and(|count: u64| count >= calls) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn lets_in(&mut self) {
        let () = self.does(&["CONFIG", "SET", "requirepass", ""]).await;
    }
}

async fn settled_behind_a_changed_password(goes_on: bool) {
    let server = super::server().await;
    let pool = Pool::builder(&server.url()).build().unwrap();
    let id = pool.submit(Spec::new("a prompt", TaskOptions::default()).unwrap()).await.unwrap().id;
    let presence = Presence { lanes: vec!["default".into()], ..Presence::default() };
    let mut seat = Seat::join(&pool, presence).await.unwrap();
    let Claim::Run(lease) = seat.claim(None).await.unwrap() else { panic!("there is something to do") };
    let mut operator = Operator::of(&server).await;
    operator.locks_out().await;
    let mut settling = Box::pin(async {
        match goes_on {
            true => seat.step(lease, &outcome(70)).await.map(|(settled, _)| settled),
            false => seat.finish(lease, &outcome(70)).await,
        }
    });
    tokio::select! {
        early = &mut settling => panic!("it was not kept: {early:?}"),
        () = operator.sees_refused(2) => {}
    }
    operator.lets_in().await;
    assert!(settling.await.unwrap());
    let direct = TestPool::named(&server.url(), "default", false);
    let record = direct.record(id).await;
    assert_eq!((record.state, record.run, record.cost_microusd), (State::Completed, 1, 70));
    assert_eq!(record.output.as_deref(), Some("done"));
    direct.examine().await;
    server.stop().await;
}

#[tokio::test]
async fn a_finish_is_offered_until_it_is_taken() {
    settled_behind_a_changed_password(false).await;
}

#[tokio::test]
async fn a_step_is_offered_until_it_is_taken() {
    settled_behind_a_changed_password(true).await;
}

#[tokio::test]
async fn who_was_in_asks_again_and_who_begins_is_told_at_once() {
    let server = super::server().await;
    let was_in = Pool::builder(&server.url()).build().unwrap();
    let id = was_in.submit(Spec::new("a prompt", TaskOptions::default()).unwrap()).await.unwrap().id;
    let mut operator = Operator::of(&server).await;
    operator.locks_out().await;
    let mut asks = Box::pin(was_in.task(id));
    tokio::select! {
        early = &mut asks => panic!("it did not wait: {early:?}"),
        () = operator.sees_refused(3) => {}
    }
    // By far less than its patience.
    let begins = Pool::builder(&server.url()).patience(Duration::from_secs(1000)).build().unwrap();
    let error = begins.task(id).await.unwrap_err();
    assert!(error.message().contains("another user or password"), "{error}");
    operator.lets_in().await;
    assert_eq!(asks.await.unwrap().id, id);
    server.stop().await;
}
