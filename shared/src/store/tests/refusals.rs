//! Every word that a script may answer is read, or has its sentence and its hint.

use crate::error::Result;
use crate::store::assemble::words_by_header;
use crate::store::script::Reply;
use crate::store::{attempt, fleet, host, news, review, sweep, task};

/// What the reader of a script makes of a reply.
fn read(script: &str, reply: &Reply) -> Result<()> {
    match script {
        "submit" => task::submitted(reply).map(drop),
        "claim" => attempt::claimed(reply, 0).map(drop),
        "beat" => attempt::told_beat(reply).map(drop),
        "finish" => attempt::told_finish(reply).map(drop),
        "step" => attempt::told_finish(reply).and_then(|_| attempt::claimed(reply, 2)).map(drop),
        "cancel" => task::cancelled(reply).map(drop),
        "presence" => fleet::present(reply).map(drop),
        "set" => host::was_set(reply).map(drop),
        "host" => host::host_told(reply).map(drop),
        "scale" => host::scaled(reply).map(drop),
        "sweep" => sweep::swept(reply).map(drop),
        "seen" => news::marked_count(reply).map(drop),
        "judge" => review::judged(reply).map(drop),
        // Read where they are called: the examination, the lanes.
        "check" | "lane" if matches!(reply.word(), "ok" | "unknown") => Ok(()),
        _ => Err(reply.unexpected()),
    }
}

fn sample(script: &str, word: &str) -> Vec<String> {
    let spec = r#"{"prompt":"p"}"#;
    let claim = ["t2", "1", "1-1", spec, "1", "3", "0", "0", "0", "default", "1", "15000"];
    let rest: Vec<&str> = match (script, word) {
        ("submit", "ok") => vec!["t1", "fresh"],
        ("claim", "limited") => vec!["7", "message", "hint"],
        ("claim", "ok") => [&["0", "0", "", "0"][..], &claim[..]].concat(),
        ("step", "schema" | "superseded") => vec!["7"],
        ("step", _) => [&["completed", "ok", "0", "0", "", "0"][..], &claim[..]].concat(),
        ("cancel" | "judge", "ok") | ("judge", "state") => vec!["cancelled"],
        ("judge", "already") => vec!["approve", "me"],
        (_, "ok") => vec!["1", "2", "3", "4", "5"],
        _ => vec!["7"],
    };
    std::iter::once(word).chain(rest).map(str::to_owned).collect()
}

const EXPECTED: &str = "\
submit ok: read
submit full: the pool is full: 7 tasks wait; wait for some to end, or cancel some; `motorpool list`
submit lanes: the pool would have more than 7 lanes; each set of labels in needs is a lane; use fewer different ones, and tags to find tasks by
submit memory: Redis has less than a fifth of its memory left, so no new work is taken; raise maxmemory, or let running tasks end
submit unknown: no task 7; `motorpool list` shows what there is
submit schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
claim ok: read
claim idle: read
claim limited: read
claim unknown: read
claim superseded: call answered after call 7; two processes use one worker's name; stop one
claim schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
beat ok: read
beat stale: read
beat unknown: read
beat superseded: call answered after call 7; two processes use one worker's name; stop one
beat schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
finish ok: read
finish stale: read
finish moved: read
finish unknown: read
finish superseded: call answered after call 7; two processes use one worker's name; stop one
finish schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
step ok: read
step stale: read
step moved: read
step unknown: read
step superseded: call answered after call 7; two processes use one worker's name; stop one
step schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
cancel ok: read
cancel unknown: no task 7; `motorpool list` shows what there is
cancel schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
presence ok: read
presence unknown: read
presence schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
host ok: read
host taken: read
host schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
scale ok: read
scale moved: read
scale no_host: no live host is named 7; `motorpool status` names the hosts
scale schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
set ok: read
set in_use: the live worker 7 has this slot; a slot is forgotten when its worker is gone; change it, or scale the host down
set slots: the pool has settings for 7 slots, and takes no more; `motorpool slots` shows them; `motorpool slots SLOT --forget` removes one
set schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
sweep ok: read
sweep not_sweeper: read
sweep schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
check ok: read
check unknown: read
lane ok: read
seen ok: read
seen schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
judge ok: read
judge already: read
judge moved: read
judge state: read
judge unknown: no task 7; `motorpool list` shows what there is
judge schema: this pool is written in schema 7, not 1; use the version of Motorpool that the pool's other processes use
";

#[test]
fn every_word_is_read_or_has_its_sentence_and_hint() {
    let headers = words_by_header();
    let finish = headers.iter().find(|(script, _)| *script == "finish").expect("there is a finish").1.clone();
    let mut text = String::new();
    for (script, mut words) in headers {
        if script == "step" {
            // Its own header only adds to those of finish, whose words it answers first.
            let own = std::mem::replace(&mut words, finish.clone());
            assert!(own[0].starts_with('(') && own[1..].iter().all(|word| words.contains(word)), "{own:?}");
        }
        for word in words {
            let sample = sample(script, &word);
            let reply = Reply::of(script, &sample.iter().map(String::as_str).collect::<Vec<_>>());
            match read(script, &reply) {
                Ok(()) => text.push_str(&format!("{script} {word}: read\n")),
                Err(error) => {
                    assert!(error.hint_text().is_some(), "{script} {word}: {error}");
                    text.push_str(&format!("{script} {word}: {error}\n"));
                }
            }
        }
    }
    assert_eq!(text, EXPECTED, "{text}");
}
