//! A lost reply is asked for again: the caller hears what it would have heard, and the effect is there once.

use super::TestPool;
use super::proxy::Proxy;
use super::worker::{failure, outcome};
use crate::domain::attempt::{Ending, Outcome};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::Spec;
use crate::pool::{Beat, Claim, Lease, Pool, Seat};
use crate::store::attempt::Progress;
use crate::store::fleet::Presence;

fn spec(once: Option<&str>) -> Spec {
    Spec::new("a prompt", TaskOptions { once: once.map(str::to_owned), ..TaskOptions::default() }).unwrap()
}

/// Runs a test with so many replies lost in a row: none for comparison, one, three.
async fn losing(test: impl AsyncFn(&Pool, &Proxy, &TestPool, u32)) {
    for times in [0, 1, 3] {
        let server = super::server().await;
        let proxy = Proxy::before(&server).await;
        let pool = Pool::builder(&proxy.url).build().unwrap();
        let direct = TestPool::named(&server.url(), "default", false);
        test(&pool, &proxy, &direct, times).await;
        assert_eq!(proxy.left(), 0, "the replies were lost");
        direct.examine().await;
        drop(pool);
        server.stop().await;
    }
}

async fn seat(pool: &Pool) -> Seat {
    Seat::join(pool, Presence { lanes: vec!["default".into()], ..Presence::default() }).await.unwrap()
}

async fn take(seat: &mut Seat) -> Lease {
    match seat.claim(None).await.unwrap() {
        Claim::Run(lease) => lease,
        Claim::Idle | Claim::Limited { .. } => panic!("there is something to do"),
    }
}

#[tokio::test]
async fn a_submit() {
    losing(async |pool, proxy, direct, times| {
        for (once, number) in [(None, 1), (Some("key"), 2)] {
            proxy.lose("submit", times);
            let submitted = pool.submit(spec(once)).await.unwrap();
            assert_eq!((submitted.id.number(), submitted.fresh), (number, true), "{once:?}");
            assert_eq!(direct.field("seq", "task").await, Some(number.to_string()));
            assert_eq!(direct.log(submitted.id).await, ["- submit pending 0"]);
        }
        proxy.lose("submit", times);
        let again = pool.submit(spec(Some("key"))).await.unwrap();
        assert_eq!((again.id.number(), again.fresh), (2, false));
        proxy.lose("submit", times);
        let many = pool.submit_all(vec![spec(None); 50]).await.unwrap();
        assert_eq!(many.iter().map(|one| one.id.number()).collect::<Vec<_>>(), (3..53).collect::<Vec<_>>());
        assert!(many.iter().all(|one| one.fresh));
        assert_eq!(direct.field("seq", "task").await.as_deref(), Some("52"));
    })
    .await;
}

#[tokio::test]
async fn a_join_and_a_claim() {
    losing(async |pool, proxy, direct, times| {
        let id = pool.submit(spec(None)).await.unwrap().id;
        pool.submit(spec(None)).await.unwrap();
        proxy.lose("presence", times);
        let mut seat = seat(pool).await;
        assert_eq!(direct.store.workers().await.unwrap().len(), 1);
        proxy.lose("claim", times);
        let lease = take(&mut seat).await;
        assert_eq!((lease.task(), lease.run(), lease.history().attempt), (id, 1, 1));
        assert_eq!(direct.log(id).await, ["- submit pending 0", "pending claim running 1"]);
        assert_eq!(direct.store.count(&[State::Pending, State::Running]).await.unwrap(), [1, 1]);
        assert!(seat.finish(lease, &outcome(1)).await.unwrap());
        take(&mut seat).await;
        proxy.lose("claim", times);
        assert!(matches!(seat.claim(None).await.unwrap(), Claim::Idle));
    })
    .await;
}

#[tokio::test]
async fn a_beat() {
    losing(async |pool, proxy, direct, times| {
        let id = pool.submit(spec(None)).await.unwrap().id;
        let mut seat = seat(pool).await;
        let lease = take(&mut seat).await;
        for (cost_microusd, cancelled) in [(10, false), (25, false), (30, true)] {
            if cancelled {
                pool.cancel(id, "enough").await.unwrap();
            }
            proxy.lose("beat", times);
            let progress = Progress { cost_microusd, ..Progress::default() };
            let heard = seat.beat(&lease, &progress).await.unwrap();
            assert_eq!(heard, if cancelled { Beat::Cancel } else { Beat::Ok });
            assert_eq!(direct.record(id).await.cost_microusd, cost_microusd);
        }
    })
    .await;
}

#[tokio::test]
async fn a_step_and_a_finish() {
    losing(async |pool, proxy, direct, times| {
        let ids: Vec<_> = pool.submit_all(vec![spec(None); 3]).await.unwrap().iter().map(|one| one.id).collect();
        let mut seat = seat(pool).await;
        let lease = take(&mut seat).await;
        proxy.lose("step", times);
        let (settled, Claim::Run(lease)) = seat.step(lease, &outcome(40)).await.unwrap() else { panic!() };
        assert_eq!((settled, lease.task(), lease.run()), (true, ids[1], 1));
        assert_eq!(direct.last_event(ids[0]).await, "running complete completed 1");
        assert_eq!(direct.store.count(&[State::Pending, State::Running]).await.unwrap(), [1, 1]);

        // A transient failure, charged: back to its lane after a while, once.
        let failed = Outcome { ending: Ending::Failed(failure()), ..outcome(50) };
        let mut failed = failed;
        failed.report.spoke = true;
        proxy.lose("step", times);
        let (settled, Claim::Run(lease)) = seat.step(lease, &failed).await.unwrap() else { panic!() };
        assert_eq!((settled, lease.task()), (true, ids[2]));
        let record = direct.record(ids[1]).await;
        assert_eq!((record.state, record.attempt, record.cost_microusd), (State::Delayed, 1, 50));
        assert_eq!(direct.log(ids[1]).await.len(), 3);

        proxy.lose("finish", times);
        assert!(seat.finish(lease, &outcome(60)).await.unwrap());
        assert_eq!(direct.log(ids[2]).await.len(), 3);
        assert_eq!(direct.record(ids[2]).await.cost_microusd, 60);
        let worker = format!("worker:{}", seat.id());
        assert_eq!(direct.field(&worker, "done").await.as_deref(), Some("3"));
        proxy.lose("presence", times);
        seat.leave().await;
        assert_eq!(direct.store.workers().await.unwrap().len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_finish_that_came_too_late() {
    losing(async |pool, proxy, direct, times| {
        let id = pool.submit(spec(None)).await.unwrap().id;
        let mut seat = seat(pool).await;
        let lease = take(&mut seat).await;
        let entry = direct.record(id).await.entry.unwrap();
        direct.age("default", &entry, 60_000).await;
        direct.sweep("s").await;
        proxy.lose("finish", times);
        assert!(!seat.finish(lease, &outcome(70)).await.unwrap());
        let record = direct.record(id).await;
        assert_eq!((record.state, record.cost_microusd), (State::Pending, 70));
    })
    .await;
}

#[tokio::test]
async fn a_cancel() {
    losing(async |pool, proxy, direct, times| {
        let ids: Vec<_> = pool.submit_all(vec![spec(None); 2]).await.unwrap().iter().map(|one| one.id).collect();
        let mut seat = seat(pool).await;
        take(&mut seat).await;
        for (id, state, events) in [(ids[0], State::Running, 2), (ids[1], State::Cancelled, 2)] {
            proxy.lose("cancel", times);
            assert_eq!(pool.cancel(id, "enough").await.unwrap(), state);
            assert_eq!(direct.log(id).await.len(), events);
        }
    })
    .await;
}
