//! Slots: what outlives the worker that fills them, and how they stand.
//!
//! Not here: how the levels of options are merged (`merge.rs`), who keeps the workers (`host.rs`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fleet::Worker;
use super::host::{Host, Keeping};
use super::limits;
use super::options::TaskOptions;
use super::state::words;
use crate::error::{Error, Result};

words! {
    /// How a slot stands.
    SlotState {
        /// Its worker waits for a task.
        Idle = "idle",
        /// Its worker runs one.
        Running = "running",
        /// Its worker cannot work now.
        Unfit = "unfit",
        /// Its worker finishes what it has and claims no more.
        Draining = "draining",
        /// Its workers ended badly too often; none is started.
        Errored = "errored",
        /// It has settings and no worker.
        Absent = "absent",
    }
}

/// Options that a slot may set; the others are the task's alone, or count before a worker has it.
pub const OPTIONS: &[&str] = &[
    "model",
    "fallback_model",
    "effort",
    "permission_mode",
    "max_turns",
    "system_prompt",
    "replace_system_prompt",
    "allowed_tools",
    "mcp_servers",
    "strict_mcp_config",
    "timeout_s",
    "idle_timeout_s",
    "working_dir",
    "isolation",
    "fail_on_denied",
];

/// What a slot keeps across its workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotSettings {
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The same in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Options of its tasks that say nothing themselves.
    pub options: TaskOptions,
}

impl SlotSettings {
    /// Who the slot is, for its worker; empty where nothing is said.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.name.as_ref().map(|name| format!("Your name is {name}.")));
        words.extend(self.role.as_ref().map(|role| format!("Your role is {role}.")));
        words.extend(self.description.clone());
        words.join(" ")
    }

    fn check(&self) -> Result<()> {
        let texts = [
            ("name", &self.name, limits::KEY_BYTES),
            ("role", &self.role, limits::KEY_BYTES),
            ("description", &self.description, 2_000),
        ];
        for (what, text, most) in texts {
            let Some(text) = text else { continue };
            if text.trim().is_empty() || text.len() > most || text.chars().any(char::is_control) {
                return Err(Error::usage(format!("the {what} of a slot: {text:?} does not do"))
                    .hint(format!("give 1 to {most} bytes without control characters")));
            }
        }
        Ok(())
    }
}

/// Changes to options: set these, as callers write them; take those away.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptionChange {
    /// By name, as in [`TaskOptions::from_json`].
    pub set: Map<String, Value>,
    /// Names.
    pub unset: Vec<String>,
}

impl OptionChange {
    /// What holds after it.
    ///
    /// # Errors
    /// An unknown name, one that may not be set at this level, a value that does not do.
    pub fn apply(&self, options: &TaskOptions, level: &str, allowed: &[&str]) -> Result<TaskOptions> {
        // Names that do not exist are told as such, with the nearest.
        TaskOptions::from_json(&self.set)?;
        let unset = self.unset.iter().map(|name| (name.clone(), Value::Null)).collect::<Map<_, _>>();
        for name in self.set.keys().chain(unset.keys()) {
            if !allowed.contains(&name.as_str()) {
                return Err(Error::usage(format!("{name} cannot be set for {level}"))
                    .hint(format!("what can: {}", allowed.join(", "))));
            }
        }
        let Value::Object(mut merged) = serde_json::to_value(options)
            .map_err(|error| Error::failed(format!("options cannot be written as JSON: {error}")))?
        else {
            return Err(Error::failed("options are no object"));
        };
        for name in &self.unset {
            merged.remove(name);
        }
        merged.extend(self.set.clone());
        TaskOptions::from_json(&merged)
    }
}

/// A change of a slot's settings; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotChange {
    /// Its name; an empty text takes it away, as with the next two.
    pub name: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// Its options.
    pub options: OptionChange,
}

impl SlotChange {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What holds after it.
    ///
    /// # Errors
    /// See [`OptionChange::apply`].
    pub fn apply(&self, settings: &SlotSettings) -> Result<SlotSettings> {
        let text = |change: &Option<String>, now: &Option<String>| match change {
            None => now.clone(),
            Some(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        };
        let changed = SlotSettings {
            name: text(&self.name, &settings.name),
            role: text(&self.role, &settings.role),
            description: text(&self.description, &settings.description),
            options: self.options.apply(&settings.options, "a slot", OPTIONS)?,
        };
        changed.check()?;
        Ok(changed)
    }
}

/// Refuses what is no id of a slot.
pub fn check_id(text: &str) -> Result<()> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if text.is_empty() || text.len() > 64 || !is_plain {
        return Err(Error::usage(format!("{text:?} is no slot"))
            .hint("a slot is named by up to 64 letters, digits, points, dashes and underscores, as in laptop-1"));
    }
    Ok(())
}

/// A machine's name as part of names of hosts and slots.
#[must_use]
pub fn base_name(machine: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = machine.chars().map(plain).take(48).collect();
    if name.is_empty() { "host".to_owned() } else { name }
}

/// A slot as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// What it is addressed by: its host's name and a number.
    pub id: String,
    /// How it stands.
    pub state: SlotState,
    /// The machine.
    pub host: Option<String>,
    /// Who fills it.
    pub worker: Option<Worker>,
    /// What it keeps.
    pub settings: SlotSettings,
    /// Why it was given up: how its last worker ended, and what it said.
    pub why: Option<String>,
}

/// How a live worker stands.
#[must_use]
pub fn state_of(worker: &Worker) -> SlotState {
    match (&worker.task, &worker.unfit) {
        _ if worker.draining => SlotState::Draining,
        (Some(_), _) => SlotState::Running,
        (None, Some(_)) => SlotState::Unfit,
        (None, None) => SlotState::Idle,
    }
}

/// Every slot: of live workers, given up by hosts, and those that have settings and nobody who fills them.
#[must_use]
pub fn slots(workers: Vec<Worker>, hosts: &[Host], mut settings: BTreeMap<String, SlotSettings>) -> Vec<Slot> {
    let known = settings.clone();
    let of = |id: &str| known.get(id).cloned().unwrap_or_default();
    let mut slots = Vec::new();
    let mut seen = BTreeSet::new();
    // A worker that was killed is listed for a lease; its host knows better.
    let given_up: BTreeSet<&str> = hosts.iter().flat_map(Host::errored).map(|slot| slot.name.as_str()).collect();
    for worker in workers.into_iter().filter(|worker| !given_up.contains(worker.slot.as_str())) {
        // One of an older version has no slot that it knows of.
        let id = if worker.slot.is_empty() { worker.id.clone() } else { worker.slot.clone() };
        seen.insert(id.clone());
        slots.push(Slot {
            state: state_of(&worker),
            host: Some(worker.host.clone()),
            settings: of(&id),
            why: worker.unfit.as_ref().map(|unfit| format!("{}: {}", unfit.class, unfit.message)),
            worker: Some(worker),
            id,
        });
    }
    for host in hosts {
        for slot in host.slots.iter().filter(|slot| slot.state == Keeping::Errored && !seen.contains(&slot.name)) {
            slots.push(Slot {
                id: slot.name.clone(),
                state: SlotState::Errored,
                host: Some(host.name.clone()),
                worker: None,
                settings: of(&slot.name),
                why: Some(slot.why()),
            });
        }
    }
    settings.retain(|id, _| !slots.iter().any(|slot| slot.id == *id));
    for (id, settings) in settings {
        slots.push(Slot { id, state: SlotState::Absent, host: None, worker: None, settings, why: None });
    }
    slots.sort_by(|a, b| (&a.host, natural(&a.id)).cmp(&(&b.host, natural(&b.id))));
    slots
}

/// So that laptop-10 comes behind laptop-9.
fn natural(id: &str) -> (&str, u64) {
    match id.rsplit_once('-').map(|(name, number)| (name, number.parse())) {
        Some((name, Ok(number))) => (name, number),
        _ => (id, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::host::HostSlot;
    use serde_json::json;

    fn change(set: Value, unset: &[&str]) -> OptionChange {
        OptionChange {
            set: set.as_object().unwrap().clone(),
            unset: unset.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_change_sets_takes_away_and_keeps_the_rest() {
        let first = SlotChange {
            role: Some("reviewer".into()),
            options: change(json!({"model": "opus", "allowed_tools": ["Read"]}), &[]),
            ..SlotChange::default()
        };
        let settings = first.apply(&SlotSettings::default()).unwrap();
        let second = SlotChange {
            name: Some("Ada".into()),
            role: Some(String::new()),
            options: change(json!({"effort": "low"}), &["model"]),
            ..SlotChange::default()
        };
        let settings = second.apply(&settings).unwrap();
        assert_eq!(
            serde_json::to_value(&settings).unwrap(),
            json!({"name": "Ada",
            "options": {"effort": "low", "allowed_tools": ["Read"]}})
        );
        assert_eq!(settings.words(), "Your name is Ada.");
    }

    #[test]
    fn what_a_slot_cannot_have_is_refused() {
        for (set, unset, word) in [
            (json!({"modle": "x"}), &[][..], "did you mean model"),
            (json!({"priority": "high"}), &[], "cannot be set for a slot"),
            (json!({"effort": "huge"}), &[], "effort"),
            (json!({}), &["tags"], "cannot be set for a slot"),
        ] {
            let change = SlotChange { options: change(set, unset), ..SlotChange::default() };
            let error = change.apply(&SlotSettings::default()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let change = SlotChange { name: Some("two\nlines".into()), ..SlotChange::default() };
        assert!(change.apply(&SlotSettings::default()).is_err());
        assert!(check_id("laptop-1").is_ok() && check_id("").is_err() && check_id("a:b").is_err());
        assert_eq!(base_name("My Mac:ä"), "My_Mac__");
    }

    /// What a slot may set is what merging takes from it.
    #[test]
    fn merging_takes_what_a_slot_may_set_and_nothing_else() {
        let sample = json!({"model": "m", "fallback_model": "m", "effort": "low", "permission_mode": "plan",
            "max_turns": 1, "system_prompt": "s", "replace_system_prompt": "s", "allowed_tools": ["Read"],
            "disallowed_tools": ["Bash"], "tools": ["X"], "mcp_servers": {"a": {}}, "strict_mcp_config": true,
            "json_schema": {}, "max_budget_usd": 1, "timeout_s": 1, "idle_timeout_s": 1, "queue_timeout_s": 1,
            "max_attempts": 1, "working_dir": "/x", "isolation": "none", "lane": "l", "needs": ["n"],
            "priority": "low", "delay_s": 1, "after": ["t1"], "after_failure": "run", "tags": ["t"], "once": "o",
            "fail_on_denied": true, "coordinator": "c"});
        // These two are merged and count before a worker has the task.
        let early = ["queue_timeout_s", "max_attempts"];
        for (name, value) in sample.as_object().unwrap() {
            let one = [(name.clone(), value.clone())].into_iter().collect();
            let slot = TaskOptions::from_json(&one).unwrap();
            let nothing = TaskOptions::default();
            let counts = super::super::merge::merge(&nothing, &slot, &nothing) != nothing;
            assert_eq!(counts, OPTIONS.contains(&name.as_str()) || early.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn every_slot_is_listed_once_and_by_number() {
        let worker = |slot: &str, task: Option<&str>| Worker {
            id: format!("w-{slot}"),
            slot: slot.into(),
            host: "h".into(),
            pid: 1,
            version: "0".into(),
            claude: None,
            lanes: vec![],
            labels: vec![],
            account: None,
            unfit: None,
            draining: false,
            task: task.map(str::to_owned),
            silent_ms: 0,
            done: 0,
        };
        let errored = HostSlot {
            name: "h-2".into(),
            state: Keeping::Errored,
            pid: None,
            ended: Some("exit status: 3".into()),
            said: Some("error: no".into()),
        };
        let host = Host {
            name: "h".into(),
            pid: 1,
            version: "0".into(),
            wanted: 3,
            actual: 2,
            min: 0,
            max: 64,
            slots: vec![errored],
            silent_ms: 0,
        };
        let settings = ["h-10", "old-1"].map(|id| (id.to_owned(), SlotSettings::default())).into();
        let killed = worker("h-2", Some("t2"));
        let slots = slots(vec![worker("h-10", Some("t1")), killed, worker("h-1", None)], &[host], settings);
        let seen: Vec<(&str, SlotState)> = slots.iter().map(|slot| (slot.id.as_str(), slot.state)).collect();
        let expected = [
            ("old-1", SlotState::Absent),
            ("h-1", SlotState::Idle),
            ("h-2", SlotState::Errored),
            ("h-10", SlotState::Running),
        ];
        assert_eq!(seen, expected);
        assert_eq!(slots[2].why.as_deref(), Some("exit status: 3: error: no"));
    }
}
