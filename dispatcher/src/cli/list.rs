//! list: tasks, chains or batches, newest first.
//!
//! Not here: the rows of chains and batches (`group.rs`).

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::{Error, Filter, GroupKind, Result, TaskRecord};
use serde_json::json;

use super::reach::{self, Wish};
use super::task::looking;
use super::{Call, json_arg, options};
use crate::term::record::short_json;
use crate::term::{COLUMNS, print, print_json, table, tell, time};

pub(super) fn command() -> Command {
    let state = Arg::new("state").long("state").value_name("STATE").action(ArgAction::Append).value_delimiter(',');
    looking(
        Command::new("list")
            .about("List tasks, newest first")
            .arg(state.help("only those in this state; repeat it for more"))
            .arg(Arg::new("tag").long("tag").value_name("TAG").help("only those with this tag"))
            .arg(
                Arg::new("kind").long("kind").value_name("KIND").default_value("tasks").help("tasks, chains or batches"),
            )
            .arg(Arg::new("limit").long("limit").value_name("N").default_value("20").help("at most so many, up to 1000"))
            .arg(Arg::new("cursor").long("cursor").value_name("ID").help("go on behind this task: the cursor of the page before"))
            .arg(json_arg("print {items, cursor}; items without outputs and runs, which `show` has"))
            .after_help("Examples:\n  motorpool list --state running,pending\n  motorpool list --tag nightly --json\nWith --coordinator only what was submitted under that name is listed."),
    )
}

pub(super) async fn run(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let states = matches.get_many::<String>("state").into_iter().flatten();
    let limit: usize = match matches.get_one::<String>("limit").and_then(|text| text.parse().ok()) {
        Some(limit) if (1..=1000).contains(&limit) => limit,
        _ => return Err(Error::usage("--limit is not a whole number from 1 to 1000").hint("as in --limit 50")),
    };
    let kind = match matches.get_one::<String>("kind").map(String::as_str) {
        Some("chains") => Some(GroupKind::Chain),
        Some("batches") => Some(GroupKind::Batch),
        Some("tasks") | None => None,
        Some(other) => {
            return Err(Error::usage(format!("--kind: {other:?} is no kind")).hint("give tasks, chains or batches"));
        }
    };
    let mut filter = Filter {
        states: states.map(|state| state.parse()).collect::<Result<_>>()?,
        tag: matches.get_one::<String>("tag").cloned(),
        coordinator: (call.settings.origin("coordinator") == "--coordinator")
            .then(|| options::coordinator(call))
            .transpose()?,
        before: None,
    };
    let cursor = matches.get_one::<String>("cursor");
    if let Some(kind) = kind {
        reach::check(call)?;
        let reached = reach::reach(call, Wish::Look).await?;
        return super::group::list(call, &reached, kind, limit, cursor.map(String::as_str), &filter).await;
    }
    filter.before = cursor.map(|cursor| cursor.parse()).transpose()?;
    reach::check(call)?;
    let page = reach::reach(call, Wish::Look).await?.pool.list(&filter, limit).await?;
    if call.json {
        let items: Vec<_> = page.items.iter().map(short_json).collect();
        print_json(&json!({ "items": items, "cursor": page.cursor }))?;
        return Ok(0);
    }
    if page.items.is_empty() {
        tell("no tasks");
        return Ok(0);
    }
    print(&table::render(
        &["ID", "STATE", "AGE", "RUNS", "COST", "ABOUT"],
        &rows(&page.items, time::now_ms()),
        COLUMNS,
    ))?;
    if let Some(cursor) = page.cursor {
        tell(&format!("more with --cursor {cursor}"));
    }
    Ok(0)
}

fn rows(records: &[TaskRecord], now_ms: u64) -> Vec<Vec<String>> {
    let about = |record: &TaskRecord| {
        let error = record.error.as_ref().map(|error| format!("{}: {}", error.class, error.message));
        let why = error.or_else(|| record.tool.clone()).or_else(|| record.reason.clone());
        let words = why.or_else(|| Some(record.title.clone()));
        let denied = (!record.denied.is_empty()).then(|| format!("{} denied", record.denied.len()));
        let tags = (!record.tags.is_empty()).then(|| format!("[{}]", record.tags.join(" ")));
        [tags, denied, words].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    let row = |record: &TaskRecord| {
        vec![
            record.id.to_string(),
            record.state.to_string(),
            time::span(now_ms.saturating_sub(record.created_ms)),
            record.run.to_string(),
            time::dollars(record.cost_microusd),
            about(record),
        ]
    };
    records.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::record::tests::pending;

    #[test]
    fn a_listing_fits_the_terminal() {
        let mut record = pending();
        record.tags = vec!["nightly".into(); 9];
        record.reason = Some("x".repeat(300));
        let text = table::render(&["ID", "STATE", "AGE", "RUNS", "COST", "ABOUT"], &rows(&[record], 0), COLUMNS);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }
}
