//! logs: what a task's runs said, and what they say while they run.
//!
//! Not here: the state of the pool (`status.rs`).

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::pool::Pool;
use motorpool::{Chunk, ErrorKind, Result, TaskId};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::reach::{self, Wish};
use super::task::looking;
use super::{Call, id_arg, id_of, json_arg};
use crate::term::live::Live;
use crate::term::{print, print_json, tell};

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
    reached.task(id).await?;
    let pool = reached.pool;
    let mut reader = Reader { pool: pool.clone(), id, run: 1, cursor: "0".into() };
    let mut watch = pool.watch(id).await;
    let (mut items, mut live) = (Vec::new(), Live::default());
    loop {
        // Asked before the output is read: what a run said before it ended is read then.
        let step = match watch.look().await {
            Ok(glance) => reader.read(glance.run).await.map(|chunks| (glance, chunks)),
            Err(error) => Err(error),
        };
        let (glance, chunks) = match step {
            Err(error) if follow && error.kind() == ErrorKind::Redis => {
                tell(&format!("reconnecting: {}", error.message()));
                continue;
            }
            step => step?,
        };
        for (run, chunk) in chunks {
            let is_open = match (call.json, follow) {
                (true, true) => print_json(&chunk_json(id, run, &chunk))?,
                (true, false) => {
                    items.push(chunk_json(id, run, &chunk));
                    true
                }
                (false, _) => print(&live.add(run, &chunk))?,
            };
            if !is_open {
                return Ok(0);
            }
        }
        if !follow || !glance.state.is_unfinished() {
            break;
        }
        watch.news(Instant::now() + PACE).await;
    }
    if call.json && !follow {
        print_json(&json!({ "items": items, "cursor": null }))?;
    }
    print(live.end())?;
    Ok(0)
}

/// How far the output was read.
struct Reader {
    pool: Pool,
    id: TaskId,
    run: u64,
    cursor: String,
}

impl Reader {
    /// What is new, up to the end of this run's output as it is now.
    async fn read(&mut self, last: u64) -> Result<Vec<(u64, Chunk)>> {
        let mut new = Vec::new();
        loop {
            let chunks = self.pool.output_since(self.id, self.run, &self.cursor).await?;
            if let Some(chunk) = chunks.last() {
                self.cursor.clone_from(&chunk.cursor);
                new.extend(chunks.into_iter().map(|chunk| (self.run, chunk)));
            } else if self.run < last {
                self.run += 1;
                self.cursor = "0".into();
            } else {
                return Ok(new);
            }
        }
    }
}

fn chunk_json(id: TaskId, run: u64, chunk: &Chunk) -> Value {
    json!({ "id": id, "run": run, "kind": chunk.kind.word(), "text": chunk.text, "cursor": chunk.cursor })
}
