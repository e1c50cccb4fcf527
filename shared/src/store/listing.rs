//! Listings by state, tag or coordinator, newest first, with a cursor.

use super::Store;
use super::script::{CallError, sort_error};
use crate::domain::ids::TaskId;
use crate::domain::state::State;

/// Which tasks a listing shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these states; all of them if there is none.
    pub states: Vec<State>,
    /// Only tasks with this tag.
    pub tag: Option<String>,
    /// Only tasks of this coordinator.
    pub coordinator: Option<String>,
    /// Only tasks older than this one: the cursor of the page before.
    pub before: Option<TaskId>,
}

impl Filter {
    /// Whether it lets through what has these tags and this coordinator.
    pub(crate) fn names(&self, tags: &[String], coordinator: Option<&String>) -> bool {
        self.tag.as_ref().is_none_or(|tag| tags.contains(tag))
            && self.coordinator.as_ref().is_none_or(|name| coordinator == Some(name))
    }

    /// Whether it lets through what is in this state.
    pub(crate) fn takes(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// It asks for unfinished tasks alone: few, however many have ended.
    fn is_of_few(&self) -> bool {
        !self.states.is_empty() && self.states.iter().all(|state| state.is_unfinished())
    }
}

impl Store {
    /// Ids in one of the filter's states and in another index, newest first.
    async fn in_both(&self, owner: &str, filter: &Filter, count: usize) -> Result<Vec<TaskId>, CallError> {
        let mut pipe = redis::pipe();
        for state in &filter.states {
            pipe.cmd("ZINTER").arg(2).arg(self.keys.index("state", state.word())).arg(owner);
        }
        let mut connection = self.connector.pooled().await?;
        let pages: Vec<Vec<String>> = pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        let mut ids: Vec<TaskId> = pages.into_iter().flatten().filter_map(|id| id.parse().ok()).collect();
        ids.retain(|id| filter.before.is_none_or(|before| *id < before));
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(count);
        Ok(ids)
    }

    /// Whether a coordinator has a task in one of these states.
    pub(crate) async fn has_any(&self, coordinator: &str, states: &[State]) -> Result<bool, CallError> {
        let mut pipe = redis::pipe();
        for state in states {
            let state = self.keys.index("state", state.word());
            pipe.cmd("ZINTERCARD")
                .arg(2)
                .arg(state)
                .arg(self.keys.index("coordinator", coordinator))
                .arg(&["LIMIT", "1"]);
        }
        let mut connection = self.connector.pooled().await?;
        let counts: Vec<u64> = pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        Ok(counts.into_iter().any(|count| count > 0))
    }

    /// How many tasks there are in a state.
    pub(crate) async fn count(&self, states: &[State]) -> Result<Vec<u64>, CallError> {
        let mut pipe = redis::pipe();
        for state in states {
            pipe.cmd("ZCARD").arg(self.keys.index("state", state.word()));
        }
        let mut connection = self.connector.pooled().await?;
        pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))
    }

    /// Ids of at most `count` tasks that an index of the filter names, newest first.
    pub(crate) async fn listed(&self, filter: &Filter, count: usize) -> Result<Vec<TaskId>, CallError> {
        let indexes: Vec<String> = match (&filter.tag, &filter.coordinator) {
            (Some(tag), _) => vec![self.keys.index("tag", tag)],
            (None, Some(name)) => vec![self.keys.index("coordinator", name)],
            (None, None) if filter.states.is_empty() => vec![self.keys.index("all", "tasks")],
            (None, None) => filter.states.iter().map(|state| self.keys.index("state", state.word())).collect(),
        };
        let owner = filter.tag.as_ref().map(|tag| self.keys.index("tag", tag));
        let owner = owner.or_else(|| filter.coordinator.as_ref().map(|name| self.keys.index("coordinator", name)));
        if let Some(owner) = owner.filter(|_| filter.is_of_few()) {
            return self.in_both(&owner, filter, count).await;
        }
        let from = filter.before.map_or("+inf".to_owned(), |id| format!("({}", id.number()));
        let mut pipe = redis::pipe();
        for index in &indexes {
            pipe.cmd("ZRANGE").arg(index).arg(&from).arg(&["-inf", "BYSCORE", "REV", "LIMIT", "0"]).arg(count);
        }
        let mut connection = self.connector.pooled().await?;
        let pages: Vec<Vec<String>> = pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        let mut ids: Vec<TaskId> = pages.into_iter().flatten().filter_map(|id| id.parse().ok()).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(count);
        Ok(ids)
    }
}
