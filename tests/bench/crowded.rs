//! What very many tasks cost those who come after them: a hundred thousand that wait, hundreds that nobody can do, and
//! a thousand at once for hundreds of idle workers.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use motorpool::pool::{Claim, Lease, Seat};
use motorpool::{Ending, Outcome, Pool, Presence, Report, Spec, TaskId, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::Era;
use motorpool_tests::mcp::stdio::Coordinator;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Measure;
use crate::idle::{Spread, listen, megabytes};

/// Tasks that wait, with the one that is measured as many as a pool takes; and those of the pool that it is compared with.
const MANY: usize = 99_999;
const FEW: usize = 100;
/// Most tasks of one submission.
const PART: usize = 1_000;
/// Calls of either pool, one after the other.
const ROUNDS: usize = 400;
/// Looks at the pool.
const LOOKS: usize = 21;
/// Dispatchers of which the memory is measured.
const STARTS: usize = 5;

/// Tasks that no worker has the label for, and idle workers meanwhile.
const UNFIT: usize = 500;
const IDLE: usize = 100;
/// How long they are listened to: two waits of theirs.
const LISTENED: Duration = Duration::from_secs(20);

/// Idle workers for whom many tasks come at once.
const HANDS: usize = 300;
const AT_ONCE: usize = 1_000;

pub(crate) async fn measure() -> Vec<Measure> {
    let mut measures = many().await;
    measures.extend(nobody_can().await);
    measures.extend(at_once().await);
    measures
}

fn spec(options: serde_json::Value) -> Spec {
    let options = TaskOptions::from_json(options.as_object().expect("an object")).expect("options that do");
    Spec::new("a prompt", options).expect("a task that does")
}

async fn fill(pool: &Pool, count: usize, options: serde_json::Value) {
    for from in (0..count).step_by(PART) {
        let specs = vec![spec(options.clone()); PART.min(count - from)];
        pool.submit_all(specs).await.expect("they are taken");
    }
}

async fn seat(pool: &Pool) -> Seat {
    let presence = Presence { host: "bench".into(), lanes: vec!["default".into()], ..Presence::default() };
    Seat::join(pool, presence).await.expect("it joins")
}

async fn claim(seat: &mut Seat) -> Lease {
    let Claim::Run(lease) = seat.claim(None).await.expect("it claims") else { panic!("there are tasks") };
    lease
}

async fn finish(seat: &mut Seat, lease: Lease) {
    let report = Report { output: Some("an output".into()), spoke: true, ..Report::default() };
    let outcome = Outcome { report, ending: Ending::Success, retry_after_ms: None };
    assert!(seat.finish(lease, &outcome).await.expect("it is answered"));
}

/// The medians of what two pools took for the same, as a ratio.
fn ratio(took: [Vec<f64>; 2]) -> f64 {
    let [many, few] = took.map(|took| Spread::of(took).median);
    many / few
}

/// The disk has its own moods.
async fn without_disk(fleet: &Fleet) {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("appendfsync").arg("no");
    set.query_async::<()>(&mut fleet.redis().await).await.expect("Redis can be set");
}

async fn many() -> Vec<Measure> {
    let fleet = Fleet::with_lease(Cli::StandIn, 15).await;
    without_disk(&fleet).await;
    let before = memory(&fleet).await;
    let few = Pool::builder(&fleet.server.url()).name("few".parse().expect("a name")).connect().await.expect("a pool");
    fill(&few, FEW, json!({})).await;
    fill(&fleet.pool, MANY, json!({})).await;
    let pools = [&fleet.pool, &few];
    let mut seats = [seat(pools[0]).await, seat(pools[1]).await];

    let (mut submits, mut claims) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..ROUNDS {
        // Neither always comes first.
        for which in [round % 2, 1 - round % 2] {
            let began = Instant::now();
            pools[which].submit(spec(json!({}))).await.expect("it is taken");
            submits[which].push(began.elapsed().as_secs_f64());
            let began = Instant::now();
            let lease = claim(&mut seats[which]).await;
            claims[which].push(began.elapsed().as_secs_f64());
            finish(&mut seats[which], lease).await;
        }
    }
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        let began = Instant::now();
        let status = fleet.pool.status().await.expect("the pool answers");
        looks.push(began.elapsed().as_secs_f64() * 1e3);
        assert_eq!(status.lanes[0].waiting, MANY as u64);
    }
    let after = memory(&fleet).await;
    join_all(seats.map(Seat::leave)).await;
    fleet.end_empty().await;
    let with = "100,000 tasks that wait";
    vec![
        Measure::new(format!("submit with {with}, against {FEW}"), ratio(submits), "times as long").at_most(1.2),
        Measure::new(format!("claim with {with}, against {FEW}"), ratio(claims), "times as long").at_most(1.2),
        Measure::new(format!("status with {with}, median"), Spread::of(looks).median, "ms").at_most(50.0),
        Measure::new(format!("dispatcher: resident memory with {with}, against none"), after / before, "times as much")
            .at_most(1.15),
    ]
}

/// What dispatchers hold after a few calls, the median one.
async fn memory(fleet: &Fleet) -> f64 {
    let mut memory = Vec::new();
    for _ in 0..STARTS {
        let dispatcher = Coordinator::start(fleet, Era::Modern, &[]).await;
        for _ in 0..3 {
            dispatcher.call("pool_status", json!({})).await.good();
            dispatcher.call("pool_view", json!({"what": "tasks", "limit": 100})).await.good();
            dispatcher.call("pool_wait", json!({"wait_s": 0})).await.good();
        }
        memory.push(megabytes(dispatcher.pid(), "status", &["VmRSS"]));
        dispatcher.end().await;
    }
    Spread::of(memory).median
}

/// A seat that waits as a worker does, in a task of its own.
fn waits(mut seat: Seat) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut token = None;
        loop {
            if let Claim::Run(lease) = seat.claim(token.as_deref()).await.expect("it claims") {
                finish(&mut seat, lease).await;
            }
            token = seat.wait_for_work().await;
        }
    })
}

/// Tasks of each priority, and the order in which a worker then gets them.
async fn order(pool: &Pool, seat: &mut Seat) -> Vec<usize> {
    let mut ids: Vec<TaskId> = Vec::new();
    for n in 0..30 {
        let priority = ["low", "high", "normal"][n % 3];
        ids.push(pool.submit(spec(json!({"priority": priority}))).await.expect("it is taken").id);
    }
    let mut order = Vec::new();
    for _ in &ids {
        let lease = claim(seat).await;
        order.push(ids.iter().position(|id| *id == lease.task()).expect("one of them"));
        finish(seat, lease).await;
    }
    order
}

async fn nobody_can() -> Vec<Measure> {
    let fleet = Fleet::with_lease(Cli::StandIn, 15).await;
    let mut one = seat(&fleet.pool).await;
    let before = order(&fleet.pool, &mut one).await;
    let idle = join_all((0..IDLE).map(|_| seat(&fleet.pool))).await;
    let idle: Vec<_> = idle.into_iter().map(waits).collect();
    // Each has made its first calls by then.
    listen(&fleet, LISTENED / 4).await;
    let alone = listen(&fleet, LISTENED).await.commands;
    fill(&fleet.pool, UNFIT, json!({"needs": ["nobody-has-it"]})).await;
    // And has looked at the new lane.
    listen(&fleet, LISTENED / 4).await;
    let beside = listen(&fleet, LISTENED).await.commands;
    for seat in &idle {
        seat.abort();
    }
    join_all(idle).await;
    assert_eq!(order(&fleet.pool, &mut one).await, before, "other tasks start in another order");
    one.leave().await;
    fleet.end_empty().await;
    let who = format!("{IDLE} idle workers");
    let each = alone as f64 / LISTENED.as_secs_f64() / IDLE as f64;
    vec![
        Measure::new(format!("{who}: commands of each to Redis"), each, "a second").at_most(0.5),
        Measure::new(
            format!("{who}: commands beside {UNFIT} tasks that nobody can do, against none"),
            beside as f64 / alone as f64,
            "times as many",
        )
        .at_most(1.1),
    ]
}

/// Many tasks for many idle workers, each of which waits as a worker does; and as many entries of a list for as many
/// clients that wait for it.
async fn at_once() -> Vec<Measure> {
    let fleet = Fleet::with_lease(Cli::StandIn, 15).await;
    without_disk(&fleet).await;
    let mut plain = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..5 {
        plain.push(list_at_once(&fleet).await);
        ours.push(tasks_at_once(&fleet).await);
    }
    fleet.end_empty().await;
    let (plain, ours) = (Spread::of(plain).median, Spread::of(ours).median);
    let what = format!("{AT_ONCE} tasks at once for {HANDS} idle workers: the last start");
    vec![
        Measure::new(format!("{what}, after the submission began"), ours * 1e3, "ms"),
        Measure::new(format!("{what}, against BLPOP of as many"), ours / plain, "times as late"),
    ]
}

async fn tasks_at_once(fleet: &Fleet) -> f64 {
    let (started, mut starts) = mpsc::unbounded_channel();
    let works = |mut seat: Seat| {
        let started = started.clone();
        tokio::spawn(async move {
            let mut token = None;
            loop {
                if let Claim::Run(lease) = seat.claim(token.as_deref()).await.expect("it claims") {
                    let _ = started.send(lease.task());
                    finish(&mut seat, lease).await;
                    token = None;
                    continue;
                }
                token = seat.wait_for_work().await;
            }
        })
    };
    let seats = join_all((0..HANDS).map(|_| seat(&fleet.pool))).await;
    let hands: Vec<JoinHandle<()>> = seats.into_iter().map(works).collect();
    listen(fleet, Duration::from_secs(1)).await;
    let specs = vec![spec(json!({})); AT_ONCE];
    let began = Instant::now();
    let submitted = fleet.pool.submit_all(specs).await.expect("they are taken");
    let mut once: BTreeSet<TaskId> = submitted.into_iter().map(|task| task.id).collect();
    while !once.is_empty() {
        let task = starts.recv().await.expect("workers live");
        assert!(once.remove(&task), "{task} starts twice");
    }
    let took = began.elapsed().as_secs_f64();
    until_empty(fleet).await;
    hands.iter().for_each(JoinHandle::abort);
    join_all(hands).await;
    took
}

async fn until_empty(fleet: &Fleet) {
    fleet
        .until("all is done", async |fleet| (fleet.pool.unfinished().await.expect("it answers") == 0).then_some(()))
        .await;
}

async fn list_at_once(fleet: &Fleet) -> f64 {
    let (started, mut starts) = mpsc::unbounded_channel();
    let client = redis::Client::open(fleet.server.url()).expect("a good address");
    let hands: Vec<JoinHandle<()>> = (0..HANDS)
        .map(|_| {
            let (client, started) = (client.clone(), started.clone());
            tokio::spawn(async move {
                let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
                let line = client.get_multiplexed_async_connection_with_config(&config).await;
                let mut line = line.expect("Redis answers");
                loop {
                    let mut take = redis::cmd("BLPOP");
                    take.arg("entries").arg(0);
                    let entry: (String, usize) = take.query_async(&mut line).await.expect("an entry");
                    let _ = started.send(entry.1);
                }
            })
        })
        .collect();
    listen(fleet, Duration::from_secs(1)).await;
    let mut line = fleet.redis().await;
    let began = Instant::now();
    let mut push = redis::cmd("RPUSH");
    push.arg("entries").arg((0..AT_ONCE).collect::<Vec<_>>());
    push.query_async::<()>(&mut line).await.expect("they are taken");
    for _ in 0..AT_ONCE {
        starts.recv().await.expect("clients live");
    }
    let took = began.elapsed().as_secs_f64();
    hands.iter().for_each(JoinHandle::abort);
    join_all(hands).await;
    took
}
