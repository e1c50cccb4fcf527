//! A chain or batch as it stands.
//!
//! Not here: what was asked and how it is cut into tasks (`chain.rs`); it is over when its members are, which the
//! scripts see to (`after.lua`).

use super::chain::GroupSpec;
use super::ids::{GroupId, Id};
use super::state::State;

/// What is known of a chain or batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// `running` until all its members are over.
    pub state: State,
    /// What it is called in lists: how its first prompt begins.
    pub title: String,
    /// What was asked.
    pub spec: GroupSpec,
    /// Its name under which it is handed over.
    pub coordinator: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// What it holds together, in order.
    pub members: Vec<Id>,
    /// The batch that it belongs to.
    pub batch: Option<GroupId>,
    /// Why it was cancelled.
    pub reason: Option<String>,
    /// When it was submitted, by Redis's clock.
    pub created_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// The number under which its coordinator hears of its end.
    pub news: Option<u64>,
    /// The news that an answer to its coordinator has named last, arrived or not.
    pub offered: Option<u64>,
}

/// How a group stands whose members stand so: over only where the record says it, else as far as it has come.
#[must_use]
pub fn standing(recorded: State, members: &[State]) -> State {
    if recorded.is_terminal() {
        return recorded;
    }
    let has_begun = |state: &State| state.is_terminal() || matches!(state, State::Running | State::PendingReview);
    if members.contains(&State::Running) {
        return State::Running;
    }
    if members.contains(&State::PendingReview) && !members.iter().any(|state| state.is_unfinished()) {
        return State::PendingReview;
    }
    if members.iter().any(has_begun) {
        return State::Running;
    }
    members.first().copied().unwrap_or(State::Pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_stands_where_its_members_are() {
        use State::{Cancelled, Completed, Failed, Pending, PendingReview, Running, Waiting};
        for (recorded, members, expected) in [
            (Running, &[Pending, Waiting][..], Pending),
            (Running, &[Waiting, Waiting], Waiting),
            (Running, &[Completed, Pending, Waiting], Running),
            (Running, &[Completed, PendingReview], PendingReview),
            (Running, &[PendingReview, Pending], Running),
            (Failed, &[Completed, Failed, Cancelled], Failed),
            (Running, &[], Pending),
        ] {
            assert_eq!(standing(recorded, members), expected, "{recorded} {members:?}");
        }
    }
}
