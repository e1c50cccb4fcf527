//! chain, fan-out: several tasks at once, submitted and followed; and the commands on one task, for a whole.
//!
//! Not here: what a definition may say (the library), how a whole is shown as JSON (`term/group.rs`).

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::definition::{self, Vars};
use motorpool::domain::limits;
use motorpool::pool::{GroupView, Known, Member, SubmittedGroup};
use motorpool::{
    Class, Error, ErrorKind, Filter, GroupId, GroupKind, Id, Result, State, TaskId, TaskOptions, TaskRecord,
};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::follow::follow;
use super::reach::{self, Reached, Wish};
use super::signals::Signals;
use super::{Call, json_arg, options, timeout_arg, timeout_of};
use crate::term::group::{self, member_word};
use crate::term::table::harmless;
use crate::term::{Away, COLUMNS, error_text, has_colour, print, print_json, print_text, table, tell, time};
use crate::work;

fn command(name: &'static str, about: &'static str, help: &'static str) -> Command {
    let var = Arg::new("var").long("var").value_name("NAME=VALUE").action(ArgAction::Append);
    let detach = Arg::new("detach").long("detach").action(ArgAction::SetTrue).help("print the id and do not wait");
    options::add_without_prompt(
        Command::new(name)
            .about(about)
            .arg(Arg::new("file").value_name("FILE").required(true).help("the definition, YAML or JSON; - reads stdin"))
            .arg(var.help("the value of {vars.NAME} in its prompts; repeat it for more"))
            .arg(detach)
            .arg(timeout_arg("cancel all of it after this time, waiting included").conflicts_with("detach"))
            .arg(json_arg("print the record, with those of its parts"))
            .after_help(help),
    )
}

pub(super) fn chain_command() -> Command {
    command(
        "chain",
        "Run steps one after the other, each fed by the one before, and print what the last one brought",
        "Example of a FILE:\n  steps:\n    - name: find\n      prompt: Find the slowest test and say why it is slow.\n    \
         - name: fix\n      prompt: \"Make it faster. What is known: {previous_output}\"\n      permission_mode: acceptEdits\n\n\
         Options on the command line hold for steps that say nothing else. docs/chains.md has the rest.",
    )
}

pub(super) fn fan_out_command() -> Command {
    command(
        "fan-out",
        "Run tasks or chains at once and print what each brought, in their order",
        "Example of a FILE:\n  model: haiku\n  items:\n    - Summarise docs/a.md\n    - prompt: Summarise docs/b.md\n      effort: high\n  \
         collect: \"Write one summary of these: {outputs}\"\n\n\
         Options on the command line hold for items that say nothing else. docs/chains.md has the rest.",
    )
}

/// The definition in a file, with the options of the command line for what it does not say.
fn definition_of(call: &Call, matches: &ArgMatches) -> Result<(Map<String, Value>, Vars)> {
    let file = matches.get_one::<String>("file").map(String::as_str).unwrap_or_default();
    let most = limits::SUBMISSION_BYTES as u64;
    let mut bytes = Vec::new();
    let (shown, read) = match file {
        "-" => ("stdin", std::io::stdin().lock().take(most + 1).read_to_end(&mut bytes)),
        file => (file, std::fs::File::open(file).and_then(|opened| opened.take(most + 1).read_to_end(&mut bytes))),
    };
    read.map_err(|error| {
        Error::usage(format!("cannot read {shown}: {error}")).hint("name a file with the definition, or - for stdin")
    })?;
    if bytes.len() as u64 > most {
        return Err(Error::usage(format!("{shown} has more than the {most} bytes that are taken")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::usage(format!("{shown} is not UTF-8 text")).hint("convert it to UTF-8"))?;
    let value: Value = serde_norway::from_str(&text).map_err(|error| {
        Error::usage(format!("{shown} is neither YAML nor JSON: {error}"))
            .hint("docs/chains.md shows what it looks like")
    })?;
    let Value::Object(mut definition) = value else {
        return Err(Error::usage(format!("{shown} is no object")).hint("docs/chains.md shows what it looks like"));
    };
    let given = serde_json::to_value(options::read_given(matches)?).unwrap_or_default();
    for (name, value) in given.as_object().into_iter().flatten() {
        definition.entry(name.clone()).or_insert_with(|| value.clone());
    }
    definition.entry("coordinator").or_insert(options::coordinator(call)?.into());
    let mut values = BTreeMap::new();
    for pair in matches.get_many::<String>("var").into_iter().flatten() {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Error::usage(format!("--var: {pair:?} has no =")).hint("write --var NAME=VALUE"));
        };
        if values.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Error::usage(format!("--var: {name} is given twice")));
        }
    }
    Ok((definition, Vars::new(values)))
}

pub(super) async fn run(call: &Call, matches: &ArgMatches, kind: GroupKind) -> Result<u8> {
    let limit = timeout_of(matches)?;
    let (definition, mut vars) = definition_of(call, matches)?;
    let file = matches.get_one::<String>("file").map(String::as_str).unwrap_or_default();
    let within = |error: Error| match error.hint_text() {
        Some(hint) => Error::new(error.kind(), format!("{file}: {}", error.message())).hint(hint),
        None => Error::new(error.kind(), format!("{file}: {}", error.message())),
    };
    let mut work = match kind {
        GroupKind::Chain => Work::Chain(Box::new(definition::chain(&definition, &mut vars).map_err(within)?)),
        GroupKind::Batch => Work::FanOut(Box::new(definition::fan_out(&definition, &mut vars).map_err(within)?)),
    };
    vars.check_all_used()?;
    // What cannot be carried out is told before anything is contacted.
    work.check().map_err(within)?;
    reach::check(call)?;
    call.refuse_inside_run(if kind == GroupKind::Chain { "chain" } else { "fan-out" })?;
    let is_detached = matches.get_flag("detach");
    let deadline = limit.map(|limit| Instant::now() + limit);
    let signals = Signals::count()?;
    let reached = tokio::select! {
        reached = reach::reach(call, if is_detached { Wish::Submit } else { Wish::Run }) => reached?,
        () = signals.reach(1) => {
            tell("cancelled; nothing was submitted");
            return Ok(5);
        }
    };
    work.work_in(reached.joined.is_some().then(|| call.project_dir()));
    let own = work.options();
    let made = match work {
        Work::Chain(chain) => reached.pool.submit_chain(*chain).await?,
        Work::FanOut(fan_out) => reached.pool.fan_out(*fan_out).await?,
    };
    let id = made.id;
    if made.fresh {
        let modes = own.iter().map(|options| mode_word(&reached, options));
        let mut words: Vec<String> = futures_util::future::join_all(modes).await;
        words.sort();
        words.dedup();
        tell(&format!("{id}: {} in {} mode", counted(&made, kind), words.join(" and ")));
    } else {
        tell(&format!("{id} was submitted before with this --once key; no second one is made"));
    }
    if is_detached {
        if call.json {
            let state = reached.pool.state_of(id.into()).await?.unwrap_or(State::Pending);
            print_json(&json!({"id": id, "state": state.word(), "created": made.fresh, "members": made.members}))?;
        } else {
            print(&format!("{id}\n"))?;
        }
        return Ok(0);
    }
    follow(call, &reached, id, signals, deadline).await
}

async fn mode_word(reached: &Reached, options: &TaskOptions) -> String {
    let defaults = reached.pool.defaults().await.unwrap_or_default();
    work::mode_of(&defaults, options).word().to_owned()
}

fn counted(made: &SubmittedGroup, kind: GroupKind) -> String {
    let what = if kind == GroupKind::Chain { "step" } else { "item" };
    crate::term::counted(made.members.len() as u64, what)
}

/// What is submitted.
enum Work {
    Chain(Box<motorpool::Chain>),
    FanOut(Box<motorpool::FanOut>),
}

impl Work {
    fn check(&self) -> Result<()> {
        match self {
            Self::Chain(chain) => chain.clone().nodes().map(drop),
            Self::FanOut(fan_out) => fan_out.clone().nodes().map(drop),
        }
    }

    /// The options of its parts.
    fn options(&self) -> Vec<TaskOptions> {
        let of_chain = |chain: &motorpool::Chain| chain.steps.iter().map(|step| step.options.clone()).collect();
        match self {
            Self::Chain(chain) => of_chain(chain),
            Self::FanOut(fan_out) => fan_out.options_of_parts().cloned().collect(),
        }
    }

    /// In an embedded pool it works in the project's directory.
    fn work_in(&mut self, project_dir: Option<String>) {
        match self {
            Self::Chain(chain) => chain.project_dir = project_dir,
            Self::FanOut(fan_out) => fan_out.work_in(project_dir.as_deref()),
        }
    }
}

/// The records with texts of the tasks whose words are shown.
async fn texts(reached: &Reached, view: &GroupView, all: bool) -> Result<BTreeMap<TaskId, TaskRecord>> {
    let ids: Vec<TaskId> = match (view.group.id.kind, all) {
        (_, true) => view.tasks().map(|record| record.id).collect(),
        (GroupKind::Chain, _) => view.last_done().map(|record| record.id).into_iter().collect(),
        (GroupKind::Batch, _) => view.members.iter().filter_map(Member::result).map(|record| record.id).collect(),
    };
    let mut texts = BTreeMap::new();
    for id in ids {
        texts.insert(id, reached.pool.task(id).await?);
    }
    Ok(texts)
}

/// Prints what a chain or batch brought; its exit code.
pub(super) async fn conclude(reached: &Reached, view: &GroupView, json: bool) -> Result<u8> {
    let texts = texts(reached, view, json).await?;
    if json {
        print_json(&group::json(view, &texts))?;
    }
    let id = view.group.id;
    let denied = view.tasks().filter(|record| !record.denied.is_empty());
    for record in denied {
        tell(&format!(
            "{}: {} denied: {}; allow with allowed_tools, edits with another permission_mode than plan",
            record.id,
            crate::term::counted(record.denied.len() as u64, "call"),
            harmless(&record.denied.join(", "))
        ));
    }
    if !json {
        match id.kind {
            GroupKind::Chain => print_output(view.last_done().and_then(|record| texts.get(&record.id)))?,
            GroupKind::Batch => print_items(view, &texts)?,
        }
    }
    Ok(match view.state {
        State::Completed => 0,
        State::Failed => {
            let why = group::reason(view).map(|why| harmless(&why)).unwrap_or_default();
            let failed = view.first_failed().and_then(|record| record.error.as_ref());
            let hint = failed.and_then(|error| error.hint.as_deref()).map(harmless);
            tell(&error_text(&format!("{id} failed: {why}"), hint.as_deref(), has_colour()));
            if id.kind == GroupKind::Chain {
                tell(&format!("  hint: `motorpool retry {id}` goes on where it stopped"));
            }
            if failed.is_some_and(|error| error.class == Class::Timeout) { 4 } else { 1 }
        }
        State::Cancelled => {
            let reason = view.group.reason.as_deref().map(|reason| format!(": {}", harmless(reason)));
            tell(&format!("{id} was cancelled{}", reason.unwrap_or_default()));
            5
        }
        State::PendingReview => {
            tell(&format!("{id} waits for review: `motorpool approve {id}` or `motorpool reject`"));
            0
        }
        state => {
            tell(&format!("{id} is {state}; `motorpool result {id} --wait` waits for it"));
            0
        }
    })
}

fn print_output(record: Option<&TaskRecord>) -> Result<()> {
    let Some(record) = record else { return Ok(()) };
    match (record.output.as_deref().filter(|output| !output.is_empty()), &record.structured) {
        (Some(output), _) => print_text(output).map(drop),
        (None, Some(value)) => print_json(value).map(drop),
        (None, None) => Ok(()),
    }
}

/// Every item under a line of its own, in input order; what went wrong is told first, apart.
fn print_items(view: &GroupView, texts: &BTreeMap<TaskId, TaskRecord>) -> Result<()> {
    for (at, member) in view.members.iter().enumerate().filter(|(_, member)| member.state() != State::Completed) {
        tell(&format!("{} ({}) {}", view.name_of(at), member.id(), harmless(&member_text(member))));
    }
    for (at, member) in view.members.iter().enumerate() {
        print(&format!("== {} ({}) {}\n", view.name_of(at), member.id(), member_word(member)))?;
        if member.state() == State::Completed {
            print_output(member.result().and_then(|record| texts.get(&record.id)))?;
        }
    }
    Ok(())
}

/// How a member stands and why.
fn member_text(member: &Member) -> String {
    let why = match member {
        Member::Task(record) => {
            record.error.as_ref().map(|error| format!("{}: {}", error.class, error.message)).or(record.reason.clone())
        }
        Member::Group(view) => group::reason(view),
    };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    format!("{}{why}", member_word(member))
}

/// `show` of a whole.
pub(super) async fn show(reached: &Reached, id: GroupId, json: bool) -> Result<u8> {
    let view = reached.group(id).await?;
    if json {
        print_json(&group::json(&view, &texts(reached, &view, true).await?))?;
        return Ok(0);
    }
    let mut text = format!("{id} {}  {}\n", view.state, time::dollars(view.cost_microusd()));
    if let Some(why) = group::reason(&view) {
        text.push_str(&format!("{}\n", harmless(&why)));
    }
    text.push_str(&format!("created {}\n\n", time::rfc3339(view.group.created_ms)));
    let row = |(at, member): (usize, &Member)| {
        let (runs, about) = match member {
            Member::Task(record) => (record.run.to_string(), record.title.clone()),
            Member::Group(inner) => (String::new(), inner.group.title.clone()),
        };
        let why = if member.state() == State::Completed { about } else { member_text(member) };
        vec![
            view.name_of(at),
            member.id().to_string(),
            member_word(member).to_owned(),
            runs,
            time::dollars(member.cost_microusd()),
            why,
        ]
    };
    let rows: Vec<Vec<String>> = view.members.iter().enumerate().map(row).collect();
    text.push_str(&table::render(&["NAME", "ID", "STATE", "RUNS", "COST", "ABOUT"], &rows, COLUMNS));
    print(&text)?;
    Ok(0)
}

/// `result` of a whole.
pub(super) async fn result(
    call: &Call,
    reached: &Reached,
    id: GroupId,
    wait: bool,
    until: Option<Instant>,
) -> Result<u8> {
    let view = if wait {
        let mut away = Away::default();
        let known = loop {
            if away.lasts() && reached.pool.group_view(id).await.is_ok() {
                away.is_over();
            }
            match reached.pool.wait_for(id, until).await {
                Err(error) if error.kind() == ErrorKind::Redis && until.is_none_or(|until| Instant::now() < until) => {
                    away.is(&error);
                }
                known => break known?,
            }
        };
        away.is_over();
        let Known::Group(view) = known else {
            return Err(Error::failed(format!("{id} is no chain or batch")));
        };
        *view
    } else {
        reached.group(id).await?
    };
    if wait && view.state.is_unfinished() {
        if call.json {
            print_json(&group::json(&view, &BTreeMap::new()))?;
        }
        return Err(Error::timeout(format!("{id} is still {}", view.state))
            .hint(format!("it goes on; `motorpool result {id} --wait` waits again")));
    }
    conclude(reached, &view, call.json).await
}

/// Follows anything to its end, as the command that made it would.
pub(super) async fn follow_any(call: &Call, reached: &Reached, id: Id, deadline: Option<Instant>) -> Result<u8> {
    match id {
        Id::Group(id) => follow(call, reached, id, Signals::count()?, deadline).await,
        Id::Task(id) => super::run::follow_task(call, reached, id, Signals::count()?, deadline).await,
    }
}

/// How often a whole is looked at without news.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// `list --kind chains` or `batches`.
pub(super) async fn list(
    call: &Call,
    reached: &Reached,
    kind: GroupKind,
    limit: usize,
    below: Option<&str>,
    filter: &Filter,
) -> Result<u8> {
    let below = match below {
        None => None,
        Some(text) => match text.parse::<GroupId>() {
            Ok(id) if id.kind == kind => Some(id.number),
            _ => {
                return Err(Error::usage(format!("--cursor: {text:?} is no {}", kind.word()))
                    .hint("give the cursor of the page before"));
            }
        },
    };
    let mut views = reached.pool.groups(kind, below, limit + 1, filter).await?;
    let more = views.len() > limit;
    views.truncate(limit);
    let cursor = views.last().filter(|_| more).map(|view| view.group.id);
    if call.json {
        let items: Vec<Value> = views.iter().map(|view| group::json(view, &BTreeMap::new())).collect();
        print_json(&json!({ "items": items, "cursor": cursor }))?;
        return Ok(0);
    }
    if views.is_empty() {
        tell(if kind == GroupKind::Chain { "no chains" } else { "no batches" });
        return Ok(0);
    }
    let now_ms = time::now_ms();
    let row = |view: &GroupView| {
        let done = view.members.iter().filter(|member| member.state() == State::Completed).count();
        vec![
            view.group.id.to_string(),
            view.state.to_string(),
            time::span(now_ms.saturating_sub(view.group.created_ms)),
            format!("{done}/{}", view.members.len()),
            time::dollars(view.cost_microusd()),
            group::reason(view).unwrap_or_else(|| view.group.title.clone()),
        ]
    };
    let rows: Vec<Vec<String>> = views.iter().map(row).collect();
    print(&table::render(&["ID", "STATE", "AGE", "DONE", "COST", "ABOUT"], &rows, COLUMNS))?;
    if let Some(cursor) = cursor {
        tell(&format!("more with --cursor {cursor}"));
    }
    Ok(0)
}
