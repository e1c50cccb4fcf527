//! A stand-in for the Claude Code CLI, for tests that need hundreds of processes: no runtime, no API, little memory.
//!
//! It speaks stream-json on stdin and stdout and obeys a subset of the directives of `motorpool_tests::api`: `@say`,
//! `@upper`, `@sleep`, `@bash`, `@write`, `@status`, `@limit`, `@json`, `@text-instead`, `@usage`, `@exit`. As with
//! the oldest supported CLI, a command of `@bash` runs in a session of its own and outlives SIGTERM and SIGKILL.
//! With `FAKE_CLAUDE_SIGNED_OUT=1` it says that nobody is signed in.

#[path = "fake_claude/shapes.rs"]
mod shapes;

use motorpool_tests::api::answer::sample;
use motorpool_tests::api::script::{Failure, Piece, Script, Trouble, usual_message};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use shapes::{Ended, Shapes, error_text, uuid};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The version that it stands in for, so that a worker takes it.
const VERSION: &str = "2.1.330";
/// Longer than any test runs; a wait without an end of its own.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

enum Event {
    Line(String),
    End,
    Signal(i32),
    Tool(io::Result<Output>),
}

/// Why a turn ends before its time.
enum Stop {
    Interrupt,
    Sigint,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--version" | "-v"] => {
            println!("{VERSION} (motorpool stand-in for Claude Code)");
            ExitCode::SUCCESS
        }
        ["--help" | "-h"] => {
            println!(
                "Motorpool's stand-in for Claude Code. It takes every flag of the real one and heeds few of them."
            );
            ExitCode::SUCCESS
        }
        ["auth", "status", ..] => auth_status(),
        _ => ExitCode::from(Cli::new(&words).run()),
    }
}

fn auth_status() -> ExitCode {
    if std::env::var("FAKE_CLAUDE_SIGNED_OUT").is_ok_and(|value| value == "1") {
        println!(r#"{{"loggedIn":false,"authMethod":"none","apiProvider":"firstParty"}}"#);
        return ExitCode::FAILURE;
    }
    println!(r#"{{"loggedIn":true,"authMethod":"api_key","apiKeySource":"ANTHROPIC_API_KEY"}}"#);
    ExitCode::SUCCESS
}

struct Cli {
    shapes: Shapes,
    events: Receiver<Event>,
    sender: Sender<Event>,
    waiting: VecDeque<Value>,
    ended: bool,
    replay: bool,
    schema: Option<Value>,
    code: u8,
}

impl Cli {
    fn new(words: &[&str]) -> Cli {
        let flag = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1).copied());
        let (sender, events) = channel();
        listen(&sender);
        Cli {
            shapes: Shapes {
                session_id: flag("--session-id").or(flag("--resume")).map_or_else(uuid, str::to_owned),
                model: flag("--model").unwrap_or("claude-stand-in").into(),
                permission_mode: flag("--permission-mode").unwrap_or("default").into(),
                cwd: std::env::current_dir().unwrap_or_default().display().to_string(),
            },
            events,
            sender,
            waiting: VecDeque::new(),
            ended: false,
            replay: words.contains(&"--replay-user-messages"),
            schema: flag("--json-schema").and_then(|text| serde_json::from_str(text).ok()),
            code: 0,
        }
    }

    fn run(mut self) -> u8 {
        loop {
            while let Some(message) = self.waiting.pop_front() {
                if let Some(Stop::Sigint) = self.turn(&message) {
                    return 0;
                }
            }
            if self.ended {
                return self.code;
            }
            // Idle: a signal to interrupt ends the process, an interrupt request has nothing to end.
            if let Err(Stop::Sigint) = self.wait(FOREVER, true) {
                return 0;
            }
        }
    }

    /// One prompt from init to result; gives what stopped it early.
    fn turn(&mut self, message: &Value) -> Option<Stop> {
        let begin = Instant::now();
        let prompt = text_of(message);
        let script = Script::parse(&prompt).unwrap_or_default();
        self.print(&self.shapes.init());
        self.echo(message);
        let (ended, stop) = match self.play(&script, &prompt) {
            Ok(ended) => (ended, None),
            Err(stop) => {
                let note = json!([{"type": "text", "text": "[Request interrupted by user for tool use]"}]);
                self.print(&self.shapes.user(note));
                let subtype = "error_during_execution";
                (
                    Ended {
                        subtype,
                        terminal_reason: "aborted_tools",
                        text: None,
                        ..Ended::well(String::new(), None, 3)
                    },
                    Some(stop),
                )
            }
        };
        self.code = u8::from(ended.is_error());
        self.print(&self.shapes.result(&ended, &script, begin.elapsed()));
        stop
    }

    fn play(&mut self, script: &Script, prompt: &str) -> Result<Ended, Stop> {
        self.wait(script.sleep, false)?;
        if let Some(line) = script.mistakes.first() {
            let message = format!("fake-claude cannot read the directive: {line}");
            return Ok(self.fail(Failure { status: 400, message }, None));
        }
        for tool in &script.tools {
            self.tool(&tool.name, &tool.input, script)?;
        }
        if let Some(code) = script.exit {
            std::process::exit(code);
        }
        for trouble in &script.troubles {
            match trouble {
                Trouble::Always(failure) => return Ok(self.fail(failure.clone(), None)),
                Trouble::Limit { seconds, window } => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                    let info = json!({"status": "rejected", "resetsAt": now + seconds, "rateLimitType": window,
                        "overageStatus": "rejected", "overageDisabledReason": "org_level_disabled", "isUsingOverage": false});
                    let failure = Failure { status: 429, message: usual_message(429).into() };
                    return Ok(self.fail(failure, Some(info)));
                }
                // The others need a memory that outlives the process: they are the scripted API's.
                _ => {}
            }
        }
        let text = said(script, prompt);
        let asked = self.schema.as_ref().filter(|_| !script.text_instead);
        let structured = asked.map(|schema| script.structured.clone().unwrap_or_else(|| sample(schema)));
        let text = structured.as_ref().map_or(text, Value::to_string);
        self.print(&self.shapes.assistant(&json!({"type": "text", "text": text}), script));
        Ok(Ended::well(text, structured, script.tools.len() + 1))
    }

    fn fail(&self, failure: Failure, limit: Option<Value>) -> Ended {
        let text = match &limit {
            Some(_) => "You've hit your 5-hour limit".into(),
            None => error_text(&failure),
        };
        if let Some(info) = &limit {
            self.print(&self.shapes.rate_limit(info));
        }
        self.print(&self.shapes.synthetic(&failure, &text));
        let terminal_reason = "api_error";
        Ended { terminal_reason, failure: Some(failure), limit, ..Ended::well(text, None, 1) }
    }

    fn tool(&mut self, name: &str, input: &Value, script: &Script) -> Result<(), Stop> {
        let id = format!("toolu_{}", uuid());
        self.print(
            &self.shapes.assistant(&json!({"type": "tool_use", "id": id, "name": name, "input": input}), script),
        );
        let (content, good) = match name {
            "Bash" => match self.bash(input["command"].as_str().unwrap_or_default()) {
                Ok(done) => done,
                Err(stop) => {
                    let text = "The user doesn't want to proceed with this tool use.";
                    self.print(&self.shapes.user(tool_result(&id, text, false)));
                    return Err(stop);
                }
            },
            "Write" => {
                let path = input["file_path"].as_str().unwrap_or_default();
                match std::fs::write(path, input["content"].as_str().unwrap_or_default()) {
                    Ok(()) => (format!("File created successfully at: {path}"), true),
                    Err(error) => (format!("{path}: {error}"), false),
                }
            }
            _ => (format!("The stand-in has no tool {name}"), false),
        };
        self.print(&self.shapes.user(tool_result(&id, &content, good)));
        // What was said meanwhile is taken up between the tools.
        while let Some(message) = self.waiting.pop_front() {
            self.echo(&message);
        }
        Ok(())
    }

    fn bash(&mut self, command: &str) -> Result<(String, bool), Stop> {
        let child = Command::new("setsid")
            .args(["sh", "-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => return Ok((format!("setsid: {error}"), false)),
        };
        let group = Pid::from_raw(child.id().cast_signed());
        let sender = self.sender.clone();
        thread::spawn(move || sender.send(Event::Tool(child.wait_with_output())));
        match self.wait(FOREVER, false) {
            Ok(Some(Ok(output))) => {
                let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                match output.status.code() {
                    Some(0) => Ok((text, true)),
                    code => Ok((format!("Exit code {}\n{text}", code.unwrap_or(137)), false)),
                }
            }
            Ok(_) => Ok(("the command's end was not seen".into(), false)),
            Err(stop) => {
                self.end_group(group);
                Err(stop)
            }
        }
    }

    /// Ends a command that runs. Its group may not exist yet, so the signal is repeated until the command has ended.
    fn end_group(&mut self, group: Pid) {
        loop {
            let _ = killpg(group, Signal::SIGKILL);
            match self.events.recv_timeout(Duration::from_millis(10)) {
                Ok(Event::Tool(_)) => return,
                Ok(Event::End) => self.ended = true,
                Ok(Event::Line(line)) => _ = self.heed(&line),
                Ok(Event::Signal(SIGTERM)) => std::process::exit(143),
                Ok(Event::Signal(_)) | Err(_) => {}
            }
        }
    }

    /// Heeds what comes in for so long, or until a tool has ended, or, when idle, until there is something to do.
    fn wait(&mut self, time: Duration, idle: bool) -> Result<Option<io::Result<Output>>, Stop> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.events.recv_timeout(left) {
                Ok(Event::Tool(output)) => return Ok(Some(output)),
                Ok(Event::Signal(SIGTERM)) => std::process::exit(143),
                Ok(Event::Signal(_)) => return Err(Stop::Sigint),
                Ok(Event::End) => self.ended = true,
                Ok(Event::Line(line)) => {
                    if self.heed(&line) && !idle {
                        return Err(Stop::Interrupt);
                    }
                }
                Err(_) => return Ok(None),
            }
            if idle && (self.ended || !self.waiting.is_empty()) {
                return Ok(None);
            }
        }
    }

    /// Takes one line of stdin; true when it asks to interrupt.
    fn heed(&mut self, line: &str) -> bool {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return false };
        match message["type"].as_str() {
            Some("user") => self.waiting.push_back(message),
            Some("control_request") => {
                let request = &message["request"];
                let answer = match request["subtype"].as_str() {
                    Some("initialize") => {
                        if request["jsonSchema"].is_object() {
                            self.schema = Some(request["jsonSchema"].clone());
                        }
                        json!({"commands": [], "agents": [], "output_style": "default", "models": [],
                            "available_output_styles": ["default"], "pid": std::process::id(),
                            "account": {"tokenSource": "none", "apiKeySource": "ANTHROPIC_API_KEY",
                                "apiProvider": "firstParty"}})
                    }
                    Some("interrupt") => json!({"still_queued": []}),
                    _ => json!({}),
                };
                self.print(&json!({"type": "control_response", "response": {"subtype": "success",
                    "request_id": message["request_id"], "response": answer}}));
                return request["subtype"] == "interrupt";
            }
            _ => {}
        }
        false
    }

    fn echo(&self, message: &Value) {
        if self.replay {
            let mut line = self.shapes.user(message["message"]["content"].clone());
            line["isReplay"] = json!(true);
            self.print(&line);
        }
    }

    fn print(&self, line: &Value) {
        let mut out = io::stdout().lock();
        // The real CLI does not notice either that nobody reads.
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}

/// Threads that turn stdin and signals into events.
fn listen(sender: &Sender<Event>) {
    let to_main = sender.clone();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if to_main.send(Event::Line(line)).is_err() {
                return;
            }
        }
        let _ = to_main.send(Event::End);
    });
    let to_main = sender.clone();
    if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) {
        thread::spawn(move || {
            for signal in signals.forever() {
                if to_main.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
    }
}

fn text_of(message: &Value) -> String {
    motorpool_tests::api::conversation::text_of(&message["message"]["content"])
}

fn tool_result(id: &str, content: &str, good: bool) -> Value {
    json!([{"type": "tool_result", "tool_use_id": id, "content": content, "is_error": !good}])
}

fn said(script: &Script, prompt: &str) -> String {
    if *script == Script::default() {
        return format!("You said: {}", prompt.trim().chars().take(200).collect::<String>());
    }
    let lines = script.text.iter().filter_map(|piece| match piece {
        Piece::Said(text) => Some(text.as_str()),
        Piece::Echo(_) => None,
    });
    let lines: Vec<&str> = lines.collect();
    if lines.is_empty() { "done".into() } else { lines.join("\n") }
}
