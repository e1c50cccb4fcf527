//! The text of each script: put together from its file and the parts that it uses.
//!
//! Not here: how it is called, and what it answers (`script.rs`).

use std::collections::HashMap;
use std::sync::LazyLock;

use super::keys::names_lua;

macro_rules! lua {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("lua/", $name, ".lua")))),*] };
}

const SCRIPTS: &[(&str, &str)] = lua![
    "submit", "claim", "beat", "finish", "step", "cancel", "presence", "host", "scale", "set", "sweep", "check",
    "lane", "seen", "judge",
];
const PARTS: &[(&str, &str)] = lua![
    "parts/clock",
    "parts/text",
    "parts/schema",
    "parts/pool",
    "parts/slot",
    "parts/event",
    "parts/lane",
    "parts/fence",
    "parts/ids",
    "parts/again",
    "parts/books",
    "parts/begin",
    "parts/account",
    "parts/settle",
    "parts/after",
    "parts/opening",
    "parts/stop",
    "parts/lost",
    "parts/repair",
    "parts/retire",
];

/// In tests the clock of a pool can be moved, and stopped.
const STEERED: &str = "now_ms = tonumber(redis.call('GET', KEYS[1] .. 'test:stopped')\n\
    \x20 or now_ms + tonumber(redis.call('GET', KEYS[1] .. 'test:clock') or '0'))\n";

/// A script ready to be sent, with the origin of each of its lines.
pub(super) struct Assembled {
    pub(super) script: redis::Script,
    /// Whether it may write.
    pub(super) writes: bool,
    pub(super) lines: Vec<(String, usize)>,
}

static ASSEMBLED: LazyLock<HashMap<&'static str, Assembled>> = LazyLock::new(|| {
    SCRIPTS
        .iter()
        .map(|(name, source)| {
            let assembled = assemble(name, source, cfg!(test)).unwrap_or_else(|problem| panic!("{problem}"));
            (*name, assembled)
        })
        .collect()
});

/// The text of a script or part as it stands.
fn as_it_stands(_: &str, source: &'static str) -> String {
    source.to_owned()
}

fn assemble(name: &str, source: &'static str, steered: bool) -> Result<Assembled, String> {
    assemble_as(name, source, steered, &as_it_stands)
}

/// Assembles a script from texts that `text` gives for each file and what stands in it.
fn assemble_as(
    name: &str,
    source: &'static str,
    steered: bool,
    text_of: &dyn Fn(&str, &'static str) -> String,
) -> Result<Assembled, String> {
    let source = &text_of(name, source);
    let mut parts = Vec::new();
    for part in used(source) {
        resolve(part, &mut parts, &mut Vec::new())?;
    }
    let mut text = String::new();
    let mut lines = Vec::new();
    let mut add = |file: &str, source: &str, from: usize| {
        for (i, line) in source.lines().enumerate() {
            text.push_str(line);
            text.push('\n');
            lines.push((file.to_owned(), from + i));
        }
    };
    let (first, rest) = source.split_once('\n').unwrap_or((source, ""));
    if !first.starts_with("#!lua") {
        return Err(format!("{name}.lua does not start with #!lua"));
    }
    add(&format!("{name}.lua"), first, 1);
    for part in parts {
        match part {
            "names" => add("names", &names_lua(), 1),
            _ => add(&format!("parts/{part}.lua"), &text_of(&format!("parts/{part}"), part_source(part)?), 1),
        }
        if part == "clock" && steered {
            add("steered clock", STEERED, 1);
        }
    }
    add(&format!("{name}.lua"), rest, 2);
    Ok(Assembled { script: redis::Script::new(&text), writes: !first.contains("no-writes"), lines })
}

pub(super) fn assembled(name: &str) -> Option<&'static Assembled> {
    #[cfg(test)]
    if let Some(changed) = changed::script(name) {
        return Some(changed);
    }
    ASSEMBLED.get(name)
}

/// Scripts with a fault put into them, for tests that have to find it: in this thread alone.
#[cfg(test)]
pub(crate) mod changed {
    use std::cell::RefCell;

    use super::{Assembled, PARTS, SCRIPTS, assemble_as};

    thread_local! {
        static SCRIPTS_OF_THREAD: RefCell<Vec<(&'static str, &'static Assembled)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn script(name: &str) -> Option<&'static Assembled> {
        SCRIPTS_OF_THREAD.with_borrow(|scripts| scripts.iter().find(|(one, _)| *one == name).map(|(_, script)| *script))
    }

    /// Every file of the scripts, and what stands in it.
    pub(crate) fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
        SCRIPTS.iter().chain(PARTS).copied()
    }

    /// From now on this thread's calls run with another text of one file.
    pub(crate) fn change(file: &str, text: &str) {
        let text_of = |one: &str, source: &'static str| if one == file { text.to_owned() } else { source.to_owned() };
        let changed = SCRIPTS.iter().map(|(name, source)| {
            let script = assemble_as(name, source, true, &text_of).unwrap_or_else(|problem| panic!("{problem}"));
            let script: &'static Assembled = Box::leak(Box::new(script));
            (*name, script)
        });
        SCRIPTS_OF_THREAD.set(changed.collect());
    }

    /// From now on they run as they stand.
    pub(crate) fn restore() {
        SCRIPTS_OF_THREAD.set(Vec::new());
    }
}

fn used(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| line.strip_prefix("-- uses:")).flat_map(str::split_whitespace)
}

fn part_source(part: &str) -> Result<&'static str, String> {
    let file = format!("parts/{part}");
    let found = PARTS.iter().find(|(name, _)| *name == file);
    found.map(|(_, source)| *source).ok_or_else(|| format!("there is no part {part}"))
}

/// Adds a part behind those it uses, once.
fn resolve<'a>(part: &'a str, done: &mut Vec<&'a str>, open: &mut Vec<&'a str>) -> Result<(), String> {
    if done.contains(&part) {
        return Ok(());
    }
    if open.contains(&part) {
        return Err(format!("the parts {} use each other", open.join(", ")));
    }
    open.push(part);
    if part != "names" {
        for inner in used(part_source(part)?) {
            resolve(inner, done, open)?;
        }
    }
    open.pop();
    done.push(part);
    Ok(())
}

/// By what a script is called: the hash of its text.
#[cfg(test)]
pub(crate) fn hash(name: &str) -> String {
    ASSEMBLED[name].script.get_hash().to_owned()
}

/// The words that each script's header says it may answer.
#[cfg(test)]
pub(crate) fn words_by_header() -> Vec<(&'static str, Vec<String>)> {
    let head = |source: &str| {
        let from = source.find("-- replies:").expect("it says its replies") + "-- replies:".len();
        let text = source[from..source.find("-- events:").expect("it says its events")].replace("\n--", " ");
        text.split('|').filter_map(|one| one.split_whitespace().next().map(str::to_owned)).collect()
    };
    SCRIPTS.iter().map(|(name, source)| (*name, head(source))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_has_its_header_in_order() {
        for (name, source) in SCRIPTS {
            let heads: Vec<&str> =
                source.lines().take_while(|line| line.starts_with('#') || line.starts_with("--")).collect();
            assert!(heads[0].starts_with("#!lua"), "{name}");
            assert!(heads[1].starts_with(&format!("-- {name}: ")), "{name}: {}", heads[1]);
            let mut at = 0;
            for label in ["-- uses:", "-- args:", "-- replies:", "-- events:"] {
                let found = heads.iter().position(|line| line.starts_with(label));
                assert!(found.is_some_and(|found| found > at), "{name}: {label}");
                at = found.unwrap();
            }
        }
    }

    #[test]
    fn writes_stand_below_their_line() {
        for (name, source) in SCRIPTS.iter().filter(|(_, source)| !source.starts_with("#!lua flags=no-writes")) {
            let above = source.split("-- writes from here").next().unwrap();
            assert!(above.len() < source.len(), "{name} has no line for its writes");
            let commands =
                ["HSET", "HDEL", "HINCRBY", "XADD", "XDEL", "XACK", "XCLAIM", "ZADD", "ZREM", "DEL", "SET", "PEXPIRE"];
            let parts = [
                "settle(",
                "take(",
                "move(",
                "book(",
                "book_late(",
                "note_call(",
                "note_server(",
                "skip_forgotten(",
                "seen(",
                "remember(",
                "offer_sweep(",
                "open_pool(",
                "enter_lane(",
                "leave_lane(",
                "finish_terminal(",
                "publish(",
                "forget_host(",
                "tell(",
            ];
            for write in commands.map(|one| format!("'{one}'")).into_iter().chain(parts.map(str::to_owned)) {
                assert!(!above.contains(&write), "{name}: {write} above the line");
            }
        }
    }

    #[test]
    fn parts_that_use_each_other_are_found() {
        assert!(assemble("x", "#!lua\n-- uses: nosuch\n", false).is_err());
    }
}
