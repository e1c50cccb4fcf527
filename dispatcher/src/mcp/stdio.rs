//! Standard input and output: rmcp's transport, with an eye on what was written and what was to be stopped.
//!
//! Not here: the protocol (rmcp), what a stop does (`tools`).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::RoleServer;
use rmcp::model::{ClientNotification, GetExtensions, JsonRpcMessage, RequestId};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use super::delivery::Delivery;

type Open = Arc<Mutex<Requests>>;

/// Most bytes of input that wait while its reader is stuck.
const AHEAD: usize = 1024 * 1024;
/// Answers that a late word of their caller may still be about.
const SENT: usize = 64;

/// Standard input, read ahead, so that its end is noticed even where rmcp reads no more: it answers a line that is no
/// request before it reads the next one, and nobody may take that answer. `over` is cancelled at the end.
pub(super) fn input(over: CancellationToken) -> impl AsyncRead + Send + Unpin {
    let (near, mut far) = tokio::io::duplex(AHEAD);
    tokio::spawn(async move {
        // What breaks is over too.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut far).await;
        over.cancel();
    });
    near
}

#[derive(Default)]
struct Requests {
    open: HashMap<RequestId, Delivery>,
    /// Those whose answers went out last.
    sent: VecDeque<(RequestId, Delivery)>,
}

impl Requests {
    /// The delivery of an answer that goes out now.
    fn answered(&mut self, id: Option<&RequestId>) -> Option<Delivery> {
        let (id, delivery) = self.open.remove_entry(id?)?;
        if self.sent.len() == SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((id, delivery.clone()));
        Some(delivery)
    }

    /// The delivery of a call that nobody wants answered any more, be it answered or not.
    fn given_up(&mut self, id: Option<&RequestId>) -> Option<Delivery> {
        let id = id?;
        let sent = self.sent.iter().rposition(|(other, _)| other == id);
        self.open.remove(id).or_else(|| Some(self.sent.remove(sent?)?.1))
    }
}

/// A transport whose requests carry a [`Delivery`].
pub(super) struct Watched<T> {
    inner: T,
    open: Open,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, open: Open::default() }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Watched<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answered = match &item {
            JsonRpcMessage::Response(response) => self.requests().answered(Some(&response.id)),
            JsonRpcMessage::Error(error) => self.requests().answered(error.id.as_ref()),
            _ => None,
        };
        let sending = self.inner.send(item);
        async move {
            if let Some(delivery) = &answered {
                delivery.leaving();
            }
            let sent = sending.await;
            if let Some(delivery) = answered {
                if sent.is_ok() { delivery.written() } else { delivery.lost() }
            }
            sent
        }
    }

    // Dropped while it waits, it loses nothing: all else happens at once.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let mut message = self.inner.receive().await?;
        match &mut message {
            JsonRpcMessage::Request(request) => {
                let delivery = Delivery::default();
                request.request.extensions_mut().insert(delivery.clone());
                self.requests().open.insert(request.id.clone(), delivery);
            }
            JsonRpcMessage::Notification(notification) => {
                // Before rmcp hears of it, so that a handler that is cancelled finds the reason.
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(delivery) = self.requests().given_up(cancelled.params.request_id.as_ref())
                {
                    delivery.stop(cancelled.params.reason.clone());
                    // rmcp drops the answer to such a call, and the host one that crossed this word.
                    delivery.dropped();
                }
            }
            _ => {}
        }
        Some(message)
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}
