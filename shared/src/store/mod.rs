//! The only code that knows Redis: connections, scripts, keys.
//!
//! One transition is one script; deciding is `domain`. Not here: who repeats a call until it is answered and what a
//! caller gets to see (`pool`).

mod address;
mod answer;
mod assemble;
pub(crate) mod attempt;
pub(crate) mod connect;
mod contact;
pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod fleet;
pub(crate) mod group;
pub(crate) mod host;
pub(crate) mod keys;
pub(crate) mod listen;
pub(crate) mod listing;
pub(crate) mod news;
pub(crate) mod record;
pub(crate) mod review;
pub(crate) mod script;
mod sentinel;
pub(crate) mod submission;
pub(crate) mod sweep;
pub(crate) mod task;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod wait;
pub(crate) mod waits;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::domain::ids::Name;
use crate::error::Result;

use connect::{Connector, Whereabouts};
use contact::Connection;
use keys::Keys;
use script::{Call, CallError, Reply, sort_error};

/// A pool's place in a Redis, and the connections to it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) connector: Arc<Connector>,
    pub(crate) keys: Keys,
    /// Whether Redis syncs each write before it answers, once it was asked.
    syncs: Arc<OnceCell<bool>>,
}

/// A connection of one caller's own, for calls that follow one another; opened anew after a failure.
#[derive(Debug, Default)]
pub(crate) struct Line {
    open: Option<Connection>,
}

impl Line {
    /// Whether it was opened and is not known to be broken.
    pub(crate) fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|connection| !connection.is_outdated())
    }
}

impl Store {
    /// The pool of this name in the Redis at `url`, which may move; nothing is contacted yet.
    pub(crate) fn new(url: &str, pool: &Name, whereabouts: Option<Whereabouts>) -> Result<Self> {
        let keys = Keys::new(pool);
        Ok(Self { connector: Arc::new(Connector::new(url, &keys.meta(), whereabouts)?), keys, syncs: Arc::default() })
    }

    /// Whether Redis forgets no write that it has answered, unless a replica takes its place. Asked for once.
    pub(crate) async fn keeps_every_write(&self) -> Result<bool, CallError> {
        self.syncs
            .get_or_try_init(|| async {
                let asked = ["appendonly", "appendfsync"];
                let mut connection = self.connector.pooled().await?;
                let mut ask = redis::cmd("CONFIG");
                let answer = ask.arg("GET").arg(&asked).query_async::<HashMap<String, String>>(&mut *connection).await;
                match answer.map_err(|error| sort_error(&error)) {
                    Ok(told) => {
                        Ok(asked.map(|name| told.get(name).map(String::as_str)) == [Some("yes"), Some("always")])
                    }
                    // Who may not ask does not know.
                    Err(CallError::Refused(_)) => Ok(false),
                    Err(away) => Err(away),
                }
            })
            .await
            .copied()
    }

    /// Calls a script on a pooled connection, once.
    pub(crate) async fn call(&self, call: &Call) -> Result<Reply, CallError> {
        let mut connection = self.connector.pooled().await?;
        call.send(&self.keys, &mut connection).await
    }

    /// Calls a script on the caller's own line, once; a broken line is opened anew at the next call.
    pub(crate) async fn call_on(&self, line: &mut Line, call: &Call) -> Result<Reply, CallError> {
        if line.open.as_ref().is_none_or(Connection::is_outdated) {
            line.open = Some(self.connector.dedicated().await?);
        }
        let Some(connection) = line.open.as_mut() else { return Err(CallError::away("no connection")) };
        let answer = call.send(&self.keys, connection).await;
        if matches!(answer, Err(CallError::Away(_) | CallError::Locked(_))) {
            line.open = None;
        }
        answer
    }
}
