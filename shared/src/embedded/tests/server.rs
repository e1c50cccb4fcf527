//! The private server: it starts, keeps what it was given, says what is wrong, and goes with its owner.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::yard::PATIENCE;
use crate::ErrorKind;
use crate::embedded::log;
use crate::embedded::server::cause;
use crate::embedded::{Ping, Server, ServerOptions, ping, socket_url};

/// One command in Redis's inline form, and its answer as it comes.
pub(super) async fn ask(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..read]).trim_end().to_owned()
}

pub(super) fn path() -> OsString {
    std::env::var_os("PATH").unwrap()
}

async fn start(dir: &Path) -> crate::Result<Server> {
    Server::start(ServerOptions { dir: dir.to_owned(), socket: dir.join("s"), path: path(), lock: None }).await
}

pub(super) fn append_only_file(dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(dir.join("appendonlydir")).unwrap();
    let mut files = entries.map(|entry| entry.unwrap().path());
    files.find(|file| file.to_string_lossy().ends_with(".incr.aof")).unwrap()
}

#[tokio::test]
async fn it_syncs_every_write_evicts_nothing_and_opens_no_port() {
    let server = Server::temporary().await.unwrap();
    for (name, value) in [
        ("appendfsync", "always"),
        ("appendonly", "yes"),
        ("maxmemory-policy", "noeviction"),
        ("port", "0"),
        ("save", "\r\n$0"),
        ("unixsocketperm", "700"),
    ] {
        let answer = ask(server.socket(), &format!("CONFIG GET {name}")).await;
        assert!(answer.ends_with(value), "{name}: {answer}");
    }
    assert!(!ask(server.socket(), "CONFIG GET maxmemory").await.ends_with("\n0"));
    assert_eq!(server.url(), socket_url(server.socket()));
}

#[tokio::test]
async fn a_temporary_one_leaves_nothing() {
    let server = Server::temporary().await.unwrap();
    let (socket, pid) = (server.socket().to_owned(), server.pid().unwrap());
    assert_eq!(ping(&socket).await, Ping::Ready);
    drop(server);
    assert!(!socket.parent().unwrap().exists());
    assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), None).is_err());
    assert_eq!(ping(&socket).await, Ping::Gone);
}

#[tokio::test]
async fn stopped_and_started_again_it_has_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await.unwrap();
    assert_eq!(ask(server.socket(), "SET x 1").await, "+OK");
    server.stop().await;
    let server = start(dir.path()).await.unwrap();
    assert_eq!(ask(server.socket(), "GET x").await, "$1\r\n1");
    drop(server);
    let mut server = start(dir.path()).await.unwrap();
    assert_eq!(ask(server.socket(), "GET x").await, "$1\r\n1");
    server.signal(nix::sys::signal::Signal::SIGKILL);
    let why = tokio::time::timeout(PATIENCE, server.ended()).await.unwrap();
    assert!(why.starts_with("it ended (signal: 9"), "{why}");
}

#[tokio::test]
async fn damaged_data_is_refused_with_the_way_to_repair_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await.unwrap();
    for n in 0..20 {
        ask(server.socket(), &format!("SET key{n} value{n}")).await;
    }
    server.stop().await;
    let file = append_only_file(dir.path());
    let whole = std::fs::read(&file).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(b'!');
    std::fs::write(&file, bytes).unwrap();
    let error = start(dir.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.message().contains("its append-only file is damaged"), "{error}");
    assert!(error.hint_text().unwrap().contains("redis-check-aof --fix"), "{error}");

    // A torn end, as a power cut leaves it, is no damage.
    std::fs::write(&file, &whole[..whole.len() - 7]).unwrap();
    let server = start(dir.path()).await.unwrap();
    assert_eq!(ask(server.socket(), "GET key18").await, "$7\r\nvalue18");
    server.stop().await;

    std::fs::remove_file(dir.path().join("appendonlydir/appendonly.aof.manifest")).unwrap();
    let error = start(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("has data, but no manifest"), "{error}");
}

#[tokio::test]
async fn a_missing_program_is_said_with_two_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let options = ServerOptions {
        dir: dir.path().to_owned(),
        socket: dir.path().join("s"),
        path: dir.path().as_os_str().to_owned(),
        lock: None,
    };
    let error = Server::start(options).await.unwrap_err().to_string();
    assert!(error.contains("sudo apt install redis-server") && error.contains("--redis-url"), "{error}");
}

#[test]
fn an_address_escapes_what_has_a_meaning() {
    assert_eq!(socket_url(Path::new("/run/a b?%.sock")), "unix:///run/a%20b%3F%25.sock");
}

#[test]
fn the_last_lines_of_a_log_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("redis.log");
    for (lines, why) in [
        (
            "7:M 25 Nov 2025 04:44:31.356 # Short write while writing to the AOF file: (nwritten=88871, expected=1000033)\n\
             7:M 25 Nov 2025 04:44:31.356 # Can't recover from AOF write error when the AOF fsync policy is 'always'. Exiting...\n",
            Some("the disk is full"),
        ),
        (
            "7:M 25 Nov 2025 04:44:31.356 # Error writing to the AOF file: No space left on device\n",
            Some("the disk is full"),
        ),
        ("7:M 25 Nov 2025 04:44:31.356 # Can't recover from AOF write error\n", Some("its disk cannot be written")),
        (
            "7:M 25 Nov 2025 04:44:31.356 # Bad file format reading the append only file a: make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>\n",
            Some("its append-only file is damaged"),
        ),
        ("7:M 25 Nov 2025 04:44:31.356 * User requested shutdown...\n", None),
    ] {
        std::fs::write(&file, lines).unwrap();
        let words = log::last_lines(&file, 0);
        assert_eq!(cause(&words), why, "{words}");
        assert!(!words.contains("Nov") && !words.is_empty(), "{words}");
        assert_eq!(log::last_lines(&file, log::length(&file)), "");
    }
}

#[test]
fn a_log_begins_anew_when_it_is_large() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("host.log");
    let log = std::fs::File::create(&file).unwrap();
    log.set_len(10 * 1024 * 1024).unwrap();
    drop(log::open(&file).unwrap());
    assert_eq!(log::length(&file), 10 * 1024 * 1024);
    log.set_len(10 * 1024 * 1024 + 1).unwrap();
    drop(log::open(&file).unwrap());
    assert_eq!(log::length(&file), 0);
}
