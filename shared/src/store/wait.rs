//! Waiting for a token of a lane, and for notices to one worker: on lines of their own.

use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use tokio::time::timeout;

use super::Store;
use super::script::{CallError, sort_error};

/// How much longer than it was asked to block a server may take to answer.
const LATE: Duration = Duration::from_secs(5);

/// An idle worker's own line for blocking.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    open: Option<MultiplexedConnection>,
}

/// A worker's own channel.
#[derive(Default)]
pub(crate) struct Channel {
    open: Option<PubSub>,
}

impl Store {
    /// Blocks until a lane of these has a token, `block` at most; gives the lane. A line that fails is given up.
    pub(crate) async fn wait_for_token(
        &self,
        waiter: &mut Waiter,
        lanes: &[String],
        block: Duration,
    ) -> Result<Option<String>, CallError> {
        if waiter.open.is_none() {
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
            Err(_) => Err(CallError::away("a blocking wait was not answered")),
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
            let mut subscription = self.connector.listener().await.ok()?;
            subscription.subscribe(self.keys.ctl(worker)).await.ok()?;
            channel.open = Some(subscription);
        }
        let message = channel.open.as_mut()?.on_message().next().await;
        let text = message.and_then(|message| message.get_payload().ok());
        if text.is_none() {
            channel.open = None;
        }
        text
    }
}
