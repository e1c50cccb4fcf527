//! What work that does not run waits for, as its follower tells it, and when that never comes.
//!
//! In a shared pool a worker may come at any time, so it is waited for; the workers of an embedded pool are all there
//! ever are. Not here: what a lane waits for (the library).

use std::time::Duration;

use motorpool::domain::fleet::Unfit;
use motorpool::domain::lane::Lane;
use motorpool::domain::waits::Why;
use motorpool::embedded::keeper_of;
use motorpool::{Class, Error, Id, State};
use tokio::time::Instant;

use super::reach::{self, Reached};
use crate::term::progress::Progress;
use crate::term::table::harmless;
use crate::term::{error_text, has_colour, time};

/// How long every worker must be unfit before an embedded pool is given up.
const UNFIT_FOR: Duration = Duration::from_secs(1);
/// When somebody is told that an embedded pool has no worker.
const NO_WORKER: Duration = Duration::from_secs(20);

/// Work that waits.
#[derive(Clone, Copy)]
pub(super) struct Stuck<'a> {
    /// What is followed.
    pub(super) id: Id,
    /// The lane of the task that waits.
    pub(super) lane: &'a str,
    /// The state of that.
    pub(super) state: State,
}

/// What is to be said of it.
pub(super) struct Found {
    pub(super) words: String,
    /// It waits for nothing but its turn.
    pub(super) is_turn: bool,
    /// No worker will ever take it.
    pub(super) hopeless: Option<Unfit>,
}

/// What a follower ends with that was told so.
pub(super) fn hopeless(id: Id, unfit: &Unfit) -> Error {
    let error = Error::failed(format!("no worker can take {id} ({}): {}", unfit.class, harmless(&unfit.message)));
    match &unfit.hint {
        Some(hint) => error.hint(harmless(hint)),
        None => error,
    }
}

/// What was seen so far.
pub(super) struct Waiting {
    began: Instant,
    unfit_since: Option<Instant>,
    said: Option<String>,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), unfit_since: None, said: None }
    }

    /// Says once what the user should know.
    pub(super) fn judge(&mut self, reached: &Reached, task: Stuck<'_>, why: &Why, progress: &mut Progress) -> Found {
        let found = |words: String, hopeless| Found { words, is_turn: false, hopeless };
        let unfit = match why {
            Why::Fitness { unfit, .. } => unfit.clone(),
            Why::NoWorker | Why::Draining(_) => {
                self.unfit_since = None;
                let hopeless = self.miss_worker(reached, task.lane, progress);
                return found("waits for a worker".into(), hopeless);
            }
            _ => {
                self.unfit_since = None;
                let turn = if task.state == State::Delayed { "waits for its time" } else { "waits for its turn" };
                return Found { words: turn.into(), is_turn: true, hopeless: None };
            }
        };
        let since = *self.unfit_since.get_or_insert_with(Instant::now);
        let until = unfit.until_ms.map(|ms| format!(" until {}", time::rfc3339(ms))).unwrap_or_default();
        if unfit.class == Class::Limit {
            return found(format!("waits for a usage limit{until}: {}", harmless(&unfit.message)), None);
        }
        let words = error_text(
            &format!("no worker can take {} now ({}): {}", task.id, unfit.class, harmless(&unfit.message)),
            unfit.hint.as_deref().map(harmless).as_deref(),
            has_colour(),
        );
        let mut hopeless = None;
        if reached.joined.is_none() {
            self.say_once(words, progress);
        } else if since.elapsed() >= UNFIT_FOR && task.state == State::Pending {
            hopeless = Some(unfit);
        }
        found("waits for a worker that can take it".into(), hopeless)
    }

    /// An embedded pool without any worker: says where to look; gives up where none can ever come.
    fn miss_worker(&mut self, reached: &Reached, lane: &str, progress: &mut Progress) -> Option<Unfit> {
        let lane = Lane::parse(lane).words();
        let Some(joined) = &reached.joined else {
            self.say_once(format!("no live worker serves {lane}; waiting for one"), progress);
            return None;
        };
        if self.began.elapsed() < NO_WORKER {
            return None;
        }
        let place = joined.place();
        let slots = keeper_of(place).ok().flatten().map_or(0, |keeper| keeper.slots);
        if slots == 0 {
            let words = "the pool has no slots; `motorpool down`, then --slots N, gives it workers";
            self.say_once(words.into(), progress);
            return None;
        }
        if let Err(error) = reach::worker_bin() {
            let hint = error.hint_text().map(str::to_owned);
            return Some(Unfit { class: Class::Internal, message: error.message().to_owned(), hint, until_ms: None });
        }
        let log = place.dir().join("host.log");
        let words = format!(
            "no worker serves {lane}; still waiting. This pool's workers have their --lanes and --labels from its start \
             (`motorpool down`, then start it with others); where none is alive, see {}",
            log.display()
        );
        self.say_once(words, progress);
        None
    }

    fn say_once(&mut self, words: String, progress: &mut Progress) {
        if self.said.as_ref() != Some(&words) {
            progress.say(&words);
            self.said = Some(words);
        }
    }
}
