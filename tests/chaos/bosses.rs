//! Coordinators that wait for what is done, each with a dispatcher that is killed now and then: its next one goes on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use motorpool::TaskId;
use motorpool_tests::fleet::program;
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{ERAS, Era, Told};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::sleep;

/// What one of them was told.
#[derive(Default)]
pub(crate) struct Heard {
    /// Its dispatcher, while there is one.
    pub(crate) pid: Option<i32>,
    /// What was handed over, and how often without a word that it had been before.
    pub(crate) handed: BTreeMap<TaskId, usize>,
}

/// See [`Heard`].
pub(crate) type Shared = Arc<Mutex<Heard>>;

/// Looks into it.
pub(crate) fn open(shared: &Shared) -> std::sync::MutexGuard<'_, Heard> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a dispatcher is started.
#[derive(Clone)]
pub(crate) struct Start {
    /// Its environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Where.
    pub(crate) work: PathBuf,
    /// Where it logs.
    pub(crate) log: PathBuf,
}

/// Waits until there is nothing more to wait for after `done` was said.
pub(crate) async fn wait(n: usize, start: Start, told: Shared, mut done: watch::Receiver<bool>) {
    loop {
        let log = std::fs::File::options().create(true).append(true).open(&start.log).expect("a log");
        let mut command = Command::new(program("motorpool"));
        command.args(["serve", &format!("--coordinator=boss{n}")]).env_clear().envs(start.env.iter().cloned());
        command.current_dir(&start.work).stderr(Stdio::from(log)).kill_on_drop(true);
        let it = Coordinator::of(command, start.log.clone(), ERAS[n % 2]);
        open(&told).pid = Some(it.pid());
        let is_over = listen(&it, &told, &mut done).await;
        open(&told).pid = None;
        if is_over {
            return it.end().await;
        }
        // Killed; or it was frozen for longer than anyone waits.
        it.killed().await;
    }
}

/// True when there is nothing more; false when the dispatcher is gone.
async fn listen(it: &Coordinator, told: &Shared, done: &mut watch::Receiver<bool>) -> bool {
    if it.host.era == Era::Legacy {
        let begun = it.request("initialize", it.host.initialize()).await;
        if it.answer_if_any(begun).await.is_none() {
            return false;
        }
        it.notify("notifications/initialized", json!({})).await;
    }
    loop {
        let was_done = *done.borrow_and_update();
        let call = it.begin("pool_wait", json!({"wait_s": 5})).await;
        let Some(answer) = it.answer_if_any(call).await else { return false };
        let said = Told::of(&answer.unwrap_or_else(|error| panic!("{error}")));
        if said.is_error {
            // Redis is away.
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        if was_done && said.text.starts_with("nothing is new, and nothing of yours is under way") {
            return true;
        }
        if said.text.starts_with("nothing") {
            // Without work of its own it is answered at once.
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        for line in said.text.lines() {
            let mut words = line.split([' ', ',']);
            let (Some(id), Some(state)) = (words.next().and_then(|id| id.parse().ok()), words.next()) else { continue };
            if !matches!(state, "completed" | "failed" | "cancelled") {
                continue;
            }
            let times = usize::from(!line.contains("handed over before"));
            *open(told).handed.entry(id).or_default() += times;
        }
    }
}
