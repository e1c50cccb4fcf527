//! pool_run, pool_submit, pool_result, pool_cancel.
//!
//! Not here: waiting for whatever is new (`wait.rs`).

use std::time::Duration;

use motorpool::domain::waits::of_lane;
use motorpool::pool::Known;
use motorpool::{Error, ErrorKind, Id, Pool, Result, Spec, State, TaskRecord};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::answer::{Answer, in_line};
use super::super::call::Call;
use super::super::{digest, task, whole};
use crate::term::live;
use crate::term::record::json as record_json;
use crate::term::time::usd;
use crate::work::{self, Placed};

/// How long `pool_run` waits where nobody says.
pub(super) const WAIT_S: u64 = 45;
/// How long `pool_cancel` waits for the proof that a running task is gone.
const PROOF: Duration = Duration::from_secs(10);
/// Most characters of live output that an answer shows.
const TAIL: usize = 1_500;
/// Most characters that `full` gives at a time.
const FULL: u64 = 200_000;

/// Makes the task of a call that starts work. Made again by the host, the call finds the task it made.
async fn place(call: &mut Call, pool: &Pool) -> Result<(Placed, String)> {
    let prompt = call.args.needed_text("prompt", "say what the task is to do");
    // Before the prompt is missed: it may stand there under another name.
    let mut options = call.rest().options()?;
    let prompt = prompt?;
    options.coordinator = Some(call.coordinator.clone());
    if options.once.is_none() {
        options.once = call.tool_use.as_ref().map(|id| format!("call {id}"));
    }
    let spec = Spec::new(prompt, options)?;
    let lane = spec.lane().to_string();
    let placed = work::place(pool, call.desk.project_dir(), spec).await.map_err(|error| match error.kind() {
        // Its answer may be all that was lost.
        ErrorKind::Redis => Error::redis(in_line(&error))
            .hint("the task may have been made all the same: look at pool_view tasks before you start it again"),
        _ => error,
    })?;
    Ok((placed, lane))
}

/// An error behind the submission: the task is there, and goes on.
pub(super) fn goes_on(id: impl Into<Id>) -> impl Fn(Error) -> Error {
    let id = id.into();
    move |error| {
        Error::new(error.kind(), format!("{id} was submitted and goes on; do not start it again. {}", in_line(&error)))
            .hint(format!("pool_wait hands it over; pool_result {id} shows how far it is"))
    }
}

/// The caller gave up. It means the work, if it said so and not only that it waited too long.
pub(super) async fn given_up(call: &Call, pool: &Pool, id: impl Into<Id>) -> Result<Answer> {
    let id = id.into();
    if let Some(reason) = call.delivery.stop_reason() {
        let reason = if reason.is_empty() { "stopped by the coordinator" } else { reason };
        pool.cancel(id, reason).await?;
        return Ok(Answer::text(format!("{id}: the call was given up, and the task is being stopped")));
    }
    Ok(Answer::text(format!("{id} goes on; do not start it again; pool_wait hands it over")))
}

/// Which permission mode applies to a task, be it made by this call or found.
async fn mode(pool: &Pool, placed: &Placed, record: &TaskRecord) -> String {
    let found = record.spec.as_ref().filter(|_| !placed.fresh);
    let mode = match (found, pool.defaults().await) {
        (Some(spec), Ok(defaults)) => work::mode_of(&defaults, &spec.options),
        _ => placed.mode,
    };
    let text = work::mode_text(placed.id, mode, "allowed_tools");
    if placed.fresh { text } else { format!("{text}; it was submitted before, and no second one is made") }
}

/// What a caller has to know of where a task waits.
pub(super) async fn warning(call: &Call, pool: &Pool, lane: &str) -> Option<String> {
    // It is submitted: what cannot be asked any more is left out.
    let workers = pool.workers().await.ok()?;
    // Those of an embedded pool that was just started are still coming; where none comes, pool_status says so.
    if workers.is_empty() && call.desk.project_dir().is_some() {
        return None;
    }
    let (why, hint) = work::stuck_text(
        &of_lane(lane, &workers),
        lane,
        "start one: motorpool-worker host, with --lanes and --labels that fit",
    )?;
    Some(format!("{why}; {hint}"))
}

pub(super) async fn run(mut call: Call) -> Result<Answer> {
    let wait = call.wait(WAIT_S)?;
    let until = Instant::now() + wait;
    let pool = call.desk.pool_for_work().await?;
    let (placed, lane) = place(&mut call, &pool).await?;
    let id = placed.id;
    if call.ended.is_cancelled() {
        return given_up(&call, &pool, id).await;
    }
    if call.has_tasks {
        return Ok(Answer::Task(task::of(&call.find(id).await.map_err(goes_on(id))?)));
    }
    if !call.follow(id, until).await.map_err(goes_on(id))? {
        return given_up(&call, &pool, id).await;
    }
    let record = call.find(id).await.map_err(goes_on(id))?;
    call.names([&record]).await.map_err(goes_on(id))?;
    if record.state.is_unfinished() {
        let why = match record.state {
            State::Running => None,
            _ => warning(&call, &pool, &lane).await,
        };
        let why = why.map(|why| format!("\n{why}")).unwrap_or_default();
        return Ok(Answer::text(format!(
            "{id} is still {}; do not start it again; pool_wait hands it over\n{}, {}{why}",
            record.state,
            digest::head(&record),
            mode(&pool, &placed, &record).await,
        )));
    }
    Ok(Answer::text(digest::record(&record)).failed_if(record.state == State::Failed))
}

pub(super) async fn submit(mut call: Call) -> Result<Answer> {
    let pool = call.desk.pool_for_work().await?;
    let (placed, lane) = place(&mut call, &pool).await?;
    let id = placed.id;
    let (state, mode) = if placed.fresh {
        (placed.state, work::mode_text(id, placed.mode, "allowed_tools"))
    } else {
        let record = call.find(id).await.map_err(goes_on(id))?;
        (record.state, mode(&pool, &placed, &record).await)
    };
    let mut answer = json!({"id": id, "state": state.word(), "created": placed.fresh, "mode": mode});
    if let Some(warning) = warning(&call, &pool, &lane).await {
        answer["warning"] = warning.into();
    }
    Ok(Answer::json(&answer))
}

pub(super) async fn result(mut call: Call) -> Result<Answer> {
    result_of(&mut call).await
}

/// What `pool_result` and `pool_chain_result` answer.
pub(super) async fn result_of(call: &mut Call) -> Result<Answer> {
    let ids = call.args.needed_ids()?;
    let wait = call.wait(0)?;
    let full = call.args.flag("full")?;
    let cursor = call.args.count("cursor", u64::MAX)?.unwrap_or(0);
    call.rest().end()?;
    if ids.len() > 1 && (full || cursor > 0) {
        return Err(Error::usage("full and cursor are for one id at a time").hint("call pool_result once for each id"));
    }
    let until = Instant::now() + wait;
    for id in &ids {
        // Unknown ones are told before anything is waited for.
        call.known(*id).await?;
    }
    for id in &ids {
        if !wait.is_zero() && !call.follow(*id, until).await? {
            return Ok(Answer::text("the call was given up; the work goes on"));
        }
    }
    let mut known = Vec::new();
    for id in &ids {
        known.push(call.known(*id).await?);
    }
    call.names_any(&known).await?;
    let failed = known.iter().all(|one| one.state() == State::Failed);
    let pool = call.pool().await?;
    let answer = match &known[..] {
        [Known::Task(record)] if full => one_full(record, cursor)?,
        [Known::Task(record)] => one(record, tail(&pool, record).await),
        [Known::Group(view)] => {
            let mut value = whole::json(&pool, view, digest::LONGEST).await?;
            if let Some(last) = view.last_done().filter(|_| full) {
                let record = call.find(last.id).await?;
                value["output"] = one_full(&record, cursor)?["output"].take();
            }
            value
        }
        _ => {
            let mut items = Vec::new();
            let room = digest::LONGEST / known.len();
            let tasks: Vec<TaskRecord> = known
                .iter()
                .filter_map(|one| if let Known::Task(record) = one { Some((**record).clone()) } else { None })
                .collect();
            let mut of_tasks = match several(&tasks, room * tasks.len())["items"].take() {
                Value::Array(items) => items.into_iter(),
                _ => Vec::new().into_iter(),
            };
            for one in &known {
                match one {
                    Known::Task(_) => items.extend(of_tasks.next()),
                    Known::Group(view) => items.push(whole::json(&pool, view, room).await?),
                }
            }
            json!({ "items": items })
        }
    };
    Ok(Answer::json(&answer).failed_if(failed))
}

/// The last of what a running task said.
async fn tail(pool: &Pool, record: &TaskRecord) -> Option<String> {
    if record.state != State::Running {
        return None;
    }
    let chunks = pool.output_tail(record.id, record.run, 50).await.ok()?;
    let words = live::text(&chunks);
    let size = words.chars().count();
    Some(words.chars().skip(size.saturating_sub(TAIL)).collect())
}

/// The record, its output cut to what an answer may have.
fn one(record: &TaskRecord, live: Option<String>) -> Value {
    let mut short = record.clone();
    short.output = None;
    short.structured = None;
    let mut value = record_value(&short);
    if let Some(live) = live {
        value["live"] = live.into();
    }
    let left = digest::LONGEST.saturating_sub(value.to_string().chars().count() + 120);
    put_result(&mut value, record, left);
    value
}

/// What a task brought, as far as there is room for it.
pub(in super::super) fn put_result(value: &mut Value, record: &TaskRecord, left: usize) {
    let structured = record.structured.as_ref().map(Value::to_string).unwrap_or_default();
    let text = record.output.clone().unwrap_or_default();
    let shares = digest::share_out(&[escaped_size(&structured), escaped_size(&text)], &[0, 1], left);
    if shares[0] == escaped_size(&structured) {
        value["structured"] = record.structured.clone().unwrap_or_default();
    } else {
        value["structured_cut"] = "too long for an answer; full: true has it".into();
    }
    if record.output.is_some() {
        put_output(value, &text, shares[1]);
    }
}

/// An output, or as much of its beginning as an answer has room for.
fn put_output(value: &mut Value, text: &str, longest: usize) {
    let size = escaped_size(text);
    if size <= longest {
        value["output"] = text.into();
        return;
    }
    let mut room = longest;
    let kept: String = text
        .chars()
        .take_while(|c| {
            let size = escaped_size(c.encode_utf8(&mut [0; 4]));
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        })
        .collect();
    value["output_cut"] =
        format!("{} of {} characters; full: true, cursor: {0} goes on", kept.chars().count(), text.chars().count())
            .into();
    value["output"] = kept.into();
}

/// Characters that a text takes in JSON, without its quotes.
fn escaped_size(text: &str) -> usize {
    Value::from(text).to_string().chars().count() - 2
}

/// The record with all of its output, or a page of it.
fn one_full(record: &TaskRecord, cursor: u64) -> Result<Value> {
    let mut value = record_value(record);
    let Some(text) = &record.output else { return Ok(value) };
    let size = text.chars().count() as u64;
    if cursor > size {
        return Err(Error::usage(format!("cursor: {cursor} is beyond the {size} characters of the output"))
            .hint("leave it out to begin at the start"));
    }
    let page: String = text.chars().skip(cursor as usize).take(FULL as usize).collect();
    if cursor + FULL < size {
        value["output_cut"] = format!("{size} characters in all; cursor: {} goes on", cursor + FULL).into();
    }
    value["output"] = page.into();
    Ok(value)
}

fn record_value(record: &TaskRecord) -> Value {
    serde_json::to_value(record_json(record)).unwrap_or_default()
}

/// Several records as far as an answer has room: what is known of each, and its share of the outputs.
fn several(records: &[TaskRecord], longest: usize) -> Value {
    // Room for a word on each, however many there are.
    let words = (3_000 / records.len().max(1)).clamp(40, 300);
    let item = |record: &TaskRecord| {
        let mut item = json!({"id": record.id, "state": record.state.word(), "cost_usd": usd(record.cost_microusd)});
        if let Some(error) = record.error.as_ref().filter(|_| record.state == State::Failed) {
            item["error"] = json!({"class": error.class.word(), "status": error.status,
                "message": digest::cut(&error.message, words)});
        } else if let Some(reason) = record.reason.as_ref().filter(|_| record.state != State::Completed) {
            item["reason"] = digest::cut(reason, words).into();
        }
        if !record.denied.is_empty() {
            item["denied"] = digest::cut(&record.denied.join(", "), words / 2).into();
        }
        item
    };
    let mut items: Vec<Value> = records.iter().map(item).collect();
    let outputs: Vec<String> = records.iter().map(|record| digest::output(record).unwrap_or_default()).collect();
    let taken: usize = items.iter().map(|item| item.to_string().chars().count() + 90).sum();
    let sizes: Vec<usize> = outputs.iter().map(|text| escaped_size(text)).collect();
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|at| records[*at].state != State::Failed);
    let shares = digest::share_out(&sizes, &order, longest.saturating_sub(taken));
    for (at, item) in items.iter_mut().enumerate() {
        if !outputs[at].is_empty() {
            put_output(item, &outputs[at], shares[at]);
        }
    }
    json!({ "items": items })
}

pub(super) async fn cancel(mut call: Call) -> Result<Answer> {
    let ids = call.args.needed_ids()?;
    let reason = call.args.text("reason")?.unwrap_or_else(|| "stopped by the coordinator".into());
    call.rest().end()?;
    let mut before = Vec::new();
    for id in &ids {
        // None is stopped if one of them is unknown.
        before.push(call.known(*id).await?.state());
    }
    let pool = call.pool().await?;
    for id in &ids {
        pool.cancel(*id, &reason).await?;
    }
    let until = Instant::now() + PROOF;
    let mut lines = Vec::new();
    let mut stopped = Vec::new();
    for (id, before) in ids.iter().zip(before) {
        if !call.follow(*id, until).await? {
            return Ok(Answer::text("the call was given up; the tasks are being stopped"));
        }
        let known = call.known(*id).await?;
        let made = match &known {
            Known::Task(record) => work::still_made_by(&pool, record).await?,
            Known::Group(_) => None,
        };
        lines.push(match made {
            Some(made) => {
                format!("{id} completed (it had started {made} by then, which goes on: pool_cancel {made} stops that)")
            }
            None => cancelled_text(*id, before, &known),
        });
        stopped.push(known);
    }
    // What was not stopped has a result, and that is not told here.
    call.names_any(stopped.iter().filter(|known| known.state() == State::Cancelled)).await?;
    Ok(Answer::text(lines.join("\n")))
}

fn cancelled_text(id: Id, before: State, known: &Known) -> String {
    match known.state() {
        State::Cancelled if before == State::Cancelled => format!("{id} cancelled (it was already)"),
        State::Cancelled => match known {
            Known::Task(record) => digest::head(record),
            Known::Group(view) => whole::head(view),
        },
        state if before == state && state.is_terminal() => {
            format!("{id} {state} (it was over already; nothing is changed; pool_result {id} has its result)")
        }
        state if state.is_terminal() => {
            format!("{id} {state} (it was quicker than the stop; pool_result {id} has its result)")
        }
        state => {
            format!("{id} {state} (its worker was asked to stop and has not proved yet that it did; pool_result {id})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::record::tests::completed;

    #[test]
    fn an_answer_has_its_length_whatever_the_output_is() {
        for output in ["x".repeat(81_000), "\n\"ä\u{1}".repeat(30_000)] {
            let value = one(&completed(&output), None);
            let text = value.to_string();
            assert!(text.chars().count() <= digest::LONGEST, "{}", text.chars().count());
            assert!(text.chars().count() > digest::LONGEST - 300, "{}", text.chars().count());
            assert!(output.starts_with(value["output"].as_str().unwrap()));
            let many: Vec<TaskRecord> = (0..30).map(|_| completed(&output)).collect();
            let text = several(&many, digest::LONGEST).to_string();
            assert!(text.chars().count() <= digest::LONGEST, "{}", text.chars().count());
        }
        let value = one(&completed("short"), None);
        assert_eq!((value["output"].as_str(), value.get("output_cut")), (Some("short"), None));
    }

    #[test]
    fn full_gives_page_after_page() {
        let output: String = (0..450_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
        let record = completed(&output);
        let mut all = String::new();
        for cursor in [0, FULL, 2 * FULL] {
            all.push_str(one_full(&record, cursor).unwrap()["output"].as_str().unwrap());
        }
        assert_eq!(all, output);
        assert!(one_full(&record, 450_001).is_err());
    }
}
