//! logs: what a task's runs said, and what they say while they run.
//!
//! Not here: the state of the pool (`status.rs`).

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::pool::{Glance, Pool};
use motorpool::{Chunk, ErrorKind, Id, Result, State, TaskId, TaskRecord};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::reach::{self, Reached, Wish};
use super::task::looking;
use super::{Call, id_arg, id_of, json_arg};
use crate::term::live::Live;
use crate::term::table::harmless;
use crate::term::time::span;
use crate::term::{Away, print, print_json, tell};
use crate::work;

/// Live output makes no notice; so often it is looked for.
const PACE: Duration = Duration::from_millis(400);

pub(super) fn logs_command() -> Command {
    let follow = Arg::new("follow").short('f').long("follow").action(ArgAction::SetTrue);
    looking(
        Command::new("logs")
            .about("Print what the runs of a task said")
            .arg(id_arg())
            .arg(follow.help("go on until the task is over"))
            .arg(json_arg("print {items, cursor}; with -f one object a line"))
            .after_help("Examples:\n  motorpool logs t17\n  motorpool logs -f t17"),
    )
}

pub(super) async fn logs(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let (id, follow) = (id_of(matches)?, matches.get_flag("follow"));
    reach::check(call)?;
    let reached = reach::reach(call, Wish::Look).await?;
    let tasks: Vec<TaskId> = match id {
        Id::Task(id) => vec![id],
        // One after the other, as they stand there.
        Id::Group(id) => reached.group(id).await?.tasks().map(|record| record.id).collect(),
    };
    let mut items = Vec::new();
    for task in &tasks {
        if tasks.len() > 1 && !call.json {
            tell(&format!("== {task}"));
        }
        if !logs_of(call, &reached, *task, follow, &mut items).await? {
            return Ok(0);
        }
    }
    if call.json && !follow {
        print_json(&json!({ "items": items, "cursor": null }))?;
    }
    Ok(0)
}

/// What one task said; whether anybody reads it still.
async fn logs_of(call: &Call, reached: &Reached, id: TaskId, follow: bool, items: &mut Vec<Value>) -> Result<bool> {
    reached.task(id).await?;
    let pool = reached.pool.clone();
    let mut reader = Reader { pool: pool.clone(), id, run: 1, cursor: "0".into(), ended: 0, said: Vec::new() };
    let mut watch = pool.watch(id).await;
    let mut live = Live::default();
    let mut away = Away::default();
    loop {
        // Asked before the output is read: what a run said before it ended is read then.
        let step = match watch.look().await {
            Ok(glance) => reader.read(&glance).await.map(|said| (glance, said)),
            Err(error) => Err(error),
        };
        let (glance, said) = match step {
            Err(error) if follow && error.kind() == ErrorKind::Redis => {
                away.is(&error);
                continue;
            }
            step => step?,
        };
        away.is_over();
        for said in said {
            let is_open = match (call.json, follow) {
                (true, true) => print_json(&said.json(id))?,
                (true, false) => {
                    items.push(said.json(id));
                    true
                }
                (false, _) => print(&said.text(&mut live))?,
            };
            if !is_open {
                return Ok(false);
            }
        }
        if !follow || !glance.state.is_unfinished() {
            if glance.run == 0 {
                tell(&format!("{id} is {}; no run of it has begun", glance.state));
            }
            break;
        }
        watch.news(Instant::now() + PACE).await;
    }
    print(live.end())?;
    Ok(true)
}

/// What there is to tell of a run.
enum Said {
    /// A piece of what it says.
    Chunk(u64, Chunk),
    /// It is over, and how.
    End(u64, String),
}

impl Said {
    fn json(&self, id: TaskId) -> Value {
        match self {
            Self::Chunk(run, chunk) => json!({
                "id": id, "run": run, "kind": chunk.kind.word(), "text": chunk.text, "cursor": chunk.cursor,
            }),
            Self::End(run, words) => json!({ "id": id, "run": run, "kind": "end", "text": words, "cursor": null }),
        }
    }

    fn text(&self, live: &mut Live) -> String {
        match self {
            Self::Chunk(run, chunk) => live.add(*run, chunk),
            Self::End(run, words) => format!("{}--- run {run} {}\n", live.end(), harmless(&words.replace('\n', " "))),
        }
    }
}

/// How far the output was read.
struct Reader {
    pool: Pool,
    id: TaskId,
    run: u64,
    cursor: String,
    /// The last run whose end was told.
    ended: u64,
    /// What was read and not handed out yet: an error in between takes none of it away.
    said: Vec<Said>,
}

impl Reader {
    /// What is new, up to where the runs are now.
    async fn read(&mut self, glance: &Glance) -> Result<Vec<Said>> {
        // The last run that is over.
        let over = if glance.state == State::Running { glance.run.saturating_sub(1) } else { glance.run };
        loop {
            let chunks = self.pool.output_since(self.id, self.run, &self.cursor).await?;
            if let Some(chunk) = chunks.last() {
                self.cursor.clone_from(&chunk.cursor);
                self.said.extend(chunks.into_iter().map(|chunk| Said::Chunk(self.run, chunk)));
                continue;
            }
            if self.run <= over && self.ended < self.run {
                let words = end_text(&self.pool.task(self.id).await?, self.run);
                self.ended = self.run;
                self.said.push(Said::End(self.run, words));
            }
            if self.run >= glance.run {
                return Ok(std::mem::take(&mut self.said));
            }
            self.run += 1;
            self.cursor = "0".into();
        }
    }
}

/// How a run ended.
fn end_text(record: &TaskRecord, run: u64) -> String {
    let Some(known) = record.runs.iter().find(|known| known.n == run) else { return "is over".into() };
    let took = known.ended_ms.map(|ended| format!(" after {}", span(ended.saturating_sub(known.started_ms))));
    let took = took.unwrap_or_default();
    let is_last = record.run == run;
    let message = known.message.as_deref().filter(|words| !words.is_empty());
    let message = message.map(|words| format!(": {words}")).unwrap_or_default();
    let free = if known.charged { "" } else { ", not charged" };
    let mut text = match known.class {
        Some(class) => format!("ended{took} ({class}{free}){message}"),
        None => format!("{}{took}{message}", work::run_word(known)),
    };
    if is_last && !record.denied.is_empty() {
        text.push_str(&format!("; denied: {}", record.denied.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::record::tests::pending;
    use motorpool::{Class, Run};

    #[test]
    fn the_end_of_a_run_says_why_and_what_was_denied() {
        let mut record = pending();
        let run = |n, class: Option<Class>| Run {
            n,
            class,
            charged: false,
            started_ms: 1000,
            ended_ms: Some(3000),
            message: class.map(|_| "overloaded".into()),
            ..Run::default()
        };
        let back = Run { message: Some("the worker was stopped".into()), ..run(2, None) };
        record.runs = vec![run(1, Some(Class::Transient)), back, Run { charged: true, ..run(3, None) }];
        record.run = 3;
        record.denied = vec!["Write(a)".into()];
        assert_eq!(end_text(&record, 1), "ended after 2s (transient, not charged): overloaded");
        assert_eq!(end_text(&record, 2), "handed back after 2s: the worker was stopped");
        assert_eq!(end_text(&record, 3), "ended well after 2s; denied: Write(a)");
    }
}
