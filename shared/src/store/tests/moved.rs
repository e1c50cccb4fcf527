//! A Redis that moves to another socket: whoever reconnects looks where it is by now.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::TestPool;
use super::worker::outcome;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::Spec;
use crate::embedded::{Server, ServerOptions, socket_url};
use crate::pool::{Beat, Claim, Lease, Pool, Seat};
use crate::store::attempt::Progress;
use crate::store::fleet::Presence;

async fn server(dir: &Path, socket: &Path) -> Server {
    let options = ServerOptions {
        dir: dir.to_owned(),
        socket: socket.to_owned(),
        path: std::env::var_os("PATH").unwrap(),
        lock: None,
    };
    Server::start(options).await.unwrap()
}

async fn take(seat: &mut Seat) -> Lease {
    loop {
        if let Claim::Run(lease) = seat.claim(None).await.unwrap() {
            return lease;
        }
        seat.wait_for_work().await;
    }
}

#[tokio::test]
async fn everyone_finds_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = ["one", "two", "three"].map(|name| dir.path().join(name));
    let mut running = server(dir.path(), &sockets[0]).await;
    let place: Arc<Mutex<PathBuf>> = Arc::new(Mutex::new(sockets[0].clone()));
    let recorded = Arc::clone(&place);
    let pool = Pool::builder(&running.url())
        .whereabouts(Arc::new(move || Some(socket_url(&recorded.lock().unwrap()))))
        .connect()
        .await
        .unwrap();
    let spec = || Spec::new("a prompt", TaskOptions::default()).unwrap();
    let presence = Presence { lanes: vec!["default".into()], ..Presence::default() };
    let mut seat = Seat::join(&pool, presence.clone()).await.unwrap();
    let mut idle = Seat::join(&pool, Presence { lanes: vec!["other".into()], ..presence }).await.unwrap();
    let id = pool.submit(spec()).await.unwrap().id;
    let lease = take(&mut seat).await;
    // One waits for work, one for the result, one for notices, as the server goes.
    let (mut ends, mut waits) = (Box::pin(pool.wait(id, None)), Box::pin(take(&mut idle)));
    let mut control = seat.control();
    for socket in &sockets[1..] {
        tokio::select! {
            biased;
            _ = &mut ends => panic!("it has not ended"),
            _ = &mut waits => panic!("there is nothing to do"),
            _ = control.next() => panic!("there is no notice"),
            () = running.stop() => {}
        }
        *place.lock().unwrap() = socket.clone();
        running = server(dir.path(), socket).await;
        assert_eq!(seat.beat(&lease, &Progress::default()).await.unwrap(), Beat::Ok);
        assert_eq!(pool.redis(), socket_url(socket));
    }
    let other = TaskOptions { lane: Some("other".parse().unwrap()), ..TaskOptions::default() };
    let next = pool.submit(Spec::new("a prompt", other).unwrap()).await.unwrap().id;
    assert_eq!(waits.await.task(), next);
    // A notice that comes before somebody listens is lost.
    let direct = TestPool::named(&running.url(), "default", false);
    let channel = direct.store.keys.ctl(seat.id().as_str());
    let mut heard = Box::pin(control.next());
    let notice = loop {
        tokio::select! {
            notice = &mut heard => break notice,
            () = tokio::time::sleep(Duration::from_millis(10)) => {
                let _: u64 = direct.redis(redis::cmd("PUBLISH").arg(&channel).arg("hello")).await;
            }
        }
    };
    assert_eq!(notice, "hello");
    assert!(seat.finish(lease, &outcome(5)).await.unwrap());
    let record = ends.await.unwrap();
    assert_eq!((record.state, record.run), (State::Completed, 1));
    running.stop().await;
}
