//! A coordinator over the pipes of a dispatcher that it has started, as a host does it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Answer, Era, Host, Told, answer_of};
use crate::fleet::{Fleet, PATIENCE};

/// See the module.
pub struct Coordinator {
    /// What it says of itself.
    pub host: Host,
    child: Child,
    pid: i32,
    stdin: tokio::sync::Mutex<Option<ChildStdin>>,
    heard: Arc<Heard>,
    /// Gone once nobody listens any more.
    reader: Option<JoinHandle<ChildStdout>>,
    enough: Arc<Notify>,
    next: AtomicU64,
    log: PathBuf,
}

/// Everything that the dispatcher has said.
#[derive(Default)]
struct Heard {
    state: Mutex<Said>,
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Said {
    answers: HashMap<u64, Answer>,
    /// Notifications, requests, and answers to nobody.
    others: Vec<Value>,
    /// What is wrong in itself: a line that is no JSON, a second answer.
    odd: Vec<String>,
    ended: bool,
}

impl Heard {
    fn take(&self, line: &str) {
        let mut said = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match serde_json::from_str::<Value>(line) {
            Err(_) => said.odd.push(line.to_owned()),
            Ok(message) => match (message["id"].as_u64(), answer_of(&message)) {
                (Some(id), Some(answer)) => {
                    if said.answers.insert(id, answer).is_some() {
                        said.odd.push(format!("a second answer: {line}"));
                    }
                }
                _ => said.others.push(message),
            },
        }
        drop(said);
        self.count.send_modify(|count| *count += 1);
    }

    fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.count.send_modify(|count| *count += 1);
    }

    /// Waits until a look at what was said gives something; nothing once no more is said, or patience has run out.
    async fn until<T>(&self, mut look: impl FnMut(&mut Said) -> Option<T>) -> Option<T> {
        let mut count = self.count.subscribe();
        let search = async {
            loop {
                count.borrow_and_update();
                {
                    let mut said = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    match look(&mut said) {
                        Some(seen) => return Some(seen),
                        None if said.ended => return None,
                        None => {}
                    }
                }
                count.changed().await.expect("its sender lives as long as this");
            }
        };
        timeout(PATIENCE, search).await.ok().flatten()
    }
}

/// Listens until no more is said or it is enough; gives the pipe back.
async fn read(stdout: ChildStdout, heard: Arc<Heard>, enough: Arc<Notify>) -> ChildStdout {
    let mut lines = BufReader::new(stdout).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => heard.take(&line),
                _ => break,
            },
            () = enough.notified() => break,
        }
    }
    heard.end();
    lines.into_inner().into_inner()
}

impl Coordinator {
    /// Starts a dispatcher of this fleet and shakes hands with it.
    pub async fn start(fleet: &Fleet, host: impl Into<Host>, args: &[&str]) -> Self {
        let coordinator = Self::open(fleet, host, args);
        coordinator.greet().await;
        coordinator
    }

    /// Starts a dispatcher of this fleet and says nothing yet.
    pub fn open(fleet: &Fleet, host: impl Into<Host>, args: &[&str]) -> Self {
        let (command, log) = fleet.dispatcher(args);
        Self::of(command, log, host)
    }

    /// Starts this dispatcher, which logs there, and says nothing yet.
    pub fn of(mut command: Command, log: PathBuf, host: impl Into<Host>) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let heard = Arc::new(Heard::default());
        let stdout = child.stdout.take().expect("a pipe");
        let enough = Arc::new(Notify::new());
        let reader = Some(tokio::spawn(read(stdout, Arc::clone(&heard), Arc::clone(&enough))));
        let pid = child.id().expect("it runs") as i32;
        let stdin = tokio::sync::Mutex::new(child.stdin.take());
        Self { host: host.into(), child, pid, stdin, heard, reader, enough, next: AtomicU64::new(1), log }
    }

    /// What its era begins with; gives what the server says of itself.
    pub async fn greet(&self) -> Value {
        match self.host.era {
            Era::Legacy => {
                let answer = self.ask("initialize", self.host.initialize()).await.expect("a session");
                assert_eq!(answer["protocolVersion"], Era::Legacy.version(), "{answer}");
                self.notify("notifications/initialized", json!({})).await;
                answer
            }
            Era::Modern => {
                let answer = self.ask("server/discover", json!({})).await.expect("a description");
                let versions = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
                assert!(versions.contains(&Era::Modern.version().into()), "{answer}");
                answer
            }
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What the dispatcher has logged.
    #[must_use]
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends bytes as they are; a dispatcher that is gone is no failure here.
    pub async fn send_bytes(&self, bytes: &[u8]) {
        if let Some(stdin) = &mut *self.stdin.lock().await {
            let sent = async {
                let _ = stdin.write_all(bytes).await;
                let _ = stdin.flush().await;
            };
            timeout(PATIENCE, sent).await.unwrap_or_else(|_| panic!("nobody reads\n{}", self.logged()));
        }
    }

    /// Sends a message.
    pub async fn send(&self, message: &Value) {
        self.send_bytes(format!("{message}\n").as_bytes()).await;
    }

    /// A number that no request had yet.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request and waits for nothing; gives its number.
    pub async fn request(&self, method: &str, params: Value) -> u64 {
        let id = self.number();
        self.send(&self.host.request(id, method, params)).await;
        id
    }

    /// Sends the call of a tool and waits for nothing; gives its number.
    pub async fn begin(&self, tool: &str, arguments: Value) -> u64 {
        self.request("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Says something that wants no answer.
    pub async fn notify(&self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// Wants no answer to a request any more.
    pub async fn cancel(&self, id: u64, reason: Option<&str>) {
        let mut params = json!({ "requestId": id });
        if let Some(reason) = reason {
            params["reason"] = reason.into();
        }
        self.notify("notifications/cancelled", params).await;
    }

    /// The answer to a request; nothing if there is none, because the dispatcher ended or within the patience.
    pub async fn answer_if_any(&self, id: u64) -> Option<Answer> {
        self.heard.until(|said| said.answers.get(&id).cloned()).await
    }

    /// The answer to a request.
    ///
    /// # Panics
    /// There is none.
    pub async fn answer(&self, id: u64) -> Answer {
        self.answer_if_any(id).await.unwrap_or_else(|| panic!("request {id} is not answered\n{}", self.logged()))
    }

    /// The answer to a request, be it one that names no request because it could not be read; such a one is taken to
    /// answer this, so only one request may be under way.
    pub async fn answered_or_said(&self, id: u64) -> Option<Answer> {
        let search = self.heard.until(|said| {
            let answer = said.answers.get(&id).cloned();
            answer.or_else(|| {
                let at =
                    said.others.iter().position(|message| message["id"].is_null() && answer_of(message).is_some())?;
                answer_of(&said.others.remove(at))
            })
        });
        search.await
    }

    /// The answer that there is by now.
    #[must_use]
    pub fn answered(&self, id: u64) -> Option<Answer> {
        self.heard.state.lock().unwrap_or_else(PoisonError::into_inner).answers.get(&id).cloned()
    }

    /// A request and its answer.
    pub async fn ask(&self, method: &str, params: Value) -> Answer {
        let id = self.request(method, params).await;
        self.answer(id).await
    }

    /// The call of a tool and what it says.
    pub async fn call(&self, tool: &str, arguments: Value) -> Told {
        let id = self.begin(tool, arguments).await;
        self.told(id).await
    }

    /// What the tool says that was called with this request.
    pub async fn told(&self, id: u64) -> Told {
        let answer = self.answer(id).await;
        Told::of(&answer.unwrap_or_else(|error| panic!("request {id}: {error}\n{}", self.logged())))
    }

    /// Waits for a message that answers nothing, past ones included; each is given once.
    pub async fn hears(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let found = self.heard.until(|said| {
            let at = said.others.iter().position(&fits)?;
            Some(said.others.remove(at))
        });
        found.await.unwrap_or_else(|| panic!("{what}: nothing of it is heard\n{}", self.logged()))
    }

    /// Messages so far that answer nothing and were not given yet.
    #[must_use]
    pub fn others(&self) -> Vec<Value> {
        self.heard.state.lock().unwrap_or_else(PoisonError::into_inner).others.clone()
    }

    /// What was odd: lines that are no JSON, second answers.
    #[must_use]
    pub fn odd(&self) -> Vec<String> {
        self.heard.state.lock().unwrap_or_else(PoisonError::into_inner).odd.clone()
    }

    /// Ends its input, as a host does that quits.
    pub async fn hang_up(&self) {
        drop(self.stdin.lock().await.take());
    }

    /// Listens no more, as a host that hangs; gives the pipe that nobody reads from now on.
    ///
    /// # Panics
    /// It did so before.
    pub async fn deaf(&mut self) -> pipe::Receiver {
        self.enough.notify_one();
        let reader = self.reader.take().expect("it listens");
        let stdout = timeout(PATIENCE, reader).await.expect("it stops listening").expect("its pipe");
        stdout.into_owned_fd().and_then(pipe::Receiver::from_owned_fd).expect("a pipe")
    }

    /// Sends the dispatcher a signal.
    pub fn signal(&self, with: Signal) {
        let _ = kill(Pid::from_raw(self.pid), with);
    }

    /// Waits until the dispatcher has ended and all it said is heard, if anybody listens.
    ///
    /// # Panics
    /// It does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end\n{}", self.logged())).expect("its status");
        if let Some(reader) = self.reader.take() {
            let _ = timeout(PATIENCE, reader).await;
        }
        status
    }

    /// Kills the dispatcher, so that it can put nothing in order.
    pub async fn killed(mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Quits as a host does; the dispatcher has to end well, and must have said nothing odd.
    pub async fn end(mut self) {
        self.hang_up().await;
        let status = self.ended().await;
        assert!(status.success(), "{status}\n{}", self.logged());
        assert_eq!(self.odd(), Vec::<String>::new());
        assert!(!self.logged().contains("panicked"), "{}", self.logged());
    }
}
