//! show: everything that is known of a task, for people and for scripts.

use clap::{ArgMatches, Command};
use motorpool::{Id, Result, Run, TaskRecord};
use serde_json::Value;

use super::reach::{self, Wish};
use super::task::looking;
use super::{Call, id_arg, id_of, json_arg};
use crate::term::record::json as record_json;
use crate::term::table::harmless;
use crate::term::time::{dollars, rfc3339, span};
use crate::term::{print, print_json};
use crate::work;

pub(super) fn command() -> Command {
    looking(
        Command::new("show")
            .about("Show everything that is known of a task")
            .arg(id_arg())
            .arg(json_arg("print the task's record, with lane, coordinator, working directory, options and prompt"))
            .after_help("Example:\n  motorpool show t17"),
    )
}

pub(super) async fn run(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let id = id_of(matches)?;
    reach::check(call)?;
    let reached = reach::reach(call, Wish::Look).await?;
    let id = match id {
        Id::Task(id) => id,
        Id::Group(id) => return super::group::show(&reached, id, call.json).await,
    };
    let record = reached.task(id).await?;
    if call.json {
        print_json(&json(&record))?;
    } else {
        print(&text(&record))?;
    }
    Ok(0)
}

/// The record, and what the task was given.
pub(super) fn json(record: &TaskRecord) -> Value {
    let mut value = serde_json::to_value(record_json(record)).unwrap_or_default();
    let spec = record.spec.as_ref();
    value["lane"] = record.lane.clone().into();
    value["coordinator"] = record.coordinator.clone().into();
    value["project_dir"] = spec.and_then(|spec| spec.project_dir.clone()).into();
    value["options"] = spec.and_then(|spec| serde_json::to_value(&spec.options).ok()).into();
    value["retry_of"] = spec.and_then(|spec| spec.retry_of).map(|id| id.to_string()).into();
    value["prompt"] = spec.map(|spec| spec.prompt.clone()).into();
    value
}

/// The text of `motorpool show`.
pub(super) fn text(record: &TaskRecord) -> String {
    let mut lines: Vec<(&str, String)> = vec![("task", format!("{} {}", record.id, record.state))];
    let mut add = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    add("reason", record.reason.clone());
    if let Some(error) = &record.error {
        let status = error.status.map(|status| format!(", status {status}")).unwrap_or_default();
        add("error", Some(format!("{}{status}: {}", error.class, error.message)));
        add("hint", error.hint.clone());
    }
    add("denied", (!record.denied.is_empty()).then(|| record.denied.join(", ")));
    add("lane", Some(record.lane.clone()));
    add("coordinator", record.coordinator.clone());
    add("tags", (!record.tags.is_empty()).then(|| record.tags.join(" ")));
    add("attempt", Some(format!("{} of {}", record.attempt, record.max_attempts)));
    let estimated = if record.cost_estimated { " (estimated)" } else { "" };
    add("cost", Some(format!("{}{estimated}", dollars(record.cost_microusd))));
    add("turns", record.turns.map(|turns| turns.to_string()));
    add("tokens", record.usage.as_ref().map(tokens));
    add("created", Some(rfc3339(record.created_ms)));
    add("started", record.started_ms.map(rfc3339));
    add("ended", record.ended_ms.map(rfc3339));
    add("worker", record.worker.clone());
    add("tool", record.tool.clone());
    if let Some(spec) = &record.spec {
        add("directory", spec.project_dir.clone());
        add("retry of", spec.retry_of.map(|id| id.to_string()));
        if let Ok(Value::Object(options)) = serde_json::to_value(&spec.options) {
            let words = options.iter().map(|(name, value)| format!("{name}={value}"));
            add("options", Some(words.collect::<Vec<_>>().join(" ")).filter(|words| !words.is_empty()));
        }
    }
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(&format!("{name:<12}{}\n", harmless(&value).replace('\n', "\n            ")));
    }
    for run in &record.runs {
        text.push_str(&run_text(run));
    }
    let parts = [("prompt", record.spec.as_ref().map(|spec| &spec.prompt)), ("output", record.output.as_ref())];
    for (name, part) in parts {
        if let Some(part) = part {
            text.push_str(&format!("\n{name}:\n{}\n", harmless(part.trim_end())));
        }
    }
    if let Some(value) = &record.structured {
        text.push_str(&format!("\nstructured:\n{value:#}\n"));
    }
    text
}

/// Tokens by kind, as the CLI counts them.
fn tokens(usage: &Value) -> String {
    let kinds = [
        ("input_tokens", "in"),
        ("output_tokens", "out"),
        ("cache_read_input_tokens", "read from the cache"),
        ("cache_creation_input_tokens", "put into it"),
    ];
    let counts = kinds.iter().filter_map(|(name, words)| Some(format!("{} {words}", usage[*name].as_u64()?)));
    counts.collect::<Vec<_>>().join(", ")
}

fn run_text(run: &Run) -> String {
    let ended = match run.ended_ms {
        Some(ended) => format!("took {}", span(ended.saturating_sub(run.started_ms))),
        None => "not over".into(),
    };
    let how = work::run_word(run);
    let charged = if run.charged { "" } else { ", not charged" };
    let mut text = format!(
        "run {:<8}{how}{charged}, {ended}, {}\n            {} on {}, started {}\n",
        run.n,
        dollars(run.cost_microusd),
        harmless(&run.worker),
        harmless(&run.host),
        rfc3339(run.started_ms)
    );
    if let Some(message) = &run.message {
        text.push_str(&format!("            {}\n", harmless(message).replace('\n', " ")));
    }
    if let Some(session) = &run.session_id {
        text.push_str(&format!("            session {}\n", harmless(session)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::record::tests::pending;

    #[test]
    fn every_run_is_shown_and_nothing_steers_the_terminal() {
        let mut record = pending();
        record.output = Some("\x1b[2Jdone".into());
        assert_eq!((&json(&record)["lane"], &json(&record)["prompt"]), (&"default".into(), &Value::Null));
        let run = |n| Run { n, worker: format!("w{n}"), host: "h".into(), ended_ms: Some(2000), ..Run::default() };
        record.runs = vec![run(1), run(2)];
        let text = text(&record);
        assert!(text.contains("w1 on h") && text.contains("w2 on h") && text.contains("took 2s"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}
