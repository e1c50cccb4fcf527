//! Carries out what the machine says: starts the CLI, reads it, beats, ends it, and comes back when it is gone.
//!
//! No decision is taken here. Not here: what the machine decides (`machine.rs`), what a beat does (the [`Outside`]).

use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::Duration;

use motorpool::Progress;
use motorpool::domain::attempt::{Class, Ending, Failure};
use motorpool::domain::fleet::Unfit;
use motorpool::pool::Beat;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::exchange::{Action, Input, Rules};
pub use super::exchange::{Finished, Live};
use super::machine::Machine;
use crate::claude::classify::{Classified, Exit, Seen};
use crate::claude::command::Command;
use crate::claude::event::Event;
use crate::process::{self, LONGEST_LINE_BYTES, Lines, Started, Tail};

/// So much of stderr is kept.
const STDERR_BYTES: usize = 8 * 1024;
/// Live output that nobody takes is dropped beyond this, oldest first.
const LIVE_BYTES: usize = 256 * 1024;
/// After so long without success it is said who does not go, and tried on.
const END_ROUND: Duration = Duration::from_secs(5);
/// With all writers gone a pipe ends at once; this bounds what a stranger holds open.
const DRAIN: Duration = Duration::from_secs(2);
/// How often ended orphans are reaped.
const REAP: Duration = Duration::from_secs(1);

/// A run to be driven.
#[derive(Clone, Debug)]
pub struct Job {
    /// The call.
    pub command: Command,
    /// When the claim was **sent**: the lease counts from there.
    pub claimed: Instant,
    /// The lease.
    pub lease: Duration,
    /// `timeout_s` of the task.
    pub timeout: Option<Duration>,
    /// `idle_timeout_s` of the task.
    pub idle: Option<Duration>,
}

/// What a run needs of the rest of the world.
pub trait Outside {
    /// Beats once. It is given up after a third of the lease, which counts as unreachable.
    fn beat(&self, progress: &Progress) -> impl Future<Output = Beat>;
    /// Publishes live output. One at a time; what comes meanwhile is put together.
    fn live(&self, live: Live) -> impl Future<Output = ()>;
}

/// What the worker may say to a run. The values only ever go from false to true.
#[derive(Clone, Debug)]
pub struct Notices {
    /// The task is to be stopped.
    pub cancel: watch::Receiver<bool>,
    /// The worker ends now.
    pub stop: watch::Receiver<bool>,
}

/// Runs it to its end. When this returns, every process of the run is verified gone.
pub async fn drive(job: Job, outside: &impl Outside, notices: Notices) -> Finished {
    let mut run = match process::start(&job.command) {
        Ok(started) => Run::new(started, &job.command),
        Err(error) => return Finished::Outcome(Box::new(not_started(&job.command, &error))),
    };
    let rules = Rules {
        lease_ms: millis(job.lease),
        timeout_ms: job.timeout.map(millis),
        idle_ms: job.idle.map(millis),
        structured: job.command.structured,
    };
    let now_ms = || millis(job.claimed.elapsed());
    let mut machine = Machine::new(rules, now_ms());
    let (mut cancel, mut stop) = (Some(notices.cancel), Some(notices.stop));
    let mut beating: Slot<'_, (u64, Beat)> = None;
    let mut telling: Slot<'_, ()> = None;
    let mut ending: Slot<'_, ()> = None;
    let mut reap_at = Instant::now() + REAP;
    loop {
        let due = (job.claimed + Duration::from_millis(machine.due_ms().min(now_ms() + millis(REAP)))).min(reap_at);
        // Every arm can be dropped in the middle of its wait: pipes keep what they have read, what is written is
        // counted, the slots stay where they are, and a watch is looked at again.
        let inputs = tokio::select! {
            line = run.lines.next(), if !run.read_up => run.line(line).into_iter().collect(),
            more = run.stderr.read(), if run.stderr_open => {
                run.stderr_open = more;
                Vec::new()
            }
            written = write(&mut run.stdin, &run.outgoing[run.written..]), if run.wants_to_write() => {
                run.wrote(&written);
                Vec::new()
            }
            status = run.started.child.wait(), if run.exit.is_none() => vec![run.exited(status)],
            (sent_ms, answer) = wait_for(&mut beating) => {
                beating = None;
                vec![Input::Beat { sent_ms, answer }]
            }
            () = wait_for(&mut telling) => {
                telling = None;
                Vec::new()
            }
            () = wait_for(&mut ending) => {
                ending = None;
                run.last_words().await
            }
            () = raised(&mut cancel) => {
                cancel = None;
                vec![Input::Cancel]
            }
            () = raised(&mut stop) => {
                stop = None;
                vec![Input::Stop]
            }
            () = sleep_until(due) => vec![Input::Tick],
        };
        if Instant::now() >= reap_at {
            process::reap_orphans();
            reap_at = Instant::now() + REAP;
        }
        for action in inputs.into_iter().flat_map(|input| machine.on(now_ms(), input)) {
            match action {
                Action::Beat(progress) => {
                    let (sent_ms, patience) = (now_ms(), job.lease / 3);
                    beating = Some(Box::pin(async move {
                        let answer = timeout(patience, outside.beat(&progress)).await;
                        (sent_ms, answer.unwrap_or(Beat::Unreachable))
                    }));
                }
                Action::Output(live) => run.tell(live),
                Action::Answer(line) => run.say(&line),
                Action::CloseStdin => run.stdin = None,
                Action::Interrupt => run.interrupt(),
                Action::Terminate => process::signal_tree(run.started.pid, &job.command.run, Signal::SIGTERM),
                Action::EndTree => ending = Some(Box::pin(end_tree(run.started.pid, job.command.run.clone()))),
                Action::Finish(finished) => {
                    // The result does not wait long for its live output.
                    let _ = timeout(DRAIN, async {
                        if telling.is_some() {
                            wait_for(&mut telling).await;
                        }
                        if !run.live.is_empty() {
                            outside.live(std::mem::take(&mut run.live)).await;
                        }
                    })
                    .await;
                    return finished;
                }
            }
        }
        if telling.is_none() && !run.live.is_empty() {
            telling = Some(Box::pin(outside.live(std::mem::take(&mut run.live))));
        }
    }
}

/// Something that is under way, if anything is.
type Slot<'a, T> = Option<Pin<Box<dyn Future<Output = T> + 'a>>>;

async fn wait_for<T>(slot: &mut Slot<'_, T>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Until it is true. Never where it was heard already, or where nobody is left to raise it.
async fn raised(notice: &mut Option<watch::Receiver<bool>>) {
    if let Some(notice) = notice
        && notice.wait_for(|raised| *raised).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(bytes).await,
        None => std::future::pending().await,
    }
}

async fn end_tree(pid: i32, mark: String) {
    while let Err(alive) = process::kill_tree_and_verify(pid, &mark, END_ROUND).await {
        // Nothing is reported before they are gone: they may still be writing where the task works.
        tracing::warn!(run = mark, ?alive, "processes do not end; the task stays where it is until they do");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The pipes of a run and what is to go through them.
struct Run {
    started: Started,
    stdin: Option<ChildStdin>,
    outgoing: Vec<u8>,
    written: usize,
    lines: Lines<ChildStdout>,
    read_up: bool,
    stderr: Tail<ChildStderr>,
    stderr_open: bool,
    exit: Option<Exit>,
    live: Live,
}

impl Run {
    fn new(mut started: Started, command: &Command) -> Self {
        let child = &mut started.child;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Self {
            stdin,
            outgoing: command.input.clone().into_bytes(),
            written: 0,
            lines: Lines::new(stdout.expect("start pipes it"), LONGEST_LINE_BYTES),
            read_up: false,
            stderr: Tail::new(stderr.expect("start pipes it"), STDERR_BYTES),
            stderr_open: true,
            exit: None,
            live: Live::default(),
            started,
        }
    }

    fn line(&mut self, line: io::Result<Option<Vec<u8>>>) -> Option<Input> {
        match line {
            Ok(Some(line)) => return Some(Input::Event(Event::read(&line))),
            Ok(None) => self.read_up = true,
            Err(error) => {
                self.read_up = true;
                return Some(Input::Broken(error.to_string()));
            }
        }
        None
    }

    fn wants_to_write(&self) -> bool {
        self.stdin.is_some() && self.written < self.outgoing.len()
    }

    fn wrote(&mut self, written: &io::Result<usize>) {
        match written {
            Ok(bytes) if *bytes > 0 => self.written += bytes,
            // The CLI has closed it; its exit will tell why.
            _ => self.stdin = None,
        }
        if self.written >= self.outgoing.len() {
            self.outgoing = Vec::new();
            self.written = 0;
        }
    }

    fn say(&mut self, line: &str) {
        self.outgoing.extend_from_slice(line.as_bytes());
        self.outgoing.push(b'\n');
    }

    fn tell(&mut self, live: Live) {
        self.live.append(live);
        self.live.keep_last(LIVE_BYTES);
    }

    fn interrupt(&self) {
        // As long as its exit was not taken, the pid is the CLI's.
        if self.exit.is_none() {
            let _ = kill(Pid::from_raw(self.started.pid), Signal::SIGINT);
        }
    }

    fn exited(&mut self, status: io::Result<ExitStatus>) -> Input {
        let exit = match status {
            Ok(status) => status.code().map_or(Exit::Signal(status.signal().unwrap_or(9)), Exit::Code),
            Err(_) => Exit::Signal(9),
        };
        self.exit = Some(exit);
        Input::Exited(exit)
    }

    /// What is still in the pipes of a run whose processes are gone.
    async fn last_words(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        // What a stranger holds open is not waited for.
        let _ = timeout(DRAIN, async {
            while !self.read_up {
                let line = self.lines.next().await;
                inputs.extend(self.line(line));
            }
            while self.stderr_open {
                self.stderr_open = self.stderr.read().await;
            }
        })
        .await;
        if self.exit.is_none() {
            let status = self.started.child.wait().await;
            inputs.push(self.exited(status));
        }
        // What the CLI itself had not waited for is ours now.
        process::reap_orphans();
        inputs.push(Input::Gone { stderr: self.stderr.text() });
        inputs
    }
}

/// Nothing was started: whose fault it is.
fn not_started(command: &Command, error: &io::Error) -> Classified {
    let seen = Seen::default();
    let failed =
        |class, message: String, hint: &str| seen.ended(Ending::Failed(Failure::new(class, message).hint(hint)));
    if !command.cwd.is_dir() {
        let message = format!("the working directory {} is no directory on this machine", command.cwd.display());
        return failed(Class::Request, message, "name one that the worker can see with working_dir");
    }
    let message = format!("cannot start {}: {error}", command.program.display());
    match error.kind() {
        ErrorKind::ArgumentListTooLong => failed(Class::Request, message, "give fewer or shorter tools"),
        ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            // Another worker can do it.
            let mut classified = seen.ended(Ending::Stopped(message.clone()));
            let hint = Some("install Claude Code, or name it with --claude-bin".to_owned());
            classified.unfit = Some(Unfit { class: Class::Internal, message, hint, until_ms: None });
            classified
        }
        _ => failed(Class::Transient, message, "see whether the machine is out of memory or processes"),
    }
}
