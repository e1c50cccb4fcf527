//! A dispatcher that serves over HTTP, and coordinators that call it, down to the bytes of a request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Answer, Era, Host, Told, answer_of};
use crate::fleet::{Fleet, PATIENCE};

/// A dispatcher on a free port of loopback.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens.
    pub async fn start(fleet: &Fleet, args: &[&str]) -> Self {
        let (mut command, log) = fleet.dispatcher(&[&["--http=127.0.0.1:0"], args].concat());
        Self::of(fleet, &mut command, log).await
    }

    /// The same with a command of the test's.
    pub async fn of(fleet: &Fleet, command: &mut Command, log: PathBuf) -> Self {
        let child = command.spawn().expect("it starts");
        let address = fleet
            .until("the dispatcher listens", async |_| {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let (_, rest) = text.split_once("serving MCP on http://")?;
                rest.split_once("/mcp")?.0.parse().ok()
            })
            .await;
        Self { address, child, log }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().expect("it was not waited for") as i32
    }

    /// What it has logged.
    #[must_use]
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, with: Signal) {
        let _ = kill(Pid::from_raw(self.pid()), with);
    }

    /// Memory that it holds, in KiB.
    #[must_use]
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// Ends it as a service manager does; it has to end well.
    pub async fn end(mut self) {
        self.signal(Signal::SIGTERM);
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end\n{}", self.logged())).expect("its status");
        assert!(status.success(), "{status}\n{}", self.logged());
        assert!(!self.logged().contains("panicked"), "{}", self.logged());
    }

    /// Kills it.
    pub async fn killed(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// The status of `/healthz`.
    pub async fn health(&self) -> u16 {
        let mut connection = Connection::open(self.address).await;
        connection.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        connection.head().await.expect("an answer").status
    }
}

/// The first lines of a response.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its status.
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// A header, by its name in small letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection, and a response on it.
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// What is left of a body of known length.
    left: Option<usize>,
    is_chunked: bool,
    is_over: bool,
    line: String,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("somebody listens");
        Self { stream: BufReader::new(stream), left: None, is_chunked: false, is_over: false, line: String::new() }
    }

    /// Sends bytes; a server that has closed is no failure here.
    pub async fn write(&mut self, bytes: &[u8]) {
        let sent = self.stream.get_mut().write_all(bytes);
        let _ = timeout(PATIENCE, sent).await.expect("the server reads or closes");
    }

    async fn read_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_until(b'\n', &mut line)).await.expect("an answer or an end");
        match read {
            Ok(1..) => Some(String::from_utf8_lossy(&line).trim_end().to_owned()),
            _ => None,
        }
    }

    /// The head of the next response; nothing if the connection was closed.
    pub async fn head(&mut self) -> Option<Head> {
        let first = self.read_line().await?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {first:?}"));
        let mut headers = Vec::new();
        while let Some(line) = self.read_line().await.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let head = Head { status, headers };
        self.is_chunked = head.header("transfer-encoding") == Some("chunked");
        self.left = head.header("content-length").and_then(|length| length.parse().ok());
        self.is_over = self.left == Some(0);
        Some(head)
    }

    /// More of the body; nothing at its end.
    pub async fn more(&mut self) -> Option<Vec<u8>> {
        if self.is_over {
            return None;
        }
        if self.is_chunked {
            let size = self.read_line().await?;
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            let read = timeout(PATIENCE, self.stream.read_exact(&mut chunk)).await.expect("the rest of a chunk");
            self.is_over = size == 0 || read.is_err();
            chunk.truncate(size);
            return (size > 0 && read.is_ok()).then_some(chunk);
        }
        let mut part = vec![0; self.left.unwrap_or(4096).min(65_536)];
        let read = timeout(PATIENCE, self.stream.read(&mut part)).await.expect("more or an end").unwrap_or(0);
        self.left = self.left.map(|left| left - read);
        self.is_over = read == 0 || self.left == Some(0);
        part.truncate(read);
        (read > 0).then_some(part)
    }

    /// The whole body.
    pub async fn body(&mut self) -> String {
        let mut body = Vec::new();
        while let Some(part) = self.more().await {
            body.extend(part);
        }
        String::from_utf8_lossy(&body).into_owned()
    }

    /// The next message of a response, be it one document or a stream of events.
    pub async fn message(&mut self, head: &Head) -> Option<Value> {
        if !head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let body = self.body().await;
            return serde_json::from_str(&body).ok();
        }
        loop {
            while let Some((line, rest)) = self.line.split_once('\n') {
                let (line, rest) = (line.trim_end().to_owned(), rest.to_owned());
                self.line = rest;
                // A line without data is a sign of life, or a place to go on from.
                let data = line.strip_prefix("data:").map(str::trim).filter(|data| !data.is_empty());
                if let Some(data) = data {
                    return Some(serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")));
                }
            }
            let part = self.more().await?;
            self.line.push_str(&String::from_utf8_lossy(&part));
        }
    }
}

/// A coordinator that calls over HTTP, a connection for each request.
pub struct Caller {
    /// What it says of itself.
    pub host: Host,
    address: SocketAddr,
    token: Option<String>,
    session: Option<String>,
    next: AtomicU64,
}

/// A request whose response has begun.
pub struct Open {
    /// The head of the response.
    pub head: Head,
    /// The rest of it.
    pub connection: Connection,
}

impl Caller {
    /// Shakes hands with a dispatcher.
    pub async fn meet(server: &Server, host: impl Into<Host>, token: Option<&str>) -> Self {
        let mut caller = Self {
            host: host.into(),
            address: server.address,
            token: token.map(str::to_owned),
            session: None,
            next: AtomicU64::new(1),
        };
        if caller.host.era == Era::Legacy {
            let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": caller.host.initialize()});
            let mut open = caller.post(&hello).await;
            assert_eq!(open.head.status, 200, "{:?}", open.head);
            caller.session = open.head.header("mcp-session-id").map(str::to_owned);
            assert!(caller.session.is_some(), "{:?}", open.head);
            open.answer().await.expect("a session");
            let ready = caller.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
            assert_eq!(ready.head.status, 202, "{:?}", ready.head);
        } else {
            caller.ask("server/discover", json!({})).await.expect("a description");
        }
        caller
    }

    /// One that holds another token from now on.
    pub fn token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// The head of a request for this message, with as many bytes to follow as it has.
    #[must_use]
    pub fn head_of(&self, message: &Value) -> String {
        let method = message["method"].as_str().unwrap_or_default();
        let mut head = format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.address,
            message.to_string().len()
        );
        if let Some(token) = &self.token {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        if let Some(session) = &self.session {
            head.push_str(&format!("mcp-session-id: {session}\r\nmcp-protocol-version: {}\r\n", Era::Legacy.version()));
        }
        if self.host.era == Era::Modern {
            head.push_str(&format!("mcp-protocol-version: {}\r\nmcp-method: {method}\r\n", Era::Modern.version()));
            let name = ["name", "uri", "taskId"].iter().find_map(|key| message["params"][key].as_str());
            if let Some(name) = name {
                head.push_str(&format!("mcp-name: {name}\r\n"));
            }
        }
        head.push_str("\r\n");
        head
    }

    /// Sends a message and waits for the head of the response.
    pub async fn post(&self, message: &Value) -> Open {
        let mut connection = Connection::open(self.address).await;
        connection.write(format!("{}{message}", self.head_of(message)).as_bytes()).await;
        let head = connection.head().await.expect("a response");
        Open { head, connection }
    }

    /// Sends the call of a tool and gives the connection on which the answer will come.
    pub async fn begin(&self, tool: &str, arguments: Value) -> Connection {
        let message = self.message("tools/call", json!({"name": tool, "arguments": arguments}));
        let mut connection = Connection::open(self.address).await;
        connection.write(format!("{}{message}", self.head_of(&message)).as_bytes()).await;
        connection
    }

    /// A request that is not sent yet.
    pub fn message(&self, method: &str, params: Value) -> Value {
        self.host.request(self.next.fetch_add(1, Ordering::Relaxed), method, params)
    }

    /// A request and its answer.
    pub async fn ask(&self, method: &str, params: Value) -> Answer {
        self.post(&self.message(method, params)).await.answer().await
    }

    /// The call of a tool and what it says.
    pub async fn call(&self, tool: &str, arguments: Value) -> Told {
        let answer = self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await;
        Told::of(&answer.unwrap_or_else(|error| panic!("{tool}: {error}")))
    }
}

impl Open {
    /// The next message of the response.
    pub async fn message(&mut self) -> Option<Value> {
        self.connection.message(&self.head).await
    }

    /// The answer at its end.
    ///
    /// # Panics
    /// There is none.
    pub async fn answer(&mut self) -> Answer {
        while let Some(message) = self.message().await {
            if let Some(answer) = answer_of(&message) {
                return answer;
            }
        }
        panic!("no answer: {:?}", self.head)
    }
}
