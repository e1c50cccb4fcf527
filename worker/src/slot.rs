//! The slot: claims a task, prepares it, drives it, settles it; one at a time, until it is told to stop.
//!
//! Stateless between tasks. Not here: the run itself (`attempt`), what becomes of it (`motorpool::domain::attempt`).

use std::path::PathBuf;
use std::time::Duration;

use motorpool::domain::attempt::{Class, Ending, Failure, Outcome, Report};
use motorpool::domain::fleet::Unfit;
use motorpool::domain::merge;
use motorpool::pool::{self, Claim, Lease, Output, Seat};
use motorpool::{ErrorKind, Pool, Presence, Result, TaskOptions};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::attempt::drive::{self, Finished, Job, Notices, Outside};
use crate::claude::classify::Classified;
use crate::claude::command::{self, Command, Environment, Place};
use crate::claude::mcp;
use crate::claude::probe::{self, Probe};
use crate::process;
use crate::stop::{Stop, Stopping};
use crate::workplace::Workplace;

/// How long a usage limit is taken to last that does not say when it ends.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(300);
/// How long a result is offered to a Redis that is away when the process ends; its host waits 10 s.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long leftovers of former runs get to be gone.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// What a worker is set to.
#[derive(Debug)]
pub struct Options {
    /// `--claude-bin`.
    pub claude_bin: PathBuf,
    /// The environment of Claude.
    pub env: Environment,
    /// Where tasks work, and what they may.
    pub workplace: Workplace,
    /// The lanes it serves, in its order.
    pub lanes: Vec<String>,
    /// Where files of a run are put that are nobody else's business.
    pub scratch: PathBuf,
    /// The machine's name.
    pub host: String,
    /// How often an unfit worker looks whether it is fit again.
    pub probe_again: Duration,
}

/// A run that was claimed, and when the claim was sent.
struct Claimed {
    lease: Lease,
    sent: Instant,
}

/// Works until it is told to stop.
///
/// # Errors
/// What no waiting mends: a pool of another schema, a call that Redis refuses.
pub async fn work(pool: &Pool, options: &Options, mut stopping: Stopping) -> Result<()> {
    let (mut fit, mut unfit) = examine(options).await;
    let presence = Presence {
        host: options.host.clone(),
        pid: std::process::id(),
        claude: fit.as_ref().map(|probe| probe.version.clone()),
        lanes: options.lanes.clone(),
        unfit: unfit.clone(),
        draining: false,
    };
    let mut seat = tokio::select! {
        seat = Seat::join(pool, presence) => seat?,
        // Its cancellation loses a place that nobody knows yet.
        _ = stopping.at_least(Stop::Drain) => return Ok(()),
    };
    tracing::info!(worker = %seat.id(), redis = pool.redis(), "joined");
    let mut next: Option<Claimed> = None;
    let mut token: Option<String> = None;
    while stopping.now() == Stop::No || next.is_some() {
        let Some(probe) = &fit else {
            if let Some(why) = unfit.clone() {
                (fit, unfit) = mend(&mut seat, options, &why, &mut stopping).await?;
            }
            continue;
        };
        let claimed = match next.take() {
            Some(claimed) => claimed,
            None => match claim(&mut seat, &mut token, &mut stopping).await? {
                Some(claimed) => claimed,
                None => continue,
            },
        };
        let task = claimed.lease.task();
        let run = claimed.lease.run();
        tracing::info!(%task, run, "started");
        let ended = run_one(&mut seat, &claimed, probe, options, &stopping).await;
        let Finished::Outcome(classified) = ended else {
            tracing::warn!(%task, run, "the run is no longer this worker's; its Claude is ended");
            continue;
        };
        if let Some(why) = becomes_unfit(&classified) {
            tracing::error!(%task, run, class = %why.class, message = why.message, "this worker cannot go on");
            (fit, unfit) = (None, Some(why));
        }
        let go_on = stopping.now() == Stop::No && fit.is_some();
        next = settle(&mut seat, claimed.lease, &classified.outcome, go_on, &mut stopping).await?;
        tracing::info!(%task, run, ended = ?classified.outcome.ending, "ended");
    }
    if let Some(lane) = token {
        seat.return_token(&lane).await;
    }
    seat.leave().await;
    Ok(())
}

async fn examine(options: &Options) -> (Option<Probe>, Option<Unfit>) {
    let bin = Some(options.claude_bin.as_path());
    match probe::probe(bin, &options.env, &options.workplace.working_dir).await {
        Ok(probe) => {
            tracing::info!(claude = probe.version, method = probe.method, "claude is ready");
            (Some(probe), None)
        }
        Err(unfit) => {
            let hint = unfit.hint.as_deref().unwrap_or("");
            tracing::error!(message = unfit.message, hint, "claude cannot be used; no task is claimed");
            (None, Some(unfit))
        }
    }
}

/// What a run's end says about the worker itself.
fn becomes_unfit(classified: &Classified) -> Option<Unfit> {
    if let Some(limit) = &classified.limit {
        let Ending::Failed(failure) = &classified.outcome.ending else { return None };
        return Some(Unfit {
            class: Class::Limit,
            message: failure.message.clone(),
            hint: failure.hint.clone(),
            until_ms: limit.until_ms.or_else(|| Some(now_ms() + UNKNOWN_LIMIT.as_millis() as u64)),
        });
    }
    classified.unfit.clone()
}

/// Waits until the worker is fit again, showing presence meanwhile; comes back early at the end of the process.
async fn mend(
    seat: &mut Seat,
    options: &Options,
    why: &Unfit,
    stopping: &mut Stopping,
) -> Result<(Option<Probe>, Option<Unfit>)> {
    let again = match why.until_ms {
        // By chance up to 2 s later, so that all workers of an account do not come at once.
        Some(until_ms) => {
            let jitter = u64::from(std::process::id() % 20) * 100;
            Duration::from_millis(until_ms.saturating_sub(now_ms()) + jitter)
        }
        None => options.probe_again,
    };
    let until = Instant::now() + again;
    while Instant::now() < until && stopping.now() == Stop::No {
        report(seat, Some(why.clone()), None).await?;
        let pause = until.saturating_duration_since(Instant::now()).min(seat.lease() / 3);
        tokio::select! {
            () = sleep(pause) => {}
            _ = stopping.at_least(Stop::Drain) => return Ok((None, Some(why.clone()))),
        }
    }
    if stopping.now() != Stop::No {
        return Ok((None, Some(why.clone())));
    }
    let (fit, unfit) = examine(options).await;
    report(seat, unfit.clone(), fit.as_ref().map(|probe| probe.version.clone())).await?;
    Ok((fit, unfit))
}

async fn report(seat: &mut Seat, unfit: Option<Unfit>, claude: Option<String>) -> Result<()> {
    let reported = seat.report(|presence| {
        presence.unfit = unfit;
        presence.claude = claude.or(presence.claude.take());
    });
    patient(reported.await)
}

/// A Redis that refuses us for now (a password that was changed) is told, and tried again.
fn patient<T: Default>(answer: Result<T>) -> Result<T> {
    match answer {
        Err(error) if error.kind() == ErrorKind::Redis => {
            tracing::error!(%error, "Redis refuses this worker; trying again");
            Ok(T::default())
        }
        other => other,
    }
}

/// Claims, or waits for something to claim; nothing where there was none, or the process ends.
async fn claim(seat: &mut Seat, token: &mut Option<String>, stopping: &mut Stopping) -> Result<Option<Claimed>> {
    let sent = Instant::now();
    let claimed = tokio::select! {
        claimed = seat.claim(token.as_deref()) => claimed,
        // A claim is waited for even in a drain: it may have taken a task. Only the end itself lets go of it.
        _ = stopping.at_least(Stop::Now) => return Ok(None),
    };
    match claimed {
        Ok(Claim::Run(lease)) => {
            *token = None;
            Ok(Some(Claimed { lease, sent }))
        }
        Ok(Claim::Idle) => {
            *token = tokio::select! {
                token = seat.wait_for_work() => token,
                // A token that this wait had taken is replaced by the sweep.
                _ = stopping.at_least(Stop::Drain) => None,
            };
            Ok(None)
        }
        Err(error) => {
            patient::<()>(Err(error))?;
            tokio::select! {
                () = sleep(Duration::from_secs(2)) => {}
                _ = stopping.at_least(Stop::Drain) => {}
            }
            Ok(None)
        }
    }
}

/// Settles a run and, where the worker goes on, takes the next in the same trip.
async fn settle(
    seat: &mut Seat,
    lease: Lease,
    outcome: &Outcome,
    go_on: bool,
    stopping: &mut Stopping,
) -> Result<Option<Claimed>> {
    let (task, run) = (lease.task(), lease.run());
    let patience = lease.lease();
    let sent = Instant::now();
    let settling = async {
        if go_on {
            let (settled, claim) = seat.step(lease, outcome).await?;
            let next = match claim {
                Claim::Run(lease) => Some(Claimed { lease, sent }),
                Claim::Idle => None,
            };
            Ok((settled, next))
        } else {
            Ok((seat.finish(lease, outcome).await?, None))
        }
    };
    let settled = tokio::select! {
        settled = settling => settled,
        // Redis is away and the process ends: after a lease the pool counts the run as lost anyway.
        () = async { stopping.at_least(Stop::Now).await; sleep(patience.min(LAST_WORDS)).await } => {
            tracing::error!(%task, run, "Redis did not take the result in time; the run counts as lost");
            return Ok(None);
        }
    };
    match settled {
        Ok((settled, next)) => {
            if !settled {
                tracing::warn!(%task, run, "the result came too late: the run was no longer this worker's");
            }
            Ok(next)
        }
        Err(error) => patient(Err(error)),
    }
}

async fn run_one(
    seat: &mut Seat,
    claimed: &Claimed,
    probe: &Probe,
    options: &Options,
    stopping: &Stopping,
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
        match seat.beat(lease, &motorpool::Progress::default()).await {
            Ok(pool::Beat::Ok | pool::Beat::Cancel) => sent = beaten,
            Ok(pool::Beat::Stale) => return Finished::Stale,
            Ok(pool::Beat::Unreachable) | Err(_) => {}
        }
    }
    let (job, mcp_file) = match prepare(seat, claimed, sent, probe, options) {
        Ok(prepared) => prepared,
        Err(failure) => return failed(failure),
    };
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
    finished
}

/// The task is whole and goes to another worker; this one claims nothing until it is mended.
fn cannot_work(why: Failure) -> Finished {
    let ending = Ending::Stopped(why.message.clone());
    let outcome = Outcome { report: Report::default(), ending, retry_after_ms: None };
    let unfit = Unfit { class: Class::Internal, message: why.message, hint: why.hint, until_ms: None };
    Finished::Outcome(Box::new(Classified { outcome, limit: None, unfit: Some(unfit) }))
}

fn failed(failure: Failure) -> Finished {
    let outcome = Outcome { report: Report::default(), ending: Ending::Failed(failure), retry_after_ms: None };
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

type Prepared = (Job, Option<PathBuf>);

fn prepare(
    seat: &Seat,
    claimed: &Claimed,
    sent: Instant,
    probe: &Probe,
    options: &Options,
) -> Result<Prepared, Failure> {
    let lease = &claimed.lease;
    let spec = lease.spec();
    let merged = merge::merge(seat.defaults(), &TaskOptions::default(), &spec.options);
    let cwd = options.workplace.check(spec, &merged)?;
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
        &spec.prompt,
        &Place {
            claude: &probe.path,
            cwd: &cwd,
            mcp_config: mcp_file.as_deref(),
            env: &options.env,
            run: &mark,
            addition: &identity(lease),
        },
    );
    let timeout = merged.timeout_s.map(Duration::from_secs);
    Ok((Job { command, claimed: sent, lease: lease.lease(), timeout }, mcp_file))
}

/// Who Claude is here, for its system prompt.
fn identity(lease: &Lease) -> String {
    format!(
        "You run unattended as a worker of a Motorpool: this is task {}, run {}. Nobody can answer questions. \
         Your last message is the task's result and is read by whoever submitted it.",
        lease.task(),
        lease.run()
    )
}

struct World<'a> {
    seat: Mutex<&'a mut Seat>,
    lease: &'a Lease,
    output: Output,
}

impl Outside for World<'_> {
    async fn beat(&self, progress: &drive::Progress) -> drive::Beat {
        let told = motorpool::Progress {
            cost_microusd: progress.cost_microusd,
            tool: progress.tool.clone().unwrap_or_default(),
            heard_ago_ms: progress.heard_ms_ago,
            session_id: progress.session_id.clone().unwrap_or_default(),
        };
        match self.seat.lock().await.beat(self.lease, &told).await {
            Ok(pool::Beat::Ok) => drive::Beat::Ok,
            Ok(pool::Beat::Cancel) => drive::Beat::Cancel,
            Ok(pool::Beat::Stale) => drive::Beat::Stale,
            Ok(pool::Beat::Unreachable) => drive::Beat::Unreachable,
            Err(error) => {
                tracing::error!(%error, "a beat was refused");
                drive::Beat::Unreachable
            }
        }
    }

    async fn live(&self, text: String) {
        // Without Redis live text is lost, and the run goes on.
        let _ = timeout(Duration::from_secs(5), self.output.add("text", text)).await;
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
