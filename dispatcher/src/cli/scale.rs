//! scale: how many workers there are to be.
//!
//! Not here: how a number is shared out (`domain/host.rs` of the library), how a host obeys (the worker).

use clap::{Arg, ArgMatches, Command};
use motorpool::pool::Scaled;
use motorpool::{Error, Result, Scale};
use serde_json::{Value, json};

use super::reach::{self, Wish};
use super::task::looking;
use super::{Call, json_arg};
use crate::term::{counted, print, print_json, tell};

/// More workers than any pool has.
const MOST: u32 = 100_000;

pub(super) fn command() -> Command {
    let to = Arg::new("to").value_name("N|up|down").required(true).help("so many workers; or more, or fewer");
    let by = Arg::new("by").value_name("K").help("how many more or fewer (1)");
    let host = Arg::new("host").long("host").value_name("NAME").help("this host alone; else all of them, evenly");
    looking(
        Command::new("scale")
            .about("Say how many workers there are to be; those that are too many finish what they run")
            .arg(to)
            .arg(by)
            .arg(host)
            .arg(json_arg("print {items: [{host, before, target, actual, …}], target}"))
            .after_help("Examples:\n  motorpool scale 4\n  motorpool scale up 2 --host laptop\n  motorpool scale down"),
    )
}

fn wish(matches: &ArgMatches) -> Result<Scale> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let number = |text: &str| match text.parse::<u32>() {
        Ok(number) if number <= MOST => Ok(number),
        _ => Err(Error::usage(format!("{text:?} is no number of workers"))
            .hint("write `scale 4`, `scale up`, `scale up 2` or `scale down 2`")),
    };
    let by = text("by").map(number).transpose()?;
    match (text("to").unwrap_or_default(), by) {
        ("up", by) => Ok(Scale::Up(by.unwrap_or(1))),
        ("down", by) => Ok(Scale::Down(by.unwrap_or(1))),
        (to, None) => Ok(Scale::To(number(to)?)),
        (to, Some(_)) => {
            number(to)?;
            Err(Error::usage("two numbers are given").hint("write `scale 4`, or `scale up 2`"))
        }
    }
}

pub(super) async fn run(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let scale = wish(matches)?;
    reach::check(call)?;
    call.refuse_inside_run("scale")?;
    let reached = reach::reach(call, Wish::Look).await?;
    let named = matches.get_one::<String>("host").map(String::as_str);
    let scaled = reached.pool.scale(scale, named).await?;
    let total: u64 = scaled.iter().map(|one| u64::from(one.target)).sum();
    if let Scale::To(wanted) = scale
        && u64::from(wanted) != total
    {
        let bounds: Vec<String> = scaled.iter().map(|one| format!("{} {} to {}", one.host, one.min, one.max)).collect();
        tell(&format!(
            "{} instead of {wanted}: hosts keep within --min-slots and --max-slots ({})",
            counted(total, "worker"),
            bounds.join(", ")
        ));
    }
    if call.json {
        print_json(&json!({ "target": total, "items": scaled.iter().map(item).collect::<Vec<_>>() }))?;
    } else {
        for one in &scaled {
            let now = if one.actual == one.target { String::new() } else { format!(", {} now", one.actual) };
            print(&format!("{}: {}{now}\n", one.host, counted(one.target.into(), "worker")))?;
        }
    }
    Ok(0)
}

fn item(one: &Scaled) -> Value {
    json!({
        "host": one.host, "before": one.before, "target": one.target, "actual": one.actual,
        "min_slots": one.min, "max_slots": one.max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_more_or_fewer() {
        let read = |words: &[&str]| {
            let words = std::iter::once(&"scale").chain(words);
            wish(&command().try_get_matches_from(words).unwrap())
        };
        assert_eq!(read(&["4"]).unwrap(), Scale::To(4));
        assert_eq!(read(&["up"]).unwrap(), Scale::Up(1));
        assert_eq!(read(&["down", "3"]).unwrap(), Scale::Down(3));
        for words in [&["many"][..], &["4", "2"], &["up", "some"], &["100001"]] {
            assert!(read(words).is_err(), "{words:?}");
        }
    }
}
