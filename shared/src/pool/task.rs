//! Submitting, cancelling and reading tasks.

use std::collections::HashMap;

use super::group::Known;
use super::{Pool, unknown};
use crate::domain::chain::Node;
use crate::domain::ids::{Id, TaskId};
use crate::domain::lane;
use crate::domain::limits;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::{Record, Spec};
use crate::error::{Error, Result};
use crate::store::listing::Filter;
use crate::store::submission::Submission;
use crate::store::task;

/// A task that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub id: TaskId,
    /// It was made now; else its key (`once`) had made it before.
    pub fresh: bool,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The tasks, newest first, without prompts and outputs.
    pub items: Vec<Record>,
    /// Where the next page begins; nothing if this was the last.
    pub cursor: Option<TaskId>,
}

/// The session that a task is to go on with.
enum Session {
    /// Whoever has it is not over.
    ToCome,
    /// On the machines with this label.
    On(String),
}

impl Session {
    fn place(&self, options: &mut TaskOptions, id: Id) {
        match self {
            Self::ToCome if !options.after.contains(&id) => options.after.push(id),
            Self::On(label) if !options.needs.contains(label) => options.needs.push(label.clone()),
            Self::ToCome | Self::On(_) => {}
        }
    }
}

impl Pool {
    /// Submits a task.
    ///
    /// # Errors
    /// Refused with nothing written: a bound is passed, the pool is full or out of memory.
    pub async fn submit(&self, mut spec: Spec) -> Result<Submitted> {
        self.place_beside_session(&mut spec).await?;
        let mut submitted = self.submit_all(vec![spec]).await?;
        submitted.pop().ok_or_else(|| Error::failed("the pool gave no id for the task"))
    }

    /// A task that goes on with another one's session follows that, and runs on the machine where the session is, where
    /// that is known by now.
    async fn place_beside_session(&self, spec: &mut Spec) -> Result<()> {
        if let Some(id) = spec.options.continue_from {
            self.session_of(id).await?.place(&mut spec.options, id);
        }
        Ok(())
    }

    /// The same for each task of a chain or batch.
    pub(super) async fn place_beside_sessions(&self, nodes: &mut [Node]) -> Result<()> {
        let mut known: HashMap<Id, Session> = HashMap::new();
        for node in nodes {
            let Node::Task { spec, .. } = node else { continue };
            let Some(id) = spec.options.continue_from else { continue };
            let session = match known.remove(&id) {
                Some(session) => session,
                None => self.session_of(id).await?,
            };
            session.place(&mut spec.options, id);
            known.insert(id, session);
        }
        Ok(())
    }

    async fn session_of(&self, id: Id) -> Result<Session> {
        let known = self.known(id).await?;
        if known.state().is_unfinished() {
            return Ok(Session::ToCome);
        }
        let runs = match known {
            Known::Task(record) => record.runs,
            Known::Group(view) => match view.last_done().map(|record| record.id) {
                Some(last) => self.task(last).await?.runs,
                None => Vec::new(),
            },
        };
        match runs.into_iter().rev().find(|run| run.session_id.is_some()) {
            Some(run) => Ok(Session::On(lane::as_label("host", &run.host))),
            None => Err(Error::refused(format!("{id} has no session to continue"))
                .hint("only what Claude has begun to work on has one")),
        }
    }

    /// Submits tasks in order, up to 1,000 and 16 MiB.
    ///
    /// # Errors
    /// As [`Pool::submit`]; beyond 2 MiB of text the tasks go in several calls, and an error may come after the first.
    pub async fn submit_all(&self, mut specs: Vec<Spec>) -> Result<Vec<Submitted>> {
        let size = |spec: &Spec| serde_json::to_string(spec).map_or(0, |text| text.len());
        let bytes: usize = specs.iter().map(size).sum();
        if bytes > limits::SUBMISSION_BYTES || specs.len() > limits::CALL_RECORDS {
            return Err(Error::usage(format!(
                "{} tasks of {bytes} bytes are too much for one submission",
                specs.len()
            ))
            .hint(format!(
                "at most {} tasks and {} bytes are taken",
                limits::CALL_RECORDS,
                limits::SUBMISSION_BYTES
            )));
        }
        for spec in &specs {
            limits::check_prompt(&spec.prompt)?;
            spec.options.check()?;
        }
        let mut submitted = Vec::new();
        while !specs.is_empty() {
            let mut part_bytes = 0;
            let fits = specs.iter().take_while(|spec| {
                part_bytes += size(spec);
                part_bytes <= limits::CALL_BYTES
            });
            let rest = specs.split_off(fits.count().max(1));
            let nodes: Vec<Node> = specs.iter().map(|spec| Node::task(spec.clone())).collect();
            let kept = self.patiently(|| self.store().keeps_every_write()).await?;
            let call = Submission::of(&nodes)?.call(&Self::pool_id_if_none(), self.lease_ms(), kept)?;
            let ids = task::submitted(&self.ask(&call).await?)?;
            submitted.extend(ids.into_iter().map(|(id, fresh)| Submitted { id, fresh }));
            specs = rest;
        }
        Ok(submitted)
    }

    /// Stops a task, or every task of a chain or batch: one that does not run is over at once; the worker of one that
    /// runs is asked, and `running` is the answer until it is proved gone. A task that is over stays as it is.
    ///
    /// # Errors
    /// An id that nobody knows.
    pub async fn cancel(&self, id: impl Into<Id>, reason: &str) -> Result<State> {
        let reason = limits::cut_middle(reason, limits::KEY_BYTES);
        task::cancelled(&self.ask(&task::cancellation_of(id.into(), &reason)).await?)
    }

    /// All that is known of a task.
    ///
    /// # Errors
    /// An id that nobody knows.
    pub async fn task(&self, id: TaskId) -> Result<Record> {
        self.find(id).await?.ok_or_else(|| unknown(id))
    }

    /// All that is known of a task; nothing if there is none of this id.
    pub async fn find(&self, id: TaskId) -> Result<Option<Record>> {
        self.patiently(move || self.store().task(id)).await
    }

    /// What is known of a task but its texts; nothing if there is none of this id.
    pub async fn find_short(&self, id: TaskId) -> Result<Option<Record>> {
        let found = self.patiently(|| async move { self.store().tasks_short(&[id]).await }).await?;
        Ok(found.into_iter().next())
    }

    /// Whether a coordinator has work that is not over.
    pub async fn has_unfinished(&self, coordinator: &str) -> Result<bool> {
        let states: Vec<State> = State::ALL.iter().copied().filter(|state| state.is_unfinished()).collect();
        self.patiently(|| self.store().has_any(coordinator, &states)).await
    }

    /// A page of tasks, newest first.
    pub async fn list(&self, filter: &Filter, count: usize) -> Result<Page> {
        let mut filter = filter.clone();
        let mut items = Vec::new();
        loop {
            let wanted = &filter;
            let ids = self.patiently(move || self.store().listed(wanted, count + 1)).await?;
            let last = ids.len() <= count;
            filter.before = ids.last().copied();
            let ids = &ids;
            let records = self.patiently(move || self.store().tasks_short(ids)).await?;
            // An index names one thing; the rest of the filter is looked up in the records.
            let is_wanted =
                |record: &Record| filter.takes(record.state) && filter.names(&record.tags, record.coordinator.as_ref());
            items.extend(records.into_iter().filter(is_wanted));
            if items.len() > count || last {
                break;
            }
        }
        let more = items.len() > count;
        items.truncate(count);
        let cursor = items.last().filter(|_| more).map(|record| record.id);
        Ok(Page { items, cursor })
    }

    /// How many tasks the pool still has something to do for.
    pub async fn unfinished(&self) -> Result<u64> {
        let states: Vec<State> = State::ALL.iter().copied().filter(|state| state.is_unfinished()).collect();
        Ok(self.patiently(|| self.store().count(&states)).await?.into_iter().sum())
    }
}
