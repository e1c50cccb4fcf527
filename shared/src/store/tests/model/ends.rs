//! How runs end in the model: by a verdict, by silence, and what the sweep does besides.

use super::calls::{End, Words, words};
use super::pool::{LEASE_MS, Pool};
use super::task::LANES;
use crate::domain::attempt::Verdict;
use crate::domain::state::{Cause, State};

impl Pool {
    /// Carries a verdict out; the fence has been passed.
    pub(super) fn settle(&mut self, end: &End) -> State {
        let id = end.belief.task;
        let (mut cause, mut reason, failure, delay_ms, counted, is_unspoken) = match &end.verdict {
            Verdict::Complete => (Cause::Complete, "", None, 0, false, false),
            Verdict::Review => (Cause::Review, "", None, 0, false, false),
            Verdict::Fail(failure) => (Cause::Fail, "", Some(failure), 0, false, false),
            Verdict::Cancel(reason) => (Cause::Cancel, reason.as_str(), None, 0, false, false),
            Verdict::Retry { delay_ms, charged, counted, unspoken, failure, reason } => {
                let cause = if *charged { Cause::Retry } else { Cause::GiveBack };
                (cause, reason.as_str(), failure.as_ref(), *delay_ms as i64, *counted, *unspoken)
            }
            Verdict::Anew { .. } => unreachable!("the model has no steps of chains"),
        };
        let message = failure.map_or(reason, |failure| failure.message.as_str());
        let cancel = self.tasks[&id].cancel.clone();
        if let Some(why) = cancel.as_deref().filter(|_| cause != Cause::Complete) {
            (cause, reason) = (Cause::Cancel, why);
        }
        self.leave_lane(id);
        let now = self.now;
        let task = self.tasks.get_mut(&id).expect("it is known");
        let before = task.runs.last().map_or(0, |run| run.cost);
        task.cost = task.cost + end.cost - before;
        let run = task.runs.last_mut().expect("it runs");
        run.cost = end.cost;
        run.ended = Some(now);
        run.class = match cause {
            Cause::Cancel => "cancelled".into(),
            _ => failure.map_or(String::new(), |failure| failure.class.to_string()),
        };
        run.message = message.to_owned();
        run.charged = cause != Cause::GiveBack;
        if !matches!(end.verdict, Verdict::Retry { .. }) {
            task.result = true;
        }
        if cause == Cause::Fail {
            task.error = Some(("transient", Some("529"), "overloaded".into(), "wait".into()));
        }
        task.reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
        let to = match cause {
            Cause::Complete => State::Completed,
            Cause::Review => State::PendingReview,
            Cause::Fail => State::Failed,
            Cause::Cancel => State::Cancelled,
            _ => {
                if cause == Cause::GiveBack {
                    task.attempt -= 1;
                    task.back_since.get_or_insert(now);
                }
                if counted {
                    task.uncharged = Some(task.uncharged.unwrap_or(0) + 1);
                }
                task.unspoken = Some(if is_unspoken { task.unspoken.unwrap_or(0) + 1 } else { 0 });
                self.back_to_lane(id, delay_ms)
            }
        };
        match to {
            State::PendingReview => self.let_go(id),
            to if to.is_terminal() => self.finish_terminal(id),
            _ => {}
        }
        self.move_to(id, Some(State::Running), cause, to);
        to
    }

    /// A run whose worker was not heard for a lease.
    fn lose(&mut self, id: u64) {
        self.leave_lane(id);
        let now = self.now;
        let rung = self.tasks[&id].rung();
        let task = self.task(id);
        let worker = task.worker.clone().expect("it runs");
        let message = format!("worker {worker} was not heard for longer than the lease");
        let run = task.runs.last_mut().expect("it runs");
        run.ended = Some(now);
        run.class = "lost".into();
        run.message = message.clone();
        run.charged = true;
        let cancel = task.cancel.clone();
        // It may have taken another one meanwhile.
        if let Some(known) = self.workers.get_mut(&worker).filter(|known| known.task == format!("t{id}")) {
            known.task.clear();
        }
        let to = if let Some(why) = cancel {
            self.task(id).reason = Some(format!("{why} (tree: unverified)"));
            self.finish_terminal(id);
            self.move_to(id, Some(State::Running), Cause::Cancel, State::Cancelled);
            State::Cancelled
        } else {
            self.task(id).reason = Some(message.clone());
            let to = match rung {
                Some(delay_ms) => self.back_to_lane(id, delay_ms),
                None => {
                    let hint = "its attempts are used up; look for what ends the workers, then submit it again";
                    self.task(id).error = Some(("lost", None, message, hint.into()));
                    self.finish_terminal(id);
                    State::Failed
                }
            };
            self.move_to(id, Some(State::Running), Cause::Lost, to);
            to
        };
        if to.is_terminal() {
            self.release(id);
        }
    }

    /// One that has waited for longer than it was to.
    fn expire(&mut self, id: u64) {
        let Some(task) = self.tasks.get(&id) else { return };
        if task.state != State::Pending || task.run > 0 {
            return;
        }
        let away = self.away_ms.unwrap_or(0) - task.away_then.unwrap_or(0);
        let until = task.waits_since.unwrap_or(0) + task.new.wait_ms + away.max(0);
        let until = until.max(self.grace.unwrap_or(0));
        if self.now < until {
            self.due.insert(format!("queue:t{id}"), until);
            return;
        }
        let lane = LANES[task.new.lane];
        self.forget_age(id);
        self.leave_lane(id);
        let hint = format!("see what the lane {lane} waits for, raise queue_timeout_s or add workers");
        let message = "no run began within its queue_timeout_s".to_owned();
        self.task(id).error = Some(("timeout", None, message, hint));
        self.finish_terminal(id);
        self.move_to(id, Some(State::Pending), Cause::Expire, State::Failed);
        self.release(id);
    }

    fn do_due(&mut self) -> (u64, u64) {
        let mut timers: Vec<(i64, String)> =
            self.due.iter().filter(|(_, at)| **at <= self.now).map(|(timer, at)| (*at, timer.clone())).collect();
        timers.sort();
        let (mut due, mut removed) = (0, 0);
        for (_, timer) in timers {
            self.due.remove(&timer);
            let (kind, id) = timer.split_once(":t").expect("a timer");
            let id = id.parse().expect("an id");
            if kind == "queue" {
                self.expire(id);
            } else if self.state(id) == Some(State::Delayed) {
                self.enter_lane(id);
                if self.tasks[&id].run == 0 {
                    self.start_waiting(id);
                }
                self.move_to(id, Some(State::Delayed), Cause::Due, State::Pending);
                due += 1;
            }
        }
        for (id, at) in self.retain.clone() {
            if at <= self.now {
                self.retain.remove(&id);
                self.unseen.remove(&id);
                if let Some(task) = self.tasks.remove(&id) {
                    self.once.remove(&task.new.once);
                }
                removed += 1;
            }
        }
        (due, removed)
    }

    fn do_lost(&mut self) -> u64 {
        let mut count = 0;
        for lane in self.lane_order() {
            for priority in 0..3 {
                let places = self.streams[lane][priority].places.clone();
                for place in places.iter().filter(|place| place.pending == Some(true)) {
                    let named = self.tasks.get(&place.task).map(|task| (task.state, task.entry));
                    if place.stands && named == Some((State::Running, Some(place.entry))) {
                        self.lose(place.task);
                        count += 1;
                    } else {
                        self.streams[lane][priority].leave(place.entry);
                    }
                }
            }
        }
        count
    }

    fn do_repair(&mut self) -> u64 {
        let mut count = 0;
        for state in [State::Pending, State::Running] {
            for id in self.in_state(state) {
                let entry = self.tasks[&id].entry;
                if self.stream(id).has(entry, state == State::Running) {
                    continue;
                }
                count += 1;
                if state == State::Running {
                    self.lose(id);
                } else {
                    self.leave_lane(id);
                    self.enter_lane(id);
                    self.move_to(id, Some(State::Pending), Cause::Repair, State::Pending);
                }
            }
        }
        count
    }

    pub(super) fn sweep(&mut self) -> Words {
        self.begin_script();
        self.note_call();
        if self.meta_mark == Some(false) {
            self.grace = Some(self.now + LEASE_MS * 2 / 3);
        }
        self.meta_mark = Some(true);
        self.full = false;
        if self.rewound {
            self.rewound = false;
            for lane in self.lanes.keys() {
                self.streams[*lane].iter_mut().for_each(super::lanes::Stream::claim_all);
            }
        }
        self.skip_forgotten();
        let (due, removed) = self.do_due();
        let (mut lost, mut dead) = (0, 0);
        if self.now >= self.grace.unwrap_or(0) {
            lost = self.do_lost();
            let before = self.live.len();
            let since = self.now - LEASE_MS;
            self.live.retain(|_, heard| *heard > since);
            dead = (before - self.live.len()) as u64;
        }
        let repaired = self.do_repair();
        self.do_lanes();
        let counts = [due, lost, repaired, removed, dead, LEASE_MS as u64];
        std::iter::once("ok".to_owned()).chain(words(&counts)).collect()
    }
}
