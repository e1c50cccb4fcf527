//! The server over real sockets, with a client of a few lines: one request, read to the end of the connection.

use super::FakeApi;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(30);

async fn send(api: &FakeApi, request: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", api.port())).await.unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the answer ends").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(api: &FakeApi, prompt: &str, stream: bool) -> String {
    let body = json!({"model": "m", "stream": stream, "system": "S", "tools": [{"name": "Bash"}],
        "messages": [{"role": "user", "content": prompt}]});
    send(api, "POST /v1/messages", "x-api-key: dummy\r\n", &body.to_string()).await
}

#[tokio::test]
async fn answers_in_one_piece_and_as_a_stream() {
    let api = FakeApi::start().await;
    let whole = ask(&api, "@say hello", false).await;
    assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    let start = whole.find('{').unwrap();
    let value: Value = serde_json::from_str(&whole[start..=whole.rfind('}').unwrap()]).unwrap();
    assert_eq!(value["content"][0]["text"], "hello");

    let streamed = ask(&api, "@slow 3 1\n@say hello", true).await;
    assert!(streamed.contains("text/event-stream") && streamed.contains("event: message_stop"), "{streamed}");

    let requests = api.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].last_user_text(), "@slow 3 1\n@say hello");
    assert_eq!((requests[0].credential(), requests[0].system.as_str()), ("dummy", "S"));
    assert_eq!(requests[0].tools, ["Bash"]);
    api.wait_for(|request| request.stream, SOON).await;
}

#[tokio::test]
async fn errors_limits_and_cuts_reach_the_client() {
    let api = FakeApi::start().await;
    let limited = ask(&api, "@limit 60\n@retry-after 3", true).await;
    assert!(limited.starts_with("HTTP/1.1 429"), "{limited}");
    assert!(limited.contains("anthropic-ratelimit-unified-representative-claim: five_hour"), "{limited}");
    assert!(limited.contains("retry-after: 3") && limited.contains("rate_limit_error"), "{limited}");

    let cut = ask(&api, "@drop\n@say hello", true).await;
    assert!(cut.contains("content_block_delta") && !cut.contains("message_stop"), "{cut}");
    assert!(!cut.ends_with("0\r\n\r\n"), "the end of a chunked body is missing: {cut}");
}

#[tokio::test]
async fn other_paths_and_large_prompts() {
    let api = FakeApi::start().await;
    assert!(send(&api, "HEAD /", "", "").await.starts_with("HTTP/1.1 200"));
    assert!(send(&api, "HEAD /api/hello", "", "").await.starts_with("HTTP/1.1 200"));
    assert!(send(&api, "GET /v1/models", "", "").await.starts_with("HTTP/1.1 404"));
    assert!(send(&api, "POST /v1/messages/count_tokens", "", "{}").await.contains("input_tokens"));
    assert!(send(&api, "POST /v1/messages", "", "no").await.starts_with("HTTP/1.1 400"));
    let large = ask(&api, &format!("{}\n@say passed", "x".repeat(3 << 20)), false).await;
    assert!(large.contains("passed"), "{}", &large[..200]);
}

#[tokio::test]
async fn the_port_is_free_after_a_drop() {
    let api = FakeApi::start().await;
    let port = api.port();
    drop(api);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    let again = FakeApi::serve(port, None).unwrap();
    assert!(ask(&again, "@say back", false).await.contains("back"));
}
