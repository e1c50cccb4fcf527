//! A run as a pure machine: what comes in, and what is to be done about it. Time is a number, in milliseconds.
//!
//! Zero is the sending of the claim, so a lease is counted as Redis can have counted it at the latest. Not here: doing
//! it (`drive.rs`), what an ended run amounts to (`claude/classify.rs`).

use motorpool::domain::attempt::{Class, Ending, Failure};
use motorpool::pool::Beat;
use motorpool::{ChunkKind, Progress};

use super::exchange::{Action, Finished, Input, Live, Rules};
use crate::claude::classify::{Exit, Seen, classify};
use crate::claude::event::{self, Call, Event};

/// How a run is ended: after SIGINT the CLI has so long for its result (it takes 0.2 s), and then so long to exit, since
/// nothing is lost any more; after SIGTERM the run's processes have so long until SIGKILL.
#[derive(Clone, Copy, Debug)]
struct Ladder {
    interrupt_ms: u64,
    exit_ms: u64,
    terminate_ms: u64,
}

const LADDER: Ladder = Ladder { interrupt_ms: 2000, exit_ms: 500, terminate_ms: 1000 };
/// Without an answer of Redis a run begins to be ended so long before its lease is over, so that nothing of it is left
/// when another worker may begin. Short, since it is taken from the time that a Redis may be away unnoticed.
const LONELY_MS: u64 = 1000;
/// And with a short lease, so large a part of it.
const LONELY_PART: u64 = 5;
/// After its result the CLI has so long to exit by itself.
const EXIT_MS: u64 = 10_000;
/// A CLI that has not begun by then never will; one with slow MCP servers takes half a minute.
const BEGIN_MS: u64 = 120_000;
/// Live output is put together for so long, or up to so much.
const LIVE_MS: u64 = 250;
const LIVE_BYTES: usize = 8 * 1024;
/// An unanswered beat is sent again after so long.
const BEAT_AGAIN_MS: u64 = 1000;

/// Why the worker ends a run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Cancelled,
    Timeout,
    /// During this call, if any.
    Idle(Option<String>),
    Lonely,
    Stopped,
    Mute,
    Refused,
    Broken(String),
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It works.
    Running,
    /// SIGINT was sent.
    Interrupted { until_ms: u64 },
    /// The result is there, stdin is closed.
    Closing { until_ms: u64 },
    /// SIGTERM was sent.
    Terminated { until_ms: u64 },
    /// The tree is being ended.
    Ending,
    /// Nothing follows.
    Over,
}

/// See the module's head.
#[derive(Debug)]
pub struct Machine {
    rules: Rules,
    seen: Seen,
    stage: Stage,
    why: Option<Why>,
    exit: Option<Exit>,
    calls: Vec<Call>,
    begun_ms: u64,
    heard_ms: u64,
    /// The sending of the last beat that was answered.
    answered_ms: u64,
    next_beat_ms: u64,
    beating: bool,
    live: Live,
    live_since_ms: u64,
    streamed: bool,
}

impl Machine {
    /// A CLI that was started at `now_ms`.
    #[must_use]
    pub fn new(rules: Rules, now_ms: u64) -> Self {
        let next_beat_ms = rules.lease_ms / 3;
        Self {
            rules,
            seen: Seen::default(),
            stage: Stage::Running,
            why: None,
            exit: None,
            calls: Vec::new(),
            begun_ms: now_ms,
            heard_ms: now_ms,
            answered_ms: 0,
            next_beat_ms,
            beating: false,
            live: Live::default(),
            live_since_ms: 0,
            streamed: false,
        }
    }

    /// Takes an input and says what is to be done.
    #[must_use]
    pub fn on(&mut self, now_ms: u64, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stage == Stage::Over {
            return actions;
        }
        match input {
            Input::Event(event) => self.event(now_ms, &event, &mut actions),
            Input::Broken(reason) => self.kill(Why::Broken(reason), &mut actions),
            Input::Beat { sent_ms, answer } => self.beat(now_ms, sent_ms, answer, &mut actions),
            Input::Tick | Input::Drain => {}
            Input::Cancel => self.end(now_ms, Why::Cancelled, &mut actions),
            Input::Stop => self.end(now_ms, Why::Stopped, &mut actions),
            Input::Exited(exit) => {
                self.exit = Some(exit);
                self.end_tree(&mut actions);
            }
            Input::Gone { stderr } => {
                self.flush(&mut actions);
                self.stage = Stage::Over;
                actions.push(Action::Finish(self.finished(&stderr)));
                return actions;
            }
        }
        self.clock(now_ms, &mut actions);
        actions
    }

    /// When [`Input::Tick`] is wanted at the latest.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        let mut due = if self.beating { u64::MAX } else { self.next_beat_ms };
        if !self.live.is_empty() {
            due = due.min(self.live_since_ms + LIVE_MS);
        }
        if !matches!(self.stage, Stage::Ending | Stage::Over) {
            due = due.min(self.last_call_ms());
        }
        match self.stage {
            Stage::Running => {
                due = due.min(self.lonely_ms());
                due = due.min(self.rules.timeout_ms.map_or(u64::MAX, |timeout| self.begun_ms + timeout));
                due = due.min(self.rules.idle_ms.map_or(u64::MAX, |idle| self.heard_ms + idle));
                if !self.seen.began {
                    due = due.min(self.begun_ms + BEGIN_MS);
                }
            }
            Stage::Interrupted { until_ms } | Stage::Closing { until_ms } | Stage::Terminated { until_ms } => {
                due = due.min(until_ms);
            }
            Stage::Ending | Stage::Over => {}
        }
        due
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self, now_ms: u64) -> Progress {
        Progress {
            cost_microusd: self.seen.cost().0,
            tool: self.calls.last().map(|call| call.short.clone()).unwrap_or_default(),
            heard_ago_ms: now_ms.saturating_sub(self.heard_ms),
            session_id: self.seen.session_id.clone().unwrap_or_default(),
        }
    }

    fn event(&mut self, now_ms: u64, event: &Event, actions: &mut Vec<Action>) {
        self.heard_ms = now_ms;
        self.seen.note(event);
        match event {
            Event::Partial(text) => {
                self.streamed = true;
                self.say(now_ms, ChunkKind::Text, text);
            }
            Event::Assistant(part) if part.parent.is_none() && !part.synthetic => {
                if !part.text.is_empty() {
                    // Its text has been told already, unless the answer was not streamed.
                    if !self.streamed {
                        self.say(now_ms, ChunkKind::Text, &part.text);
                    }
                    self.say(now_ms, ChunkKind::Text, "\n");
                    self.streamed = false;
                }
                for call in &part.calls {
                    self.say(now_ms, ChunkKind::Tool, &call.short);
                }
                self.calls.extend(part.calls.iter().cloned());
            }
            // The run goes on without its tools; whoever follows it should know.
            Event::Init { failed_servers, .. } if !failed_servers.is_empty() => {
                let words = format!("MCP servers that did not start: {}", failed_servers.join(", "));
                self.say(now_ms, ChunkKind::Note, &words);
            }
            Event::ToolResults(ids) => self.calls.retain(|call| !ids.contains(&call.id)),
            Event::Asks { id, subtype } => actions.push(Action::Answer(event::refusal(id, subtype))),
            // It would go on without the schema or the system prompt.
            Event::Answered { .. } if self.seen.refused.is_some() => self.kill(Why::Refused, actions),
            Event::Result(_) => {
                self.calls.clear();
                let exit_ms = match self.stage {
                    Stage::Running => EXIT_MS,
                    Stage::Interrupted { .. } => self.ladder().exit_ms,
                    _ => return,
                };
                self.stage = Stage::Closing { until_ms: now_ms + exit_ms };
                // Not earlier: host tools and questions fail while a turn still runs.
                actions.push(Action::CloseStdin);
            }
            _ => {}
        }
    }

    fn beat(&mut self, now_ms: u64, sent_ms: u64, answer: Beat, actions: &mut Vec<Action>) {
        self.beating = false;
        self.next_beat_ms = sent_ms + self.rules.lease_ms / 3;
        if answer != Beat::Unreachable {
            self.answered_ms = self.answered_ms.max(sent_ms);
        }
        match answer {
            Beat::Ok => {}
            Beat::Cancel => self.end(now_ms, Why::Cancelled, actions),
            Beat::Stale => self.kill(Why::Stale, actions),
            Beat::Unreachable => self.next_beat_ms = now_ms + BEAT_AGAIN_MS.min(self.rules.lease_ms / 3),
        }
    }

    fn clock(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self.stage == Stage::Running {
            if self.rules.timeout_ms.is_some_and(|timeout| now_ms >= self.begun_ms + timeout) {
                self.end(now_ms, Why::Timeout, actions);
            } else if self.rules.idle_ms.is_some_and(|idle| now_ms >= self.heard_ms + idle) {
                let during = self.calls.last().map(|call| call.short.clone());
                self.end(now_ms, Why::Idle(during), actions);
            } else if now_ms >= self.lonely_ms() {
                self.end(now_ms, Why::Lonely, actions);
            } else if !self.seen.began && now_ms >= self.begun_ms + BEGIN_MS {
                self.end(now_ms, Why::Mute, actions);
            }
        }
        match self.stage {
            Stage::Interrupted { until_ms } if now_ms >= until_ms => {
                self.stage = Stage::Terminated { until_ms: now_ms + self.ladder().terminate_ms };
                actions.push(Action::Terminate);
            }
            Stage::Closing { until_ms } | Stage::Terminated { until_ms } if now_ms >= until_ms => {
                self.end_tree(actions);
            }
            _ if now_ms >= self.last_call_ms() => self.end_tree(actions),
            _ => {}
        }
        if !self.live.is_empty() && (self.live.bytes() >= LIVE_BYTES || now_ms >= self.live_since_ms + LIVE_MS) {
            self.flush(actions);
        }
        if !self.beating && now_ms >= self.next_beat_ms {
            self.beating = true;
            actions.push(Action::Beat(self.progress(now_ms)));
        }
    }

    /// How long the ladder of a run takes that Redis does not hear of.
    fn lonely_for_ms(&self) -> u64 {
        LONELY_MS.min(self.rules.lease_ms / LONELY_PART)
    }

    /// When a run that Redis does not hear of begins to be ended.
    fn lonely_ms(&self) -> u64 {
        self.answered_ms + self.rules.lease_ms - self.lonely_for_ms()
    }

    /// When SIGKILL is due, however far the ladder is: the rest of the lease is for the proof.
    fn last_call_ms(&self) -> u64 {
        self.answered_ms + self.rules.lease_ms - self.lonely_for_ms() / 10
    }

    fn ladder(&self) -> Ladder {
        if self.why != Some(Why::Lonely) {
            return LADDER;
        }
        let tenth_ms = self.lonely_for_ms() / 10;
        Ladder { interrupt_ms: 7 * tenth_ms, exit_ms: 2 * tenth_ms, terminate_ms: 2 * tenth_ms }
    }

    /// Begins the ladder, unless the run is ending already: a result that is there stands.
    fn end(&mut self, now_ms: u64, why: Why, actions: &mut Vec<Action>) {
        match self.stage {
            Stage::Running => {
                self.why = Some(why);
                self.stage = Stage::Interrupted { until_ms: now_ms + self.ladder().interrupt_ms };
                actions.push(Action::Interrupt);
            }
            Stage::Closing { until_ms } => {
                self.stage = Stage::Closing { until_ms: until_ms.min(now_ms + LADDER.exit_ms) };
            }
            Stage::Interrupted { .. } | Stage::Terminated { .. } | Stage::Ending | Stage::Over => {}
        }
    }

    /// Ends it at once. A lost lease outweighs every other reason.
    fn kill(&mut self, why: Why, actions: &mut Vec<Action>) {
        if self.why.is_none() || why == Why::Stale {
            self.why = Some(why);
        }
        self.end_tree(actions);
    }

    fn end_tree(&mut self, actions: &mut Vec<Action>) {
        if !matches!(self.stage, Stage::Ending | Stage::Over) {
            self.stage = Stage::Ending;
            actions.push(Action::EndTree);
        }
    }

    fn say(&mut self, now_ms: u64, kind: ChunkKind, text: &str) {
        if self.live.is_empty() {
            self.live_since_ms = now_ms;
        }
        self.live.add(kind, text);
    }

    fn flush(&mut self, actions: &mut Vec<Action>) {
        if !self.live.is_empty() {
            actions.push(Action::Output(std::mem::take(&mut self.live)));
        }
    }

    fn finished(&self, stderr: &str) -> Finished {
        // Without one it is our own SIGKILL.
        let exit = self.exit.unwrap_or(Exit::Signal(9));
        let judged = || classify(&self.seen, exit, stderr, self.rules.structured);
        let failed = |failure| self.seen.ended(Ending::Failed(failure));
        let stopped = |reason: String| self.seen.ended(Ending::Stopped(reason));
        Finished::Outcome(Box::new(match &self.why {
            Some(Why::Stale) => return Finished::Stale,
            // A success that came after the decision to end it is a success.
            _ if self.seen.succeeded() => judged(),
            None | Some(Why::Refused) => judged(),
            Some(Why::Cancelled) => failed(Failure::new(Class::Cancelled, "stopped on request")),
            Some(Why::Timeout) => {
                let seconds = self.rules.timeout_ms.unwrap_or_default() as f64 / 1000.0;
                failed(
                    Failure::new(Class::Timeout, format!("it ran for {seconds} s, the task's timeout_s"))
                        .hint("raise timeout_s, or split the task"),
                )
            }
            Some(Why::Idle(during)) => {
                let seconds = self.rules.idle_ms.unwrap_or_default() as f64 / 1000.0;
                let during = during.as_ref().map(|call| format!(" in {call}")).unwrap_or_default();
                failed(
                    Failure::new(
                        Class::Timeout,
                        format!("it was silent for {seconds} s{during}, the task's idle_timeout_s"),
                    )
                    .hint("raise idle_timeout_s above the longest call of a tool"),
                )
            }
            Some(Why::Lonely) => stopped("Redis did not answer the worker for the lease".into()),
            Some(Why::Stopped) => stopped("the worker was stopped".into()),
            Some(Why::Mute) => {
                let said = if stderr.trim().is_empty() { "nothing" } else { stderr.trim() };
                let message = format!("the CLI did not begin within {} s; on stderr it said {said}", BEGIN_MS / 1000);
                failed(Failure::new(Class::Transient, message).hint("see whether an MCP server of the task hangs"))
            }
            Some(Why::Broken(reason)) => {
                failed(Failure::new(Class::Internal, format!("the CLI's output cannot be read: {reason}")))
            }
        }))
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
