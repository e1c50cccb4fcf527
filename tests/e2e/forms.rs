//! The Redis as users have it: each way to reach one, with tasks that go all the way through it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use motorpool::{ErrorKind, Pool, State};
use motorpool_tests::fleet::{Cli, Fleet, PATIENCE};
use motorpool_tests::servers::{Process, Watched, cluster, sentinel_that_names};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::time::{Instant, sleep};

const TASKS: usize = 20;

/// The pool at a URL.
async fn reached(url: &str) -> Pool {
    let until = Instant::now() + PATIENCE;
    loop {
        match Pool::builder(url).patience(Duration::from_millis(500)).connect().await {
            Ok(pool) => return pool,
            // It is just being started.
            Err(error) if error.kind() == ErrorKind::Redis && Instant::now() < until => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Tasks through the Redis at a URL: claimed, run and brought back by workers that were given it.
async fn through(fleet: &mut Fleet, url: &str) {
    let own = std::mem::replace(&mut fleet.pool, reached(url).await);
    fleet.env("MOTORPOOL_REDIS_URL", url);
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
    let server = Process::redis(&dir, flags).await;
    let port = server.port;
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
    let server = Process::redis(&dir, flags).await;
    let port = server.port;
    through(&mut fleet, &format!("redis://worker:ge%40heim@127.0.0.1:{port}")).await;
    let closed = Pool::builder(&format!("redis://127.0.0.1:{port}")).patience(Duration::from_millis(300)).connect();
    let error = closed.await.expect_err("it wants a password");
    assert!(error.message().contains("another user or password"), "{error}");
    drop(server);
    fleet.end().await;
}

#[tokio::test]
async fn a_redis_on_a_socket_with_a_password_and_a_database() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let dir = fleet.path("at@home");
    std::fs::create_dir(&dir).expect("a directory");
    let socket = dir.join("r.sock").display().to_string();
    let flags = |port: u16| {
        let port = port.to_string();
        ["--port", &port, "--unixsocket", &socket, "--requirepass", "geheim"].map(str::to_owned).to_vec()
    };
    let server = Process::redis(&dir, flags).await;
    through(&mut fleet, &format!("unix://{socket}?db=3&pass=geheim")).await;
    let mut operator = server.operator("geheim").await;
    let spaces: String = operator.does(&["INFO", "keyspace"]).await;
    assert!(spaces.contains("db3:") && !spaces.contains("db0:"), "{spaces}");
    assert!(!fleet.logs().contains("geheim"), "{}", fleet.logs());
    drop(server);
    fleet.end().await;
}

#[tokio::test]
async fn a_cluster_of_one_node() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let nodes = cluster(&fleet.path("cluster"), 1).await;
    let url = format!("redis://127.0.0.1:{}", nodes[0].port);
    through(&mut fleet, &url).await;
    // A cluster has one database.
    let error = Pool::builder(&format!("{url}/1")).connect().await.expect_err("there is no such database");
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert!(error.to_string().contains("leave /DB out"), "{error}");
    drop(nodes);
    fleet.end().await;
}

/// All of a pool is in one slot, so one node has it; whichever node is named knows which.
#[tokio::test]
async fn a_cluster_of_three_nodes_whichever_is_named() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let nodes = cluster(&fleet.path("cluster"), 3).await;
    let mut has_keys = 0;
    through(&mut fleet, &format!("redis://127.0.0.1:{}", nodes[0].port)).await;
    for node in &nodes {
        let keys: u64 = node.operator("").await.does(&["DBSIZE"]).await;
        has_keys += u32::from(keys > 0);
        let pool = reached(&format!("redis://127.0.0.1:{}", node.port)).await;
        assert_eq!(pool.examine().await.expect("it answers").tasks, TASKS);
    }
    assert_eq!(has_keys, 1, "a pool is in one node");
    drop(nodes);
    fleet.end().await;
}

#[tokio::test]
async fn a_redis_that_sentinels_watch_over_fails_over() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let mut watched = Watched::start(&fleet.path("watched"), "geheim").await;
    let url = watched.url("geheim");
    let patient = Pool::builder(&url).patience(PATIENCE).connect().await.expect("it answers");
    let own = std::mem::replace(&mut fleet.pool, patient);
    fleet.env("MOTORPOOL_REDIS_URL", &url);
    let workers = [fleet.worker(&[]), fleet.worker(&[])];
    let mut ids = Vec::new();
    for n in 0..TASKS {
        let prompt = format!("@bash touch begun-{n}; until [ -e go ]; do sleep 0.02; done\n@say {n}");
        ids.push(fleet.submit(&prompt, json!({})).await);
    }
    let begun = |fleet: &Fleet| (0..TASKS).filter(|n| fleet.work.join(format!("begun-{n}")).exists()).count();
    fleet.until("two tasks have begun", async |fleet| (begun(fleet) == 2).then_some(())).await;
    // What was acknowledged until now is with the replica.
    let mut operator = watched.servers[0].operator("geheim").await;
    let () = operator.does(&["SET", "mark", "1"]).await;
    let replicas: u64 = operator.does(&["WAIT", "1", "30000"]).await;
    assert_eq!(replicas, 1);
    watched.servers[0].kill();
    // And one of those who know, the first that is named.
    watched.sentinels[0].kill();
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    let began = Instant::now();
    for (n, id) in ids.into_iter().enumerate() {
        let record = fleet.over(id).await;
        assert_eq!((record.state, record.output), (State::Completed, Some(n.to_string())), "{}", fleet.logs());
        assert_eq!(record.attempt, 1, "{}", fleet.logs());
    }
    eprintln!("all tasks were done {:?} after the primary was killed", began.elapsed());
    let findings = fleet.pool.examine().await.expect("the pool answers");
    assert_eq!((findings.tasks, findings.broken), (TASKS, Vec::<String>::new()));
    let logs = fleet.logs();
    assert!(logs.contains("the Sentinels name another primary"), "{logs}");
    assert!(logs.contains("Redis is away; reconnecting") && logs.contains("Redis is back"), "{logs}");
    assert!(!logs.contains("geheim") && !logs.contains("sentinel_password=watch"), "{logs}");
    // The idle workers wait at the new one: this is fetched without anybody looking around.
    assert_eq!(fleet.run("@say next", json!({})).await.run, 1);
    for pid in workers {
        fleet.kill(pid, nix::sys::signal::Signal::SIGTERM);
        assert_eq!(fleet.ended(pid).await, Some(0), "{}", fleet.logs());
    }
    fleet.pool = own;
    drop(watched);
    fleet.end().await;
}

/// A Sentinel that has not heard of the failover yet, or of the end of one.
#[tokio::test]
async fn a_replica_that_a_sentinel_names_is_not_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Process::redis(dir.path(), |port| vec!["--port".to_owned(), port.to_string()]).await;
    let mut operator = server.operator("").await;
    let () = operator.does(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let gone =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let named = sentinel_that_names(server.port).await;
    let url = format!("redis+sentinel://127.0.0.1:{gone},127.0.0.1:{named}/main");
    let pool = Pool::builder(&url).patience(Duration::from_millis(300)).build().expect("its URL does");
    let error = pool.status().await.expect_err("a replica takes no writes");
    assert!(error.kind() == ErrorKind::Redis && error.message().contains("no primary"), "{error}");
    let () = operator.does(&["REPLICAOF", "NO", "ONE"]).await;
    pool.status().await.expect("it is a primary");
    // None of them answers; none knows the service.
    let url = format!("redis+sentinel://127.0.0.1:{gone}/main");
    let error = Pool::builder(&url).patience(Duration::from_millis(300)).connect().await.expect_err("nobody is there");
    assert!(error.message().contains("no Sentinel answers") && error.message().contains(&gone.to_string()), "{error}");
}
