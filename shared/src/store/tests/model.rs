//! Random sequences of calls by workers, callers, sweepers and an operator, against the real scripts: each event is a
//! legal move, what is over never changes, nobody settles what it does not hold, and the invariants hold in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use super::worker::{Hand, failure, give_back, retry, unspoken};
use super::{TestPool, timed_submission};
use crate::domain::attempt::Verdict;
use crate::domain::ids::TaskId;
use crate::domain::state::{Cause, MOVES, State, is_legal};
use crate::store::attempt::{self, Claimed, Held};
use crate::store::review::{Judgement, judge};
use crate::store::script::Call;
use crate::store::task;

const SEQUENCES: u64 = 50;
const STEPS: u32 = 40;
const WORKERS: usize = 3;

type Move = (Option<State>, Cause, State);

/// A generator of its own (SplitMix64), so that a printed seed gives the same sequence for ever.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % most as u64) as usize
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() { None } else { Some(&list[self.below(list.len())]) }
    }

    fn verdict(&mut self, held: &Held) -> Verdict {
        let delay_ms = [0, 0, 700][self.below(3)];
        let is_last = held.history.attempt >= held.history.max_attempts;
        match self.below(7) {
            0 => Verdict::Complete,
            1 => Verdict::Review,
            2 => Verdict::Fail(failure()),
            3 => Verdict::Cancel("chance".into()),
            4 if is_last => Verdict::Fail(failure()),
            4 => retry(delay_ms),
            5 => give_back(delay_ms),
            _ => unspoken(delay_ms),
        }
    }
}

/// One worker, what it believes to hold, and its last calls.
struct Actor<'a> {
    hand: Hand<'a>,
    held: Option<Held>,
    calls: Vec<Call>,
}

struct World<'a> {
    pool: &'a TestPool,
    actors: Vec<Actor<'a>>,
    starts: usize,
    ids: Vec<TaskId>,
    over: BTreeMap<TaskId, HashMap<String, String>>,
    cursor: String,
    taken: BTreeSet<String>,
}

impl<'a> World<'a> {
    async fn new(pool: &'a TestPool) -> Self {
        let mut world = World {
            pool,
            actors: Vec::new(),
            starts: 0,
            ids: Vec::new(),
            over: BTreeMap::new(),
            cursor: "0".into(),
            taken: BTreeSet::new(),
        };
        for _ in 0..WORKERS {
            let actor = world.start().await;
            world.actors.push(actor);
        }
        world
    }

    /// A new process of a worker, with a name of its own.
    async fn start(&mut self) -> Actor<'a> {
        self.starts += 1;
        let hand = self.pool.join(&format!("w{}", self.starts)).await;
        Actor { hand, held: None, calls: Vec::new() }
    }

    async fn step(&mut self, chance: &mut Chance) -> String {
        let who = chance.below(WORKERS);
        match chance.below(17) {
            0..=2 => self.submit(chance).await,
            3..=5 => self.claim(who).await,
            6 => self.beat(who, chance).await,
            7 | 8 => self.finish(who, chance).await,
            9 | 10 => self.go_on(who, chance).await,
            16 => self.judge(chance).await,
            11 => self.cancel(chance).await,
            12 => self.lose(who).await,
            13 if chance.below(2) == 0 => {
                // With somebody there all the while.
                for _ in 0..3 {
                    self.pool.forward(4_000).await;
                    self.pool.sweep("s").await;
                }
                "twelve seconds pass".into()
            }
            13 => {
                self.pool.forward(chance.below(20_000) as i64).await;
                format!("time passes: {:?}", self.pool.sweep_in_grace("s").await)
            }
            14 => self.repeat(who, chance).await,
            _ if chance.below(2) == 0 => self.die(who).await,
            _ => self.meddle(chance).await,
        }
    }

    async fn submit(&mut self, chance: &mut Chance) -> String {
        let (attempts, ladder) = [(1, ""), (2, "0"), (3, "700,0"), (3, "0,700")][chance.below(4)];
        let priority = ["high", "normal", "normal", "low"][chance.below(4)];
        let times = [[0, 0], [0, 0], [900, 0], [0, 5_000], [900, 5_000]][chance.below(5)];
        let others: Vec<String> = match chance.below(3) {
            0 => (0..=chance.below(2)).filter_map(|_| chance.of(&self.ids).map(ToString::to_string)).collect(),
            _ => Vec::new(),
        };
        let after_failure = ["cancel", "run"][chance.below(2)];
        let call = timed_submission(attempts, ladder, priority, times, &others.join("\n"), after_failure);
        let made = task::submitted(&self.pool.call(&call).await).unwrap();
        self.ids.push(made[0].0);
        format!("submit {} {priority} {times:?} after {others:?} {after_failure}", made[0].0)
    }

    async fn claim(&mut self, who: usize) -> String {
        let actor = &mut self.actors[who];
        if actor.held.is_some() {
            return "busy".into();
        }
        let call = actor.hand.claim_call("default");
        let reply = self.pool.call(&call).await;
        actor.calls.push(call);
        actor.held = match attempt::claimed(&reply, 0).unwrap().0 {
            Claimed::Run(held) => Some(*held),
            _ => None,
        };
        format!("{} claims {:?}", actor.hand.id, actor.held.as_ref().map(|held| (held.id, held.run)))
    }

    /// Whether the record says that a worker holds a run.
    async fn holds(&self, worker: &str, held: &Held) -> bool {
        let Some(record) = self.pool.store.task(held.id).await.unwrap() else { return false };
        record.state == State::Running
            && record.worker.as_deref() == Some(worker)
            && record.entry.as_deref() == Some(&held.entry)
    }

    async fn beat(&mut self, who: usize, chance: &mut Chance) -> String {
        let Some(held) = self.actors[who].held.clone() else { return "nothing to beat for".into() };
        let holds = self.holds(&self.actors[who].hand.id, &held).await;
        let actor = &mut self.actors[who];
        let call = actor.hand.beat_call(&held, chance.below(1_000_000) as u64);
        let told = self.pool.words(&call).await;
        actor.calls.push(call);
        assert!(told[0] != "ok" || holds, "{} beats for {held:?}", actor.hand.id);
        if told[0] != "ok" {
            actor.held = None;
        }
        format!("{} beats for {}: {told:?}", actor.hand.id, held.id)
    }

    async fn finish(&mut self, who: usize, chance: &mut Chance) -> String {
        // Now and then with another's run in hand.
        let whose = if chance.below(6) == 0 { chance.below(WORKERS) } else { who };
        let Some(held) = self.actors[whose].held.clone() else { return "nothing to finish".into() };
        let holds = self.holds(&self.actors[who].hand.id, &held).await;
        let verdict = chance.verdict(&held);
        let actor = &mut self.actors[who];
        let call = actor.hand.finish_call(&held, chance.below(1_000_000) as u64, &verdict);
        let told = self.pool.words(&call).await;
        actor.calls.push(call);
        assert!(told[0] != "ok" || holds, "{} finishes {held:?}", actor.hand.id);
        if whose == who {
            actor.held = None;
        }
        format!("{} finishes {} {verdict:?}: {told:?}", actor.hand.id, held.id)
    }

    async fn go_on(&mut self, who: usize, chance: &mut Chance) -> String {
        let Some(held) = self.actors[who].held.clone() else { return "nothing to step from".into() };
        let holds = self.holds(&self.actors[who].hand.id, &held).await;
        let verdict = chance.verdict(&held);
        let actor = &mut self.actors[who];
        let call = actor.hand.step_call(&held, chance.below(1_000_000) as u64, &verdict);
        let reply = self.pool.call(&call).await;
        actor.calls.push(call);
        assert!(reply.word() != "ok" || holds, "{} steps from {held:?}", actor.hand.id);
        actor.held = match attempt::claimed(&reply, 2).unwrap().0 {
            Claimed::Run(held) => Some(*held),
            _ => None,
        };
        format!("{} steps from {} {verdict:?}: {}", actor.hand.id, held.id, reply.word())
    }

    async fn cancel(&mut self, chance: &mut Chance) -> String {
        let Some(id) = chance.of(&self.ids).copied() else { return "nothing to cancel".into() };
        format!("cancel {id}: {:?}", self.pool.words(&task::cancellation(id, "chance")).await)
    }

    /// One that is up for review, or another one, is judged in its round or in the next.
    async fn judge(&mut self, chance: &mut Chance) -> String {
        let index = self.pool.store.keys.index("state", "pending_review");
        let up = self.pool.store.members(&index).await.unwrap();
        let up: Vec<TaskId> = up.iter().filter_map(|id| id.parse().ok()).collect();
        let Some(id) = chance.of(&up).or(chance.of(&self.ids)).copied() else { return "nothing to judge".into() };
        let record = self.pool.record(id).await;
        let is_up = record.state == State::PendingReview;
        let round = record.round + u32::from(chance.below(4) == 0);
        let judgement = [Judgement::Approve, Judgement::Reject, Judgement::Fail][chance.below(3)];
        let told = self.pool.words(&judge(id, round, judgement, "chance", "why", "")).await;
        let is_new = told[0] == "ok" && told.len() == 2;
        assert_eq!(is_new, is_up && round == record.round, "{told:?} of {record:?}");
        format!("{judgement:?} round {round} of {id}: {told:?}")
    }

    async fn lose(&mut self, who: usize) -> String {
        let Some(held) = &self.actors[who].held else { return "nothing to lose".into() };
        let priority = self.pool.field(&format!("task:{}", held.id), "priority").await.unwrap_or_default();
        let lane = self.pool.store.keys.lane("default", &priority);
        let mut connection = self.pool.store.connector.pooled().await.unwrap();
        let mut silence = redis::cmd("XCLAIM");
        silence.arg(lane).arg(&["workers", "w", "0", &held.entry, "IDLE", "60000", "JUSTID"]);
        // An operator may have taken its lane away.
        let _: Result<redis::Value, _> = silence.query_async(&mut *connection).await;
        drop(connection);
        format!("{} is silent: {:?}", self.actors[who].hand.id, self.pool.sweep("s").await)
    }

    /// An old call comes once more: it changes nothing.
    async fn repeat(&mut self, who: usize, chance: &mut Chance) -> String {
        let Some(call) = chance.of(&self.actors[who].calls).cloned() else { return "nothing to repeat".into() };
        let mut before = self.pool.dump().await;
        let reply = self.pool.store.call(&call).await.unwrap();
        let mut after = self.pool.dump().await;
        // It lives for two seconds.
        for dump in [&mut before, &mut after] {
            dump.remove(&self.pool.key("sweeper"));
        }
        self.pool.assert_same(&before, &after, &format!("{call:?}"));
        format!("{} repeats {}: {}", self.actors[who].hand.id, call.name(), reply.word())
    }

    async fn die(&mut self, who: usize) -> String {
        let next = self.start().await;
        let gone = std::mem::replace(&mut self.actors[who], next);
        format!("{} dies", gone.hand.id)
    }

    async fn meddle(&mut self, chance: &mut Chance) -> String {
        let lane = self.pool.store.keys.lane("default", ["high", "normal", "low"][chance.below(3)]);
        let choice = chance.below(4);
        let command = &[
            vec!["XGROUP", "DELCONSUMER", &lane, "workers", "w"],
            vec!["XTRIM", &lane, "MAXLEN", "0"],
            vec!["DEL", &lane],
            vec!["XGROUP", "DESTROY", &lane, "workers"],
        ][choice];
        let mut connection = self.pool.store.connector.pooled().await.unwrap();
        // There may be nothing to take away.
        let _: Result<redis::Value, _> = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut *connection).await;
        format!("an operator: {} {:?}", command[..2].join(" "), self.pool.sweep("s").await)
    }

    /// Each new event is a legal move; what is over is as it was, but for late books.
    async fn check(&mut self) {
        for (cursor, event) in self.pool.store.events_since(&self.cursor, 1000).await.unwrap() {
            assert!(is_legal(event.from, event.cause, event.to), "{event:?}");
            self.taken.insert(shown((event.from, event.cause, event.to)));
            if event.to.is_terminal() {
                self.over.insert(event.task, self.essence(event.task).await);
            }
            self.cursor = cursor;
        }
        for (id, was) in &self.over {
            assert_eq!(&self.essence(*id).await, was, "{id} was over");
        }
    }

    async fn essence(&self, id: TaskId) -> HashMap<String, String> {
        let mut hash = self.pool.hash(&format!("task:{id}")).await;
        hash.retain(|field, _| field != "cost" && !field.ends_with(":cost"));
        hash
    }
}

fn shown((from, cause, to): Move) -> String {
    format!("{} {cause} {to}", from.map_or("-", State::word))
}

#[tokio::test]
async fn whatever_happens_the_invariants_hold() {
    let server = super::server().await;
    let began = Instant::now();
    let mut taken = BTreeSet::new();
    // The same sequences each time, so that every arrow is met; and one that never was before.
    let new = uuid::Uuid::new_v4().as_u128() as u64;
    for seed in (1..=SEQUENCES).chain([new]) {
        eprintln!("seed {seed}");
        let pool = TestPool::named(&server.url(), &format!("p{seed}"), seed % 5 == 0);
        let mut chance = Chance(seed);
        let mut world = World::new(&pool).await;
        for _ in 0..STEPS {
            let did = world.step(&mut chance).await;
            eprintln!("  {did}");
            world.check().await;
        }
        for _ in 0..2 {
            pool.sweep("s").await;
        }
        world.check().await;
        pool.examine().await;
        taken.append(&mut world.taken);
    }
    let missed: Vec<String> = MOVES.iter().map(|one| shown(*one)).filter(|one| !taken.contains(one)).collect();
    assert_eq!(missed, Vec::<String>::new(), "arrows that no sequence took");
    eprintln!("{} arrows in {} ms: {taken:?}", taken.len(), began.elapsed().as_millis());
    server.stop().await;
}
