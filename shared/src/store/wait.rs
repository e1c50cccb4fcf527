//! Waiting for a token of a lane, and for notices to one worker: on lines of their own.

use std::time::Duration;

use tokio::time::timeout;

use super::Store;
use super::contact::Connection;
use super::listen::Subscription;
use super::script::{CallError, sort_error};

/// How much longer than it was asked to block a server may take to answer.
const LATE: Duration = Duration::from_secs(5);

/// An idle worker's own line for blocking.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    open: Option<Connection>,
}

/// A worker's own channel.
#[derive(Default)]
pub(crate) struct Channel {
    open: Option<Subscription>,
}

impl Store {
    /// Blocks until a lane of these has a token, `block` at most; gives the lane. A line that fails is given up.
    pub(crate) async fn wait_for_token(
        &self,
        waiter: &mut Waiter,
        lanes: &[String],
        block: Duration,
    ) -> Result<Option<String>, CallError> {
        if waiter.open.as_ref().is_none_or(Connection::is_outdated) {
            waiter.open = Some(self.connector.blocking().await?);
        }
        // Taken out while it waits: a wait that is dropped takes the line with it, and with the line its place.
        let Some(mut connection) = waiter.open.take() else { return Err(CallError::away("no connection")) };
        let keys: Vec<String> = lanes.iter().map(|lane| self.keys.wake(lane)).collect();
        let mut command = redis::cmd("BLPOP");
        command.arg(&keys).arg(block.as_secs_f64());
        let popped = timeout(block + LATE, command.query_async::<Option<(String, String)>>(&mut connection)).await;
        match popped {
            Ok(Ok(popped)) => {
                waiter.open = Some(connection);
                Ok(popped.and_then(|(key, _)| lanes.iter().find(|lane| self.keys.wake(lane) == key).cloned()))
            }
            Ok(Err(error)) => Err(sort_error(&error)),
            Err(_) => {
                let problem = "a blocking wait was not answered";
                connection.is_silent(problem);
                Err(CallError::away(problem))
            }
        }
    }

    /// Puts a token back; one that is lost is replaced by the sweep.
    pub(crate) async fn push_token(&self, lane: &str) -> Result<(), CallError> {
        let mut connection = self.connector.pooled().await?;
        let mut push = redis::cmd("RPUSH");
        push.arg(self.keys.wake(lane)).arg("1");
        push.query_async(&mut *connection).await.map_err(|error| sort_error(&error))
    }

    /// The next notice on a worker's channel; nothing where the line was lost or cannot be opened.
    pub(crate) async fn next_notice(&self, channel: &mut Channel, worker: &str) -> Option<String> {
        if channel.open.is_none() {
            channel.open = Some(self.connector.listen(&self.keys.ctl(worker)).await.ok()?);
        }
        let text = channel.open.as_mut()?.next().await;
        if text.is_none() {
            channel.open = None;
        }
        text
    }
}
