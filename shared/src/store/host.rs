//! Hosts, what they are to keep; the settings of the pool and of its slots.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use super::script::{Call, CallError, Reply, sort_error};
use crate::domain::host::{Host, HostSlot};
use crate::domain::options::TaskOptions;
use crate::domain::slot::SlotSettings;
use crate::error::{Error, Result};

/// Who a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostIdentity {
    /// Its name in the pool.
    pub name: String,
    /// One start of it.
    pub instance: String,
    /// Where only one host of this name can run: of two starts there the later one is right.
    pub place: String,
}

/// What a host tells of itself.
#[derive(Clone, Debug, Default)]
pub struct HostPresence {
    /// Its process id.
    pub pid: u32,
    /// How many workers it is to keep.
    pub wanted: u32,
    /// How many run.
    pub actual: u32,
    /// It keeps no fewer.
    pub min: u32,
    /// It keeps no more.
    pub max: u32,
    /// Its slots.
    pub slots: Vec<HostSlot>,
}

/// A host's word, or its farewell.
pub(crate) fn host(
    identity: &HostIdentity,
    verb: &str,
    known: &HostPresence,
    pool_id: &str,
    lease_ms: u64,
) -> Result<Call> {
    let fields = [
        ("pid", known.pid.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("wanted", known.wanted.to_string()),
        ("actual", known.actual.to_string()),
        ("min_slots", known.min.to_string()),
        ("max_slots", known.max.to_string()),
        ("slots", json(&known.slots)?),
    ];
    Ok(Call::new("host")
        .arg(&identity.name)
        .arg(verb)
        .arg(&identity.instance)
        .arg(&identity.place)
        .arg(pool_id)
        .number(lease_ms)
        .number(fields.len() as u64)
        .args(fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value])))
}

/// What the pool told a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostTold {
    /// It is known by its name.
    Known {
        /// How long it may be silent, in milliseconds.
        lease_ms: u64,
        /// How many workers it is to keep, where anybody said.
        target: Option<u32>,
        /// How often it was told.
        scaled: u64,
    },
    /// Another live host has the name.
    Taken,
}

pub(crate) fn host_told(reply: &Reply) -> Result<HostTold> {
    match reply.word() {
        "ok" => Ok(HostTold::Known {
            lease_ms: reply.number(2),
            target: reply.text(3).parse().ok(),
            scaled: reply.number(4),
        }),
        "taken" => Ok(HostTold::Taken),
        _ => Err(reply.unexpected()),
    }
}

/// A host is to keep so many; `from`: only where it was to keep that many.
pub(crate) fn scale(host: &str, target: u32, from: Option<u32>) -> Call {
    Call::new("scale").arg(host).number(target).arg(from.map(|from| from.to_string()).unwrap_or_default())
}

/// Whether it was taken; not, where the host was scaled by somebody else meanwhile.
pub(crate) fn scaled(reply: &Reply) -> Result<bool> {
    match reply.word() {
        "ok" => Ok(true),
        "moved" => Ok(false),
        _ => Err(reply.unexpected()),
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::failed(format!("settings cannot be written as JSON: {error}")))
}

/// Sets the pool's defaults where they are as the caller saw them.
pub(crate) fn defaults(version: &str, options: &TaskOptions) -> Result<Call> {
    Ok(Call::new("set").arg("").arg(version).arg(json(options)?))
}

/// Sets what a slot keeps, where that is as the caller saw it; nothing: the slot is forgotten.
pub(crate) fn slot_set(slot: &str, version: &str, settings: Option<&SlotSettings>) -> Result<Call> {
    let text = settings.map(json).transpose()?.unwrap_or_default();
    Ok(Call::new("set").arg(slot).arg(version).arg(text))
}

/// Whether they were written.
pub(crate) fn was_set(reply: &Reply) -> Result<bool> {
    match reply.word() {
        "ok" => Ok(reply.text(2) == "written"),
        _ => Err(reply.unexpected()),
    }
}

impl Store {
    /// The hosts that were heard within a lease, by name.
    pub(crate) async fn hosts(&self) -> Result<Vec<Host>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let failed = |error: redis::RedisError| sort_error(&error);
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut *connection).await.map_err(failed)?;
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(self.keys.hosts()).arg(&["0", "-1", "WITHSCORES"]);
        pipe.cmd("HGET").arg(self.keys.meta()).arg("lease_ms");
        let (listed, lease_ms): (Vec<(String, f64)>, Option<u64>) =
            pipe.query_async(&mut *connection).await.map_err(failed)?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let now_ms = seconds * 1000 + micros / 1000;
        let mut pipe = redis::pipe();
        for (name, _) in &listed {
            pipe.cmd("HGETALL").arg(self.keys.host(name));
        }
        let hashes: Vec<HashMap<String, String>> = pipe.query_async(&mut *connection).await.map_err(failed)?;
        let hosts = listed.into_iter().zip(hashes);
        let mut hosts: Vec<Host> =
            hosts.map(|((name, seen_ms), hash)| read(name, now_ms.saturating_sub(seen_ms as u64), &hash)).collect();
        // Where nobody sweeps they are still listed.
        hosts.retain(|host| host.silent_ms <= lease_ms.unwrap_or(u64::MAX));
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    /// The pool's defaults with their version.
    pub(crate) async fn config(&self) -> Result<(String, TaskOptions), CallError> {
        self.versioned(&self.keys.config(), "the pool's defaults").await
    }

    /// What a slot keeps, with its version.
    pub(crate) async fn slot(&self, slot: &str) -> Result<(String, SlotSettings), CallError> {
        self.versioned(&self.keys.slot(slot), "the settings of a slot").await
    }

    async fn versioned<T: DeserializeOwned + Default>(&self, key: &str, what: &str) -> Result<(String, T), CallError> {
        let mut connection = self.connector.pooled().await?;
        // The version first: whoever writes in between makes it too old, and what is decided on it is refused.
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(key).arg("version").cmd("HGET").arg(key).arg("options");
        let known: (Option<String>, Option<String>) =
            pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        let value = match known.1 {
            None => T::default(),
            Some(text) => parse(&text, what)?,
        };
        Ok((known.0.unwrap_or_else(|| "0".to_owned()), value))
    }

    /// What every slot keeps that keeps anything.
    pub(crate) async fn slots(&self) -> Result<BTreeMap<String, SlotSettings>, CallError> {
        let names = self.members(&self.keys.slots()).await?;
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut connection = self.connector.pooled().await?;
        let mut pipe = redis::pipe();
        for name in &names {
            pipe.cmd("HGET").arg(self.keys.slot(name)).arg("options");
        }
        let texts: Vec<Option<String>> =
            pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        let known = names.into_iter().zip(texts).filter_map(|(name, text)| Some((name, text?)));
        known.map(|(name, text)| Ok((name, parse(&text, "the settings of a slot")?))).collect()
    }
}

fn parse<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, CallError> {
    serde_json::from_str(text)
        .map_err(|error| CallError::Refused(Error::failed(format!("{what} cannot be read: {error}"))))
}

fn read(name: String, silent_ms: u64, hash: &HashMap<String, String>) -> Host {
    let text = |name: &str| hash.get(name).map(String::as_str).unwrap_or_default();
    let count = |name: &str| text(name).parse().unwrap_or(0);
    let wanted = if text("target").is_empty() { count("wanted") } else { count("target") };
    let (min, max) = (count("min_slots"), count("max_slots"));
    Host {
        name,
        pid: count("pid"),
        version: text("version").to_owned(),
        wanted: wanted.clamp(min, max.max(min)),
        actual: count("actual"),
        min,
        max,
        // A newer version may say more of them than we understand.
        slots: serde_json::from_str(text("slots")).unwrap_or_default(),
        silent_ms,
    }
}
