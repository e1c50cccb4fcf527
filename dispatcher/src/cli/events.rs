//! events: what happened to the tasks of the pool, in order, and what happens.
//!
//! Not here: what a run says (`watch.rs`), the pool as it stands (`status.rs`).

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::pool::{Logged, Since};
use motorpool::{Entry, Error, ErrorKind, Result, State};
use serde_json::{Value, json};

use super::reach::{self, Wish};
use super::task::looking;
use super::{Call, json_arg};
use crate::term::time::rfc3339;
use crate::term::{Away, print, print_json};
use crate::work::entry_line;

pub(super) fn command() -> Command {
    let follow = Arg::new("follow").short('f').long("follow").action(ArgAction::SetTrue);
    looking(
        Command::new("events")
            .about("Print what happened to the tasks of the pool, oldest first")
            .arg(follow.help("go on with what happens"))
            .arg(
                Arg::new("limit")
                    .long("limit")
                    .value_name("N")
                    .default_value("20")
                    .help("the last so many, up to 1000"),
            )
            .arg(Arg::new("cursor").long("cursor").value_name("CURSOR").help("everything behind this one instead"))
            .arg(json_arg("print {items, cursor}; with -f one object a line"))
            .after_help("Examples:\n  motorpool events -f\n  motorpool events --cursor 1767225600000-0 --json"),
    )
}

pub(super) async fn run(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let follow = matches.get_flag("follow");
    let limit: u64 = match matches.get_one::<String>("limit").and_then(|text| text.parse().ok()) {
        Some(limit) if (1..=1000).contains(&limit) => limit,
        _ => return Err(Error::usage("--limit is not a whole number from 1 to 1000").hint("as in --limit 50")),
    };
    let cursor = matches.get_one::<String>("cursor").map(|cursor| Since::cursor(cursor)).transpose()?;
    reach::check(call)?;
    let pool = reach::reach(call, Wish::Look).await?.pool;
    let since = match cursor {
        Some(since) => since,
        None => Since::Cursor(pool.cursor_before(limit).await?),
    };
    let mut events = pool.events(since).await?;
    let mut items = Vec::new();
    let mut away = Away::default();
    loop {
        // While Redis is away, one look at a time: a wait would say nothing before something happens.
        let step = if follow && !away.lasts() { events.next().await.map(Some) } else { events.ready().await };
        let logged = match step {
            Ok(Some(logged)) => logged,
            Ok(None) if follow => {
                away.is_over();
                continue;
            }
            Ok(None) => break,
            Err(error) if follow && error.kind() == ErrorKind::Redis => {
                away.is(&error);
                continue;
            }
            Err(error) => return Err(error),
        };
        away.is_over();
        let is_open = match (call.json, follow) {
            (true, true) => print_json(&entry_json(&logged))?,
            (true, false) => {
                items.push(entry_json(&logged));
                true
            }
            (false, _) => print(&format!("{}\n", entry_text(&logged)))?,
        };
        if !is_open {
            return Ok(0);
        }
    }
    if call.json {
        print_json(&json!({ "items": items, "cursor": events.cursor() }))?;
    }
    Ok(0)
}

const LAGGED: &str = "the log does not reach back so far: what follows may not be all";

fn entry_json(logged: &Logged) -> Value {
    match logged {
        Logged::Lagged => json!({ "event": "lagged", "text": LAGGED }),
        Logged::Event(Entry { cursor, time_ms, event, decided }) => json!({
            "event": "task", "time": rfc3339(*time_ms), "id": event.task, "n": event.n,
            "from": event.from.map(State::word), "state": event.to.word(), "cause": event.cause.word(),
            "run": event.run, "by": decided.as_ref().map(|it| &it.by), "why": decided.as_ref().map(|it| &it.why),
            "cursor": cursor,
        }),
    }
}

fn entry_text(logged: &Logged) -> String {
    match logged {
        Logged::Lagged => format!("# {LAGGED}"),
        Logged::Event(entry) => entry_line(entry),
    }
}
