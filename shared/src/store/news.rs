//! News: what a coordinator is still to be told, and what it was told last.

use super::Store;
use super::script::{Call, CallError, Reply, sort_error};
use crate::domain::ids::Id;
use crate::error::Result;

/// A piece of news, by its id and number.
pub(crate) type Mark = (Id, u64);

fn marked(verb: &str, coordinator: &str, marks: &[Mark]) -> Call {
    let call = Call::new("seen").arg(coordinator).arg(verb).number(marks.len() as u64);
    call.args(marks.iter().flat_map(|(id, number)| [id.to_string(), number.to_string()]))
}

/// A call that notes that an answer names these.
pub(crate) fn offer(coordinator: &str, marks: &[Mark]) -> Call {
    marked("offer", coordinator, marks)
}

/// A call that notes that the answer arrived.
pub(crate) fn confirm(coordinator: &str, marks: &[Mark]) -> Call {
    marked("confirm", coordinator, marks)
}

/// How many still stood as the caller saw them.
pub(crate) fn marked_count(reply: &Reply) -> Result<u64> {
    match reply.word() {
        "ok" => Ok(reply.number(1)),
        _ => Err(reply.unexpected()),
    }
}

impl Store {
    /// The oldest of what a coordinator is still to be told, and how much there is in all.
    pub(crate) async fn unseen(&self, coordinator: &str, count: usize) -> Result<(Vec<Mark>, u64), CallError> {
        let key = self.keys.unseen(coordinator);
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(&key).arg(0).arg(count.saturating_sub(1)).arg("WITHSCORES");
        pipe.cmd("ZCARD").arg(&key);
        let mut connection = self.connector.pooled().await?;
        let (page, total): (Vec<(String, f64)>, u64) =
            pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        Ok((marks(page), total))
    }

    /// Which of these a coordinator is still to be told: each with the number of its news.
    pub(crate) async fn unseen_among(&self, coordinator: &str, ids: &[Id]) -> Result<Vec<Mark>, CallError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connector.pooled().await?;
        let mut command = redis::cmd("ZMSCORE");
        command.arg(self.keys.unseen(coordinator));
        for id in ids {
            command.arg(id.to_string());
        }
        let scores: Vec<Option<f64>> =
            command.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        Ok(ids.iter().zip(scores).filter_map(|(id, score)| Some((*id, score? as u64))).collect())
    }

    /// The last of what a coordinator was told, oldest first.
    pub(crate) async fn told(&self, coordinator: &str, count: usize) -> Result<Vec<Mark>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let page: Vec<(String, f64)> = redis::cmd("ZRANGE")
            .arg(self.keys.told(coordinator))
            .arg(-i64::try_from(count).unwrap_or(i64::MAX))
            .arg(-1)
            .arg("WITHSCORES")
            .query_async(&mut *connection)
            .await
            .map_err(|error| sort_error(&error))?;
        Ok(marks(page))
    }
}

fn marks(page: Vec<(String, f64)>) -> Vec<Mark> {
    // Scores are numbers of news: whole, and far below 2^53.
    page.into_iter().filter_map(|(id, number)| Some((id.parse().ok()?, number as u64))).collect()
}
