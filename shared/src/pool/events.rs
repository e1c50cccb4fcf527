//! The log of a pool, read on from a cursor: nothing is missed and nothing comes twice.
//!
//! Not here: notices, which may be lost (`feed.rs`).

use std::collections::VecDeque;

use tokio::time::timeout;

use super::Pool;
use super::feed::Listener;
use crate::error::{Error, Result};
use crate::store::event::{Entry, START};

/// Entries that are read at a time.
const PAGE: u64 = 500;

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// With the oldest entry that the log keeps (it keeps about 100,000).
    Start,
    /// With what happens from now on.
    Now,
    /// Behind an entry that was read before.
    Cursor(String),
}

/// What a reader of the log gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// Something happened.
    Event(Entry),
    /// The log does not reach back to the cursor any more: what follows may not be all. The records have the truth.
    Lagged,
}

/// A reader of the log.
#[derive(Debug)]
pub struct Events {
    pool: Pool,
    listener: Listener,
    cursor: String,
    read: VecDeque<Logged>,
    /// The cursor behind what was read, handed out or not, and known to this version or not.
    end: String,
}

impl Since {
    /// Behind the entry of this cursor.
    ///
    /// # Errors
    /// It is no cursor of a log.
    pub fn cursor(text: &str) -> Result<Self> {
        checked(text.to_owned()).map(Self::Cursor)
    }
}

impl Pool {
    /// Reads the log of the pool.
    ///
    /// # Errors
    /// A cursor that is none; Redis does not answer.
    pub async fn events(&self, since: Since) -> Result<Events> {
        // Before the first look, so that nothing falls in between.
        let listener = self.listen().await;
        let cursor = match since {
            Since::Start => START.to_owned(),
            Since::Now => self.patiently(|| self.store().log_end()).await?,
            Since::Cursor(cursor) => checked(cursor)?,
        };
        Ok(Events { pool: self.clone(), listener, end: cursor.clone(), cursor, read: VecDeque::new() })
    }
}

impl Pool {
    /// The cursor before the last `count` entries of the log: what is behind it is the last of what happened.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn cursor_before(&self, count: u64) -> Result<String> {
        self.patiently(|| self.store().log_before(count)).await
    }
}

fn checked(cursor: String) -> Result<String> {
    let is_number =
        |text: &str| text.bytes().all(|c| c.is_ascii_digit()) && text.parse().is_ok_and(|n: u64| n < u64::MAX);
    if cursor.split_once('-').is_some_and(|(ms, seq)| is_number(ms) && is_number(seq)) {
        return Ok(cursor);
    }
    Err(Error::usage(format!("{cursor:?} is no cursor of the log")).hint("it is as in 1767225600000-0"))
}

impl Events {
    /// The cursor behind what was read last.
    #[must_use]
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// What comes next, if it is there already.
    ///
    /// # Errors
    /// Redis does not answer; the next call goes on where this one stopped.
    pub async fn ready(&mut self) -> Result<Option<Logged>> {
        while self.read.is_empty() {
            let (pool, cursor) = (&self.pool, &self.cursor);
            let page = pool.patiently(move || pool.store().log_since(cursor, PAGE)).await?;
            if page.end == self.cursor {
                // An empty log that the cursor is not from has nothing to say yet.
                return Ok(None);
            }
            if page.lagged {
                self.read.push_back(Logged::Lagged);
            }
            self.read.extend(page.entries.into_iter().map(Logged::Event));
            self.end = page.end;
            if self.read.is_empty() {
                // Nothing in it that this version knows.
                self.cursor.clone_from(&self.end);
            }
        }
        let next = self.read.pop_front();
        if let Some(Logged::Event(entry)) = &next {
            self.cursor.clone_from(&entry.cursor);
        }
        if self.read.is_empty() {
            self.cursor.clone_from(&self.end);
        }
        Ok(next)
    }

    /// What comes next; waits for it.
    ///
    /// # Errors
    /// As [`Events::ready`].
    pub async fn next(&mut self) -> Result<Logged> {
        loop {
            if let Some(logged) = self.ready().await? {
                return Ok(logged);
            }
            self.pool.tend().await;
            // What the notice says stands in the log.
            let _ = timeout(self.pool.look_anyway(), self.listener.next()).await;
        }
    }
}
