//! Whether this worker can work: what it finds out by looking, what the end of a run says, and how it waits to be fit
//! again.
//!
//! Not here: which kind of failure is whose fault (`claude/classify.rs`), limits of one kind of model (`parked.rs`).

use std::path::Path;
use std::time::Duration;

use motorpool::Result;
use motorpool::domain::attempt::{Class, Ending};
use motorpool::domain::fleet::Unfit;
use motorpool::pool::Seat;
use tokio::time::{Instant, sleep, timeout};

use crate::claude::classify::{Classified, UsageLimit};
use crate::claude::probe::{self, Probe};
use crate::disk;
use crate::parked;
use crate::slot::{Options, patient};
use crate::stop::{Stop, Stopping};

/// How long a usage limit is taken to last that does not say when it ends.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(300);
/// No window of an account is longer; what says so is wrong.
const LONGEST_LIMIT: Duration = Duration::from_secs(8 * 24 * 3600);
/// A limit may be lifted early: so often it is looked whether it still holds.
const TRIAL: Duration = Duration::from_secs(30 * 60);
/// How long the account's limit is told before the run is settled.
const EARLY_WORD: Duration = Duration::from_secs(1);
/// The longest wait until an unfit worker looks again.
const LONGEST_PROBE: Duration = Duration::from_secs(300);

/// How long an unfit worker waits until it looks again: twice as long each time, by chance a little less.
pub(crate) struct Probes {
    first: Duration,
    failed: u32,
}

impl Probes {
    pub(crate) fn new(first: Duration) -> Self {
        Self { first, failed: 0 }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failed.min(10)).min(LONGEST_PROBE.max(self.first));
        self.failed += 1;
        full.mul_f64(1.0 - by_chance() / 5.0)
    }

    /// A run of it ended as runs do.
    pub(crate) fn is_fit(&mut self) {
        self.failed = 0;
    }
}

/// Whether it can work: the disk that was `full`, then the CLI.
pub(crate) async fn examine(options: &Options, full: Option<&Path>) -> (Option<Probe>, Option<Unfit>) {
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
pub(crate) fn becomes_unfit(classified: &Classified) -> Option<Unfit> {
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
pub(crate) fn ends_ms(limit: &UsageLimit) -> u64 {
    let told = limit.until_ms.map(|until_ms| Duration::from_millis(until_ms.saturating_sub(now_ms())));
    now_ms() + told.unwrap_or(UNKNOWN_LIMIT).min(LONGEST_LIMIT).as_millis() as u64
}

/// Tells that this worker is unfit where its account is at a limit: before the task goes back, or the next worker of the
/// account would take it.
pub(crate) async fn tell_limit(seat: &mut Seat, why: &Unfit) {
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

/// Waits until the worker is fit again, showing presence meanwhile; comes back early at the end of the process.
pub(crate) async fn mend(
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

/// From 0 to 1, different on each worker: a process id is not, in containers.
fn by_chance() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    f64::from(since.map_or(0, |since| since.subsec_nanos()) % 1_000_000) / 1_000_000.0
}

pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfit_worker_looks_again_ever_later_and_begins_anew_once_it_is_fit() {
        let mut probes = Probes::new(Duration::from_secs(5));
        let waits: Vec<u64> = (0..9).map(|_| probes.next().as_millis() as u64).collect();
        for (n, wait) in waits.iter().enumerate() {
            let full = (5_000_u64 << n).min(300_000);
            assert!((full * 8 / 10..=full).contains(wait), "{n}: {wait}");
        }
        probes.is_fit();
        assert!(probes.next() <= Duration::from_secs(5));
    }
}
