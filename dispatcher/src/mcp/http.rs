//! Streamable HTTP: `/mcp` behind bearer tokens, `/healthz` open to all.
//!
//! A token is asked for before the protocol hears of a request. Bodies are bounded in size and time, connections in
//! number. Not here: the protocol (rmcp), the tokens (`tokens.rs`).

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use motorpool::{Error, Result};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::delivery::Delivery;
use super::tokens::{Denied, Tokens};
use super::{Desk, Face, GRACE};
use crate::term::time::now_ms;

/// Largest body of a request: a submission of 16 MiB and what JSON adds.
const BODY_BYTES: usize = 20 * 1024 * 1024;
/// How long a request may take to arrive.
pub(crate) const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// Most connections at once.
const CONNECTIONS: usize = 1_024;
/// How long a quiet session of the sessions' era is kept; a long wait is quiet.
const SESSION_KEPT: Duration = Duration::from_secs(4 * 3600);

/// How the face is offered.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) address: SocketAddr,
    pub(crate) token_file: Option<std::path::PathBuf>,
    pub(crate) hosts: Vec<String>,
    pub(crate) origins: Vec<String>,
    /// [`ARRIVES_WITHIN`], or less in a test.
    pub(crate) arrives_within: Duration,
}

/// A face that listens.
pub(crate) struct Http {
    listener: TcpListener,
    router: Router,
    tokens: Option<Arc<Tokens>>,
    arrives_within: Duration,
    end: CancellationToken,
}

impl Offer {
    /// Refuses what would let anybody in.
    ///
    /// # Errors
    /// An address that others reach without tokens, tokens that cannot be read.
    fn tokens(&self) -> Result<Option<Arc<Tokens>>> {
        match &self.token_file {
            Some(file) => Ok(Some(Arc::new(Tokens::read(file)?))),
            None if self.address.ip().is_loopback() => Ok(None),
            None => Err(Error::usage(format!(
                "--http {}: other machines reach this address, and no token is asked for",
                self.address
            ))
            .hint("give --token-file FILE with a line NAME TOKEN for each caller, or listen on 127.0.0.1")),
        }
    }
}

impl Http {
    /// Listens; nothing is answered yet.
    ///
    /// # Errors
    /// What [`Offer`] refuses, an address that cannot be had.
    pub(crate) async fn listen(desk: Arc<Desk>, offer: &Offer) -> Result<Self> {
        let tokens = offer.tokens()?;
        let listener = TcpListener::bind(offer.address).await.map_err(|error| {
            Error::failed(format!("cannot listen on {}: {error}", offer.address))
                .hint("choose another port with --http")
        })?;
        let end = CancellationToken::new();
        let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        if !offer.address.ip().is_unspecified() {
            hosts.push(offer.address.ip().to_string());
        }
        hosts.extend(offer.hosts.iter().cloned());
        let mut origins: Vec<String> =
            ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"].map(str::to_owned).into();
        origins.extend(offer.origins.iter().cloned());
        let config = StreamableHttpServerConfig::default()
            .with_cancellation_token(end.clone())
            .with_allowed_hosts(hosts)
            .with_allowed_origins(origins)
            .with_max_request_body_bytes(BODY_BYTES);
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.keep_alive = Some(SESSION_KEPT);
        // One set of subscriptions a connection, one desk for all.
        let service = StreamableHttpService::new(move || Ok(Face::new(Arc::clone(&desk))), Arc::new(sessions), config);
        let router = Router::new()
            .nest_service("/mcp", service)
            .layer(middleware::from_fn(watched))
            .layer(middleware::from_fn_with_state(offer.arrives_within, whole))
            .layer(middleware::from_fn_with_state(tokens.clone(), known))
            .route("/healthz", get(async || "ok\n"));
        Ok(Self { listener, router, tokens, arrives_within: offer.arrives_within, end })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| Error::failed(format!("the address of the socket: {error}")))
    }

    /// The tokens are read again.
    ///
    /// # Errors
    /// They cannot be; those of before hold.
    pub(crate) fn reload(&self) -> Result<usize> {
        self.tokens.as_ref().map_or(Ok(0), |tokens| tokens.reload())
    }

    /// Answers until `end`; `reload` returns each time the tokens are to be read again.
    pub(crate) async fn serve(self, end: CancellationToken, mut reload: impl AsyncFnMut()) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                () = end.cancelled() => break,
                () = reload() => {
                    match self.reload() {
                        Ok(count) => tracing::info!(count, "the tokens were read again"),
                        Err(error) => tracing::error!(%error, "the tokens were not read again; those of before hold"),
                    }
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or a client that is gone already.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(CONNECTIONS, "too many connections; one is closed");
                continue;
            };
            let service = TowerToHyperService::new(self.router.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.arrives_within)
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // A client that breaks off is no failure of ours.
                let _ = connection.await;
                drop(place);
            });
        }
        drop(self.listener);
        // Waits end, work goes on; then whoever still reads has a moment.
        let closing = graceful.shutdown();
        tokio::pin!(closing);
        if tokio::time::timeout(GRACE / 4, &mut closing).await.is_err() {
            self.end.cancel();
            let _ = tokio::time::timeout(GRACE / 2, closing).await;
        }
    }
}

/// Who calls, where tokens are asked for.
async fn known(State(tokens): State<Option<Arc<Tokens>>>, mut request: Request, next: Next) -> Response {
    let Some(tokens) = tokens else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let (words, challenge) = match token.map(|token| tokens.caller(token, now_ms())) {
        Some(Ok(caller)) => {
            // It has done its work, and is shown to nobody behind.
            request.headers_mut().remove(header::AUTHORIZATION);
            request.extensions_mut().insert(caller);
            return next.run(request).await;
        }
        None => ("a token is needed: Authorization: Bearer TOKEN\n", "Bearer"),
        Some(Err(Denied::Unknown)) => ("this token is not known\n", "Bearer error=\"invalid_token\""),
        Some(Err(Denied::Expired)) => {
            ("this token has expired\n", "Bearer error=\"invalid_token\", error_description=\"expired\"")
        }
    };
    let mut response = (StatusCode::UNAUTHORIZED, words).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// The whole of a request, within its time and size, before anything is done about it.
async fn whole(State(within): State<Duration>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return (StatusCode::PAYLOAD_TOO_LARGE, "a request may have 20 MiB\n").into_response();
    }
    match tokio::time::timeout(within, axum::body::to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "a request may have 20 MiB, and has to arrive whole\n").into_response()
        }
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n").into_response(),
    }
}

/// Notes when an answer has gone out.
async fn watched(mut request: Request, next: Next) -> Response {
    let way = Way(Delivery::default());
    request.extensions_mut().insert(way.0.clone());
    next.run(request).await.map(|body| Body::new(Outgoing { body, way }))
}

/// The way of an answer; it is lost where it ends early, because the caller has gone.
struct Way(Delivery);

impl Drop for Way {
    fn drop(&mut self) {
        self.0.lost();
    }
}

/// A body that notes its end.
struct Outgoing {
    body: Body,
    way: Way,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.way.0.leaving();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let is_over = match &polled {
            Poll::Ready(None) => true,
            // Not asked again after its last frame. A caller that has its answer may not wait for the end.
            Poll::Ready(Some(Ok(frame))) => self.body.is_end_stream() || frame.data_ref().is_some_and(has_answer),
            _ => false,
        };
        if is_over {
            self.way.0.written();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether an event of a stream is the answer: a message that begins with an id, which ours to a caller never do else.
fn has_answer(event: &Bytes) -> bool {
    let lines = event.split(|byte| *byte == b'\n');
    let mut data = lines.filter_map(|line| line.strip_prefix(b"data:"));
    data.any(|data| data.trim_ascii_start().starts_with(br#"{"jsonrpc":"2.0","id":"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_what_comes_before_it() {
        for (event, expected) in [
            ("id: 0\nretry: 3000\ndata: \n\n", false),
            (":\n\n", false),
            ("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"id\":1}}\n\n", false),
            ("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n", true),
            ("id: 1/0\ndata:{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"error\":{}}\n\n", true),
        ] {
            assert_eq!(has_answer(&Bytes::from_static(event.as_bytes())), expected, "{event}");
        }
    }
}
