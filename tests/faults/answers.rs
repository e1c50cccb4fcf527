//! Redis answers, but not with what it was asked for: each reason in turn, while a worker is idle, another at work, and
//! a client waits. All go on by themselves once the reason is gone, and nothing is charged.

use std::time::Duration;

use motorpool::Pool;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::servers::Process;
use nix::sys::signal::Signal;
use serde_json::json;

/// Longer than any of this takes, so that no run is lost for the time that the test takes.
const LEASE_S: u64 = 60;

/// A reason.
struct Reason {
    /// What the operator does, and does to end it.
    begins: &'static [&'static [&'static str]],
    ends: &'static [&'static [&'static str]],
    /// The error that a write meets by then, where the operator is not the only one who is left.
    meets: Option<&'static str>,
    /// What the workers say.
    says: &'static str,
    /// Whether reading works all the time, so that a client has nothing to wait for.
    reads: bool,
}

async fn go_on_by_themselves(reason: Reason) {
    let mut fleet = Fleet::with_lease(Cli::StandIn, LEASE_S).await;
    let dir = fleet.path("own");
    std::fs::create_dir_all(dir.join("taken")).expect("a directory");
    let server = Process::redis(&dir, |port| {
        let port = port.to_string();
        let flags = ["--port", &port, "--requirepass", "one", "--enable-protected-configs", "yes"];
        flags.map(str::to_owned).to_vec()
    })
    .await;
    let url = format!("redis://:one@127.0.0.1:{}", server.port);
    let mut operator = server.operator("one").await;
    let lease = Duration::from_secs(LEASE_S);
    let pool = Pool::builder(&url).lease(lease).patience(Duration::from_secs(60)).connect().await.expect("it answers");
    let own = std::mem::replace(&mut fleet.pool, pool);
    fleet.env("MOTORPOOL_REDIS_URL", &url);
    let (idle, busy) = (fleet.worker(&["--lanes", "a"]), fleet.worker(&["--lanes", "b"]));
    fleet.all_joined(2).await;
    let prompt = "@bash touch begun; until [ -e go ]; do sleep 0.02; done\n@say kept";
    let id = fleet.submit(prompt, json!({"lane": "b"})).await;
    fleet.until("the task has begun", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    let client = fleet.start("motorpool", &["result", &id.to_string(), "--wait"]);
    let client_log = fleet.path(&format!("motorpool-{}.log", 2));
    fleet
        .until("the client waits", async |_| {
            // It listens to what happens.
            let mut operator = operator.clone();
            let channels: Vec<String> = operator.does(&["PUBSUB", "CHANNELS", "*feed*"]).await;
            (!channels.is_empty()).then_some(())
        })
        .await;
    for command in reason.begins {
        if *command == ENDLESS {
            let mut other = server.operator("one").await;
            // Its end is an error.
            tokio::spawn(async move { redis::cmd("EVAL").arg(&ENDLESS[1..]).query_async::<()>(&mut other.0).await });
            continue;
        }
        let _: redis::Value = operator.does(command).await;
    }
    if let Some(error) = reason.meets {
        fleet
            .until("a write is refused", async |_| {
                let answer: redis::RedisResult<i64> =
                    redis::cmd("DEL").arg("nothing").query_async(&mut operator.0).await;
                (answer.err()?.code()? == error).then_some(())
            })
            .await;
    }
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    fleet
        .until("the workers say so", async |fleet| {
            let logs = fleet.logs();
            (logs.contains("Redis is away; reconnecting") && logs.contains(reason.says)).then_some(())
        })
        .await;
    if !reason.reads {
        let said = |log: String| log.contains("reconnecting: ").then_some(());
        fleet.until("the client says so", async |_| said(std::fs::read_to_string(&client_log).ok()?)).await;
    }
    for command in reason.ends {
        let _: redis::Value = operator.does(command).await;
    }
    let record = fleet.over(id).await;
    assert_eq!((record.run, record.attempt), (1, 1), "{}", fleet.logs());
    assert_eq!(record.output.as_deref(), Some("kept"), "{}", fleet.logs());
    assert_eq!(fleet.ended(client).await, Some(0), "{}", fleet.logs());
    let told = std::fs::read_to_string(&client_log).expect("its log");
    assert_eq!(told.matches("reconnecting: ").count(), usize::from(!reason.reads), "{told}");
    assert_eq!(told.matches("connected again").count(), usize::from(!reason.reads), "{told}");
    // The idle one, too.
    let next = fleet.run("@say next", json!({"lane": "a"})).await;
    assert_eq!((next.run, next.attempt), (1, 1), "{}", fleet.logs());
    assert!(fleet.logs().contains("Redis is back"), "{}", fleet.logs());
    assert!(!fleet.logs().contains(":one@"), "{}", fleet.logs());
    assert_eq!(fleet.pool.examine().await.expect("it answers").broken, Vec::<String>::new());
    for pid in [idle, busy] {
        fleet.kill(pid, Signal::SIGTERM);
        assert_eq!(fleet.ended(pid).await, Some(0), "{}", fleet.logs());
    }
    fleet.pool = own;
    drop(server);
    fleet.end().await;
}

/// Whom a new connection is needed of.
const OUT: [&[&str]; 2] = [&["CLIENT", "KILL", "TYPE", "normal"], &["CLIENT", "KILL", "TYPE", "pubsub"]];

/// A script that ends when it is killed.
const ENDLESS: &[&str] = &["EVAL", "while true do end", "0"];

#[tokio::test]
async fn busy_with_a_script_of_somebody_else() {
    go_on_by_themselves(Reason {
        begins: &[&["CONFIG", "SET", "busy-reply-threshold", "50"], ENDLESS],
        ends: &[&["SCRIPT", "KILL"]],
        meets: Some("BUSY"),
        says: "a script of somebody else keeps Redis busy: BUSY",
        reads: false,
    })
    .await;
}

#[tokio::test]
async fn readonly_as_a_replica() {
    go_on_by_themselves(Reason {
        begins: &[&["REPLICAOF", "127.0.0.1", "1"]],
        ends: &[&["REPLICAOF", "NO", "ONE"]],
        meets: Some("READONLY"),
        says: "READONLY You can't write against a read only replica",
        reads: true,
    })
    .await;
}

#[tokio::test]
async fn masterdown_as_a_replica_without_its_primary() {
    go_on_by_themselves(Reason {
        begins: &[&["CONFIG", "SET", "replica-serve-stale-data", "no"], &["REPLICAOF", "127.0.0.1", "1"]],
        ends: &[&["REPLICAOF", "NO", "ONE"]],
        meets: Some("READONLY"),
        says: "MASTERDOWN Link with MASTER is down",
        reads: false,
    })
    .await;
}

#[tokio::test]
async fn noreplicas_where_some_are_wanted() {
    go_on_by_themselves(Reason {
        begins: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        ends: &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
        meets: Some("NOREPLICAS"),
        says: "NOREPLICAS Not enough good replicas to write",
        reads: true,
    })
    .await;
}

#[tokio::test]
async fn misconf_where_the_disk_takes_nothing() {
    go_on_by_themselves(Reason {
        // A directory has the name of the file, so it cannot be written.
        begins: &[&["CONFIG", "SET", "dbfilename", "taken"], &["CONFIG", "SET", "save", "3600 1"], &["BGSAVE"]],
        ends: &[&["CONFIG", "SET", "dbfilename", "dump.rdb"], &["SAVE"]],
        meets: Some("MISCONF"),
        says: "MISCONF",
        reads: true,
    })
    .await;
}

#[tokio::test]
async fn wrongpass_where_the_password_was_changed() {
    go_on_by_themselves(Reason {
        begins: &[&["CONFIG", "SET", "requirepass", "another"], OUT[0], OUT[1]],
        ends: &[&["CONFIG", "SET", "requirepass", "one"]],
        meets: None,
        says: "Redis wants another user or password: WRONGPASS",
        reads: false,
    })
    .await;
}

#[tokio::test]
async fn no_more_clients_where_all_places_are_taken() {
    go_on_by_themselves(Reason {
        begins: &[&["CONFIG", "SET", "maxclients", "1"], OUT[0], OUT[1]],
        ends: &[&["CONFIG", "SET", "maxclients", "1000"]],
        meets: None,
        says: "Redis has all the clients that it takes: ERR max number of clients reached",
        reads: false,
    })
    .await;
}
