//! submit, result, cancel, retry: commands on tasks that do not follow them.
//!
//! Not here: `run` (`run.rs`), live output (`watch.rs`), `list` and `show` (files of their own).

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::lane::Lane;
use motorpool::domain::options::PermissionMode;
use motorpool::domain::route::Carried;
use motorpool::settings::{self, Scope};
use motorpool::{Class, Error, ErrorKind, GroupId, Id, Result, Spec, State, TaskId, TaskRecord};
use serde_json::json;
use tokio::time::Instant;

use super::reach::{self, Reached, Wish};
use super::{Call, id_arg, id_of, json_arg, options, timeout_arg, timeout_of};
use crate::term::record::json as record_json;
use crate::term::table::harmless;
use crate::term::{Away, counted, error_text, has_colour, print, print_json, print_text, tell, time};
use crate::work::{self, Placed};

/// How long `cancel` waits for the proof that a running task is gone.
const PROOF: Duration = Duration::from_secs(10);

/// The scopes of commands that only look, which may have to start the embedded pool.
const LOOK: &[Scope] = &[Scope::Base, Scope::Pool, Scope::Worker, Scope::PoolDefault];

/// Adds the settings of a command that looks.
pub(super) fn looking(command: Command) -> Command {
    settings::flags::add(command, LOOK)
}

/// The same where flags of the pool's defaults, and of workers, would be taken for what the command itself sets.
pub(super) fn looking_plainly(command: Command) -> Command {
    settings::flags::add(command, &[Scope::Base])
}

pub(super) fn submit_command() -> Command {
    options::add(
        Command::new("submit")
            .about("Leave a task in the pool and print its id")
            .arg(json_arg("print {id, state, …}"))
            .after_help("Examples:\n  motorpool submit 'List the public functions of src/lib.rs'\n  motorpool submit --tags nightly @task.md"),
    )
}

/// Submits a task from this project.
pub(super) async fn place(call: &Call, reached: &Reached, spec: Spec) -> Result<Placed> {
    let project_dir = reached.joined.is_some().then(|| call.project_dir());
    work::place(&reached.pool, project_dir, spec).await
}

/// Which permission mode applies, and what that means.
pub(super) fn mode_text(id: TaskId, mode: PermissionMode) -> String {
    work::mode_text(id, mode, "--allowed-tools")
}

/// A warning where nobody serves the lane.
pub(super) async fn lane_warning(call: &Call, reached: &Reached, lane: &Lane) -> Result<Option<String>> {
    let workers = reached.pool.workers().await?;
    // Workers of a pool that was just started are still coming.
    let is_set = call.settings.lanes.iter().any(|one| one == lane.name());
    let coming = reached.joined.is_some() && workers.is_empty() && is_set && lane.is_plain();
    let word = lane.to_string();
    let served = coming || workers.iter().any(|worker| worker.serves(&word));
    Ok((!served).then(|| work::unserved(lane)))
}

pub(super) async fn submit(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let spec = options::spec(call, matches)?;
    reach::check(call)?;
    call.refuse_inside_run("submit")?;
    let reached = reach::reach(call, Wish::Submit).await?;
    submit_to(call, &reached, spec).await
}

/// Submits and says so, without following.
pub(super) async fn submit_to(call: &Call, reached: &Reached, spec: Spec) -> Result<u8> {
    let (lane, delay_s) = (spec.lane(), spec.options.delay_s);
    let placed = place(call, reached, spec).await?;
    let id = placed.id;
    // It is submitted: what can no longer be asked is left out.
    let warning = lane_warning(call, reached, &lane).await.unwrap_or_default();
    if let Some(warning) = &warning {
        tell(&format!("warning: {warning}"));
    }
    if !placed.fresh {
        tell(&format!("{id} was submitted before with this --once key; no second task is made"));
    } else {
        tell(&mode_text(id, placed.mode));
        if let Some(seconds) = delay_s {
            tell(&format!("{id} begins in {}", time::span(seconds * 1000)));
        }
    }
    if call.json {
        let state = if placed.fresh { placed.state } else { reached.pool.task(id).await?.state };
        print_json(&json!({
            "id": id, "state": state.word(), "created": placed.fresh, "lane": lane.to_string(),
            "permission_mode": placed.mode.word(), "warning": warning,
        }))?;
    } else {
        print(&format!("{id}\n"))?;
    }
    Ok(0)
}

pub(super) fn result_command() -> Command {
    let wait = Arg::new("wait").long("wait").action(ArgAction::SetTrue).help("wait until the task is over");
    looking(
        Command::new("result")
            .about("Print the output of a task")
            .arg(id_arg())
            .arg(wait)
            .arg(timeout_arg("wait no longer than this (the task goes on)").requires("wait"))
            .arg(json_arg("print the task's record"))
            .after_help("Examples:\n  motorpool result t17\n  motorpool result t17 --wait --timeout 10m --json"),
    )
}

pub(super) async fn result(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let (id, limit) = (id_of(matches)?, timeout_of(matches)?);
    reach::check(call)?;
    let reached = reach::reach(call, Wish::Look).await?;
    let until = limit.map(|limit| Instant::now() + limit);
    let id = match id {
        Id::Task(id) => id,
        Id::Group(id) => return super::group::result(call, &reached, id, matches.get_flag("wait"), until).await,
    };
    let wait = matches.get_flag("wait");
    result_of(call, &reached, id, wait, until).await
}

async fn result_of(call: &Call, reached: &Reached, id: TaskId, wait: bool, until: Option<Instant>) -> Result<u8> {
    let mut record = reached.task(id).await?;
    if !wait {
        return brought(call, reached, &record, wait, until).await;
    }
    let pool = &reached.pool;
    let mut away = Away::default();
    while record.state.is_unfinished() && until.is_none_or(|until| Instant::now() < until) {
        // While it lasts, one look at a time: the wait itself would say nothing before its end.
        let seen = if away.lasts() { pool.task(id).await } else { pool.wait(id, until).await };
        match seen {
            Ok(seen) => {
                away.is_over();
                record = seen;
            }
            Err(error) if error.kind() == ErrorKind::Redis => away.is(&error),
            Err(error) => return Err(error),
        }
    }
    if !record.state.is_unfinished() {
        return brought(call, reached, &record, wait, until).await;
    }
    if call.json {
        print_json(&record_json(&record))?;
    }
    Err(Error::timeout(format!("{id} is still {}", record.state))
        .hint(format!("it goes on; `motorpool result {id} --wait` waits again")))
}

/// Prints what a task brought; of one that decided how work is done, and started it, what that work brought.
async fn brought(
    call: &Call,
    reached: &Reached,
    record: &TaskRecord,
    wait: bool,
    until: Option<Instant>,
) -> Result<u8> {
    let Some((carried, made)) = Carried::of(record).filter(|_| !call.json) else {
        return conclude(record, call.json);
    };
    tell(&format!("{} decided how the work is done: {made}, {}", record.id, carried.route.words()));
    match made {
        Id::Group(made) => super::group::result(call, reached, made, wait, until).await,
        Id::Task(made) => Box::pin(result_of(call, reached, made, wait, until)).await,
    }
}

/// Prints what a task brought; its exit code.
pub(super) fn conclude(record: &TaskRecord, json: bool) -> Result<u8> {
    let id = record.id;
    if !record.denied.is_empty() {
        tell(&format!(
            "{}, {} denied: {}; allow with --allowed-tools, edits with another --permission-mode than plan",
            record.state,
            counted(record.denied.len() as u64, "call"),
            harmless(&record.denied.join(", "))
        ));
    }
    if json {
        print_json(&record_json(record))?;
    } else {
        match (record.output.as_deref().filter(|output| !output.is_empty()), &record.structured) {
            (Some(output), _) => print_text(output)?,
            (None, Some(value)) => print_json(value)?,
            (None, None) => true,
        };
    }
    Ok(match record.state {
        State::Completed => 0,
        State::Failed => {
            let (message, hint, class) = failure_text(record);
            tell(&error_text(&message, hint.as_deref(), has_colour()));
            if class == Some(Class::Timeout) { 4 } else { 1 }
        }
        State::Cancelled => {
            let reason = record.reason.as_deref().map(|reason| format!(": {}", harmless(reason))).unwrap_or_default();
            tell(&format!("{id} was cancelled{reason}"));
            5
        }
        State::PendingReview => {
            tell(&format!("{id} waits for review"));
            0
        }
        State::Waiting | State::Delayed | State::Pending | State::Held | State::Running => {
            let reason = record.reason.as_deref().map(|reason| format!(": {}", harmless(reason))).unwrap_or_default();
            tell(&format!("{id} is {}{reason}; `motorpool result {id} --wait` waits for it", record.state));
            0
        }
    })
}

/// `t1 failed (auth, status 401): message`, what to do, and the class.
fn failure_text(record: &TaskRecord) -> (String, Option<String>, Option<Class>) {
    let Some(error) = &record.error else {
        return (
            format!("{} failed: {}", record.id, record.reason.as_deref().unwrap_or("no reason is known")),
            None,
            None,
        );
    };
    let status = error.status.map(|status| format!(", status {status}")).unwrap_or_default();
    let message = format!("{} failed ({}{status}): {}", record.id, error.class, harmless(&error.message));
    (message, error.hint.as_deref().map(harmless), Some(error.class))
}

pub(super) fn cancel_command() -> Command {
    let ids = Arg::new("id").value_name("ID").required(true).num_args(1..).help("the tasks, as in t17 t18");
    let reason = Arg::new("reason").long("reason").value_name("TEXT").help("why, for the record");
    looking(
        Command::new("cancel")
            .about("Stop tasks; none is stopped if one of them is not known")
            .arg(ids)
            .arg(reason)
            .arg(json_arg("print {id, state}; of several {items}"))
            .after_help("Examples:\n  motorpool cancel t17 --reason 'wrong branch'\n  motorpool cancel t17 t18"),
    )
}

pub(super) async fn cancel(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let ids = matches.get_many::<String>("id").into_iter().flatten();
    let ids: Vec<Id> = ids.map(|id| id.parse()).collect::<Result<_>>()?;
    call.refuse_inside_run("cancel")?;
    let reason = matches.get_one::<String>("reason").map_or("cancelled on request", String::as_str);
    reach::check(call)?;
    let reached = reach::reach(call, Wish::Look).await?;
    let mut before = Vec::new();
    for id in &ids {
        before.push(reached.state(*id).await?);
    }
    for id in &ids {
        reached.pool.cancel(*id, reason).await?;
    }
    let until = Instant::now() + PROOF;
    let (mut items, mut wrong) = (Vec::new(), Vec::new());
    for (id, before) in ids.iter().zip(before) {
        let state = reached.pool.wait_for(*id, Some(until)).await?.state();
        items.push(json!({ "id": id, "state": state.word() }));
        match cancelled_text(*id, before, state) {
            Ok(words) => tell(&words),
            Err(error) => wrong.push(match made_by(&reached, *id).await? {
                Some(made) => Error::refused(error.message())
                    .hint(format!("what it started goes on: `motorpool cancel {made}` stops that")),
                None => error,
            }),
        }
    }
    if call.json {
        print_json(&if items.len() == 1 { items.remove(0) } else { json!({ "items": items }) })?;
    }
    // The last one is told by who called, with its exit code.
    let last = wrong.pop();
    for error in wrong {
        tell(&error_text(error.message(), error.hint_text(), has_colour()));
    }
    last.map_or(Ok(0), Err)
}

/// What was started by what was to be stopped, and goes on.
async fn made_by(reached: &Reached, id: Id) -> Result<Option<Id>> {
    match id {
        Id::Task(id) => work::still_made_by(&reached.pool, &reached.task(id).await?).await,
        Id::Group(_) => Ok(None),
    }
}

/// What became of a task that was to be stopped.
fn cancelled_text(id: Id, before: State, state: State) -> Result<String> {
    if state == State::Cancelled {
        let already = if before == state { " already" } else { "" };
        return Ok(format!("{id} is{already} cancelled"));
    }
    if state.is_terminal() {
        let since = if before == state { "was already" } else { "was quicker: it is" };
        return Err(Error::refused(format!("{id} {since} {state}")).hint(format!("`motorpool result {id}` shows it")));
    }
    Err(Error::timeout(format!(
        "{id} is still {state}: its worker was asked to stop and has not proved yet that it did"
    ))
    .hint(format!("`motorpool result {id} --wait` waits for it")))
}

pub(super) fn retry_command() -> Command {
    looking(
        Command::new("retry")
            .about("Try a task anew that failed or was cancelled: as a new task, whose id is printed")
            .arg(id_arg())
            .arg(json_arg("print {id, state, …}"))
            .after_help("Example:\n  motorpool retry t17\n`motorpool list --state failed` lists what failed."),
    )
}

pub(super) async fn retry(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let id = id_of(matches)?;
    reach::check(call)?;
    call.refuse_inside_run("retry")?;
    let reached = reach::reach(call, Wish::Submit).await?;
    let id = match id {
        Id::Task(id) => id,
        Id::Group(id) => return retry_chain(call, &reached, id).await,
    };
    reached.task(id).await?;
    let made = reached.pool.retry(id).await?;
    if !made.fresh {
        let again = reached.task(made.id).await?.state;
        tell(&format!("{id} was tried anew before, as {} ({again}); no second task is made", made.id));
        if matches!(again, State::Failed | State::Cancelled) {
            tell(&format!("`motorpool retry {}` tries that one anew", made.id));
        }
    }
    if call.json {
        let state = reached.pool.task(made.id).await?.state;
        print_json(&json!({ "id": made.id, "state": state.word(), "created": made.fresh, "retry_of": id }))?;
    } else {
        print(&format!("{}\n", made.id))?;
    }
    Ok(0)
}

async fn retry_chain(call: &Call, reached: &Reached, id: GroupId) -> Result<u8> {
    reached.group(id).await?;
    let made = reached.pool.retry_chain(id).await?;
    let state = reached.state(made.id.into()).await?;
    if !made.fresh {
        tell(&format!("{id} was tried anew before, as {} ({state}); no second chain is made", made.id));
    }
    if call.json {
        print_json(&json!({ "id": made.id, "state": state.word(), "created": made.fresh, "retry_of": id }))?;
    } else {
        print(&format!("{}\n", made.id))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::record::tests::pending;

    #[test]
    fn a_failure_says_class_status_and_message() {
        let mut record = pending();
        record.error =
            Some(motorpool::Failure { status: Some(401), ..motorpool::Failure::new(Class::Auth, "no") }.hint("h"));
        assert_eq!(
            failure_text(&record),
            ("t17 failed (auth, status 401): no".into(), Some("h".into()), Some(Class::Auth))
        );
    }
}
