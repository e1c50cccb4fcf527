//! The invariants as queries: for `motorpool doctor` on a live pool, and at the end of every test.
//!
//! | invariant | checked here | else |
//! |---|---|---|
//! | I3 one live entry for pending and running, none otherwise; every entry named | yes | |
//! | I4 attempt <= max_attempts, runs without gaps | yes | |
//! | I7 a step starts only after the one before succeeded; a chain ends as its steps did | yes | |
//! | I8 the log folds to the record | yes | |
//! | I9 no key without an owner | yes | |
//! | I11 what waits is listed under what it waits for, which is not over | yes | |
//! | I12 indexes equal a scan | yes | |
//! | I1, I2, I10, I13 to I15 | | tests, from recorded calls and events |
//! | I5 money of the pool, I6 messages | | their subjects do not exist yet |

use std::collections::{BTreeMap, BTreeSet};

use redis::streams::StreamRangeReply;

use super::Store;
use super::event::START;
use super::keys::Keys;
use super::script::{Call, CallError, sort_error};
use crate::domain::event::{self, Event};
use crate::domain::group::Group;
use crate::domain::ids::{GroupId, Id, TaskId};
use crate::domain::state::State;

/// What an examination of a pool found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Tasks that were looked at.
    pub tasks: usize,
    /// What is wrong, each with its invariant.
    pub broken: Vec<String>,
    /// Invariants that could not be checked, and why.
    pub unchecked: Vec<String>,
}

/// What there is, as one look found it.
pub(super) struct Seen {
    pub(super) tasks: BTreeMap<TaskId, State>,
    pub(super) groups: BTreeMap<GroupId, Group>,
}

impl Seen {
    pub(super) fn state(&self, id: Id) -> Option<State> {
        match id {
            Id::Task(id) => self.tasks.get(&id).copied(),
            Id::Group(id) => self.groups.get(&id).map(|group| group.state),
        }
    }

    fn named(&self, id: &str) -> Option<State> {
        self.state(id.parse().ok()?)
    }
}

impl Store {
    /// Checks the invariants. On a pool at work a finding is confirmed by a second look, since the reads are many.
    pub(crate) async fn examine(&self) -> Result<Findings, CallError> {
        let mut findings = self.look().await?;
        for _ in 0..4 {
            if findings.broken.is_empty() {
                break;
            }
            let again = self.look().await?;
            findings.tasks = again.tasks;
            findings.broken.retain(|finding| again.broken.contains(finding));
        }
        Ok(findings)
    }

    async fn look(&self) -> Result<Findings, CallError> {
        let mut findings = Findings::default();
        // No connection is held while another one is asked for: enough of such callers wait for each other.
        let listed = self.members(&self.keys.index("all", "tasks")).await?;
        let ids: Vec<TaskId> = listed.iter().filter_map(|id| id.parse().ok()).collect();
        findings.tasks = ids.len();

        let mut entries: BTreeMap<TaskId, State> = BTreeMap::new();
        let logs = self.logs().await?;
        let mut connection = self.connector.pooled().await?;
        for id in &ids {
            let reply = Call::new("check").arg(id.to_string()).send(&self.keys, &mut connection).await?;
            if reply.word() == "unknown" {
                findings.broken.push(format!("I12: {id} is listed and has no record"));
                continue;
            }
            let state: State = reply.text(1).parse().map_err(CallError::Refused)?;
            entries.insert(*id, state);
            let (live, pending) = (reply.number(2), reply.number(3));
            let wanted = match state {
                State::Pending => (1, 0),
                State::Running => (1, 1),
                _ => (0, 0),
            };
            if (live, pending) != wanted {
                findings
                    .broken
                    .push(format!("I3: {id} is {state} with {live} entries in its lane, {pending} of them pending"));
            }
            let (attempt, most) = (reply.number(4), reply.number(5));
            if attempt > most {
                findings.broken.push(format!("I4: {id} is at attempt {attempt} of {most}"));
            }
            let log = logs.get(id).map_or(&[][..], Vec::as_slice);
            let n = reply.number(7);
            if log.last().is_some_and(|last| last.n == n) || log.is_empty() {
                findings.broken.extend(event::fold(log, state).into_iter().map(|wrong| format!("I8: {wrong}")));
            } else {
                findings.broken.push(format!("I8: {id} had {n} events, the log ends at another"));
            }
            let claims: Vec<u64> =
                log.iter().filter(|event| event.to == State::Running).map(|event| event.run).collect();
            if claims.windows(2).any(|pair| pair[1] != pair[0] + 1) {
                findings.broken.push(format!("I4: the runs of {id} are {claims:?}"));
            }
        }
        drop(connection);
        let seen = Seen { tasks: entries, groups: self.all_groups().await? };
        self.look_at_waiting(&seen, &mut findings).await?;
        self.look_at_groups(&seen, &mut findings).await?;
        self.look_at_lanes(&seen.tasks, &mut findings).await?;
        self.look_at_keys(&seen, &mut findings).await?;
        findings.broken.sort();
        Ok(findings)
    }

    pub(crate) async fn members(&self, key: &str) -> Result<Vec<String>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let mut members = redis::cmd("ZRANGE");
        members.arg(key).arg(&["0", "-1"]);
        members.query_async(&mut *connection).await.map_err(|error| sort_error(&error))
    }

    async fn logs(&self) -> Result<BTreeMap<TaskId, Vec<Event>>, CallError> {
        let mut logs: BTreeMap<TaskId, Vec<Event>> = BTreeMap::new();
        let mut cursor = START.to_owned();
        loop {
            let page = self.log_since(&cursor, 5_000).await?;
            for entry in page.entries {
                logs.entry(entry.event.task).or_default().push(entry.event);
            }
            if page.end == cursor {
                return Ok(logs);
            }
            cursor = page.end;
        }
    }

    /// What waits does so for something that is not over, and is listed there.
    async fn look_at_waiting(&self, seen: &Seen, findings: &mut Findings) -> Result<(), CallError> {
        // What one script had no room for.
        let todo = self.members(&self.keys.todo()).await?;
        let mut connection = self.connector.pooled().await?;
        for (id, state) in &seen.tasks {
            let mut pipe = redis::pipe();
            pipe.cmd("SMEMBERS").arg(self.keys.needs(*id)).cmd("ZRANGE").arg(self.keys.after(*id)).arg(&["0", "-1"]);
            let (needs, after): (Vec<String>, Vec<String>) =
                pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
            if (*state == State::Waiting) == needs.is_empty() {
                findings.broken.push(format!("I11: {id} is {state} and waits for {needs:?}"));
            }
            for other in needs {
                let other_id: Option<Id> = other.parse().ok();
                let listed: bool = match other_id {
                    Some(other) => redis::cmd("ZSCORE")
                        .arg(self.keys.after(other))
                        .arg(id.to_string())
                        .query_async::<Option<f64>>(&mut *connection)
                        .await
                        .map_err(|error| sort_error(&error))?
                        .is_some(),
                    None => false,
                };
                let is_open = seen.named(&other).is_some_and(|state| !state.is_terminal());
                // A submission of which not all parts are here yet.
                let is_opening = other.starts_with('o');
                let is_on_its_way = is_opening || todo.contains(&format!("release:{other}"));
                if !is_on_its_way && (!listed || !is_open) {
                    findings.broken.push(format!("I11: {id} waits for {other}, which is over or does not know of it"));
                }
            }
            for other in after {
                let waits = seen.named(&other);
                // A chain or batch is `running` for as long as it waits for its members.
                let is_group = other.parse::<GroupId>().is_ok();
                if waits != Some(if is_group { State::Running } else { State::Waiting }) {
                    findings.broken.push(format!("I11: {other} is listed as following {id} and does not wait"));
                }
            }
        }
        Ok(())
    }

    /// Every entry of a lane is named by a record.
    async fn look_at_lanes(&self, known: &BTreeMap<TaskId, State>, findings: &mut Findings) -> Result<(), CallError> {
        let lanes = self.lane_names().await?;
        let mut connection = self.connector.pooled().await?;
        let failed = |error: redis::RedisError| sort_error(&error);
        for lane in lanes {
            for priority in ["high", "normal", "low"] {
                let stream = self.keys.lane(&lane, priority);
                let reply: StreamRangeReply = redis::cmd("XRANGE")
                    .arg(&stream)
                    .arg(&["-", "+"])
                    .query_async(&mut *connection)
                    .await
                    .map_err(failed)?;
                let live: BTreeSet<&str> = reply.ids.iter().map(|entry| entry.id.as_str()).collect();
                for ghost in
                    pending(&mut connection, &stream).await?.iter().filter(|entry| !live.contains(entry.as_str()))
                {
                    findings.broken.push(format!("I3: the entry {ghost} of lane {lane} is pending and stands nowhere"));
                }
                for entry in reply.ids {
                    let id: String = entry.get("id").unwrap_or_default();
                    let named: Option<String> = match id.parse::<TaskId>() {
                        Ok(id) if known.contains_key(&id) => redis::cmd("HGET")
                            .arg(self.keys.task(id))
                            .arg("entry")
                            .query_async(&mut *connection)
                            .await
                            .map_err(failed)?,
                        _ => None,
                    };
                    if named.as_deref() != Some(entry.id.as_str()) {
                        findings
                            .broken
                            .push(format!("I3: the entry {} of lane {lane} is named by no record ({id})", entry.id));
                    }
                }
            }
        }
        Ok(())
    }

    /// Every key has an owner, and the indexes say what the records say. Needs the right to SCAN.
    async fn look_at_keys(&self, seen: &Seen, findings: &mut Findings) -> Result<(), CallError> {
        let keys = match self.scan().await {
            Ok(keys) => keys,
            Err(CallError::Refused(error)) => {
                findings.unchecked.push(format!("I9 and I12 are not checked: {}", error.message()));
                return Ok(());
            }
            Err(away) => return Err(away),
        };
        let ids: BTreeSet<String> = seen.tasks.keys().map(ToString::to_string).collect();
        for key in &keys {
            let name = key.strip_prefix(self.keys.prefix()).unwrap_or(key);
            let (kind, rest) = name.split_once(':').unwrap_or((name, ""));
            let owned = match kind {
                "task" => ids.contains(rest),
                "needs" | "after" | "chain" | "batch" => {
                    seen.named(rest).is_some() || (kind == "after" && rest.starts_with('o'))
                }
                "opening" => !rest.is_empty(),
                "output" => rest.split_once(':').is_some_and(|(id, _)| ids.contains(id)),
                "once" | "index" | "lane" | "wake" | "worker" | "host" | "slot" | "account" | "unseen" | "told" => {
                    !rest.is_empty()
                }
                "test" => cfg!(test),
                "meta" | "seq" | "lanes" | "due" | "retain" | "todo" | "events" | "workers" | "hosts" | "slots"
                | "config" | "sweeper" => rest.is_empty(),
                _ => false,
            };
            if !owned {
                findings.broken.push(format!("I9: the key {name} belongs to nothing"));
            }
        }
        let once = keys.iter().filter(|key| key.starts_with(&format!("{}once:", self.keys.prefix()))).count();
        let things = seen.tasks.len() + seen.groups.len();
        let openings = keys.iter().any(|key| key.starts_with(&format!("{}opening:", self.keys.prefix())));
        if once != things && !openings {
            findings.broken.push(format!("I9: {once} idempotency keys for {things} tasks, chains and batches"));
        }
        self.look_at_news(seen, &keys, findings).await?;
        let mut wanted = self.indexes_by_scan(&seen.tasks).await?;
        for id in seen.groups.keys() {
            wanted.entry(self.keys.groups(id.kind)).or_default().insert(id.to_string());
        }
        let of_slot = self.keys.slot("");
        let there: BTreeSet<&str> = keys.iter().filter_map(|key| key.strip_prefix(&of_slot)).collect();
        let listed = self.members(&self.keys.slots()).await?;
        if listed.iter().map(String::as_str).collect::<BTreeSet<_>>() != there {
            findings.broken.push(format!("I12: the slots with settings are {there:?}, listed are {listed:?}"));
        }
        let found = self.indexes(&self.keys, &keys).await?;
        for index in wanted.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
            if wanted.get(index) != found.get(index) {
                findings.broken.push(format!("I12: the index {index} is not what a scan of the records gives"));
            }
        }
        Ok(())
    }

    /// What a coordinator is to be told or was told stands in one place, and names what there is.
    async fn look_at_news(&self, seen: &Seen, keys: &[String], findings: &mut Findings) -> Result<(), CallError> {
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for kind in ["unseen:", "told:"].map(|kind| format!("{}{kind}", self.keys.prefix())) {
            for (key, members) in self.sets(keys, &kind).await? {
                for id in members {
                    if seen.named(&id).is_none() {
                        findings.broken.push(format!("I12: {key} names {id}, which there is not"));
                    }
                    if let Some(other) = places.insert(id.clone(), key.clone()) {
                        findings.broken.push(format!("I12: {id} is news in {other} and in {key}"));
                    }
                }
            }
        }
        for group in seen.groups.values().filter(|group| group.state.is_terminal() && group.batch.is_none()) {
            let is_known =
                places.contains_key(&group.id.to_string()) || group.offered.is_some() || group.news.is_some();
            if group.coordinator.is_some() && !is_known {
                findings.broken.push(format!("I12: {} is over and was never news for its coordinator", group.id));
            }
        }
        let ended: Vec<TaskId> =
            seen.tasks.iter().filter(|(_, state)| state.is_terminal()).map(|(id, _)| *id).collect();
        for page in ended.chunks(500) {
            for record in self.tasks_short(page).await? {
                let id = record.id.to_string();
                // Of what was told, the oldest is forgotten.
                let is_lost = record.coordinator.is_some() && record.offered.is_none() && !places.contains_key(&id);
                if is_lost && record.news.is_none() && record.group.is_none() {
                    findings.broken.push(format!("I12: {id} is over and was never news for its coordinator"));
                }
            }
        }
        Ok(())
    }

    async fn scan(&self) -> Result<Vec<String>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let mut keys = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            // The braces of the prefix mean nothing special in a pattern.
            let (next, page): (String, Vec<String>) = redis::cmd("SCAN")
                .arg(&cursor)
                .arg("MATCH")
                .arg(format!("{}*", self.keys.prefix()))
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut *connection)
                .await
                .map_err(|error| sort_error(&error))?;
            keys.extend(page);
            if next == "0" {
                return Ok(keys.into_iter().collect());
            }
            cursor = next;
        }
    }

    async fn indexes_by_scan(
        &self,
        known: &BTreeMap<TaskId, State>,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, CallError> {
        let mut indexes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let ids: Vec<TaskId> = known.keys().copied().collect();
        for page in ids.chunks(500) {
            for record in self.tasks_short(page).await? {
                let mut add = |kind: &str, value: &str| {
                    indexes.entry(self.keys.index(kind, value)).or_default().insert(record.id.to_string());
                };
                add("all", "tasks");
                add("state", record.state.word());
                if let Some(coordinator) = &record.coordinator {
                    add("coordinator", coordinator);
                }
                for tag in &record.tags {
                    add("tag", tag);
                }
            }
        }
        Ok(indexes)
    }

    async fn indexes(&self, names: &Keys, keys: &[String]) -> Result<BTreeMap<String, BTreeSet<String>>, CallError> {
        self.sets(keys, &format!("{}index:", names.prefix())).await
    }

    /// The members of every sorted set whose key starts so.
    async fn sets(&self, keys: &[String], start: &str) -> Result<BTreeMap<String, BTreeSet<String>>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let mut sets = BTreeMap::new();
        for key in keys.iter().filter(|key| key.starts_with(start)) {
            let members: BTreeSet<String> = redis::cmd("ZRANGE")
                .arg(key)
                .arg(&["0", "-1"])
                .query_async(&mut *connection)
                .await
                .map_err(|error| sort_error(&error))?;
            sets.insert(key.clone(), members);
        }
        Ok(sets)
    }
}

/// The pending entries of a lane; none where it has no group.
async fn pending(connection: &mut super::connect::Pooled, stream: &str) -> Result<Vec<String>, CallError> {
    let listed: Result<Vec<(String, String, u64, u64)>, redis::RedisError> =
        redis::cmd("XPENDING").arg(stream).arg(&["workers", "-", "+", "10000"]).query_async(&mut **connection).await;
    match listed {
        Ok(listed) => Ok(listed.into_iter().map(|(entry, ..)| entry).collect()),
        Err(error) if error.code() == Some("NOGROUP") => Ok(Vec::new()),
        Err(error) => Err(sort_error(&error)),
    }
}
