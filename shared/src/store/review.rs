//! Judging a result.

use uuid::Uuid;

use super::keys::RETENTION_MS;
use super::script::{Call, Reply};
use crate::domain::ids::TaskId;
use crate::domain::limits;
use crate::domain::state::State;
use crate::error::{Error, Result};

/// What is said of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Approve,
    /// It is done anew.
    Reject,
    /// It was rejected for the last time.
    Fail,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is so; whether another call had said the same.
    Ok(State, bool),
    /// Somebody had judged this round.
    Already { approved: bool, by: String },
    /// It is in another round by now.
    Moved(u32),
    /// It is not up for review.
    State(State),
}

/// A call that judges a round; may be repeated, since it carries a mark.
pub(crate) fn judge(id: TaskId, round: u32, judgement: Judgement, who: &str, why: &str, spec: &str) -> Call {
    let verb = match judgement {
        Judgement::Approve => "approve",
        Judgement::Reject => "reject",
        Judgement::Fail => "fail",
    };
    Call::new("judge")
        .arg(id.to_string())
        .number(round)
        .arg(Uuid::new_v4().simple().to_string())
        .args([verb, who, why, &limits::cut_middle(why, limits::KEY_BYTES), spec])
        .number(RETENTION_MS)
}

pub(crate) fn judged(reply: &Reply) -> Result<Judged> {
    match reply.word() {
        "ok" => Ok(Judged::Ok(reply.text(1).parse()?, reply.text(2) == "again")),
        "already" => Ok(Judged::Already { approved: reply.text(1) == "approve", by: reply.text(2).to_owned() }),
        "moved" => {
            let round = reply.text(1).parse();
            round.map(Judged::Moved).map_err(|_| Error::failed("the round of a task cannot be read"))
        }
        "state" => Ok(Judged::State(reply.text(1).parse()?)),
        _ => Err(reply.unexpected()),
    }
}
