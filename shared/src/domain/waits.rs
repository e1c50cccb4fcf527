//! What everything that does not run waits for, in groups. Pure: what was seen comes in, what is to be said goes out.
//!
//! Not here: who looks (`store/waits.rs`), in which words it is told (the faces).

use super::attempt::Class;
use super::fleet::{Unfit, Worker};
use super::ids::TaskId;
use super::lane::Lane;
use super::state::State;

/// Tasks that wait for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The state they are in.
    pub state: State,
    /// The lane, of those that can start.
    pub lane: Option<String>,
    /// How many.
    pub count: u64,
    /// For what.
    pub why: Why,
    /// Until when at the latest, or the first of them, where that is known: milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Some of them, the first first.
    pub tasks: Vec<TaskId>,
}

/// What tasks wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Other tasks, chains or batches: some of them, with their states.
    Others(Vec<(String, String)>),
    /// A time that was asked for.
    Asked,
    /// A time after a failure.
    BackOff {
        /// The failure of the first of them.
        class: Option<Class>,
        /// In its own words.
        message: String,
    },
    /// A judgement.
    Review,
    /// Nothing: an idle worker takes them.
    Turn,
    /// Each fit worker of the lane runs something; so many do.
    Busy(u64),
    /// Each worker of the lane finishes what it has and claims no more.
    Draining(u64),
    /// No live worker serves the lane.
    NoWorker,
    /// No worker of the lane is fit: the one that is fit again first, and its account where that is at its limit.
    Fitness {
        /// Why it is not.
        unfit: Unfit,
        /// The account, where it is that.
        account: Option<String>,
    },
}

impl Why {
    /// In one word, for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Others(_) => "tasks",
            Self::Asked => "delay",
            Self::BackOff { .. } => "back_off",
            Self::Review => "review",
            Self::Turn => "turn",
            Self::Busy(_) => "busy",
            Self::Draining(_) => "draining",
            Self::NoWorker => "no_worker",
            Self::Fitness { unfit, .. } if unfit.class == Class::Limit => "limit",
            Self::Fitness { .. } => "unfit",
        }
    }
}

/// What the tasks of a lane wait for, judged by the workers that are there.
#[must_use]
pub fn of_lane(lane: &str, workers: &[Worker]) -> Why {
    let lane = Lane::parse(lane);
    let mine: Vec<&Worker> = workers.iter().filter(|worker| lane.is_served_by(&worker.lanes, &worker.labels)).collect();
    let taking: Vec<&&Worker> = mine.iter().filter(|worker| !worker.draining).collect();
    let fit: Vec<&&&Worker> = taking.iter().filter(|worker| worker.unfit.is_none()).collect();
    if fit.iter().any(|worker| worker.task.is_none()) {
        return Why::Turn;
    }
    if !fit.is_empty() {
        return Why::Busy(fit.len() as u64);
    }
    let first = taking
        .iter()
        .filter_map(|worker| Some((worker, worker.unfit.as_ref()?)))
        .min_by_key(|(_, unfit)| unfit.until_ms.unwrap_or(u64::MAX));
    match first {
        Some((worker, unfit)) => {
            let account = worker.account.clone().filter(|_| unfit.class == Class::Limit);
            Why::Fitness { unfit: unfit.clone(), account }
        }
        None if !mine.is_empty() => Why::Draining(mine.len() as u64),
        None => Why::NoWorker,
    }
}

/// Most tasks that are named of what others wait on.
const NAMED_ON: usize = 5;

/// Of what others wait on, with its state, what is to be named: what waits itself says least.
#[must_use]
pub fn on(mut needs: Vec<(String, String)>) -> Vec<(String, String)> {
    needs.sort_by_key(|(_, state)| match state.as_str() {
        "waiting" => 2,
        "pending" | "delayed" => 1,
        _ => 0,
    });
    needs.truncate(NAMED_ON);
    needs
}

/// A task with a timer, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// Which.
    pub id: TaskId,
    /// When its time comes.
    pub until_ms: u64,
    /// The failure that it waits after; nothing where the time was asked for.
    pub after: Option<(Option<Class>, String)>,
}

/// Delayed tasks, the oldest first, that are looked at; of more not all are.
pub const LOOKED_AT: u64 = 20;

/// Most tasks that a group names.
pub const NAMED: usize = 3;

/// Groups delayed tasks, of which `count` there are and not all may have been looked at: what was not is said to be as
/// the others are.
#[must_use]
pub fn of_delayed(count: u64, mut seen: Vec<Delayed>) -> Vec<Waiting> {
    seen.sort_by_key(|task| (task.until_ms, task.id));
    let (failed, asked): (Vec<Delayed>, Vec<Delayed>) = seen.into_iter().partition(|task| task.after.is_some());
    let all = (failed.len() + asked.len()) as u64;
    // Of a few all were looked at: what is missing of them has moved on meanwhile.
    let unseen = if count > LOOKED_AT { count.saturating_sub(all) } else { 0 };
    let more_failed = if asked.is_empty() { unseen } else { 0 };
    let group = |tasks: Vec<Delayed>, more: u64| {
        let first = tasks.first()?;
        let why = match first.after.clone() {
            Some((class, message)) => Why::BackOff { class, message },
            None => Why::Asked,
        };
        Some(Waiting {
            state: State::Delayed,
            lane: None,
            count: tasks.len() as u64 + more,
            why,
            until_ms: Some(first.until_ms),
            tasks: tasks.iter().take(NAMED).map(|task| task.id).collect(),
        })
    };
    [group(failed, more_failed), group(asked, unseen - more_failed)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(lane: &str, unfit: Option<(Class, Option<u64>)>, task: bool, draining: bool) -> Worker {
        Worker {
            id: "w".into(),
            slot: "h-1".into(),
            host: "h".into(),
            pid: 1,
            version: "0".into(),
            claude: None,
            lanes: vec![lane.into()],
            labels: vec![],
            account: Some("a".into()),
            unfit: unfit.map(|(class, until_ms)| Unfit { class, message: "no".into(), hint: None, until_ms }),
            draining,
            task: task.then(|| "t1".into()),
            silent_ms: 0,
            done: 0,
        }
    }

    #[test]
    fn a_lane_waits_for_its_turn_a_free_worker_a_fit_one_or_any() {
        let (auth, limit) = (Some((Class::Auth, None)), Some((Class::Limit, Some(9))));
        let cases: Vec<(Vec<Worker>, &str)> = vec![
            (vec![], "no_worker"),
            (vec![worker("b", None, false, false)], "no_worker"),
            (vec![worker("a", None, false, false), worker("a", auth, false, false)], "turn"),
            (vec![worker("a", None, true, false), worker("a", auth, false, false)], "busy"),
            (vec![worker("a", auth, false, false), worker("a", limit, false, false)], "limit"),
            (vec![worker("a", auth, false, false), worker("a", None, false, true)], "unfit"),
            (vec![worker("a", None, true, true)], "draining"),
        ];
        for (workers, expected) in cases {
            assert_eq!(of_lane("a", &workers).word(), expected, "{workers:?}");
        }
    }

    #[test]
    fn delays_that_were_asked_for_and_those_after_a_failure_are_told_apart() {
        let task = |id: &str, until_ms, failed: bool| Delayed {
            id: id.parse().unwrap(),
            until_ms,
            after: failed.then(|| (Some(Class::Transient), format!("{id} was overloaded"))),
        };
        let seen = vec![task("t3", 30, true), task("t1", 10, false), task("t2", 20, true), task("t4", 5, false)];
        let told = |groups: Vec<Waiting>| -> Vec<(u64, String, Option<u64>)> {
            groups.iter().map(|group| (group.count, group.why.word().to_owned(), group.until_ms)).collect()
        };
        let both = |asked| vec![(2, "back_off".to_owned(), Some(20)), (asked, "delay".to_owned(), Some(5))];
        assert_eq!(told(of_delayed(4, seen.clone())), both(2));
        assert_eq!(told(of_delayed(104, seen.clone())), both(102));
        assert_eq!(told(of_delayed(5, seen.clone())), both(2), "one has moved on");
        let failed = of_delayed(50, vec![task("t2", 20, true)]);
        assert!(matches!(&failed[0].why, Why::BackOff { message, .. } if message == "t2 was overloaded"));
        assert_eq!(told(failed), [(50, "back_off".to_owned(), Some(20))]);
        assert_eq!(of_delayed(0, vec![]), []);
    }
}
