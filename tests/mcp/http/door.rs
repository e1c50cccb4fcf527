//! Who is let in, and how large and slow a request may be.

use std::time::Duration;

use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::http::{Caller, Connection, Head, Server};
use motorpool_tests::mcp::{ERAS, Host, Told};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{line, token, tokens};
use crate::{gated, let_go, t};

/// What is answered to a request of these lines.
async fn answered(server: &Server, lines: &str, body: &str) -> (Head, String) {
    let mut connection = Connection::open(server.address).await;
    let length = body.len();
    let rest = format!("connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    connection.write(format!("{lines}{rest}").as_bytes()).await;
    let head = connection.head().await.expect("a response");
    let body = connection.body().await;
    (head, body)
}

fn hello() -> String {
    let params = Host::from(ERAS[0]).initialize();
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string()
}

const POST: &str = "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                    accept: application/json, text/event-stream\r\n";

#[tokio::test]
async fn who_has_no_token_is_let_in_nowhere() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let expired = format!("{} 2020-01-31", line("old"));
    let file = tokens(&fleet, &[line("ann"), expired]);
    let server = Server::start(&fleet, &["--token-file", &file.display().to_string()]).await;
    let given = |value: &str| format!("{POST}authorization: {value}\r\n");
    let cases = [
        (POST.to_owned(), "a token is needed", "Bearer"),
        (given("Bearer"), "a token is needed", "Bearer"),
        (given(&format!("Basic {}", token("ann"))), "a token is needed", "Bearer"),
        (given("Bearer nobody's"), "not known", "Bearer error=\"invalid_token\""),
        (given(&format!("Bearer {}x", token("ann"))), "not known", "Bearer error=\"invalid_token\""),
        (given(&format!("Bearer {}", &token("ann")[1..])), "not known", "Bearer error=\"invalid_token\""),
        (given(&format!("Bearer {}", token("old"))), "expired", "expired"),
        (POST.replace("/mcp", &format!("/mcp?access_token={}", token("ann"))), "a token is needed", "Bearer"),
        (POST.replace("POST", "GET"), "a token is needed", "Bearer"),
        (POST.replace("POST", "DELETE"), "a token is needed", "Bearer"),
    ];
    for (lines, words, challenge) in cases {
        let (head, body) = answered(&server, &lines, &hello()).await;
        assert_eq!(head.status, 401, "{lines}");
        assert!(body.contains(words), "{lines}: {body}");
        assert!(head.header("www-authenticate").is_some_and(|value| value.contains(challenge)), "{lines}: {head:?}");
        assert_eq!(head.header("mcp-session-id"), None, "{lines}");
    }
    let (head, _) = answered(&server, &given(&format!("bearer {}", token("ann"))), &hello()).await;
    assert_eq!(head.status, 200);
    assert_eq!(server.health().await, 200);
    let (head, _) = answered(&server, "GET /elsewhere HTTP/1.1\r\nhost: 127.0.0.1\r\n", "").await;
    assert!((400..500).contains(&head.status), "{head:?}");
    assert!(!server.logged().contains("-ann"), "a token is logged: {}", server.logged());
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_page_of_elsewhere_is_let_in_nowhere() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let server =
        Server::start(&fleet, &["--allowed-host=farm.example.com", "--allowed-origin=https://example.com:443"]).await;
    let host = |host: &str| POST.replace("host: 127.0.0.1", &format!("host: {host}"));
    let origin = |origin: &str| format!("{POST}origin: {origin}\r\n");
    let cases = [
        (host("localhost:1"), 200),
        (host("[::1]"), 200),
        (host("farm.example.com"), 200),
        (host("evil.example.com"), 403),
        (host("127.0.0.1.example.com"), 403),
        (host("farm.example.com.example.com"), 403),
        (host("a b"), 400),
        (POST.replace("host: 127.0.0.1\r\n", ""), 400),
        (origin("http://localhost:3000"), 200),
        (origin("https://example.com"), 200),
        (origin("http://example.com"), 403),
        (origin("http://evil.example.com"), 403),
        (origin("null"), 403),
        (origin("nonsense"), 403),
    ];
    for (lines, status) in cases {
        let (head, body) = answered(&server, &lines, &hello()).await;
        assert_eq!(head.status, status, "{lines}: {body}");
    }
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_request_may_be_so_large_and_no_larger() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let server = Server::start(&fleet, &[]).await;
    for era in ERAS {
        let ann = Caller::meet(&server, era, None).await;
        let prompt = "x".repeat(1024 * 1024);
        ann.call("pool_submit", json!({ "prompt": prompt })).await.good();
        let told = ann.call("pool_submit", json!({"prompt": format!("{prompt}x")})).await.bad();
        assert!(told.contains("at most 1048576 are taken"), "{told}");
        let before = fleet.writes().await;
        // Told beforehand, it is not even sent.
        let mut connection = Connection::open(server.address).await;
        connection.write(format!("{POST}content-length: 20971521\r\n\r\n").as_bytes()).await;
        assert_eq!(connection.head().await.expect("a response").status, 413);
        // Else it is read to its limit.
        let mut connection = Connection::open(server.address).await;
        connection.write(format!("{POST}transfer-encoding: chunked\r\n\r\n").as_bytes()).await;
        let chunk = format!("100000\r\n{}\r\n", "x".repeat(0x0010_0000));
        for _ in 0..21 {
            connection.write(chunk.as_bytes()).await;
        }
        // Who goes on sending may lose the answer with the connection.
        assert!(connection.head().await.is_none_or(|head| head.status == 413));
        for body in ["{", "[]", "\u{1}", "", "{\"jsonrpc\":\"2.0\"}"] {
            let (head, words) = answered(&server, POST, body).await;
            assert!((400..500).contains(&head.status), "{body:?}: {head:?} {words}");
        }
        assert_eq!(fleet.writes().await, before);
        ann.call("pool_status", json!({})).await.json();
    }
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn who_sends_too_slowly_is_sent_away_and_holds_nobody_up() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let (mut command, log) = fleet.dispatcher(&["--http=127.0.0.1:0"]);
    command.env("MOTORPOOL_ARRIVES_WITHIN_MS", "700");
    let server = Server::of(&fleet, &mut command, log).await;
    // Silent, in the middle of the head, in the middle of the body, and a byte now and then.
    let beginnings =
        ["", "POST /mcp HTTP/1.1\r\nhost: 127", &format!("{POST}content-length: 100\r\n\r\n{{\"jsonrpc\"")];
    let mut slow = Vec::new();
    for beginning in beginnings {
        let mut connection = Connection::open(server.address).await;
        connection.write(beginning.as_bytes()).await;
        slow.push(connection);
    }
    let mut dripping = Connection::open(server.address).await;
    dripping.write(format!("{POST}transfer-encoding: chunked\r\n\r\n").as_bytes()).await;
    let mut meanwhile = 0;
    let dripped = timeout(Duration::from_secs(15), async {
        // A byte with each answer that others get: this never ends by itself.
        loop {
            assert_eq!(server.health().await, 200);
            meanwhile += 1;
            dripping.write(b"1\r\nx\r\n").await;
            if let Ok(head) = timeout(Duration::from_millis(20), dripping.head()).await {
                return head;
            }
        }
    });
    let head = dripped.await.expect("an end of the patience");
    assert!(head.is_none_or(|head| head.status == 408));
    eprintln!("{meanwhile} others were answered meanwhile");
    assert!(meanwhile > 1);
    for (mut connection, beginning) in slow.into_iter().zip(beginnings) {
        let head = timeout(Duration::from_secs(15), connection.head()).await.expect("an end of the patience");
        assert!(head.is_none_or(|head| head.status == 408), "{beginning:?}");
    }
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn an_address_that_others_reach_needs_tokens() {
    let fleet = Fleet::new(Cli::StandIn).await;
    for (address, file) in [("0.0.0.0:0", None), ("[::]:0", None), ("0.0.0.0:0", Some("nowhere"))] {
        let mut args = vec!["--http", address];
        args.extend(file.map(|_| "--token-file"));
        args.extend(file);
        let (mut command, log) = fleet.dispatcher(&args);
        let status = timeout(motorpool_tests::fleet::PATIENCE, command.status()).await.expect("it ends").unwrap();
        let said = std::fs::read_to_string(log).unwrap();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains("token") && !said.contains("serving MCP on"), "{said}");
    }
    let file = tokens(&fleet, &[line("ann")]);
    let (mut command, log) = fleet.dispatcher(&["--http=0.0.0.0:0", "--token-file", &file.display().to_string()]);
    let server = Server::of(&fleet, &mut command, log).await;
    assert_eq!(server.health().await, 200);
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn tokens_are_read_again_on_request_and_bad_ones_change_nothing() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let file = tokens(&fleet, &[line("ann"), line("bob")]);
    let server = Server::start(&fleet, &["--token-file", &file.display().to_string()]).await;
    let status = async |name: &str| {
        answered(&server, &format!("{POST}authorization: Bearer {}\r\n", token(name)), &hello()).await.0.status
    };
    assert_eq!((status("ann").await, status("bob").await, status("eve").await), (200, 200, 401));
    tokens(&fleet, &[line("ann"), line("eve")]);
    assert_eq!(status("bob").await, 200, "nobody has asked for it yet");
    server.signal(Signal::SIGHUP);
    fleet.until("bob is let in no more", async |_| (status("bob").await == 401).then_some(())).await;
    assert_eq!((status("ann").await, status("eve").await), (200, 200));

    for (n, bad) in ["ann short", "", "ann"].into_iter().enumerate() {
        tokens(&fleet, &[bad.to_owned()]);
        server.signal(Signal::SIGHUP);
        let words = "the tokens were not read again";
        fleet.until(words, async |_| (server.logged().matches(words).count() == n + 1).then_some(())).await;
        assert_eq!((status("ann").await, status("eve").await, status("bob").await), (200, 200, 401));
    }
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_token_is_its_coordinator() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let file = tokens(&fleet, &[line("ann"), line("bob")]);
    let server = Server::start(&fleet, &["--coordinator=host", "--token-file", &file.display().to_string()]).await;
    for era in ERAS {
        let ann = Caller::meet(&server, era, Some(&token("ann"))).await;
        let bob = Caller::meet(&server, era, Some(&token("bob"))).await;
        let id = ann.call("pool_submit", json!({"prompt": "@say for ann"})).await.json();
        let id = id["id"].as_str().unwrap().to_owned();
        let wait = json!({"wait_s": 60});
        let told = bob.call("pool_wait", wait.clone()).await.good();
        assert!(told.ends_with("(coordinator bob)"), "{told}");
        let told = ann.call("pool_wait", wait.clone()).await.good();
        assert!(told.starts_with(&format!("{id} completed")) && told.contains("\nfor ann\n"), "{told}");
        let told = ann.call("pool_wait", wait).await.good();
        assert_eq!(told, "nothing is new, and nothing of yours is under way (coordinator ann)");
        let told = bob.call("pool_view", json!({"what": "task", "id": id})).await.good();
        assert!(told.contains("\ncoordinator ann\n"), "{told}");
        // A session belongs to its connection, its requests to whoever makes them.
        let mut other = ann;
        other.token(&token("bob"));
        let told = other.call("pool_wait", json!({})).await.good();
        assert!(told.ends_with("(coordinator bob)"), "{told}");
        other.token("nobody's");
        let message = other.message("tools/list", Value::Object(serde_json::Map::new()));
        assert_eq!(other.post(&message).await.head.status, 401);
    }
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_look_with_another_token_takes_no_news_away() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let file = tokens(&fleet, &[line("ann"), line("bob")]);
    let server = Server::start(&fleet, &["--token-file", &file.display().to_string()]).await;
    let ann = Caller::meet(&server, Host::FOLLOWING, Some(&token("ann"))).await;
    let bob = Caller::meet(&server, Host::FOLLOWING, Some(&token("bob"))).await;
    let begin = async |tool: &str, arguments: Value| {
        let begun = ann.ask("tools/call", json!({"name": tool, "arguments": arguments})).await.unwrap();
        begun["taskId"].as_str().unwrap_or_else(|| panic!("{tool}: {begun}")).to_owned()
    };
    let text = async |caller: &Caller, id: &str| {
        let task = caller.ask("tasks/get", json!({ "taskId": id })).await.unwrap();
        assert_eq!(task["status"], "completed", "{task}");
        Told::of(&task["result"]).good()
    };
    let run = begin("pool_run", json!({"prompt": gated("go")})).await;
    let waits = [begin("pool_wait", json!({})).await, begin("pool_wait", json!({"ids": ["t1"]})).await];
    let_go(&fleet, "go");
    fleet.over(t(1)).await;
    for id in [run].iter().chain(&waits) {
        let seen = text(&bob, id).await;
        assert!(seen.starts_with("t1 completed") && seen.contains("\nlet go\n"), "{id}: {seen}");
    }
    // This shows that bob has them, and says nothing of ann.
    bob.call("pool_status", json!({})).await.json();
    let news = ann.call("pool_wait", json!({})).await.good();
    assert!(news.starts_with("t1 completed") && !news.contains("handed over before"), "{news}");
    let news = ann.call("pool_wait", json!({})).await.good();
    assert!(news.starts_with("nothing is new"), "{news}");
    // Its own token's look is an answer like any other.
    let run = begin("pool_run", json!({"prompt": "@say two"})).await;
    fleet.over(t(2)).await;
    assert!(text(&ann, &run).await.starts_with("t2 completed"));
    let news = ann.call("pool_wait", json!({})).await.good();
    assert!(news.starts_with("nothing is new"), "{news}");
    server.end().await;
    fleet.end().await;
}
