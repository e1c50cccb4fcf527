//! The slot: claims a task, runs it, settles it; one at a time, until it is told to stop.
//!
//! Stateless between tasks. Not here: one run (`run.rs`), what becomes of it (`motorpool::domain::attempt`).

use std::path::PathBuf;
use std::time::Duration;

use motorpool::domain::attempt::{Class, Ending, Outcome};
use motorpool::domain::fleet::Unfit;
use motorpool::outbox::Outbox;
use motorpool::pool::{Claim, Lease, Seat};
use motorpool::{ErrorKind, Pool, Presence, Result};
use tokio::time::{Instant, sleep};

use crate::attempt::drive::Finished;
use crate::claude::command::Environment;
use crate::fitness::{self, Probes};
use crate::parked::Parked;
use crate::run::{Claimed, run_one};
use crate::stop::{Stop, Stopping};
use crate::workplace::Workplace;

/// How long a result is offered to a Redis that is away when the process ends; its host waits 10 s.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
    let (mut fit, mut unfit) = fitness::examine(options, None).await;
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
    let mut probes = Probes::new(options.probe_again);
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
                (fit, unfit) =
                    fitness::mend(&mut seat, options, (&why, full.as_deref()), probes.next(), &mut stopping).await?;
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
        let ended = match parked.refuses(model.as_deref(), fitness::now_ms()) {
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
        parked.learn(pool, &claimed.lease, model.as_deref(), &probe.account_id, &mut classified).await;
        if let Some(why) = fitness::becomes_unfit(&classified) {
            tracing::error!(%task, run, class = %why.class, message = why.message, "this worker cannot go on");
            if classified.limit.is_some() {
                fitness::tell_limit(&mut seat, &why).await;
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

/// A Redis that refuses us for now (a password that was changed) is tried again; the connection has told it.
pub(crate) fn patient<T: Default>(answer: Result<T>) -> Result<T> {
    match answer {
        Err(error) if error.kind() == ErrorKind::Redis => {
            tracing::debug!(%error, "Redis refuses this worker; trying again");
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
            let until_ms = fitness::now_ms() + u64::try_from(left.as_millis()).unwrap_or(0);
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
