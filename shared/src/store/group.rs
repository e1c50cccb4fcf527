//! Chains and batches: their hashes, and the [`Group`]s that are read from them.

use std::collections::{BTreeMap, HashMap};

use super::Store;
use super::doctor::{Findings, Seen};
use super::script::{CallError, sort_error};
use crate::domain::group::Group;
use crate::domain::ids::{GroupId, GroupKind, Id, TaskId};
use crate::domain::state::State;
use crate::error::{Error, Result};

fn read(id: GroupId, fields: &HashMap<String, String>) -> Result<Option<Group>> {
    let text = |name: &str| fields.get(name).filter(|value| !value.is_empty()).cloned();
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    let Some(state) = text("state") else { return Ok(None) };
    let strange = |what: &str| {
        Error::failed(format!("{what} of {id} cannot be read"))
            .hint("use the version of Motorpool that wrote it; `motorpool doctor`")
    };
    let spec = text("spec").ok_or_else(|| strange("what was asked"))?;
    let members = text("members").unwrap_or_default();
    Ok(Some(Group {
        id,
        state: state.parse().map_err(|_| strange("the state"))?,
        title: text("title").unwrap_or_default(),
        spec: serde_json::from_str(&spec).map_err(|_| strange("what was asked"))?,
        coordinator: text("coordinator"),
        tags: text("tags").map(|tags| tags.lines().map(str::to_owned).collect()).unwrap_or_default(),
        members: members.lines().map(str::parse).collect::<Result<_>>().map_err(|_| strange("a member"))?,
        batch: text("group").and_then(|id| id.parse().ok()),
        reason: text("reason"),
        created_ms: number("created").unwrap_or(0),
        ended_ms: number("ended"),
        news: number("news"),
        offered: number("offered"),
    }))
}

impl Store {
    /// A chain or batch; nothing if there is none.
    pub(crate) async fn group(&self, id: GroupId) -> Result<Option<Group>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let mut all = redis::cmd("HGETALL");
        let fields: HashMap<String, String> =
            all.arg(self.keys.group(id)).query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        read(id, &fields).map_err(CallError::Refused)
    }

    pub(super) async fn all_groups(&self) -> Result<BTreeMap<GroupId, Group>, CallError> {
        let mut groups = BTreeMap::new();
        for kind in [GroupKind::Chain, GroupKind::Batch] {
            for id in self.members(&self.keys.groups(kind)).await? {
                let Ok(id) = id.parse() else { continue };
                groups.extend(self.group(id).await?.map(|group| (id, group)));
            }
        }
        Ok(groups)
    }

    /// A chain or batch waits for those of its members that are not over, and ends as they did; no step began before
    /// the one before it had succeeded.
    pub(super) async fn look_at_groups(&self, seen: &Seen, findings: &mut Findings) -> Result<(), CallError> {
        let todo = self.members(&self.keys.todo()).await?;
        for (id, group) in &seen.groups {
            let states: Vec<Option<State>> = group.members.iter().map(|member| seen.state(*member)).collect();
            let is_open = |state: &&Option<State>| state.is_some_and(|state| !state.is_terminal());
            let is_waited_for = states.iter().any(|state| is_open(&state));
            let is_on_its_way = group.members.iter().any(|member| todo.contains(&format!("release:{member}")));
            if group.state.is_terminal() == is_waited_for && !is_on_its_way {
                findings.broken.push(format!("I11: {id} is {} and its members are {states:?}", group.state));
            }
            let all_there: Vec<State> = states.iter().flatten().copied().collect();
            if group.state.is_terminal() && all_there.len() == states.len() {
                let expected = if all_there.contains(&State::Failed) {
                    State::Failed
                } else if all_there.iter().all(|state| *state == State::Completed) {
                    State::Completed
                } else {
                    State::Cancelled
                };
                if group.state != expected {
                    findings.broken.push(format!("I7: {id} is {} and its members are {all_there:?}", group.state));
                }
            }
            if id.kind == GroupKind::Chain {
                self.look_at_steps(group, findings).await?;
            }
        }
        Ok(())
    }

    async fn look_at_steps(&self, group: &Group, findings: &mut Findings) -> Result<(), CallError> {
        let ids: Vec<TaskId> =
            group.members.iter().filter_map(|id| if let Id::Task(id) = id { Some(*id) } else { None }).collect();
        let steps = self.tasks_short(&ids).await?;
        for pair in steps.windows(2) {
            if pair[1].run > 0 && pair[0].state != State::Completed {
                let (id, before, after) = (group.id, pair[0].id, pair[1].id);
                findings.broken.push(format!("I7: {after} of {id} began, and {before} before it is {}", pair[0].state));
            }
        }
        Ok(())
    }

    /// The chains or batches there are, newest first, below an id, so many at most.
    pub(crate) async fn groups(
        &self,
        kind: GroupKind,
        below: Option<u64>,
        count: usize,
    ) -> Result<Vec<GroupId>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let ids: Vec<String> = redis::cmd("ZRANGE")
            .arg(self.keys.groups(kind))
            .arg(below.map_or_else(|| "+inf".to_owned(), |number| format!("({number}")))
            .arg(&["-inf", "BYSCORE", "REV", "LIMIT", "0"])
            .arg(count)
            .query_async(&mut *connection)
            .await
            .map_err(|error| sort_error(&error))?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }
}
