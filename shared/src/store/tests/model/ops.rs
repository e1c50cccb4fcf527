//! What may happen to a pool, drawn by chance.
//!
//! An op names nothing that has to be there: its numbers are taken modulo what there is, so that a sequence from which
//! some were left out is a sequence still.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;

/// What a worker says of the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    Complete,
    Review,
    Fail,
    Cancel,
    Retry(u64),
    GiveBack(u64),
    Unspoken(u64),
}

/// Which run a worker speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// That which it believes to hold.
    Own,
    /// One that it or another once held.
    Any(u8),
}

#[derive(Clone, Copy)]
pub(super) struct Fresh {
    pub(super) priority: u8,
    pub(super) gpu: bool,
    pub(super) attempts: u8,
    pub(super) has_coordinator: bool,
    pub(super) delay_ms: i64,
    pub(super) wait_ms: i64,
    /// What it follows; 0: nothing.
    pub(super) after: [u8; 2],
    pub(super) runs_after_failure: bool,
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempts {}", ["high", "normal", "low"][usize::from(self.priority)], self.attempts)?;
        let notes = [
            (self.gpu, "gpu".to_owned()),
            (self.has_coordinator, "has a coordinator".to_owned()),
            (self.delay_ms > 0, format!("delay {}", self.delay_ms)),
            (self.wait_ms > 0, format!("waits {}", self.wait_ms)),
            (self.after != [0, 0], format!("after {:?}, runs after failure {}", self.after, self.runs_after_failure)),
        ];
        notes.iter().filter(|(is_so, _)| *is_so).try_for_each(|(_, note)| write!(f, ", {note}"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meddle {
    DelConsumer,
    Trim,
    Del,
    DestroyGroup,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Submit(Vec<Fresh>),
    Claim {
        who: u8,
        token: bool,
    },
    Beat {
        who: u8,
        which: Which,
        cost: u8,
    },
    Finish {
        who: u8,
        which: Which,
        say: Say,
        cost: u8,
        wrong_round: bool,
    },
    Step {
        who: u8,
        which: Which,
        say: Say,
        cost: u8,
    },
    Cancel(u8),
    Judge {
        task: u8,
        how: u8,
        wrong_round: bool,
    },
    /// One of a worker's calls comes once more, the newest at 0.
    Repeat {
        who: u8,
        call: u8,
    },
    Resubmit {
        which: u8,
        by_another: bool,
    },
    Rejudge(u8),
    /// A run has not been heard of for a lease.
    Silent(u8),
    Sweep,
    /// Whatever grace there was is over.
    GraceEnds,
    Time(i64),
    /// A worker dies, and another one takes its place.
    Die(u8),
    Report(u8),
    /// The pool has forgotten a worker.
    Forget(u8),
    Meddle(u8, Meddle),
    /// Another server, or the same one started anew.
    Restart,
    Full,
    TakeToken(bool),
}

/// An op, and whether its reply is lost, so that its call is made again.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) twice: bool,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.op, if self.twice { ", made twice" } else { "" })
    }
}

/// A whole sequence.
#[derive(Clone)]
pub(super) struct Case {
    /// Whether this Redis forgets no write.
    pub(super) kept: bool,
    pub(super) steps: Vec<Step>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps, kept {}", self.steps.len(), self.kept)?;
        self.steps.iter().try_for_each(|step| write!(f, "\n  {step:?}"))
    }
}

fn say() -> impl Strategy<Value = Say> {
    let delay = || prop_oneof![2 => Just(0), 1 => Just(700)];
    prop_oneof![
        3 => Just(Say::Complete),
        2 => Just(Say::Review),
        1 => Just(Say::Fail),
        1 => Just(Say::Cancel),
        2 => delay().prop_map(Say::Retry),
        2 => delay().prop_map(Say::GiveBack),
        1 => delay().prop_map(Say::Unspoken),
    ]
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![6 => Just(Which::Own), 1 => (0..8_u8).prop_map(Which::Any)]
}

fn fresh() -> impl Strategy<Value = Fresh> {
    let after = || prop_oneof![3 => Just(0), 2 => 1..16_u8];
    (
        0..3_u8,
        prop::bool::weighted(0.25),
        0..4_u8,
        prop::bool::weighted(0.3),
        prop_oneof![4 => Just(0), 1 => Just(900_i64)],
        prop_oneof![3 => Just(0), 1 => Just(5_000_i64)],
        [after(), after()],
        prop::bool::ANY,
    )
        .prop_map(|(priority, gpu, attempts, has_coordinator, delay_ms, wait_ms, after, runs_after_failure)| {
            Fresh { priority, gpu, attempts, has_coordinator, delay_ms, wait_ms, after, runs_after_failure }
        })
}

fn op() -> impl Strategy<Value = Op> {
    let who = || 0..3_u8;
    let cost = || 1..9_u8;
    let meddle =
        prop_oneof![Just(Meddle::DelConsumer), Just(Meddle::Trim), Just(Meddle::Del), Just(Meddle::DestroyGroup)];
    // Shorter than half a lease, longer, an age of waiting, a retention; and back.
    let time = prop_oneof![
        3 => Just(900), 3 => Just(5_000), 2 => Just(7_400), 2 => Just(10_000), 1 => Just(700_000),
        1 => Just(7 * 24 * 3_600_000 + 1), 1 => Just(-2_000), 1 => Just(-300),
    ];
    prop_oneof![
        10 => vec(fresh(), 1..4).prop_map(Op::Submit),
        14 => (who(), prop::bool::weighted(0.3)).prop_map(|(who, token)| Op::Claim { who, token }),
        4 => (who(), which(), cost()).prop_map(|(who, which, cost)| Op::Beat { who, which, cost }),
        6 => (who(), which(), say(), cost(), prop::bool::weighted(0.05))
            .prop_map(|(who, which, say, cost, wrong_round)| Op::Finish { who, which, say, cost, wrong_round }),
        6 => (who(), which(), say(), cost()).prop_map(|(who, which, say, cost)| Op::Step { who, which, say, cost }),
        3 => any::<u8>().prop_map(Op::Cancel),
        5 => (any::<u8>(), 0..6_u8, prop::bool::weighted(0.1))
            .prop_map(|(task, how, wrong_round)| Op::Judge { task, how, wrong_round }),
        3 => (who(), 0..6_u8).prop_map(|(who, call)| Op::Repeat { who, call }),
        1 => (any::<u8>(), prop::bool::ANY).prop_map(|(which, by_another)| Op::Resubmit { which, by_another }),
        1 => any::<u8>().prop_map(Op::Rejudge),
        4 => any::<u8>().prop_map(Op::Silent),
        7 => Just(Op::Sweep),
        2 => Just(Op::GraceEnds),
        8 => time.prop_map(Op::Time),
        1 => who().prop_map(Op::Die),
        1 => who().prop_map(Op::Report),
        1 => who().prop_map(Op::Forget),
        2 => (0..6_u8, meddle).prop_map(|(place, meddle)| Op::Meddle(place, meddle)),
        1 => Just(Op::Restart),
        1 => Just(Op::Full),
        2 => prop::bool::ANY.prop_map(Op::TakeToken),
    ]
}

/// Sequences of up to so many steps.
pub(super) fn cases(most: usize) -> impl Strategy<Value = Case> {
    let step = (op(), prop::bool::weighted(0.15)).prop_map(|(op, twice)| Step { op, twice });
    (prop::bool::ANY, vec(step, 1..=most)).prop_map(|(kept, steps)| Case { kept, steps })
}
