//! When a worker that ended is started again. Pure: time is an argument, in milliseconds.

/// The first wait.
const FIRST_MS: u64 = 100;
/// The longest wait.
const LONGEST_MS: u64 = 5_000;
/// A worker that lived so long starts the waits anew.
const PROVEN_MS: u64 = 10_000;

/// The waits of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    failures: u32,
}

impl Restart {
    /// A worker ended after `lived_ms`: the wait until the next start.
    #[must_use]
    pub fn after(&mut self, lived_ms: u64) -> u64 {
        if lived_ms >= PROVEN_MS {
            self.failures = 0;
        }
        let wait = (FIRST_MS << self.failures.min(16)).min(LONGEST_MS);
        self.failures += 1;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_begin_anew_after_a_worker_that_lived() {
        let mut restart = Restart::default();
        let waits: Vec<u64> = [0, 0, 50, 0, 0, 0, 9_999, 10_000, 0].map(|lived| restart.after(lived)).into();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 100, 200]);
    }
}
