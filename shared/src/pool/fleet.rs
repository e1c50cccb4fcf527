//! The pool at a glance: workers, lanes, Redis, the invariants.

use super::Pool;
use crate::domain::fleet::Worker;
use crate::domain::host::Host;
use crate::domain::state::State;
use crate::domain::waits::{self, Waiting, Why};
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
    /// What everything waits for that does not run.
    pub waits: Vec<Waiting>,
    /// New work is refused: Redis has little memory left.
    pub full: bool,
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

/// In groups, those that can start first.
fn all_that_waits(
    tasks: &[(State, u64)],
    lanes: &[LaneStatus],
    workers: &[Worker],
    seen: crate::store::waits::Seen,
) -> Vec<Waiting> {
    let count = |state| tasks.iter().find(|(one, _)| *one == state).map_or(0, |(_, count)| *count);
    let mut waits: Vec<Waiting> = lanes
        .iter()
        .map(|lane| {
            let why = waits::of_lane(&lane.lane, workers);
            let until_ms = if let Why::Fitness { unfit, .. } = &why { unfit.until_ms } else { None };
            let (state, count) = (State::Pending, lane.waiting);
            Waiting { state, lane: Some(lane.lane.clone()), count, why, until_ms, tasks: Vec::new() }
        })
        .collect();
    waits.extend(waits::of_delayed(count(State::Delayed), seen.delayed));
    for (state, why, tasks) in [
        (State::Waiting, Why::Others(waits::on(seen.needs)), seen.waiting),
        (State::PendingReview, Why::Review, seen.review),
    ] {
        let count = count(state).max(tasks.len() as u64);
        let tasks = tasks.into_iter().take(waits::NAMED).collect();
        if count > 0 {
            waits.push(Waiting { state, lane: None, count, why, until_ms: None, tasks });
        }
    }
    waits
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
        let lanes: Vec<LaneStatus> = lanes.filter(|lane| lane.waiting > 0).collect();
        let seen = self.patiently(move || self.store().waits()).await?;
        let tasks: Vec<(State, u64)> = State::ALL.iter().copied().zip(counts).collect();
        Ok(PoolStatus {
            full: seen.full,
            waits: all_that_waits(&tasks, &lanes, &workers, seen),
            tasks,
            lanes,
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
