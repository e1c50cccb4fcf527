//! One call of a tool: its arguments, its coordinator, its way back, and how it waits.
//!
//! Not here: what each tool does (`tools`).

use std::sync::Arc;
use std::time::Duration;

use motorpool::pool::{Glance, Known, News, NewsMark};
use motorpool::{Error, ErrorKind, Filter, GroupId, Id, Pool, Result, TaskId, TaskRecord};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use serde_json::Map;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Desk;
use super::args::{Args, WAIT_MOST_S};
use super::delivery::Delivery;

/// How often a waiting caller is told how far its task is.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Call {
    pub(super) desk: Arc<Desk>,
    pub(super) args: Args,
    pub(super) coordinator: String,
    pub(super) delivery: Delivery,
    /// The host can follow a task of the protocol.
    pub(super) has_tasks: bool,
    /// The caller's own id of this call: the same one when it is made again.
    pub(super) tool_use: Option<String>,
    pub(super) ended: CancellationToken,
    pub(super) progress: Progress,
    /// The caller has a name of its own, by its token.
    has_token: bool,
    /// What it is answered counts for nobody.
    looks_on: bool,
}

impl Call {
    pub(super) fn new(desk: Arc<Desk>, mut args: Args, context: &RequestContext<RoleServer>) -> Result<Self> {
        let coordinator = match args.coordinator()? {
            Some(name) => name,
            None => desk.coordinator_of(context),
        };
        let tool_use = context.meta.0.0.get("claudecode/toolUseId").and_then(|id| id.as_str()).map(str::to_owned);
        Ok(Self {
            args,
            coordinator,
            delivery: Delivery::of(context),
            has_tasks: context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks()),
            tool_use: tool_use.filter(|id| id.len() <= 100 && !id.chars().any(char::is_control)),
            ended: context.ct.clone(),
            progress: Progress::new(context),
            has_token: desk.has_token(context),
            looks_on: false,
            desk,
        })
    }

    /// Whoever holds the id of a task of the protocol stands for its coordinator. Over HTTP with another one's token it
    /// looks on: that one is told all the same.
    pub(super) fn speak_for(&mut self, coordinator: &str) {
        self.looks_on = self.has_token && self.coordinator != coordinator;
        coordinator.clone_into(&mut self.coordinator);
    }

    pub(super) async fn pool(&self) -> Result<Pool> {
        self.desk.pool().await
    }

    /// Whether the pool is the project's own, which may have been ended on purpose.
    pub(super) fn is_embedded(&self) -> bool {
        self.desk.project_dir().is_some()
    }

    /// What is left of the arguments, for good.
    pub(super) fn rest(&mut self) -> Args {
        std::mem::replace(&mut self.args, Args::new(Map::new()))
    }

    /// `wait_s`, or so many seconds.
    pub(super) fn wait(&mut self, otherwise_s: u64) -> Result<Duration> {
        Ok(Duration::from_secs(self.args.count("wait_s", WAIT_MOST_S)?.unwrap_or(otherwise_s)))
    }

    /// The answer to this call names these tasks: what of them is news counts as handed over once it has arrived.
    pub(super) async fn names<'a>(&self, records: impl IntoIterator<Item = &'a TaskRecord>) -> Result<()> {
        if self.looks_on {
            return Ok(());
        }
        let news = records.into_iter().filter(|record| !record.state.is_unfinished());
        let marks: Vec<NewsMark> = news.filter_map(NewsMark::of).collect();
        self.desk.answered(&self.coordinator, &self.delivery, marks).await
    }

    /// The same for anything.
    pub(super) async fn names_any<'a>(&self, known: impl IntoIterator<Item = &'a Known>) -> Result<()> {
        if self.looks_on {
            return Ok(());
        }
        let news = known.into_iter().filter(|one| !one.state().is_unfinished());
        let marks: Vec<NewsMark> = news.filter_map(News::mark_of).collect();
        self.desk.answered(&self.coordinator, &self.delivery, marks).await
    }

    /// Anything by its id, or what to do where there is none.
    pub(super) async fn known(&self, id: Id) -> Result<Known> {
        let pool = self.pool().await?;
        match id {
            Id::Task(id) => Ok(Known::Task(Box::new(find(&pool, id).await?))),
            Id::Group(group) => match pool.group_view(group).await {
                Err(error) if error.kind() == ErrorKind::Refused => {
                    let newest =
                        pool.groups(group.kind, None, 1, &Filter::default()).await?.first().map(|view| view.group.id);
                    let kind = group.kind.word();
                    let known = match newest {
                        Some(newest) => format!("the newest is {newest}"),
                        None => format!("there is no {kind} yet"),
                    };
                    Err(Error::refused(format!("no {kind} {group}"))
                        .hint(format!("{known}; pool_view tasks lists tasks")))
                }
                view => Ok(Known::Group(Box::new(view?))),
            },
        }
    }

    /// A record, or what to do where there is none.
    pub(super) async fn find(&self, id: TaskId) -> Result<TaskRecord> {
        let pool = self.pool().await?;
        find(&pool, id).await
    }

    /// Waits until a task is over or up for review, at most until the deadline, and shows how far it is; says whether
    /// the caller still waits.
    pub(super) async fn follow(&mut self, id: impl Into<Id>, until: Instant) -> Result<bool> {
        let id = match id.into() {
            Id::Task(id) => id,
            Id::Group(id) => return self.follow_group(id, until).await,
        };
        let pool = self.pool().await?;
        let mut watch = pool.watch(id).await;
        let mut next_word = Instant::now();
        loop {
            let glance = match watch.look().await {
                // The task goes on; so does the wait.
                Err(error) if error.kind() == ErrorKind::Redis && Instant::now() < until => {
                    self.progress.tell(&format!("{id}: reconnecting to Redis: {}", error.message())).await;
                    continue;
                }
                glance => glance?,
            };
            if !glance.state.is_unfinished() || Instant::now() >= until {
                return Ok(true);
            }
            if Instant::now() >= next_word {
                next_word = Instant::now() + PROGRESS_EVERY;
                self.tell(&pool, id, glance).await;
            }
            tokio::select! {
                () = watch.news(until.min(next_word)) => {}
                // The answer is dropped by then.
                () = self.ended.cancelled() => return Ok(false),
            }
        }
    }

    /// As [`Call::follow`]: its members are many, so they are looked at as a whole now and then.
    async fn follow_group(&mut self, id: GroupId, until: Instant) -> Result<bool> {
        let pool = self.pool().await?;
        let mut next_word = Instant::now();
        loop {
            let step = until.min(Instant::now() + Duration::from_secs(2));
            let known = tokio::select! {
                known = pool.wait_for(id, Some(step)) => known,
                () = self.ended.cancelled() => return Ok(false),
            };
            let view = match known {
                Ok(Known::Group(view)) => view,
                Ok(Known::Task(_)) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Redis && Instant::now() < until => {
                    self.progress.tell(&format!("{id}: reconnecting to Redis: {}", error.message())).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !view.state.is_unfinished() || Instant::now() >= until {
                return Ok(true);
            }
            if Instant::now() >= next_word && self.progress.token.is_some() {
                next_word = Instant::now() + PROGRESS_EVERY;
                let words = super::whole::progress(&pool, &view).await;
                self.progress.tell(&words).await;
            }
        }
    }

    async fn tell(&mut self, pool: &Pool, id: TaskId, glance: Glance) {
        if self.progress.token.is_none() {
            return;
        }
        let words = match pool.find_short(id).await {
            Ok(Some(record)) => super::digest::head(&record),
            _ => format!("{id} {}", glance.state),
        };
        self.progress.tell(&words).await;
    }
}

/// A record, or what to do where there is none.
pub(super) async fn find(pool: &Pool, id: TaskId) -> Result<TaskRecord> {
    if let Some(record) = pool.find(id).await? {
        return Ok(record);
    }
    let newest = pool.list(&motorpool::Filter::default(), 1).await?.items.first().map(|record| record.id);
    let known = match newest {
        Some(newest) => format!("the newest is {newest}; pool_view tasks lists them"),
        None => "there is none yet; pool_submit makes one".to_owned(),
    };
    Err(Error::refused(format!("no task {id}")).hint(known))
}

/// Where a caller that wants it is told how far its call is.
pub(super) struct Progress {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    told: f64,
}

impl Progress {
    fn new(context: &RequestContext<RoleServer>) -> Self {
        Self { peer: context.peer.clone(), token: context.meta.get_progress_token(), told: 0.0 }
    }

    /// A line; nobody listening is no error.
    pub(super) async fn tell(&mut self, words: &str) {
        let Some(token) = self.token.clone() else { return };
        // It has to rise.
        self.told += 1.0;
        let mut told = ProgressNotificationParam::new(token, self.told);
        told.message = Some(words.to_owned());
        let _ = self.peer.notify_progress(told).await;
    }
}
