//! Workers as the pool sees them: presence, fitness, and what a task waits for.

use super::attempt::Class;
use super::lane::Lane;

/// A worker's own word that it cannot work now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Whose fault: `auth`, `limit`, or `internal` (no CLI).
    pub class: Class,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Until when, where that is known: milliseconds since 1970.
    pub until_ms: Option<u64>,
}

/// A worker as its presence tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// One process start.
    pub id: String,
    /// The slot that it fills; empty where it is of a version that knows none.
    pub slot: String,
    /// The machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// The CLI's version, where one was found.
    pub claude: Option<String>,
    /// The lanes it serves, in its order.
    pub lanes: Vec<String>,
    /// What it has, as tasks may need it.
    pub labels: Vec<String>,
    /// Whose account its Claude uses, as a hash, where that can be told.
    pub account: Option<String>,
    /// Why it claims nothing, where it does not.
    pub unfit: Option<Unfit>,
    /// Finishes what it has and claims no more.
    pub draining: bool,
    /// The task it runs.
    pub task: Option<String>,
    /// Milliseconds since it was last heard.
    pub silent_ms: u64,
    /// Tasks it finished.
    pub done: u64,
}

impl Worker {
    /// Whether it could take a task of this lane, now or when it is free.
    #[must_use]
    pub fn serves(&self, lane: &str) -> bool {
        !self.draining && Lane::parse(lane).is_served_by(&self.lanes, &self.labels)
    }
}

/// What a task that can start waits for, judged by the workers that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A worker serves its lane and is fit: its turn will come.
    Turn,
    /// No live worker serves its lane.
    Worker,
    /// Every live worker that serves its lane is unfit; the one that is fit again first, or the first.
    Fitness(Unfit),
}

/// See [`WaitsFor`].
#[must_use]
pub fn waits_for(lane: &str, workers: &[Worker]) -> WaitsFor {
    let mut unfit: Vec<&Unfit> = Vec::new();
    for worker in workers.iter().filter(|worker| worker.serves(lane)) {
        match &worker.unfit {
            None => return WaitsFor::Turn,
            Some(why) => unfit.push(why),
        }
    }
    match unfit.into_iter().min_by_key(|why| why.until_ms.unwrap_or(u64::MAX)) {
        Some(why) => WaitsFor::Fitness(why.clone()),
        None => WaitsFor::Worker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(lane: &str, unfit: Option<Class>) -> Worker {
        Worker {
            id: "w".into(),
            slot: "h-1".into(),
            host: "h".into(),
            pid: 1,
            version: "0".into(),
            claude: None,
            lanes: vec![lane.into()],
            labels: vec![],
            account: None,
            unfit: unfit.map(|class| Unfit { class, message: "no".into(), hint: None, until_ms: None }),
            draining: false,
            task: None,
            silent_ms: 0,
            done: 0,
        }
    }

    #[test]
    fn a_task_waits_for_a_worker_a_fit_one_or_its_turn() {
        assert_eq!(waits_for("a", &[]), WaitsFor::Worker);
        assert_eq!(waits_for("a", &[worker("b", None)]), WaitsFor::Worker);
        let unfit = worker("a", Some(Class::Auth));
        assert!(matches!(waits_for("a", &[unfit.clone(), worker("b", None)]), WaitsFor::Fitness(_)));
        assert_eq!(waits_for("a", &[unfit, worker("a", None)]), WaitsFor::Turn);
    }
}
