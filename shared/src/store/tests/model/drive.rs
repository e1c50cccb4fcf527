//! A sequence against a real pool: each op is done there and in the model, and both are compared.

use std::collections::{BTreeSet, HashMap};

use super::calls::{Belief, End, MOST_WAITING, Words, words};
use super::look::look;
use super::ops::{Case, Fresh, Op, Step};
use super::pool::{LEASE_MS, Pool};
use super::task::{BOSS, LANES, New, PRIORITIES, Task};
use crate::domain::state::State;
use crate::store::contact::Connection;
use crate::store::fleet::{self, Presence};
use crate::store::review::{Judgement, judge};
use crate::store::script::Call;
use crate::store::tests::{TestPool, words as words_of};
use crate::store::{sweep, task};

/// When every sequence begins.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// One call of a worker, as the model knows it.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    Claim(Option<usize>),
    Beat(Belief, u64),
    Finish(End),
    Step(End),
}

/// A task, what it waits on and what waits on it: in the model, and as Redis told it.
pub(super) type Looked = (Option<Task>, [Option<BTreeSet<u64>>; 2], [String; 3]);

pub(super) struct Actor {
    pub(super) name: String,
    pub(super) lanes: Vec<usize>,
    pub(super) calls: Vec<Sent>,
    pub(super) holds: Option<Belief>,
}

pub(super) struct World<'a> {
    pub(super) pool: &'a TestPool,
    /// One connection for all: a pooled one is asked first each time whether it lives.
    pub(super) line: &'a mut Connection,
    pub(super) model: Pool,
    /// What Redis calls the entries that the model numbers.
    pub(super) entries: HashMap<u64, String>,
    pub(super) cursor: String,
    /// Each task as it was looked at last.
    pub(super) seen: HashMap<u64, Looked>,
    kept: bool,
    pub(super) actors: Vec<Actor>,
    begun: usize,
    pub(super) beliefs: Vec<Belief>,
    submitted: Vec<(String, Vec<New>)>,
    judged: Vec<(u64, u64, String, Judgement)>,
    marks: u64,
}

/// Plays a sequence; gives the pool as the model sees it in the end, or what differed.
pub(super) async fn play(pool: &TestPool, line: &mut Connection, case: &Case) -> Result<Pool, String> {
    let mut world = World {
        pool,
        line,
        model: Pool { now: BEGIN_MS, ..Pool::default() },
        entries: HashMap::new(),
        cursor: "-".into(),
        seen: HashMap::new(),
        kept: case.kept,
        actors: Vec::new(),
        begun: 0,
        beliefs: Vec::new(),
        submitted: Vec::new(),
        judged: Vec::new(),
        marks: 0,
    };
    let mut done = 0;
    match world.steps(case, &mut done).await {
        Ok(()) => Ok(world.model),
        Err(problem) => Err(format!("after {done} steps: {problem}")),
    }
}

/// Both said the same.
pub(super) fn same(what: &str, told: &Words, expected: &Words) -> Result<(), String> {
    if told == expected { Ok(()) } else { Err(format!("{what}: {told:?}, where the model says {expected:?}")) }
}

impl World<'_> {
    async fn steps(&mut self, case: &Case, done: &mut usize) -> Result<(), String> {
        self.set_time().await;
        for lanes in [vec![0], vec![1, 0], vec![0, 1]] {
            let actor = self.begin(lanes).await?;
            self.actors.push(actor);
        }
        for step in &case.steps {
            *done += 1;
            self.step(step).await?;
            look(self).await?;
        }
        // What an operator broke is mended by then.
        for _ in 0..2 {
            self.end_grace().await;
            self.sweep().await?;
            look(self).await?;
        }
        let findings = self.pool.store.examine().await.map_err(|error| format!("{error:?}"))?;
        if findings.broken.is_empty() { Ok(()) } else { Err(format!("the doctor finds {:?}", findings.broken)) }
    }

    pub(super) async fn set_time(&mut self) {
        let key = self.pool.key("test:stopped");
        self.tell(&["SET", &key, &self.model.now.to_string()]).await;
    }

    /// A command whose answer, be it an error, does not matter.
    pub(super) async fn tell(&mut self, command: &[&str]) {
        let _: Result<redis::Value, _> = redis::cmd(command[0]).arg(&command[1..]).query_async(self.line).await;
    }

    /// Makes a call, and compares what it answers, entries by their numbers.
    pub(super) async fn check(&mut self, call: &Call, expected: &Words) -> Result<(), String> {
        let reply =
            call.send(&self.pool.store.keys, self.line).await.map_err(|error| format!("{}: {error:?}", call.name()))?;
        let mut told = essence(call.name(), words_of(&reply));
        for (word, expected) in told.iter_mut().zip(expected) {
            let Some(entry) = expected.strip_prefix('#').and_then(|entry| entry.parse().ok()) else { continue };
            if self.entries.entry(entry).or_insert_with(|| word.clone()) == word {
                word.clone_from(expected);
            }
        }
        same(call.name(), &told, expected)
    }

    async fn begin(&mut self, lanes: Vec<usize>) -> Result<Actor, String> {
        self.begun += 1;
        let actor = Actor { name: format!("w{}", self.begun), lanes, calls: Vec::new(), holds: None };
        self.present(&actor.name, "join").await?;
        Ok(actor)
    }

    pub(super) async fn present(&mut self, worker: &str, verb: &str) -> Result<(), String> {
        let presence = Presence { host: "h".into(), pid: 7, ..Presence::default() };
        let call = fleet::presence(worker, verb, "pool-1", LEASE_MS as u64, &presence);
        let is_known = self.model.presence(worker, verb == "join");
        let reply = call.send(&self.pool.store.keys, self.line).await.map_err(|error| format!("{error:?}"))?;
        same("presence", &words(&[reply.word()]), &words(&[if is_known { "ok" } else { "unknown" }]))?;
        if !is_known { Box::pin(self.present(worker, "join")).await } else { Ok(()) }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let times = if step.twice { 2 } else { 1 };
        match &step.op {
            Op::Submit(list) => {
                let news = list.iter().enumerate().map(|(at, fresh)| self.new_task(fresh, at)).collect::<Vec<_>>();
                let mark = self.mark();
                self.submitted.push((mark.clone(), news.clone()));
                for _ in 0..times {
                    self.submit(&mark, &news).await?;
                }
                Ok(())
            }
            Op::Resubmit { which, by_another } => {
                let Some((mark, news)) = pick(&self.submitted, *which).cloned() else { return Ok(()) };
                let mark = if *by_another { self.mark() } else { mark };
                self.submit(&mark, &news).await
            }
            Op::Claim { who, token } => {
                let Some(who) = self.one(*who, |actor| actor.holds.is_none()) else { return Ok(()) };
                let token = token.then_some(0);
                self.speak(who, Sent::Claim(token), times).await
            }
            Op::Beat { who, which, cost } => {
                let Some((who, belief)) = self.belief(*who, *which) else { return Ok(()) };
                self.speak(who, Sent::Beat(belief, u64::from(*cost)), times).await
            }
            Op::Finish { who, which, say, cost, wrong_round } => {
                let Some((who, mut end)) = self.end(*who, *which, *say, *cost) else { return Ok(()) };
                end.belief.round += u64::from(*wrong_round);
                self.speak(who, Sent::Finish(end), times).await
            }
            Op::Step { who, which, say, cost } => {
                let Some((who, end)) = self.end(*who, *which, *say, *cost) else { return Ok(()) };
                self.speak(who, Sent::Step(end), times).await
            }
            Op::Repeat { who, call } => {
                let calls = self.actors[usize::from(*who)].calls.len();
                match calls.checked_sub(1 + usize::from(*call)) {
                    Some(at) => self.say(usize::from(*who), at).await.map(|_| ()),
                    None => Ok(()),
                }
            }
            Op::Cancel(task) => {
                let Some(id) = self.some_task(*task) else { return Ok(()) };
                for _ in 0..times {
                    let expected = self.model.cancel(id, "chance");
                    self.check(&task::cancellation(task_id(id), "chance"), &expected).await?;
                }
                Ok(())
            }
            Op::Judge { task, how, wrong_round } => {
                let up = self.model.in_state(State::PendingReview);
                let Some(id) = pick(&up, *task).copied().or_else(|| self.some_task(*task)) else { return Ok(()) };
                let round = self.model.tasks.get(&id).map_or(1, |task| task.round) + u64::from(*wrong_round);
                let judgement = [Judgement::Approve, Judgement::Reject, Judgement::Fail][usize::from(how % 3)];
                let said = (id, round, self.mark(), judgement);
                self.judged.push(said.clone());
                for _ in 0..times {
                    self.judge(&said, if *how < 3 { "boss" } else { "another" }).await?;
                }
                Ok(())
            }
            Op::Rejudge(which) => {
                let Some(mut said) = pick(&self.judged, *which).cloned() else { return Ok(()) };
                if which % 2 == 0 {
                    said.2 = self.mark();
                }
                self.judge(&said, "boss").await
            }
            Op::Sweep => self.sweep().await,
            Op::Report(who) => {
                let name = self.actors[usize::from(*who)].name.clone();
                self.present(&name, "report").await
            }
            Op::Die(who) => {
                let who = usize::from(*who);
                self.actors[who] = self.begin(self.actors[who].lanes.clone()).await?;
                Ok(())
            }
            other => {
                self.disturb(other).await;
                Ok(())
            }
        }
    }

    async fn sweep(&mut self) -> Result<(), String> {
        self.tell(&["SET", &self.pool.key("sweeper"), "s"]).await;
        let expected = self.model.sweep();
        self.check(&sweep::sweep("s"), &expected).await
    }

    fn mark(&mut self) -> String {
        self.marks += 1;
        format!("m{}", self.marks)
    }

    fn new_task(&self, fresh: &Fresh, at: usize) -> New {
        let follows = |which: u8| match usize::from(which) {
            0 => None,
            which if at > 0 && which % 3 == 0 => Some(format!("@{}", which % at)),
            which => self.some_task(which as u8).map(|id| format!("t{id}")),
        };
        let (max_attempts, if_lost) = [(1, ""), (2, "0"), (3, "700,0"), (3, "0,700")][usize::from(fresh.attempts)];
        New {
            once: format!("k{}-{at}", self.submitted.len()),
            lane: usize::from(fresh.gpu),
            priority: usize::from(fresh.priority),
            max_attempts,
            if_lost,
            has_coordinator: fresh.has_coordinator,
            delay_ms: fresh.delay_ms,
            wait_ms: fresh.wait_ms,
            after: fresh.after.into_iter().filter_map(follows).collect(),
            runs_after_failure: fresh.runs_after_failure,
        }
    }

    /// One that there is or was.
    fn some_task(&self, which: u8) -> Option<u64> {
        if which % 8 == 7 {
            return pick(&self.model.made, which / 8).copied();
        }
        let there: Vec<u64> = self.model.tasks.keys().copied().collect();
        pick(&there, which).copied()
    }

    async fn submit(&mut self, mark: &str, news: &[New]) -> Result<(), String> {
        let call = Call::new("submit").args(["pool-1", "15000"]).number(MOST_WAITING as u64).arg(mark);
        let call = call.arg(if self.kept { "1" } else { "0" }).number(news.len() as u64);
        let call = news.iter().fold(call, |call, new| {
            call.args([&new.once, r#"{"prompt":"a prompt"}"#, LANES[new.lane], PRIORITIES[new.priority]])
                .number(new.max_attempts)
                .args([new.if_lost, if new.has_coordinator { BOSS } else { "" }, ""])
                .number(new.delay_ms as u64)
                .number(new.wait_ms as u64)
                .arg("a prompt")
                .arg(new.after.join("\n"))
                .args([if new.runs_after_failure { "run" } else { "cancel" }, "task", ""])
        });
        let expected = self.model.submit(mark, self.kept, news);
        self.check(&call, &expected).await
    }

    async fn judge(&mut self, said: &(u64, u64, String, Judgement), by: &str) -> Result<(), String> {
        let (id, round, mark, judgement) = said;
        let expected = self.model.judge(*id, *round, mark, *judgement, by, "why");
        let call = judge(task_id(*id), *round as u32, *judgement, by, "why", "").with_arg(2, mark);
        self.check(&call, &expected).await
    }
}

pub(super) fn task_id(id: u64) -> crate::domain::ids::TaskId {
    format!("t{id}").parse().expect("an id")
}

pub(super) fn pick<T>(list: &[T], which: u8) -> Option<&T> {
    list.get(usize::from(which).checked_rem(list.len())?)
}

/// A reply without what other things decide than the model knows: who sweeps, versions, a task's spec.
fn essence(script: &str, mut told: Words) -> Words {
    let head = match (script, told[0].as_str()) {
        ("claim", "ok" | "idle") => 0,
        ("step", _) if told.len() > 2 => 2,
        ("beat", "ok") => {
            told.truncate(2);
            return told;
        }
        _ => return told,
    };
    told.drain(head + 1..(head + 5).min(told.len()));
    if told.len() > head + 4 {
        told.remove(head + 4);
    }
    told
}
