//! The states of a task and the legal moves between them: one table.
//!
//! A log of events is checked by folding it through [`is_legal`]. Not here: which move an attempt's end leads to
//! (`attempt.rs`), and the scripts that make the moves (`store/lua`).

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$word_doc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word that stands in Redis, in `--json` and in the log.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::error::Error;

            fn from_str(text: &str) -> crate::error::Result<Self> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => {
                        let all = Self::ALL.iter().map(|one| one.word());
                        let hint = match crate::error::nearest(text, all.clone()) {
                            Some(near) => format!("did you mean {near}?"),
                            None => format!("it is one of {}", all.collect::<Vec<_>>().join(", ")),
                        };
                        Err(crate::error::Error::usage(format!("{text:?} is not known here")).hint(hint))
                    }
                }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Where a task stands.
    State {
        /// Waits on other tasks.
        Waiting = "waiting",
        /// Waits for a time.
        Delayed = "delayed",
        /// Stands in a lane and can start.
        Pending = "pending",
        /// Could start but for a reason that its record names.
        Held = "held",
        /// A worker has it.
        Running = "running",
        /// Done, and waits to be judged.
        PendingReview = "pending_review",
        /// Done.
        Completed = "completed",
        /// Ended without success.
        Failed = "failed",
        /// Ended on request.
        Cancelled = "cancelled",
    }
}

impl State {
    /// Never changes again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The pool still has something to do for it: an embedded pool lives on while there is such a task.
    #[must_use]
    pub fn is_unfinished(self) -> bool {
        !self.is_terminal() && self != Self::PendingReview
    }
}

words! {
    /// Why a task moved.
    Cause {
        /// Somebody asked for it.
        Submit = "submit",
        /// A worker took it.
        Claim = "claim",
        /// Its run succeeded.
        Complete = "complete",
        /// Its run failed for good.
        Fail = "fail",
        /// Its run failed and is tried again, charged.
        Retry = "retry",
        /// It came back uncharged.
        GiveBack = "give_back",
        /// Its worker fell silent for longer than the lease.
        Lost = "lost",
        /// Its time came.
        Due = "due",
        /// Somebody stopped it.
        Cancel = "cancel",
        /// Its run succeeded, and is to be judged.
        Review = "review",
        /// It was judged, and is good.
        Approve = "approve",
        /// It was judged, and is not good enough.
        Reject = "reject",
        /// What it was to follow is over.
        After = "after",
        /// It had waited for longer than it was to (`queue_timeout_s`).
        Expire = "expire",
        /// It had lost its place in the lane and was given a new one.
        Repair = "repair",
    }
}

/// The legal moves: from (nothing: not yet there), cause, to. Docs and tests are drawn from it.
pub const MOVES: &[(Option<State>, Cause, State)] = &[
    (None, Cause::Submit, State::Pending),
    (None, Cause::Submit, State::Delayed),
    (None, Cause::Submit, State::Waiting),
    (Some(State::Waiting), Cause::After, State::Pending),
    (Some(State::Waiting), Cause::After, State::Delayed),
    (Some(State::Waiting), Cause::After, State::Cancelled),
    (Some(State::Waiting), Cause::Cancel, State::Cancelled),
    (Some(State::Pending), Cause::Claim, State::Running),
    (Some(State::Pending), Cause::Cancel, State::Cancelled),
    (Some(State::Pending), Cause::Repair, State::Pending),
    (Some(State::Pending), Cause::Expire, State::Failed),
    (Some(State::Delayed), Cause::Due, State::Pending),
    (Some(State::Delayed), Cause::Cancel, State::Cancelled),
    (Some(State::Running), Cause::Complete, State::Completed),
    (Some(State::Running), Cause::Review, State::PendingReview),
    (Some(State::PendingReview), Cause::Approve, State::Completed),
    (Some(State::PendingReview), Cause::Reject, State::Pending),
    (Some(State::PendingReview), Cause::Reject, State::Failed),
    (Some(State::PendingReview), Cause::Cancel, State::Cancelled),
    (Some(State::Running), Cause::Fail, State::Failed),
    (Some(State::Running), Cause::Cancel, State::Cancelled),
    (Some(State::Running), Cause::Retry, State::Pending),
    (Some(State::Running), Cause::Retry, State::Delayed),
    (Some(State::Running), Cause::GiveBack, State::Pending),
    (Some(State::Running), Cause::GiveBack, State::Delayed),
    (Some(State::Running), Cause::Lost, State::Pending),
    (Some(State::Running), Cause::Lost, State::Delayed),
    (Some(State::Running), Cause::Lost, State::Failed),
];

/// Whether a move stands in the table.
#[must_use]
pub fn is_legal(from: Option<State>, cause: Cause, to: State) -> bool {
    MOVES.contains(&(from, cause, to))
}

/// `docs/states.md`: the table for people.
#[must_use]
pub fn reference_markdown() -> String {
    let mut text = String::from(
        "# States of a task\n\nGenerated from `shared/src/domain/state.rs`; `UPDATE=1 ./tests/run` writes it anew.\n\n\
         | from | cause | to |\n|---|---|---|\n",
    );
    for (from, cause, to) in MOVES {
        let from = from.map_or("(new)", State::word);
        text.push_str(&format!("| {from} | {cause} | {to} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_are_left_by_no_move() {
        for (from, cause, to) in MOVES {
            assert!(from.is_none_or(|from| !from.is_terminal()), "{from:?} {cause} {to}");
        }
    }

    #[test]
    fn words_are_read_back() {
        for state in State::ALL {
            assert_eq!(state.word().parse::<State>().unwrap(), *state);
        }
        let error = "runing".parse::<State>().unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean running?"));
    }
}
