//! A scripted Messages API on loopback, directed by the prompts themselves.
//!
//! The first user text of a conversation that holds directives decides what is answered: lines that begin with `@`
//! and one of these words, after any ordinary text.
//!
//! | line | what happens |
//! |---|---|
//! | `@say TEXT` | final text; several lines add up; `\n` is a new line |
//! | `@upper WORD` | final text, in capitals |
//! | `@echo WHAT` | final text: the `result` of the last tool, the `last` user text, `system` text, or `model` |
//! | `@sleep MS` | waits before each answer |
//! | `@slow COUNT MS` | streams the text in COUNT deltas, MS apart |
//! | `@bash COMMAND` | tool call Bash |
//! | `@write PATH CONTENT` | tool call Write; `\n` is a new line |
//! | `@tool NAME JSON` | any tool call |
//! | `@json {…}` | calls `StructuredOutput` with it (without the line: a sample that fits the schema) |
//! | `@text-instead` | answers in text although a schema is asked |
//! | `@status CODE [MESSAGE]` | every request fails |
//! | `@fail KEY N CODE [MESSAGE]` | the first N requests under KEY fail |
//! | `@limit SECONDS [WINDOW]` | usage limit (429, unified headers), reset SECONDS from each request |
//! | `@once-limit KEY SECONDS [WINDOW]` | usage limit until SECONDS after the first request under KEY |
//! | `@drop` / `@drop KEY N` | every answer / the first N under KEY break off in the middle |
//! | `@after N` | the five lines above wait for N tool results |
//! | `@retry-after S`, `@header NAME VALUE` | response headers, on good answers too |
//! | `@usage INPUT OUTPUT` | tokens of each answer (10 and 5 otherwise) |
//! | `@now` | in a later text, also one sent in mid-turn: from here on this text decides, and tools are counted anew |
//! | `@exit CODE` | only for `fake-claude`: ends without a result |
//!
//! Tool calls come in order, one a request; after the last one comes the text (`done` when none is given). Without
//! any directive the answer is `You said: …`. A credential that contains `bad` gets 401, `revoked` 403. A directive
//! that cannot be read is answered with a 400 that quotes it.

pub mod answer;
pub mod conversation;
pub mod script;
mod server;
pub mod wire;

use axum::http::HeaderMap;
use conversation::{text_of, texts_of};
use serde::Serialize;
use serde_json::Value;
use server::Server;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// One `POST /v1/messages`, as far as tests ask about it.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// Header `x-api-key`.
    pub api_key: Option<String>,
    /// Header `authorization`, without the word Bearer.
    pub bearer: Option<String>,
    /// Model asked for.
    pub model: String,
    /// Effort asked for.
    pub effort: Option<String>,
    /// System text.
    pub system: String,
    /// All user texts as sent, with what the CLI adds to them.
    pub user_texts: Vec<String>,
    /// Texts that the CLI puts between the messages: here arrives what is sent in mid-turn.
    pub added_texts: Vec<String>,
    /// Text of the latest tool result.
    pub last_result: String,
    /// Tool results since the directives in force.
    pub tool_results: usize,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Names of the tools offered.
    pub tools: Vec<String>,
    /// Size of the body.
    pub body_bytes: usize,
}

impl Request {
    fn read(headers: &HeaderMap, body: &Value, body_bytes: usize) -> Request {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = header("authorization").map(|value| value.trim_start_matches("Bearer ").to_owned());
        let position = conversation::Conversation::read(body);
        let tools = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        Request {
            api_key: header("x-api-key").map(str::to_owned),
            bearer,
            model: position.model,
            effort: body["output_config"]["effort"].as_str().map(str::to_owned),
            system: text_of(&body["system"]),
            user_texts: texts_of(body, "user"),
            added_texts: texts_of(body, "system"),
            last_result: position.last_result,
            tool_results: position.tool_results,
            stream: body["stream"] == true,
            tools: tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect(),
            body_bytes,
        }
    }

    /// The key or token that came with it.
    pub fn credential(&self) -> &str {
        self.api_key.as_deref().or(self.bearer.as_deref()).unwrap_or_default()
    }

    /// The last user text.
    pub fn last_user_text(&self) -> &str {
        self.user_texts.last().map_or("", String::as_str)
    }

    /// Whether any user text, or one sent in mid-turn, contains these words.
    pub fn mentions(&self, words: &str) -> bool {
        self.user_texts.iter().chain(&self.added_texts).any(|text| text.contains(words))
    }
}

/// What server and handle share.
struct Shared {
    requests: Mutex<Vec<Arc<Request>>>,
    count: watch::Sender<usize>,
    record: Option<Mutex<File>>,
}

impl Shared {
    fn record(&self, request: Request) {
        if let Some(file) = &self.record {
            let line = serde_json::to_string(&request).expect("plain data") + "\n";
            let written = file.lock().expect("no panic while held").write_all(line.as_bytes());
            if let Err(error) = written {
                eprintln!("fake-api: cannot write the record: {error}");
            }
        }
        let mut requests = self.requests.lock().expect("no panic while held");
        requests.push(Arc::new(request));
        self.count.send_replace(requests.len());
    }
}

/// A running server; dropping it stops it and cuts its connections.
pub struct FakeApi {
    server: Server,
    shared: Arc<Shared>,
}

impl FakeApi {
    /// Starts on a free port of loopback.
    pub async fn start() -> FakeApi {
        FakeApi::serve(0, None).expect("a free port on loopback")
    }

    /// Starts on a given port (0: a free one), writing every request as a line of JSON to a file if given.
    /// The same port can be taken again after a drop, to play an API that was away.
    pub fn serve(port: u16, record: Option<File>) -> io::Result<FakeApi> {
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            count: watch::Sender::new(0),
            record: record.map(Mutex::new),
        });
        Ok(FakeApi { server: Server::start(port, shared.clone())?, shared })
    }

    /// Its base URL, for `ANTHROPIC_BASE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// All requests for messages so far, in order of arrival.
    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.shared.requests.lock().expect("no panic while held").clone()
    }

    /// Waits until a request fits, past ones included, and returns the first; panics with what came instead when
    /// the deadline passes.
    pub async fn wait_for(&self, fits: impl Fn(&Request) -> bool, deadline: Duration) -> Arc<Request> {
        let mut count = self.shared.count.subscribe();
        let search = async {
            loop {
                count.borrow_and_update();
                if let Some(request) = self.requests().into_iter().find(|request| fits(request)) {
                    return request;
                }
                count.changed().await.expect("the sender lives as long as the handle");
            }
        };
        // The time-out loses nothing: requests are kept.
        let found = tokio::time::timeout(deadline, search).await;
        found.unwrap_or_else(|_| {
            let seen: Vec<String> = self.requests().iter().map(|request| summary(request)).collect();
            panic!("no request fitted within {deadline:?}; {} came:\n{}", seen.len(), seen.join("\n"))
        })
    }
}

fn summary(request: &Request) -> String {
    let text: String = request.last_user_text().chars().take(120).collect();
    format!("- {} after {} tool results: {text:?}", request.model, request.tool_results)
}

#[cfg(test)]
mod tests;
