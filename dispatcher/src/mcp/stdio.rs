//! Standard input and output: rmcp's transport, with an eye on what was written and what was to be stopped.
//!
//! Not here: the protocol (rmcp), what a stop does (`tools`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::RoleServer;
use rmcp::model::{ClientNotification, GetExtensions, JsonRpcMessage, RequestId};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;

use super::delivery::Delivery;

type Open = Arc<Mutex<HashMap<RequestId, Delivery>>>;

/// A transport whose requests carry a [`Delivery`].
pub(super) struct Watched<T> {
    inner: T,
    open: Open,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, open: Open::default() }
    }

    fn take(&self, id: Option<&RequestId>) -> Option<Delivery> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id?)
    }
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Watched<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answered = match &item {
            JsonRpcMessage::Response(response) => self.take(Some(&response.id)),
            JsonRpcMessage::Error(error) => self.take(error.id.as_ref()),
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
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.insert(request.id.clone(), delivery);
            }
            JsonRpcMessage::Notification(notification) => {
                // Before rmcp hears of it, so that a handler that is cancelled finds the reason.
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(delivery) = self.take(cancelled.params.request_id.as_ref())
                {
                    delivery.stop(cancelled.params.reason.clone());
                    // rmcp drops the answer to such a call.
                    delivery.lost();
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
