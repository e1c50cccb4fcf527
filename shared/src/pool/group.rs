//! Chains and fan-outs: submitting them, and how they stand.

use std::time::Duration;

use tokio::time::Instant;

use super::Pool;
use crate::domain::batch::{FanOut, Item};
use crate::domain::chain::{Chain, Node, Ref};
use crate::domain::group::{self, Group};
use crate::domain::ids::{GroupId, GroupKind, Id, TaskId};
use crate::domain::state::State;
use crate::domain::task::{Record, Spec};
use crate::error::{Error, Result};
use crate::store::listing::Filter;
use crate::store::submission::Submission;
use crate::store::task;

/// Chains or batches that are looked at in one go.
const PAGE: usize = 100;
/// How often all members of a whole are looked at while it is waited for.
const LOOK_AT_ALL: Duration = Duration::from_secs(2);

/// A chain or batch that was submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct SubmittedGroup {
    /// Its id.
    pub id: GroupId,
    /// It was made now; else its key (`once`) had made it before.
    pub fresh: bool,
    /// Its members, in order: steps, or items and what collects them.
    pub members: Vec<Id>,
}

/// A chain or batch with its members as they stand, without prompts and outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupView {
    /// What is known of itself.
    pub group: Group,
    /// Its state, as far as its members have come.
    pub state: State,
    /// Its members, in order; those that are gone are left out.
    pub members: Vec<Member>,
}

/// A member of a chain or batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// A step, or an item that is a task.
    Task(Box<Record>),
    /// An item that is a chain.
    Group(Box<GroupView>),
}

impl Member {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> Id {
        match self {
            Self::Task(record) => record.id.into(),
            Self::Group(view) => view.group.id.into(),
        }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Task(record) => record.state,
            Self::Group(view) => view.state,
        }
    }

    /// The cost of all its runs in microdollars.
    #[must_use]
    pub fn cost_microusd(&self) -> u64 {
        match self {
            Self::Task(record) => record.cost_microusd,
            Self::Group(view) => view.cost_microusd(),
        }
    }

    /// The task whose output is its own: itself, or a chain's last step that succeeded.
    #[must_use]
    pub fn result(&self) -> Option<&Record> {
        match self {
            Self::Task(record) => Some(record),
            Self::Group(view) => view.last_done(),
        }
    }
}

impl GroupView {
    /// The cost of all its members' runs in microdollars.
    #[must_use]
    pub fn cost_microusd(&self) -> u64 {
        self.members.iter().map(Member::cost_microusd).sum()
    }

    /// The tasks that it comes down to, in order.
    pub fn tasks(&self) -> impl Iterator<Item = &Record> {
        let mut tasks = Vec::new();
        for member in &self.members {
            match member {
                Member::Task(record) => tasks.push(record.as_ref()),
                Member::Group(view) => tasks.extend(view.tasks()),
            }
        }
        tasks.into_iter()
    }

    /// The last of its tasks that succeeded: of a chain that completed, the one whose output is the chain's.
    #[must_use]
    pub fn last_done(&self) -> Option<&Record> {
        self.tasks().filter(|record| record.state == State::Completed).last()
    }

    /// The first of its tasks that failed.
    #[must_use]
    pub fn first_failed(&self) -> Option<&Record> {
        self.tasks().find(|record| record.state == State::Failed)
    }

    /// What a member is called: a step by its name, an item by its number.
    #[must_use]
    pub fn name_of(&self, at: usize) -> String {
        let collects = self.group.spec.collects && at + 1 == self.group.members.len();
        match self.group.spec.names.get(at) {
            Some(name) => name.clone(),
            None if collects => "collect".to_owned(),
            None => format!("item {}", at + 1),
        }
    }
}

/// Anything that can be waited for, as it stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// A task, with its texts.
    Task(Box<Record>),
    /// A chain or batch.
    Group(Box<GroupView>),
}

impl Known {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> Id {
        match self {
            Self::Task(record) => record.id.into(),
            Self::Group(view) => view.group.id.into(),
        }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Task(record) => record.state,
            Self::Group(view) => view.state,
        }
    }
}

impl Pool {
    /// Submits a chain: its steps run one after the other, each when the one before has succeeded, whoever lives then.
    ///
    /// # Errors
    /// Refused with nothing written: a place in a prompt names nothing, a bound is passed, the pool is full.
    pub async fn submit_chain(&self, chain: Chain) -> Result<SubmittedGroup> {
        self.submit_nodes(chain.nodes()?).await
    }

    /// Submits independent tasks and chains under one batch.
    ///
    /// # Errors
    /// As [`Pool::submit_chain`], with the number of the item.
    pub async fn fan_out(&self, fan_out: FanOut) -> Result<SubmittedGroup> {
        self.submit_nodes(fan_out.nodes()?).await
    }

    pub(super) async fn submit_nodes(&self, mut nodes: Vec<Node>) -> Result<SubmittedGroup> {
        self.place_beside_sessions(&mut nodes).await?;
        let submission = Submission::of(&nodes)?;
        let kept = self.patiently(|| self.store().keeps_every_write()).await?;
        let made = if submission.is_one_call() {
            let call = submission.call(&Self::pool_id_if_none(), self.lease_ms(), kept)?;
            task::submitted_all(&self.ask(&call).await?)?
        } else {
            self.submit_in_parts(&submission, kept).await?
        };
        let Some((Id::Group(id), fresh)) = made.last().copied() else {
            return Err(Error::refused("the key (once) of this submission is a task's").hint("give it another key"));
        };
        let members = match nodes.last() {
            Some(Node::Group { .. }) if !fresh => self.group(id).await?.members,
            Some(Node::Group { members, .. }) => {
                let known = |one: &Ref| match one {
                    Ref::Known(id) => Some(*id),
                    Ref::Here(place) => made.get(*place).map(|(id, _)| *id),
                };
                members.iter().filter_map(known).collect()
            }
            _ => Vec::new(),
        };
        Ok(SubmittedGroup { id, fresh, members })
    }

    /// What one call does not take goes in several, and begins with the last one.
    async fn submit_in_parts(&self, submission: &Submission, kept: bool) -> Result<Vec<(Id, bool)>> {
        // Made before, it is there as a whole.
        if let Some(key) = submission.key()
            && let Some(id) = self.patiently(|| self.store().made_by(key)).await?
            && self.state_of(id).await?.is_some()
        {
            return Ok(vec![(id, false)]);
        }
        let opening = submission.opening(&Self::pool_id_if_none(), self.lease_ms(), kept);
        let (gate, mut ids) = submission.opened(&self.ask(&opening).await?)?;
        let mut made: Vec<(Id, bool)> = Vec::new();
        for part in submission.parts() {
            let call = submission.part(part.clone(), &ids, &gate, kept);
            let answered = match self.ask(&call).await {
                Ok(reply) => task::submitted_part(&reply, &gate, part.len()),
                Err(error) => Err(error),
            };
            let part_ids = match answered {
                Ok(part_ids) => part_ids,
                Err(error) => {
                    // What came before it never begins; where this is not heard, it goes by itself after ten minutes.
                    if let Err(unheard) = self.ask(&task::abandonment(&gate)).await {
                        tracing::debug!(error = %unheard, gate, "the parts that came are not given up yet");
                    }
                    return Err(error);
                }
            };
            for (place, (id, _)) in part.zip(&part_ids) {
                ids[place] = Some(*id);
            }
            made.extend(part_ids);
        }
        Ok(made)
    }

    /// What is known of a chain or batch itself.
    ///
    /// # Errors
    /// An id that nobody knows.
    pub async fn group(&self, id: GroupId) -> Result<Group> {
        let found = self.patiently(move || self.store().group(id)).await?;
        found.ok_or_else(|| super::unknown(id))
    }

    /// A chain or batch, and how its members stand.
    ///
    /// # Errors
    /// An id that nobody knows.
    pub async fn group_view(&self, id: GroupId) -> Result<GroupView> {
        let group = self.group(id).await?;
        self.view_of(group).await
    }

    pub(super) async fn view_of(&self, group: Group) -> Result<GroupView> {
        let ids: Vec<TaskId> =
            group.members.iter().filter_map(|id| if let Id::Task(id) = id { Some(*id) } else { None }).collect();
        let mut tasks = std::collections::BTreeMap::new();
        for page in ids.chunks(500) {
            let records = self.patiently(move || self.store().tasks_short(page)).await?;
            tasks.extend(records.into_iter().map(|record| (record.id, record)));
        }
        let mut members = Vec::new();
        for id in &group.members {
            match id {
                Id::Task(id) => members.extend(tasks.remove(id).map(|record| Member::Task(Box::new(record)))),
                Id::Group(id) => {
                    let id = *id;
                    if let Some(inner) = self.patiently(move || self.store().group(id)).await? {
                        members.push(Member::Group(Box::new(Box::pin(self.view_of(inner)).await?)));
                    }
                }
            }
        }
        let states: Vec<State> = members.iter().map(Member::state).collect();
        let state = group::standing(group.state, group.id.kind, group.spec.collects, &states);
        Ok(GroupView { state, group, members })
    }

    /// Anything by its id.
    ///
    /// # Errors
    /// An id that nobody knows.
    pub async fn known(&self, id: Id) -> Result<Known> {
        match id {
            Id::Task(id) => Ok(Known::Task(Box::new(self.task(id).await?))),
            Id::Group(id) => Ok(Known::Group(Box::new(self.group_view(id).await?))),
        }
    }

    /// How anything stands; nothing if there is none of this id.
    pub async fn state_of(&self, id: Id) -> Result<Option<State>> {
        match id {
            Id::Task(_) => Ok(self.patiently(move || self.store().glance(id)).await?.map(|(state, ..)| state)),
            Id::Group(id) => match self.patiently(move || self.store().group(id)).await? {
                Some(group) => Ok(Some(self.view_of(group).await?.state)),
                None => Ok(None),
            },
        }
    }

    /// Waits until something is over or up for review, or until a deadline; gives what is known of it then.
    ///
    /// # Errors
    /// An id that nobody knows.
    pub async fn wait_for(&self, id: impl Into<Id>, until: Option<Instant>) -> Result<Known> {
        let id = id.into();
        match id {
            Id::Task(id) => Ok(Known::Task(Box::new(self.wait(id, until).await?))),
            Id::Group(group) => {
                let mut watch = self.watch(id).await;
                // Its members are many, and events are more: they are all looked at only now and then.
                let mut looked: Option<Instant> = None;
                loop {
                    let is_over = watch.look().await?.state.is_terminal();
                    let is_late = until.is_some_and(|until| Instant::now() >= until);
                    if is_over || is_late || looked.is_none_or(|looked| looked.elapsed() >= LOOK_AT_ALL) {
                        let view = self.group_view(group).await?;
                        if is_late || !view.state.is_unfinished() {
                            return Ok(Known::Group(Box::new(view)));
                        }
                        looked = Some(Instant::now());
                    }
                    watch.news(until.unwrap_or_else(|| Instant::now() + self.look_anyway())).await;
                }
            }
        }
    }

    /// Chains or batches that a filter lets through, newest first, below a number (the filter's cursor is of tasks),
    /// so many at most.
    pub async fn groups(
        &self,
        kind: GroupKind,
        mut below: Option<u64>,
        count: usize,
        filter: &Filter,
    ) -> Result<Vec<GroupView>> {
        let is_wanted = |group: &Group| filter.names(&group.tags, group.coordinator.as_ref());
        let mut views = Vec::new();
        while views.len() < count {
            let page = (count - views.len()).min(PAGE);
            let ids = self.patiently(move || self.store().groups(kind, below, page)).await?;
            let Some(last) = ids.last() else { break };
            below = Some(last.number);
            for id in ids {
                let Some(group) = self.patiently(move || self.store().group(id)).await?.filter(is_wanted) else {
                    continue;
                };
                let view = self.view_of(group).await?;
                if filter.takes(view.state) {
                    views.push(view);
                }
            }
        }
        Ok(views)
    }
}

impl From<Spec> for Item {
    fn from(spec: Spec) -> Self {
        Self::Task(spec)
    }
}
