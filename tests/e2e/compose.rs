//! docker-compose.yml without a container engine: its commands, environments and health checks, as processes.
//!
//! What a container engine would give is stood in for: variables come from .env.example, names of services are
//! loopback, ports are free ones, volumes are directories of the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use motorpool_tests::fleet::{Cli, Fleet, PATIENCE, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_norway::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).expect(file)
}

/// `10s`, `1m`.
fn time(value: &Value) -> Duration {
    motorpool::settings::duration(value.as_str().expect("a time")).expect("a time")
}

/// `.env`, as its example says to make it: copied, and the password set.
fn dot_env(claude: &Path, api: &str) -> BTreeMap<String, String> {
    let example = read(".env.example");
    let lines = example.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let mut env: BTreeMap<String, String> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(env.keys().collect::<Vec<_>>(), ["REDIS_PASSWORD"], "what has to be set stands there without a #");
    let set = [
        ("REDIS_PASSWORD", "0a1b2c3d4e5f"),
        ("ANTHROPIC_API_KEY", "dummy"),
        ("ANTHROPIC_BASE_URL", api),
        ("MOTORPOOL_CLAUDE_BIN", claude.to_str().expect("a path")),
        ("MOTORPOOL_SLOTS", "1"),
    ];
    for (name, value) in set {
        assert!(example.contains(&format!("{name}=")) || name == "ANTHROPIC_BASE_URL", ".env.example names {name}");
        env.insert(name.to_owned(), value.to_owned());
    }
    env
}

/// Fills `${NAME:-default}`, `${NAME:?words}` and `$$`, as compose does.
fn filled(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            done.push('$');
            rest = after;
            continue;
        }
        let (inner, after) = after.strip_prefix('{').and_then(|text| text.split_once('}')).expect("${…}");
        rest = after;
        let (name, or) = inner.split_once(':').unwrap_or((inner, ""));
        match (env.get(name).filter(|value| !value.is_empty()), or.split_at_checked(1)) {
            (Some(value), _) => done.push_str(value),
            (None, Some(("-", default))) => done.push_str(default),
            (None, Some((_, words))) => panic!("{name} is missing: {words}"),
            (None, None) => {}
        }
    }
    done + rest
}

/// Where the containers run.
struct Yard {
    compose: Value,
    dot_env: BTreeMap<String, String>,
    dir: PathBuf,
    redis_port: u16,
    http_port: u16,
    children: Vec<(String, Child)>,
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("its number").port()
}

impl Yard {
    fn service(&self, name: &str) -> &Value {
        &self.compose["services"][name]
    }

    /// A text of the file as it stands outside of a container.
    fn outside(&self, service: &str, text: &str) -> String {
        let mut text = filled(text, &self.dot_env);
        for volume in self.service(service)["volumes"].as_sequence().into_iter().flatten() {
            let volume = filled(volume.as_str().expect("a volume"), &self.dot_env);
            let mut parts = volume.split(':');
            let (from, to) = (parts.next().expect("a source"), parts.next().expect("a target"));
            let place = match from.strip_prefix("./deploy/") {
                Some(file) => root().join("deploy").join(file),
                None => self.dir.join(from.trim_start_matches("./")),
            };
            text = text.replace(to, place.to_str().expect("a path"));
        }
        // A container's own network is this machine's loopback.
        let names = [("@redis:", "@127.0.0.1:"), ("* -::*", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")];
        for (from, to) in names {
            text = text.replace(from, to);
        }
        text.replace("6379", &self.redis_port.to_string()).replace("8787", &self.http_port.to_string())
    }

    /// What a container of a service has as its environment; `n` tells containers of one service apart.
    fn environment(&self, service: &str, n: usize) -> BTreeMap<String, String> {
        let home = self.dir.join(format!("{service}-{n}"));
        std::fs::create_dir_all(&home).expect("a home");
        let programs = program("motorpool");
        let path = std::env::var("PATH").unwrap_or_default();
        let path =
            format!("{}:{}:{path}", self.dir.join("bin").display(), programs.parent().expect("a directory").display());
        let mut env: BTreeMap<String, String> =
            [("PATH", path), ("HOME", home.display().to_string()), ("TMPDIR", home.display().to_string())]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        for (name, value) in self.service(service)["environment"].as_mapping().into_iter().flatten() {
            let name = name.as_str().expect("a name");
            let value = match value.as_str() {
                Some(text) => Some(self.outside(service, text)),
                // Passed on where it is set.
                None => self.dot_env.get(name).cloned(),
            };
            env.extend(value.map(|value| (name.to_owned(), value)));
        }
        env
    }

    /// Words of a command, the program first: the service's, else the image's.
    fn words(&self, service: &str) -> Vec<String> {
        let words = match &self.service(service)["command"] {
            Value::Null => {
                let image = read("deploy/Dockerfile");
                let line =
                    image.lines().rev().find_map(|line| line.strip_prefix("CMD ")).expect("a command").to_owned();
                serde_norway::from_str(&line).expect("a list")
            }
            words => words.clone(),
        };
        let words = words.as_sequence().expect("a list of words").clone();
        words.iter().map(|word| self.outside(service, word.as_str().expect("a word"))).collect()
    }

    fn command(&self, service: &str, n: usize, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.environment(service, n)).stdin(Stdio::null());
        command.current_dir(self.dir.join("work"));
        command
    }

    fn start(&mut self, service: &str, n: usize) -> i32 {
        let name = format!("{service}-{n}");
        let log = std::fs::File::create(self.dir.join(format!("{name}.log"))).expect("a log");
        let mut command = self.command(service, n, &self.words(service));
        let child = command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("it starts");
        let pid = child.id() as i32;
        self.children.push((name, child));
        pid
    }

    /// One look of the health check.
    async fn is_well(&self, service: &str, n: usize) -> bool {
        let check = &self.service(service)["healthcheck"];
        let test: Vec<&str> = check["test"].as_sequence().expect("a check").iter().filter_map(Value::as_str).collect();
        let words: Vec<String> = match test[0] {
            "CMD" => test[1..].iter().map(|word| self.outside(service, word)).collect(),
            "CMD-SHELL" => vec!["sh".into(), "-c".into(), self.outside(service, test[1])],
            other => panic!("{other} is no way to check"),
        };
        let mut command = tokio::process::Command::from(self.command(service, n, &words));
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // A loaded machine is no failure: its own limit, and some.
        let limit = time(&check["timeout"]) + Duration::from_secs(15);
        matches!(timeout(limit, command.status()).await, Ok(Ok(status)) if status.success())
    }

    /// Within the time after which it would count as unhealthy.
    async fn becomes_well(&self, service: &str, n: usize) {
        let check = &self.service(service)["healthcheck"];
        let retries = check["retries"].as_u64().expect("retries") as u32;
        let until = Instant::now() + time(&check["start_period"]) + time(&check["interval"]) * retries;
        while !self.is_well(service, n).await {
            assert!(Instant::now() < until, "{service} is not healthy in time\n{}", self.logs());
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn motorpool(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let words: Vec<String> = std::iter::once("motorpool").chain(args.iter().copied()).map(str::to_owned).collect();
        let mut command = tokio::process::Command::from(self.command("worker", 1, &words));
        let output = timeout(PATIENCE, command.kill_on_drop(true).output()).await.expect("it ends").expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// The status with which the dispatcher answers.
    async fn posted(&self, token: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http_port)).await.expect("it listens");
        let head = format!("Host: 127.0.0.1:{}\r\nAuthorization: Bearer {token}\r\nConnection: close", self.http_port);
        let request = format!("POST /mcp HTTP/1.1\r\n{head}\r\nContent-Length: 2\r\n\r\n{{}}");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        let _ = timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it answers");
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    fn logs(&self) -> String {
        let log = |(name, _): &(String, Child)| {
            format!("== {name}\n{}", std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default())
        };
        self.children.iter().map(log).collect()
    }

    /// Ends what is left as `docker compose down` does, and waits for it.
    async fn end(&mut self) {
        for (_, child) in &self.children {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        let until = Instant::now() + PATIENCE;
        while self.children.iter_mut().any(|(_, child)| matches!(child.try_wait(), Ok(None))) {
            assert!(Instant::now() < until, "not everything ends\n{}", self.logs());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn the_services_of_the_compose_file_work_together_as_processes() {
    // For its API, its directory, and what it ends when the test is over.
    let fleet = Fleet::new(Cli::StandIn).await;
    let dir = fleet.path("compose");
    for name in ["work", "bin", "redis-data"] {
        std::fs::create_dir_all(dir.join(name)).expect("a directory");
    }
    let mut yard = Yard {
        compose: serde_norway::from_str(&read("docker-compose.yml")).expect("YAML"),
        dot_env: dot_env(&program("fake-claude"), &fleet.api.url()),
        redis_port: free_port(),
        http_port: free_port(),
        children: Vec::new(),
        dir: dir.clone(),
    };
    std::fs::write(dir.join("motorpool.tokens"), format!("me {TOKEN}\n")).expect("the tokens");
    // In its container Redis has the port that its client asks by itself.
    let client = format!("#!/bin/sh\nexec {} -p {} \"$@\"\n", on_path("redis-cli").display(), yard.redis_port);
    std::fs::rename(fleet.script("redis-cli", &client), dir.join("bin/redis-cli")).expect("a client");

    let redis = yard.start("redis", 1);
    yard.becomes_well("redis", 1).await;
    yard.start("dispatcher", 1);
    yard.start("worker", 1);
    yard.start("worker", 2);
    for (service, n) in [("worker", 1), ("worker", 2), ("dispatcher", 1)] {
        yard.becomes_well(service, n).await;
    }
    assert_eq!(yard.posted("not the token").await, "401", "{}", yard.logs());
    assert!(!matches!(yard.posted(TOKEN).await.as_str(), "401" | "403" | ""), "{}", yard.logs());

    let until = Instant::now() + PATIENCE;
    loop {
        let (code, out, err) = yard.motorpool(&["status", "--json"]).await;
        assert_eq!(code, Some(0), "{err}");
        let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let count = |what: &str| status[what].as_array().map_or(0, Vec::len);
        if (count("hosts"), count("slots")) == (2, 2) {
            assert_eq!((&status["redis"]["append_only"], &status["redis"]["fsync"]), (&true.into(), &"always".into()));
            break;
        }
        assert!(Instant::now() < until, "two hosts with a worker each: {status}\n{}", yard.logs());
        sleep(Duration::from_millis(50)).await;
    }
    let (code, out, err) = yard.motorpool(&["run", "Go.\n@bash pwd >where\n@say hello from the cluster"]).await;
    assert_eq!((code, out.trim()), (Some(0), "hello from the cluster"), "{err}\n{}", yard.logs());
    let place = std::fs::read_to_string(dir.join("work/where")).expect("it worked in /work");
    assert_eq!(place.trim(), dir.join("work").display().to_string());

    kill(Pid::from_raw(redis), Signal::SIGKILL).expect("it runs");
    let _ = yard.children[0].1.wait();
    for (service, n) in [("redis", 1), ("worker", 1), ("worker", 2), ("dispatcher", 1)] {
        assert!(!yard.is_well(service, n).await, "{service} looks well without Redis");
    }
    // It comes back with what it had, and everything goes on by itself.
    yard.start("redis", 1);
    for (service, n) in [("redis", 1), ("worker", 1), ("worker", 2), ("dispatcher", 1)] {
        yard.becomes_well(service, n).await;
    }
    let (code, out, err) = yard.motorpool(&["result", "t1"]).await;
    assert_eq!((code, out.trim()), (Some(0), "hello from the cluster"), "{err}");
    yard.end().await;
    fleet.end().await;
}

fn on_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not on PATH"))
}
