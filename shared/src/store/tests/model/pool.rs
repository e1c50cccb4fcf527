//! What the model knows of a pool, and what its calls have in common: the part that the scripts' own parts have.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::lanes::Stream;
use super::task::{LANES, New, PRIORITIES, Run, Task};
use crate::domain::state::{Cause, State};
use crate::store::keys::{AGE_MS, LANE_UNUSED_MS, RETENTION_MS};

pub(super) const LEASE_MS: i64 = 15_000;
/// Ids that are passed over where some may be forgotten.
pub(super) const SKIPPED: u64 = 1_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Worker {
    pub(super) call: u64,
    /// What its last call did: the reply that a repeated call gives.
    pub(super) did: Option<Did>,
    pub(super) task: String,
    pub(super) done: u64,
    pub(super) host: String,
}

/// What is remembered of a call.
#[derive(Clone, Debug)]
pub(super) enum Did {
    Beat,
    /// The outcome of the run before, where it was settled in the same call; and the run that was taken.
    Took(Option<[String; 2]>, Option<(u64, u64, u64)>),
    Settled([String; 2]),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    pub(super) now: i64,
    pub(super) tasks: BTreeMap<u64, Task>,
    /// Every id that was ever given.
    pub(super) made: Vec<u64>,
    pub(super) once: HashMap<String, (u64, String)>,
    pub(super) streams: [[Stream; 3]; 2],
    /// When a lane was used last.
    pub(super) lanes: BTreeMap<usize, i64>,
    pub(super) tokens: [bool; 2],
    pub(super) due: BTreeMap<String, i64>,
    pub(super) retain: BTreeMap<u64, i64>,
    pub(super) after: BTreeMap<u64, BTreeSet<u64>>,
    pub(super) needs: BTreeMap<u64, BTreeSet<u64>>,
    pub(super) workers: BTreeMap<String, Worker>,
    /// When each live one was heard last.
    pub(super) live: BTreeMap<String, i64>,
    pub(super) unseen: BTreeMap<u64, u64>,
    /// Classes by which the oldest of a lane and priority is taken earlier.
    pub(super) aged: [[usize; 3]; 2],
    pub(super) last: Option<i64>,
    pub(super) grace: Option<i64>,
    pub(super) away_ms: Option<i64>,
    pub(super) rewound: bool,
    pub(super) full: bool,
    /// The last ids that were given.
    pub(super) ids: u64,
    pub(super) news: u64,
    /// Whether the notes of the server's mark are of this server; nothing where there are none.
    pub(super) meta_mark: Option<bool>,
    pub(super) seq_mark: Option<bool>,
    /// Whether the server forgets no write, as the last submission said.
    pub(super) kept: bool,
    pub(super) entries: u64,
    /// What the log has to say since it was looked at.
    pub(super) log: Vec<String>,
    pub(super) moves: BTreeSet<(Option<State>, Cause, State)>,
    /// Lanes that this script has made ready.
    pub(super) ready: BTreeSet<(usize, usize)>,
}

pub(super) fn is_over(state: Option<State>) -> bool {
    state.is_some_and(State::is_terminal)
}

impl Pool {
    /// A script begins.
    pub(super) fn begin_script(&mut self) {
        self.ready.clear();
    }

    pub(super) fn task(&mut self, id: u64) -> &mut Task {
        self.tasks.get_mut(&id).expect("the model knows it")
    }

    pub(super) fn state(&self, id: u64) -> Option<State> {
        self.tasks.get(&id).map(|task| task.state)
    }

    /// Of all in a state, by number.
    pub(super) fn in_state(&self, state: State) -> Vec<u64> {
        self.tasks.iter().filter(|(_, task)| task.state == state).map(|(id, _)| *id).collect()
    }

    pub(super) fn stream(&mut self, id: u64) -> &mut Stream {
        let new = &self.tasks[&id].new;
        &mut self.streams[new.lane][new.priority]
    }

    pub(super) fn move_to(&mut self, id: u64, from: Option<State>, cause: Cause, to: State) {
        let is_news = to.is_terminal() || to == State::PendingReview;
        let task = self.tasks.get_mut(&id).expect("the model knows it");
        task.state = to;
        task.n += 1;
        let from_word = from.map_or("-", State::word);
        self.log.push(format!("t{id} {} {from_word} {to} {cause} {}", task.n, task.run));
        self.moves.insert((from, cause, to));
        if is_news && task.new.has_coordinator {
            self.news += 1;
            task.news = Some(self.news);
            self.unseen.insert(id, self.news);
        }
    }

    /// The lanes that are in use, the one that was not used for longest first.
    pub(super) fn lane_order(&self) -> Vec<usize> {
        let mut lanes: Vec<(i64, usize)> = self.lanes.iter().map(|(lane, used)| (*used, *lane)).collect();
        lanes.sort_unstable();
        lanes.into_iter().map(|(_, lane)| lane).collect()
    }

    pub(super) fn touch_lane(&mut self, lane: usize) {
        self.lanes.insert(lane, self.now);
    }

    pub(super) fn enter_lane(&mut self, id: u64) {
        let New { lane, priority, .. } = self.tasks[&id].new;
        if self.ready.insert((lane, priority)) {
            self.touch_lane(lane);
            self.tokens[lane] = true;
        }
        self.entries += 1;
        let (entry, now) = (self.entries, self.now);
        self.stream(id).enter(entry, id);
        let task = self.task(id);
        task.entry = Some(entry);
        task.ready = Some(now);
        task.first_ready.get_or_insert(now);
    }

    pub(super) fn leave_lane(&mut self, id: u64) {
        if let Some(entry) = self.tasks[&id].entry {
            self.stream(id).leave(entry);
        }
    }

    pub(super) fn wake_if_waiting(&mut self, lane: usize) {
        if self.streams[lane].iter().map(Stream::waiting).sum::<i64>() > 0 {
            self.tokens[lane] = true;
        }
    }

    /// From now on the time counts that it may wait for its first start.
    pub(super) fn start_waiting(&mut self, id: u64) {
        let (now, mut away) = (self.now, self.away_ms.unwrap_or(0));
        if let Some(silence) = self.last.map(|last| now - last).filter(|silence| *silence > LEASE_MS / 2) {
            away += silence;
        }
        let task = self.task(id);
        if task.new.wait_ms == 0 {
            return;
        }
        task.waits_since = Some(now);
        task.away_then = Some(away);
        let until = now + task.new.wait_ms;
        self.due.insert(format!("queue:t{id}"), until);
    }

    pub(super) fn forget_age(&mut self, id: u64) {
        let New { lane, priority, .. } = self.tasks[&id].new;
        self.aged[lane][priority] = 0;
    }

    /// Off its worker's hands.
    pub(super) fn let_go(&mut self, id: u64) {
        let task = self.task(id);
        task.entry = None;
        task.worker = None;
        task.heard = None;
    }

    pub(super) fn finish_terminal(&mut self, id: u64) {
        let now = self.now;
        self.task(id).ended = Some(now);
        self.let_go(id);
        self.due.remove(&format!("queue:t{id}"));
        self.retain.insert(id, now + RETENTION_MS as i64);
    }

    pub(super) fn back_to_lane(&mut self, id: u64, delay_ms: i64) -> State {
        self.let_go(id);
        if delay_ms > 0 {
            self.due.insert(format!("task:t{id}"), self.now + delay_ms);
            return State::Delayed;
        }
        self.enter_lane(id);
        State::Pending
    }

    /// Lists a task under those of these that are not over; gives how many there are.
    pub(super) fn wait_on(&mut self, id: u64, others: &[u64]) -> usize {
        let mut left = 0;
        for other in others {
            if !is_over(self.state(*other)) {
                self.after.entry(*other).or_default().insert(id);
                left += usize::from(self.needs.entry(id).or_default().insert(*other));
            }
        }
        left
    }

    pub(super) fn wait_no_more(&mut self, id: u64) {
        for other in self.needs.remove(&id).unwrap_or_default() {
            if let Some(list) = self.after.get_mut(&other) {
                list.remove(&id);
            }
        }
        self.after.retain(|_, list| !list.is_empty());
    }

    pub(super) fn start_after(&mut self, id: u64) {
        let now = self.now;
        let task = self.task(id);
        task.reason = None;
        let (lane, not_before) = (task.new.lane, task.not_before.unwrap_or(0));
        let to = if not_before > now {
            self.touch_lane(lane);
            self.due.insert(format!("task:t{id}"), not_before);
            State::Delayed
        } else {
            self.enter_lane(id);
            self.start_waiting(id);
            State::Pending
        };
        self.move_to(id, Some(State::Waiting), Cause::After, to);
    }

    /// Why a task does not start that waits on one which ended so.
    pub(super) fn spoils(&self, id: u64, over: u64, state: Option<State>) -> Option<String> {
        if state == Some(State::Completed) || self.tasks[&id].new.runs_after_failure {
            return None;
        }
        let how = if state == Some(State::Failed) { "failed" } else { "was cancelled" };
        Some(format!("t{over}, which it was to follow, {how}"))
    }

    pub(super) fn spoil(&mut self, id: u64, why: String) {
        self.wait_no_more(id);
        self.task(id).reason = Some(why);
        self.finish_terminal(id);
        self.move_to(id, Some(State::Waiting), Cause::After, State::Cancelled);
    }

    /// What waits on a task that is over, and on what is cancelled for that.
    pub(super) fn release(&mut self, id: u64) {
        let mut line = vec![id];
        let mut at = 0;
        while let Some(over) = line.get(at).copied() {
            at += 1;
            while let Some(next) = self.after.get_mut(&over).and_then(BTreeSet::pop_first) {
                let is_free = self.needs.get_mut(&next).is_none_or(|list| {
                    list.remove(&over);
                    list.is_empty()
                });
                if is_free {
                    self.needs.remove(&next);
                }
                if self.state(next) != Some(State::Waiting) {
                    continue;
                }
                match self.spoils(next, over, self.state(over)) {
                    Some(why) => {
                        self.spoil(next, why);
                        line.push(next);
                    }
                    None if is_free => self.start_after(next),
                    None => {}
                }
            }
            self.after.remove(&over);
        }
    }

    /// Somebody called.
    pub(super) fn note_call(&mut self) {
        let Some(last) = self.last.replace(self.now) else { return };
        let away = self.now - last > LEASE_MS / 2;
        let rewound = self.now < last - 1_000;
        if away {
            self.away_ms = Some(self.away_ms.unwrap_or(0) + self.now - last);
        }
        if away || rewound {
            self.grace = Some(self.now + LEASE_MS * 2 / 3);
        }
        self.rewound |= rewound;
    }

    pub(super) fn skip_forgotten(&mut self) {
        if self.seq_mark == Some(false) {
            if !self.kept {
                self.ids += SKIPPED;
                self.news += SKIPPED;
            }
            self.seq_mark = Some(true);
        }
    }

    fn begin(&mut self, id: u64, worker: &str) -> u64 {
        let (now, host) = (self.now, self.workers[worker].host.clone());
        let task = self.task(id);
        task.run += 1;
        task.attempt += 1;
        task.worker = Some(worker.to_owned());
        task.started = Some(now);
        task.heard = None;
        task.reason = None;
        task.runs.push(Run { worker: worker.to_owned(), host, started: now, ..Run::default() });
        let run = task.run;
        self.due.remove(&format!("queue:t{id}"));
        self.workers.get_mut(worker).expect("it is known").task = format!("t{id}");
        self.move_to(id, Some(State::Pending), Cause::Claim, State::Running);
        run
    }

    /// The first fitting task of these lanes is begun: its id, run and entry.
    pub(super) fn take(&mut self, worker: &str, token: Option<usize>, lanes: &[usize]) -> Option<(u64, u64, u64)> {
        for class in 0..PRIORITIES.len() {
            for lane in lanes.iter().copied() {
                for priority in (class..PRIORITIES.len()).rev() {
                    if priority - self.aged[lane][priority].min(priority) != class {
                        continue;
                    }
                    while let Some((entry, id)) = self.streams[lane][priority].read() {
                        let named = self.tasks.get(&id).map(|task| (task.state, task.entry));
                        if named != Some((State::Pending, Some(entry))) {
                            self.streams[lane][priority].leave(entry);
                            continue;
                        }
                        let run = self.begin(id, worker);
                        self.aged[lane][priority] = 0;
                        self.touch_lane(lane);
                        self.wake_if_waiting(lane);
                        if let Some(token) = token.filter(|token| *token != lane) {
                            self.wake_if_waiting(token);
                        }
                        return Some((id, run, entry));
                    }
                }
            }
        }
        None
    }

    /// Lanes that nobody uses go; ageing is noted.
    pub(super) fn do_lanes(&mut self) {
        for lane in self.lane_order() {
            self.wake_if_waiting(lane);
        }
        for (lane, used) in self.lanes.clone() {
            let length: i64 = self.streams[lane].iter().map(Stream::length).sum();
            if used <= self.now - LANE_UNUSED_MS as i64 && length == 0 {
                self.streams[lane] = Default::default();
                self.tokens[lane] = false;
                self.lanes.remove(&lane);
            }
        }
        self.aged = Default::default();
        for lane in self.lanes.keys().copied() {
            for priority in 1..PRIORITIES.len() {
                let head = self.streams[lane][priority].head().and_then(|id| self.tasks.get(&id));
                let Some(since) = head.and_then(|task| task.first_ready) else { continue };
                let classes = (self.now - since).div_euclid(AGE_MS as i64).max(0) as usize;
                self.aged[lane][priority] = classes.min(priority);
            }
        }
    }

    /// The field `aged` of `meta`.
    pub(super) fn aged_text(&self) -> Option<String> {
        let mut notes = Vec::new();
        for (lane, name) in LANES.iter().enumerate() {
            for (priority, word) in PRIORITIES.iter().enumerate() {
                if self.aged[lane][priority] > 0 {
                    notes.push(format!("{name} {word} {}", self.aged[lane][priority]));
                }
            }
        }
        notes.sort();
        (!notes.is_empty()).then(|| notes.join("\n"))
    }
}
