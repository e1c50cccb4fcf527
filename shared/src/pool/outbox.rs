//! What a worker could not tell before its end is told by the next one of its machine, in its name.
//!
//! The fence decides, as if the former worker had told it late: a run that is still in its hands ends so; else only
//! the cost is booked. Not here: the files (`outbox.rs`), the first telling (`attempt.rs`).

use serde::{Deserialize, Serialize};

use super::Pool;
use crate::domain::ids::TaskId;
use crate::error::{Error, Result};
use crate::outbox::{Kept, Outbox};
use crate::store::attempt::{self, Told};
use crate::store::fleet::{self, Presence};
use crate::store::script::Call;

/// The form of a kept result. Another one is of a version whose call says something else.
const FORM: u32 = 1;

/// A result as it is kept.
#[derive(Debug, Deserialize, Serialize)]
struct Letter {
    form: u32,
    worker: String,
    task: TaskId,
    run: u64,
    /// The call `finish`, whose number is the former worker's.
    finish: Vec<String>,
}

/// Keeps a run's end until Redis has taken it.
pub(super) fn keep(
    outbox: &Outbox,
    pool_id: &str,
    worker: &str,
    (task, run): (TaskId, u64),
    finish: &Call,
) -> Result<Kept> {
    let letter = Letter { form: FORM, worker: worker.to_owned(), task, run, finish: finish.texts() };
    let text = serde_json::to_string(&letter).map_err(|error| Error::failed(error.to_string()))?;
    outbox.keep(&format!("{pool_id}.{worker}.{task}.{run}"), &text)
}

impl Pool {
    /// Tells what workers of this machine could not tell before they ended. To be called before the first claim, so
    /// that nothing is done twice whose result is there.
    ///
    /// # Errors
    /// Redis is away or refuses; what is not told stays.
    pub async fn tell_what_is_left(&self, outbox: &Outbox) -> Result<()> {
        // A pool that nobody has written to has no results.
        let Some(pool_id) = self.patiently(move || self.store().pool_id()).await? else { return Ok(()) };
        for kept in outbox.left(&format!("{pool_id}.")) {
            let letter: Letter = match serde_json::from_str(kept.text()) {
                Ok(letter) => letter,
                Err(error) => {
                    let _: Option<()> = outbox.put_aside(kept.path(), &error.to_string());
                    continue;
                }
            };
            let call = attempt::finish_as_kept(&letter.finish).filter(|_| letter.form == FORM);
            let Some(call) = call else {
                let why = format!("it is of another version (form {})", letter.form);
                let _: Option<()> = outbox.put_aside(kept.path(), &why);
                continue;
            };
            let (task, run, worker) = (letter.task, letter.run, letter.worker);
            let reply = self.ask(&call).await?;
            if reply.word() == "superseded" {
                // Its writer was heard later: it is not taken at the next time either, and those behind it are.
                let _: Option<()> = outbox.put_aside(kept.path(), reply.unexpected().message());
                continue;
            }
            if attempt::told_finish(&reply)? == Told::Ok {
                tracing::info!(%task, run, worker, "told the result of a worker that had ended before it could");
                // The call was a sign of life of a worker that is no more.
                let leave =
                    fleet::presence(&worker, "leave", &Self::pool_id_if_none(), self.lease_ms(), &Presence::default());
                self.ask(&leave).await?;
            } else {
                tracing::warn!(%task, run, worker, "a result that was kept came too late; only its cost is booked");
            }
            kept.remove();
        }
        Ok(())
    }
}
