//! Presence of workers, the pool's own id and lease; lanes.

use std::collections::HashMap;

use super::Store;
use super::script::{Call, CallError, Reply, sort_error};
use crate::domain::attempt::Class;
use crate::domain::fleet::{Unfit, Worker};
use crate::error::Result;

/// What a worker tells of itself.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    /// The machine's name.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// The CLI's version.
    pub claude: Option<String>,
    /// The lanes it serves, in its order.
    pub lanes: Vec<String>,
    /// What it has, as tasks may need it.
    pub labels: Vec<String>,
    /// Why it claims nothing, where it does not.
    pub unfit: Option<Unfit>,
    /// It finishes what it has and claims no more.
    pub draining: bool,
    /// Whose account its Claude uses, as a hash; empty where that cannot be told.
    pub account: String,
    /// How long a limit of its account lasts that it has just met, in milliseconds, for all workers of that account; 0:
    /// it has met none.
    pub limit_ms: u64,
    /// The slot that it fills.
    pub slot: String,
}

pub(crate) fn presence(worker: &str, verb: &str, pool_id: &str, lease_ms: u64, known: &Presence) -> Call {
    let unfit = known.unfit.as_ref();
    let fields = [
        ("host", known.host.clone()),
        ("pid", known.pid.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("claude", known.claude.clone().unwrap_or_default()),
        ("lanes", known.lanes.join("\n")),
        ("labels", known.labels.join("\n")),
        ("draining", if known.draining { "1" } else { "0" }.to_owned()),
        ("unfit_class", unfit.map_or("", |unfit| unfit.class.word()).to_owned()),
        ("unfit_message", unfit.map(|unfit| unfit.message.clone()).unwrap_or_default()),
        ("unfit_hint", unfit.and_then(|unfit| unfit.hint.clone()).unwrap_or_default()),
        ("unfit_until", unfit.and_then(|unfit| unfit.until_ms).map(|ms| ms.to_string()).unwrap_or_default()),
        ("account", known.account.clone()),
        ("limit_ms", known.limit_ms.to_string()),
        ("slot", known.slot.clone()),
    ];
    Call::new("presence")
        .arg(worker)
        .arg(verb)
        .arg(pool_id)
        .number(lease_ms)
        .number(fields.len() as u64)
        .args(fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value]))
}

/// What the pool told a worker that is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) pool_id: String,
    pub(crate) lease_ms: u64,
    /// Nobody sweeps: this process is asked to.
    pub(crate) sweep: bool,
}

/// Nothing if the pool does not know the worker.
pub(crate) fn present(reply: &Reply) -> Result<Option<Present>> {
    match reply.word() {
        "ok" => Ok(Some(Present {
            pool_id: reply.text(1).to_owned(),
            lease_ms: reply.number(2),
            sweep: reply.text(3) == "1",
        })),
        "unknown" => Ok(None),
        _ => Err(reply.unexpected()),
    }
}

impl Store {
    /// The workers that were heard within a lease.
    pub(crate) async fn workers(&self) -> Result<Vec<Worker>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let failed = |error: redis::RedisError| sort_error(&error);
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut *connection).await.map_err(failed)?;
        let now_ms = seconds * 1000 + micros / 1000;
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(self.keys.workers()).arg(&["0", "-1", "WITHSCORES"]);
        pipe.cmd("HGET").arg(self.keys.meta()).arg("lease_ms");
        let (listed, lease_ms): (Vec<(String, f64)>, Option<u64>) =
            pipe.query_async(&mut *connection).await.map_err(failed)?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for (id, _) in &listed {
            pipe.cmd("HGETALL").arg(self.keys.worker(id));
        }
        let hashes: Vec<HashMap<String, String>> = pipe.query_async(&mut *connection).await.map_err(failed)?;
        let workers = listed.into_iter().zip(hashes);
        let mut workers: Vec<Worker> =
            workers.map(|((id, seen_ms), hash)| read(id, now_ms.saturating_sub(seen_ms as u64), &hash)).collect();
        // Where nobody sweeps the dead are still listed.
        workers.retain(|worker| worker.silent_ms <= lease_ms.unwrap_or(u64::MAX));
        // The set is in the order of their last words, which changes all the time.
        workers.sort_by(|a, b| (&a.host, &a.id).cmp(&(&b.host, &b.id)));
        Ok(workers)
    }

    /// The pool's own id, once anybody has written to it.
    pub(crate) async fn pool_id(&self) -> Result<Option<String>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let asked = redis::cmd("HGET").arg(self.keys.meta()).arg("pool_id").query_async(&mut *connection).await;
        asked.map_err(|error| sort_error(&error))
    }

    /// Every lane that was used of late.
    pub(crate) async fn lane_names(&self) -> Result<Vec<String>, CallError> {
        self.members(&self.keys.lanes()).await
    }

    /// Every lane with how many tasks wait in it, and for how many milliseconds the oldest of them has.
    pub(crate) async fn lanes(&self) -> Result<Vec<(String, u64, Option<u64>)>, CallError> {
        // Before the connection is taken: who holds one and waits for a second may wait for himself.
        let names = self.lane_names().await?;
        let mut connection = self.connector.pooled().await?;
        let failed = |error: redis::RedisError| sort_error(&error);
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut *connection).await.map_err(failed)?;
        let now_ms = seconds * 1000 + micros / 1000;
        let mut lanes = Vec::new();
        for name in names {
            let (mut waiting, mut oldest) = (0, None);
            for priority in ["high", "normal", "low"] {
                let reply = Call::new("lane").arg(&name).arg(priority).send(&self.keys, &mut *connection).await?;
                waiting += reply.number(1);
                let since = reply.number(2);
                if since > 0 {
                    oldest = oldest.max(Some(now_ms.saturating_sub(since)));
                }
            }
            lanes.push((name, waiting, oldest));
        }
        Ok(lanes)
    }

    /// A setting of the server; nothing where we may not ask.
    pub(crate) async fn setting(&self, name: &str) -> Option<String> {
        let mut connection = self.connector.pooled().await.ok()?;
        let pair: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut *connection).await.ok()?;
        pair.into_iter().nth(1)
    }
}

fn read(id: String, silent_ms: u64, hash: &HashMap<String, String>) -> Worker {
    let text = |name: &str| hash.get(name).filter(|value| !value.is_empty()).cloned();
    let listed = |name: &str| text(name).map(|list| list.lines().map(str::to_owned).collect()).unwrap_or_default();
    let unfit = text("unfit_class").map(|class| Unfit {
        class: class.parse().unwrap_or(Class::Internal),
        message: text("unfit_message").unwrap_or_default(),
        hint: text("unfit_hint"),
        until_ms: text("unfit_until").and_then(|ms| ms.parse().ok()),
    });
    Worker {
        id,
        slot: text("slot").unwrap_or_default(),
        host: text("host").unwrap_or_default(),
        pid: text("pid").and_then(|pid| pid.parse().ok()).unwrap_or(0),
        version: text("version").unwrap_or_default(),
        claude: text("claude"),
        lanes: listed("lanes"),
        labels: listed("labels"),
        account: text("account"),
        unfit,
        draining: text("draining").as_deref() == Some("1"),
        task: text("task"),
        silent_ms,
        done: text("done").and_then(|done| done.parse().ok()).unwrap_or(0),
    }
}
