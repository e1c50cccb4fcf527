//! The log, notices, and live output.

use redis::Value;
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};

use super::Store;
use super::script::{CallError, sort_error};
use crate::domain::event::Event;
use serde::{Deserialize, Serialize};

use crate::domain::ids::TaskId;
use crate::domain::state::words;

/// Chunks of live output that are kept for a run, about.
const CHUNKS_KEPT: u64 = 5_000;
/// Longest chunk of live output, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

words! {
    /// What a piece of a run's live output is.
    ChunkKind {
        /// The run begins; its text is the worker.
        Start = "start",
        /// Claude's words, as they come: one sentence may be spread over several pieces.
        Text = "text",
        /// A call of a tool, as in `Bash(cargo test)`.
        Tool = "tool",
        /// What the worker has to say.
        Note = "note",
    }
}

/// One piece of a run's live output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it stands; the cursor behind it.
    pub cursor: String,
    /// What it is.
    pub kind: ChunkKind,
    /// What was said.
    pub text: String,
}

impl Chunk {
    fn read(entry: StreamId) -> Self {
        Self {
            // What a newer worker may have to say is a remark.
            kind: entry.get::<String>("k").and_then(|word| word.parse().ok()).unwrap_or(ChunkKind::Note),
            text: entry.get("v").unwrap_or_default(),
            cursor: entry.id,
        }
    }
}

/// A text in pieces of at most [`CHUNK_BYTES`].
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = (0..=rest.len().min(CHUNK_BYTES)).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (piece, others) = rest.split_at(end);
        rest = others;
        Some(piece)
    })
}

impl Store {
    /// Adds to a run's live output; without effect when the run's output is gone.
    pub(crate) async fn add_output(
        &self,
        id: TaskId,
        run: u64,
        chunks: &[(ChunkKind, String)],
    ) -> Result<(), CallError> {
        let mut pipe = redis::pipe();
        for (kind, text) in chunks.iter().flat_map(|(kind, text)| pieces(text).map(|piece| (kind.word(), piece))) {
            pipe.cmd("XADD")
                .arg(self.keys.output(id, run))
                .arg("NOMKSTREAM")
                .arg("MAXLEN")
                .arg("~")
                .arg(CHUNKS_KEPT)
                .arg("*")
                .arg("k")
                .arg(kind)
                .arg("v")
                .arg(text)
                .ignore();
        }
        let mut connection = self.connector.pooled().await?;
        pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))
    }

    /// Live output behind a cursor (`0` is the start), at most 500 pieces.
    pub(crate) async fn output_since(&self, id: TaskId, run: u64, cursor: &str) -> Result<Vec<Chunk>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let reply: StreamReadReply = redis::cmd("XREAD")
            .arg(&["COUNT", "500", "STREAMS"])
            .arg(self.keys.output(id, run))
            .arg(cursor)
            .query_async(&mut *connection)
            .await
            .or_else(|error| if is_empty(&error) { Ok(StreamReadReply::default()) } else { Err(sort_error(&error)) })?;
        Ok(reply.keys.into_iter().flat_map(|key| key.ids).map(Chunk::read).collect())
    }

    /// The last pieces of a run's live output, oldest first.
    pub(crate) async fn output_tail(&self, id: TaskId, run: u64, count: u64) -> Result<Vec<Chunk>, CallError> {
        let entries = self.last_of(&self.keys.output(id, run), count).await?;
        Ok(entries.into_iter().map(Chunk::read).collect())
    }

    /// The last entries of the log, oldest first.
    pub(crate) async fn last_events(&self, count: u64) -> Result<Vec<Entry>, CallError> {
        let entries = self.last_of(&self.keys.events(), count).await?;
        Ok(entries.into_iter().filter_map(Entry::read).collect())
    }

    async fn last_of(&self, stream: &str, count: u64) -> Result<Vec<StreamId>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let reply: StreamRangeReply = redis::cmd("XREVRANGE")
            .arg(stream)
            .arg(&["+", "-", "COUNT"])
            .arg(count)
            .query_async(&mut *connection)
            .await
            .map_err(|error| sort_error(&error))?;
        Ok(reply.ids.into_iter().rev().collect())
    }
}

/// One transition as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands in the log; the cursor behind it.
    pub cursor: String,
    /// When it happened, in milliseconds since 1970 by Redis's clock.
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
    /// Who decided it and why, where somebody judged a result.
    pub decided: Option<Decided>,
}

/// A decision, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Whose it was.
    pub by: String,
    /// What was said; cut where it is long, the record has the whole.
    pub why: String,
}

impl Entry {
    fn read(entry: StreamId) -> Option<Self> {
        let (notice, time_ms): (String, u64) = (entry.get("e")?, entry.get("t")?);
        let decided = entry.get("by").map(|by| Decided { by, why: entry.get("why").unwrap_or_default() });
        Some(Self { event: Event::parse(&notice)?, time_ms, decided, cursor: entry.id })
    }
}

/// A part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// The cursor behind all that was read, be it known here or not.
    pub(crate) end: String,
    /// The entry of the cursor is not there any more: what stood between it and these may be gone too.
    pub(crate) lagged: bool,
}

/// The cursor before everything.
pub(crate) const START: &str = "0-0";

impl Store {
    /// The log behind a cursor, at most `count` entries.
    pub(crate) async fn log_since(&self, cursor: &str, count: u64) -> Result<Page, CallError> {
        let mut connection = self.connector.pooled().await?;
        let key = self.keys.events();
        let mut pipe = redis::pipe();
        // At one moment, or the log could be cut in between.
        pipe.atomic();
        pipe.cmd("XRANGE").arg(&key).arg(&[cursor, cursor]);
        pipe.cmd("XRANGE").arg(&key).arg(format!("({cursor}")).arg(&["+", "COUNT"]).arg(count);
        pipe.cmd("XREVRANGE").arg(&key).arg(&["+", "-", "COUNT", "1"]);
        let (own, page, last): (StreamRangeReply, StreamRangeReply, StreamRangeReply) =
            pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        let lagged = cursor != START && own.ids.is_empty();
        let end = match (page.ids.last(), last.ids.first()) {
            (Some(read), _) => read.id.clone(),
            // A log that ends before the cursor has lost something: it goes on from its end.
            (None, Some(last)) if lagged => last.id.clone(),
            (None, _) => cursor.to_owned(),
        };
        Ok(Page { entries: page.ids.into_iter().filter_map(Entry::read).collect(), end, lagged })
    }

    /// The cursor before the last `count` entries.
    pub(crate) async fn log_before(&self, count: u64) -> Result<String, CallError> {
        let last = self.last_of(&self.keys.events(), count + 1).await?;
        let is_all = last.len() as u64 <= count;
        Ok(last.into_iter().next().filter(|_| !is_all).map_or_else(|| START.to_owned(), |entry| entry.id))
    }

    /// The cursor behind everything that has happened so far.
    pub(crate) async fn log_end(&self) -> Result<String, CallError> {
        let last = self.last_of(&self.keys.events(), 1).await?;
        Ok(last.into_iter().next().map_or_else(|| START.to_owned(), |entry| entry.id))
    }
}

/// XREAD answers nil where there is nothing, which the client takes for a wrong type.
fn is_empty(error: &redis::RedisError) -> bool {
    error.kind() == redis::ErrorKind::UnexpectedReturnType && format!("{error}").contains(&format!("{:?}", Value::Nil))
}
