//! The worker's verbs: a [`Seat`] joins, claims, beats and settles.
//!
//! Not here: what it claims and hears (`lease.rs`), what outlives it (`outbox.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::lease::{Beat, Claim, Lease};
use super::outbox;
use super::run::{Control, Output};
use super::sweep::keep_sweeping;
use super::{Backoff, LONGEST_BACKOFF, Pool, chance};
use crate::domain::attempt::{Outcome, Verdict, decide, decide_step};
use crate::domain::ids::{TaskId, WorkerId};
use crate::domain::lane;
use crate::domain::merge;
use crate::domain::options::TaskOptions;
use crate::domain::slot::SlotSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::Outbox;
use crate::store::Line;
use crate::store::attempt::{self, Claimed, News, Progress, Told};
use crate::store::fleet::{self, Presence};
use crate::store::script::{Call, CallError, Reply};
use crate::store::wait::{Channel, Waiter};

/// How long the list of lanes is waited for.
const LANES: Duration = Duration::from_secs(1);
/// A result that is not taken for so long is kept in a file: one that is taken at once needs none.
const KEEP_AFTER: Duration = Duration::from_millis(200);

/// A worker's place in a pool: one process start, one call at a time, each with its number.
#[derive(Debug)]
pub struct Seat {
    pool: Pool,
    id: WorkerId,
    pool_id: String,
    lease: Duration,
    call: u64,
    /// The last result that was taken, to be told once more on a new connection.
    settled: Option<Call>,
    line: Line,
    waiter: Waiter,
    presence: Presence,
    /// The lanes that it serves with its labels, as far as they are known.
    served: Vec<String>,
    lanes_version: String,
    /// The version of the list of lanes that the pool told last.
    lanes_told: String,
    config_version: String,
    config: TaskOptions,
    slot: SlotSettings,
    sweeping: Arc<AtomicBool>,
    outbox: Option<Outbox>,
}

impl Seat {
    /// Joins a pool, trying until Redis answers. A URL that can never work, a foreign schema or a refused password
    /// are errors at once.
    pub async fn join(pool: &Pool, presence: Presence) -> Result<Self> {
        let id = WorkerId::new(format!("w-{}", Uuid::new_v4().simple()));
        let mut seat = Self {
            pool: pool.clone(),
            id,
            pool_id: String::new(),
            lease: Duration::ZERO,
            call: 0,
            settled: None,
            line: Line::default(),
            waiter: Waiter::default(),
            served: lane::served(&presence.lanes, &presence.labels, &[]),
            presence,
            lanes_version: String::new(),
            lanes_told: "0".to_owned(),
            config_version: "0".to_owned(),
            config: TaskOptions::default(),
            slot: SlotSettings::default(),
            sweeping: Arc::new(AtomicBool::new(false)),
            outbox: None,
        };
        seat.rejoin().await?;
        Ok(seat)
    }

    /// Where results are kept until Redis has taken them; without it they live as long as this process.
    pub fn keep_results_in(&mut self, outbox: Outbox) {
        self.outbox = Some(outbox);
    }

    async fn rejoin(&mut self) -> Result<()> {
        self.call = 0;
        let call = self.presence_call("join");
        let reply = self.until_answered(&call, None).await?;
        if let Some(present) = fleet::present(&reply)? {
            self.pool_id = present.pool_id;
            self.lease = Duration::from_millis(present.lease_ms);
        }
        Ok(())
    }

    fn presence_call(&self, verb: &str) -> Call {
        fleet::presence(self.id.as_str(), verb, &Pool::pool_id_if_none(), self.pool.lease_ms(), &self.presence)
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// This process start.
    #[must_use]
    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// The pool's own id.
    #[must_use]
    pub fn pool_id(&self) -> &str {
        &self.pool_id
    }

    /// How long this pool's workers may be silent.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The pool's defaults as last heard.
    #[must_use]
    pub fn defaults(&self) -> &TaskOptions {
        &self.config
    }

    /// What its slot keeps, as last heard.
    #[must_use]
    pub fn slot(&self) -> &SlotSettings {
        &self.slot
    }

    /// The model that a run is to use here, where anybody has named one.
    #[must_use]
    pub fn model(&self, lease: &Lease) -> Option<String> {
        merge::merge(&self.config, &self.slot.options, &lease.spec().options).model
    }

    /// Tells how this worker is; tries for a third of the lease, since it is told again.
    ///
    /// # Errors
    /// Redis is away or refuses.
    pub async fn report(&mut self, change: impl FnOnce(&mut Presence)) -> Result<()> {
        change(&mut self.presence);
        let call = self.presence_call("report");
        let reply = self.until_answered(&call, Some(self.lease / 3)).await?;
        match fleet::present(&reply)? {
            None => self.renew().await,
            Some(present) => {
                // It is told once: a limit that is lifted meanwhile is not told again.
                self.presence.limit_ms = 0;
                self.hear(News { sweep: present.sweep, ..News::default() });
                Ok(())
            }
        }
    }

    /// Leaves the list of workers; a Redis that is away finds out by itself.
    pub async fn leave(mut self) {
        let call = self.presence_call("leave");
        let _ = self.until_answered(&call, Some(Duration::from_secs(2))).await;
    }

    /// A new identity: the pool has forgotten the former.
    async fn renew(&mut self) -> Result<()> {
        // What it knew of the lanes is of another pool, whatever the version says.
        self.lanes_version.clear();
        self.id = WorkerId::new(format!("w-{}", Uuid::new_v4().simple()));
        self.settled = None;
        self.rejoin().await
    }

    /// Takes the next task, if there is one. `token` is the lane whose token woke this worker.
    pub async fn claim(&mut self, token: Option<&str>) -> Result<Claim> {
        self.look_at_lanes().await;
        self.call += 1;
        let call = attempt::claim(self.id.as_str(), self.call, token.unwrap_or(""), &self.config_version, &self.served);
        let reply = self.until_answered(&call, None).await?;
        let (claimed, news) = attempt::claimed(&reply, 0)?;
        self.hear(news);
        self.taken(claimed).await
    }

    /// Learns which lanes there are, where that has changed: those with labels are not known from settings.
    async fn look_at_lanes(&mut self) {
        if self.lanes_told == self.lanes_version {
            return;
        }
        // Redis away: what is known is served until the next claim. A result does not wait for it either.
        if let Ok(Ok(known)) = timeout(LANES, self.pool.store().lane_names()).await {
            self.served = lane::served(&self.presence.lanes, &self.presence.labels, &known);
            self.lanes_version.clone_from(&self.lanes_told);
        }
    }

    async fn taken(&mut self, claimed: Claimed) -> Result<Claim> {
        match claimed {
            Claimed::Run(held) => Ok(Claim::Run(Lease { held })),
            Claimed::Idle => Ok(Claim::Idle),
            Claimed::Limited { left_ms, message, hint } => Ok(Claim::Limited {
                left: Duration::from_millis(left_ms),
                message,
                hint: (!hint.is_empty()).then_some(hint),
            }),
            Claimed::Unknown => {
                self.renew().await?;
                Ok(Claim::Idle)
            }
        }
    }

    /// Waits for a token of one of its lanes, a third of the lease at most; gives the lane. To be finished or dropped
    /// for good: a token that a dropped wait had taken is replaced within a second by the sweep.
    pub async fn wait_for_work(&mut self) -> Option<String> {
        if self.lanes_told != self.lanes_version {
            // There is a new lane, which may have work for this worker.
            self.look_at_lanes().await;
            if self.lanes_told == self.lanes_version {
                return None;
            }
        }
        let block = (self.lease / 3).max(Duration::from_millis(100));
        match self.pool.store().wait_for_token(&mut self.waiter, &self.served, block).await {
            Ok(token) => token,
            // After a broken connection it claims before it blocks.
            Err(_) => {
                self.pool.found_away();
                tokio::time::sleep(Backoff::default().next()).await;
                None
            }
        }
    }

    /// Puts back a token of a worker that will not claim.
    pub async fn return_token(&self, lane: &str) {
        // Lost tokens are replaced by the sweep.
        let _ = self.pool.store().push_token(lane).await;
    }

    /// Shows that the run lives; tries for a third of the lease at most.
    pub async fn beat(&mut self, lease: &Lease, progress: &Progress) -> Result<Beat> {
        self.call += 1;
        let call = attempt::beat(self.id.as_str(), self.call, &lease.held, progress, &self.config_version);
        let patience = lease.lease() / 3;
        let reply = match self.until_answered(&call, Some(patience)).await {
            Ok(reply) => reply,
            Err(error) if error.kind() == ErrorKind::Redis => return Ok(Beat::Unreachable),
            Err(error) => return Err(error),
        };
        let (told, news) = attempt::told_beat(&reply)?;
        self.hear(news);
        Ok(match told {
            Told::Ok => Beat::Ok,
            Told::Cancel => Beat::Cancel,
            Told::Stale => Beat::Stale,
        })
    }

    /// Settles a run: decides what becomes of the task and writes it. False if the run was not this worker's any more.
    pub async fn finish(&mut self, lease: Lease, outcome: &Outcome) -> Result<bool> {
        self.call += 1;
        let verdict = self.verdict(&lease, outcome);
        let call = attempt::finish(self.id.as_str(), self.call, &lease.held, outcome, &verdict);
        let reply = self.until_settled(&lease, &call, &call).await?;
        let settled = attempt::told_finish(&reply)? == Told::Ok;
        self.settled = settled.then_some(call);
        Ok(settled)
    }

    /// Settles a run and takes the next task, in one trip.
    pub async fn step(&mut self, lease: Lease, outcome: &Outcome) -> Result<(bool, Claim)> {
        self.look_at_lanes().await;
        self.call += 1;
        let verdict = self.verdict(&lease, outcome);
        let call = attempt::step(
            self.id.as_str(),
            self.call,
            &lease.held,
            outcome,
            &verdict,
            &self.config_version,
            &self.served,
        );
        // Without the claim: what is claimed is not told again.
        let alone = attempt::finish(self.id.as_str(), self.call, &lease.held, outcome, &verdict);
        let reply = self.until_settled(&lease, &call, &alone).await?;
        if reply.word() == "unknown" && reply.len() == 2 {
            self.renew().await?;
            return Ok((false, Claim::Idle));
        }
        let settled = attempt::told_finish(&reply)? == Told::Ok;
        self.settled = settled.then_some(alone);
        let (claimed, news) = attempt::claimed(&reply, 2)?;
        self.hear(news);
        Ok((settled, self.taken(claimed).await?))
    }

    fn verdict(&self, lease: &Lease, outcome: &Outcome) -> Verdict {
        let asked = lease.held.spec.options.fail_on_denied;
        let fail_on_denied = asked.or(self.slot.options.fail_on_denied).or(self.config.fail_on_denied).unwrap_or(false);
        let verdict = match &lease.held.spec.step {
            Some(step) => decide_step(step, &lease.held.history, outcome, fail_on_denied, chance()),
            None => decide(&lease.held.history, outcome, fail_on_denied, chance()),
        };
        match verdict {
            Verdict::Complete if lease.held.spec.options.review == Some(true) => Verdict::Review,
            verdict => verdict,
        }
    }

    /// Where a run's live output goes.
    #[must_use]
    pub fn output(&self, lease: &Lease) -> Output {
        Output { pool: self.pool.clone(), task: lease.task(), run: lease.run() }
    }

    /// Listens for notices to this worker; used while it runs a task.
    #[must_use]
    pub fn control(&self) -> Control {
        Control { pool: self.pool.clone(), worker: self.id.clone(), channel: Channel::default() }
    }

    /// Whether a run is the current one of its task: the record is asked, nothing is guessed.
    pub async fn is_current(&self, task: TaskId, run: u64) -> Result<bool> {
        let seen = self.pool.patiently(move || self.pool.store().glance(task)).await?;
        Ok(seen.is_some_and(|(state, _, current)| state == crate::domain::state::State::Running && current == run))
    }

    fn hear(&mut self, news: News) {
        if let Some((version, text)) = news.config {
            // The pool's, and the slot's behind a line end; nothing where there are none.
            let (pool, slot) = text.split_once('\n').unwrap_or((&text, ""));
            // What cannot be read, of a newer version perhaps, leaves what is known.
            self.config = read_or(pool, &self.config);
            self.slot = read_or(slot, &self.slot);
            self.config_version = version;
        }
        if !news.lanes_version.is_empty() {
            self.lanes_told = news.lanes_version;
        }
        if news.sweep && !self.sweeping.swap(true, Ordering::SeqCst) {
            tokio::spawn(keep_sweeping(self.pool.clone(), self.id.clone(), Arc::clone(&self.sweeping)));
        }
    }

    /// Settles a run: what is not taken at once is kept in a file meanwhile, as the finish that it comes to, so that it
    /// outlives this process.
    async fn until_settled(&mut self, lease: &Lease, call: &Call, finish: &Call) -> Result<Reply> {
        let Some(outbox) = self.outbox.clone() else { return self.until_taken(lease, call).await };
        let (pool_id, worker, finish) = (self.pool_id.clone(), self.id.as_str().to_owned(), finish.clone());
        let run = (lease.task(), lease.run());
        let taken = self.until_taken(lease, call);
        let mut taken = std::pin::pin!(taken);
        tokio::select! {
            answer = &mut taken => return answer,
            () = tokio::time::sleep(KEEP_AFTER) => {}
        }
        let kept = tokio::task::spawn_blocking(move || outbox::keep(&outbox, &pool_id, &worker, run, &finish));
        let answer = taken.await;
        match kept.await {
            Ok(Ok(kept)) if answer.is_ok() => kept.remove(),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(task = %run.0, run = run.1, %error, "a result was not kept"),
            Err(error) => tracing::warn!(task = %run.0, run = run.1, %error, "a result was not kept"),
        }
        answer
    }

    /// As [`Self::until_answered`], and goes on where Redis refuses this worker for now (a password that was changed):
    /// what a run has brought is not thrown away for that, and whether it comes too late the fence will tell.
    async fn until_taken(&mut self, lease: &Lease, call: &Call) -> Result<Reply> {
        let mut backoff = Backoff::default();
        loop {
            match self.until_answered(call, None).await {
                Err(error) if matches!(error.kind(), ErrorKind::Redis | ErrorKind::Refused) => {
                    let (task, run) = (lease.task(), lease.run());
                    tracing::error!(%task, run, %error, "Redis refuses a result; it is kept and offered again");
                    tokio::time::sleep(backoff.next()).await;
                }
                answer => return answer,
            }
        }
    }

    /// Behind a new connection may be a Redis that has forgotten what it wrote last: the last result is told once more.
    /// Where it is known still, its number says so, and nothing is done.
    async fn tell_again(&mut self, line: &mut Line) {
        if line.is_open() {
            return;
        }
        if let Some(call) = self.settled.take()
            && matches!(self.pool.store().call_on(line, &call).await, Err(CallError::Away(_) | CallError::Locked(_)))
        {
            self.settled = Some(call);
        }
    }

    /// Makes the same call until it is answered, or for so long.
    async fn until_answered(&mut self, call: &Call, patience: Option<Duration>) -> Result<Reply> {
        let until = patience.map(|patience| Instant::now() + patience);
        let mut backoff = Backoff::default();
        loop {
            let left = until.map_or(LONGEST_BACKOFF * 10, |until| until.saturating_duration_since(Instant::now()));
            // Taken out while it is used: who gives up waiting leaves no half-open line behind.
            let mut line = std::mem::take(&mut self.line);
            let asked = async {
                self.tell_again(&mut line).await;
                self.pool.store().call_on(&mut line, call).await
            };
            let answer = timeout(left, asked).await;
            let problem = match answer {
                Ok(Ok(reply)) => {
                    self.line = line;
                    return Ok(reply);
                }
                Ok(Err(CallError::Locked(error) | CallError::Refused(error))) => return Err(error),
                Ok(Err(CallError::Away(message))) => message,
                Err(_) => "no answer in time".to_owned(),
            };
            // Every holder has to be back within the grace, which is two thirds of the lease.
            let longest = if self.lease.is_zero() { LONGEST_BACKOFF } else { self.lease / 6 };
            let pause = backoff.next().min(longest);
            if until.is_some_and(|until| Instant::now() + pause >= until) {
                return Err(Error::redis(format!("Redis at {} does not answer: {problem}", self.pool.redis())));
            }
            self.pool.found_away();
            tokio::time::sleep(pause).await;
        }
    }
}

fn read_or<T: Clone + Default + serde::de::DeserializeOwned>(text: &str, known: &T) -> T {
    if text.is_empty() { T::default() } else { serde_json::from_str(text).unwrap_or_else(|_| known.clone()) }
}
