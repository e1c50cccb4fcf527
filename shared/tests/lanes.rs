//! Lanes with labels, as workers and submitters meet them; and a pool in which nobody works.

use std::time::Duration;

use motorpool::domain::attempt::{Ending, Outcome, Report};
use motorpool::domain::limits;
use motorpool::domain::options::Priority;
use motorpool::embedded::Server;
use motorpool::pool::{Claim, Lease, Seat};
use motorpool::{Class, ErrorKind, Pool, Presence, Spec, State, TaskOptions};
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

async fn pool(lease_s: u64) -> (Server, Pool) {
    let server = Server::temporary().await.expect("a private Redis starts");
    let pool = Pool::builder(&server.url()).lease(Duration::from_secs(lease_s)).connect().await;
    (server, pool.expect("the pool answers"))
}

async fn seat(pool: &Pool, labels: &[&str]) -> Seat {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let presence = Presence { host: "h".into(), pid: 1, lanes: vec!["default".into()], labels, ..Presence::default() };
    Seat::join(pool, presence).await.expect("it joins")
}

fn needs(labels: &[&str]) -> Spec {
    let needs = labels.iter().map(|label| (*label).to_owned()).collect();
    Spec::new("p", TaskOptions { needs, ..TaskOptions::default() }).expect("a task")
}

fn well() -> Outcome {
    Outcome { report: Report::default(), ending: Ending::Success, retry_after_ms: None }
}

async fn taken(seat: &mut Seat) -> Lease {
    match seat.claim(None).await.expect("it claims") {
        Claim::Run(lease) => lease,
        other => panic!("{other:?}"),
    }
}

async fn submit(pool: &Pool, spec: Spec) -> motorpool::TaskId {
    pool.submit(spec).await.expect("it is taken").id
}

/// From step to step it never claims: a new lane is learnt of all the same.
#[tokio::test]
async fn a_busy_worker_hears_of_a_new_lane() {
    let (server, pool) = pool(15).await;
    for _ in 0..20 {
        submit(&pool, needs(&[])).await;
    }
    let mut seat = seat(&pool, &["gpu"]).await;
    let mut lease = taken(&mut seat).await;
    let mut urgent = needs(&["gpu"]);
    urgent.options.priority = Some(Priority::High);
    let urgent = submit(&pool, urgent).await;
    let mut steps = 0;
    while lease.task() != urgent {
        steps += 1;
        assert!(steps <= 2, "the lane is told by the first step and looked into by the second");
        let (settled, claim) = seat.step(lease, &well()).await.expect("it steps");
        let Claim::Run(next) = claim else { panic!("{claim:?}") };
        assert!(settled);
        lease = next;
    }
    seat.finish(lease, &well()).await.expect("it finishes");
    server.stop().await;
}

#[tokio::test]
async fn an_idle_worker_finds_a_new_lane_within_one_wait_also_when_redis_has_forgotten_all() {
    let (server, pool) = pool(3).await;
    let mut seat = seat(&pool, &["gpu"]).await;
    submit(&pool, needs(&[])).await;
    let lease = taken(&mut seat).await;
    seat.finish(lease, &well()).await.expect("it finishes");
    for forgets in [false, true] {
        assert!(matches!(seat.claim(None).await.expect("it claims"), Claim::Idle));
        if forgets {
            let client = redis::Client::open(server.url()).expect("its URL");
            let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
            redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.expect("it forgets");
        }
        let labels: &[&str] = if forgets { &["gpu"] } else { &["gpu", "gpu"] };
        let id = submit(&pool, needs(labels)).await;
        let mut waits = 0;
        let found = async {
            loop {
                match seat.claim(None).await.expect("it claims") {
                    Claim::Run(lease) => return lease,
                    Claim::Idle => drop(seat.wait_for_work().await),
                    other => panic!("{other:?}"),
                }
                waits += 1;
            }
        };
        let lease = timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{id} is never found"));
        assert_eq!(lease.task(), id);
        assert!(waits <= 3, "{waits} waits");
        seat.finish(lease, &well()).await.expect("it finishes");
    }
    server.stop().await;
}

#[tokio::test]
async fn so_many_lanes_and_no_more() {
    let (server, pool) = pool(15).await;
    submit(&pool, needs(&[])).await;
    let most = usize::try_from(limits::LANES).expect("a size");
    let named = |from: usize, to: usize| (from..to).map(|n| needs(&[&format!("l{n}")])).collect::<Vec<_>>();
    pool.submit_all(named(1, most)).await.expect("as many as there may be");
    let error = pool.submit_all(named(0, 2)).await.expect_err("one too many");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.message().contains("lanes") && error.hint_text().is_some(), "{error}");
    // What fits into one that is there is taken.
    pool.submit_all(named(1, 2)).await.expect("a known lane");
    server.stop().await;
}

/// Nobody works and nobody sweeps but who waits.
#[tokio::test]
async fn a_wait_that_runs_out_does_so_without_any_worker() {
    let (server, pool) = pool(15).await;
    let limited = TaskOptions { queue_timeout_s: Some(1), delay_s: Some(1), ..TaskOptions::default() };
    let id = submit(&pool, Spec::new("p", limited).expect("a task")).await;
    let record = pool.wait(id, Some(Instant::now() + PATIENCE)).await.expect("the pool answers");
    assert_eq!((record.state, record.run), (State::Failed, 0), "{record:#?}");
    assert_eq!(record.error.map(|error| error.class), Some(Class::Timeout));
    server.stop().await;
}

/// A look in two seconds would be an outage each time, and nobody is taken for dead after an outage.
#[tokio::test]
async fn who_waits_finds_a_lost_run_however_short_the_lease_is() {
    let (server, pool) = pool(1).await;
    let once = TaskOptions { max_attempts: Some(1), ..TaskOptions::default() };
    let id = submit(&pool, Spec::new("p", once).expect("a task")).await;
    let url = server.url();
    let dies = move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let pool = Pool::connect(&url).await.expect("the pool answers");
            taken(&mut seat(&pool, &[]).await).await;
        });
    };
    // With its runtime ends whatever the worker did, sweeping included.
    tokio::task::spawn_blocking(dies).await.expect("it takes the task");
    let record = pool.wait(id, Some(Instant::now() + PATIENCE)).await.expect("the pool answers");
    assert_eq!(record.error.map(|error| error.class), Some(Class::Lost), "{:?}", record.state);
    server.stop().await;
}

/// A key of the caller's own has nothing to do with what is tried anew.
#[tokio::test]
async fn what_is_tried_anew_is_the_task_and_no_other() {
    let (server, pool) = pool(15).await;
    let keyed = |once: &str| Spec::new("q", TaskOptions { once: Some(once.into()), ..TaskOptions::default() });
    for once in ["retry of t3", "retry t3"] {
        submit(&pool, keyed(once).expect("a task")).await;
    }
    let id = submit(&pool, keyed("mine").expect("a task")).await;
    pool.cancel(id, "no").await.expect("it is cancelled");
    let made = pool.retry(id).await.expect("it is tried anew");
    let again = pool.retry(id).await.expect("it is found");
    assert_eq!((made.fresh, again.fresh, again.id), (true, false, made.id));
    let record = pool.task(made.id).await.expect("a record");
    assert_eq!(record.spec.and_then(|spec| spec.retry_of), Some(id));
    assert!(keyed("retry\tt3").is_err(), "no caller's key looks like that");
    // What followed something that did not succeed is not begun without it.
    let follower = TaskOptions { after: vec![id.into()], ..TaskOptions::default() };
    let follower = submit(&pool, Spec::new("p", follower).expect("a task")).await;
    assert_eq!(pool.task(follower).await.expect("a record").state, State::Cancelled);
    let error = pool.retry(follower).await.expect_err("it was to follow");
    assert!(error.kind() == ErrorKind::Refused && error.hint_text().is_some(), "{error}");
    server.stop().await;
}
