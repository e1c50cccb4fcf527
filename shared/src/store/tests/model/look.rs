//! The whole pool at one moment, against the model.

use std::collections::{BTreeMap, BTreeSet};

use super::drive::{World, same};
use super::task::{BOSS, LANES, PRIORITIES};

/// Of each key what it holds: fields, members with their scores, a length; of a stream how far its group has read, what
/// stands there, and what was delivered. The last key is the log, of which what is new is wanted. One text, since a
/// client in a debug build takes its time over each value.
const LOOK: &str = r"
local out = {}
local log = KEYS[#KEYS]
for i = 1, #KEYS - 1 do
  local k = KEYS[i]
  local kind = redis.call('TYPE', k).ok
  local list = {}
  if kind == 'hash' then list = redis.call('HGETALL', k)
  elseif kind == 'zset' then list = redis.call('ZRANGE', k, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then list = redis.call('SMEMBERS', k)
  elseif kind == 'list' then list = { tostring(redis.call('LLEN', k)) }
  elseif kind == 'stream' then
    local read = ''
    local groups = redis.call('XINFO', 'GROUPS', k)
    for _, group in ipairs(groups) do
      for at = 1, #group, 2 do
        if group[at] == 'last-delivered-id' then read = group[at + 1] end
      end
    end
    list[1] = read
    for _, entry in ipairs(redis.call('XRANGE', k, '-', '+')) do
      list[#list + 1] = entry[1]
      list[#list + 1] = entry[2][2]
    end
    if read ~= '' then
      for _, entry in ipairs(redis.call('XPENDING', k, 'workers', '-', '+', 1000)) do
        list[#list + 1] = entry[1]
        list[#list + 1] = ''
      end
    end
  end
  out[i] = table.concat(list, '\31')
end
local list = {}
for i, entry in ipairs(redis.call('XRANGE', log, ARGV[1], '+')) do
  list[2 * i - 1], list[2 * i] = entry[1], entry[2][2]
end
out[#out + 1] = table.concat(list, '\31')
return table.concat(out, '\30')";

fn list(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split('\x1f').map(str::to_owned).collect() }
}

/// Pairs of a flat list.
fn pairs(list: &[String]) -> BTreeMap<String, String> {
    list.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())).collect()
}

fn differs(what: &str, told: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) -> Result<(), String> {
    if told == expected {
        return Ok(());
    }
    let mut names: Vec<&String> = told.keys().chain(expected.keys()).collect();
    names.sort();
    names.dedup();
    let differing = names.into_iter().filter(|name| told.get(*name) != expected.get(*name));
    let shown: Vec<String> = differing
        .map(|name| {
            let word = |list: &BTreeMap<String, String>| list.get(name).cloned().unwrap_or("nothing".into());
            format!("{name} is {}, where the model says {}", word(told), word(expected))
        })
        .collect();
    Err(format!("{what}: {}", shown.join("; ")))
}

fn numbers<K: ToString, V: ToString>(list: impl IntoIterator<Item = (K, V)>) -> BTreeMap<String, String> {
    list.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Compares every key with what the model expects.
pub(super) async fn look(world: &mut World<'_>) -> Result<(), String> {
    let keys = &world.pool.store.keys;
    let own = |name: &str| world.pool.key(name);
    let ids = world.model.made.clone();
    let workers: Vec<String> = world.model.workers.keys().cloned().collect();
    let mut names =
        vec![keys.meta(), keys.lanes(), keys.workers(), own("due"), own("retain"), keys.unseen(BOSS), own("seq")];
    names.extend(LANES.iter().map(|lane| keys.wake(lane)));
    for lane in LANES {
        names.extend(PRIORITIES.iter().map(|priority| keys.lane(lane, priority)));
    }
    names.extend(workers.iter().map(|worker| keys.worker(worker)));
    for id in &ids {
        names.extend(["task", "needs", "after"].map(|kind| own(&format!("{kind}:t{id}"))));
    }
    names.push(keys.events());
    let mut ask = redis::cmd("EVAL");
    ask.arg(LOOK).arg(names.len()).arg(&names).arg(&world.cursor);
    let seen: String = ask.query_async(world.line).await.map_err(|error| error.to_string())?;
    let mut seen = seen.split('\x1e');
    let mut text = || seen.next().expect("each key was looked at");
    let mut next = || list(text());

    let meta = pairs(&next());
    let (lanes, live, due, retain, unseen, seq) =
        (pairs(&next()), pairs(&next()), pairs(&next()), pairs(&next()), pairs(&next()), pairs(&next()));
    let tokens = [next(), next()];
    let streams: Vec<Vec<String>> = (0..6).map(|_| next()).collect();
    let known: Vec<BTreeMap<String, String>> = workers.iter().map(|_| pairs(&next())).collect();
    let tasks: Vec<[&str; 3]> = ids.iter().map(|_| [text(), text(), text()]).collect();
    let log = list(text());

    // The log first: it says what happened.
    let model = &mut world.model;
    same("log", &log.chunks(2).map(|pair| pair[1].clone()).collect(), &std::mem::take(&mut model.log))?;
    if let [.., cursor, _] = &log[..] {
        world.cursor = format!("({cursor}");
    }
    for (id, [record, needs, after]) in ids.iter().zip(&tasks) {
        let task = model.tasks.get(id);
        // Neither here nor there anything has happened to it.
        let listed = [&model.needs, &model.after].map(|lists| lists.get(id).cloned());
        let now = (task.cloned(), listed, [record, needs, after].map(|text| text.to_string()));
        let before = world.seen.insert(*id, now);
        if before.as_ref() == world.seen.get(id) {
            continue;
        }
        let what = format!("t{id}");
        let mut record = pairs(&list(record));
        for name in ["spec", "title", "tags"] {
            record.remove(name);
        }
        let entry = record.remove("entry");
        differs(&what, &record, &task.map(|task| task.fields()).unwrap_or_default())?;
        match (task.and_then(|task| task.entry), entry) {
            (None, None) => {}
            (Some(number), Some(entry)) if *world.entries.entry(number).or_insert_with(|| entry.clone()) == entry => {}
            (number, entry) => return Err(format!("{what}: entry {entry:?}, where the model says #{number:?}")),
        }
        let ids =
            |ids: Option<&BTreeSet<u64>>| ids.into_iter().flatten().map(|id| format!("t{id}")).collect::<Vec<_>>();
        let mut needs = list(needs);
        needs.sort();
        let mut expected = ids(model.needs.get(id));
        expected.sort();
        same(&format!("needs:{what}"), &needs, &expected)?;
        same(
            &format!("after:{what}"),
            &list(after).chunks(2).map(|pair| pair[0].clone()).collect(),
            &ids(model.after.get(id)),
        )?;
    }
    for (at, told) in streams.iter().enumerate() {
        let (lane, priority) = (at / 3, at % 3);
        let what = format!("stream of {} {}", LANES[lane], PRIORITIES[priority]);
        let stream = &model.streams[lane][priority];
        let mut expected: Vec<(u64, String)> = Vec::new();
        expected.extend(
            stream.places.iter().filter(|place| place.stands).map(|place| (place.entry, format!("t{}", place.task))),
        );
        expected.extend(
            stream.places.iter().filter(|place| place.pending.is_some()).map(|place| (place.entry, String::new())),
        );
        let shown = |problem: &str| Err(format!("{what}: {problem}: {told:?}, where the model says {stream:?}"));
        if told.first().is_some_and(|read| !read.is_empty()) != stream.read.is_some() {
            return shown("its group");
        }
        if told.len().saturating_sub(1) != 2 * expected.len() {
            return shown("its length");
        }
        for (pair, (number, task)) in told.get(1..).unwrap_or_default().chunks(2).zip(&expected) {
            if pair[1] != *task || *world.entries.entry(*number).or_insert_with(|| pair[0].clone()) != pair[0] {
                return shown(&format!("#{number}"));
            }
        }
    }
    for (lane, told) in tokens.iter().enumerate() {
        let expected = if model.tokens[lane] { vec!["1".to_owned()] } else { Vec::new() };
        same(&format!("wake:{}", LANES[lane]), told, &expected)?;
    }
    for (name, told) in workers.iter().zip(known) {
        let worker = &model.workers[name];
        let told = told.into_iter().filter(|(field, _)| ["call", "task", "done"].contains(&field.as_str()));
        let told = told.filter(|(_, value)| !value.is_empty()).collect();
        let mut expected = numbers([("call", worker.call)]);
        if !worker.task.is_empty() {
            expected.insert("task".into(), worker.task.clone());
        }
        if worker.done > 0 {
            expected.insert("done".into(), worker.done.to_string());
        }
        differs(&format!("worker {name}"), &told, &expected)?;
    }
    let expected = model.lanes.iter().map(|(lane, used)| (LANES[*lane], *used));
    differs("lanes", &lanes, &numbers(expected))?;
    differs("workers", &live, &numbers(&model.live))?;
    differs("due", &due, &numbers(&model.due))?;
    differs("retain", &retain, &numbers(model.retain.iter().map(|(id, at)| (format!("t{id}"), *at))))?;
    differs("unseen", &unseen, &numbers(model.unseen.iter().map(|(id, at)| (format!("t{id}"), *at))))?;
    let counters = ["task", "news"];
    let told = seq.into_iter().filter(|(name, _)| counters.contains(&name.as_str())).collect();
    let expected = [("task", model.ids), ("news", model.news)].into_iter().filter(|(_, count)| *count > 0);
    differs("seq", &told, &numbers(expected))?;

    let mut expected = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            expected.insert(name.to_owned(), value);
        }
    };
    put("last", model.last.map(|at| at.to_string()));
    put("grace", model.grace.map(|at| at.to_string()));
    put("away_ms", model.away_ms.map(|at| at.to_string()));
    put("rewound", model.rewound.then(|| "1".to_owned()));
    put("full", model.full.then(|| "1".to_owned()));
    put("aged", model.aged_text());
    let names = ["last", "grace", "away_ms", "rewound", "full", "aged"];
    let told =
        meta.into_iter().filter(|(name, value)| names.contains(&name.as_str()) && (name != "full" || value == "1"));
    differs("meta", &told.collect(), &expected)
}
