//! The options of a task as flags, drawn from the library's table; and the prompt.
//!
//! Flags become the JSON that every face gives, so that one place refuses what does not fit. Not here: the options
//! (`domain/options.rs` of the library), settings (`settings` of the library).

use std::io::Read;
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::limits;
use motorpool::domain::options::{FIXED, Kind, OptionRow, TABLE};
use motorpool::settings::{self, Scope};
use motorpool::{Error, Result, Spec, TaskOptions};
use serde_json::{Map, Number, Value};

use super::Call;

/// The setting that is the option of the same name.
const COORDINATOR: &str = "coordinator";

/// Adds prompt, options and settings to a command that starts work.
pub(super) fn add(command: Command) -> Command {
    let prompt = Arg::new("prompt").value_name("PROMPT").required(true);
    add_without_prompt(command.arg(prompt.help("what is to be done; - reads stdin, @FILE a file")))
}

/// Adds options and settings to a command that starts work.
pub(super) fn add_without_prompt(mut command: Command) -> Command {
    for row in TABLE.iter().filter(|row| row.name != COORDINATOR) {
        command = command.arg(arg(row));
    }
    command = settings::flags::add(command, &[Scope::Base, Scope::Pool]);
    // On commands that start work, a name that both have means the task.
    for arg in settings::flags::add(Command::new(""), &[Scope::Worker]).get_arguments() {
        if !TABLE.iter().any(|row| arg.get_long() == Some(flag(row).as_str())) {
            // Below the settings of the pool.
            command = command.arg(arg.clone().display_order(1000));
        }
    }
    command
}

/// Adds the options that may be changed while a task is under way.
pub(super) fn changes(mut command: Command) -> Command {
    for row in TABLE.iter().filter(|row| row.is_built() && !FIXED.contains(&row.name)) {
        command = command.arg(arg(row));
    }
    command
}

/// The flag of an option, without its dashes.
fn flag(row: &OptionRow) -> String {
    row.name.replace('_', "-")
}

/// Not the id of the setting of the same name.
fn id(row: &OptionRow) -> String {
    format!("option:{}", row.name)
}

fn arg(row: &OptionRow) -> Arg {
    let arg = Arg::new(id(row)).long(flag(row)).help(row.doc).help_heading("Options of the task").hide(!row.is_built());
    match row.kind {
        Kind::Text => arg.value_name("TEXT"),
        Kind::Count => arg.value_name("N"),
        Kind::Money => arg.value_name("USD"),
        Kind::Flag => arg.num_args(0..=1).default_missing_value("yes").require_equals(true).value_name("yes|no"),
        Kind::List if ["tags", "needs", "after"].contains(&row.name) => {
            arg.action(ArgAction::Append).value_delimiter(',').value_name("TEXT")
        }
        // A rule for a tool may hold commas.
        Kind::List => arg.action(ArgAction::Append).value_name("TEXT"),
        Kind::Json => arg.value_name("JSON|@FILE"),
    }
}

/// Adds some of the options to a command that sets them for others.
pub(super) fn of_level(mut command: Command, names: &[&str], heading: &'static str) -> Command {
    for row in TABLE.iter().filter(|row| names.contains(&row.name)) {
        command = command.arg(arg(row).help_heading(heading));
    }
    command
}

/// The options that were given, as JSON.
pub(super) fn given(matches: &ArgMatches) -> Result<Map<String, Value>> {
    let mut given = Map::new();
    for row in TABLE.iter().filter(|row| row.name != COORDINATOR) {
        let Ok(Some(texts)) = matches.try_get_many::<String>(&id(row)) else { continue };
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let value = if row.is_built() { value(row, &texts)? } else { Value::Null };
        given.insert(row.name.to_owned(), value);
    }
    Ok(given)
}

/// The value of one option as a text says it: lists with commas, outside of parentheses.
pub(super) fn one_value(name: &str, text: &str) -> Result<Value> {
    match TABLE.iter().find(|row| row.name == name) {
        Some(row) if row.kind == Kind::List => value(row, &items(text)),
        Some(row) if row.is_built() => value(row, &[text]),
        // Refused by its name, where that is looked up.
        _ => Ok(Value::Null),
    }
}

fn items(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let parts = text.split(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|one| !one.is_empty()).collect()
}

/// The options that were given.
pub(super) fn read_given(matches: &ArgMatches) -> Result<TaskOptions> {
    TaskOptions::from_json(&given(matches)?)
}

/// The options that were given; the coordinator's name comes from the settings.
pub(super) fn read(call: &Call, matches: &ArgMatches) -> Result<TaskOptions> {
    let mut options = read_given(matches)?;
    options.coordinator = Some(coordinator(call)?);
    Ok(options)
}

/// The name under which work is submitted. One that was given is taken as it is; the built-in one is made to fit.
pub(super) fn coordinator(call: &Call) -> Result<String> {
    let name = &call.settings.coordinator;
    if !call.is_given(COORDINATOR) {
        let mut name: String = name.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
        if name.len() > limits::KEY_BYTES {
            let from = name.len() - limits::KEY_BYTES;
            let from = (from..=name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(name.len());
            name = name.split_off(from);
        }
        return Ok(name);
    }
    let options = TaskOptions { coordinator: Some(name.clone()), ..TaskOptions::default() };
    options.check()?;
    Ok(name.clone())
}

fn value(row: &OptionRow, texts: &[&str]) -> Result<Value> {
    let text = texts.last().copied().unwrap_or_default();
    let wrong = |hint: &str| Error::usage(format!("--{}: {text:?} does not do", flag(row))).hint(hint);
    Ok(match row.kind {
        Kind::Text => text.into(),
        Kind::List => texts.iter().map(|text| Value::from(*text)).collect(),
        Kind::Count => text.parse::<u64>().map_err(|_| wrong("give a whole number in digits"))?.into(),
        Kind::Money => {
            let dollars = text.trim_start_matches('$').parse::<f64>().ok().and_then(Number::from_f64);
            dollars.ok_or_else(|| wrong("give dollars, as in 0.5"))?.into()
        }
        Kind::Flag => match text.to_ascii_lowercase().as_str() {
            "yes" | "true" | "1" | "on" => true.into(),
            "no" | "false" | "0" | "off" => false.into(),
            _ => return Err(wrong("write yes or no")),
        },
        Kind::Json => {
            let (text, origin) = match text.strip_prefix('@') {
                Some(file) => (read_file(&format!("--{}", flag(row)), file, limits::OPTIONS_BYTES)?, file.to_owned()),
                None => (text.to_owned(), format!("--{}", flag(row))),
            };
            serde_json::from_str(&text).map_err(|error| {
                Error::usage(format!("{origin} is not JSON: {error}")).hint("give a JSON object, or @FILE")
            })?
        }
    })
}

/// The task that a command line asks for, checked against every bound.
pub(super) fn spec(call: &Call, matches: &ArgMatches) -> Result<Spec> {
    let options = read(call, matches)?;
    let text = matches.get_one::<String>("prompt").map(String::as_str).unwrap_or_default();
    let prompt = match (text, text.strip_prefix('@')) {
        ("-", _) => read_text(std::io::stdin().lock(), "stdin", limits::PROMPT_BYTES)?,
        (_, Some(file)) => read_file("prompt", file, limits::PROMPT_BYTES)?,
        _ => text.to_owned(),
    };
    Spec::new(prompt, options)
}

fn read_file(of: &str, file: &str, most: usize) -> Result<String> {
    let opened = std::fs::File::open(Path::new(file)).map_err(|error| {
        let hint = match of {
            "prompt" => "@FILE names a file to read; a prompt that begins with @ can come from stdin, with -",
            _ => "@FILE names a file to read; else give the JSON itself",
        };
        Error::usage(format!("{of}: cannot read {file}: {error}")).hint(hint)
    })?;
    read_text(opened, file, most)
}

/// At most one byte more than is taken: enough to see that it is too much.
fn read_text(from: impl Read, name: &str, most: usize) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::usage(format!("cannot read {name}: {error}")))?;
    if bytes.len() > most {
        return Err(Error::usage(format!("{name} has more than the {most} bytes that are taken"))
            .hint("put the material into a file that the task reads"));
    }
    String::from_utf8(bytes).map_err(|_| Error::usage(format!("{name} is not UTF-8 text")).hint("convert it to UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(name: &str) -> &'static OptionRow {
        TABLE.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn flags_become_the_json_of_the_table() {
        for (name, texts, expected) in [
            ("model", vec!["opus"], json!("opus")),
            ("max_turns", vec!["3"], json!(3)),
            ("max_budget_usd", vec!["0.5"], json!(0.5)),
            ("fail_on_denied", vec!["no"], json!(false)),
            ("allowed_tools", vec!["Read", "Bash(a, b)"], json!(["Read", "Bash(a, b)"])),
            ("json_schema", vec![r#"{"type":"object"}"#], json!({"type": "object"})),
        ] {
            assert_eq!(value(row(name), &texts).unwrap(), expected, "{name}");
        }
        for (name, text) in
            [("max_turns", "many"), ("max_budget_usd", "NaN"), ("fail_on_denied", "maybe"), ("json_schema", "{")]
        {
            assert!(value(row(name), &[text]).is_err(), "{name}");
        }
    }

    #[test]
    fn every_option_is_a_flag_and_only_built_ones_are_shown() {
        let command = add(Command::new("run"));
        command.clone().debug_assert();
        for row in TABLE {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag(row).as_str()));
            let arg = arg.unwrap_or_else(|| panic!("{}", row.name));
            assert!(row.is_built() || arg.is_hide_set(), "{}", row.name);
        }
    }

    #[test]
    fn a_text_is_bounded_and_utf_8() {
        assert_eq!(read_text(&b"abc"[..], "x", 3).unwrap(), "abc");
        assert!(read_text(&b"abcd"[..], "x", 3).is_err());
        assert!(read_text(&b"\xff"[..], "x", 3).is_err());
    }
}
