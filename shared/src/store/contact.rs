//! Whether Redis answers this process: told once when it does not, and once when it does again.
//!
//! Every connection tells what it meets. Not here: who tries again, and when (`pool`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::answer::{Action, Row, Until, row_of};
use crate::telemetry::CONTACT;

/// What is over before that is not worth a word.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// What the connections of one process have met.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// Counts how often the server that takes writes had to be looked for anew.
    era: AtomicU64,
    is_away: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    until: Until,
    /// What was told of it, by the prefixes of the table; nothing for a connection that broke.
    told: Vec<&'static str>,
}

impl Contact {
    /// Connections of an earlier era are not used again.
    pub(super) fn era(&self) -> u64 {
        self.era.load(Ordering::SeqCst)
    }

    /// Connections of before lead to a server that will not do.
    pub(super) fn look_anew(&self) {
        self.era.fetch_add(1, Ordering::SeqCst);
    }

    /// Redis said an error, or nothing (no row), to a connection of an era.
    pub(super) fn failed(&self, shown: &str, era: u64, row: Option<&'static Row>, problem: &str) {
        if row.is_some_and(|row| row.action == Action::Reconnect) {
            // Of many that meet it at once, one.
            let _ = self.era.compare_exchange(era, era + 1, Ordering::SeqCst, Ordering::SeqCst);
        }
        let until = row.map_or(Until::Answer, |row| row.until);
        if until == Until::Call {
            return;
        }
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = trouble.get_or_insert_with(|| Trouble { since: Instant::now(), until, told: Vec::new() });
        if until == Until::Write {
            // Whatever else happens meanwhile, this is not over with an answer.
            trouble.until = until;
        }
        self.is_away.store(true, Ordering::SeqCst);
        let what = row.map_or("", |row| row.prefix);
        if trouble.since.elapsed() >= TELL_AFTER && !trouble.told.contains(&what) {
            trouble.told.push(what);
            tracing::warn!(target: CONTACT, redis = shown, problem, "Redis is away; reconnecting");
        }
    }

    /// Redis has answered; whether that took a write.
    pub(super) fn answered(&self, shown: &str, wrote: bool) {
        if !self.is_away.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(trouble) = known.take_if(|trouble| wrote || trouble.until == Until::Answer) else { return };
        self.is_away.store(false, Ordering::SeqCst);
        if !trouble.told.is_empty() {
            tracing::info!(target: CONTACT, redis = shown, seconds = trouble.since.elapsed().as_secs(), "Redis is back");
        }
    }
}

/// A connection to the server that was right when it was opened.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(super) inner: MultiplexedConnection,
    pub(super) contact: Arc<Contact>,
    pub(super) shown: Arc<str>,
    pub(super) era: u64,
}

impl Connection {
    /// Whether the server may be another one by now.
    pub(super) fn is_outdated(&self) -> bool {
        self.era != self.contact.era()
    }

    /// A script that writes was answered.
    pub(super) fn wrote(&self) {
        self.contact.answered(&self.shown, true);
    }

    /// Redis did not answer in a time that only the caller knows.
    pub(super) fn is_silent(&self, problem: &str) {
        self.contact.failed(&self.shown, self.era, None, problem);
    }

    fn note(&self, error: Option<&RedisError>) {
        match error {
            None => self.contact.answered(&self.shown, false),
            Some(error) => {
                let row = row_of(error);
                // An error that is in no row is an answer too, if Redis said it.
                if row.is_none() && error.clone().into_server_errors().is_some() {
                    return self.contact.answered(&self.shown, false);
                }
                let problem = row.map_or_else(|| error.to_string(), |row| row.text(error));
                self.contact.failed(&self.shown, self.era, row, &problem);
            }
        }
    }
}

/// The error in a reply.
fn error_in(value: &Value) -> Option<RedisError> {
    match value {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.inner.req_packed_command(cmd).await;
            match &answer {
                Ok(value) => self.note(error_in(value).as_ref()),
                Err(error) => self.note(Some(error)),
            }
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let answer = self.inner.req_packed_commands(pipeline, offset, count).await;
            match &answer {
                Ok(values) => self.note(values.iter().find_map(error_in).as_ref()),
                Err(error) => self.note(Some(error)),
            }
            answer
        })
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &str) -> Option<&'static Row> {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        row_of(&error_in(&value).unwrap())
    }

    impl Contact {
        fn meets(&self, row: Option<&'static Row>) {
            self.failed("", self.era(), row, "");
        }

        fn told(&self) -> Option<usize> {
            self.trouble.lock().unwrap().as_ref().map(|trouble| trouble.told.len())
        }

        fn later(&self) {
            self.trouble.lock().unwrap().as_mut().unwrap().since -= TELL_AFTER;
        }
    }

    #[test]
    fn it_is_told_once_and_not_at_once() {
        let contact = Contact::default();
        contact.meets(None);
        assert_eq!(contact.told(), Some(0));
        contact.later();
        contact.meets(None);
        contact.meets(None);
        assert_eq!(contact.told(), Some(1));
        // Another reason is worth another word.
        contact.meets(row("LOADING it reads"));
        contact.meets(None);
        assert_eq!(contact.told(), Some(2));
        contact.answered("", false);
        assert_eq!(contact.told(), None);
    }

    #[test]
    fn only_a_write_shows_that_writes_are_taken_again() {
        let contact = Contact::default();
        for line in ["MISCONF no room", "READONLY a replica", "NOREPLICAS none"] {
            contact.meets(row(line));
            contact.meets(None);
            contact.answered("", false);
            assert_eq!(contact.told(), Some(0), "{line}");
            contact.answered("", true);
            assert_eq!(contact.told(), None, "{line}");
        }
    }

    #[test]
    fn one_of_many_that_meet_a_replica_begins_a_new_era() {
        let contact = Contact::default();
        for _ in 0..3 {
            contact.failed("", 0, row("READONLY a replica"), "");
        }
        assert_eq!(contact.era(), 1);
        contact.meets(row("LOADING it reads"));
        contact.meets(row("OOM no memory"));
        contact.meets(None);
        assert_eq!(contact.era(), 1);
        contact.meets(row("MOVED 1 h:1"));
        assert_eq!(contact.era(), 2);
    }
}
