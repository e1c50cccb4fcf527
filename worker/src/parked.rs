//! Limits that hit one kind of model only: what a worker does not begin meanwhile, while it does the rest.
//!
//! A task that needs such a model is handed back unspent before Claude starts, until the limit is over, so that it is
//! claimed once and not again and again. Not here: limits of a whole account (`fitness.rs`, the pool's `account`).

use std::time::Duration;

use motorpool::Pool;
use motorpool::domain::attempt::{Class, Ending, Failure, Outcome, Report};
use motorpool::domain::fleet::Worker;
use motorpool::pool::Lease;
use tokio::time::timeout;

use crate::attempt::drive::Finished;
use crate::claude::classify::Classified;
use crate::fitness::{ends_ms, now_ms};

/// The kinds of models that have limits of their own, as the windows and the models' names say.
const KINDS: [&str; 2] = ["opus", "sonnet"];
/// A reset in the past is no reason to try at once, again and again.
const SHORTEST: Duration = Duration::from_secs(10);
/// Where another account may take the task it comes back soon, and, if it does not get there, ever later.
const FIRST: Duration = Duration::from_secs(10);
const LATEST: Duration = Duration::from_secs(30 * 60);
/// How long the other workers are asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The kind of model that a limit hits, where it does not hit the whole account.
pub(crate) fn kind_of(classified: &Classified) -> Option<&'static str> {
    let window = classified.limit.as_ref()?.window.as_ref()?;
    KINDS.into_iter().find(|kind| window.strip_suffix(kind).is_some_and(|rest| rest.ends_with('_')))
}

#[derive(Clone, Debug)]
struct Limit {
    kind: &'static str,
    until_ms: u64,
    failure: Failure,
    /// Met by a task that named no model: it is what such a task gets here.
    is_default: bool,
}

/// The limits that a worker has met.
#[derive(Debug, Default)]
pub(crate) struct Parked(Vec<Limit>);

impl Parked {
    /// Draws from the end of a run what there is to know, and says how long the task stays away for it.
    pub(crate) async fn learn(
        &mut self,
        pool: &Pool,
        lease: &Lease,
        model: Option<&str>,
        account: &str,
        classified: &mut Classified,
    ) {
        let Ending::Failed(failure) = &classified.outcome.ending else { return };
        if failure.class != Class::Limit {
            return;
        }
        if let (Some(kind), Some(limit)) = (kind_of(classified), &classified.limit) {
            let (task, run, message) = (lease.task(), lease.run(), &failure.message);
            tracing::warn!(%task, run, message, "no task with this kind of model is begun here until then");
            self.note(kind, model, failure, ends_ms(limit), now_ms());
        }
        if let Some((until_ms, _)) = self.holds(model, now_ms()) {
            classified.outcome.retry_after_ms = Some(away_ms(pool, lease, account, until_ms, now_ms()).await);
        }
    }

    /// A run with this model, or with none named, met a limit.
    fn note(&mut self, kind: &'static str, model: Option<&str>, failure: &Failure, until_ms: u64, now_ms: u64) {
        let is_default = model.is_none();
        self.0.retain(|limit| limit.kind != kind && limit.until_ms > now_ms);
        self.0.push(Limit { kind, until_ms, failure: failure.clone(), is_default });
    }

    /// What a run with this model would meet: until when, and how it failed before.
    fn holds(&self, model: Option<&str>, now_ms: u64) -> Option<(u64, &Failure)> {
        let hits = |limit: &&Limit| match model {
            Some(model) => model.to_lowercase().contains(limit.kind),
            None => limit.is_default,
        };
        let limit = self.0.iter().filter(|limit| limit.until_ms > now_ms).find(hits)?;
        Some((limit.until_ms, &limit.failure))
    }

    /// The end of a run that is not begun, where it would meet a limit.
    pub(crate) fn refuses(&self, model: Option<&str>, now_ms: u64) -> Option<Finished> {
        let (_, failure) = self.holds(model, now_ms)?;
        let ending = Ending::Failed(failure.clone());
        let outcome = Outcome { report: Report::default(), ending, retry_after_ms: None };
        Some(Finished::Outcome(Box::new(Classified { outcome, limit: None, unfit: None })))
    }
}

/// How long a task stays away that this worker may not begin until then: until the limit is over, unless a worker of
/// another account may do it before.
async fn away_ms(pool: &Pool, lease: &Lease, account: &str, until_ms: u64, now_ms: u64) -> u64 {
    // Redis away: the finish will wait for it, too.
    let workers = timeout(PATIENCE, pool.workers()).await.map(Result::unwrap_or_default).unwrap_or_default();
    let lane = lease.spec().lane().to_string();
    wait_ms(until_ms.saturating_sub(now_ms), may_do(&workers, &lane, account), lease.run())
}

fn may_do(workers: &[Worker], lane: &str, account: &str) -> bool {
    let other = |worker: &Worker| worker.account.as_deref().unwrap_or_default() != account;
    workers.iter().any(|worker| other(worker) && worker.unfit.is_none() && worker.serves(lane))
}

fn wait_ms(left_ms: u64, another_may: bool, run: u64) -> u64 {
    let millis = |time: Duration| time.as_millis() as u64;
    let left_ms = left_ms.max(millis(SHORTEST));
    if !another_may {
        return left_ms;
    }
    let doubled = millis(FIRST) << run.saturating_sub(1).min(8);
    left_ms.min(doubled.min(millis(LATEST)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claude::classify::{Seen, UsageLimit};

    #[test]
    fn a_limit_hits_its_kind_of_model_and_no_other() {
        for (window, expected) in [
            (Some("seven_day_opus"), Some("opus")),
            (Some("seven_day_sonnet"), Some("sonnet")),
            (Some("seven_day"), None),
            (Some("five_hour"), None),
            (Some("overage"), None),
            (None, None),
        ] {
            let mut classified = Seen::default().ended(Ending::Success);
            classified.limit = Some(UsageLimit { until_ms: None, window: window.map(str::to_owned) });
            assert_eq!(kind_of(&classified), expected, "{window:?}");
        }
    }

    #[test]
    fn what_is_parked_is_not_begun_until_then() {
        let failure = Failure::new(Class::Limit, "no more opus");
        let mut parked = Parked::default();
        parked.note("opus", Some("opus"), &failure, 100, 0);
        for (model, now_ms, expected) in [
            (Some("opus"), 99, true),
            (Some("claude-Opus-4-1"), 99, true),
            (Some("opusplan"), 99, true),
            (Some("opus"), 100, false),
            (Some("sonnet"), 99, false),
            (None, 99, false),
        ] {
            assert_eq!(parked.holds(model, now_ms).is_some(), expected, "{model:?} {now_ms}");
        }
        // One that named no model met it: so would the next that names none.
        parked.note("opus", None, &failure, 100, 0);
        assert!(parked.holds(None, 99).is_some() && parked.holds(Some("opus"), 99).is_some());
        assert!(parked.holds(Some("haiku"), 99).is_none());
        parked.note("sonnet", Some("sonnet"), &failure, 300, 200);
        assert_eq!(parked.0.len(), 1, "what is over is forgotten");
    }

    #[test]
    fn a_task_stays_away_until_the_reset_unless_another_account_may_do_it() {
        for (left_ms, another, run, expected) in [
            (3_600_000, false, 1, 3_600_000),
            (0, false, 1, 10_000),
            (3_600_000, true, 1, 10_000),
            (3_600_000, true, 3, 40_000),
            (360_000_000, true, 50, 1_800_000),
            (15_000, true, 3, 15_000),
        ] {
            assert_eq!(wait_ms(left_ms, another, run), expected, "{left_ms} {another} {run}");
        }
    }
}
