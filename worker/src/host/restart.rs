//! When a worker that ended is started again, and when its slot is given up. Pure: time is an argument, in milliseconds.

use std::collections::VecDeque;

/// The first wait.
const FIRST_MS: u64 = 100;
/// The longest wait.
const LONGEST_MS: u64 = 5_000;
/// A worker that lived so long starts the waits anew.
const PROVEN_MS: u64 = 10_000;
/// In such a time a slot's workers may end badly so often as is set.
const WINDOW_MS: u64 = 60_000;

/// What becomes of a slot whose worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is started again after so many milliseconds.
    After(u64),
    /// It is not: that happened too often.
    GiveUp,
}

/// The waits of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// `--max-restarts`.
    most: u32,
    failures: u32,
    /// When its workers ended badly of late.
    bad: VecDeque<u64>,
}

impl Restart {
    /// One that has not failed; after more than `most` bad ends within a minute it is given up.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { most, failures: 0, bad: VecDeque::new() }
    }

    /// A worker ended at `now_ms` after `lived_ms`, well or badly.
    #[must_use]
    pub fn ended(&mut self, now_ms: u64, lived_ms: u64, badly: bool) -> Next {
        if lived_ms >= PROVEN_MS {
            self.failures = 0;
        }
        while self.bad.front().is_some_and(|at| now_ms.saturating_sub(*at) >= WINDOW_MS) {
            self.bad.pop_front();
        }
        if badly {
            self.bad.push_back(now_ms);
        }
        if self.bad.len() as u64 > u64::from(self.most) {
            return Next::GiveUp;
        }
        let wait = (FIRST_MS << self.failures.min(16)).min(LONGEST_MS);
        self.failures += 1;
        Next::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Next::{After, GiveUp};

    #[test]
    fn waits_double_and_begin_anew_after_a_worker_that_lived() {
        let mut restart = Restart::new(10);
        let ends = [0, 0, 50, 0, 0, 0, 9_999, 10_000, 0].map(|lived| restart.ended(0, lived, false));
        assert_eq!(ends, [100, 200, 400, 800, 1_600, 3_200, 5_000, 100, 200].map(After));
    }

    #[test]
    fn a_slot_is_given_up_after_more_bad_ends_within_a_minute_than_are_borne() {
        for (most, ends, expected) in [
            (2, vec![(0, true), (1, true), (2, true)], vec![After(100), After(200), GiveUp]),
            (0, vec![(0, true)], vec![GiveUp]),
            // One that ended well is none of them.
            (1, vec![(0, true), (1, false), (2, true)], vec![After(100), After(200), GiveUp]),
            (1, vec![(0, false), (1, false), (2, false)], vec![After(100), After(200), After(400)]),
            // A minute later the first is forgotten.
            (1, vec![(0, true), (60_000, true)], vec![After(100), After(200)]),
            (1, vec![(0, true), (59_999, true)], vec![After(100), GiveUp]),
        ] {
            let mut restart = Restart::new(most);
            let found: Vec<Next> = ends.iter().map(|(at, badly)| restart.ended(*at, 0, *badly)).collect();
            assert_eq!(found, expected, "{most} {ends:?}");
        }
    }
}
