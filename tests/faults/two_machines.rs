//! A worker on another machine whose cable is pulled: two network namespaces, with a wire between them.
//!
//! It needs the right to make namespaces; where that is missing it says so and checks nothing.

mod long {
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use motorpool::{Class, Pool, State};
    use motorpool_tests::faults::lives;
    use motorpool_tests::fleet::{Cli, Fleet};
    use nix::sys::signal::Signal;
    use serde_json::json;
    use tokio::time::Instant;

    const LEASE: Duration = Duration::from_secs(6);
    /// Addresses for examples, which nobody has.
    const SERVER: &str = "192.0.2.1";
    const WORKER: &str = "192.0.2.2";

    /// Two machines, named after this process; taken apart with the value.
    struct Machines {
        server: String,
        worker: String,
    }

    impl Drop for Machines {
        fn drop(&mut self) {
            for name in [&self.server, &self.worker] {
                let _ = ip(&["netns", "del", name]);
            }
        }
    }

    fn ip(arguments: &[&str]) -> Result<(), String> {
        let done = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        if done.status.success() { Ok(()) } else { Err(format!("ip {}: {said}", arguments.join(" "))) }
    }

    impl Machines {
        fn new() -> Result<Self, String> {
            let id = std::process::id();
            let machines = Self { server: format!("mp-s{id}"), worker: format!("mp-w{id}") };
            let (server, worker) = (machines.server.as_str(), machines.worker.as_str());
            ip(&["netns", "add", server])?;
            ip(&["netns", "add", worker])?;
            ip(&["-n", server, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", worker])?;
            for (name, address) in [(server, SERVER), (worker, WORKER)] {
                ip(&["-n", name, "address", "add", &format!("{address}/30"), "dev", "wire"])?;
                ip(&["-n", name, "link", "set", "wire", "up"])?;
                ip(&["-n", name, "link", "set", "lo", "up"])?;
            }
            Ok(machines)
        }

        /// Pulls the cable, or puts it back.
        fn wire(&self, state: &str) {
            ip(&["-n", &self.worker, "link", "set", "wire", state]).expect("it could be set up before");
        }
    }

    /// A server on the one machine, with a socket besides for who is on no machine.
    struct Redis(Child);

    impl Drop for Redis {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    impl Redis {
        async fn start(machines: &Machines, fleet: &Fleet) -> (Self, PathBuf) {
            let socket = fleet.path("far.sock");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &machines.server, "redis-server", "--port", "6379", "--bind", SERVER]);
            command.args(["--protected-mode", "no", "--save", "", "--unixsocket"]).arg(&socket);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let server = Self(command.spawn().expect("it starts"));
            fleet.until("the server listens", async |_| socket.exists().then_some(())).await;
            (server, socket)
        }
    }

    #[tokio::test]
    async fn a_cable_that_is_pulled_for_longer_than_the_lease() {
        let machines = match Machines::new() {
            Ok(machines) => machines,
            Err(why) => return eprintln!("not checked: this machine lets nobody make network namespaces ({why})"),
        };
        let mut fleet = Fleet::with_lease(Cli::StandIn, LEASE.as_secs()).await;
        let (server, socket) = Redis::start(&machines, &fleet).await;
        let url = format!("unix://{}", socket.display());
        let pool = Pool::builder(&url).lease(LEASE).connect().await.expect("it answers");
        let own = std::mem::replace(&mut fleet.pool, pool);
        // The far one alone at first, so that it has the task.
        fleet.env("MOTORPOOL_REDIS_URL", &format!("redis://{SERVER}:6379"));
        let inside = ["ip", "netns", "exec", &machines.worker];
        let far = fleet.start_by(&inside, "motorpool-worker", &["--lanes", "default,far"]);
        fleet.worker_is(far, "there", |_| true).await;
        let id = fleet.submit("@bash [ -e begun ] || { touch begun; sleep 300; }\n@say done", json!({})).await;
        fleet.until("it has begun", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
        fleet.env("MOTORPOOL_REDIS_URL", &url);
        let near = fleet.worker(&[]);
        fleet.worker_is(near, "there", |_| true).await;
        let claudes = fleet.claudes();
        assert!(!claudes.is_empty());
        machines.wire("down");
        let pulled = Instant::now();
        fleet
            .until("the far worker ends its Claude", async |_| (!claudes.iter().any(|pid| lives(*pid))).then_some(()))
            .await;
        // By its own clock, before anybody else has the task.
        assert_eq!(fleet.pool.task(id).await.expect("it is there").run, 1, "{}", fleet.logs());
        eprintln!("the far Claude was gone {:?} after the cable was pulled", pulled.elapsed());
        let record = fleet.over(id).await;
        assert_eq!((record.state, record.run), (State::Completed, 2), "{}", fleet.logs());
        assert_eq!(record.runs[0].class, Some(Class::Lost), "{record:?}");
        assert!(record.runs[1].started_ms >= record.runs[0].ended_ms.expect("it has ended"), "{record:?}");
        eprintln!("the near worker had done it {:?} after that", pulled.elapsed());
        assert!(lives(far), "{}", fleet.logs());
        machines.wire("up");
        let back = Instant::now();
        // What it brings of the lost run is refused; then it fetches.
        let next = fleet.run("@say back", json!({"lane": "far"})).await;
        assert_eq!((next.run, next.attempt), (1, 1), "{}", fleet.logs());
        eprintln!("the far worker had done its next task {:?} after the cable was back", back.elapsed());
        assert_eq!(fleet.pool.task(id).await.expect("it is there").run, 2);
        let logs = fleet.logs();
        assert!(logs.contains("Redis is away; reconnecting") && logs.contains("Redis is back"), "{logs}");
        assert_eq!(fleet.pool.examine().await.expect("it answers").broken, Vec::<String>::new());
        for pid in [far, near] {
            fleet.kill(pid, Signal::SIGTERM);
            assert_eq!(fleet.ended(pid).await, Some(0), "{}", fleet.logs());
        }
        fleet.pool = own;
        drop((server, machines));
        fleet.end().await;
    }
}
