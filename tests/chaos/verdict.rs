//! Reads the history afterwards: what was acknowledged, what each run wrote, the log of the pool, its records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use motorpool::domain::event::Event;
use motorpool::domain::state::Cause;
use motorpool::{State, TaskId, TaskRecord};
use tokio::time::Instant;

use super::orders::Acknowledged;
use super::watcher::RunOf;

/// Everything that is looked at.
pub(crate) struct History<'a> {
    /// What clients were told.
    pub(crate) acknowledged: &'a [Acknowledged],
    /// What there is.
    pub(crate) records: &'a HashMap<TaskId, TaskRecord>,
    /// The log.
    pub(crate) events: &'a [Event],
    /// Where the runs wrote.
    pub(crate) runs: &'a Path,
    /// Runs whose worker was killed, frozen or cut off.
    pub(crate) excused: &'a HashSet<RunOf>,
    /// Runs whose Claude was killed.
    pub(crate) failed: &'a HashSet<RunOf>,
    /// When Redis wrote what it has forgotten since: from, to.
    pub(crate) forgotten: &'a [(Instant, Instant)],
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Acknowledged, and not there or not done.
    pub(crate) lost: usize,
    /// With two results, or made twice.
    pub(crate) doubled: usize,
    /// Runs that began.
    pub(crate) runs: usize,
    /// Runs that counted as lost.
    pub(crate) lost_runs: usize,
    /// Runs that were handed back.
    pub(crate) given_back: usize,
    /// Runs that began while another one of the task was alive.
    pub(crate) overlaps: usize,
    /// What must not be, in words.
    pub(crate) wrong: Vec<String>,
}

/// What a task's runs wrote: `begin 1`, `overlap 2`, `end 2`.
fn written(runs: &Path, name: &str) -> BTreeMap<u64, Vec<String>> {
    let text = std::fs::read_to_string(runs.join(name)).unwrap_or_default();
    let mut lines: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let (word, run) = line.split_once(' ').unwrap_or_else(|| panic!("{name}: {line}"));
        lines.entry(run.parse().unwrap_or_else(|_| panic!("{name}: {line}"))).or_default().push(word.to_owned());
    }
    lines
}

/// Judges.
pub(crate) fn of(history: &History<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut events: HashMap<TaskId, Vec<&Event>> = HashMap::new();
    for event in history.events {
        events.entry(event.task).or_default().push(event);
    }
    let mut named: HashMap<TaskId, &str> = HashMap::new();
    for Acknowledged { order, id, between: (asked, told) } in history.acknowledged {
        let name = &order.name;
        if let Some(other) = named.insert(*id, name) {
            verdict.doubled += 1;
            verdict.wrong.push(format!("{id} was given to {name} and to {other}"));
        }
        let Some(record) = history.records.get(id) else {
            verdict.lost += 1;
            if !history.forgotten.iter().any(|(from, to)| from <= told && asked <= to) {
                verdict.wrong.push(format!("{id} ({name}) was acknowledged and is not known"));
            }
            continue;
        };
        let once = record.spec.as_ref().and_then(|spec| spec.options.once.as_deref());
        if once != Some(&format!("key-{name}")) {
            verdict.wrong.push(format!("{id} was acknowledged as {name} and is {once:?}"));
        }
    }
    // A submission that was not acknowledged may be there; one that was made twice may not.
    let mut made: HashMap<&str, TaskId> = HashMap::new();
    for (id, record) in history.records {
        let Some(once) = record.spec.as_ref().and_then(|spec| spec.options.once.as_deref()) else { continue };
        if let Some(other) = made.insert(once, *id) {
            verdict.doubled += 1;
            verdict.wrong.push(format!("{once} is {id} and {other}"));
        }
        let name = once.strip_prefix("key-").unwrap_or(once);
        judge(&mut verdict, history, record, name, events.get(id).map_or(&[][..], Vec::as_slice));
    }
    verdict
}

fn judge(verdict: &mut Verdict, history: &History<'_>, record: &TaskRecord, name: &str, events: &[&Event]) {
    let id = record.id;
    let is_whole = history.forgotten.is_empty();
    if record.state != State::Completed {
        verdict.lost += 1;
        verdict.wrong.push(format!("{id} ({name}) is {}: {:?} {:?}", record.state, record.reason, record.error));
    } else if record.output.as_deref() != Some(name) {
        verdict.wrong.push(format!("{id} ({name}) has the result {:?}", record.output));
    }
    let results = events.iter().filter(|event| event.cause == Cause::Complete).count();
    if results != 1 {
        verdict.doubled += results.saturating_sub(1);
        verdict.wrong.push(format!("{id} ({name}) has {results} accepted results"));
    }
    let numbers: Vec<u64> = record.runs.iter().map(|run| run.n).collect();
    if numbers != (1..=record.run).collect::<Vec<_>>() {
        verdict.wrong.push(format!("{id}: its runs are {numbers:?} of {}", record.run));
    }
    for event in events {
        let run = (id, event.run);
        match event.cause {
            Cause::Lost => {
                verdict.lost_runs += 1;
                if is_whole && !history.excused.contains(&run) {
                    verdict.wrong.push(format!("{id}: run {} was lost, and nothing was done to its worker", event.run));
                }
            }
            Cause::Retry if is_whole && !history.failed.contains(&run) => {
                let why = record.runs.iter().find(|one| one.n == event.run).map(|one| (one.class, one.message.clone()));
                verdict.wrong.push(format!("{id}: run {} failed, and nobody killed its Claude: {why:?}", event.run));
            }
            Cause::GiveBack => verdict.given_back += 1,
            _ => {}
        }
    }
    let lines = written(history.runs, name);
    verdict.runs += lines.len();
    for (run, words) in &lines {
        let count = |wanted: &str| words.iter().filter(|word| *word == wanted).count();
        verdict.overlaps += count("overlap");
        if *run > record.run && is_whole {
            verdict.wrong.push(format!("{id}: run {run} of {} wrote something", record.run));
        }
        if count("begin") > 1 && is_whole {
            verdict.wrong.push(format!("{id}: run {run} was begun by two workers"));
        }
    }
    let has_ended = lines.get(&record.run).is_some_and(|words| words.iter().any(|word| word == "end"));
    if record.state == State::Completed && !has_ended {
        verdict.wrong.push(format!("{id}: run {} is accepted and has not ended: {lines:?}", record.run));
    }
}
