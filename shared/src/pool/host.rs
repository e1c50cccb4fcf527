//! Hosts and slots: how many workers there are to be, and what outlives them; and the host's own verbs.
//!
//! Not here: how a host keeps its workers (`worker/src/host`), workers' presence (`fleet.rs`, `attempt.rs`).

use std::time::Duration;

use uuid::Uuid;

use super::{Backoff, Pool};
use crate::domain::host::{Host, Scale, meant, share};
use crate::domain::options::TaskOptions;
use crate::domain::slot::{self, OptionChange, Slot, SlotChange, SlotSettings};
use crate::error::{Error, Result};
use crate::store::host::{self, HostIdentity, HostPresence, HostTold};
use crate::store::wait::Channel;

/// How often a change is decided anew because somebody else was quicker.
const TRIES: u32 = 20;

/// What a host was told to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// Which host.
    pub host: String,
    /// What it was to keep before.
    pub before: u32,
    /// What it is to keep.
    pub target: u32,
    /// How many run now.
    pub actual: u32,
    /// It keeps no fewer.
    pub min: u32,
    /// It keeps no more.
    pub max: u32,
}

impl Pool {
    /// The hosts that were heard within a lease.
    pub async fn hosts(&self) -> Result<Vec<Host>> {
        self.patiently(move || self.store().hosts()).await
    }

    /// Says how many workers there are to be: of one host, or of all together, shared out evenly. It is a target: said
    /// again it changes nothing, but that slots that were given up are tried anew. No host goes beyond its bounds, so
    /// the sum may be another; what holds is the answer.
    ///
    /// # Errors
    /// No host is alive, or none of that name.
    pub async fn scale(&self, scale: Scale, named: Option<&str>) -> Result<Vec<Scaled>> {
        for _ in 0..TRIES {
            let hosts = meant(self.hosts().await?, named)?;
            let targets = share(&hosts, scale);
            let mut scaled = Vec::new();
            for (host, target) in hosts.iter().zip(targets) {
                // What is relative holds for what was seen; what was written before is found as done.
                let from = (!matches!(scale, Scale::To(_))).then_some(host.wanted);
                if !host::scaled(&self.ask(&host::scale(&host.name, target, from)).await?)? {
                    break;
                }
                scaled.push(Scaled {
                    host: host.name.clone(),
                    before: host.wanted,
                    target,
                    actual: host.actual,
                    min: host.min,
                    max: host.max,
                });
            }
            if scaled.len() == hosts.len() {
                return Ok(scaled);
            }
            if !scaled.is_empty() {
                let done: Vec<String> = scaled.iter().map(|one| format!("{} to {}", one.host, one.target)).collect();
                return Err(Error::refused(format!(
                    "the hosts were scaled by somebody else too; done: {}",
                    done.join(", ")
                ))
                .hint("look at `motorpool status`, and say what you want as a number"));
            }
        }
        Err(too_busy())
    }

    /// Every slot: those of live workers, those that hosts gave up, and those that have settings alone.
    pub async fn slots(&self) -> Result<Vec<Slot>> {
        let settings = self.patiently(move || self.store().slots()).await?;
        Ok(slot::slots(self.workers().await?, &self.hosts().await?, settings))
    }

    /// Changes what a slot keeps; its worker has it with its next task. Gives what holds.
    ///
    /// # Errors
    /// A change that does not do.
    pub async fn change_slot(&self, id: &str, change: &SlotChange) -> Result<SlotSettings> {
        slot::check_id(id)?;
        for _ in 0..TRIES {
            let (version, now) = self.patiently(move || self.store().slot(id)).await?;
            let changed = change.apply(&now)?;
            // The same change again, whose answer was lost, is found as done.
            if changed == now || host::was_set(&self.ask(&host::slot_set(id, &version, Some(&changed))?).await?)? {
                return Ok(changed);
            }
        }
        Err(too_busy())
    }

    /// Forgets what a slot keeps; tells whether there was anything.
    ///
    /// # Errors
    /// A live worker has the slot.
    pub async fn forget_slot(&self, id: &str) -> Result<bool> {
        slot::check_id(id)?;
        let mut forgotten = false;
        for _ in 0..TRIES {
            let (version, _) = self.patiently(move || self.store().slot(id)).await?;
            if version == "0" {
                return Ok(forgotten);
            }
            forgotten = true;
            if host::was_set(&self.ask(&host::slot_set(id, &version, None)?).await?)? {
                return Ok(true);
            }
        }
        Err(too_busy())
    }

    /// Sets the pool's defaults where it has none; tells whether it did.
    pub async fn set_defaults(&self, options: &TaskOptions) -> Result<bool> {
        host::was_set(&self.ask(&host::defaults("0", options)?).await?)
    }

    /// The pool's defaults.
    pub async fn defaults(&self) -> Result<TaskOptions> {
        Ok(self.patiently(move || self.store().config()).await?.1)
    }

    /// Changes the pool's defaults; workers have them with their next task. Gives what holds.
    ///
    /// # Errors
    /// A change that does not do.
    pub async fn change_defaults(&self, change: &OptionChange) -> Result<TaskOptions> {
        for _ in 0..TRIES {
            let (version, now) = self.patiently(move || self.store().config()).await?;
            let changed = change.apply(&now, "a pool", slot::OPTIONS)?;
            if changed == now || host::was_set(&self.ask(&host::defaults(&version, &changed)?).await?)? {
                return Ok(changed);
            }
        }
        Err(too_busy())
    }
}

fn too_busy() -> Error {
    Error::refused("others change the same all the time").hint("try again")
}

/// A host's place in a pool. It reports; a pool that is away is told later.
pub struct HostSeat {
    pool: Pool,
    identity: HostIdentity,
    channel: Channel,
}

impl std::fmt::Debug for HostSeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSeat").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl HostSeat {
    /// One that has not reported yet. `place` is where only one host of this name can run.
    #[must_use]
    pub fn new(pool: &Pool, name: &str, place: &str) -> Self {
        let instance = Uuid::new_v4().simple().to_string();
        let identity = HostIdentity { name: name.to_owned(), instance, place: place.to_owned() };
        Self { pool: pool.clone(), identity, channel: Channel::default() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Tells how it is, once; hears what it is to keep.
    ///
    /// # Errors
    /// Redis is away or refuses.
    pub async fn report(&self, presence: &HostPresence) -> Result<HostTold> {
        self.say("report", presence).await
    }

    /// Leaves the list of hosts; a pool that is away finds out by itself.
    pub async fn leave(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.say("leave", &HostPresence::default())).await;
    }

    async fn say(&self, verb: &str, presence: &HostPresence) -> Result<HostTold> {
        let call = host::host(&self.identity, verb, presence, &Pool::pool_id_if_none(), self.pool.lease_ms())?;
        let reply = self.pool.store().call(&call).await?;
        host::host_told(&reply)
    }

    /// The next notice that the host was scaled; it may be lost, and the next report tells the same.
    pub async fn notice(&mut self) -> String {
        let of = format!("host:{}", self.identity.name);
        let mut backoff = Backoff::default();
        loop {
            if let Some(notice) = self.pool.store().next_notice(&mut self.channel, &of).await {
                return notice;
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
