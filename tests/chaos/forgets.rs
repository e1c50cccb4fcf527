//! A Redis that forgets what it wrote last: the machine died with `appendfsync everysec`, or a replica that was behind
//! took its place. What was acknowledged in that time may be unknown; nothing else is lost, no id names another task,
//! and of two workers that hold one task one is refused.

use std::path::Path;
use std::time::Duration;

use motorpool::Pool;
use motorpool::embedded::{Server, ServerOptions};
use motorpool_tests::faults::{Dice, signal};
use motorpool_tests::fleet::PATIENCE;
use motorpool_tests::proxy::{Proxy, Way};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::field::{Field, Size};
use super::{end, orders};

const SIZE: Size = Size { hosts: 2, slots: 4, clients: 4, tasks: 120, lease_s: 6, forgets: true };
/// How often it forgets.
const ROUNDS: usize = 3;

/// Everything is under way, with so much of it submitted by now.
async fn goes_on(field: &Field, round: usize) {
    let each = SIZE.tasks / SIZE.clients;
    field.allowed.send_replace(each * (round + 1) / (ROUNDS + 1));
    acknowledged(field, SIZE.tasks * (2 * round + 1) / (2 * ROUNDS + 2)).await;
}

/// Waits until so many submissions are acknowledged in all.
async fn acknowledged(field: &Field, count: usize) {
    let until = Instant::now() + PATIENCE;
    while orders::open(&field.ledger).acknowledged.len() < count {
        assert!(Instant::now() < until, "not acknowledged: {count}\n{}", field.fleet.logs());
        sleep(Duration::from_millis(10)).await;
    }
}

/// Something is acknowledged from now on, and some runs begin and end, all of which will be forgotten.
async fn what_is_forgotten(field: &Field) {
    let (begun, so_far) = (Instant::now(), orders::open(&field.ledger).acknowledged.len());
    let events = field.fleet.events().await.len();
    // One of each client may have been written before, and be acknowledged only now.
    field.allowed.send_modify(|allowed| *allowed += 2);
    acknowledged(field, so_far + SIZE.clients + 2).await;
    while field.fleet.events().await.len() < events + 10 {
        assert!(begun.elapsed() < PATIENCE, "nothing happens\n{}", field.fleet.logs());
        sleep(Duration::from_millis(10)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// At least what was acknowledged last is unknown each time, and it is all that is.
async fn judged(field: Field, forgotten: &[(Instant, Instant)]) {
    field.allowed.send_replace(SIZE.tasks);
    let (verdict, _) = end(field, forgotten).await;
    eprintln!("{} of {} acknowledged submissions are unknown", verdict.lost, SIZE.tasks);
    assert!(verdict.lost >= 2 * forgotten.len() && verdict.doubled == 0, "{verdict:?}");
}

async fn does(url: &str, words: &[&str]) -> redis::Value {
    let client = redis::Client::open(url).expect("a good address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("it answers");
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.expect("it obeys")
}

/// Waits until the replica has all that was written until now; gives this moment.
async fn until_replicated(field: &Field) -> Instant {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = Instant::now();
        let mut connection = field.fleet.redis().await;
        // WAIT concerns what its own connection has written.
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg("written").arg("1").ignore().cmd("WAIT").arg("1").arg("100");
        // Half a second without an answer is none.
        let answer = pipe.query_async::<(u32,)>(&mut connection).await;
        if answer.is_ok_and(|(replicas,)| replicas > 0) {
            return now;
        }
        assert!(now < until, "the replica does not follow\n{}", field.fleet.logs());
    }
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_machine_that_dies_takes_its_last_second_along() {
        let mut dice = Dice::default();
        let arguments = "--appendfsync everysec --auto-aof-rewrite-percentage 0";
        let mut field = Field::new(SIZE, arguments, &mut dice).await;
        let mut forgotten = Vec::new();
        for round in 0..ROUNDS {
            goes_on(&field, round).await;
            // What the disk has, as the page cache has all of it: Redis's own death loses nothing.
            let from = Instant::now();
            let (data, kept) = (field.fleet.path("redis/appendonlydir"), field.fleet.path(&format!("kept-{round}")));
            copy(&data, &kept);
            what_is_forgotten(&field).await;
            field.fleet.redis_down().await;
            forgotten.push((from, Instant::now()));
            std::fs::remove_dir_all(&data).expect("it goes");
            copy(&kept, &data);
            field.fleet.redis_up().await;
        }
        judged(field, &forgotten).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_replica_that_was_behind_takes_over() {
        let mut dice = Dice::default();
        let mut field = Field::new(SIZE, "", &mut dice).await;
        let mut forgotten = Vec::new();
        for round in 0..ROUNDS {
            let dir = field.fleet.path(&format!("replica-{round}"));
            std::fs::create_dir(&dir).expect("a directory");
            let options =
                ServerOptions { socket: dir.join("redis.sock"), dir, path: field.fleet.servers(), lock: None };
            let replica = Server::start(options).await.expect("a replica starts");
            let way = Proxy::before(field.fleet.server.socket()).await;
            does(&replica.url(), &["REPLICAOF", "127.0.0.1", way.port()]).await;
            goes_on(&field, round).await;
            // Everything up to here is on the replica; whether later writes are is open.
            let from = until_replicated(&field).await;
            way.set(Way::Stopped);
            what_is_forgotten(&field).await;
            signal(field.fleet.redis_pid(), Signal::SIGKILL);
            field.fleet.server.ended().await;
            forgotten.push((from, Instant::now()));
            drop(way);
            does(&replica.url(), &["REPLICAOF", "NO", "ONE"]).await;
            for way in field.hosts.iter().map(|host| &host.way).chain([&field.way]) {
                way.lead_to(replica.socket());
                way.cut();
            }
            field.fleet.pool = Pool::connect(&replica.url()).await.expect("it answers");
            field.fleet.server = replica;
        }
        judged(field, &forgotten).await;
    }
}
