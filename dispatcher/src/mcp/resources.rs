//! Resources `pool://…`, who subscribed to them, and completion of ids.
//!
//! A subscription is fed by the pool's notices: they say "look now", and a host reads the resource again. Not here:
//! the records behind them (the library).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use motorpool::domain::event::Event;
use motorpool::pool::{Notice, Notices};
use motorpool::{Error, ErrorKind, Filter, Id, TaskId};
use rmcp::ErrorData;
use rmcp::RoleServer;
use rmcp::model::{
    CompleteRequestParams, CompleteResult, CompletionInfo, ErrorCode, ReadResourceResult, Resource, ResourceContents,
    ResourceTemplate, ResourceUpdatedNotificationParam, SubscriptionFilter,
};
use rmcp::service::{Peer, SubscriptionContext};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::Desk;
use super::answer::in_line;
use super::tools::view::status_json;
use crate::term::live;
use crate::term::record::json as record_json;
use crate::work;

/// Most resources that one connection subscribes to.
const SUBSCRIPTIONS: usize = 1_000;
/// How long what moves is gathered before it is told.
const TOGETHER: Duration = Duration::from_millis(200);
/// Most characters of a chain or batch.
const WHOLE: usize = 200_000;
/// Most pieces of live output in one reading.
const PIECES: u64 = 500;

/// What a URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Status,
    Slots,
    Slot(String),
    Config,
    Task(Id),
    Output(TaskId),
}

impl Named {
    fn parse(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix("pool://")?;
        let mut parts = path.split('/');
        let named = match (parts.next()?, parts.next(), parts.next()) {
            ("status", None, None) => Self::Status,
            ("slots", None, None) => Self::Slots,
            ("slots", Some(id), None) if !id.is_empty() => Self::Slot(id.to_owned()),
            ("config", None, None) => Self::Config,
            ("tasks" | "results" | "chains", Some(id), None) => Self::Task(id.parse().ok()?),
            ("tasks", Some(id), Some("output")) => Self::Output(id.parse().ok()?),
            _ => return None,
        };
        parts.next().is_none().then_some(named)
    }

    /// Whether this event changes what it shows.
    fn is_moved_by(&self, event: &Event) -> bool {
        match self {
            Self::Status | Self::Slots | Self::Slot(_) => true,
            Self::Config => false,
            Self::Task(Id::Task(id)) | Self::Output(id) => event.task == *id,
            // Whatever moves may be a member of it.
            Self::Task(Id::Group(_)) => true,
        }
    }
}

pub(super) fn list() -> Vec<Resource> {
    let json = |uri: &str, name: &str, words: &str| {
        Resource::new(uri, name).with_description(words).with_mime_type("application/json")
    };
    vec![
        json("pool://status", "status", "the pool at a glance"),
        json("pool://slots", "slots", "the workers"),
        json("pool://config", "config", "the pool's defaults"),
    ]
}

pub(super) fn templates() -> Vec<ResourceTemplate> {
    let template = |uri: &str, name: &str, words: &str, kind: &str| {
        ResourceTemplate::new(uri, name).with_description(words).with_mime_type(kind)
    };
    vec![
        template("pool://tasks/{id}", "task", "all that is known of a task", "application/json"),
        template("pool://results/{id}", "result", "the same", "application/json"),
        template("pool://tasks/{id}/output", "output", "what the last run of a task said", "text/plain"),
        template("pool://chains/{id}", "chain", "a chain or batch and its members", "application/json"),
        template("pool://slots/{id}", "slot", "one worker", "application/json"),
    ]
}

fn not_found(uri: &str) -> ErrorData {
    let known = list()
        .iter()
        .map(|one| one.uri.clone())
        .chain(templates().iter().map(|one| one.uri_template.clone()))
        .collect::<Vec<_>>();
    ErrorData::new(
        ErrorCode::RESOURCE_NOT_FOUND,
        format!("no resource {:?}; there are {}", super::digest::cut(uri, 200), known.join(", ")),
        Some(json!({ "uri": super::digest::cut(uri, 200) })),
    )
}

fn failed(error: &Error) -> ErrorData {
    match error.kind() {
        ErrorKind::Usage | ErrorKind::Refused => ErrorData::invalid_params(in_line(error), None),
        _ => ErrorData::internal_error(in_line(error), None),
    }
}

pub(super) async fn read(desk: &Desk, uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let named = Named::parse(uri).ok_or_else(|| not_found(uri))?;
    let pool = desk.pool().await.map_err(|error| failed(&error))?;
    let found = async {
        Ok::<Option<Value>, Error>(match &named {
            Named::Status => Some(status_json(&pool.status().await?)),
            Named::Slots => Some(pool.workers().await?.iter().map(work::slot_json).collect::<Vec<_>>().into()),
            Named::Slot(id) => {
                pool.workers().await?.iter().find(|worker| worker.id.starts_with(id.as_str())).map(work::slot_json)
            }
            Named::Config => Some(serde_json::to_value(pool.defaults().await?).unwrap_or_default()),
            Named::Task(Id::Group(id)) => match pool.group_view(*id).await {
                Ok(view) => Some(super::whole::json(&pool, &view, WHOLE).await?),
                Err(error) if error.kind() == ErrorKind::Refused => None,
                Err(error) => return Err(error),
            },
            Named::Task(Id::Task(id)) => {
                let record = pool.find(*id).await?;
                record.map(|record| serde_json::to_value(record_json(&record)).unwrap_or_default())
            }
            Named::Output(id) => match pool.find(*id).await? {
                None => None,
                Some(record) => Some(live::text(&pool.output_tail(*id, record.run, PIECES).await?).into()),
            },
        })
    };
    let contents = match found.await.map_err(|error| failed(&error))? {
        None => return Err(not_found(uri)),
        Some(Value::String(text)) => ResourceContents::text(text, uri),
        Some(value) => ResourceContents::text(value.to_string(), uri).with_mime_type("application/json"),
    };
    Ok(ReadResourceResult::new(vec![contents]))
}

/// What one connection of the sessions' era subscribed to.
pub(super) struct Subscriptions {
    desk: Arc<Desk>,
    uris: Arc<Mutex<BTreeSet<String>>>,
    teller: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        if let Some(teller) = self.teller.lock().unwrap_or_else(PoisonError::into_inner).take() {
            teller.abort();
        }
    }
}

impl Subscriptions {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk, uris: Arc::default(), teller: Mutex::default() }
    }

    pub(super) async fn add(&self, uri: &str, peer: &Peer<RoleServer>) -> Result<(), ErrorData> {
        if Named::parse(uri).is_none() {
            return Err(not_found(uri));
        }
        let pool = self.desk.pool().await.map_err(|error| failed(&error))?;
        {
            let mut uris = self.uris.lock().unwrap_or_else(PoisonError::into_inner);
            if uris.len() >= SUBSCRIPTIONS && !uris.contains(uri) {
                return Err(ErrorData::invalid_params(
                    format!("{SUBSCRIPTIONS} subscriptions are the most there may be"),
                    None,
                ));
            }
            uris.insert(uri.to_owned());
        }
        let mut teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner);
        if teller.is_none() {
            let (uris, peer) = (Arc::clone(&self.uris), peer.clone());
            *teller = Some(tokio::spawn(async move {
                let mut notices = pool.notices().await;
                loop {
                    let moved = moved(&mut notices, || {
                        uris.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
                    });
                    for uri in moved.await {
                        if peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await.is_err() {
                            return;
                        }
                    }
                }
            }));
        }
        Ok(())
    }

    pub(super) fn remove(&self, uri: &str) {
        self.uris.lock().unwrap_or_else(PoisonError::into_inner).remove(uri);
    }
}

/// Which of these resources have moved, once one has; what moves right behind is told in one go.
async fn moved(notices: &mut Notices, uris: impl Fn() -> Vec<String>) -> BTreeSet<String> {
    let mut moved = BTreeSet::new();
    while moved.is_empty() {
        let notice = notices.next().await;
        moved.extend(uris().into_iter().filter(|uri| is_moved(uri, &notice)));
    }
    let until = Instant::now() + TOGETHER;
    while let Ok(notice) = timeout_at(until, notices.next()).await {
        moved.extend(uris().into_iter().filter(|uri| is_moved(uri, &notice)));
    }
    moved
}

fn is_moved(uri: &str, notice: &Notice) -> bool {
    match notice {
        Notice::Event(event) => Named::parse(uri).is_some_and(|named| named.is_moved_by(event)),
        // Whatever was missed may have been about it.
        Notice::Missed => true,
    }
}

/// What of a request to listen is listened to.
pub(super) fn accepted(requested: &SubscriptionFilter) -> SubscriptionFilter {
    let uris = requested.resource_subscriptions.iter().flatten();
    let known: Vec<String> = uris.filter(|uri| Named::parse(uri).is_some()).take(SUBSCRIPTIONS).cloned().collect();
    if known.is_empty() {
        SubscriptionFilter::new()
    } else {
        SubscriptionFilter::builder().resource_subscriptions(known).build()
    }
}

/// Tells a listener of the stateless era, until it goes.
pub(super) async fn listen(desk: &Desk, context: &SubscriptionContext) -> Result<(), ErrorData> {
    let uris = context.accepted().resource_subscriptions.clone().unwrap_or_default();
    if uris.is_empty() {
        context.cancelled().await;
        return Ok(());
    }
    let pool = desk.pool().await.map_err(|error| failed(&error))?;
    let mut notices = pool.notices().await;
    loop {
        let moved = tokio::select! {
            moved = moved(&mut notices, || uris.clone()) => moved,
            () = context.cancelled() => return Ok(()),
        };
        for uri in moved {
            if context.sink().notify_resource_updated(uri).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Ids of tasks and slots, as far as they are typed.
pub(super) async fn complete(desk: &Desk, request: &CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
    let typed = &request.argument.value;
    let pool = desk.pool().await.map_err(|error| failed(&error))?;
    let is_slot = request.r#ref.as_resource_uri().is_some_and(|uri| uri.starts_with("pool://slots/"));
    let known: Vec<String> = if request.argument.name != "id" {
        Vec::new()
    } else if is_slot {
        pool.workers().await.map_err(|error| failed(&error))?.into_iter().map(|worker| worker.id).collect()
    } else {
        let page = pool.list(&Filter::default(), 1_000).await.map_err(|error| failed(&error))?;
        page.items.into_iter().map(|record| record.id.to_string()).collect()
    };
    let mut fitting: Vec<String> = known.into_iter().filter(|id| id.starts_with(typed.as_str())).collect();
    let total = fitting.len();
    fitting.truncate(CompletionInfo::MAX_VALUES);
    let mut info = CompletionInfo::default();
    info.has_more = Some(total > fitting.len());
    info.total = u32::try_from(total).ok();
    info.values = fitting;
    Ok(CompleteResult::new(info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_one_thing_or_nothing() {
        for (uri, expected) in [
            ("pool://status", Some(Named::Status)),
            ("pool://slots/w1", Some(Named::Slot("w1".into()))),
            ("pool://tasks/t17", Some(Named::Task(TaskId::new(17).into()))),
            ("pool://results/t17", Some(Named::Task(TaskId::new(17).into()))),
            ("pool://tasks/t17/output", Some(Named::Output(TaskId::new(17)))),
            ("pool://tasks", None),
            ("pool://tasks/17", None),
            ("pool://tasks/t17/output/x", None),
            ("pool://results/t17/output", None),
            ("pool://slots/", None),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(Named::parse(uri), expected, "{uri}");
        }
        for template in templates() {
            assert!(Named::parse(&template.uri_template.replace("{id}", "t1")).is_some(), "{}", template.uri_template);
        }
        assert!(list().iter().all(|resource| Named::parse(&resource.uri).is_some()));
    }
}
