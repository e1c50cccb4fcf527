//! pool_status, pool_view: the pool and what is in it, to look at.
//!
//! Not here: what is new for a coordinator (`wait.rs`).

use motorpool::pool::Known;
use motorpool::{Error, ErrorKind, Filter, Result, State};
use serde_json::{Map, Value, json};

use super::super::answer::Answer;
use super::super::args::Args;
use super::super::call::Call;
use super::super::{digest, whole};
use crate::term::counted;
use crate::term::time::{now_ms, rfc3339, span};
use crate::work;

/// The listings there are.
pub(super) const VIEWS: [&str; 5] = ["tasks", "task", "slots", "events", "config"];

/// What does not move, and what to do.
pub(super) fn stuck(status: &motorpool::PoolStatus) -> Vec<(String, String)> {
    work::stuck(status, "start one: motorpool-worker host, with --lanes and --labels that fit")
}

pub(super) async fn status(call: Call) -> Result<Answer> {
    call.args.clone().end()?;
    let status = match call.pool().await?.status().await {
        // It was there before, and is looked for all the time: that is what there is to see at a glance.
        Err(error) if error.kind() == ErrorKind::Redis && !call.is_embedded() => {
            let hint = error.hint_text().unwrap_or("call again in a while");
            let stuck = json!([{"what": error.message(), "hint": hint}]);
            return Ok(Answer::json(&json!({"id": "pool", "state": "reconnecting", "stuck": stuck})));
        }
        status => status?,
    };
    Ok(Answer::json(&status_json(&status)))
}

/// The pool at a glance.
pub(crate) fn status_json(status: &motorpool::PoolStatus) -> Value {
    let tasks: Map<String, Value> = status
        .tasks
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| (state.word().to_owned(), (*count).into()))
        .collect();
    let slots: Vec<Value> = status
        .workers
        .iter()
        .take(50)
        .map(|worker| {
            let mut slot =
                json!({"id": work::short(&worker.id), "state": work::slot_state(worker), "host": worker.host});
            if let Some(task) = &worker.task {
                slot["task"] = task.clone().into();
            }
            if let Some(unfit) = &worker.unfit {
                slot["why"] = format!("{}: {}", unfit.class, digest::cut(&unfit.message, 200)).into();
            }
            slot
        })
        .collect();
    let stuck = stuck(status);
    let unfinished = status.tasks.iter().any(|(state, count)| state.is_unfinished() && *count > 0);
    let state = match (stuck.is_empty(), unfinished) {
        (false, _) => "stuck",
        (true, true) => "working",
        (true, false) => "idle",
    };
    let mut value = json!({
        "id": "pool", "state": state, "tasks": tasks, "slots": slots,
        "lanes": status.lanes.iter().map(|lane| json!({"lane": lane.lane, "waiting": lane.waiting,
            "oldest_ms": lane.oldest_ms, "workers": lane.workers})).collect::<Vec<_>>(),
        "waits": status.waits.iter().take(20).map(waits_json).collect::<Vec<_>>(),
        "stuck": stuck.into_iter().map(|(what, hint)| json!({"what": what, "hint": hint})).collect::<Vec<_>>(),
    });
    if status.workers.len() > slots.len() {
        value["more_slots"] = (status.workers.len() - slots.len()).into();
    }
    value
}

/// What a group waits for, in as few words as a model has to pay for.
fn waits_json(group: &motorpool::domain::waits::Waiting) -> Value {
    let mut value = json!({"state": group.state.word(), "count": group.count, "why": group.why.word(),
        "what": digest::cut(&work::waiting_text(group), 300)});
    if let Some(until_ms) = group.until_ms {
        value["until"] = crate::term::time::rfc3339(until_ms).into();
    }
    value
}

pub(super) async fn view(mut call: Call) -> Result<Answer> {
    let what = call.args.needed_text("what", &format!("one of {}", VIEWS.join(", ")))?;
    match what.as_str() {
        "tasks" => view_tasks(call).await,
        "task" => view_task(call).await,
        "slots" => {
            call.args.clone().end()?;
            view_slots(&call).await
        }
        "events" => view_events(call).await,
        "config" => {
            call.args.clone().end()?;
            let defaults = call.pool().await?.defaults().await?;
            let value = serde_json::to_value(&defaults).unwrap_or_default();
            Ok(Answer::text(format!("config: the pool's defaults for tasks that say nothing\n{value}")))
        }
        other => {
            let error = Error::usage(format!("what: {:?} is no listing", digest::cut(other, 60)));
            Err(error.hint(match motorpool::error::nearest(other, VIEWS) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("one of {}", VIEWS.join(", ")),
            }))
        }
    }
}

/// The rest of a line's list: `state` may be one word or several.
fn states(args: &mut Args) -> Result<Vec<State>> {
    let texts = args.texts("state")?;
    texts.iter().map(|text| text.parse()).collect()
}

async fn view_tasks(mut call: Call) -> Result<Answer> {
    let mine = call.args.flag("mine")?;
    let filter = Filter {
        states: states(&mut call.args)?,
        tag: call.args.text("tag")?,
        coordinator: mine.then(|| call.coordinator.clone()),
        before: call.args.text("cursor")?.map(|cursor| cursor.parse()).transpose()?,
    };
    let limit = call.args.count("limit", 100)?.unwrap_or(20).max(1) as usize;
    call.args.clone().end()?;
    let page = call.pool().await?.list(&filter, limit).await?;
    let now = now_ms();
    let mut lines = vec![format!("tasks: {}, newest first", counted(page.items.len() as u64, "task"))];
    let mut left = digest::LONGEST - 200;
    let mut last = None;
    for record in &page.items {
        let age = span(now.saturating_sub(record.created_ms));
        let tags = if record.tags.is_empty() { String::new() } else { format!(", [{}]", record.tags.join(" ")) };
        let line = digest::cut(&format!("{}, {age} old{tags}: {}", digest::head(record), record.title), 300);
        if line.chars().count() + 1 > left {
            break;
        }
        left -= line.chars().count() + 1;
        last = Some(record.id);
        lines.push(line);
    }
    let is_whole = last == page.items.last().map(|record| record.id);
    if let Some(cursor) = if is_whole { page.cursor } else { last } {
        lines.push(format!("more with cursor: {cursor}"));
    }
    Ok(Answer::text(lines.join("\n")))
}

async fn view_task(mut call: Call) -> Result<Answer> {
    let ids = call.args.needed_ids()?;
    call.args.clone().end()?;
    let [id] = ids[..] else {
        return Err(Error::usage("one id is wanted").hint("pool_result takes several"));
    };
    let record = match call.known(id).await? {
        Known::Task(record) => *record,
        Known::Group(view) => return Ok(Answer::text(whole::listing(&view))),
    };
    let mut lines = vec![digest::head(&record)];
    lines.push(format!(
        "created {}, lane {}, attempt {} of {}",
        rfc3339(record.created_ms),
        record.lane,
        record.attempt,
        record.max_attempts
    ));
    if let Some(name) = &record.coordinator {
        lines.push(format!("coordinator {name}"));
    }
    for run in record.runs.iter().rev().take(10) {
        let how = work::run_word(run);
        let message = run.message.as_deref().map(|text| format!(": {}", digest::cut(text, 200))).unwrap_or_default();
        lines.push(format!(
            "run {} {how}{message}, on {} ({}), started {}",
            run.n,
            run.worker,
            run.host,
            rfc3339(run.started_ms)
        ));
    }
    if let Some(spec) = &record.spec {
        let options = serde_json::to_string(&spec.options).unwrap_or_default();
        lines.push(format!("options {}", digest::cut(&options, 1_000)));
        lines.push(format!("prompt: {}", digest::cut(&spec.prompt, 1_000)));
    }
    let size = digest::output(&record).map_or(0, |text| text.chars().count());
    lines.push(format!("output: {size} characters; pool_result {id} has them"));
    Ok(Answer::text(lines.join("\n")))
}

async fn view_slots(call: &Call) -> Result<Answer> {
    let workers = call.pool().await?.workers().await?;
    let mut lines = vec![format!("slots: {}", counted(workers.len() as u64, "slot"))];
    for worker in workers.iter().take(60) {
        let task = worker.task.as_deref().map(|task| format!(" {task}")).unwrap_or_default();
        let unfit = worker.unfit.as_ref();
        let why =
            unfit.map(|unfit| format!(", {}: {}", unfit.class, digest::cut(&unfit.message, 120))).unwrap_or_default();
        let claude = worker.claude.as_deref().unwrap_or("not found");
        let (id, host, lanes) = (work::short(&worker.id), &worker.host, worker.lanes.join(" "));
        lines.push(format!(
            "{id} {}{task}{why}, on {host}, claude {claude}, lanes {lanes}, {} done",
            work::slot_state(worker),
            worker.done
        ));
    }
    Ok(Answer::text(digest::cut(&lines.join("\n"), digest::LONGEST)))
}

async fn view_events(mut call: Call) -> Result<Answer> {
    let limit = call.args.count("limit", 100)?.unwrap_or(20).max(1);
    call.args.clone().end()?;
    let events = call.pool().await?.last_events(limit).await?;
    let mut lines = vec![format!("events: the last {}, oldest first", events.len())];
    lines.extend(events.iter().map(work::entry_line));
    Ok(Answer::text(lines.join("\n")))
}
