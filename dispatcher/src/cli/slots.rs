//! slots and config: what slots keep across their workers, and the pool's defaults.
//!
//! Not here: what may be set at which level (`domain/slot.rs` of the library).

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::slot::{self, OptionChange, Slot, SlotChange};
use motorpool::{Error, Result, TaskOptions};
use serde_json::{Map, Value, json};

use super::options::{self, of_level};
use super::reach::{self, Wish};
use super::task::looking_plainly;
use super::{Call, json_arg};
use crate::term::table::{fit, harmless, render};
use crate::term::{COLUMNS, print, print_json, tell};
use crate::work;

pub(super) fn command() -> Command {
    let text = |name: &'static str, doc: &'static str| Arg::new(name).long(name).value_name("TEXT").help(doc);
    let command = Command::new("slots")
        .about("Show the slots; or the settings of one, which outlive its workers")
        .arg(Arg::new("slot").value_name("SLOT").help("which one, as in laptop-1"))
        .arg(text("set-name", "what people call it; empty takes it away"))
        .arg(text("role", "what it is for, in a word"))
        .arg(text("description", "the same in a sentence; Claude is told"))
        .arg(unset_arg())
        .arg(Arg::new("forget").long("forget").action(ArgAction::SetTrue).help("remove its settings"))
        .arg(json_arg("print {items}; of one slot, the slot"))
        .after_help(
            "Examples:\n  motorpool slots\n  motorpool slots laptop-1 --role reviewer --model opus --allowed-tools Read\n  \
             motorpool slots laptop-1 --unset model\n  motorpool slots laptop-1 --forget",
        );
    of_level(looking_plainly(command), slot::OPTIONS, "Options of the slot's tasks that say nothing themselves")
}

fn unset_arg() -> Arg {
    let help = "take this option away, as in model; may be repeated";
    Arg::new("unset").long("unset").value_name("OPTION").action(ArgAction::Append).value_delimiter(',').help(help)
}

/// `max-turns` as well as `max_turns`.
fn names(matches: &ArgMatches, id: &str) -> Vec<String> {
    let names = matches.get_many::<String>(id).into_iter().flatten();
    names.map(|name| name.replace('-', "_")).collect()
}

pub(super) async fn run(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let change = SlotChange {
        name: text("set-name"),
        role: text("role"),
        description: text("description"),
        options: OptionChange { set: options::given(matches)?, unset: names(matches, "unset") },
    };
    let id = text("slot");
    let forget = matches.get_flag("forget");
    if let Some(id) = &id {
        slot::check_id(id)?;
    }
    if id.is_none() && (forget || !change.is_empty()) {
        return Err(
            Error::usage("it is not said which slot").hint("name it: `motorpool slots laptop-1 --role reviewer`")
        );
    }
    if forget && !change.is_empty() {
        return Err(Error::usage("--forget and a change are given").hint("give one of them"));
    }
    // What is wrong in itself.
    change.apply(&slot::SlotSettings::default())?;
    reach::check(call)?;
    let reached = reach::reach(call, Wish::Look).await?;
    if forget || !change.is_empty() {
        call.refuse_inside_run("slots")?;
    }
    if let (Some(id), true) = (&id, forget) {
        if !reached.pool.forget_slot(id).await? {
            return Err(unknown(id));
        }
        if call.json {
            print_json(&json!({ "id": id, "state": "forgotten" }))?;
        } else {
            tell(&format!("{id} is forgotten"));
        }
        return Ok(0);
    }
    if let (Some(id), false) = (&id, change.is_empty()) {
        reached.pool.change_slot(id, &change).await?;
    }
    let slots = reached.pool.slots().await?;
    let Some(id) = id else {
        if call.json {
            print_json(&json!({ "items": slots.iter().map(work::slot_item).collect::<Vec<_>>(), "cursor": null }))?;
        } else if slots.is_empty() {
            tell("no slot has a worker or settings");
        } else {
            let rows: Vec<Vec<String>> = slots.iter().map(row).collect();
            print(&render(&["SLOT", "NAME", "ROLE", "STATE", "TASK", "ABOUT"], &rows, COLUMNS))?;
        }
        return Ok(0);
    };
    // While a worker is renewed there are two: the one that stays is last.
    let slot = slots.iter().rev().find(|slot| slot.id == id).ok_or_else(|| unknown(&id))?;
    if call.json {
        print_json(&work::slot_item(slot))?;
    } else {
        print(&about(slot))?;
    }
    Ok(0)
}

fn unknown(id: &str) -> Error {
    Error::refused(format!("no slot {id}")).hint("`motorpool slots` shows them")
}

fn row(slot: &Slot) -> Vec<String> {
    let dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".into());
    let settings = &slot.settings;
    let about = match &slot.why {
        Some(why) => why.clone(),
        None => settings.description.clone().unwrap_or_else(|| options_text(&settings.options)),
    };
    vec![
        fit(&slot.id, 24),
        fit(&dash(settings.name.as_ref()), 12),
        fit(&dash(settings.role.as_ref()), 12),
        slot.state.word().to_owned(),
        slot.worker.as_ref().and_then(|worker| worker.task.clone()).unwrap_or_else(|| "-".into()),
        about,
    ]
}

fn about(slot: &Slot) -> String {
    let settings = &slot.settings;
    let worker = slot.worker.as_ref();
    let lines = [
        ("slot", Some(format!("{} {}", slot.id, slot.state))),
        ("why", slot.why.clone()),
        ("name", settings.name.clone()),
        ("role", settings.role.clone()),
        ("about", settings.description.clone()),
        ("options", Some(options_text(&settings.options)).filter(|text| !text.is_empty())),
        ("host", slot.host.clone()),
        ("worker", worker.map(|worker| worker.id.clone())),
        ("task", worker.and_then(|worker| worker.task.clone())),
    ];
    let lines = lines.into_iter().filter_map(|(name, value)| Some((name, value?)));
    lines.map(|(name, value)| format!("{name:<9}{}\n", harmless(&value).replace('\n', " "))).collect()
}

/// `model=opus effort=low`.
fn options_text(options: &TaskOptions) -> String {
    let Ok(Value::Object(options)) = serde_json::to_value(options) else { return String::new() };
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    options.iter().map(|(name, value)| format!("{name}={}", word(value))).collect::<Vec<_>>().join(" ")
}

pub(super) fn config_command() -> Command {
    let verb = Arg::new("verb").value_name("set|unset").help("change them, or take some away; else they are shown");
    let words =
        Arg::new("words").value_name("OPTION[=VALUE]").num_args(1..).help("as in model=opus; lists with commas");
    looking_plainly(
        Command::new("config")
            .about("Show or change the pool's defaults: options of tasks that say nothing themselves")
            .arg(verb)
            .arg(words)
            .arg(json_arg("print {options}"))
            .after_help("Examples:\n  motorpool config\n  motorpool config set model=sonnet effort=high\n  motorpool config unset effort"),
    )
}

fn config_change(matches: &ArgMatches) -> Result<OptionChange> {
    let words: Vec<&String> = matches.get_many::<String>("words").into_iter().flatten().collect();
    match (matches.get_one::<String>("verb").map(String::as_str), words.is_empty()) {
        (None | Some("show"), true) => Ok(OptionChange::default()),
        (Some("set"), false) => Ok(OptionChange { set: assignments(words.into_iter())?, unset: vec![] }),
        (Some("unset"), false) => Ok(OptionChange { set: Map::new(), unset: names(matches, "words") }),
        (Some(verb @ ("set" | "unset")), true) => {
            Err(Error::usage(format!("config {verb}: it is not said what"))
                .hint("as in `motorpool config set model=opus`"))
        }
        (verb, _) => Err(Error::usage(format!("config {}: that is none of set, unset", verb.unwrap_or("show")))
            .hint("`motorpool config` shows the defaults, `motorpool config set model=opus` changes one")),
    }
}

pub(super) async fn config(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let change = config_change(matches)?;
    change.apply(&TaskOptions::default(), "a pool", slot::OPTIONS)?;
    reach::check(call)?;
    let changes = change != OptionChange::default();
    if changes {
        call.refuse_inside_run("config")?;
    }
    let reached = reach::reach(call, Wish::Look).await?;
    let options = if changes { reached.pool.change_defaults(&change).await? } else { reached.pool.defaults().await? };
    if call.json {
        print_json(&json!({ "options": options }))?;
    } else {
        let text = options_text(&options).replace('\n', " ");
        print(&format!("{}\n", if text.is_empty() { "no defaults".to_owned() } else { harmless(&text) }))?;
    }
    Ok(0)
}

/// `model=opus`, by the table of options.
fn assignments<'a>(given: impl Iterator<Item = &'a String>) -> Result<Map<String, Value>> {
    let mut set = Map::new();
    for one in given {
        let Some((name, text)) = one.split_once('=') else {
            return Err(Error::usage(format!("{one:?} sets nothing")).hint("write OPTION=VALUE, as in model=opus"));
        };
        let name = name.trim().replace('-', "_");
        let value = options::one_value(&name, text)?;
        if set.insert(name, value).is_some() {
            return Err(Error::usage(format!("{one:?} is the second of its name")).hint("give each option once"));
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_by_the_table() {
        let given =
            ["model=opus", "max-turns=3", "fail_on_denied=yes", "allowed_tools=Read,Bash(ls)"].map(String::from);
        let set = assignments(given.iter()).unwrap();
        let expected =
            json!({"model": "opus", "max_turns": 3, "fail_on_denied": true, "allowed_tools": ["Read", "Bash(ls)"]});
        assert_eq!(Value::Object(set), expected);
        for wrong in [&["model"][..], &["model=a", "model=b"], &["max_turns=many"]] {
            let given: Vec<String> = wrong.iter().map(|one| (*one).to_owned()).collect();
            assert!(assignments(given.iter()).is_err(), "{wrong:?}");
        }
    }
}
