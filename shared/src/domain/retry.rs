//! Back-off: how long until the next attempt, and the `if_lost` ladder that a record carries.

/// The first wait after a transient failure, in milliseconds.
const FIRST_MS: u64 = 1_000;
/// The longest wait after a transient failure, in milliseconds.
const LONGEST_MS: u64 = 60_000;

/// Milliseconds to wait after the `failures`-th transient failure in a row (from 1): 1 s doubling to 60 s, between
/// half of it and all of it by `jitter` (0 to 1), never before a `retry_after_ms` that was reported (60 s at most).
#[must_use]
pub fn backoff_ms(failures: u32, jitter: f64, retry_after_ms: Option<u64>) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST_MS.saturating_mul(1 << doublings).min(LONGEST_MS);
    let part = 0.5 + jitter.clamp(0.0, 1.0) / 2.0;
    let wait = (full as f64 * part) as u64;
    wait.max(retry_after_ms.unwrap_or(0).min(LONGEST_MS))
}

/// The `if_lost` ladder: for each attempt that may follow a lost worker, the wait in milliseconds. The n-th rung
/// belongs to the loss of attempt n; where there is none, the task fails as lost. Written at submit, so that any
/// process of any version can sweep without deciding.
#[must_use]
pub fn if_lost(max_attempts: u32) -> String {
    // A lost worker is no fault of the work: tried again at once.
    vec!["0"; max_attempts.saturating_sub(1) as usize].join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute() {
        for (failures, jitter, reported, expected) in [
            (1, 1.0, None, 1_000),
            (1, 0.0, None, 500),
            (2, 1.0, None, 2_000),
            (7, 1.0, None, 60_000),
            (1_000, 1.0, None, 60_000),
            (1, 1.0, Some(30_000), 30_000),
            (1, 1.0, Some(3_600_000), 60_000),
        ] {
            assert_eq!(backoff_ms(failures, jitter, reported), expected, "{failures} {jitter} {reported:?}");
        }
    }

    #[test]
    fn the_ladder_has_a_rung_for_each_attempt_but_the_last() {
        assert_eq!(if_lost(1), "");
        assert_eq!(if_lost(3), "0,0");
    }
}
