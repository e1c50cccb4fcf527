//! A full disk below a worker stops the worker, not its task.

use std::path::{Path, PathBuf};
use std::process::Command;

use motorpool::{Class, State};
use motorpool_tests::fleet::{Cli, Fleet, program};
use serde_json::json;

/// A file system of a megabyte.
struct Small(PathBuf);

impl Small {
    /// Nothing where this user may not mount any.
    fn new(dir: &Path) -> Option<Self> {
        std::fs::create_dir(dir).expect("a directory");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir.to_owned())),
            other => {
                eprintln!("NOT TESTED: no file system can be mounted here: {other:?}");
                None
            }
        }
    }

    /// Writes until it is full.
    fn fill(&self) {
        let full = std::fs::write(self.0.join("fill"), vec![b'.'; 2 * 1024 * 1024]).expect_err("it is too small");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// A read-only one in the place of a directory.
    fn read_only(dir: &Path) -> Self {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(dir).status();
        assert!(mount.expect("it starts").success());
        Self(dir.to_owned())
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("fill")).expect("it was filled");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a worker may be in it still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_its_worker_and_costs_the_task_nothing() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let Some(small) = Small::new(&fleet.path("small")) else { return fleet.end().await };
    fleet.env("MOTORPOOL_PROBE_AGAIN_MS", "300");
    // As the CLI does where it cannot write: it says so on stderr and goes.
    let fake = program("fake-claude");
    let text = format!(
        "#!/bin/sh\ncase \"$1\" in --version|auth) exec '{0}' \"$@\";; esac\n\
         head -c 9999 /dev/zero > probe || {{ echo 'ENOSPC: no space left on device, write' >&2; exit 1; }}\n\
         exec '{0}' \"$@\"\n",
        fake.display()
    );
    let writes = fleet.script("writes", &text).display().to_string();
    for dir in ["work", "state"] {
        std::fs::create_dir(small.0.join(dir)).expect("a directory");
    }
    let (work, state) = (small.0.join("work").display().to_string(), small.0.join("state").display().to_string());
    let in_work = fleet.joined(&["--lanes", "work", "--working-dir", &work, "--claude-bin", &writes]).await;
    let in_state = fleet.joined(&["--lanes", "state", "--state-dir", &state]).await;
    small.fill();
    let servers = json!({"x": {"command": "true"}});
    let tasks = [
        (in_work, fleet.submit("@say done", json!({"lane": "work"})).await),
        (in_state, fleet.submit("@say done", json!({"lane": "state", "mcp_servers": servers})).await),
    ];
    for (pid, id) in tasks {
        let worker = fleet.worker_is(pid, "unfit", |worker| worker.unfit.is_some()).await;
        let unfit = worker.unfit.expect("it is");
        assert_eq!(unfit.class, Class::Internal);
        assert!(unfit.message.contains("small") && unfit.message.contains("is full"), "{unfit:?}");
        assert!(unfit.hint.is_some_and(|hint| hint.contains("make room")));
        let record = fleet.reaches(id, State::Pending).await;
        assert_eq!((record.run, record.attempt), (1, 0), "{record:#?}\n{}", fleet.logs());
        assert!(record.reason.as_deref().unwrap_or_default().contains("is full"), "{record:#?}");
    }
    // Another machine takes one of them; the other one is done where there is room again.
    let other = fleet.joined(&["--lanes", "work"]).await;
    let record = fleet.over(tasks[0].1).await;
    assert_eq!((record.state, record.run, record.attempt), (State::Completed, 2, 1), "{record:#?}");
    fleet.worker_is(other, "fit", |worker| worker.unfit.is_none()).await;
    small.make_room();
    let record = fleet.over(tasks[1].1).await;
    assert_eq!((record.state, record.run, record.attempt), (State::Completed, 2, 1), "{record:#?}");
    assert_eq!(record.runs[0].worker, record.runs[1].worker);
    fleet.worker_is(in_work, "fit again", |worker| worker.unfit.is_none()).await;

    // A disk that turns read-only, as one does with errors. Who only reads in such a place goes on.
    let turned = Small::read_only(&small.0.join("state/runs"));
    let by_intent = Small::read_only(&small.0.join("work"));
    let servers = json!({"x": {"command": "true"}});
    let stopped = fleet.submit("@say done", json!({"lane": "state", "mcp_servers": servers})).await;
    let worker = fleet.worker_is(in_state, "unfit", |worker| worker.unfit.is_some()).await;
    assert!(worker.unfit.is_some_and(|unfit| unfit.message.contains("is read-only")));
    let reads = fleet.joined(&["--lanes", "reads", "--working-dir", &work]).await;
    let passing = fleet.submit("@status 529 Overloaded", json!({"lane": "reads"})).await;
    let record = fleet.reaches(passing, State::Delayed).await;
    assert_eq!(record.runs[0].class, Some(Class::Transient), "{record:#?}");
    fleet.worker_is(reads, "fit all the time", |worker| worker.unfit.is_none()).await;
    drop((turned, by_intent));
    let record = fleet.over(stopped).await;
    assert_eq!((record.state, record.attempt), (State::Completed, 1), "{record:#?}");
    fleet.end().await;
}
