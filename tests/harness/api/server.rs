//! The HTTP side: routes, bodies, and a thread of its own with everything that runs for the server.

use super::answer::{Content, Memory, answer};
use super::conversation::Conversation;
use super::wire::{self, Part};
use super::{Request, Shared};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, post};
use futures_util::stream;
use serde_json::{Value, json};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// The real API takes 32 MB; a little more, so that the script decides what is too large.
const BODY_LIMIT: usize = 40 << 20;

/// A running server. Its runtime lives in its own thread, so that ending it also ends every open connection.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(port: u16, shared: Arc<Shared>) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("fake-api".into()).spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the listener is non-blocking");
                tokio::select! {
                    // Neither arm loses anything: the runtime ends right after, with all connections.
                    _ = axum::serve(listener, routes(shared)) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Server { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed already.
            let _ = thread.join();
        }
    }
}

struct App {
    shared: Arc<Shared>,
    memory: Mutex<Memory>,
}

fn routes(shared: Arc<Shared>) -> Router {
    let app = Arc::new(App { shared, memory: Mutex::default() });
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/", any(hello))
        .route("/api/hello", any(hello))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(app)
}

async fn hello() -> StatusCode {
    StatusCode::OK
}

async fn count_tokens(body: Bytes) -> Response {
    // Four bytes a token is near enough for what the CLI does with it.
    json_response(StatusCode::OK, &json!({"input_tokens": body.len() / 4}))
}

async fn messages(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(value) = serde_json::from_slice::<Value>(&body) else {
        return json_response(
            StatusCode::BAD_REQUEST,
            &json!({"type": "error", "error":
            {"type": "invalid_request_error", "message": "the body is not JSON"}}),
        );
    };
    let request = Request::read(&headers, &value, body.len());
    let credential = request.credential().to_owned();
    let stream = request.stream;
    app.shared.record(request);

    let conversation = Conversation::read(&value);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let answer = answer(&conversation, &credential, &mut app.memory.lock().expect("no panic while held"), now);
    tokio::time::sleep(answer.sleep).await;

    let mut response = match &answer.content {
        Content::Failure(failure) => {
            let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json_response(status, &wire::failure(failure))
        }
        Content::Message(message) if stream => body_of("text/event-stream", wire::streamed(message)),
        Content::Message(message) => {
            if let Some((count, pause)) = message.slow {
                tokio::time::sleep(pause * u32::try_from(count).unwrap_or(u32::MAX)).await;
            }
            let text = Part::Bytes(wire::whole(message).to_string());
            body_of("application/json", if message.broken { vec![Part::Break] } else { vec![text] })
        }
    };
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = body_of("application/json", vec![Part::Bytes(value.to_string())]);
    *response.status_mut() = status;
    response
}

fn body_of(kind: &'static str, parts: Vec<Part>) -> Response {
    let chunks = stream::unfold(parts.into_iter(), |mut parts| async move {
        loop {
            match parts.next()? {
                Part::Wait(pause) => tokio::time::sleep(pause).await,
                Part::Bytes(text) => return Some((Ok(Bytes::from(text)), parts)),
                // An error in the body makes the server cut the connection; the pause lets go out what came before.
                Part::Break => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    return Some((Err(io::Error::other("dropped as the script asks")), parts));
                }
            }
        }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
