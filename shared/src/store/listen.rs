//! Listening to a channel: a connection of its own, which is asked whether it still stands.
//!
//! A subscription only ever receives, so one whose peer is gone without a word looks like one without news. Not here:
//! who listens to what, and opens it anew (`pool`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::RedisResult;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::time::{Instant, sleep_until};

use super::answer::{CallError, sort_error};
use super::contact::Contact;

/// For how long a subscription is silent before it is asked.
pub(crate) const QUIET: Duration = Duration::from_secs(10);
/// How long the answer may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// A subscription to one channel.
pub(crate) struct Subscription {
    sink: PubSubSink,
    stream: PubSubStream,
    contact: Arc<Contact>,
    era: u64,
    /// When it is asked, or given up where it was.
    until: Instant,
    asked: Option<Pin<Box<dyn Future<Output = RedisResult<()>> + Send + Sync>>>,
}

/// What comes next.
enum Next {
    Message(Option<redis::Msg>),
    Answer(bool),
    Time,
}

impl Subscription {
    pub(super) async fn new(
        mut connection: PubSub,
        channel: &str,
        contact: Arc<Contact>,
        era: u64,
    ) -> Result<Self, CallError> {
        connection.subscribe(channel).await.map_err(|error| sort_error(&error))?;
        let (sink, stream) = connection.split();
        Ok(Self { sink, stream, contact, era, until: Instant::now() + QUIET, asked: None })
    }

    /// The next message; nothing where the subscription is lost. One that is given up waiting for loses nothing.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            let next = tokio::select! {
                biased;
                message = self.stream.next() => Next::Message(message),
                answer = answer(&mut self.asked) => Next::Answer(answer.is_ok()),
                () = sleep_until(self.until) => Next::Time,
            };
            match next {
                Next::Message(message) => {
                    self.heard();
                    // What is no text is a reason to look, as any.
                    return Some(message?.get_payload().unwrap_or_default());
                }
                Next::Answer(true) => self.heard(),
                Next::Answer(false) => return None,
                // Behind a failover the channel is another server's.
                Next::Time if self.asked.is_some() || self.era != self.contact.era() => return None,
                Next::Time => {
                    let mut sink = self.sink.clone();
                    self.asked = Some(Box::pin(async move { sink.ping().await }));
                    self.until = Instant::now() + ANSWER;
                }
            }
        }
    }

    fn heard(&mut self) {
        self.asked = None;
        self.until = Instant::now() + QUIET;
    }
}

/// The answer to what was asked, if anything was.
async fn answer<T>(asked: &mut Option<Pin<Box<dyn Future<Output = T> + Send + Sync>>>) -> T {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}
