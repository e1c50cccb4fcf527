//! The pool at a glance: workers, lanes, Redis, the invariants.

use super::Pool;
use crate::domain::fleet::Worker;
use crate::domain::host::Host;
use crate::domain::state::State;
use crate::error::Result;
use crate::store::doctor::Findings;

/// A lane at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// Its name.
    pub lane: String,
    /// Tasks that wait in it.
    pub waiting: u64,
    /// Milliseconds that the oldest of them has waited since it was submitted.
    pub oldest_ms: Option<u64>,
    /// Live workers that serve it.
    pub workers: u64,
}

/// The pool at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolStatus {
    /// Tasks by state, all states.
    pub tasks: Vec<(State, u64)>,
    /// Live workers.
    pub workers: Vec<Worker>,
    /// Live hosts.
    pub hosts: Vec<Host>,
    /// Lanes in which something waits.
    pub lanes: Vec<LaneStatus>,
}

/// What Redis is, and what its acknowledgement is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where, without its password.
    pub url: String,
    /// Its version.
    pub version: String,
    /// Writes go to an append-only file.
    pub append_only: bool,
    /// When that file is synced: always, everysec, no; nothing where we may not ask.
    pub fsync: Option<String>,
    /// Connected replicas.
    pub replicas: u32,
    /// Its memory limit in bytes, 0: none.
    pub maxmemory: u64,
}

impl Pool {
    /// The workers that were heard within a lease.
    pub async fn workers(&self) -> Result<Vec<Worker>> {
        self.patiently(move || self.store().workers()).await
    }

    /// The pool at a glance.
    pub async fn status(&self) -> Result<PoolStatus> {
        let counts = self.patiently(move || self.store().count(State::ALL)).await?;
        let workers = self.workers().await?;
        let hosts = self.hosts().await?;
        let lanes = self.patiently(move || self.store().lanes()).await?;
        let lanes = lanes.into_iter().map(|(lane, waiting, oldest_ms)| LaneStatus {
            workers: workers.iter().filter(|worker| worker.serves(&lane)).count() as u64,
            lane,
            waiting,
            oldest_ms,
        });
        Ok(PoolStatus {
            tasks: State::ALL.iter().copied().zip(counts).collect(),
            lanes: lanes.filter(|lane| lane.waiting > 0).collect(),
            workers,
            hosts,
        })
    }

    /// What Redis tells of itself; refuses one that is too old or evicts keys.
    pub async fn check_redis(&self) -> Result<Redis> {
        let server = self.store().connector.check().await?;
        let fsync = self.store().setting("appendfsync").await;
        Ok(Redis {
            url: self.redis(),
            version: server.version,
            append_only: server.append_only,
            fsync,
            replicas: server.replicas,
            maxmemory: server.maxmemory,
        })
    }

    /// Checks the invariants on the pool as it stands.
    pub async fn examine(&self) -> Result<Findings> {
        self.patiently(move || self.store().examine()).await
    }
}
