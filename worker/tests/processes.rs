//! Processes of a run, played by shell scripts: found wherever they went, ended, verified gone.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use motorpool_worker::claude::command::{Command, Environment, RUN_MARK};
use motorpool_worker::process::{self, Started};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Mutex;

/// Orphans are handed to the process as a whole, so one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Generous: a slow machine is no failure.
const DEADLINE: Duration = Duration::from_secs(30);

fn environment(mark: &str) -> Environment {
    let mut env: Environment = std::env::vars_os().filter(|(name, _)| name == "PATH").collect();
    env.insert(RUN_MARK.into(), mark.into());
    env
}

/// A script that says `ready` when all its children are there.
async fn script(mark: &str, text: &str) -> Started {
    let command = Command {
        program: Path::new("/bin/sh").to_owned(),
        args: vec!["-c".into(), text.into()],
        env: environment(mark),
        cwd: std::env::temp_dir(),
        run: mark.to_owned(),
        input: String::new(),
        structured: false,
    };
    let mut started = process::start(&command).expect("a shell");
    let mut lines = BufReader::new(started.child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time").unwrap();
    assert_eq!(line.as_deref(), Some("ready"));
    started
}

fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A command that ignores what asks it to end, as do its children from the start, and is no `sleep` that the shell could
/// exec away.
const STUBBORN: &str = "trap '' TERM INT HUP; while :; do sleep 0.2; done";

#[tokio::test(flavor = "current_thread")]
async fn a_tree_is_gone_wherever_its_processes_went() {
    let _alone = ALONE.lock().await;
    motorpool::process::adopt_orphans().unwrap();
    let mark = format!("{}/t1/1", unique("tree"));
    let text = format!(
        "trap '' TERM INT HUP; {STUBBORN} & setsid sh -c \"{STUBBORN}\" & (setsid sh -c \"{STUBBORN}\" &) & \
         (env -i PATH=$PATH setsid sh -c \"{STUBBORN}\" &) & echo ready; {STUBBORN}"
    );
    let mut started = script(&mark, &text).await;
    // Three of them are in groups of their own, wherever their parents have gone.
    let (root, begun) = (started.pid, Instant::now());
    let groups = || {
        let alive = process::tree(root, &mark);
        let groups: BTreeSet<i32> = alive.iter().map(|one| one.group).filter(|group| *group != root).collect();
        (groups.len(), alive)
    };
    while groups().0 < 3 {
        assert!(begun.elapsed() < DEADLINE, "{:?}", groups());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process::signal_tree(root, &mark, nix::sys::signal::Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (count, alive) = groups();
    assert_eq!(count, 3, "they are stubborn: {alive:?}");

    process::kill_tree_and_verify(started.pid, &mark, DEADLINE).await.expect("all gone");
    assert_eq!(process::tree(started.pid, &mark), []);
    // Its own child's status was left for who waits for it, the others were reaped.
    assert!(!started.child.wait().await.unwrap().success());
    let pids: Vec<i32> = alive.iter().map(|one| one.pid).collect();
    process::reap_orphans();
    let left: Vec<_> = process::processes().into_iter().filter(|one| pids.contains(&one.pid)).collect();
    assert_eq!(left, []);
}

#[tokio::test(flavor = "current_thread")]
async fn other_children_of_the_worker_are_not_touched() {
    let _alone = ALONE.lock().await;
    motorpool::process::adopt_orphans().unwrap();
    let (mine, others) = (format!("{}/t1/1", unique("mine")), format!("{}/t2/1", unique("mine")));
    let mut run = script(&mine, "echo ready; sleep 100").await;
    let mut other = script(&others, "echo ready; exec sleep 100").await;
    let mut plain = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    process::kill_tree_and_verify(run.pid, &mine, DEADLINE).await.expect("all gone");
    assert!(other.child.try_wait().unwrap().is_none(), "another run's");
    assert!(plain.try_wait().unwrap().is_none(), "the worker's own");
    assert!(run.child.wait().await.is_ok());
    other.child.kill().await.unwrap();
    plain.kill().unwrap();
    // A child of the worker's own that has ended is not reaped by anybody else.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    process::reap_orphans();
    assert!(ended.wait().unwrap().success());
    plain.wait().unwrap();
}

/// Like what a dead worker left behind: no parent of ours, the mark of a run.
async fn stray(mark: &str) -> i32 {
    let file = std::env::temp_dir().join(format!("motorpool-stray-{}", mark.replace('/', "-")));
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}; {STUBBORN}", file.display());
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg("setsid sh -c \"$1\" & exit 0").arg("sh").arg(&text);
    command.env(RUN_MARK, mark).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    assert!(command.status().unwrap().success());
    let begun = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(&file) {
            std::fs::remove_file(&file).unwrap();
            return text.trim().parse().unwrap();
        }
        assert!(begun.elapsed() < DEADLINE, "no stray");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn alive(pid: i32) -> bool {
    process::processes().iter().any(|one| one.pid == pid && !one.zombie)
}

#[tokio::test(flavor = "current_thread")]
async fn leftovers_of_this_pool_are_ended_unless_their_run_is_current() {
    let _alone = ALONE.lock().await;
    let (pool, other) = (unique("pool"), unique("pool-2"));
    let old = stray(&format!("{pool}/t1/1")).await;
    let current = stray(&format!("{pool}/t1/2")).await;
    let foreign = stray(&format!("{other}/t1/1")).await;

    let away = process::leftovers(&pool, async |_: &str, _: &str| Err::<bool, _>("away"), DEADLINE).await;
    assert_eq!(away, Err("away"), "never guessed");
    assert!(alive(old));

    let is_current = async |task: &str, run: &str| Ok::<_, String>((task, run) == ("t1", "2"));
    let done = process::leftovers(&pool, is_current, DEADLINE).await.unwrap();
    assert_eq!((done.ended, done.survivors), (vec!["t1/1".to_owned()], vec![]));
    assert!(!alive(old));
    assert!(alive(current) && alive(foreign));

    let none = async |_: &str, _: &str| Ok::<_, String>(false);
    let done = process::leftovers(&pool, none, DEADLINE).await.unwrap();
    assert_eq!(done.ended, ["t1/2"]);
    assert!(!alive(current) && alive(foreign));
    assert_eq!(process::leftovers("", none, DEADLINE).await.unwrap().ended, [""; 0]);
    process::leftovers(&other, none, DEADLINE).await.unwrap();
    assert!(!alive(foreign));
}
