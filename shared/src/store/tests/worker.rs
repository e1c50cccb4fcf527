//! A worker as the tests drive it: it numbers its calls.

use super::{TestPool, words};
use crate::domain::attempt::{Class, Ending, Failure, Outcome, Report, Verdict};
use crate::store::attempt::{self, Claimed, Held, Progress};
use crate::store::fleet::{self, Presence};
use crate::store::script::Call;

pub(crate) struct Hand<'a> {
    pool: &'a TestPool,
    pub(crate) id: String,
    pub(crate) call: u64,
    pub(crate) lanes: Vec<String>,
}

impl<'a> Hand<'a> {
    /// One that has not joined.
    pub(crate) fn new(pool: &'a TestPool, id: &str) -> Self {
        Self { pool, id: id.to_owned(), call: 0, lanes: vec!["default".to_owned()] }
    }

    fn next(&mut self) -> u64 {
        self.call += 1;
        self.call
    }

    pub(crate) fn presence(&self, verb: &str) -> Call {
        let presence = Presence { host: "h".into(), pid: 7, lanes: self.lanes.clone(), ..Presence::default() };
        fleet::presence(&self.id, verb, "pool-1", 15_000, &presence)
    }

    /// The next call, as a claim that a token of this lane caused.
    pub(crate) fn claim_call(&mut self, token: &str) -> Call {
        let call = self.next();
        attempt::claim(&self.id, call, token, "0", &self.lanes)
    }

    /// Takes what there is.
    pub(crate) async fn claim(&mut self) -> Option<Held> {
        let call = self.claim_call("");
        match attempt::claimed(&self.pool.call(&call).await, 0).expect("a claim's reply").0 {
            Claimed::Run(held) => Some(*held),
            Claimed::Idle => None,
            Claimed::Limited { .. } => panic!("the account of {} is at its limit", self.id),
            Claimed::Unknown => panic!("{} is unknown", self.id),
        }
    }

    /// Takes the run that there is.
    pub(crate) async fn take(&mut self) -> Held {
        self.claim().await.expect("there is something to do")
    }

    pub(crate) fn beat_call(&mut self, held: &Held, cost_microusd: u64) -> Call {
        let progress = Progress { cost_microusd, tool: "Bash(ls)".into(), heard_ago_ms: 5, session_id: "s1".into() };
        let call = self.next();
        attempt::beat(&self.id, call, held, &progress, "0")
    }

    pub(crate) async fn beat(&mut self, held: &Held) -> Vec<String> {
        let call = self.beat_call(held, 0);
        self.pool.words(&call).await
    }

    pub(crate) fn finish_call(&mut self, held: &Held, cost_microusd: u64, verdict: &Verdict) -> Call {
        let call = self.next();
        attempt::finish(&self.id, call, held, &outcome(cost_microusd), verdict)
    }

    pub(crate) async fn finish(&mut self, held: &Held, verdict: &Verdict) -> Vec<String> {
        let call = self.finish_call(held, 0, verdict);
        self.pool.words(&call).await
    }

    pub(crate) fn step_call(&mut self, held: &Held, cost_microusd: u64, verdict: &Verdict) -> Call {
        let call = self.next();
        attempt::step(&self.id, call, held, &outcome(cost_microusd), verdict, "0", &self.lanes)
    }

    /// Settles a run and takes the next: what the settling answered, and the run.
    pub(crate) async fn step(&mut self, held: &Held, verdict: &Verdict) -> (Vec<String>, Option<Held>) {
        let call = self.step_call(held, 0, verdict);
        let reply = self.pool.call(&call).await;
        let next = match attempt::claimed(&reply, 2).expect("a claim's reply").0 {
            Claimed::Run(held) => Some(*held),
            _ => None,
        };
        (words(&reply)[..2].to_vec(), next)
    }
}

/// A run that brought this home at this cost.
pub(crate) fn outcome(cost_microusd: u64) -> Outcome {
    Outcome {
        report: Report { output: Some("done".into()), cost_microusd, turns: 2, ..Report::default() },
        ending: Ending::Success,
        retry_after_ms: None,
    }
}

pub(crate) fn failure() -> Failure {
    Failure { status: Some(529), ..Failure::new(Class::Transient, "overloaded").hint("wait") }
}

/// A charged failure.
pub(crate) fn retry(delay_ms: u64) -> Verdict {
    Verdict::Retry {
        delay_ms,
        charged: true,
        counted: false,
        unspoken: false,
        failure: Some(failure()),
        reason: "overloaded".into(),
    }
}

/// Given back uncharged: a drain, a limit.
pub(crate) fn give_back(delay_ms: u64) -> Verdict {
    Verdict::Retry {
        delay_ms,
        charged: false,
        counted: false,
        unspoken: false,
        failure: None,
        reason: "the worker ends".into(),
    }
}

/// Failed before Claude said anything: uncharged and counted.
pub(crate) fn unspoken(delay_ms: u64) -> Verdict {
    Verdict::Retry {
        delay_ms,
        charged: false,
        counted: true,
        unspoken: true,
        failure: Some(failure()),
        reason: "overloaded".into(),
    }
}
