//! A Redis that comes back without what it wrote last: who is alive tells it again.

use std::path::Path;

use motorpool::embedded::{Server, ServerOptions};
use motorpool::pool::{Claim, Lease, Seat};
use motorpool::{Ending, Outcome, Pool, Presence, Report, Spec, State, TaskId, TaskOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

async fn server(dir: &Path) -> Server {
    let socket = dir.join("redis.sock");
    let path = std::env::var_os("PATH").unwrap_or_default();
    Server::start(ServerOptions { dir: dir.to_owned(), socket, path, lock: None })
        .await
        .expect("a private Redis starts")
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

fn said(text: &str) -> Outcome {
    let report = Report { output: Some(text.to_owned()), spoke: true, ..Report::default() };
    Outcome { report, ending: Ending::Success, retry_after_ms: None }
}

/// A pool of two tasks, the first of which a worker holds; what is done now is forgotten, and the worker calls again.
async fn story(settle: impl AsyncFnOnce(&mut Seat, Lease)) -> (Server, tempfile::TempDir, Pool, [TaskId; 2]) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = server(dir.path()).await;
    let pool = Pool::connect(&server.url()).await.expect("the pool answers");
    let mut ids = Vec::new();
    for n in 0..2 {
        let spec = Spec::new(format!("task {n}"), TaskOptions::default()).expect("a task that does");
        ids.push(pool.submit(spec).await.expect("it is taken").id);
    }
    let presence = Presence { lanes: vec!["default".into()], ..Presence::default() };
    let mut seat = Seat::join(&pool, presence).await.expect("it joins");
    let Claim::Run(lease) = seat.claim(None).await.expect("it claims") else { panic!("nothing to claim") };
    assert_eq!(lease.task(), ids[0]);
    let (data, kept) = (dir.path().join("appendonlydir"), dir.path().join("kept"));
    copy(&data, &kept);
    settle(&mut seat, lease).await;
    assert_eq!(pool.task(ids[0]).await.expect("it is there").state, State::Completed);
    let _ = kill(Pid::from_raw(server.pid().expect("it runs") as i32), Signal::SIGKILL);
    server.ended().await;
    copy(&kept, &data);
    let server = self::server(dir.path()).await;
    assert_eq!(pool.task(ids[0]).await.expect("it is there").state, State::Running, "it is forgotten");
    let claim = seat.claim(None).await.expect("it claims");
    assert!(matches!(claim, Claim::Run(lease) if lease.task() == ids[1]), "the second one waits, or waits again");
    (server, dir, pool, [ids[0], ids[1]])
}

#[tokio::test]
async fn a_result_that_redis_forgot_is_told_again() {
    for with_the_next in [false, true] {
        let settle = async |seat: &mut Seat, lease| {
            if with_the_next {
                let (settled, next) = seat.step(lease, &said("mine")).await.expect("it is answered");
                assert!(settled && matches!(next, Claim::Run(_)));
            } else {
                assert!(seat.finish(lease, &said("mine")).await.expect("it is answered"));
            }
        };
        let (server, _dir, pool, ids) = story(settle).await;
        let record = pool.task(ids[0]).await.expect("it is there");
        assert_eq!((record.state, record.output.as_deref(), record.run), (State::Completed, Some("mine"), 1));
        assert_eq!(pool.examine().await.expect("it answers").broken, Vec::<String>::new());
        server.stop().await;
    }
}
