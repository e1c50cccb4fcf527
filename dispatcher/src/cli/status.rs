//! status: the pool at a glance.
//!
//! Not here: checks of what it stands on (`doctor.rs`).

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::slot::Slot;
use motorpool::embedded::{KeeperRecord, Place, keeper_of};
use motorpool::pool::Redis;
use motorpool::{ErrorKind, PoolStatus, Result};
use serde_json::{Map, Value, json};

use super::reach::{self, Reached, Wish};
use super::task::looking;
use super::{Call, json_arg};
use crate::term::table::{fit, render};
use crate::term::time::{self, span};
use crate::term::{Away, COLUMNS, counted, print, print_json};
use crate::work::{self, host_json, slot_item};

/// How often a watched pool is looked at.
const PACE: Duration = Duration::from_secs(2);
/// How long the workers of a pool that was just started may take to come.
const COMING_MS: u64 = 20_000;

pub(super) fn command() -> Command {
    let watch = Arg::new("watch").long("watch").action(ArgAction::SetTrue).help("again every two seconds");
    looking(
        Command::new("status")
            .about("Show the pool at a glance: tasks, workers, lanes, what is stuck and why")
            .arg(watch)
            .arg(json_arg("print {tasks, slots, hosts, lanes, waits, stuck, redis, …}; with --watch one object a line"))
            .after_help("Examples:\n  motorpool status\n  motorpool status --watch --json"),
    )
}

pub(super) async fn run(call: &Call, matches: &ArgMatches) -> Result<u8> {
    reach::check(call)?;
    let reached = reach::reach(call, Wish::Look).await?;
    let watch = matches.get_flag("watch");
    let redraws = watch && !call.json && std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut away = Away::default();
    loop {
        let looked = look(call, &reached).await;
        if looked.is_ok() {
            away.is_over();
        }
        match looked {
            Ok(seen) if call.json => {
                if !print_json(&seen.json())? {
                    return Ok(0);
                }
            }
            Ok(seen) => {
                let clear = if redraws { "\x1b[H\x1b[2J" } else { "" };
                if !print(&format!("{clear}{}", seen.text()))? {
                    return Ok(0);
                }
            }
            Err(error) if watch && error.kind() == ErrorKind::Redis => {
                away.is(&error);
            }
            Err(error) => return Err(error),
        }
        if !watch {
            return Ok(0);
        }
        tokio::time::sleep(PACE).await;
    }
}

/// What one look saw.
struct Seen {
    name: String,
    status: PoolStatus,
    slots: Vec<Slot>,
    redis: Redis,
    embedded: Option<(Place, Option<KeeperRecord>)>,
}

async fn look(call: &Call, reached: &Reached) -> Result<Seen> {
    let status = reached.pool.status().await?;
    let slots = reached.pool.slots().await?;
    let redis = reach::facts(reached).await?;
    let embedded = match &reached.joined {
        Some(joined) => Some((joined.place().clone(), keeper_of(joined.place())?)),
        None => None,
    };
    Ok(Seen { name: call.settings.pool.clone(), status, slots, redis, embedded })
}

impl Seen {
    /// How many workers of a pool that was just started have yet to come.
    fn coming(&self) -> u64 {
        let Some((_, Some(keeper))) = &self.embedded else { return 0 };
        let age = time::now_ms().saturating_sub(keeper.started_ms);
        let all = u64::from(keeper.slots);
        if age < COMING_MS { all.saturating_sub(self.status.workers.len() as u64) } else { 0 }
    }

    fn stuck(&self) -> Vec<(String, String)> {
        if self.coming() > 0 && self.status.workers.is_empty() {
            return Vec::new();
        }
        let no_worker = match &self.embedded {
            Some((place, _)) if self.status.workers.is_empty() => {
                format!("see {}", place.dir().join("host.log").display())
            }
            _ => {
                "start a worker with --lanes and --labels that fit, or correct the task's --lane and --needs".to_owned()
            }
        };
        work::stuck(&self.status, &no_worker)
    }

    fn json(&self) -> Value {
        let tasks: Map<String, Value> =
            self.status.tasks.iter().map(|(state, count)| (state.word().to_owned(), (*count).into())).collect();
        let slots: Vec<Value> = self.slots.iter().map(slot_item).collect();
        let lane = |lane: &motorpool::pool::LaneStatus| json!({"lane": lane.lane, "waiting": lane.waiting, "oldest_ms": lane.oldest_ms, "workers": lane.workers});
        let stuck = self.stuck().into_iter().map(|(what, hint)| json!({"what": what, "hint": hint}));
        let redis = &self.redis;
        json!({
            "tasks": tasks,
            "slots": slots,
            "hosts": self.status.hosts.iter().map(host_json).collect::<Vec<_>>(),
            "lanes": self.status.lanes.iter().map(lane).collect::<Vec<_>>(),
            "waits": self.status.waits.iter().map(work::waiting_json).collect::<Vec<_>>(),
            "stuck": stuck.collect::<Vec<_>>(),
            "redis": {
                "url": redis.url, "version": redis.version, "append_only": redis.append_only, "fsync": redis.fsync,
                "replicas": redis.replicas, "maxmemory_bytes": redis.maxmemory,
            },
            "embedded": self.embedded.as_ref().map(|(place, keeper)| json!({
                "project": place.project(), "state_dir": place.dir(), "disk_free_bytes": free_bytes(place),
                "keeper_pid": keeper.as_ref().map(|keeper| keeper.pid),
                "slots": keeper.as_ref().map(|keeper| keeper.slots),
                "linger_ms": keeper.as_ref().map(|keeper| keeper.linger_ms),
            })),
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Some((place, keeper)) = &self.embedded {
            let slots = keeper.as_ref().map_or(0, |keeper| keeper.slots);
            let free = free_bytes(place)
                .map(|bytes| format!(", {} MiB of its disk free", bytes / 1024 / 1024))
                .unwrap_or_default();
            text.push_str(&format!(
                "pool     {} ({}{free})\n",
                place.project().display(),
                counted(slots.into(), "slot")
            ));
        }
        if self.embedded.is_none() {
            text.push_str(&format!("pool     {}\n", self.name));
        }
        let redis = &self.redis;
        let kept = match (redis.append_only, redis.fsync.as_deref()) {
            (true, Some(fsync)) => format!("append-only file synced {fsync}"),
            (true, None) => "append-only file".into(),
            (false, _) => "no append-only file".into(),
        };
        text.push_str(&format!("redis    {} {}, {kept}\n", redis.version, redis.url));
        let tasks: Vec<String> = self
            .status
            .tasks
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        text.push_str(&format!("tasks    {}\n", if tasks.is_empty() { "none".into() } else { tasks.join(", ") }));
        for lane in &self.status.lanes {
            let oldest = lane.oldest_ms.map(|ms| format!(", oldest {}", span(ms))).unwrap_or_default();
            let workers = counted(lane.workers, "worker");
            text.push_str(&format!("lane     {}: {} waiting{oldest}, {workers}\n", lane.lane, lane.waiting));
        }
        for group in &self.status.waits {
            text.push_str(&format!("waits    {}\n", work::waiting_text(group)));
        }
        for host in &self.status.hosts {
            let bounds = format!("{} to {}", host.min, host.max);
            text.push_str(&format!("host     {}: {} of {} workers ({bounds})\n", host.name, host.actual, host.wanted));
        }
        let coming = self.coming();
        if coming > 0 {
            text.push_str(&format!("workers  {coming} starting\n"));
        } else if self.status.workers.is_empty() {
            text.push_str("workers  none\n");
        }
        if !self.slots.is_empty() {
            text.push('\n');
            let rows: Vec<Vec<String>> = self.slots.iter().map(slot_row).collect();
            text.push_str(&render(&["SLOT", "WORKER", "STATE", "TASK", "DONE", "ABOUT"], &rows, COLUMNS));
        }
        for (what, hint) in self.stuck() {
            text.push_str(&format!("\nstuck    {what}\n  hint: {hint}\n"));
        }
        text
    }
}

fn slot_row(slot: &Slot) -> Vec<String> {
    let worker = slot.worker.as_ref();
    let about = match (&slot.why, worker) {
        (Some(why), _) => why.clone(),
        (None, Some(worker)) => {
            format!("claude {}, lanes {}", worker.claude.as_deref().unwrap_or("?"), worker.lanes.join(" "))
        }
        (None, None) => "settings alone; `motorpool slots`".to_owned(),
    };
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    vec![
        fit(&slot.id, 24),
        dash(worker.map(|worker| fit(&worker.id, 10))),
        slot.state.word().to_owned(),
        dash(worker.and_then(|worker| worker.task.clone())),
        dash(worker.map(|worker| worker.done.to_string())),
        about,
    ]
}

/// What the disk below a pool still takes.
#[allow(clippy::useless_conversion, reason = "the counts are narrower on other platforms")]
fn free_bytes(place: &Place) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(place.dir()).ok()?;
    Some(u64::from(disk.blocks_available()) * u64::from(disk.fragment_size()))
}
