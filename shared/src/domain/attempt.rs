//! What becomes of an attempt: an [`Outcome`] that a worker saw, and the [`Verdict`] that follows from it.
//!
//! The store can be told a verdict and nothing else. Not here: how the CLI's words become an outcome
//! (`worker/src/claude/classify.rs`), what follows from a lost lease (the `if_lost` ladder, `retry.rs`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chain::Step;
use super::retry;
use super::state::words;

words! {
    /// Why a run failed; the `class` of an error.
    Class {
        /// Passing: overload, a server's error, a cut connection.
        Transient = "transient",
        /// The account's usage limit.
        Limit = "limit",
        /// Not signed in, or refused: the worker is unfit.
        Auth = "auth",
        /// The request itself is wrong; it would fail again.
        Request = "request",
        /// `max_turns` reached.
        Turns = "turns",
        /// `max_budget_usd` reached.
        Budget = "budget",
        /// `timeout_s` reached.
        Timeout = "timeout",
        /// A tool was denied and the task asked to fail then.
        Permission = "permission",
        /// The result is not what was asked for.
        Check = "check",
        /// The worker fell silent.
        Lost = "lost",
        /// Stopped on request.
        Cancelled = "cancelled",
        /// Motorpool's own fault.
        Internal = "internal",
    }
}

/// An error as it is recorded: class, the API's status and message, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault, and what follows.
    pub class: Class,
    /// The HTTP status of the API, where there was one.
    pub status: Option<u16>,
    /// What happened, in the API's words where there are any.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without status and hint.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, status: None, message: message.into(), hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a run brought home, however it ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The text of the result, or what there was of it.
    pub output: Option<String>,
    /// The structured result, where a schema was given.
    pub structured: Option<Value>,
    /// The CLI's session.
    pub session_id: Option<String>,
    /// The cost of this run in microdollars.
    pub cost_microusd: u64,
    /// The cost is a sum of our own, not the CLI's figure.
    pub cost_estimated: bool,
    /// Tokens by kind, as the CLI counts them.
    pub usage: Option<Value>,
    /// Turns of the conversation.
    pub turns: u32,
    /// Calls that were denied, as in `Write` or `Bash(cargo test)`.
    pub denied: Vec<String>,
    /// Claude said or did something.
    pub spoke: bool,
    /// The session that it went on with.
    pub resumed: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// With a result.
    Success,
    /// With a failure.
    Failed(Failure),
    /// The worker stopped it: its own end, or Redis out of reach for a lease. The work is whole and goes on elsewhere.
    Stopped(String),
    /// It was not begun: only workers of another lane can do it, where the task now goes.
    Elsewhere {
        /// That lane.
        lane: String,
        /// Why, in words.
        why: String,
    },
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A run as its worker saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What it brought home.
    pub report: Report,
    /// How it ended.
    pub ending: Ending,
    /// Milliseconds that the API asked to wait, where it said so; of a limit, that no worker may do it before.
    pub retry_after_ms: Option<u64>,
}

/// What the record says about earlier attempts; part of a claim's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// This attempt's number: charged ones before it, and itself.
    pub attempt: u32,
    /// The most there may be.
    pub max_attempts: u32,
    /// How often it came back uncharged, limits, drains and unfit workers not counted.
    pub uncharged: u32,
    /// Transient failures in a row before Claude said anything.
    pub unspoken: u32,
    /// Milliseconds since it first came back uncharged, 0 if it never did.
    pub uncharged_for_ms: u64,
    /// Of a step: failures of the work that were tried anew.
    pub failures: u32,
    /// Of a step: this is its recovery prompt.
    pub recovering: bool,
}

/// A task that came back uncharged so often fails with the last reason.
const MOST_UNCHARGED: u32 = 20;
/// A task that came back uncharged for so long fails with the last reason: 24 h.
const LONGEST_UNCHARGED_MS: u64 = 24 * 3600 * 1000;
/// Transient failures in a row, before Claude said anything, that are not charged.
const MOST_UNSPOKEN: u32 = 10;

/// What is done with a task after a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It succeeded.
    Complete,
    /// It succeeded, and is to be judged.
    Review,
    /// It failed for good.
    Fail(Failure),
    /// It is tried again.
    Retry {
        /// Milliseconds until then, 0: at once.
        delay_ms: u64,
        /// It counts against `max_attempts`.
        charged: bool,
        /// It counts as coming back uncharged.
        counted: bool,
        /// Transient before Claude said anything.
        unspoken: bool,
        /// Why; nothing where the worker only ended.
        failure: Option<Failure>,
        /// The reason in words.
        reason: String,
    },
    /// A step whose work failed is tried once more, or with its recovery prompt.
    Anew {
        /// Milliseconds until then.
        delay_ms: u64,
        /// Failures of the work, this one included.
        failures: u32,
        /// With the recovery prompt.
        recovering: bool,
        /// How it failed.
        failure: Failure,
        /// The reason in words.
        reason: String,
    },
    /// It was stopped on request.
    Cancel(String),
}

/// Failures that another try of the same work may mend: a wrong request or a spent budget is not one of them.
fn is_of_the_work(class: Class) -> bool {
    matches!(class, Class::Turns | Class::Timeout | Class::Permission | Class::Check | Class::Internal)
}

/// As [`decide`], for a step of a chain: a failure of the work is tried anew as often as the step says, then once with
/// its recovery prompt.
#[must_use]
pub fn decide_step(step: &Step, history: &History, outcome: &Outcome, fail_on_denied: bool, jitter: f64) -> Verdict {
    let recovers = step.recovery_prompt.is_some();
    // Passing failures and failures of the work are counted apart.
    let tries = step.retries + u32::from(recovers);
    let passing = History {
        attempt: history.attempt.saturating_sub(history.failures),
        max_attempts: history.max_attempts.saturating_sub(tries).max(1),
        ..*history
    };
    let failure = match decide(&passing, outcome, fail_on_denied, jitter) {
        Verdict::Fail(failure) if is_of_the_work(failure.class) && !history.recovering => failure,
        verdict => return verdict,
    };
    let failures = history.failures + 1;
    let recovering = failures > step.retries;
    if recovering && !recovers {
        return Verdict::Fail(failure);
    }
    let delay_ms = retry::backoff_ms(failures, jitter, None);
    let seconds = delay_ms.div_ceil(1000);
    let how = match recovering {
        true => "tried with its recovery prompt".to_owned(),
        false => format!("tried anew, retry {failures} of {}", step.retries),
    };
    let reason = format!("{} ({how}, after {seconds} s)", failure.message);
    Verdict::Anew { delay_ms, failures, recovering, failure, reason }
}

/// What becomes of an attempt. `jitter` (0 to 1) is drawn by the caller.
#[must_use]
pub fn decide(history: &History, outcome: &Outcome, fail_on_denied: bool, jitter: f64) -> Verdict {
    let failure = match &outcome.ending {
        Ending::Success => {
            let denied = &outcome.report.denied;
            if fail_on_denied && !denied.is_empty() {
                return Verdict::Fail(
                    Failure::new(Class::Permission, format!("denied: {}", denied.join(", ")))
                        .hint("allow them with allowed_tools, or choose another permission_mode"),
                );
            }
            return Verdict::Complete;
        }
        Ending::Stopped(reason) => {
            return Verdict::Retry {
                delay_ms: 0,
                charged: false,
                counted: false,
                unspoken: false,
                failure: None,
                reason: reason.clone(),
            };
        }
        Ending::Elsewhere { why, .. } => {
            return Verdict::Retry {
                delay_ms: 0,
                charged: false,
                counted: true,
                unspoken: false,
                failure: None,
                reason: why.clone(),
            };
        }
        Ending::Failed(failure) => failure.clone(),
    };
    let reason = failure.message.clone();
    match failure.class {
        Class::Cancelled => Verdict::Cancel(reason),
        Class::Request
        | Class::Turns
        | Class::Budget
        | Class::Timeout
        | Class::Permission
        | Class::Check
        | Class::Internal => Verdict::Fail(failure),
        // The account or the sign-in of this worker: another one may do it, and nothing was spent.
        Class::Limit | Class::Auth => {
            // What waits for a time that is known waits as others do in their lane.
            if history.uncharged_for_ms > LONGEST_UNCHARGED_MS && outcome.retry_after_ms.is_none() {
                return Verdict::Fail(failure);
            }
            Verdict::Retry {
                delay_ms: outcome.retry_after_ms.unwrap_or(0),
                charged: false,
                counted: false,
                unspoken: false,
                failure: Some(failure),
                reason,
            }
        }
        Class::Transient | Class::Lost => {
            let free = !outcome.report.spoke && history.unspoken < MOST_UNSPOKEN;
            if free {
                if history.uncharged >= MOST_UNCHARGED || history.uncharged_for_ms > LONGEST_UNCHARGED_MS {
                    return Verdict::Fail(failure);
                }
            } else if history.attempt >= history.max_attempts {
                return Verdict::Fail(failure);
            }
            let (failures, most) =
                if free { (history.unspoken + 1, MOST_UNSPOKEN) } else { (history.attempt, history.max_attempts) };
            let delay_ms = retry::backoff_ms(failures, jitter, outcome.retry_after_ms);
            let why = if free { " before Claude said anything, not charged" } else { "" };
            let seconds = delay_ms.div_ceil(1000);
            let reason = format!("{reason} (failure {failures} of at most {most}{why}; tried again after {seconds} s)");
            Verdict::Retry { delay_ms, charged: !free, counted: free, unspoken: free, failure: Some(failure), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(class: Class, spoke: bool) -> Outcome {
        Outcome {
            report: Report { spoke, ..Report::default() },
            ending: Ending::Failed(Failure::new(class, "said the API")),
            retry_after_ms: None,
        }
    }

    fn history(attempt: u32) -> History {
        History { attempt, max_attempts: 3, ..History::default() }
    }

    fn word(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Complete => "complete".into(),
            Verdict::Review => "review".into(),
            Verdict::Fail(failure) => format!("fail {}", failure.class),
            Verdict::Retry { delay_ms, charged, .. } => {
                format!("{} after {delay_ms}", if *charged { "retry" } else { "give back" })
            }
            Verdict::Anew { failures, recovering, .. } => format!("anew {failures} {recovering}"),
            Verdict::Cancel(_) => "cancel".into(),
        }
    }

    #[test]
    fn a_step_fails_when_its_retries_and_its_recovery_are_used_up() {
        let step = |retries, recovery: Option<&str>| Step {
            retries,
            recovery_prompt: recovery.map(str::to_owned),
            ..Step::default()
        };
        let at = |failures, recovering, max_attempts| History {
            attempt: failures + 1,
            max_attempts,
            failures,
            recovering,
            ..History::default()
        };
        for (step, history, class, expected) in [
            (step(0, None), at(0, false, 3), Class::Check, "fail check"),
            (step(2, None), at(1, false, 5), Class::Check, "anew 2 false"),
            (step(2, None), at(2, false, 5), Class::Timeout, "fail timeout"),
            (step(1, Some("r")), at(1, false, 5), Class::Internal, "anew 2 true"),
            (step(1, Some("r")), at(2, true, 5), Class::Internal, "fail internal"),
            (step(5, Some("r")), at(0, false, 9), Class::Request, "fail request"),
            (step(5, Some("r")), at(0, false, 9), Class::Budget, "fail budget"),
            // Two failures of the work and none in passing: there are three tries for those yet.
            (step(2, None), at(2, false, 5), Class::Transient, "retry after 1000"),
            (step(2, None), History { attempt: 5, ..at(2, false, 5) }, Class::Transient, "fail transient"),
            (step(0, Some("r")), at(1, true, 4), Class::Transient, "retry after 1000"),
        ] {
            let verdict = decide_step(&step, &history, &failed(class, true), false, 1.0);
            assert_eq!(word(&verdict), expected, "{step:?} {history:?} {class}");
        }
    }

    #[test]
    fn each_outcome_has_its_verdict() {
        for (class, spoke, attempt, expected) in [
            (Class::Transient, true, 1, "retry after 1000"),
            (Class::Transient, true, 2, "retry after 2000"),
            (Class::Transient, true, 3, "fail transient"),
            (Class::Transient, false, 3, "give back after 1000"),
            (Class::Limit, true, 3, "give back after 0"),
            (Class::Auth, false, 1, "give back after 0"),
            (Class::Request, true, 1, "fail request"),
            (Class::Turns, true, 1, "fail turns"),
            (Class::Budget, true, 1, "fail budget"),
            (Class::Timeout, true, 1, "fail timeout"),
            (Class::Check, true, 1, "fail check"),
            (Class::Internal, true, 1, "fail internal"),
            (Class::Cancelled, true, 1, "cancel"),
        ] {
            let verdict = decide(&history(attempt), &failed(class, spoke), false, 1.0);
            assert_eq!(word(&verdict), expected, "{class} {spoke} {attempt}");
        }
    }

    #[test]
    fn what_comes_back_free_comes_back_so_often_and_no_longer() {
        let unspoken = History { unspoken: MOST_UNSPOKEN, ..history(1) };
        assert_eq!(word(&decide(&unspoken, &failed(Class::Transient, false), false, 1.0)), "retry after 1000");
        let often = History { uncharged: MOST_UNCHARGED, ..history(1) };
        assert_eq!(word(&decide(&often, &failed(Class::Transient, false), false, 1.0)), "fail transient");
        let long = History { uncharged_for_ms: LONGEST_UNCHARGED_MS + 1, ..history(1) };
        for class in [Class::Transient, Class::Auth, Class::Limit] {
            assert!(word(&decide(&long, &failed(class, false), false, 1.0)).starts_with("fail"), "{class}");
        }
    }

    #[test]
    fn a_limit_of_a_model_is_waited_out_however_long_it_is() {
        let long = History { uncharged_for_ms: LONGEST_UNCHARGED_MS + 1, ..history(3) };
        let known = Outcome { retry_after_ms: Some(700_000), ..failed(Class::Limit, true) };
        assert_eq!(word(&decide(&long, &known, false, 1.0)), "give back after 700000");
    }

    #[test]
    fn denied_tools_fail_a_task_only_if_it_asked_so() {
        let outcome = Outcome {
            report: Report { denied: vec!["Write".into()], ..Report::default() },
            ending: Ending::Success,
            retry_after_ms: None,
        };
        assert_eq!(word(&decide(&history(1), &outcome, false, 0.0)), "complete");
        assert_eq!(word(&decide(&history(1), &outcome, true, 0.0)), "fail permission");
    }
}
