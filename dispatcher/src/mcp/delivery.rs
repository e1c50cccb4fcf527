//! Deliveries: whether an answer was written out, and why its caller wants no answer any more.
//!
//! News counts as handed over once a call of the same coordinator arrives after the answer that named it was written
//! out. That is remembered here, in this process alone: lost with it, the news is handed over again, marked so.
//! Not here: what notices it (`stdio.rs`, `http.rs`), what is news (the library).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use motorpool::pool::NewsMark;
use rmcp::RoleServer;
use rmcp::service::RequestContext;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long answers that are going out are waited for. Their reader has them, or does not read.
const MOMENT: Duration = Duration::from_millis(250);

/// The way of one request's answer.
#[derive(Clone, Debug)]
pub(super) struct Delivery(Arc<Way>);

#[derive(Debug)]
struct Way {
    stage: watch::Sender<Stage>,
    stopped: OnceLock<String>,
}

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not begun.
    Open,
    /// Being written: its reader may have all of it before its writer knows.
    Leaving,
    /// Written out.
    Written,
    /// It will never be: its reader has gone, or wants it no more.
    Lost,
}

impl Default for Delivery {
    fn default() -> Self {
        Self(Arc::new(Way { stage: watch::Sender::new(Stage::Open), stopped: OnceLock::new() }))
    }
}

impl Delivery {
    /// The delivery that the transport of a request watches over; over an unwatched one the answer counts as written.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Self {
        let stdio = context.extensions.get::<Self>();
        let http = || context.extensions.get::<http::request::Parts>().and_then(|parts| parts.extensions.get::<Self>());
        stdio.or_else(http).cloned().unwrap_or_else(Self::arrived)
    }

    /// One whose answer has gone out.
    pub(super) fn arrived() -> Self {
        let delivery = Self::default();
        delivery.written();
        delivery
    }

    /// The answer begins to go out.
    pub(super) fn leaving(&self) {
        self.0.stage.send_if_modified(|stage| {
            let begins = *stage == Stage::Open;
            if begins {
                *stage = Stage::Leaving;
            }
            begins
        });
    }

    /// The answer went out.
    pub(super) fn written(&self) {
        self.0.stage.send_if_modified(|stage| {
            let is_wanted = *stage != Stage::Lost;
            if is_wanted {
                *stage = Stage::Written;
            }
            is_wanted
        });
    }

    /// The answer goes out no more, if it has not gone.
    pub(super) fn lost(&self) {
        self.0.stage.send_if_modified(|stage| {
            let is_lost = *stage != Stage::Written;
            if is_lost {
                *stage = Stage::Lost;
            }
            is_lost
        });
    }

    /// Its reader wants it no more, whether it went out or not.
    pub(super) fn dropped(&self) {
        self.0.stage.send_replace(Stage::Lost);
    }

    /// How far the answer is; one that is just going out is given until then.
    async fn settled(&self, until: Instant) -> Stage {
        let mut stage = self.0.stage.subscribe();
        // Too late is as good as not begun.
        let _ = timeout_at(until, stage.wait_for(|stage| *stage != Stage::Leaving)).await;
        *self.0.stage.borrow()
    }

    /// The caller asked in so many words that the call be stopped.
    pub(super) fn stop(&self, reason: Option<String>) {
        // A second request to stop changes nothing.
        let _ = self.0.stopped.set(reason.unwrap_or_default());
    }

    /// Why the work is to be stopped: asked for, and not because a wait took too long.
    pub(super) fn stop_reason(&self) -> Option<&str> {
        let reason = self.0.stopped.get()?;
        let lower = reason.to_lowercase();
        let is_timeout = ["timeout", "timed out", "time out", "time-out"].iter().any(|word| lower.contains(word));
        (!is_timeout).then_some(reason)
    }
}

/// What was answered to each coordinator and has not been heard of since.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<HashMap<String, Vec<Answered>>>);

/// An answer on its way, and what it names.
type Answered = (Delivery, Vec<NewsMark>);

impl Ledger {
    /// An answer that goes this way names this news.
    pub(super) fn answered(&self, coordinator: &str, delivery: &Delivery, marks: Vec<NewsMark>) {
        if marks.is_empty() {
            return;
        }
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.entry(coordinator.to_owned()).or_default().push((delivery.clone(), marks));
    }

    /// A call of this coordinator arrived: the news in the answers that were written out before counts as handed over.
    pub(super) async fn arrived(&self, coordinator: &str) -> Vec<NewsMark> {
        let answers = {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            open.remove(coordinator).unwrap_or_default()
        };
        let until = Instant::now() + MOMENT;
        let (mut marks, mut waiting) = (Vec::new(), Vec::new());
        for (delivery, named) in answers {
            match delivery.settled(until).await {
                Stage::Written => marks.extend(named),
                // It is news as before.
                Stage::Lost => {}
                Stage::Open | Stage::Leaving => waiting.push((delivery, named)),
            }
        }
        if !waiting.is_empty() {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            open.entry(coordinator.to_owned()).or_default().extend(waiting);
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(id: u64) -> NewsMark {
        NewsMark { id: motorpool::TaskId::new(id).into(), number: id }
    }

    #[tokio::test]
    async fn news_is_handed_over_by_the_next_call_after_its_answer_went_out() {
        let ledger = Ledger::default();
        let (first, second) = (Delivery::default(), Delivery::default());
        ledger.answered("a", &first, vec![mark(1), mark(2)]);
        ledger.answered("a", &second, vec![mark(3)]);
        assert_eq!(ledger.arrived("a").await, [], "neither went out");
        first.written();
        assert_eq!(ledger.arrived("b").await, [], "another coordinator's call says nothing");
        assert_eq!(ledger.arrived("a").await, [mark(1), mark(2)]);
        assert_eq!(ledger.arrived("a").await, [], "once");
        // Its reader was quicker than its writer.
        second.leaving();
        let (writing, delivery) = (second.clone(), tokio::task::yield_now());
        tokio::spawn(async move {
            delivery.await;
            writing.written();
        });
        assert_eq!(ledger.arrived("a").await, [mark(3)]);
        assert!(ledger.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_is_forgotten_and_many_that_linger_take_a_moment_together() {
        let ledger = Ledger::default();
        let (lost, sent) = (Delivery::default(), Delivery::default());
        for delivery in [&lost, &sent] {
            delivery.leaving();
            ledger.answered("a", delivery, vec![mark(1)]);
        }
        lost.lost();
        sent.written();
        sent.lost();
        assert_eq!(ledger.arrived("a").await, [mark(1)], "what has gone out is not lost any more");
        assert!(ledger.0.lock().unwrap().is_empty());
        // Whoever wants it no more has not read it, whether it says so before or after the answer has gone out.
        let (before, after) = (Delivery::default(), Delivery::default());
        for delivery in [&before, &after] {
            delivery.leaving();
            ledger.answered("a", delivery, vec![mark(1)]);
        }
        before.dropped();
        before.written();
        after.written();
        after.dropped();
        assert_eq!(ledger.arrived("a").await, []);
        for id in 1..=100 {
            let lingering = Delivery::default();
            lingering.leaving();
            ledger.answered("a", &lingering, vec![mark(id)]);
        }
        let begin = Instant::now();
        assert_eq!(ledger.arrived("a").await, []);
        assert!(begin.elapsed() < 50 * MOMENT, "{:?}", begin.elapsed());
        assert_eq!(ledger.0.lock().unwrap()["a"].len(), 100);
    }

    #[test]
    fn only_a_stop_that_names_no_timeout_stops_work() {
        for (reason, expected) in [
            (Some("the user pressed Esc"), Some("the user pressed Esc")),
            (None, Some("")),
            (Some("Request timed out"), None),
            (Some("McpError: Timeout"), None),
        ] {
            let delivery = Delivery::default();
            assert_eq!(delivery.stop_reason(), None);
            delivery.stop(reason.map(str::to_owned));
            assert_eq!(delivery.stop_reason(), expected, "{reason:?}");
        }
    }
}
