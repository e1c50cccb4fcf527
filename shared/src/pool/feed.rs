//! The feed: one subscription for all who wait in this process. It only says "look now"; the record is the truth.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::{Backoff, Pool};
use crate::domain::event::Event;
use crate::store::connect::Connector;

/// Notices that a slow waiter may be behind before it is told to look again.
const BEHIND: usize = 1024;

/// What the feed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A task moved.
    Event(Event),
    /// Something may have been missed: look at the records.
    Missed,
}

pub(super) struct Feed {
    sender: broadcast::Sender<Notice>,
    task: JoinHandle<()>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A waiter's end of the feed.
#[derive(Debug)]
pub(crate) struct Listener(broadcast::Receiver<Notice>);

impl Listener {
    /// The next notice; `Missed` where some were dropped.
    pub(crate) async fn next(&mut self) -> Notice {
        self.0.recv().await.unwrap_or(Notice::Missed)
    }
}

impl Pool {
    /// Listens to the feed; the subscription is made with the first listener and kept.
    pub(crate) async fn listen(&self) -> Listener {
        let feed = self
            .inner
            .feed
            .get_or_init(async || {
                let (sender, _) = broadcast::channel(BEHIND);
                let task = follow(Arc::clone(&self.store().connector), self.store().keys.feed(), sender.clone());
                Feed { sender, task: tokio::spawn(task) }
            })
            .await;
        Listener(feed.sender.subscribe())
    }
}

async fn follow(connector: Arc<Connector>, channel: String, sender: broadcast::Sender<Notice>) {
    let mut backoff = Backoff::default();
    loop {
        if let Ok(mut subscription) = connector.listen(&channel).await {
            backoff = Backoff::default();
            // Whatever happened before the subscription stood was missed. Nobody listening is no error.
            let _ = sender.send(Notice::Missed);
            while let Some(text) = subscription.next().await {
                let _ = sender.send(Event::parse(&text).map_or(Notice::Missed, Notice::Event));
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}
