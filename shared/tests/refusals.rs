//! A Redis that will not do is refused before anything is written, with what to do.

use std::time::Duration;

use motorpool::embedded::Server;
use motorpool::{Error, ErrorKind, Pool};
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

async fn refused(url: &str) -> Error {
    let connecting = Pool::builder(url).patience(Duration::from_millis(300)).connect();
    connecting.await.expect_err("this Redis does not do")
}

fn says(error: &Error, message: &str, hint: &str) {
    assert_eq!(error.kind(), ErrorKind::Redis, "{error}");
    assert!(error.message().contains(message), "{error}");
    assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{error}");
}

async fn connection(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn keys(connection: &mut MultiplexedConnection) -> u64 {
    redis::cmd("DBSIZE").query_async(connection).await.unwrap()
}

#[tokio::test]
async fn an_unreachable_one_is_named_with_what_was_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
    drop(listener);
    says(&refused(&url).await, &url, "--redis-url");
    says(&refused("unix:///nowhere/redis.sock").await, "/nowhere/redis.sock", "--redis-url");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let server = Server::temporary().await.unwrap();
    let mut admin = connection(&server).await;
    let () = redis::cmd("CONFIG").arg(&["SET", "requirepass", "right"]).query_async(&mut admin).await.unwrap();
    for url in [server.url(), format!("{}?pass=wrong-one", server.url())] {
        let error = refused(&url).await;
        says(&error, "password", "URL");
        assert!(!error.to_string().contains("wrong-one"), "{error}");
    }
    assert_eq!(keys(&mut admin).await, 0);
    server.stop().await;
}

#[tokio::test]
async fn one_that_evicts_is_refused_and_left_alone() {
    let server = Server::temporary().await.unwrap();
    let mut admin = connection(&server).await;
    let policy = ["SET", "maxmemory-policy", "allkeys-lru"];
    let () = redis::cmd("CONFIG").arg(&policy).query_async(&mut admin).await.unwrap();
    says(&refused(&server.url()).await, "allkeys-lru", "noeviction");
    assert_eq!(keys(&mut admin).await, 0);
    server.stop().await;
}

/// A stand-in that answers every command as a Redis 6.2 would answer INFO.
async fn old_redis() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut read = BufReader::new(read);
                loop {
                    let mut line = String::new();
                    if read.read_line(&mut line).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let words: usize = line.trim().trim_start_matches('*').parse().unwrap_or(0);
                    let mut command = Vec::new();
                    for _ in 0..words {
                        line.clear();
                        read.read_line(&mut line).await.unwrap();
                        let bytes: usize = line.trim().trim_start_matches('$').parse().unwrap();
                        let mut word = vec![0; bytes + 2];
                        read.read_exact(&mut word).await.unwrap();
                        command.push(String::from_utf8_lossy(&word[..bytes]).to_uppercase());
                    }
                    let info = "redis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n";
                    let answer = match command.first().map(String::as_str) {
                        Some("INFO") => format!("${}\r\n{info}\r\n", info.len()),
                        Some("PING") => match command.get(1) {
                            Some(text) => format!("${}\r\n{text}\r\n", text.len()),
                            None => "+PONG\r\n".to_owned(),
                        },
                        _ => "+OK\r\n".to_owned(),
                    };
                    if write.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn one_that_is_too_old_is_refused() {
    says(&refused(&old_redis().await).await, "6.2.14", "upgrade");
}
