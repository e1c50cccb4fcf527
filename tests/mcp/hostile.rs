//! A coordinator that means ill, or is broken: whatever it sends, each call is answered or the connection ends, the
//! dispatcher lives, and what is refused has written nothing.

use motorpool_tests::faults::Dice;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::http::{Caller, Connection, Server};
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{Answer, ERAS, Era, Host, writes};
use serde_json::{Map, Value, json};

/// Most characters of an answer that was not asked for in full.
const LONGEST: usize = 12_000;

/// Words that something may stumble over.
const WORDS: &[&str] = &[
    "",
    " ",
    "t1",
    "t2",
    "t0",
    "t01",
    "T1",
    "t99999999999999999999",
    "-1",
    "null",
    "{}",
    "\u{0}",
    "\n\r\t",
    "\u{1b}[2J",
    "\u{202e}",
    "ä€𝄞",
    "\u{feff}",
    "../../etc/passwd",
    "mp:{default}:tasks",
    "'; FLUSHALL",
    "${HOME}",
    "@say x",
    "--help",
    "wait/any//1/1/ann",
    "tasks",
    "task",
    "slots",
    "events",
    "config",
    "running",
    "haiku",
    "plan",
    "none",
    "high",
];

/// A value of any kind.
fn anything(dice: &mut Dice, depth: usize) -> Value {
    match dice.one_of(if depth > 3 { 10 } else { 13 }) {
        0 => Value::Null,
        1 => (dice.one_of(2) == 0).into(),
        2 => [0, 1, -1, 7, 600, 601, i64::MAX, i64::MIN][dice.one_of(8)].into(),
        3 => u64::MAX.into(),
        4 => json!([0.5, -0.0, 1e308, 1e-300][dice.one_of(4)]),
        5..=8 => WORDS[dice.one_of(WORDS.len())].into(),
        9 => "x".repeat(1 << dice.one_of(if depth == 0 { 17 } else { 9 })).into(),
        10 | 11 => (0..dice.one_of(if depth == 0 { 50 } else { 6 }))
            .map(|_| anything(dice, depth + 1))
            .collect::<Vec<_>>()
            .into(),
        _ => {
            let names = (0..dice.one_of(6)).map(|_| WORDS[dice.one_of(WORDS.len())].to_owned());
            names
                .collect::<Vec<_>>()
                .into_iter()
                .map(|name| (name, anything(dice, depth + 1)))
                .collect::<Map<_, _>>()
                .into()
        }
    }
}

/// A value that the schema of an argument describes, as far as its kind goes.
fn described(dice: &mut Dice, schema: &Value) -> Value {
    if let Some(words) = schema["enum"].as_array() {
        return words[dice.one_of(words.len())].clone();
    }
    match schema["type"].as_str() {
        Some("string") => WORDS[dice.one_of(WORDS.len())].into(),
        Some("integer") => dice.one_of(100).into(),
        Some("number") => json!(dice.one_of(100) as f64 / 8.0),
        Some("boolean") => (dice.one_of(2) == 0).into(),
        Some("array") => (0..dice.one_of(4)).map(|_| described(dice, &schema["items"])).collect::<Vec<_>>().into(),
        Some("object") => json!({"type": "object"}),
        _ => anything(dice, 2),
    }
}

/// Arguments that fit more or less.
fn arguments(dice: &mut Dice, tool: &Value) -> Map<String, Value> {
    let mut arguments = Map::new();
    let properties = tool["inputSchema"]["properties"].as_object().cloned().unwrap_or_default();
    let needed = tool["inputSchema"]["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in &properties {
        let wanted = if needed.contains(&name.as_str().into()) { 9 } else { 2 };
        if dice.one_of(10) < wanted {
            let value = if dice.one_of(5) > 0 { described(dice, schema) } else { anything(dice, 0) };
            arguments.insert(name.clone(), value);
        }
    }
    if dice.one_of(8) == 0 {
        let name = WORDS[dice.one_of(WORDS.len())].to_owned();
        arguments.insert(name, anything(dice, 0));
    }
    // Nobody works here: what waits would wait for ever.
    let has_wait = properties.contains_key("wait_s") || tool["name"] == "pool_run";
    if has_wait && !matches!(arguments.get("wait_s").and_then(Value::as_u64), None | Some(601..)) {
        arguments.insert("wait_s".into(), 0.into());
    }
    if has_wait && matches!(arguments.get("wait_s"), None | Some(Value::Null)) {
        arguments.insert("wait_s".into(), 0.into());
    }
    arguments
}

/// Calls of tools, made up from their own schemas; each is answered, and refused ones write nothing.
async fn calls(era: Era, count: usize) {
    let mut dice = Dice::default();
    let fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
    it.call("pool_submit", json!({"prompt": "@say one"})).await.good();
    let tools = it.ask("tools/list", json!({})).await.unwrap()["tools"].as_array().unwrap().clone();
    let mut redis = fleet.redis().await;
    let (mut refused, mut errors, mut answered) = (0, 0, 0);
    for n in 0..count {
        let tool = &tools[dice.one_of(tools.len())];
        let arguments = arguments(&mut dice, tool);
        let params = match dice.one_of(20) {
            0 => {
                json!({"name": tool["name"], "arguments": arguments, "_meta": {"progressToken": anything(&mut dice, 4)}})
            }
            1 => {
                let id = anything(&mut dice, 2);
                json!({"name": tool["name"], "arguments": arguments, "_meta": {"claudecode/toolUseId": id}})
            }
            _ => json!({"name": tool["name"], "arguments": arguments}),
        };
        let shown = format!("call {n}: {}", params.to_string().chars().take(2_000).collect::<String>());
        // Any call notes that what was told before has arrived; the one that is looked at shall have nothing to note.
        it.call("pool_cancel", json!({})).await.bad();
        let before = writes(&mut redis).await;
        let id = it.request("tools/call", params).await;
        // A progress token of no kind makes it no call, which is said without its number.
        let answer = match it.answered_or_said(id).await {
            None => panic!("{shown} is not answered\n{}", it.logged()),
            Some(answer) => answer,
        };
        let text = match &answer {
            Ok(result) => {
                result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{shown}: {result}")).to_owned()
            }
            Err(error) => error.to_string(),
        };
        let is_refused = match &answer {
            Ok(result) => result["isError"] == true,
            Err(_) => true,
        };
        match (&answer, is_refused) {
            (Ok(_), true) => refused += 1,
            (Ok(_), false) => answered += 1,
            (Err(_), _) => errors += 1,
        }
        let is_full = arguments.get("full") == Some(&true.into());
        assert!(is_full || text.chars().count() < LONGEST, "{shown}: {text}");
        if is_refused {
            assert_eq!(writes(&mut redis).await, before, "{shown} was refused and has written: {text}");
        }
    }
    eprintln!("{era:?}: {answered} answered, {refused} refused, {errors} no calls at all");
    assert!(answered > count / 20 && refused > count / 20, "the calls are all of one kind");
    it.call("pool_status", json!({})).await.json();
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn made_up_calls_are_answered_and_refused_ones_write_nothing() {
    calls(Era::Legacy, 750).await;
}

#[tokio::test]
async fn so_they_are_where_each_says_all_itself() {
    calls(Era::Modern, 750).await;
}

#[tokio::test]
async fn a_hundred_calls_at_once_are_answered_each() {
    let mut dice = Dice::default();
    let fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, Host::FOLLOWING, &[]).await;
    let tools = it.ask("tools/list", json!({})).await.unwrap()["tools"].as_array().unwrap().clone();
    for _ in 0..3 {
        let mut ids = Vec::new();
        for _ in 0..100 {
            let tool = &tools[dice.one_of(tools.len())];
            let params = json!({"name": tool["name"], "arguments": arguments(&mut dice, tool)});
            ids.push(it.request("tools/call", params).await);
        }
        for id in ids {
            let _ = it.answer(id).await;
        }
    }
    it.end().await;
    fleet.end().await;
}

/// Lines that are no request of this protocol. Whoever sends them may lose the connection before it is established,
/// and not afterwards.
fn lines(dice: &mut Dice) -> Vec<Vec<u8>> {
    let call = json!({"name": "pool_submit", "arguments": {"prompt": "@say no"}});
    let mut lines: Vec<Vec<u8>> = [
        json!(null),
        json!(1),
        json!("x"),
        json!([]),
        json!({}),
        json!({"jsonrpc": "1.0", "id": "a", "method": "tools/list"}),
        json!({"jsonrpc": "2.0", "method": "tools/call"}),
        json!({"jsonrpc": "2.0", "id": null, "method": "tools/call", "params": call}),
        json!({"jsonrpc": "2.0", "id": {"a": 1}, "method": "tools/call", "params": call}),
        json!({"jsonrpc": "2.0", "id": [1], "method": "tools/call", "params": call}),
        json!({"jsonrpc": "2.0", "id": 1.5, "method": "tools/call", "params": call}),
        json!({"jsonrpc": "2.0", "id": true, "method": "tools/call", "params": call}),
        json!({"jsonrpc": "2.0", "id": "b", "method": 7, "params": call}),
        json!({"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": [call]}),
        json!({"jsonrpc": "2.0", "id": "d", "method": "tools/call", "params": "x"}),
        json!({"jsonrpc": "2.0", "id": "e", "method": "tools/call", "params": {"name": 7}}),
        json!({"jsonrpc": "2.0", "id": "f", "method": "tools/call", "params": {"name": "pool_run", "arguments": [1]}}),
        json!({"jsonrpc": "2.0", "id": "g", "method": "tools/call", "params": {"arguments": {}}}),
        json!({"jsonrpc": "2.0", "id": "h", "method": "tools/call", "params": {"name": "x".repeat(100_000)}}),
        json!({"jsonrpc": "2.0", "id": "i", "method": "x".repeat(100_000)}),
        json!({"jsonrpc": "2.0", "id": "j", "method": "tools/list", "params": {"_meta": 5}}),
        json!({"jsonrpc": "2.0", "id": "k", "method": "tools/list", "params": {"cursor": {}}}),
        json!({"jsonrpc": "2.0", "id": "l", "method": "tasks/get", "params": {"taskId": 5}}),
        json!({"jsonrpc": "2.0", "id": "m", "method": "resources/read", "params": {}}),
        json!({"jsonrpc": "2.0", "id": "n", "method": "completion/complete", "params": {"ref": {}}}),
        json!({"jsonrpc": "2.0", "id": 999_999, "result": {}}),
        json!({"jsonrpc": "2.0", "id": 999_999, "error": {"code": 1, "message": "x"}}),
        json!({"jsonrpc": "2.0", "id": "o", "result": {}, "error": {}}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled"}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": {"a": []}}}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 999_999}}),
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": []}}),
        json!({"jsonrpc": "2.0", "method": "notifications/nonsense", "params": {"x": 1}}),
        json!([{"jsonrpc": "2.0", "id": "p", "method": "tools/call", "params": call}]),
    ]
    .into_iter()
    .map(|line| line.to_string().into_bytes())
    .collect();
    lines.push(format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000)).into_bytes());
    lines.push(format!("{{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":{}", "{\"a\":".repeat(5_000)).into_bytes());
    lines.push(
        b"{\"jsonrpc\":\"2.0\",\"id\":\"r\",\"method\":\"tools/call\",\"params\":{\"name\":\"\xff\xfe\"}}".to_vec(),
    );
    lines.push(b"\r".to_vec());
    lines.push(b"Content-Length: 5".to_vec());
    for _ in 0..60 {
        let length = 1 << dice.one_of(13);
        // All but the end of a line, which would make two of it.
        let bytes = (0..length).map(|_| dice.one_of(256) as u8).map(|byte| if byte == b'\n' { 0 } else { byte });
        lines.push(bytes.collect());
    }
    lines
}

#[tokio::test]
async fn lines_that_are_no_request_end_nothing() {
    for era in ERAS {
        let mut dice = Dice::default();
        let fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        it.call("pool_status", json!({})).await.json();
        let before = fleet.writes().await;
        for line in lines(&mut dice) {
            it.send_bytes(&line).await;
            it.send_bytes(b"\n").await;
            let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            let id = it.begin("pool_status", json!({})).await;
            let answer = it.answer_if_any(id).await;
            assert!(answer.is_some_and(|answer| answer.is_ok()), "{era:?}, after {shown:?}\n{}", it.logged());
        }
        assert_eq!(fleet.writes().await, before, "{era:?}");
        // The call of a tool is answered under its own id, however odd the rest of it is.
        let asked = lines(&mut dice).into_iter().filter_map(|line| serde_json::from_slice::<Value>(&line).ok());
        let is_call = |line: &Value| line["method"] == "tools/call" && line["params"].is_object();
        let asked = asked.filter(|line| is_call(line) && line["id"].is_string() && line["jsonrpc"] == "2.0");
        for request in asked {
            it.hears(&format!("an answer to {}", request["id"]), |message| message["id"] == request["id"]).await;
        }
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn what_begins_badly_is_answered_or_ends() {
    let mut dice = Dice::default();
    let fleet = Fleet::new(Cli::StandIn).await;
    let before = fleet.writes().await;
    // One dispatcher for several lines, so that there are not too many; each line is some dispatcher's first.
    let all = lines(&mut dice);
    for chunk in all.chunks(4) {
        let mut it = Coordinator::open(&fleet, Era::Legacy, &[]);
        for line in chunk {
            it.send_bytes(line).await;
            it.send_bytes(b"\n").await;
        }
        let id = it.request("initialize", it.host.initialize()).await;
        let greeted = it.answer_if_any(id).await;
        it.hang_up().await;
        let status = it.ended().await;
        let code = status.code();
        let shown: Vec<_> = chunk.iter().map(|line| String::from_utf8_lossy(&line[..line.len().min(100)])).collect();
        assert!(matches!(code, Some(0 | 1)), "{shown:?}: {status}\n{}", it.logged());
        assert!(greeted.is_some() || code == Some(1), "{shown:?}: it ended and does not say why\n{}", it.logged());
        assert!(!it.logged().contains("panicked"), "{shown:?}\n{}", it.logged());
        assert_eq!(it.odd(), Vec::<String>::new(), "{shown:?}");
    }
    assert_eq!(fleet.writes().await, before);
    fleet.end().await;
}

#[tokio::test]
async fn bodies_that_are_no_request_end_nothing() {
    let mut dice = Dice::default();
    let fleet = Fleet::new(Cli::StandIn).await;
    let server = Server::start(&fleet, &[]).await;
    for era in ERAS {
        let ann = Caller::meet(&server, era, None).await;
        let before = fleet.writes().await;
        for line in lines(&mut dice) {
            let mut connection = Connection::open(server.address).await;
            let message = json!({"method": "tools/call", "params": {"name": "pool_submit"}});
            let head = ann.head_of(&message);
            let length = format!("content-length: {}\r\n", message.to_string().len());
            let head = head.replace(&length, &format!("content-length: {}\r\n", line.len()));
            connection.write(&[head.as_bytes(), &line].concat()).await;
            let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            let status = connection.head().await.unwrap_or_else(|| panic!("{shown}: no response")).status;
            assert!((200..500).contains(&status), "{era:?}, {shown}: {status}");
        }
        // Bytes that are no HTTP.
        for length in [1, 100, 10_000] {
            let mut connection = Connection::open(server.address).await;
            let bytes: Vec<u8> = (0..length).map(|_| dice.one_of(256) as u8).collect();
            connection.write(&bytes).await;
            connection.write(b"\r\n\r\n").await;
            let head = connection.head().await;
            assert!(head.as_ref().is_none_or(|head| head.status == 400), "{head:?}");
        }
        assert_eq!(fleet.writes().await, before, "{era:?}");
        ann.call("pool_status", json!({})).await.json();
    }
    server.end().await;
    fleet.end().await;
}

mod long {
    use super::*;

    #[tokio::test]
    async fn ten_thousand_made_up_calls_are_answered() {
        for era in ERAS {
            calls(era, 5_000).await;
        }
    }

    #[tokio::test]
    async fn a_line_beyond_the_limit_is_dropped_and_the_next_one_answered() {
        let fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, Era::Legacy, &[]).await;
        let before = fleet.writes().await;
        let prompt = "x".repeat(17 * 1024 * 1024);
        let _: u64 = it.begin("pool_submit", json!({ "prompt": prompt })).await;
        let answer: Answer = it.ask("tools/call", json!({"name": "pool_status", "arguments": {}})).await;
        answer.unwrap();
        assert_eq!(fleet.writes().await, before);
        it.end().await;
        fleet.end().await;
    }
}
