//! One run of a task on this worker: what is left of earlier ones is ended, the call is prepared, driven, and what it
//! needed is removed.
//!
//! Not here: which task, and what becomes of the outcome (`slot.rs`); the run itself (`attempt`).

use std::path::PathBuf;
use std::time::Duration;

use motorpool::Progress;
use motorpool::domain::attempt::{Class, Ending, Failure, Outcome, Report};
use motorpool::domain::fleet::Unfit;
use motorpool::domain::merge;
use motorpool::pool::{Beat, Lease, Output, Seat};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use crate::attempt::drive::{self, Finished, Job, Live, Notices, Outside};
use crate::claude::classify::Classified;
use crate::claude::command::{self, Command, Place};
use crate::claude::mcp;
use crate::claude::probe::Probe;
use crate::disk;
use crate::process;
use crate::prompt;
use crate::session::Sessions;
use crate::slot::Options;
use crate::stop::{Stop, Stopping};

/// How long leftovers of former runs get to be gone.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// A run that was claimed, and when the claim was sent.
pub(crate) struct Claimed {
    pub(crate) lease: Lease,
    pub(crate) sent: Instant,
}

/// Runs it to its end. `full` becomes the directory whose disk takes nothing, where that is why it failed.
pub(crate) async fn run_one(
    seat: &mut Seat,
    claimed: &Claimed,
    probe: &Probe,
    options: &Options,
    stopping: &Stopping,
    full: &mut Option<PathBuf>,
) -> Finished {
    let lease = &claimed.lease;
    if let Err(why) = end_leftovers(seat).await {
        return cannot_work(why);
    }
    remove_stale_files(options);
    let mut sent = claimed.sent;
    if sent.elapsed() >= lease.lease() / 3 {
        // The claim was repeated through an outage: counted from its first sending the lease would be over already.
        let beaten = Instant::now();
        match seat.beat(lease, &Progress::default()).await {
            Ok(Beat::Ok | Beat::Cancel) => sent = beaten,
            Ok(Beat::Stale) => return Finished::Stale,
            Ok(Beat::Unreachable) | Err(_) => {}
        }
    }
    let (job, mcp_file, resumed) = match prepare(seat, claimed, sent, probe, options).await {
        Ok(prepared) => prepared,
        Err(ending) => {
            let Finished::Outcome(mut classified) = not_begun(ending) else { return Finished::Stale };
            let cwd = &options.workplace.working_dir;
            *full = disk::blame(&mut classified, cwd, &options.scratch, &options.env);
            return Finished::Outcome(classified);
        }
    };
    let cwd = job.command.cwd.clone();
    let output = seat.output(lease);
    let mut control = seat.control();
    let mut stopping = stopping.clone();
    let (cancel, cancelled) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let wanted = format!("cancel {}", lease.task());
    let listen = async {
        loop {
            if control.next().await == wanted {
                cancel.send_replace(true);
            }
        }
    };
    let outside = World { seat: Mutex::new(seat), lease, output };
    let end = async {
        stopping.at_least(Stop::Drain).await;
        // For who looks at the list of workers; a Redis that is away does not hear it.
        let mut now = stopping.clone();
        tokio::select! {
            _ = async { outside.seat.lock().await.report(|presence| presence.draining = true).await } => {}
            // What is lost is a remark.
            _ = now.at_least(Stop::Now) => {}
        }
        stopping.at_least(Stop::Now).await;
        stop.send_replace(true);
        std::future::pending::<()>().await;
    };
    let finished = tokio::select! {
        finished = drive::drive(job, &outside, Notices { cancel: cancelled, stop: stopped }) => finished,
        // These two only raise flags and never return.
        () = listen => unreachable!("the listener never returns"),
        () = end => unreachable!("the end is waited for by the run"),
    };
    if let Some(file) = mcp_file {
        let _ = std::fs::remove_file(file);
    }
    match finished {
        Finished::Outcome(mut classified) => {
            if resumed.is_some()
                && !classified.outcome.report.spoke
                && let Ending::Failed(failure) = &mut classified.outcome.ending
                && matches!(failure.class, Class::Request | Class::Internal)
            {
                // The session may be what is wrong: the next run begins anew.
                failure.class = Class::Transient;
                failure.message = format!("its session could not be gone on with: {}", failure.message);
            }
            classified.outcome.report.resumed = resumed;
            *full = disk::blame(&mut classified, &cwd, &options.scratch, &options.env);
            Finished::Outcome(classified)
        }
        Finished::Stale => Finished::Stale,
    }
}

/// The task is whole and goes to another worker; this one claims nothing until it is mended.
fn cannot_work(why: Failure) -> Finished {
    let ending = Ending::Stopped(why.message.clone());
    let outcome = Outcome { report: Report::default(), ending, retry_after_ms: None };
    let unfit = Unfit { class: Class::Internal, message: why.message, hint: why.hint, until_ms: None };
    Finished::Outcome(Box::new(Classified { outcome, limit: None, unfit: Some(unfit) }))
}

fn not_begun(ending: Ending) -> Finished {
    let outcome = Outcome { report: Report::default(), ending, retry_after_ms: None };
    Finished::Outcome(Box::new(Classified { outcome, limit: None, unfit: None }))
}

/// Before a run starts, this user's processes of this pool's former runs are ended: nobody waits for what they do.
async fn end_leftovers(seat: &Seat) -> Result<(), Failure> {
    let is_current = async |task: &str, run: &str| match (task.parse(), run.parse()) {
        (Ok(task), Ok(run)) => seat.is_current(task, run).await,
        _ => Ok(true),
    };
    match process::leftovers(seat.pool_id(), is_current, LEFTOVERS).await {
        Ok(done) => {
            if !done.ended.is_empty() {
                tracing::warn!(runs = done.ended.join(", "), "ended what was left of former runs");
            }
            if done.survivors.is_empty() {
                return Ok(());
            }
            Err(Failure::new(
                Class::Transient,
                format!("processes of a former run cannot be ended: {:?}", done.survivors),
            )
            .hint("end them on the worker's machine"))
        }
        // Redis is away: nothing is guessed, and the run's own beats will tell.
        Err(error) => {
            tracing::warn!(%error, "it is not known whether there are leftovers of former runs");
            Ok(())
        }
    }
}

/// Files that a killed worker left may hold secrets; a file's name says whose it is.
fn remove_stale_files(options: &Options) {
    let prefix = file_prefix(options);
    for entry in std::fs::read_dir(&options.scratch).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.split('-').next()?.parse::<i32>().ok());
        let Some(owner) = owner.filter(|pid| *pid > 0) else { continue };
        if nix::sys::signal::kill(nix::unistd::Pid::from_raw(owner), None) == Err(nix::errno::Errno::ESRCH) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The machine is part of the name: a process id means nothing on another one that shares the directory.
fn file_prefix(options: &Options) -> String {
    let host: String = options.host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("mcp-{host}-")
}

type Prepared = (Job, Option<PathBuf>, Option<String>);

async fn prepare(
    seat: &Seat,
    claimed: &Claimed,
    sent: Instant,
    probe: &Probe,
    options: &Options,
) -> Result<Prepared, Ending> {
    let lease = &claimed.lease;
    let spec = lease.spec();
    let merged = merge::merge(seat.defaults(), &seat.slot().options, &spec.options);
    let cwd = options.workplace.check(spec, &merged)?;
    let sessions = Sessions { env: &options.env, cwd: &cwd, host: &options.host };
    let asked = prompt::asked(seat.pool(), lease, &merged, &sessions).await?;
    let failure = |error: motorpool::Error| {
        let failure = Failure::new(Class::Request, error.message());
        match error.hint_text() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    };
    let mark = format!("{}/{}/{}", seat.pool_id(), lease.task(), lease.run());
    let mcp_file = match mcp::config(&merged.mcp_servers, &options.env).map_err(failure)? {
        None => None,
        Some(text) => {
            let file =
                options.scratch.join(format!("{}{}-{}.json", file_prefix(options), std::process::id(), lease.task()));
            mcp::write(&file, &text).map_err(failure)?;
            Some(file)
        }
    };
    let command: Command = command::command(
        &merged,
        &asked.prompt,
        &Place {
            claude: &probe.path,
            cwd: &cwd,
            mcp_config: mcp_file.as_deref(),
            env: &options.env,
            run: &mark,
            addition: &identity(lease, &seat.slot().words()),
            session: asked.session.as_ref(),
        },
    );
    let (timeout, idle) = (merged.timeout_s.map(Duration::from_secs), merged.idle_timeout_s.map(Duration::from_secs));
    Ok((
        Job { command, claimed: sent, lease: lease.lease(), timeout, idle },
        mcp_file,
        asked.session.map(|session| session.id),
    ))
}

/// Who Claude is here, for its system prompt.
fn identity(lease: &Lease, slot: &str) -> String {
    let text = format!(
        "You run unattended as a worker of a Motorpool: this is task {}, run {}. Nobody can answer questions. \
         Your last message is the task's result and is read by whoever submitted it.",
        lease.task(),
        lease.run()
    );
    if slot.is_empty() { text } else { format!("{text}\n\n{slot}") }
}

struct World<'a> {
    seat: Mutex<&'a mut Seat>,
    lease: &'a Lease,
    output: Output,
}

impl Outside for World<'_> {
    async fn beat(&self, progress: &Progress) -> Beat {
        self.seat.lock().await.beat(self.lease, progress).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a beat was refused");
            Beat::Unreachable
        })
    }

    async fn live(&self, live: Live) {
        // Without Redis it is lost, and the run goes on.
        let _ = timeout(Duration::from_secs(5), self.output.add(live.pieces())).await;
    }
}
