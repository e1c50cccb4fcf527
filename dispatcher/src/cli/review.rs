//! approve, reject: what becomes of a result that is up for review.
//!
//! Not here: how a judgement is carried out (the library).

use clap::{Arg, ArgMatches, Command};
use motorpool::pool::ReviewVerdict;
use motorpool::{Error, Id, Result};
use serde_json::json;

use super::reach::{self, Wish};
use super::task::looking;
use super::{Call, json_arg, options};
use crate::term::{error_text, has_colour, print_json, tell};
use crate::work;

fn round_arg() -> Arg {
    Arg::new("round")
        .long("round")
        .value_name("N")
        .help("the round that was looked at; refused if it is another by now")
}

fn round_of(matches: &ArgMatches) -> Result<Option<u32>> {
    let Some(text) = matches.get_one::<String>("round") else { return Ok(None) };
    match text.parse() {
        Ok(round) if round > 0 => Ok(Some(round)),
        _ => Err(Error::usage(format!("--round: {text:?} is no round")).hint("give a whole number from 1")),
    }
}

pub(super) fn approve_command() -> Command {
    looking(
        Command::new("approve")
            .about("Approve results that are up for review: they are completed, and what follows them goes on")
            .arg(
                Arg::new("id")
                    .value_name("ID")
                    .required(true)
                    .num_args(1..)
                    .help("the tasks, or chains and batches with results that are up for review"),
            )
            .arg(round_arg())
            .arg(Arg::new("why").long("why").value_name("TEXT").help("why, for the record"))
            .arg(json_arg("print {id, state, round, again}; of several {items}"))
            .after_help("Example:\n  motorpool approve t17\n`motorpool list --state pending_review` lists them."),
    )
}

pub(super) async fn approve(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let ids = matches.get_many::<String>("id").into_iter().flatten();
    let ids: Vec<Id> = ids.map(|id| id.parse()).collect::<Result<_>>()?;
    let round = round_of(matches)?;
    let why = matches.get_one::<String>("why").map(String::as_str).unwrap_or_default();
    let who = options::coordinator(call)?;
    call.refuse_inside_run("approve")?;
    reach::check(call)?;
    let pool = reach::reach(call, Wish::Look).await?.pool;
    let mut tasks = Vec::new();
    for id in ids {
        // None is judged if one of them is not known.
        tasks.extend(pool.up_for_review(id).await?);
    }
    let (mut verdicts, mut wrong) = (Vec::new(), Vec::new());
    for id in tasks {
        match pool.approve(id, round, &who, why).await {
            Ok(verdict) => verdicts.push(verdict),
            Err(error) => wrong.push(error),
        }
    }
    show(call, &verdicts)?;
    let last = wrong.pop();
    for error in wrong {
        tell(&error_text(error.message(), error.hint_text(), has_colour()));
    }
    last.map_or(Ok(0), Err)
}

pub(super) fn reject_command() -> Command {
    let command = Command::new("reject")
        .about("Reject a result that is up for review: it is done anew with the feedback, or has failed")
        .arg(Arg::new("id").value_name("ID").required(true).help("the task, or the chain whose result it is"))
        .arg(Arg::new("feedback").value_name("FEEDBACK").required(true).help("what is to be done better"))
        .arg(round_arg())
        .arg(json_arg("print {id, state, round, again}"))
        .after_help("Example:\n  motorpool reject t17 'The tests are missing' --model opus");
    looking_with_changes(command)
}

/// The options that a rejection may change, and the settings of a command that looks.
fn looking_with_changes(command: Command) -> Command {
    let own = options::changes(command);
    let taken: Vec<String> = own.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    // A name that both have means the task.
    let others = looking(Command::new("")).get_arguments().cloned().collect::<Vec<_>>();
    let is_free = |arg: &Arg| arg.get_long().is_none_or(|long| !taken.iter().any(|one| one == long));
    others.into_iter().filter(is_free).fold(own, |command, arg| command.arg(arg.display_order(1000)))
}

pub(super) async fn reject(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let id: Id = text("id").parse()?;
    let round = round_of(matches)?;
    let changes = options::read_given(matches)?;
    let who = options::coordinator(call)?;
    call.refuse_inside_run("reject")?;
    reach::check(call)?;
    let pool = reach::reach(call, Wish::Look).await?.pool;
    let tasks = pool.up_for_review(id).await?;
    let [task] = tasks[..] else {
        let ids: Vec<String> = tasks.iter().map(ToString::to_string).collect();
        return Err(Error::refused(format!("{} results of {id} are up for review: {}", ids.len(), ids.join(", ")))
            .hint("reject each by its own id, with its own feedback"));
    };
    let verdict = pool.reject(task, round, &who, text("feedback"), &changes).await?;
    show(call, &[verdict])?;
    Ok(0)
}

fn show(call: &Call, verdicts: &[ReviewVerdict]) -> Result<()> {
    let mut items = Vec::new();
    for verdict in verdicts {
        items.push(json!({
            "id": verdict.id, "state": verdict.state.word(), "round": verdict.round, "again": verdict.again,
        }));
        tell(&work::judged_text(verdict));
    }
    if call.json {
        print_json(&if items.len() == 1 { items.remove(0) } else { json!({ "items": items }) })?;
    }
    Ok(())
}
