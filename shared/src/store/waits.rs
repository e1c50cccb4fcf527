//! A look at what waits, of so much and no more, however much there is.
//!
//! Not here: what is made of it (`domain/waits.rs`).

use super::Store;
use super::script::{CallError, sort_error};
use crate::domain::ids::{Id, TaskId};
use crate::domain::waits::{Delayed, LOOKED_AT};

/// Timers that are looked at, the first first.
const TIMERS: usize = 100;
/// Of a state so many tasks are looked at, the oldest first.
const TASKS: usize = LOOKED_AT as usize;
/// So many of what one task waits on.
const NEEDS: usize = 5;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// New work is refused: Redis has little memory left.
    pub(crate) full: bool,
    /// The oldest that wait on others.
    pub(crate) waiting: Vec<TaskId>,
    /// What those wait on, with its state; each once.
    pub(crate) needs: Vec<(String, String)>,
    /// Delayed ones.
    pub(crate) delayed: Vec<Delayed>,
    /// The oldest that are to be judged.
    pub(crate) review: Vec<TaskId>,
}

/// The answers to so many commands, or none: an empty pipeline is an error.
async fn all<T: redis::FromRedisValue>(
    pipe: &redis::Pipeline,
    connection: &mut impl redis::aio::ConnectionLike,
) -> Result<Vec<T>, CallError> {
    if pipe.is_empty() {
        return Ok(Vec::new());
    }
    pipe.query_async(connection).await.map_err(|error| sort_error(&error))
}

impl Store {
    /// Looks at what waits on others, for a time and for a judgement.
    pub(crate) async fn waits(&self) -> Result<Seen, CallError> {
        let mut connection = self.connector.pooled().await?;
        let first = |state: &str, count: usize| {
            let mut range = redis::cmd("ZRANGE");
            range.arg(self.keys.index("state", state)).arg(0).arg(count - 1);
            range
        };
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(self.keys.meta()).arg("full");
        pipe.add_command(first("waiting", TASKS)).add_command(first("pending_review", 3));
        pipe.add_command(first("delayed", TASKS));
        let due = self.keys.due();
        pipe.cmd("ZRANGE").arg(&due).arg(&["-inf", "+inf", "BYSCORE", "LIMIT", "0"]).arg(TIMERS);
        type Lists = (Option<String>, Vec<String>, Vec<String>, Vec<String>, Vec<String>);
        let (full, waiting, review, delayed, timers): Lists =
            pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        let ids = |list: Vec<String>| -> Vec<TaskId> { list.iter().filter_map(|id| id.parse().ok()).collect() };
        let (waiting, review) = (ids(waiting), ids(review));
        // The first to come, and, behind timers of another kind, at least the oldest.
        let mut delayed = ids(delayed);
        delayed.extend(timers.iter().filter_map(|timer| timer.strip_prefix("task:")?.parse::<TaskId>().ok()));
        delayed.sort_unstable();
        delayed.dedup();

        let mut pipe = redis::pipe();
        for id in &waiting {
            pipe.cmd("SRANDMEMBER").arg(self.keys.needs(*id)).arg(NEEDS);
        }
        let needs: Vec<Vec<String>> = all(&pipe, &mut *connection).await?;
        let mut needs: Vec<String> = needs.into_iter().flatten().collect();
        needs.sort_by_key(|id| (id.len(), id.clone()));
        needs.dedup();
        let mut pipe = redis::pipe();
        for id in &needs {
            match id.parse::<Id>() {
                Ok(id) => pipe.cmd("HGET").arg(self.keys.record(id)).arg("state"),
                // The rest of a submission, which is no task.
                Err(_) => pipe.cmd("ECHO").arg("opening"),
            };
        }
        for id in &delayed {
            pipe.cmd("ZSCORE").arg(&due).arg(format!("task:{id}"));
            pipe.cmd("HMGET").arg(self.keys.task(*id)).arg(&["state", "run", "reason"]);
        }
        let mut answers: Vec<redis::Value> = all(&pipe, &mut *connection).await?;
        let of_delayed = answers.split_off(needs.len());
        let read = |value: &redis::Value| redis::from_redis_value::<Option<String>>(value.clone()).ok().flatten();
        let needs = needs.into_iter().zip(answers.iter().map(|state| read(state).unwrap_or_default())).collect();

        let mut found = Vec::new();
        for (id, answer) in delayed.into_iter().zip(of_delayed.chunks_exact(2)) {
            let until_ms = read(&answer[0]).and_then(|score| score.parse::<f64>().ok());
            let fields: Vec<Option<String>> = redis::from_redis_value(answer[1].clone()).unwrap_or_default();
            let text = |at: usize| fields.get(at).cloned().flatten().unwrap_or_default();
            if let (Some(until_ms), "delayed") = (until_ms, text(0).as_str()) {
                found.push((id, until_ms as u64, text(1), text(2)));
            }
        }
        let mut pipe = redis::pipe();
        for (id, _, run, _) in &found {
            pipe.cmd("HGET").arg(self.keys.task(*id)).arg(format!("run:{run}:class"));
        }
        let classes: Vec<Option<String>> = all(&pipe, &mut *connection).await?;
        let delayed = found.into_iter().zip(classes).map(|((id, until_ms, run, reason), class)| Delayed {
            id,
            until_ms,
            after: (run != "0").then(|| (class.and_then(|class| class.parse().ok()), reason)),
        });
        Ok(Seen { full: full.as_deref() == Some("1"), waiting, needs, delayed: delayed.collect(), review })
    }
}
