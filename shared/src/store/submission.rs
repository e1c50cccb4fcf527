//! Submissions: what is to be made, as the rows of one call, or of several that are opened by the last.
//!
//! Not here: what is asked for and in which order it stands (`domain/chain.rs`).

use std::ops::Range;

use uuid::Uuid;

use super::script::{Call, Reply};
use crate::domain::chain::{Node, Ref};
use crate::domain::ids::{GroupId, Id};
use crate::domain::limits;
use crate::domain::options::{AfterFailure, Priority};
use crate::domain::retry;
use crate::domain::task::Spec;
use crate::error::{Error, Result};

/// Attempts where nobody says how many.
pub(crate) const ATTEMPTS: u32 = 3;

/// One thing that is to be made.
#[derive(Clone, Debug)]
struct Row {
    key: String,
    /// From the spec to the title, as the script has them.
    fields: Vec<String>,
    follows: Vec<Ref>,
    after_failure: &'static str,
    kind: &'static str,
    group: Option<usize>,
}

/// What is to be made, in the order of its ids.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    rows: Vec<Row>,
}

/// A call that makes these tasks.
#[cfg(test)]
pub(crate) fn submission(specs: &[Spec], pool_id: &str, lease_ms: u64, kept: bool) -> Result<Call> {
    let nodes: Vec<Node> = specs.iter().map(|spec| Node::task(spec.clone())).collect();
    Submission::of(&nodes)?.call(pool_id, lease_ms, kept)
}

/// A call that makes these: may be repeated, since each carries its key. Refuses what is too much for one.
#[cfg(test)]
pub(crate) fn submission_of(nodes: &[Node], pool_id: &str, lease_ms: u64) -> Result<Call> {
    Submission::of(nodes)?.call(pool_id, lease_ms, true)
}

/// `kept`: this Redis forgets no write that it has answered.
fn head(pool_id: &str, lease_ms: u64, kept: bool, count: usize) -> Call {
    Call::new("submit")
        .arg(pool_id)
        .number(lease_ms)
        .number(limits::MAX_PENDING)
        .arg(Uuid::new_v4().simple().to_string())
        .number(u64::from(kept))
        .number(count as u64)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::failed(format!("what is submitted cannot be written as JSON: {error}")))
}

fn lines<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join("\n")
}

fn task_row(key: String, spec: &Spec, follows: &[Ref], group: Option<usize>) -> Result<Row> {
    limits::check_prompt(&spec.prompt)?;
    spec.options.check()?;
    let options = &spec.options;
    let attempts = options.max_attempts.unwrap_or(ATTEMPTS).clamp(1, limits::MAX_ATTEMPTS);
    // Failures of the work are not among those that a task may ask for, and count as attempts.
    let tries = spec.step.as_ref().map_or(0, |step| step.retries + u32::from(step.recovery_prompt.is_some()));
    let fields = vec![
        json(spec)?,
        spec.lane().to_string(),
        options.priority.unwrap_or(Priority::Normal).word().to_owned(),
        (attempts + tries).to_string(),
        retry::if_lost(attempts + tries),
        options.coordinator.clone().unwrap_or_default(),
        lines(&options.tags),
        (options.delay_s.unwrap_or(0) * 1000).to_string(),
        (options.queue_timeout_s.unwrap_or(0) * 1000).to_string(),
        spec.title(),
    ];
    let follows = options.after.iter().map(|id| Ref::Known(*id)).chain(follows.iter().copied()).collect();
    // What gathers begins however they ended, unless there is nothing to gather.
    let after_failure =
        if spec.collects { "gather" } else { options.after_failure.unwrap_or(AfterFailure::Cancel).word() };
    Ok(Row { key, fields, follows, after_failure, kind: "task", group })
}

impl Submission {
    /// Refuses what is wrong in itself.
    pub(crate) fn of(nodes: &[Node]) -> Result<Self> {
        let mut rows = Vec::new();
        for (node, key) in nodes.iter().zip(keys_of(nodes)) {
            rows.push(match node {
                Node::Task { spec, follows, group } => task_row(key, spec, follows, *group)?,
                Node::Group { kind, spec, options, title, members, group } => {
                    let mut fields = vec![String::new(); 10];
                    fields[0] = json(spec)?;
                    fields[5] = options.coordinator.clone().unwrap_or_default();
                    fields[6] = lines(&options.tags);
                    fields[9].clone_from(title);
                    let follows = members.clone();
                    Row { key, fields, follows, after_failure: "", kind: kind.word(), group: *group }
                }
            });
        }
        let submission = Self { rows };
        let bytes = submission.bytes(0..submission.rows.len());
        if bytes > limits::SUBMISSION_BYTES {
            return Err(Error::usage(format!("the submission has {bytes} bytes"))
                .hint(format!("at most {} are taken; put material into files", limits::SUBMISSION_BYTES)));
        }
        Ok(submission)
    }

    fn bytes(&self, range: Range<usize>) -> usize {
        self.rows[range].iter().map(|row| row.fields[0].len()).sum()
    }

    fn fits(&self, range: Range<usize>) -> bool {
        let rows = &self.rows[range.clone()];
        let tasks = rows.iter().filter(|row| row.kind == "task").count();
        let followed: usize = rows.iter().map(|row| row.follows.len()).sum();
        tasks <= limits::CALL_RECORDS
            && followed <= limits::CALL_FOLLOWED
            && (tasks <= 1 || self.bytes(range) <= limits::CALL_BYTES)
    }

    /// Whether one call makes it all.
    pub(crate) fn is_one_call(&self) -> bool {
        self.fits(0..self.rows.len())
    }

    /// The call that makes it all. Refuses what is too much for one.
    pub(crate) fn call(&self, pool_id: &str, lease_ms: u64, kept: bool) -> Result<Call> {
        if !self.is_one_call() {
            let followed: usize = self.rows.iter().map(|row| row.follows.len()).sum();
            let (tasks, bytes) = (self.rows.len(), self.bytes(0..self.rows.len()));
            return Err(Error::usage(format!(
                "{tasks} tasks of {bytes} bytes that follow {followed} others are too much for one call"
            ))
            .hint(format!(
                "submit them in parts: at most {} tasks, {} bytes and {} that are followed are taken",
                limits::CALL_RECORDS,
                limits::CALL_BYTES,
                limits::CALL_FOLLOWED
            )));
        }
        let group = |place: usize| format!("@{place}");
        let call = head(pool_id, lease_ms, kept, self.rows.len());
        Ok(self.rows.iter().fold(call, |call, row| {
            let group = row.group.map(group).unwrap_or_default();
            add(call, row, lines(&row.follows), group)
        }))
    }

    /// The key of the whole, where it is of a chain or batch.
    pub(crate) fn key(&self) -> Option<&str> {
        self.rows.last().filter(|row| row.kind != "task").map(|row| row.key.as_str())
    }

    fn groups(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.rows.iter().enumerate().filter(|(_, row)| row.kind != "task")
    }

    /// The call before the parts: it makes what they wait for, and reserves the ids of chains and batches.
    pub(crate) fn opening(&self, pool_id: &str, lease_ms: u64, kept: bool) -> Call {
        let groups: Vec<&Row> = self.groups().map(|(_, row)| row).collect();
        let key = format!("{}\topening", self.key().unwrap_or_default());
        let call = head(pool_id, lease_ms, kept, groups.len() + 1);
        let call = add(call, &bare(key, "opening"), String::new(), String::new());
        groups.into_iter().fold(call, |call, row| {
            let reserved = bare(row.key.clone(), row.kind);
            add(call, &reserved, String::new(), String::new())
        })
    }

    /// What the opening answered: its own id, and those of the chains and batches by their places.
    pub(crate) fn opened(&self, reply: &Reply) -> Result<(String, Vec<Option<Id>>)> {
        if reply.word() != "ok" {
            return Err(reply.unexpected());
        }
        let mut ids = vec![None; self.rows.len()];
        for (n, (place, _)) in self.groups().enumerate() {
            let id: GroupId = reply.text(3 + 2 * n).parse()?;
            ids[place] = Some(id.into());
        }
        Ok((reply.text(1).to_owned(), ids))
    }

    /// The parts, each as much as one call takes.
    pub(crate) fn parts(&self) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut begin = 0;
        for end in 1..=self.rows.len() {
            if end > begin + 1 && !self.fits(begin..end) {
                parts.push(begin..end - 1);
                begin = end - 1;
            }
        }
        parts.push(begin..self.rows.len());
        parts
    }

    /// The call that makes a part; the last one opens what waits. `ids` are of what was made before, and of groups.
    pub(crate) fn part(&self, range: Range<usize>, ids: &[Option<Id>], gate: &str, kept: bool) -> Call {
        let is_last = range.end == self.rows.len();
        let call = head("", 0, kept, range.len() + usize::from(is_last));
        let named = |one: &Ref| match one {
            Ref::Here(place) if range.contains(place) => format!("@{}", place - range.start),
            Ref::Here(place) => ids.get(*place).copied().flatten().map(|id| id.to_string()).unwrap_or_default(),
            Ref::Known(id) => id.to_string(),
        };
        let call = self.rows[range.clone()].iter().fold(call, |call, row| {
            let mut row = row.clone();
            if row.kind == "task" {
                // Of this opening: where that is given up, the key stands for nothing.
                row.key = format!("{gate}\t{}", row.key);
            }
            let mut follows: Vec<String> = row.follows.iter().map(named).collect();
            let waits_here = row.follows.iter().any(|one| matches!(one, Ref::Here(_)));
            if row.kind == "task" && !waits_here {
                follows.push(gate.to_owned());
            }
            let group = row.group.map(|place| named(&Ref::Here(place))).unwrap_or_default();
            add(call, &row, follows.join("\n"), group)
        });
        if is_last { add(call, &bare(format!("{gate}\topen"), "open"), gate.to_owned(), String::new()) } else { call }
    }
}

/// One without a spec.
fn bare(key: String, kind: &'static str) -> Row {
    Row { key, fields: vec![String::new(); 10], follows: Vec::new(), after_failure: "", kind, group: None }
}

fn add(call: Call, row: &Row, follows: String, group: String) -> Call {
    call.arg(&row.key).args(&row.fields).arg(follows).arg(row.after_failure).arg(row.kind).arg(group)
}

/// The keys by which a submission that is repeated is known. A caller's own holds no control character.
fn keys_of(nodes: &[Node]) -> Vec<String> {
    let of_whole = match nodes.last() {
        Some(Node::Group { options, spec, .. }) => Some(match (&options.once, spec.retry_of) {
            (Some(once), _) => once.clone(),
            (None, Some(id)) => format!("retry\t{id}"),
            (None, None) => format!("auto-{}", Uuid::new_v4()),
        }),
        _ => None,
    };
    let last = nodes.len().saturating_sub(1);
    let key = |(at, node): (usize, &Node)| match (node, &of_whole) {
        (_, Some(whole)) if at == last => whole.clone(),
        (_, Some(whole)) => format!("{whole}\t{at}"),
        (Node::Task { spec, .. }, None) => match (&spec.options.once, spec.retry_of) {
            (Some(once), _) => once.clone(),
            (None, Some(id)) => format!("retry\t{id}"),
            (None, None) => format!("auto-{}", Uuid::new_v4()),
        },
        (Node::Group { .. }, None) => format!("auto-{}", Uuid::new_v4()),
    };
    nodes.iter().enumerate().map(key).collect()
}
