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

impl Store {
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
