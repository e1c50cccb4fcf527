//! What a task costs the queue, against the plainest queue that Redis has: ratios, taken in one run.

use std::time::Duration;

use futures_util::future::join_all;
use motorpool::pool::{Claim, Seat};
use motorpool::{Ending, Outcome, Pool, Presence, Report, Spec, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet};
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use tokio::time::Instant;

use crate::Measure;

/// Each round measures both queues, one after the other.
const ROUNDS: usize = 9;
/// Tasks a round.
const TASKS: usize = 160;
/// A stream outside of the pool.
const STREAM: &str = "plain";

pub(crate) async fn measure() -> Vec<Measure> {
    let fleet = Fleet::with_lease(Cli::StandIn, 15).await;
    let mut measures = Vec::new();
    for (sync, clients) in [("always", 1), ("always", 8), ("no", 1), ("no", 8)] {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("appendfsync").arg(sync);
        set.query_async::<()>(&mut fleet.redis().await).await.expect("Redis can be set");
        let mut farm = join_all((0..clients).map(|_| seat(&fleet.pool))).await;
        let mut plain = join_all((0..clients).map(|_| fleet.redis())).await;
        create(&mut plain[0]).await;
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let farm = timed(farm.iter_mut().map(|seat| through_farm(&fleet.pool, seat, TASKS / clients))).await;
            let plain = timed(plain.iter_mut().map(|line| through_stream(line, TASKS / clients))).await;
            ratios.push(farm.as_secs_f64() / plain.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        let what = format!("a task against a stream's entry: {clients} at a time, appendfsync {sync}");
        measures.push(Measure::new(what, ratios[ROUNDS / 2], "times as long"));
        join_all(farm.into_iter().map(Seat::leave)).await;
    }
    fleet.end_empty().await;
    measures
}

async fn timed(work: impl Iterator<Item = impl Future<Output = ()>>) -> Duration {
    let begin = Instant::now();
    join_all(work).await;
    begin.elapsed()
}

async fn seat(pool: &Pool) -> Seat {
    let presence = Presence { host: "bench".into(), lanes: vec!["default".into()], ..Presence::default() };
    Seat::join(pool, presence).await.expect("it joins")
}

/// Tasks from submission to result; whose task a seat claims is all the same.
async fn through_farm(pool: &Pool, seat: &mut Seat, tasks: usize) {
    for _ in 0..tasks {
        let spec = Spec::new("a prompt", TaskOptions::default()).expect("a task that does");
        pool.submit(spec).await.expect("it is taken");
        let Claim::Run(lease) = seat.claim(None).await.expect("it claims") else { panic!("a task was submitted") };
        let report = Report { output: Some("an output".into()), spoke: true, ..Report::default() };
        let outcome = Outcome { report, ending: Ending::Success, retry_after_ms: None };
        assert!(seat.finish(lease, &outcome).await.expect("it is answered"));
    }
}

async fn create(line: &mut MultiplexedConnection) {
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(STREAM).arg("readers").arg("$").arg("MKSTREAM");
    // The second time it is there.
    let _ = create.query_async::<()>(line).await;
}

/// Entries of a stream, from being added to being acknowledged and deleted.
async fn through_stream(line: &mut MultiplexedConnection, tasks: usize) {
    for _ in 0..tasks {
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg("*").arg("prompt").arg("a prompt").query_async::<()>(line).await.expect("it is added");
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg("readers").arg("one").arg("COUNT").arg(1).arg("STREAMS").arg(STREAM).arg(">");
        let read: StreamReadReply = read.query_async(line).await.expect("it is read");
        let id = &read.keys[0].ids[0].id;
        for (command, group) in [("XACK", Some("readers")), ("XDEL", None)] {
            let mut end = redis::cmd(command);
            end.arg(STREAM).arg(group).arg(id).query_async::<()>(line).await.expect("it is ended");
        }
    }
}
