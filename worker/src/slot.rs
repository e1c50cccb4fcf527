//! The slot: claims a task, runs it, settles it; one at a time, until it is told to stop.
//!
//! Stateless between tasks. Not here: one run (`run.rs`), what becomes of it (`motorpool::domain::attempt`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use motorpool::domain::attempt::{Class, Ending, Outcome};
use motorpool::domain::fleet::Unfit;
use motorpool::outbox::Outbox;
use motorpool::pool::{Claim, Lease, Seat};
use motorpool::{ErrorKind, Pool, Presence, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::attempt::drive::Finished;
use crate::claude::classify::{Classified, UsageLimit};
use crate::claude::command::Environment;
use crate::claude::probe::{self, Probe};
use crate::disk;
use crate::parked::{self, Parked};
use crate::run::{Claimed, run_one};
use crate::stop::{Stop, Stopping};
use crate::workplace::Workplace;

/// How long a usage limit is taken to last that does not say when it ends.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(300);
/// No window of an account is longer; what says so is wrong.
const LONGEST_LIMIT: Duration = Duration::from_secs(8 * 24 * 3600);
/// A limit may be lifted early: so often it is looked whether it still holds.
const TRIAL: Duration = Duration::from_secs(30 * 60);
/// How long the account's limit is told before the run is settled.
const EARLY_WORD: Duration = Duration::from_secs(1);
/// How long a result is offered to a Redis that is away when the process ends; its host waits 10 s.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The longest wait until an unfit worker looks again.
const LONGEST_PROBE: Duration = Duration::from_secs(300);

/// How long an unfit worker waits until it looks again: twice as long each time, by chance a little less.
struct Probes {
    first: Duration,
    failed: u32,
}

impl Probes {
    fn next(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failed.min(10)).min(LONGEST_PROBE.max(self.first));
        self.failed += 1;
        full.mul_f64(1.0 - by_chance() / 5.0)
    }

    /// A run of it ended as runs do.
    fn is_fit(&mut self) {
        self.failed = 0;
    }
}

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
    /// What it has, as tasks may need it.
    pub labels: Vec<String>,
    /// The name of the account that its Claude uses, where it was given one; else it is told by the sign-in.
    pub account: Option<String>,
    /// Where files of a run are put that are nobody else's business.
    pub scratch: PathBuf,
    /// Where results are kept that Redis has not taken.
    pub outbox: Outbox,
    /// The machine's name.
    pub host: String,
    /// The slot that it fills.
    pub slot: String,
    /// When an unfit worker first looks whether it is fit again; later ever less often.
    pub probe_again: Duration,
}

/// Works until it is told to stop.
///
/// # Errors
/// What no waiting mends: a pool of another schema, a call that Redis refuses.
pub async fn work(pool: &Pool, options: &Options, mut stopping: Stopping) -> Result<()> {
    // First of all: what is told soon after an outage is not begun anew.
    let mut told = tokio::select! {
        told = tell_what_is_left(pool, options) => told,
        _ = stopping.at_least(Stop::Drain) => return Ok(()),
    };
    let (mut fit, mut unfit) = examine(options, None).await;
    let presence = Presence {
        host: options.host.clone(),
        pid: std::process::id(),
        claude: fit.as_ref().map(|probe| probe.version.clone()),
        lanes: options.lanes.clone(),
        labels: options.labels.clone(),
        unfit: unfit.clone(),
        draining: false,
        account: fit.as_ref().map(|probe| probe.account_id.clone()).unwrap_or_default(),
        limit_ms: 0,
        slot: options.slot.clone(),
    };
    let mut seat = tokio::select! {
        seat = Seat::join(pool, presence) => seat?,
        // Its cancellation loses a place that nobody knows yet.
        _ = stopping.at_least(Stop::Drain) => return Ok(()),
    };
    tracing::info!(worker = %seat.id(), redis = pool.redis(), "joined");
    seat.keep_results_in(options.outbox.clone());
    let mut next: Option<Claimed> = None;
    let mut probes = Probes { first: options.probe_again, failed: 0 };
    let mut token: Option<String> = None;
    let mut parked = Parked::default();
    // The directory that could not be written to.
    let mut full: Option<PathBuf> = None;
    while stopping.now() == Stop::No || next.is_some() {
        if !told && next.is_none() {
            told = tokio::select! {
                told = tell_what_is_left(pool, options) => told,
                _ = stopping.at_least(Stop::Drain) => break,
            };
        }
        let Some(probe) = &fit else {
            if let Some(why) = unfit.clone() {
                (fit, unfit) = mend(&mut seat, options, (&why, full.as_deref()), probes.next(), &mut stopping).await?;
            }
            continue;
        };
        let claimed = match next.take() {
            Some(claimed) => claimed,
            None => match claim(&mut seat, &mut token, &mut stopping).await? {
                Next::Run(claimed) => claimed,
                Next::Nothing => continue,
                Next::Limited(why) => {
                    tracing::warn!(message = why.message, "another worker has met a limit of this account");
                    (fit, unfit) = (None, Some(why));
                    continue;
                }
            },
        };
        let task = claimed.lease.task();
        let run = claimed.lease.run();
        tracing::info!(%task, run, "started");
        let model = seat.model(&claimed.lease);
        let ended = match parked.refuses(model.as_deref(), now_ms()) {
            Some(refused) => refused,
            None => run_one(&mut seat, &claimed, probe, options, &stopping, &mut full).await,
        };
        let Finished::Outcome(mut classified) = ended else {
            tracing::warn!(%task, run, "the run is no longer this worker's; its Claude is ended");
            continue;
        };
        if let Some(auto) = &claimed.lease.spec().auto {
            crate::route::carry_on(pool, &claimed.lease, auto, &mut classified.outcome).await;
        }
        if let (Some(kind), Ending::Failed(failure)) = (parked::kind_of(&classified), &classified.outcome.ending) {
            let until_ms = classified.limit.as_ref().map_or(0, ends_ms);
            tracing::warn!(%task, run, message = failure.message, "no task with this kind of model is begun here until then");
            parked.note(kind, model.as_deref(), failure, until_ms, now_ms());
        }
        if let Some((until_ms, _)) = parked.holds(model.as_deref(), now_ms()).filter(|_| has_met_a_limit(&classified)) {
            let away_ms = parked::away_ms(pool, &claimed.lease, &probe.account_id, until_ms, now_ms()).await;
            classified.outcome.retry_after_ms = Some(away_ms);
        }
        if let Some(why) = becomes_unfit(&classified) {
            tracing::error!(%task, run, class = %why.class, message = why.message, "this worker cannot go on");
            if classified.limit.is_some() {
                // Before the task goes back, or the next worker of the account would take it.
                let lasts_ms = why.until_ms.map_or(0, |until_ms| until_ms.saturating_sub(now_ms()));
                let told = seat.report(|presence| {
                    presence.unfit = Some(why.clone());
                    presence.limit_ms = lasts_ms;
                });
                // What the run has brought does not wait for it, and is not lost with it.
                match timeout(EARLY_WORD, told).await {
                    Ok(Err(error)) => tracing::warn!(%error, "the account's limit is not told"),
                    Err(_) => tracing::warn!("the account's limit is not told: Redis does not answer"),
                    Ok(Ok(())) => {}
                }
            }
            (fit, unfit) = (None, Some(why));
        }
        if fit.is_some() {
            probes.is_fit();
        }
        let go_on = stopping.now() == Stop::No && fit.is_some();
        next = settle(&mut seat, claimed.lease, &classified.outcome, go_on, &mut stopping).await?;
        tracing::info!(%task, run, "{}", ended_text(&classified.outcome.ending));
    }
    if let Some(lane) = token {
        seat.return_token(&lane).await;
    }
    seat.leave().await;
    Ok(())
}

/// Whether all is told that former workers of this machine could not tell. Redis away: again before the next claim.
async fn tell_what_is_left(pool: &Pool, options: &Options) -> bool {
    let told = pool.tell_what_is_left(&options.outbox).await;
    if let Err(error) = &told {
        tracing::warn!(%error, "results of former workers are not told yet");
    }
    told.is_ok()
}

/// How a run ended, for the log.
fn ended_text(ending: &Ending) -> String {
    match ending {
        Ending::Success => "ended well".to_owned(),
        Ending::Failed(failure) => format!("failed ({}): {}", failure.class, failure.message),
        Ending::Stopped(reason) => format!("stopped: {reason}"),
        Ending::Elsewhere { lane, why } => format!("not begun: {why}; it goes to the lane {lane}"),
    }
}

/// Whether it can work: the disk that was `full`, then the CLI.
async fn examine(options: &Options, full: Option<&Path>) -> (Option<Probe>, Option<Unfit>) {
    if let Some(unfit) = full.and_then(disk::unfit) {
        return (None, Some(unfit));
    }
    let bin = Some(options.claude_bin.as_path());
    match probe::probe(bin, &options.env, &options.workplace.working_dir).await {
        Ok(mut probe) => {
            if let Some(account) = &options.account {
                probe.account_id.clone_from(account);
            }
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
        // One kind of model: the worker does the rest.
        if parked::kind_of(classified).is_some() {
            return None;
        }
        return Some(Unfit {
            class: Class::Limit,
            message: failure.message.clone(),
            hint: failure.hint.clone(),
            until_ms: Some(ends_ms(limit)),
        });
    }
    classified.unfit.clone()
}

/// When a limit is over, as far as that is known and can be.
fn ends_ms(limit: &UsageLimit) -> u64 {
    let told = limit.until_ms.map(|until_ms| Duration::from_millis(until_ms.saturating_sub(now_ms())));
    now_ms() + told.unwrap_or(UNKNOWN_LIMIT).min(LONGEST_LIMIT).as_millis() as u64
}

fn has_met_a_limit(classified: &Classified) -> bool {
    matches!(&classified.outcome.ending, Ending::Failed(failure) if failure.class == Class::Limit)
}

/// Waits until the worker is fit again, showing presence meanwhile; comes back early at the end of the process.
async fn mend(
    seat: &mut Seat,
    options: &Options,
    (why, full): (&Unfit, Option<&Path>),
    pause: Duration,
    stopping: &mut Stopping,
) -> Result<(Option<Probe>, Option<Unfit>)> {
    let again = match why.until_ms {
        // By chance up to 2 s later, so that all workers of an account do not come at once.
        Some(until_ms) => {
            let jitter = (by_chance() * 2_000.0) as u64;
            Duration::from_millis(until_ms.saturating_sub(now_ms()) + jitter).clamp(Duration::from_secs(1), TRIAL)
        }
        None => pause,
    };
    let until = Instant::now() + again;
    while Instant::now() < until && stopping.now() == Stop::No {
        patient(seat.report(|presence| presence.unfit = Some(why.clone())).await)?;
        let pause = until.saturating_duration_since(Instant::now()).min(seat.lease() / 3);
        tokio::select! {
            () = sleep(pause) => {}
            _ = stopping.at_least(Stop::Drain) => return Ok((None, Some(why.clone()))),
        }
    }
    if stopping.now() != Stop::No {
        return Ok((None, Some(why.clone())));
    }
    let (fit, unfit) = examine(options, full).await;
    let reported = seat.report(|presence| {
        presence.unfit = unfit.clone();
        presence.limit_ms = 0;
        if let Some(probe) = &fit {
            presence.claude = Some(probe.version.clone());
            presence.account.clone_from(&probe.account_id);
        }
    });
    patient(reported.await)?;
    Ok((fit, unfit))
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

/// What a claim comes to.
enum Next {
    Run(Claimed),
    /// There was nothing, or the process ends.
    Nothing,
    /// The account is at its limit.
    Limited(Unfit),
}

/// Claims, or waits for something to claim.
async fn claim(seat: &mut Seat, token: &mut Option<String>, stopping: &mut Stopping) -> Result<Next> {
    let sent = Instant::now();
    let claimed = tokio::select! {
        claimed = seat.claim(token.as_deref()) => claimed,
        // A claim is waited for even in a drain: it may have taken a task. Only the end itself lets go of it.
        _ = stopping.at_least(Stop::Now) => return Ok(Next::Nothing),
    };
    match claimed {
        Ok(Claim::Run(lease)) => {
            *token = None;
            Ok(Next::Run(Claimed { lease, sent }))
        }
        Ok(Claim::Limited { left, message, hint }) => {
            // For one whose account is not: it goes on to nobody else of this one, who does not wait for tokens any more.
            if let Some(lane) = token.take() {
                seat.return_token(&lane).await;
            }
            let until_ms = now_ms() + u64::try_from(left.as_millis()).unwrap_or(0);
            Ok(Next::Limited(Unfit { class: Class::Limit, message, hint, until_ms: Some(until_ms) }))
        }
        Ok(Claim::Idle) => {
            *token = tokio::select! {
                token = seat.wait_for_work() => token,
                // A token that this wait had taken is replaced by the sweep.
                _ = stopping.at_least(Stop::Drain) => None,
            };
            Ok(Next::Nothing)
        }
        Err(error) => {
            patient::<()>(Err(error))?;
            tokio::select! {
                () = sleep(Duration::from_secs(2)) => {}
                _ = stopping.at_least(Stop::Drain) => {}
            }
            Ok(Next::Nothing)
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
                Claim::Idle | Claim::Limited { .. } => None,
            };
            Ok((settled, next))
        } else {
            Ok((seat.finish(lease, outcome).await?, None))
        }
    };
    let settled = tokio::select! {
        settled = settling => settled,
        // Redis is away and the process ends: the next worker of this machine tells what is kept.
        () = async { stopping.at_least(Stop::Now).await; sleep(patience.min(LAST_WORDS)).await } => {
            tracing::error!(%task, run, "Redis did not take the result in time; the next worker of this machine tells it");
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

/// From 0 to 1, different on each worker: a process id is not, in containers.
fn by_chance() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    f64::from(since.map_or(0, |since| since.subsec_nanos()) % 1_000_000) / 1_000_000.0
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfit_worker_looks_again_ever_later_and_begins_anew_once_it_is_fit() {
        let mut probes = Probes { first: Duration::from_secs(5), failed: 0 };
        let waits: Vec<u64> = (0..9).map(|_| probes.next().as_millis() as u64).collect();
        for (n, wait) in waits.iter().enumerate() {
            let full = (5_000_u64 << n).min(300_000);
            assert!((full * 8 / 10..=full).contains(wait), "{n}: {wait}");
        }
        probes.is_fit();
        assert!(probes.next() <= Duration::from_secs(5));
    }
}
