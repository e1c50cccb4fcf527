//! Clients: each submits its tasks one after the other, and repeats each until it is acknowledged. What was acknowledged
//! is the history that the pool is measured by.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use motorpool::{ErrorKind, Pool, Spec, TaskId, TaskOptions};
use motorpool_tests::faults::{Dice, PREFIX};
use motorpool_tests::fleet::program;
use serde_json::{Map, Value, json};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// What is to be submitted.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// What its run says.
    pub(crate) name: String,
    options: Map<String, Value>,
    prompt: String,
    /// It follows the one before it.
    follows: bool,
}

/// An order that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    /// What was asked.
    pub(crate) order: Order,
    /// Under which id.
    pub(crate) id: TaskId,
    /// Between which moments.
    pub(crate) between: (Instant, Instant),
}

/// What all clients have seen.
#[derive(Default)]
pub(crate) struct Ledger {
    /// In the order of their acknowledgement.
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Processes that submit just now.
    pub(crate) submitting: HashSet<i32>,
    /// How often it was refused for want of memory, with nothing written.
    pub(crate) refused: usize,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

/// A ledger that all write into.
pub(crate) type Shared = Arc<Mutex<Ledger>>;

/// Looks into the ledger.
pub(crate) fn open(shared: &Shared) -> std::sync::MutexGuard<'_, Ledger> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The orders of one client. Each run writes into a file of its task: its begin, its end, and whether another run of the
/// task was alive when it began (a lock tells, which goes with the last process that holds it).
///
/// Where Redis may forget, none follows another: what it was to follow may be unknown.
pub(crate) fn orders(client: usize, count: usize, forgets: bool, dice: &mut Dice) -> Vec<Order> {
    let order = |n: usize| {
        let name = format!("c{client}-{n}");
        // Most are short, a few are longer than a lease.
        let tenths = match dice.one_of(50) {
            0 => 90,
            1..=4 => 40,
            5..=24 => 15 + dice.one_of(20),
            _ => 5 + dice.one_of(10),
        };
        let coordinator = format!("boss{}", client % super::COORDINATORS);
        let priority = ["high", "normal", "low"][dice.one_of(3)];
        let mut options = json!({"once": format!("key-{name}"), "max_attempts": 20, "coordinator": coordinator,
            "priority": priority});
        if dice.one_of(10) == 0 {
            options["delay_s"] = 1.into();
        }
        let mut prompt = String::new();
        let _ = write!(
            prompt,
            "To do:\n@bash exec 9>>$CHAOS_HISTORY/{name}.lock; R=${{MOTORPOOL_RUN##*/}}; echo begin $R >>$CHAOS_HISTORY/{name}; \
             flock -n 9 || echo overlap $R >>$CHAOS_HISTORY/{name}; sleep {}.{}; echo end $R >>$CHAOS_HISTORY/{name}\n\
             @say {name}",
            tenths / 10,
            tenths % 10
        );
        let options = options.as_object().expect("an object").clone();
        Order { name, options, prompt, follows: n > 0 && !forgets && dice.one_of(10) == 0 }
    };
    (0..count).map(order).collect()
}

/// How a client submits.
pub(crate) enum Client {
    /// With the library. It looks into Redis itself at whether a refusal has left anything.
    Library(Pool, redis::Client),
    /// With the command, a process for each try.
    Command(Vec<(OsString, OsString)>, PathBuf),
}

/// Submits everything, as far as it is allowed yet.
pub(crate) async fn submit(client: Client, orders: Vec<Order>, mut allowed: watch::Receiver<usize>, ledger: Shared) {
    let mut before: Option<TaskId> = None;
    for (n, order) in orders.into_iter().enumerate() {
        // Its sender outlives the clients.
        let _ = allowed.wait_for(|allowed| *allowed > n).await;
        let mut options = order.options.clone();
        if let Some(before) = before.filter(|_| order.follows) {
            options.insert("after".into(), json!([before.to_string()]));
        }
        // A try that was not answered may yet have its effect.
        let mut open_end = false;
        let (id, asked) = loop {
            let asked = Instant::now();
            let tried = match &client {
                Client::Library(pool, behind) => {
                    let spec = TaskOptions::from_json(&options).and_then(|options| Spec::new(&order.prompt, options));
                    by_library(pool, behind, spec.expect("a task that does"), &mut open_end, &ledger).await
                }
                Client::Command(env, work) => by_command(env, work, &order.prompt, &options, &ledger).await,
            };
            match tried {
                Some(id) => break (id, asked),
                None => sleep(Duration::from_millis(200)).await,
            }
        };
        before = Some(id);
        open(&ledger).acknowledged.push(Acknowledged { order, id, between: (asked, Instant::now()) });
    }
}

async fn by_library(
    pool: &Pool,
    behind: &redis::Client,
    spec: Spec,
    open_end: &mut bool,
    ledger: &Shared,
) -> Option<TaskId> {
    let key = spec.options.once.clone().expect("a key");
    match pool.submit(spec).await {
        Ok(submitted) => return Some(submitted.id),
        Err(error) if error.kind() == ErrorKind::Redis => *open_end = true,
        Err(error) if error.kind() == ErrorKind::Refused && error.message().contains("memory") => {
            let is_known = async {
                let mut connection = behind.get_multiplexed_async_connection().await.ok()?;
                redis::cmd("EXISTS").arg(format!("{PREFIX}once:{key}")).query_async::<bool>(&mut connection).await.ok()
            };
            let is_known = is_known.await;
            let mut ledger = open(ledger);
            ledger.refused += 1;
            if !*open_end && is_known == Some(true) {
                ledger.wrong.push(format!("{key}: refused for want of memory, and there all the same"));
            }
        }
        Err(error) => open(ledger).wrong.push(format!("{key} was refused: {error}")),
    }
    None
}

async fn by_command(
    env: &[(OsString, OsString)],
    work: &PathBuf,
    prompt: &str,
    options: &Map<String, Value>,
    ledger: &Shared,
) -> Option<TaskId> {
    let mut command = Command::new(program("motorpool"));
    command.arg("submit").env_clear().envs(env.iter().cloned()).current_dir(work).kill_on_drop(true);
    for (name, value) in options {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(ids) => ids.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        command.arg(format!("--{}={value}", name.replace('_', "-")));
    }
    command.arg(prompt).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("it starts");
    let pid = child.id().expect("it runs") as i32;
    open(ledger).submitting.insert(pid);
    let output = child.wait_with_output().await.expect("its output");
    open(ledger).submitting.remove(&pid);
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => Some(said.trim().parse().unwrap_or_else(|_| panic!("no id: {said}{warned}"))),
        // Killed; Redis away; no memory.
        None | Some(3) => None,
        Some(_) if warned.contains("memory") => {
            open(ledger).refused += 1;
            None
        }
        Some(code) => {
            open(ledger).wrong.push(format!("submit ended with {code}: {warned}"));
            None
        }
    }
}
