//! Redis servers with settings of their own, on a port, for a pool that is given one by URL: alone, with a replica and
//! Sentinels, or as nodes of a cluster. Each ends with the value that stands for it.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::fleet::PATIENCE;

/// One server; ended with the value.
pub struct Process {
    child: Child,
    /// Where it listens on loopback.
    pub port: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody had a moment ago. Who is given one has to find out whether it was taken meanwhile.
fn port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    socket.expect("a port").port()
}

impl Process {
    /// Starts `redis-server` with arguments for a port, in a directory.
    pub async fn start(dir: &Path, arguments: impl Fn(u16) -> Vec<String>) -> Self {
        for _ in 0..20 {
            let port = port();
            let name = ["redis-server", "valkey-server"].into_iter().find(|name| is_on_path(name));
            let mut command = Command::new(name.expect("a server on PATH"));
            command.args(arguments(port)).current_dir(dir);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = Self { child: command.spawn().expect("it starts"), port };
            let until = Instant::now() + PATIENCE;
            while process.lives() && TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < until, "the server does not listen");
                sleep(Duration::from_millis(20)).await;
            }
            // Somebody else may have taken the port meanwhile, and answers there.
            if process.lives() {
                return process;
            }
        }
        panic!("the server ends at once, with {:?}", arguments(0));
    }

    /// The same, a Redis that keeps nothing, with flags besides.
    pub async fn redis(dir: &Path, flags: impl Fn(u16) -> Vec<String>) -> Self {
        let dir_text = dir.display().to_string();
        Self::start(dir, |port| {
            let common = ["--bind", "127.0.0.1", "--save", "", "--dir", &dir_text].map(str::to_owned);
            common.into_iter().chain(flags(port)).collect()
        })
        .await
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A connection as the operator has it.
    pub async fn operator(&self, password: &str) -> Operator {
        let client = redis::Client::open(format!("redis://:{password}@127.0.0.1:{}", self.port)).expect("a URL");
        Operator(client.get_multiplexed_async_connection().await.expect("it answers"))
    }
}

fn is_on_path(name: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(name).is_file())
}

/// Who may do everything.
#[derive(Clone)]
pub struct Operator(pub MultiplexedConnection);

impl Operator {
    /// Has a command carried out.
    pub async fn does<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        let answer = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.0).await;
        answer.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Waits until a command's answer is as wanted.
    pub async fn sees(&mut self, command: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer: Result<String, _> = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.0).await;
            match &answer {
                Ok(text) if wanted(text) => return text.clone(),
                _ => assert!(Instant::now() < until, "{command:?} still says {answer:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A primary, its replica, and three Sentinels that watch over them.
pub struct Watched {
    /// The primary and the replica, as they began.
    pub servers: Vec<Process>,
    /// The Sentinels.
    pub sentinels: Vec<Process>,
}

impl Watched {
    /// Starts them; they are ready for a failover. All want `password`; `tls` are flags for servers and Sentinels.
    pub async fn start(dir: &Path, password: &str) -> Self {
        let flags = |port: u16| {
            let port = port.to_string();
            ["--port", &port, "--requirepass", password, "--masterauth", password].map(str::to_owned).to_vec()
        };
        let primary = Process::redis(&own(dir, "primary"), flags).await;
        let of = primary.port.to_string();
        let replica = Process::redis(&own(dir, "replica"), |port| {
            let of = ["--replicaof", "127.0.0.1", &of, "--repl-diskless-sync-delay", "0"].map(str::to_owned);
            flags(port).into_iter().chain(of).collect()
        })
        .await;
        let up = |text: &str| text.contains("master_link_status:up");
        replica.operator(password).await.sees(&["INFO", "replication"], up).await;
        let mut sentinels = Vec::new();
        for n in 0..3 {
            let home = own(dir, &format!("sentinel-{n}"));
            let file = home.join("sentinel.conf");
            let text = format!(
                "requirepass watch\nsentinel sentinel-pass watch\nsentinel monitor main 127.0.0.1 {of} 2\n\
                 sentinel auth-pass main {password}\nsentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 4000\n"
            );
            let sentinel = Process::start(&home, |port| {
                std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{text}")).expect("its configuration");
                vec![file.display().to_string(), "--sentinel".to_owned()]
            });
            sentinels.push(sentinel.await);
        }
        for sentinel in &sentinels {
            let mut operator = sentinel.operator("watch").await;
            // They know each other, and the replica.
            operator.sees(&["SENTINEL", "CKQUORUM", "main"], |text| text.starts_with("OK 3")).await;
            let until = Instant::now() + PATIENCE;
            while operator.does::<Vec<redis::Value>>(&["SENTINEL", "REPLICAS", "main"]).await.is_empty() {
                assert!(Instant::now() < until, "the Sentinels see no replica");
                sleep(Duration::from_millis(20)).await;
            }
        }
        Self { servers: vec![primary, replica], sentinels }
    }

    /// The URL that a user gives.
    #[must_use]
    pub fn url(&self, password: &str) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://:{password}@{}/main?sentinel_password=watch", hosts.join(","))
    }
}

/// A Sentinel that names the server on this port, whatever it is; gives its own port.
pub async fn sentinel_that_names(server: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port of its own");
    let own = listener.local_addr().expect("it has an address").port();
    let text = server.to_string();
    let answer = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{text}\r\n", text.len());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    // What a client says of itself comes in the same piece; each command has an answer.
                    let commands = piece[..read].iter().filter(|byte| **byte == b'*').count();
                    for _ in 0..commands {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    own
}

/// A cluster of so many nodes without replicas, which share the slots.
pub async fn cluster(dir: &Path, nodes: u32) -> Vec<Process> {
    let mut started: Vec<Process> = Vec::new();
    for n in 0..nodes {
        let home = own(dir, &format!("node-{n}"));
        let node = Process::redis(&home, |server| {
            // For talk among the nodes; by default a number that may be none.
            let (server, bus) = (server.to_string(), port().to_string());
            ["--port", &server, "--cluster-enabled", "yes", "--cluster-port", &bus].map(str::to_owned).to_vec()
        })
        .await;
        let (from, to) = (16384 * n / nodes, 16384 * (n + 1) / nodes - 1);
        let mut operator = node.operator("").await;
        let () = operator.does(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
        if let Some(first) = started.first() {
            let bus: Vec<String> = first.operator("").await.does(&["CONFIG", "GET", "cluster-port"]).await;
            let () = operator.does(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), &bus[1]]).await;
        }
        started.push(node);
    }
    let whole =
        |text: &str| text.contains("cluster_state:ok") && text.contains(&format!("cluster_known_nodes:{nodes}\r"));
    for node in &started {
        node.operator("").await.sees(&["CLUSTER", "INFO"], whole).await;
    }
    started
}

fn own(dir: &Path, name: &str) -> PathBuf {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}
