//! A task as the model keeps it, and the hash that stands for it.

use std::collections::BTreeMap;

use crate::domain::state::State;

pub(super) const LANES: [&str; 2] = ["default", "default+gpu"];
pub(super) const PRIORITIES: [&str; 3] = ["high", "normal", "low"];
/// The coordinator of those that have one.
pub(super) const BOSS: &str = "boss";

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    pub(super) worker: String,
    pub(super) host: String,
    pub(super) started: i64,
    pub(super) ended: Option<i64>,
    pub(super) class: String,
    pub(super) message: String,
    pub(super) charged: bool,
    pub(super) beaten: bool,
    pub(super) cost: u64,
}

/// How a round was judged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Round {
    pub(super) mark: String,
    pub(super) cause: &'static str,
    pub(super) by: String,
    pub(super) why: String,
    pub(super) to: State,
    pub(super) run: u64,
    pub(super) output: bool,
    pub(super) at: i64,
}

/// A task as it was submitted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct New {
    pub(super) once: String,
    pub(super) lane: usize,
    /// 0 is high.
    pub(super) priority: usize,
    pub(super) max_attempts: u32,
    pub(super) if_lost: &'static str,
    pub(super) has_coordinator: bool,
    pub(super) delay_ms: i64,
    pub(super) wait_ms: i64,
    /// Ids, or `@N`: the N-th of the same call.
    pub(super) after: Vec<String>,
    pub(super) runs_after_failure: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Task {
    pub(super) new: New,
    pub(super) state: State,
    pub(super) run: u64,
    pub(super) attempt: i64,
    pub(super) round: u64,
    pub(super) n: u64,
    pub(super) cost: u64,
    pub(super) created: i64,
    pub(super) entry: Option<u64>,
    pub(super) worker: Option<String>,
    pub(super) ready: Option<i64>,
    pub(super) first_ready: Option<i64>,
    pub(super) not_before: Option<i64>,
    pub(super) waits_since: Option<i64>,
    pub(super) away_then: Option<i64>,
    pub(super) started: Option<i64>,
    pub(super) ended: Option<i64>,
    pub(super) reason: Option<String>,
    pub(super) cancel: Option<String>,
    pub(super) heard: Option<i64>,
    pub(super) uncharged: Option<i64>,
    pub(super) unspoken: Option<i64>,
    pub(super) back_since: Option<i64>,
    pub(super) failures: Option<i64>,
    /// It has brought something home.
    pub(super) result: bool,
    /// Class, status, message, hint.
    pub(super) error: Option<(&'static str, Option<&'static str>, String, String)>,
    pub(super) news: Option<u64>,
    pub(super) runs: Vec<Run>,
    pub(super) rounds: Vec<Round>,
}

impl Task {
    pub(super) fn new(new: New, created: i64) -> Self {
        Self {
            new,
            state: State::Waiting,
            run: 0,
            attempt: 0,
            round: 1,
            n: 0,
            cost: 0,
            created,
            entry: None,
            worker: None,
            ready: None,
            first_ready: None,
            not_before: None,
            waits_since: None,
            away_then: None,
            started: None,
            ended: None,
            reason: None,
            cancel: None,
            heard: None,
            uncharged: None,
            unspoken: None,
            back_since: None,
            failures: None,
            result: false,
            error: None,
            news: None,
            runs: Vec::new(),
            rounds: Vec::new(),
        }
    }

    /// What its if_lost list says of the loss of this attempt.
    pub(super) fn rung(&self) -> Option<i64> {
        let rungs = self.new.if_lost.split(',').filter(|rung| !rung.is_empty());
        let at = usize::try_from(self.attempt - 1).ok()?;
        rungs.map(|rung| rung.parse().expect("a rung")).nth(at)
    }

    /// Its hash, but for `entry`, whose name Redis chooses, and what never changes.
    pub(super) fn fields(&self) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        fn told<T: ToString>(value: &T) -> Option<String> {
            Some(value.to_string())
        }
        fn number<T: ToString>(value: &Option<T>) -> Option<String> {
            value.as_ref().map(ToString::to_string)
        }
        put("state", told(&self.state));
        put("lane", told(&LANES[self.new.lane]));
        put("priority", told(&PRIORITIES[self.new.priority]));
        put("max_attempts", told(&self.new.max_attempts));
        put("if_lost", told(&self.new.if_lost));
        put("once", told(&self.new.once));
        put("coordinator", told(&if self.new.has_coordinator { BOSS } else { "" }));
        put("run", told(&self.run));
        put("attempt", told(&self.attempt));
        put("round", told(&self.round));
        put("n", told(&self.n));
        put("cost", told(&self.cost));
        put("created", told(&self.created));
        put("wait_ms", (self.new.wait_ms > 0).then(|| self.new.wait_ms.to_string()));
        put(
            "after_failure",
            self.not_before.map(|_| if self.new.runs_after_failure { "run" } else { "cancel" }.to_owned()),
        );
        put("not_before", number(&self.not_before));
        put("worker", self.worker.clone());
        put("ready", number(&self.ready));
        put("first_ready", number(&self.first_ready));
        put("waits_since", number(&self.waits_since));
        put("away_then", number(&self.away_then));
        put("started", number(&self.started));
        put("lease_ms", self.started.map(|_| "15000".to_owned()));
        put("ended", number(&self.ended));
        put("reason", self.reason.clone());
        put("cancel", self.cancel.as_ref().map(|_| "1".to_owned()));
        put("cancel_reason", self.cancel.clone());
        put("tool", self.heard.map(|_| "Bash(ls)".to_owned()));
        put("heard", number(&self.heard));
        put("uncharged", number(&self.uncharged));
        put("unspoken", number(&self.unspoken));
        put("back_since", number(&self.back_since));
        put("failures", number(&self.failures));
        put("news", number(&self.news));
        if self.result {
            put("output", told(&"done"));
            put("turns", told(&"2"));
            put("denied", told(&"[]"));
        }
        if let Some((class, status, message, hint)) = &self.error {
            put("error_class", told(class));
            put("error_status", status.map(str::to_owned));
            put("error_message", told(message));
            put("error_hint", told(hint));
        }
        for (at, run) in self.runs.iter().enumerate() {
            let mut put = |name: &str, value: Option<String>| put(&format!("run:{}:{name}", at + 1), value);
            put("worker", told(&run.worker));
            put("host", told(&run.host));
            put("started", told(&run.started));
            put("ended", number(&run.ended));
            put("class", run.ended.map(|_| run.class.clone()));
            put("message", run.ended.map(|_| run.message.clone()));
            put("charged", run.ended.map(|_| u8::from(run.charged).to_string()));
            put("session", run.beaten.then(|| "s1".to_owned()));
            put("cost", (run.cost > 0).then(|| run.cost.to_string()));
        }
        for (at, round) in self.rounds.iter().enumerate() {
            let mut put = |name: &str, value: Option<String>| put(&format!("round:{}:{name}", at + 1), value);
            put("mark", told(&round.mark));
            put("verdict", told(&round.cause));
            put("by", told(&round.by));
            put("why", told(&round.why));
            put("to", told(&round.to));
            put("run", told(&round.run));
            put("at", told(&round.at));
            put("output", round.output.then(|| "done".to_owned()));
        }
        fields
    }
}
