//! What a host knows of its slots, for itself and for the pool. No state that may not be lost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use motorpool::domain::host::{HostSlot, Keeping};
use tokio::sync::watch;

/// The slots by number, and a word to whoever waits for a change.
#[derive(Clone, Debug)]
pub(super) struct Board {
    slots: Rc<RefCell<BTreeMap<u32, HostSlot>>>,
    changed: watch::Sender<()>,
}

impl Board {
    pub(super) fn new() -> Self {
        Self { slots: Rc::default(), changed: watch::Sender::new(()) }
    }

    /// Notes how a slot stands.
    pub(super) fn note(&self, n: u32, name: &str, change: impl FnOnce(&mut HostSlot)) {
        let new = || HostSlot { name: name.to_owned(), state: Keeping::Starting, pid: None, ended: None, said: None };
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(n).or_insert_with(new);
        let before = slot.clone();
        change(slot);
        if *slot != before {
            self.changed.send_replace(());
        }
    }

    /// A slot that is no more.
    pub(super) fn remove(&self, n: u32) {
        self.slots.borrow_mut().remove(&n);
        self.changed.send_replace(());
    }

    pub(super) fn slots(&self) -> Vec<HostSlot> {
        self.slots.borrow().values().cloned().collect()
    }

    pub(super) fn get(&self, n: u32) -> Option<HostSlot> {
        self.slots.borrow().get(&n).cloned()
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// How much is lost when a slot is let go of; the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It has no worker.
    Empty,
    /// Its worker waits.
    Idle,
    /// Its worker has a task.
    Busy,
}

/// Which slots go, of those that are kept: first those that do nothing, of equals the last.
pub(super) fn surplus(kept: &[(u32, Standing)], count: usize) -> Vec<u32> {
    let mut order = kept.to_vec();
    order.sort_by_key(|(n, standing)| (*standing, std::cmp::Reverse(*n)));
    order.into_iter().take(count).map(|(n, _)| n).collect()
}

#[cfg(test)]
mod tests {
    use super::Standing::{Busy, Empty, Idle};
    use super::*;

    #[test]
    fn the_idle_go_first_and_the_last_before_the_first() {
        let kept = [(1, Idle), (2, Busy), (3, Idle), (4, Busy), (5, Empty)];
        assert_eq!(surplus(&kept, 1), [5]);
        assert_eq!(surplus(&kept, 4), [5, 3, 1, 4]);
        assert_eq!(surplus(&kept, 9).len(), 5);
    }
}
