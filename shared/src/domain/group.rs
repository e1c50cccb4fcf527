//! A chain or batch as it stands.
//!
//! Not here: what was asked and how it is cut into tasks (`chain.rs`); it is over when its members are, which the
//! scripts see to (`after.lua`).

use super::chain::GroupSpec;
use super::ids::{GroupId, GroupKind, Id};
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

/// How a group stands whose members stand so: over only where the record says it, else as far as it has come. Up for
/// review where nothing goes on before something is judged.
#[must_use]
pub fn standing(recorded: State, kind: GroupKind, collects: bool, members: &[State]) -> State {
    if recorded.is_terminal() {
        return recorded;
    }
    // Whether a member waits for others of the group, and for nothing else.
    let follows = |at: usize| match kind {
        GroupKind::Chain => at > 0,
        GroupKind::Batch => collects && at + 1 == members.len(),
    };
    let goes_on = |(at, state): (usize, &State)| state.is_unfinished() && !(*state == State::Waiting && follows(at));
    let has_begun = |state: &State| state.is_terminal() || matches!(state, State::Running | State::PendingReview);
    if members.contains(&State::Running) {
        return State::Running;
    }
    if members.contains(&State::PendingReview) && !members.iter().enumerate().any(goes_on) {
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
        use GroupKind::{Batch, Chain};
        use State::{Cancelled, Completed, Failed, Pending, PendingReview, Running, Waiting};
        for (recorded, kind, collects, members, expected) in [
            (Running, Chain, false, &[Pending, Waiting][..], Pending),
            (Running, Chain, false, &[Waiting, Waiting], Waiting),
            (Running, Chain, false, &[Completed, Pending, Waiting], Running),
            (Running, Chain, false, &[Completed, PendingReview, Waiting], PendingReview),
            (Running, Batch, false, &[Completed, PendingReview], PendingReview),
            (Running, Batch, false, &[PendingReview, Pending], Running),
            (Running, Batch, true, &[PendingReview, Completed, Waiting], PendingReview),
            // It may wait for something else.
            (Running, Batch, true, &[PendingReview, Waiting, Waiting], Running),
            (Running, Batch, false, &[PendingReview, Waiting], Running),
            (Failed, Chain, false, &[Completed, Failed, Cancelled], Failed),
            (Running, Chain, false, &[], Pending),
        ] {
            assert_eq!(standing(recorded, kind, collects, members), expected, "{recorded} {kind:?} {members:?}");
        }
    }
}
