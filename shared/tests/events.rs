//! The log of a pool as its readers get it: everything, once, in order; or the word that it may not be all.

use std::time::Duration;

use motorpool::embedded::Server;
use motorpool::pool::{Events, Logged, Since};
use motorpool::{Entry, Pool, Spec, State, TaskOptions};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const TASKS: usize = 150;

async fn pool() -> (Server, Pool) {
    let server = Server::temporary().await.expect("a private Redis starts");
    let pool = Pool::connect(&server.url()).await.expect("the pool answers");
    (server, pool)
}

async fn event(events: &mut Events) -> Entry {
    let logged = timeout(PATIENCE, events.next()).await.expect("there is something to read").expect("Redis answers");
    match logged {
        Logged::Event(entry) => entry,
        Logged::Lagged => panic!("it lags"),
    }
}

async fn redis(server: &Server, command: &[&str]) -> redis::Value {
    let client = redis::Client::open(server.url()).expect("its URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.expect("it obeys")
}

fn word(entry: &Entry) -> String {
    format!("{} {} {}", entry.event.task, entry.event.n, entry.event.to)
}

#[tokio::test]
async fn every_event_is_read_once_by_who_stays_and_by_who_comes_back() {
    let (server, pool) = pool().await;
    let writing = async {
        for n in 0..TASKS {
            let id = pool.submit(Spec::new("p", TaskOptions::default()).unwrap()).await.unwrap().id;
            assert_eq!(pool.cancel(id, "over").await.unwrap(), State::Cancelled);
            if n % 40 == 20 {
                // Whoever listens is cut off, and whatever was published meanwhile is lost to him.
                redis(&server, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            }
        }
    };
    let staying = async {
        let mut events = pool.events(Since::Start).await.unwrap();
        let mut read = Vec::new();
        while read.len() < 2 * TASKS {
            read.push(event(&mut events).await);
        }
        read
    };
    let coming_back = async {
        let mut read: Vec<Entry> = Vec::new();
        while read.len() < 2 * TASKS {
            let since = read.last().map_or(Since::Start, |last| Since::Cursor(last.cursor.clone()));
            let mut events = pool.events(since).await.unwrap();
            for _ in 0..7.min(2 * TASKS - read.len()) {
                read.push(event(&mut events).await);
            }
        }
        read
    };
    let ((), stayed, came_back) = tokio::join!(writing, staying, coming_back);
    let wanted: Vec<String> =
        (1..=TASKS).flat_map(|n| [format!("t{n} 1 pending"), format!("t{n} 2 cancelled")]).collect();
    assert_eq!(stayed.iter().map(word).collect::<Vec<_>>(), wanted);
    assert_eq!(came_back, stayed);
    server.stop().await;
}

#[tokio::test]
async fn who_reads_from_now_on_gets_what_happens_and_not_what_was() {
    let (server, pool) = pool().await;
    let submit = async || pool.submit(Spec::new("p", TaskOptions::default()).unwrap()).await.unwrap().id;
    submit().await;
    let mut events = pool.events(Since::Now).await.unwrap();
    assert_eq!(events.ready().await.unwrap(), None);
    let id = submit().await;
    assert_eq!(event(&mut events).await.event.task, id);
    assert_eq!(events.ready().await.unwrap(), None);
    let error = pool.events(Since::Cursor("yesterday".into())).await.unwrap_err();
    assert!(error.hint_text().is_some(), "{error}");
    server.stop().await;
}

/// The log was cut above the reader, or begun anew below him: he is told once, and goes on with what there is.
#[tokio::test]
async fn who_is_off_the_log_is_told() {
    let (server, pool) = pool().await;
    let submit = async || pool.submit(Spec::new("p", TaskOptions::default()).unwrap()).await.unwrap().id;
    for _ in 0..5 {
        submit().await;
    }
    let mut events = pool.events(Since::Start).await.unwrap();
    let first = event(&mut events).await;
    let redis::Value::Array(keys) = redis(&server, &["KEYS", "*:events"]).await else { panic!("no keys") };
    let log: String = redis::from_redis_value(keys[0].clone()).expect("a key");
    for (command, left) in [
        (&["XTRIM", &log, "MAXLEN", "2"][..], ["t4 1 pending", "t5 1 pending"]),
        (&["DEL", &log], ["t6 1 pending", "t7 1 pending"]),
    ] {
        redis(&server, command).await;
        if command[0] == "DEL" {
            submit().await;
            submit().await;
        }
        let mut late = pool.events(Since::Cursor(first.cursor.clone())).await.unwrap();
        assert_eq!(late.next().await.unwrap(), Logged::Lagged);
        assert_eq!([word(&event(&mut late).await), word(&event(&mut late).await)], left);
        assert_eq!(late.ready().await.unwrap(), None, "told once");
    }
    server.stop().await;
}

/// Redis has lost its last second, or a newer version writes what this one does not know: the reader goes on.
#[tokio::test]
async fn a_log_that_lost_its_end_or_says_unknown_things_is_read_on() {
    let (server, pool) = pool().await;
    let submit = async || pool.submit(Spec::new("p", TaskOptions::default()).unwrap()).await.unwrap().id;
    for _ in 0..5 {
        submit().await;
    }
    let redis::Value::Array(keys) = redis(&server, &["KEYS", "*:events"]).await else { panic!("no keys") };
    let log: String = redis::from_redis_value(keys[0].clone()).expect("a key");
    let mut events = pool.events(Since::Start).await.unwrap();
    let mut last = String::new();
    for _ in 0..5 {
        last = event(&mut events).await.cursor;
    }
    redis(&server, &["XDEL", &log, &last]).await;
    assert_eq!(events.next().await.unwrap(), Logged::Lagged);
    assert_eq!(events.ready().await.unwrap(), None, "nothing comes twice");
    for n in 0..600 {
        redis(&server, &["XADD", &log, "*", "e", &format!("t1 {n} pending pending dreamt 0"), "t", "1"]).await;
    }
    let id = submit().await;
    assert_eq!(event(&mut events).await.event.task, id);
    assert_eq!(events.ready().await.unwrap(), None);
    for text in ["+5-0", "5", "5-", "18446744073709551615-18446744073709551615"] {
        assert!(Since::cursor(text).is_err(), "{text}");
    }
    server.stop().await;
}
