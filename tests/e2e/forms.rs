//! The Redis as users have it: each way to reach one, with tasks that go all the way through it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use motorpool::{ErrorKind, Pool, State};
use motorpool_tests::fleet::{Cli, Fleet, PATIENCE};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::time::{Instant, sleep};

const TASKS: usize = 20;

/// A redis-server with settings of its own; ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tasks through the Redis at a URL: claimed, run and brought back by workers that were given it.
async fn through(fleet: &mut Fleet, url: &str) {
    fleet.env("MOTORPOOL_REDIS_URL", url);
    let own = fleet.pool.clone();
    let until = Instant::now() + PATIENCE;
    fleet.pool = loop {
        match Pool::builder(url).patience(Duration::from_millis(500)).connect().await {
            Ok(pool) => break pool,
            // It is just being started.
            Err(error) if error.kind() == ErrorKind::Redis && Instant::now() < until => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let (one, two) = (fleet.worker(&[]), fleet.worker(&[]));
    let mut ids = Vec::new();
    for n in 0..TASKS {
        ids.push(fleet.submit(&format!("@say {n}"), json!({})).await);
    }
    for (n, id) in ids.into_iter().enumerate() {
        let record = fleet.over(id).await;
        assert_eq!((record.state, record.output), (State::Completed, Some(n.to_string())), "{}", fleet.logs());
    }
    let findings = fleet.pool.examine().await.expect("the pool answers");
    assert_eq!((findings.tasks, findings.broken), (TASKS, Vec::<String>::new()));
    for worker in [one, two] {
        fleet.kill(worker, nix::sys::signal::Signal::SIGTERM);
        assert_eq!(fleet.ended(worker).await, Some(0), "{}", fleet.logs());
    }
    fleet.pool = own;
}

/// Starts a redis-server on a port that nobody had a moment ago.
async fn start(dir: &Path, flags: impl Fn(u16) -> Vec<String>) -> (Server, u16) {
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.expect("a port").port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir).args(flags(port));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Server(command.spawn().expect("redis-server starts"));
        let until = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "redis-server does not listen");
            sleep(Duration::from_millis(20)).await;
            if server.0.try_wait().expect("its state").is_some() {
                break;
            }
        }
        // Somebody else may have taken the port meanwhile.
        if server.0.try_wait().expect("its state").is_none() {
            return (server, port);
        }
    }
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, text).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    file
}

/// An authority, and what it vouches for: `NAME.pem` and `NAME.key` of each name.
fn vouched(dir: &Path, names: &[&str]) -> PathBuf {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority");
    let key = KeyPair::generate().expect("a key");
    let own = params.self_signed(&key).expect("a certificate");
    let authority = Issuer::new(params, key);
    for name in names {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, *name);
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        write(dir, &format!("{name}.pem"), &certificate.pem());
        write(dir, &format!("{name}.key"), &key.serialize_pem());
    }
    write(dir, "ca.pem", &own.pem())
}

#[tokio::test]
async fn a_redis_behind_tls_that_wants_to_know_its_clients() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let dir = fleet.path("tls");
    std::fs::create_dir(&dir).expect("a directory");
    let ca = vouched(&dir, &["server", "client"]);
    let file = |name: &str| dir.join(name).display().to_string();
    let flags = |port: u16| {
        let port = port.to_string();
        let flags = ["--port", "0", "--tls-port", &port, "--tls-auth-clients", "yes", "--requirepass", "ge/heim"];
        let files = ["--tls-cert-file", &file("server.pem"), "--tls-key-file", &file("server.key")];
        let ca = ["--tls-ca-cert-file", &file("ca.pem")];
        flags.iter().chain(&files).chain(&ca).map(|flag| (*flag).to_owned()).collect()
    };
    let (server, port) = start(&dir, flags).await;
    let (ca, pem, key) = (ca.display().to_string(), file("client.pem"), file("client.key"));
    let whole = format!("rediss://:ge%2Fheim@localhost:{port}?ca={ca}&cert={pem}&key={key}");
    through(&mut fleet, &whole).await;
    assert!(!fleet.logs().contains("heim"), "{}", fleet.logs());
    // What is missing is told, whatever the server makes of it.
    for (url, kind) in [
        (format!("rediss://:ge%2Fheim@localhost:{port}?ca={ca}"), ErrorKind::Redis),
        (format!("rediss://:ge%2Fheim@localhost:{port}?cert={pem}&key={key}"), ErrorKind::Redis),
        (format!("redis://:ge%2Fheim@localhost:{port}"), ErrorKind::Redis),
        (format!("rediss://:falsch@localhost:{port}?ca={ca}&cert={pem}&key={key}"), ErrorKind::Redis),
        (format!("rediss://:ge%2Fheim@localhost:{port}?ca={ca}&cert={pem}"), ErrorKind::Usage),
        (format!("rediss://:ge%2Fheim@localhost:{port}?ca={key}.gone"), ErrorKind::Usage),
    ] {
        let patience = Duration::from_millis(300);
        let connecting = async { Pool::builder(&url).patience(patience).build()?.status().await.map(drop) };
        let error = connecting.await.expect_err(&url);
        assert_eq!(error.kind(), kind, "{url}: {error}");
        assert!(error.hint_text().is_some() && !error.to_string().contains("heim"), "{url}: {error}");
    }
    drop(server);
    fleet.end().await;
}

#[tokio::test]
async fn a_redis_with_a_user_and_a_password() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let dir = fleet.path("acl");
    std::fs::create_dir(&dir).expect("a directory");
    // The rights that the documentation names, and no others.
    let rights = "~mp:{default}:* &mp:{default}:* +@all -@admin -@dangerous +info +role +config|get";
    let users = write(&dir, "users", &format!("user default off\nuser worker on >ge@heim {rights}\n"));
    let flags =
        |port: u16| vec!["--port".to_owned(), port.to_string(), "--aclfile".to_owned(), users.display().to_string()];
    let (server, port) = start(&dir, flags).await;
    through(&mut fleet, &format!("redis://worker:ge%40heim@127.0.0.1:{port}")).await;
    let closed = Pool::builder(&format!("redis://127.0.0.1:{port}")).patience(Duration::from_millis(300)).connect();
    let error = closed.await.expect_err("it wants a password");
    assert!(error.message().contains("another user or password"), "{error}");
    drop(server);
    fleet.end().await;
}
