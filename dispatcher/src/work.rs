//! What both faces do and say: placing a task, what a slot does, what is stuck and why.
//!
//! Not here: how it looks (`term`, `mcp/digest.rs`), what happens in a pool (the library).

use motorpool::domain::fleet::Worker;
use motorpool::domain::host::{Host, HostSlot};
use motorpool::domain::lane::Lane;
use motorpool::domain::merge;
use motorpool::domain::options::PermissionMode;
use motorpool::domain::route::Carried;
use motorpool::domain::slot::{self, Slot};
use motorpool::domain::waits::{Waiting, Why};
use motorpool::pool::ReviewVerdict;
use motorpool::{Entry, Id, Pool, PoolStatus, Result, Run, Spec, State, TaskId, TaskOptions, TaskRecord};
use serde_json::{Value, json};

use crate::term::counted;
use crate::term::table::harmless;
use crate::term::time::rfc3339;

/// What was submitted, and what is to be said of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) id: TaskId,
    pub(crate) fresh: bool,
    /// The state in which a fresh one begins.
    pub(crate) state: State,
    pub(crate) mode: PermissionMode,
}

/// Submits a task; in an embedded pool it works in the project's directory.
pub(crate) async fn place(pool: &Pool, project_dir: Option<String>, mut spec: Spec) -> Result<Placed> {
    spec.project_dir = project_dir;
    let defaults = pool.defaults().await?;
    let mode = mode_of(&defaults, &spec.options);
    let mut state = if spec.options.delay_s.is_some() { State::Delayed } else { State::Pending };
    let follows = !spec.options.after.is_empty();
    let submitted = pool.submit(spec).await?;
    if follows {
        // It depends on how those stand.
        state = pool.task(submitted.id).await.map_or(State::Waiting, |record| record.state);
    }
    Ok(Placed { id: submitted.id, fresh: submitted.fresh, state, mode })
}

/// The permission mode of a task with these options.
pub(crate) fn mode_of(defaults: &TaskOptions, options: &TaskOptions) -> PermissionMode {
    merge::permission_mode(&merge::merge(defaults, &TaskOptions::default(), options))
}

/// Which permission mode applies, and what that means.
pub(crate) fn mode_text(id: TaskId, mode: PermissionMode, allowed_tools: &str) -> String {
    let means = match mode {
        PermissionMode::Plan => {
            format!(": Claude plans and edits no file; commands run only if {allowed_tools} allows them")
        }
        PermissionMode::DontAsk | PermissionMode::Default => {
            format!(": what is not allowed is denied; see {allowed_tools}")
        }
        PermissionMode::AcceptEdits => ": Claude may edit files in its working directory".to_owned(),
        PermissionMode::Auto => String::new(),
        PermissionMode::BypassPermissions => ": Claude may do everything, if its host lets it".to_owned(),
    };
    format!("{id} in {mode} mode{means}")
}

/// How a run stands, in a word or two.
pub(crate) fn run_word(run: &Run) -> &'static str {
    match (run.class, run.ended_ms, run.charged) {
        (Some(class), ..) => class.word(),
        (None, None, _) => "running",
        (None, Some(_), true) => "ended well",
        (None, Some(_), false) => "handed back",
    }
}

/// What is said where nobody serves a lane.
pub(crate) fn unserved(lane: &Lane) -> String {
    format!("no live worker serves {}: the task waits until one does", lane.words())
}

/// What a slot does.
pub(crate) fn slot_state(worker: &Worker) -> &'static str {
    slot::state_of(worker).word()
}

/// A slot as commands show it, addressed by its own id.
pub(crate) fn slot_item(slot: &Slot) -> Value {
    let settings = &slot.settings;
    let mut item = slot.worker.as_ref().map_or_else(|| json!({}), slot_json);
    item["id"] = slot.id.clone().into();
    item["state"] = slot.state.word().into();
    item["worker"] = slot.worker.as_ref().map(|worker| worker.id.clone()).into();
    item["host"] = slot.host.clone().into();
    item["why"] = slot.why.clone().into();
    item["name"] = settings.name.clone().into();
    item["role"] = settings.role.clone().into();
    item["description"] = settings.description.clone().into();
    item["options"] = serde_json::to_value(&settings.options).unwrap_or_default();
    for absent in ["task", "pid", "version", "claude", "lanes", "labels", "account", "done", "silent_ms", "unfit"] {
        if item.get(absent).is_none() {
            item[absent] = Value::Null;
        }
    }
    if let Some(fields) = item.as_object_mut() {
        fields.remove("slot");
    }
    item
}

/// A host as commands show it.
pub(crate) fn host_json(host: &Host) -> Value {
    let slot = |slot: &HostSlot| {
        json!({
            "id": slot.name, "state": slot.state.word(), "pid": slot.pid, "ended": slot.ended, "said": slot.said,
        })
    };
    json!({
        "name": host.name, "pid": host.pid, "version": host.version, "wanted": host.wanted, "actual": host.actual,
        "min_slots": host.min, "max_slots": host.max, "slots": host.slots.iter().map(slot).collect::<Vec<_>>(),
        "silent_ms": host.silent_ms,
    })
}

/// The slots that hosts have given up: which, why, and what to do.
pub(crate) fn given_up(hosts: &[Host]) -> Vec<(String, String)> {
    let all = hosts.iter().flat_map(|host| host.errored().map(move |slot| (host, slot)));
    let word = |(host, slot): (&Host, &HostSlot)| {
        let what = format!("slot {} of host {} is errored: {}", slot.name, host.name, harmless(&slot.why()));
        let hint = format!(
            "mend it, then SIGHUP to the host (process {}), or `motorpool scale {} --host {}`",
            host.pid, host.wanted, host.name
        );
        (what.replace('\n', " "), hint)
    };
    all.map(word).collect()
}

/// As much of a worker's id as tells it apart from others.
pub(crate) fn short(worker: &str) -> String {
    worker.chars().take(10).collect()
}

/// A slot as `--json` and tools show it.
pub(crate) fn slot_json(worker: &Worker) -> Value {
    json!({
        "id": worker.id, "slot": worker.slot, "state": slot_state(worker), "host": worker.host, "pid": worker.pid,
        "version": worker.version, "claude": worker.claude, "lanes": worker.lanes, "labels": worker.labels, "account": worker.account, "task": worker.task,
        "done": worker.done, "silent_ms": worker.silent_ms,
        "unfit": worker.unfit.as_ref().map(|unfit| json!({
            "class": unfit.class.word(), "message": unfit.message, "hint": unfit.hint,
            "until": unfit.until_ms.map(rfc3339),
        })),
    })
}

/// What the tasks of a lane wait for, where that does not come by itself, and what to do; `no_worker` says what to do
/// where nobody serves it.
pub(crate) fn stuck_text(why: &Why, lane: &str, no_worker: &str) -> Option<(String, String)> {
    match why {
        Why::NoWorker => Some((format!("no live worker serves {}", Lane::parse(lane).words()), no_worker.into())),
        Why::Draining(workers) => Some((
            format!("each worker of the lane ({workers}) finishes what it has and claims no more"),
            no_worker.into(),
        )),
        Why::Fitness { unfit, .. } => Some((
            format!("no worker is fit ({}: {})", unfit.class, harmless(&unfit.message)),
            match (unfit.until_ms, &unfit.hint) {
                (Some(ms), _) => format!("until {}", rfc3339(ms)),
                (None, Some(hint)) => harmless(hint),
                (None, None) => "see the worker's log".into(),
            },
        )),
        _ => None,
    }
}

/// What a task that is over has started and that goes on, where it was one that decides how work is done.
pub(crate) async fn still_made_by(pool: &Pool, record: &TaskRecord) -> Result<Option<Id>> {
    let Some((_, made)) = Carried::of(record).filter(|_| record.state == State::Completed) else { return Ok(None) };
    Ok(pool.state_of(made).await?.is_some_and(|state| !state.is_terminal()).then_some(made))
}

/// What the log says, in a line.
pub(crate) fn entry_line(entry: &Entry) -> String {
    let Entry { time_ms, event, decided, .. } = entry;
    let from = event.from.map_or("-", State::word);
    let run = if event.run > 0 { format!(", run {}", event.run) } else { String::new() };
    let decided = decided.as_ref().map_or_else(String::new, |it| {
        let why = if it.why.is_empty() { String::new() } else { format!(": {:?}", it.why) };
        format!(" by {:?}{why}", it.by)
    });
    let task = event.task.to_string();
    format!("{}  {task:<6} {from} -> {} ({}{run}){decided}", rfc3339(*time_ms), event.to, event.cause)
}

/// What a group of tasks waits for, in a line.
pub(crate) fn waiting_text(group: &Waiting) -> String {
    let until = group.until_ms.map(rfc3339);
    let first = |what: &str| until.as_ref().map(|until| format!(", {what} {until}")).unwrap_or_default();
    let named = |tasks: &[TaskId]| tasks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let tasks = match (&group.lane, group.tasks.as_slice()) {
        (Some(lane), _) => format!("{} in lane {lane}", counted(group.count, "task")),
        (None, []) => counted(group.count, "task"),
        (None, tasks) => {
            let more = if group.count > tasks.len() as u64 { ", …" } else { "" };
            format!("{} ({}{more})", counted(group.count, "task"), named(tasks))
        }
    };
    let why = match &group.why {
        Why::Others(on) if on.is_empty() => "other tasks".to_owned(),
        Why::Others(on) => {
            let one = |(id, state): &(String, String)| match state.as_str() {
                "opening" => "the rest of a submission".to_owned(),
                state => format!("{id} ({state})"),
            };
            let mut words: Vec<String> = on.iter().map(one).collect();
            words.dedup();
            words.join(", ")
        }
        Why::Asked => format!("a time that was asked for{}", first("the first")),
        Why::BackOff { class, message } => {
            let class = class.map(|class| format!(" ({class})")).unwrap_or_default();
            format!("another try after a failure{class}{}: {}", first("the first"), harmless(message))
        }
        Why::Review => "a judgement (approve, reject)".to_owned(),
        Why::Turn => "an idle worker, which comes at once".to_owned(),
        Why::Busy(1) => "a free worker: the only one is busy".to_owned(),
        Why::Busy(workers) => format!("a free worker: all {workers} are busy"),
        Why::Draining(workers) => format!("a new worker: {} finishing what they have", counted(*workers, "worker")),
        Why::NoWorker => "a worker: none that lives serves the lane".to_owned(),
        Why::Fitness { unfit, account } => {
            let account = account.as_ref().map(|account| format!(" of account {}", harmless(account)));
            let until = until.map(|until| format!(", until {until}")).unwrap_or_default();
            let (class, account) = (unfit.class, account.unwrap_or_default());
            format!("a fit worker{until} ({class}{account}: {})", harmless(&unfit.message))
        }
    };
    format!("{tasks}: {why}").replace('\n', " ")
}

/// The same for programs.
pub(crate) fn waiting_json(group: &Waiting) -> Value {
    let on: Vec<Value> = match &group.why {
        Why::Others(on) => on.iter().map(|(id, state)| json!({"id": id, "state": state})).collect(),
        _ => Vec::new(),
    };
    let account = if let Why::Fitness { account, .. } = &group.why { account.clone() } else { None };
    json!({
        "state": group.state.word(), "lane": group.lane, "count": group.count, "why": group.why.word(),
        "what": waiting_text(group), "until": group.until_ms.map(rfc3339), "account": account, "on": on,
        "tasks": group.tasks.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What is said where new work is refused.
pub(crate) const FULL: (&str, &str) = (
    "Redis has less than a fifth of its memory left: new work is refused, what is there goes on",
    "raise maxmemory, or let tasks end",
);

/// What does not move in a pool, why, and what to do.
pub(crate) fn stuck(status: &PoolStatus, no_worker: &str) -> Vec<(String, String)> {
    let mut stuck = given_up(&status.hosts);
    if status.full {
        stuck.push((FULL.0.to_owned(), FULL.1.to_owned()));
    }
    for group in &status.waits {
        let Some(lane) = &group.lane else { continue };
        if let Some((why, hint)) = stuck_text(&group.why, lane, no_worker) {
            let wait = if group.count == 1 { "waits" } else { "wait" };
            stuck.push((format!("{} {wait} in lane {lane}: {why}", counted(group.count, "task")), hint));
        }
    }
    stuck
}

/// What came of a judgement.
pub(crate) fn judged_text(verdict: &ReviewVerdict) -> String {
    let ReviewVerdict { id, round, state, again } = verdict;
    let before = if *again { "; that had been said before, nothing is changed" } else { "" };
    match state {
        State::Completed => format!("{id} is approved: completed in round {round}{before}"),
        State::Failed => format!("{id} is rejected for the last time: failed in round {round}{before}"),
        _ => format!("{id} is rejected: done anew as round {}{before}", round + 1),
    }
}
