//! The stand-ins as programs: what they print, how they end, and that the recorded transcripts are whole.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

struct Claude {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Claude {
    fn start(arguments: &[&str]) -> Claude {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fake-claude"))
            .args(["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stand-in starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Claude { child, stdin, stdout }
    }

    fn send(&mut self, line: &Value) {
        writeln!(self.stdin.as_mut().expect("stdin is open"), "{line}").expect("the stand-in reads");
    }

    fn say(&mut self, text: &str) {
        self.send(&json!({"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": text}]}}));
    }

    /// Reads to the first event of a type, and gives all.
    fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let mut line = String::new();
            self.stdout.read_line(&mut line).expect("stdout is text");
            assert!(!line.is_empty(), "the output ended before {kind}: {events:?}");
            events.push(serde_json::from_str::<Value>(&line).expect("a line is JSON"));
            if events.last().is_some_and(|event| event["type"] == kind) {
                return events;
            }
        }
    }

    fn result(&mut self, text: &str) -> Value {
        self.say(text);
        self.until("result").pop().expect("not empty")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it is our child");
    }

    fn exit(mut self) -> Option<i32> {
        drop(self.stdin.take());
        self.child.wait().expect("it is our child").code()
    }
}

#[test]
fn it_says_what_it_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_fake-claude")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2.1.330 (motorpool stand-in for Claude Code)\n");
}

#[test]
fn it_knows_who_is_signed_in() {
    let check = |out: &str, code: i32, expected: bool| {
        let output = Command::new(env!("CARGO_BIN_EXE_fake-claude"))
            .args(["auth", "status", "--json"])
            .env("FAKE_CLAUDE_SIGNED_OUT", out)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["loggedIn"], expected);
    };
    check("", 0, true);
    check("1", 1, false);
}

#[test]
fn a_conversation_goes_through() {
    let mut claude = Claude::start(&["--model", "sonnet", "--session-id", "s1"]);
    claude.send(&json!({"type": "control_request", "request_id": "r1", "request": {"subtype": "initialize"}}));
    claude.say("Please\n@bash echo hi\n@say done\n@usage 3 4");
    let events = claude.until("result");
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["control_response", "system", "assistant", "user", "assistant", "result"]);
    assert_eq!(events[0]["response"]["request_id"], "r1");
    assert_eq!(events[1]["model"], "sonnet");
    assert_eq!(events[3]["message"]["content"][0]["content"], "hi");
    let result = &events[5];
    assert_eq!((&result["result"], &result["session_id"]), (&json!("done"), &json!("s1")));
    assert_eq!((&result["is_error"], &result["usage"]["output_tokens"]), (&json!(false), &json!(4)));
    assert_eq!(claude.result("@upper word")["result"], "WORD");
    assert_eq!(claude.exit(), Some(0));
}

#[test]
fn failures_look_like_the_real_ones() {
    let mut claude = Claude::start(&[]);
    let result = claude.result("@status 529");
    assert_eq!((&result["subtype"], &result["is_error"]), (&json!("success"), &json!(true)));
    assert_eq!(result["api_error_status"], 529);
    claude.say("@limit 60 seven_day");
    let events = claude.until("result");
    assert_eq!(events[1]["rate_limit_info"]["rateLimitType"], "seven_day");
    assert_eq!(events[2]["error"], "rate_limit");
    assert_eq!(claude.exit(), Some(1));

    let mut claude = Claude::start(&[]);
    claude.say("@exit 7");
    assert_eq!(claude.exit(), Some(7));
}

#[test]
fn it_can_be_interrupted_in_each_way() {
    let long = "@bash sleep 300\n@say no";
    let mut claude = Claude::start(&[]);
    claude.say(long);
    claude.until("assistant");
    claude.send(&json!({"type": "control_request", "request_id": "r2", "request": {"subtype": "interrupt"}}));
    assert_eq!(claude.until("result").pop().unwrap()["subtype"], "error_during_execution");
    assert_eq!(claude.exit(), Some(1));

    let mut claude = Claude::start(&[]);
    claude.say(long);
    claude.until("assistant");
    claude.signal(Signal::SIGINT);
    assert_eq!(claude.until("result").pop().unwrap()["terminal_reason"], "aborted_tools");
    assert_eq!(claude.exit(), Some(0));

    let mut claude = Claude::start(&[]);
    claude.say("@sleep 300000");
    claude.until("system");
    claude.signal(Signal::SIGTERM);
    let mut rest = String::new();
    claude.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(claude.exit(), Some(143));
}

#[test]
fn a_schema_is_answered() {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}).to_string();
    let mut claude = Claude::start(&["--json-schema", &schema]);
    assert_eq!(claude.result("@json {\"n\":3}")["structured_output"], json!({"n": 3}));
    assert_eq!(claude.result("plain")["structured_output"], json!({"n": 1}));
    assert!(claude.result("@text-instead").get("structured_output").is_none());
    assert_eq!(claude.exit(), Some(0));
}

#[test]
fn the_scripted_api_serves_until_stdin_ends() {
    let mut api = Command::new(env!("CARGO_BIN_EXE_fake-api"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the API starts");
    let mut line = String::new();
    BufReader::new(api.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").expect("a URL").to_owned();
    std::net::TcpStream::connect(&address).expect("it listens");
    drop(api.stdin.take());
    assert!(api.wait().unwrap().success());
}

#[test]
fn every_transcript_is_whole() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts");
    for version in ["2.1.197", "2.1.330"] {
        let read = |name: &str| std::fs::read_to_string(format!("{folder}/{version}/{name}")).unwrap();
        let meta: Value = serde_json::from_str(&read("meta.json")).unwrap();
        for (name, _) in meta.as_object().unwrap() {
            let text = read(&format!("{name}.jsonl"));
            let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let last = events.last().unwrap_or_else(|| panic!("{version}/{name} is empty"));
            assert_eq!(last["type"] == "result", name != "sigterm", "{version}/{name}");
        }
    }
}
