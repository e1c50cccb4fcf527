//! Work that was classified is started by the worker that did it, so that nobody has to wait for that.
//!
//! Under a key of its own: a worker that dies behind it, and the next that classifies anew, start no second one. Not
//! here: the decision (`motorpool::domain::route`).

use motorpool::domain::attempt::{Class, Ending, Failure, Outcome};
use motorpool::domain::route::{self, Auto, Carried, Decision};
use motorpool::pool::Lease;
use motorpool::{Pool, Result, TaskOptions};

/// Starts what the run of this lease has classified, and puts what came of it into the run's result.
pub(crate) async fn carry_on(pool: &Pool, lease: &Lease, auto: &Auto, outcome: &mut Outcome) {
    let decision = match &outcome.ending {
        Ending::Success => route::decide(&auto.prompt, &auto.hints, outcome.report.structured.as_ref()),
        Ending::Failed(failure) => match route::fall_back(&auto.prompt, failure) {
            Some(decision) => decision,
            None => return,
        },
        Ending::Stopped(_) | Ending::Elsewhere { .. } => return,
    };
    // One that was stopped meanwhile starts nothing, nor does one that is another's by now.
    if let Ok(Some(record)) = pool.find_short(lease.task()).await
        && (record.cancel || record.run != lease.run())
    {
        outcome.ending = Ending::Stopped("stopped before what was classified was started".to_owned());
        return;
    }
    match start(pool, lease, auto, &decision).await {
        Ok(carried) => {
            tracing::info!(task = %lease.task(), made = ?carried.made.map(|id| id.to_string()), "started what was classified");
            outcome.report.output = carried.made.map(|id| format!("{id}: {}", carried.route.words()));
            outcome.report.structured = serde_json::to_value(carried).ok();
        }
        Err(error) => {
            let class = match error.kind() {
                // Redis is away, or the pool is full for now.
                motorpool::ErrorKind::Redis | motorpool::ErrorKind::Refused => Class::Transient,
                _ => Class::Request,
            };
            let failure = Failure::new(class, format!("what was classified cannot be started: {}", error.message()));
            let hint = error.hint_text().map(str::to_owned);
            outcome.ending = Ending::Failed(Failure { hint, ..failure });
        }
    }
}

async fn start(pool: &Pool, lease: &Lease, auto: &Auto, decision: &Decision) -> Result<Carried> {
    let once = auto.options.once.clone().unwrap_or_else(|| format!("work of {}", lease.task()));
    let options = TaskOptions { once: Some(once), ..auto.options.clone() };
    let project = lease.spec().project_dir.as_deref();
    let made = pool.execute(&decision.route, &options, project).await?;
    Ok(Carried { route: decision.route.clone(), fallback: decision.fallback.clone(), made: Some(made) })
}
