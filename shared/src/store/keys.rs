//! Keys and fields: the one place where they are named, for Rust and for the scripts.

use std::fmt::Write as _;

use crate::domain::ids::{GroupId, GroupKind, Id, Name, TaskId};

/// The version of the model; a pool with another one is left alone.
pub(crate) const SCHEMA: &str = "1";
/// Transitions that the log keeps, about.
pub(crate) const EVENTS_KEPT: u64 = 100_000;
/// How long live output is kept after it was last written or beaten for: 7 days.
pub(crate) const OUTPUT_TTL_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long a worker is remembered after it left the list: 1 h.
pub(crate) const WORKER_TTL_MS: u64 = 3600 * 1000;
/// How long it is remembered how many workers a host was to keep that is gone: 30 days.
pub(crate) const TARGET_TTL_MS: u64 = 30 * 24 * 3600 * 1000;
/// Slots with settings in a pool, at most.
pub(crate) const MOST_SLOTS: u64 = 1_000;
/// How long an empty lane is kept: a day.
pub(crate) const LANE_UNUSED_MS: u64 = 24 * 3600 * 1000;
/// After each such time of waiting a task is taken one class of priority earlier: 10 minutes.
pub(crate) const AGE_MS: u64 = 10 * 60 * 1000;
/// How long a terminal task is kept: 7 days.
pub(crate) const RETENTION_MS: u64 = 7 * 24 * 3600 * 1000;

/// News that a coordinator was told, kept for a replay.
pub(crate) const TOLD_KEPT: u64 = 1_000;

/// Every field of a hash. Runs add `run:N:` and worker, host, started, ended, class, message, session, cost, charged,
/// resumed.
const FIELDS: &[&str] = &[
    // meta
    "pool_id",
    "schema",
    "lease_ms",
    "last",
    "grace",
    "rewound",
    "run_id",
    "full",
    "repaired",
    "aged",
    "lanes_version",
    "away_ms",
    // seq, with its counters
    "kept",
    // task
    "state",
    "spec",
    "title",
    "lane",
    "priority",
    "entry",
    "worker",
    "run",
    "attempt",
    "max_attempts",
    "round",
    "if_lost",
    "coordinator",
    "tags",
    "once",
    "cost",
    "estimated",
    "created",
    "ready",
    "first_ready",
    "not_before",
    "after_failure",
    "wait_ms",
    "waits_since",
    "away_then",
    "started",
    "ended",
    "n",
    "reason",
    "cancel",
    "cancel_reason",
    "tool",
    "heard",
    "uncharged",
    "unspoken",
    "back_since",
    "output",
    "structured",
    "usage",
    "turns",
    "denied",
    "error_class",
    "error_status",
    "error_message",
    "error_hint",
    "news",
    "offered",
    "group",
    "vars",
    "failures",
    "recovering",
    "last_error",
    "kept_by",
    // chain, batch
    "members",
    // worker
    "call",
    "did",
    "joined",
    "host",
    "task",
    "done",
    "pid",
    "claude",
    "lanes",
    "labels",
    "draining",
    "unfit_class",
    "unfit_message",
    "unfit_hint",
    "unfit_until",
    "account",
    "limit_ms",
    "slot",
    // host
    "instance",
    "place",
    "wanted",
    "actual",
    "min_slots",
    "max_slots",
    "slots",
    "target",
    "scaled",
    // account
    "limited_until",
    "trial_at",
    "message",
    "hint",
    // config
    "version",
    "options",
];

/// The keys of one pool.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(pool: &Name) -> Self {
        // The braces make all keys of a pool one hash slot of a cluster.
        Self { prefix: format!("mp:{{{pool}}}:") }
    }

    /// What every key starts with: KEYS[1] of every script.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn task(&self, id: TaskId) -> String {
        format!("{}task:{id}", self.prefix)
    }

    /// A chain or batch.
    pub(crate) fn group(&self, id: GroupId) -> String {
        format!("{}{}:{id}", self.prefix, id.kind.word())
    }

    /// Whatever has this id.
    pub(crate) fn record(&self, id: Id) -> String {
        match id {
            Id::Task(id) => self.task(id),
            Id::Group(id) => self.group(id),
        }
    }

    /// What an idempotency key has made.
    pub(crate) fn once(&self, once: &str) -> String {
        format!("{}once:{once}", self.prefix)
    }

    pub(crate) fn output(&self, id: TaskId, run: u64) -> String {
        format!("{}output:{id}:{run}", self.prefix)
    }

    pub(crate) fn index(&self, kind: &str, value: &str) -> String {
        format!("{}index:{kind}:{value}", self.prefix)
    }

    /// The list of all chains, or of all batches.
    pub(crate) fn groups(&self, kind: GroupKind) -> String {
        self.index("all", if kind == GroupKind::Chain { "chains" } else { "batches" })
    }

    pub(crate) fn wake(&self, lane: &str) -> String {
        format!("{}wake:{lane}", self.prefix)
    }

    pub(crate) fn lane(&self, lane: &str, priority: &str) -> String {
        format!("{}lane:{lane}:{priority}", self.prefix)
    }

    /// Timers of what is delayed, and others.
    pub(crate) fn due(&self) -> String {
        format!("{}due", self.prefix)
    }

    /// What a bounded script left to the sweep.
    pub(crate) fn todo(&self) -> String {
        format!("{}todo", self.prefix)
    }

    /// What a task waits on.
    pub(crate) fn needs(&self, id: impl Into<Id>) -> String {
        format!("{}needs:{}", self.prefix, id.into())
    }

    /// What waits on a task.
    pub(crate) fn after(&self, id: impl Into<Id>) -> String {
        format!("{}after:{}", self.prefix, id.into())
    }

    pub(crate) fn lanes(&self) -> String {
        format!("{}lanes", self.prefix)
    }

    pub(crate) fn worker(&self, id: &str) -> String {
        format!("{}worker:{id}", self.prefix)
    }

    pub(crate) fn workers(&self) -> String {
        format!("{}workers", self.prefix)
    }

    pub(crate) fn meta(&self) -> String {
        format!("{}meta", self.prefix)
    }

    pub(crate) fn host(&self, name: &str) -> String {
        format!("{}host:{name}", self.prefix)
    }

    pub(crate) fn hosts(&self) -> String {
        format!("{}hosts", self.prefix)
    }

    /// The settings of a slot.
    pub(crate) fn slot(&self, name: &str) -> String {
        format!("{}slot:{name}", self.prefix)
    }

    /// The slots that have settings.
    pub(crate) fn slots(&self) -> String {
        format!("{}slots", self.prefix)
    }

    pub(crate) fn events(&self) -> String {
        format!("{}events", self.prefix)
    }

    pub(crate) fn feed(&self) -> String {
        format!("{}feed", self.prefix)
    }

    /// What a coordinator is still to be told, by number of the news.
    pub(crate) fn unseen(&self, coordinator: &str) -> String {
        format!("{}unseen:{coordinator}", self.prefix)
    }

    /// What a coordinator was told last.
    pub(crate) fn told(&self, coordinator: &str) -> String {
        format!("{}told:{coordinator}", self.prefix)
    }

    pub(crate) fn ctl(&self, worker: &str) -> String {
        format!("{}ctl:{worker}", self.prefix)
    }

    pub(crate) fn config(&self) -> String {
        format!("{}config", self.prefix)
    }

    /// Where a test keeps the offset of its pool's clock, in milliseconds.
    #[cfg(test)]
    pub(crate) fn clock_offset(&self) -> String {
        format!("{}test:clock", self.prefix)
    }
}

/// The part `names` of the scripts: one table of keys, one of fields, and the numbers that Rust owns.
pub(crate) fn names_lua() -> String {
    let mut lua = String::from(
        "-- names: keys and fields, written by store/keys.rs. An unknown field is an error, not a nil.\n\
         local key = (function()\n\
         \x20 local p = KEYS[1]\n\
         \x20 return {\n\
         \x20   meta = p .. 'meta', seq = p .. 'seq', lanes = p .. 'lanes', due = p .. 'due', events = p .. 'events',\n\
         \x20   feed = p .. 'feed', workers = p .. 'workers', config = p .. 'config', sweeper = p .. 'sweeper',\n\
         \x20   retain = p .. 'retain', hosts = p .. 'hosts', slots = p .. 'slots',\n\
         \x20   task = function(id) return p .. 'task:' .. id end,\n\
         \x20   record = function(id)\n\
         \x20     local first = string.sub(id, 1, 1)\n\
         \x20     return p .. (first == 'c' and 'chain:' or first == 'b' and 'batch:' or first == 'o' and 'opening:' or 'task:')\n\
         \x20     .. id\n\
         \x20   end,\n\
         \x20   lane = function(lane, priority) return p .. 'lane:' .. lane .. ':' .. priority end,\n\
         \x20   wake = function(lane) return p .. 'wake:' .. lane end,\n\
         \x20   worker = function(id) return p .. 'worker:' .. id end,\n\
         \x20   host = function(name) return p .. 'host:' .. name end,\n\
         \x20   slot = function(name) return p .. 'slot:' .. name end,\n\
         \x20   ctl = function(id) return p .. 'ctl:' .. id end,\n\
         \x20   todo = p .. 'todo',\n\
         \x20   needs = function(id) return p .. 'needs:' .. id end,\n\
         \x20   after = function(id) return p .. 'after:' .. id end,\n\
         \x20   account = function(id) return p .. 'account:' .. id end,\n\
         \x20   output = function(id, run) return p .. 'output:' .. id .. ':' .. run end,\n\
         \x20   once = function(once) return p .. 'once:' .. once end,\n\
         \x20   unseen_of = function(coordinator) return p .. 'unseen:' .. coordinator end,\n\
         \x20   told = function(coordinator) return p .. 'told:' .. coordinator end,\n\
         \x20   index = function(kind, value) return p .. 'index:' .. kind .. ':' .. value end,\n\
         \x20 }\n\
         end)()\n\
         local F = setmetatable({\n",
    );
    for field in FIELDS {
        let _ = writeln!(lua, "  {field} = '{field}',");
    }
    lua.push_str("}, { __index = function(_, name) error('no field ' .. tostring(name)) end })\n");
    for (name, value) in [
        ("EVENTS_KEPT", EVENTS_KEPT),
        ("OUTPUT_TTL_MS", OUTPUT_TTL_MS),
        ("WORKER_TTL_MS", WORKER_TTL_MS),
        ("TARGET_TTL_MS", TARGET_TTL_MS),
        ("MOST_SLOTS", MOST_SLOTS),
        ("LANE_UNUSED_MS", LANE_UNUSED_MS),
        ("AGE_MS", AGE_MS),
        ("RETENTION_MS", RETENTION_MS),
        ("MOST_LANES", crate::domain::limits::LANES),
        ("TOLD_KEPT", TOLD_KEPT),
    ] {
        let _ = writeln!(lua, "local {name} = {value}");
    }
    let _ = writeln!(lua, "local SCHEMA = '{SCHEMA}'");
    lua
}
