//! The calls of the model: what each script does, and the words it answers. `#N` stands for an entry.

use super::pool::{Did, LEASE_MS, Pool, Worker, is_over};
use super::task::{LANES, New, Round, Task};
use crate::domain::attempt::Verdict;
use crate::domain::state::{Cause, State};
use crate::store::review::Judgement;

pub(super) type Words = Vec<String>;

pub(super) fn words<T: ToString>(list: &[T]) -> Words {
    list.iter().map(ToString::to_string).collect()
}

/// A run as a worker believes to hold it.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    pub(super) task: u64,
    pub(super) run: u64,
    pub(super) entry: u64,
    pub(super) round: u64,
}

/// What a worker says of the end of a run.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) belief: Belief,
    pub(super) verdict: Verdict,
    pub(super) cost: u64,
}

/// Most tasks that may wait.
pub(super) const MOST_WAITING: usize = 12;

impl Pool {
    pub(super) fn submit(&mut self, mark: &str, kept: bool, news: &[New]) -> Words {
        self.begin_script();
        let fresh = news.iter().filter(|new| !self.once.contains_key(&new.once)).count();
        if fresh > 0 {
            let states = [State::Waiting, State::Delayed, State::Pending, State::Held];
            let waiting = states.iter().map(|state| self.in_state(*state).len()).sum::<usize>();
            if waiting + fresh > MOST_WAITING {
                return words(&["full".into(), waiting.to_string()]);
            }
            if self.full {
                return words(&["memory"]);
            }
            let others = news.iter().filter(|new| !self.once.contains_key(&new.once)).flat_map(|new| &new.after);
            for other in others.filter(|other| !other.starts_with('@')) {
                if !self.tasks.contains_key(&number(other)) {
                    return words(&["unknown", other]);
                }
            }
            self.skip_forgotten();
            self.seq_mark = Some(true);
            self.kept = kept;
        }
        let mut reply = words(&["ok"]);
        let mut ids = Vec::new();
        let mut made = Vec::new();
        for new in news {
            if let Some((id, _)) = self.once.get(&new.once) {
                ids.push(*id);
                continue;
            }
            self.ids += 1;
            ids.push(self.ids);
            made.push(self.ids);
            self.once.insert(new.once.clone(), (self.ids, mark.to_owned()));
        }
        for (new, id) in news.iter().zip(&ids) {
            if made.contains(id) {
                self.make(*id, new.clone(), &ids);
            }
            let is_own = self.once[&new.once].1 == mark;
            reply.extend(words(&[format!("t{id}").as_str(), if is_own { "fresh" } else { "again" }]));
        }
        reply
    }

    fn make(&mut self, id: u64, new: New, ids: &[u64]) {
        let now = self.now;
        let (lane, delay) = (new.lane, new.delay_ms);
        let others: Vec<u64> = new
            .after
            .iter()
            .map(|other| match other.strip_prefix('@') {
                Some(at) => ids[at.parse::<usize>().expect("a place")],
                None => number(other),
            })
            .collect();
        self.tasks.insert(id, Task::new(new, now));
        self.made.push(id);
        if !others.is_empty() {
            let list: Vec<String> = others.iter().map(|other| format!("t{other}")).collect();
            let task = self.task(id);
            task.not_before = Some(now + delay);
            task.reason = Some(format!("follows {}", list.join(", ")));
            self.touch_lane(lane);
            let left = self.wait_on(id, &others);
            self.move_to(id, None, Cause::Submit, State::Waiting);
            let over = others.iter().filter(|other| is_over(self.state(**other)));
            let why = over.filter_map(|other| self.spoils(id, *other, self.state(*other))).next();
            match why {
                Some(why) => self.spoil(id, why),
                None if left == 0 => self.start_after(id),
                None => {}
            }
        } else if delay > 0 {
            self.touch_lane(lane);
            self.due.insert(format!("task:t{id}"), now + delay);
            self.move_to(id, None, Cause::Submit, State::Delayed);
        } else {
            self.enter_lane(id);
            self.start_waiting(id);
            self.move_to(id, None, Cause::Submit, State::Pending);
        }
    }

    /// A worker joins, or reports.
    pub(super) fn presence(&mut self, worker: &str, joins: bool) -> bool {
        if !joins && !self.workers.contains_key(worker) {
            return false;
        }
        self.note_call();
        self.workers.entry(worker.to_owned()).or_default().host = "h".into();
        self.live.insert(worker.to_owned(), self.now);
        true
    }

    fn refuse_call(&self, worker: &str, call: u64) -> Option<Words> {
        match self.workers.get(worker) {
            None => Some(words(&["unknown", worker])),
            Some(known) if call < known.call => Some(words(&["superseded".into(), known.call.to_string()])),
            Some(_) => None,
        }
    }

    fn done_before(&self, worker: &str, call: u64) -> Option<Did> {
        let known = &self.workers[worker];
        (known.call == call).then(|| known.did.clone()).flatten()
    }

    fn remember(&mut self, worker: &str, call: u64, did: Did) {
        let known = self.known(worker);
        known.call = call;
        known.did = Some(did);
    }

    fn known(&mut self, worker: &str) -> &mut Worker {
        self.workers.get_mut(worker).expect("it is known")
    }

    fn seen(&mut self, worker: &str) {
        self.live.insert(worker.to_owned(), self.now);
    }

    /// A claim's answer, without its news.
    fn described(&self, taken: Option<(u64, u64, u64)>) -> Words {
        let Some((id, run, entry)) = taken else { return words(&["idle"]) };
        let mut reply = words(&["ok".into(), format!("t{id}"), run.to_string(), format!("#{entry}")]);
        // Its record may have had its time.
        let Some(task) = self.tasks.get(&id) else {
            reply.extend(words(&["0", "0", "0", "0", "0", "", "1", "0", "", "0", "0", ""]));
            return reply;
        };
        let since = task.back_since.filter(|since| *since > 0).map_or(0, |since| (self.now - since).max(0));
        reply.extend(words(&[
            task.attempt.to_string(),
            task.new.max_attempts.to_string(),
            task.uncharged.unwrap_or(0).to_string(),
            task.unspoken.unwrap_or(0).to_string(),
            since.to_string(),
            LANES[task.new.lane].to_owned(),
            task.round.to_string(),
            task.started.map_or("0".into(), |_| LEASE_MS.to_string()),
            String::new(),
            task.failures.unwrap_or(0).to_string(),
            "0".into(),
            String::new(),
        ]));
        reply
    }

    pub(super) fn claim(&mut self, worker: &str, call: u64, token: Option<usize>, lanes: &[usize]) -> Words {
        self.begin_script();
        if let Some(refusal) = self.refuse_call(worker, call) {
            return refusal;
        }
        if let Some(Did::Took(_, taken)) = self.done_before(worker, call) {
            return self.described(taken);
        }
        self.note_call();
        self.seen(worker);
        let taken = self.take(worker, token, lanes);
        self.remember(worker, call, Did::Took(None, taken));
        self.described(taken)
    }

    /// The fence: why this worker may not write.
    fn refuse(&mut self, worker: &str, belief: &Belief) -> Option<[String; 2]> {
        let Some(task) = self.tasks.get(&belief.task) else {
            return Some(["unknown".into(), format!("t{}", belief.task)]);
        };
        let is_holder =
            task.state == State::Running && task.entry == Some(belief.entry) && task.worker.as_deref() == Some(worker);
        let stale = ["stale".into(), task.state.to_string()];
        (!is_holder || !self.stream(belief.task).is_pending(belief.entry)).then_some(stale)
    }

    fn book(&mut self, id: u64, run: u64, cost: u64) {
        let task = self.task(id);
        let before = &mut task.runs[run as usize - 1].cost;
        task.cost = task.cost + cost - *before;
        *before = cost;
    }

    /// What an end that comes too late may still change.
    fn book_late(&mut self, worker: &str, end: &End) {
        let runs = self.tasks.get(&end.belief.task).map(|task| &task.runs);
        if runs.and_then(|runs| runs.get(end.belief.run as usize - 1)).is_some_and(|run| run.worker == worker) {
            self.book(end.belief.task, end.belief.run, end.cost);
        }
    }

    pub(super) fn beat(&mut self, worker: &str, call: u64, belief: &Belief, cost: u64) -> Words {
        if let Some(refusal) = self.refuse_call(worker, call) {
            return refusal;
        }
        if let Some(stale) = self.refuse(worker, belief) {
            return stale.to_vec();
        }
        let now = self.now;
        if self.done_before(worker, call).is_none() {
            self.note_call();
            self.seen(worker);
            self.stream(belief.task).claim(belief.entry, false);
            let task = self.task(belief.task);
            task.heard = Some(now - 5);
            task.runs[belief.run as usize - 1].beaten = true;
            self.book(belief.task, belief.run, cost);
            self.remember(worker, call, Did::Beat);
        }
        words(&["ok", if self.tasks[&belief.task].cancel.is_some() { "1" } else { "0" }])
    }

    fn moved(&self, belief: &Belief) -> Option<[String; 2]> {
        let round = self.tasks.get(&belief.task).map_or(0, |task| task.round);
        (round != belief.round).then(|| ["moved".into(), round.to_string()])
    }

    fn settled(&mut self, worker: &str, end: &End) -> [String; 2] {
        let state = self.settle(end);
        if state.is_terminal() {
            self.release(end.belief.task);
        }
        let known = self.known(worker);
        known.task.clear();
        known.done += 1;
        ["ok".into(), state.to_string()]
    }

    pub(super) fn finish(&mut self, worker: &str, call: u64, end: &End) -> Words {
        self.begin_script();
        if let Some(refusal) = self.refuse_call(worker, call) {
            return refusal;
        }
        if let Some(Did::Settled(did)) = self.done_before(worker, call) {
            return did.to_vec();
        }
        if let Some(stale) = self.refuse(worker, &end.belief) {
            if stale[0] == "stale" {
                self.book_late(worker, end);
            }
            return stale.to_vec();
        }
        if let Some(moved) = self.moved(&end.belief) {
            return moved.to_vec();
        }
        self.note_call();
        self.seen(worker);
        let did = self.settled(worker, end);
        self.remember(worker, call, Did::Settled(did.clone()));
        did.to_vec()
    }

    pub(super) fn step(&mut self, worker: &str, call: u64, end: &End, lanes: &[usize]) -> Words {
        self.begin_script();
        if let Some(refusal) = self.refuse_call(worker, call) {
            return refusal;
        }
        let (did, taken) = match self.done_before(worker, call) {
            Some(Did::Took(Some(did), taken)) => (did, taken),
            _ => {
                let refusal = self.refuse(worker, &end.belief).or_else(|| self.moved(&end.belief));
                self.note_call();
                self.seen(worker);
                if refusal.as_ref().is_some_and(|refusal| refusal[0] == "stale") {
                    self.book_late(worker, end);
                }
                let did = refusal.unwrap_or_else(|| self.settled(worker, end));
                let taken = self.take(worker, None, lanes);
                self.remember(worker, call, Did::Took(Some(did.clone()), taken));
                (did, taken)
            }
        };
        let mut reply = did.to_vec();
        reply.extend(self.described(taken));
        reply
    }

    pub(super) fn cancel(&mut self, id: u64, reason: &str) -> Words {
        self.begin_script();
        let Some(state) = self.state(id) else { return words(&["unknown".into(), format!("t{id}")]) };
        if state.is_terminal() || self.tasks[&id].cancel.is_some() {
            return words(&["ok", state.word()]);
        }
        if state == State::Running {
            self.task(id).cancel = Some(reason.to_owned());
            return words(&["ok", "running"]);
        }
        if self.tasks[&id].entry.is_some() {
            self.leave_lane(id);
            self.forget_age(id);
        }
        self.due.remove(&format!("task:t{id}"));
        self.wait_no_more(id);
        self.task(id).reason = Some(reason.to_owned());
        self.finish_terminal(id);
        self.move_to(id, Some(state), Cause::Cancel, State::Cancelled);
        self.release(id);
        words(&["ok", "cancelled"])
    }

    pub(super) fn judge(
        &mut self,
        id: u64,
        round: u64,
        mark: &str,
        judgement: Judgement,
        by: &str,
        why: &str,
    ) -> Words {
        self.begin_script();
        let Some(task) = self.tasks.get(&id) else { return words(&["unknown".into(), format!("t{id}")]) };
        let approves = judgement == Judgement::Approve;
        let (cause, word) = if approves { (Cause::Approve, "approve") } else { (Cause::Reject, "reject") };
        if let Some(before) = (round > 0).then(|| task.rounds.get(round as usize - 1)).flatten() {
            if before.mark == mark {
                return words(&["ok", before.to.word()]);
            }
            if before.cause == word && (approves || (before.by == by && before.why == why)) {
                return words(&["ok", before.to.word(), "again"]);
            }
            return words(&["already", before.cause, &before.by]);
        }
        if task.round != round {
            return words(&["moved".into(), task.round.to_string()]);
        }
        if task.state != State::PendingReview {
            return words(&["state", task.state.word()]);
        }
        let to = match judgement {
            Judgement::Approve => State::Completed,
            Judgement::Reject => State::Pending,
            Judgement::Fail => State::Failed,
        };
        let now = self.now;
        let output = judgement == Judgement::Reject;
        let task = self.task(id);
        let (run, mark, by) = (task.run, mark.to_owned(), by.to_owned());
        task.rounds.push(Round { mark, cause: word, by: by.clone(), why: why.to_owned(), to, run, output, at: now });
        task.reason = None;
        if judgement == Judgement::Reject {
            task.result = false;
            task.back_since = None;
            task.round += 1;
            task.attempt = 0;
            (task.uncharged, task.unspoken, task.failures) = (Some(0), Some(0), Some(0));
            task.reason = Some(format!("rejected by {by} in round {round}"));
            self.enter_lane(id);
        } else {
            if judgement == Judgement::Fail {
                let message = format!("rejected {round} times, the last time by {by}");
                let hint = "see the feedback of each round; submit it again with another prompt or model";
                task.error = Some(("check", None, message, hint.into()));
            }
            self.finish_terminal(id);
        }
        self.move_to(id, Some(State::PendingReview), cause, to);
        if to.is_terminal() {
            self.release(id);
        }
        words(&["ok", to.word()])
    }
}

pub(super) fn number(id: &str) -> u64 {
    id[1..].parse().expect("an id")
}
