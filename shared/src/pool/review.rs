//! Approving and rejecting results that are up for review.

use super::Pool;
use crate::domain::ids::{Id, TaskId};
use crate::domain::limits;
use crate::domain::options::TaskOptions;
use crate::domain::review;
use crate::domain::state::State;
use crate::domain::task::Record;
use crate::error::{Error, Result};
use crate::store::review::{Judged, Judgement, judge, judged};

/// What came of a judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The task.
    pub id: TaskId,
    /// The round that was judged.
    pub round: u32,
    /// How it stood with that.
    pub state: State,
    /// The same had been said before; nothing was changed.
    pub again: bool,
}

impl Pool {
    /// Approves the result of a task that is up for review: it is completed, and what follows it goes on. Of the round
    /// that it is in, or of the one that was looked at. Approved again it stays so, which the answer says.
    ///
    /// # Errors
    /// An id that nobody knows; not up for review; another round than the current one; rejected by somebody else.
    pub async fn approve(&self, id: TaskId, round: Option<u32>, who: &str, why: &str) -> Result<Verdict> {
        let record = self.task(id).await?;
        let round = round.unwrap_or(record.round);
        self.judge(&record, round, Judgement::Approve, who, why, "").await
    }

    /// Rejects the result of a task that is up for review, with what is to be done better: it is done anew, in the same
    /// session where that can be continued; after `max_rejections` it has failed. `changes` are options from now on, as
    /// a stronger model.
    ///
    /// # Errors
    /// As [`Pool::approve`]; no feedback, or too much of it.
    pub async fn reject(
        &self,
        id: TaskId,
        round: Option<u32>,
        who: &str,
        feedback: &str,
        changes: &TaskOptions,
    ) -> Result<Verdict> {
        if feedback.trim().is_empty() {
            return Err(Error::usage("the feedback is empty").hint("say what is to be done better"));
        }
        if feedback.len() > limits::FEEDBACK_BYTES {
            return Err(Error::usage(format!("the feedback has {} bytes", feedback.len()))
                .hint(format!("at most {} are taken", limits::FEEDBACK_BYTES)));
        }
        changes.check()?;
        let record = self.task(id).await?;
        let round = round.unwrap_or(record.round);
        let Some(mut spec) = record.spec.clone() else {
            return Err(Error::failed(format!("what {id} was asked is not known any more")));
        };
        let judgement = if review::is_last(round, &spec.options) { Judgement::Fail } else { Judgement::Reject };
        let mut changed = String::new();
        if *changes != TaskOptions::default() {
            spec.options = spec.options.changed(changes)?;
            changed = serde_json::to_string(&spec)
                .map_err(|error| Error::failed(format!("the task cannot be written as JSON: {error}")))?;
        }
        self.judge(&record, round, judgement, who, feedback, &changed).await
    }

    /// The tasks of something that are up for review: itself, or members of a chain or batch.
    ///
    /// # Errors
    /// An id that nobody knows; a chain or batch of which nothing is up for review.
    pub async fn up_for_review(&self, id: Id) -> Result<Vec<TaskId>> {
        let group = match id {
            // How it stands is told by the judgement itself.
            Id::Task(id) => return Ok(vec![id]),
            Id::Group(id) => id,
        };
        let view = self.group_view(group).await?;
        let ids: Vec<TaskId> =
            view.tasks().filter(|record| record.state == State::PendingReview).map(|record| record.id).collect();
        if ids.is_empty() {
            return Err(Error::refused(format!("{id} is {}, and nothing of it is up for review", view.state))
                .hint("wait until it is; only work with `review` ever is"));
        }
        Ok(ids)
    }

    async fn judge(
        &self,
        record: &Record,
        round: u32,
        judgement: Judgement,
        who: &str,
        why: &str,
        spec: &str,
    ) -> Result<Verdict> {
        let id = record.id;
        let why = limits::cut_middle(why, limits::FEEDBACK_BYTES);
        let call = judge(id, round, judgement, &limits::cut_middle(who, limits::KEY_BYTES), &why, spec);
        match judged(&self.ask(&call).await?)? {
            Judged::Ok(state, again) => Ok(Verdict { id, round, state, again }),
            Judged::Already { approved, by } => {
                let how = if approved { "approved" } else { "rejected" };
                Err(Error::refused(format!("round {round} of {id} was {how} by {by}"))
                    .hint("look at it again before you judge it"))
            }
            Judged::Moved(now) => Err(Error::refused(format!("{id} is in round {now}, not in round {round}"))
                .hint("look at what it brought in that round, then judge that")),
            Judged::State(state) => {
                Err(Error::refused(format!("{id} is {state}, not up for review")).hint(match state {
                    State::Completed | State::Failed | State::Cancelled => "it is over; nothing is to be judged",
                    _ => "wait until it is up for review; only tasks with `review` ever are",
                }))
            }
        }
    }
}
