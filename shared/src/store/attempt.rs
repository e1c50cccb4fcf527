//! Claim, beat, finish, step: the calls of a worker, and what their replies mean.

use std::collections::BTreeMap;

use super::keys::RETENTION_MS;
use super::script::{Call, Reply};
use crate::domain::attempt::{Ending, History, Outcome, Verdict};
use crate::domain::ids::{GroupId, TaskId};
use crate::domain::limits;
use crate::domain::task::Spec;
use crate::error::{Error, Result};

/// The highest cost that is booked for a run, so that the sum over a task's runs stays a number of Redis: 10^16
/// microdollars.
const MOST_COST_MICROUSD: u64 = 10_000_000_000_000_000;

/// A run that a worker holds, as the claim described it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) id: TaskId,
    pub(crate) run: u64,
    pub(crate) entry: String,
    pub(crate) round: String,
    pub(crate) spec: Spec,
    pub(crate) history: History,
    pub(crate) lease_ms: u64,
    /// The chain or batch that the task belongs to.
    pub(crate) group: Option<GroupId>,
    /// Of a step that failed: why, for its recovery prompt.
    pub(crate) last_error: String,
}

/// What a call told besides its outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Nobody sweeps: this process is asked to.
    pub(crate) sweep: bool,
    /// The pool's defaults, where they are newer than what the worker knows: version and JSON.
    pub(crate) config: Option<(String, String)>,
    /// The version of the list of lanes; empty where it was not told.
    pub(crate) lanes_version: String,
}

/// What a claim answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Claimed {
    /// A run begins.
    Run(Box<Held>),
    /// There is nothing to do.
    Idle,
    /// The worker's account is at its limit: nothing is given to it until then.
    Limited {
        /// What is left of it, in milliseconds; 0 where it is over by now.
        left_ms: u64,
        /// In the words of the worker that met it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The pool does not know this worker any more: it has to join again.
    Unknown,
}

/// What a beat or a finish answered to the holder of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Go on; or it is settled.
    Ok,
    /// The task is to be stopped.
    Cancel,
    /// The run is not this worker's any more.
    Stale,
}

pub(crate) fn claim(worker: &str, call: u64, token: &str, config: &str, lanes: &[String]) -> Call {
    Call::new("claim").arg(worker).number(call).arg(token).arg(config).number(lanes.len() as u64).args(lanes)
}

/// Reads a claim's reply that starts at `at`.
pub(crate) fn claimed(reply: &Reply, at: usize) -> Result<(Claimed, News)> {
    match reply.text(at) {
        "unknown" => return Ok((Claimed::Unknown, News::default())),
        "limited" => {
            let limited = Claimed::Limited {
                left_ms: reply.number(at + 1),
                message: reply.text(at + 2).to_owned(),
                hint: reply.text(at + 3).to_owned(),
            };
            return Ok((limited, News::default()));
        }
        "ok" | "idle" => {}
        _ => return Err(reply.unexpected()),
    }
    let news = news(reply, at + 1);
    if reply.text(at) == "idle" {
        return Ok((Claimed::Idle, news));
    }
    let at = at + 5;
    let id: TaskId = reply.text(at).parse()?;
    let spec = serde_json::from_str(reply.text(at + 3))
        .map_err(|error| Error::failed(format!("the spec of task {id} cannot be read: {error}")))?;
    let held = Held {
        id,
        run: reply.number(at + 1),
        entry: reply.text(at + 2).to_owned(),
        spec,
        history: History {
            attempt: reply.number(at + 4) as u32,
            max_attempts: reply.number(at + 5) as u32,
            uncharged: reply.number(at + 6) as u32,
            unspoken: reply.number(at + 7) as u32,
            uncharged_for_ms: reply.number(at + 8),
            failures: reply.number(at + 13) as u32,
            recovering: reply.text(at + 14) == "1",
        },
        group: reply.text(at + 12).parse().ok(),
        last_error: reply.text(at + 15).to_owned(),
        round: reply.text(at + 10).to_owned(),
        lease_ms: reply.number(at + 11),
    };
    Ok((Claimed::Run(Box::new(held)), news))
}

fn news(reply: &Reply, at: usize) -> News {
    let options = reply.text(at + 2);
    News {
        sweep: reply.text(at) == "1",
        lanes_version: reply.text(at + 3).to_owned(),
        config: (!options.is_empty()).then(|| (reply.text(at + 1).to_owned(), options.to_owned())),
    }
}

/// What a beat tells of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Cost so far in microdollars.
    pub cost_microusd: u64,
    /// The tool that runs, as in `Bash(cargo test)`.
    pub tool: String,
    /// Milliseconds since Claude was last heard.
    pub heard_ago_ms: u64,
    /// The CLI's session.
    pub session_id: String,
}

pub(crate) fn beat(worker: &str, call: u64, held: &Held, progress: &Progress, config: &str) -> Call {
    Call::new("beat")
        .arg(worker)
        .number(call)
        .arg(held.id.to_string())
        .number(held.run)
        .arg(&held.entry)
        .number(progress.cost_microusd.min(MOST_COST_MICROUSD))
        .arg(limits::cut_middle(&progress.tool, 200))
        .number(progress.heard_ago_ms)
        .arg(&progress.session_id)
        .arg(config)
}

pub(crate) fn told_beat(reply: &Reply) -> Result<(Told, News)> {
    match reply.word() {
        "ok" if reply.text(1) == "1" => Ok((Told::Cancel, news(reply, 2))),
        "ok" => Ok((Told::Ok, news(reply, 2))),
        "stale" | "unknown" => Ok((Told::Stale, News::default())),
        _ => Err(reply.unexpected()),
    }
}

fn settling(call: Call, held: &Held, outcome: &Outcome, verdict: &Verdict) -> Call {
    let report = &outcome.report;
    let (verb, delay_ms, counted, unspoken, reason, failure) = match verdict {
        Verdict::Complete => ("complete", 0, false, false, "", None),
        Verdict::Review => ("review", 0, false, false, "", None),
        Verdict::Fail(failure) => ("fail", 0, false, false, "", Some(failure)),
        Verdict::Cancel(reason) => ("cancel", 0, false, false, reason.as_str(), None),
        Verdict::Retry { delay_ms, charged, counted, unspoken, failure, reason } => {
            let verb = if *charged { "retry" } else { "give_back" };
            (verb, *delay_ms, *counted, *unspoken, reason.as_str(), failure.as_ref())
        }
        Verdict::Anew { delay_ms, failure, reason, .. } => {
            ("retry", *delay_ms, false, false, reason.as_str(), Some(failure))
        }
    };
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    let resumed = format!("run:{}:resumed", held.run);
    if let Some(session) = &report.resumed {
        fields.insert(&resumed, session.clone());
    }
    if let (Verdict::Retry { .. }, Ending::Elsewhere { lane, .. }) = (verdict, &outcome.ending) {
        fields.insert("lane", lane.clone());
    }
    if let Verdict::Anew { failures, recovering, failure, .. } = verdict {
        fields.insert("failures", failures.to_string());
        fields.insert("recovering", if *recovering { "1" } else { "0" }.to_owned());
        fields.insert("last_error", limits::cut_middle(&failure.message, limits::MESSAGE_BYTES));
    }
    if let (Verdict::Complete | Verdict::Review, Some(step)) = (verdict, &held.spec.step) {
        let vars = step.values(held.id, report);
        if !vars.is_empty() {
            fields.insert("vars", serde_json::to_string(&vars).unwrap_or_default());
        }
    }
    if matches!(verdict, Verdict::Complete | Verdict::Review | Verdict::Fail(_) | Verdict::Cancel(_)) {
        if let Some(output) = &report.output {
            fields.insert("output", limits::cut_middle(output, limits::OUTPUT_BYTES));
        }
        if let Some(structured) = &report.structured {
            fields.insert("structured", structured.to_string());
        }
        if let Some(usage) = &report.usage {
            fields.insert("usage", usage.to_string());
        }
        fields.insert("turns", report.turns.to_string());
        fields.insert("denied", serde_json::to_string(&report.denied).unwrap_or_default());
    }
    let mut message = reason.to_owned();
    if let Some(failure) = failure {
        message = limits::cut_middle(&failure.message, limits::MESSAGE_BYTES);
        if matches!(verdict, Verdict::Fail(_)) {
            fields.insert("error_class", failure.class.word().to_owned());
            fields.insert("error_status", failure.status.map(|status| status.to_string()).unwrap_or_default());
            fields.insert("error_message", message.clone());
            fields.insert("error_hint", failure.hint.clone().unwrap_or_default());
        }
    }
    let bit = |value: bool| if value { "1" } else { "0" };
    call.arg(held.id.to_string())
        .number(held.run)
        .arg(&held.entry)
        .arg(&held.round)
        .arg(verb)
        .number(delay_ms)
        .arg(bit(counted))
        .arg(bit(unspoken))
        .arg(limits::cut_middle(reason, limits::MESSAGE_BYTES))
        .arg(failure.map_or("", |failure| failure.class.word()))
        .arg(message)
        .arg(report.session_id.as_deref().unwrap_or(""))
        .number(report.cost_microusd.min(MOST_COST_MICROUSD))
        .arg(bit(report.cost_estimated))
        .number(RETENTION_MS)
        .number(fields.len() as u64)
        .args(fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value]))
}

pub(crate) fn finish(worker: &str, call: u64, held: &Held, outcome: &Outcome, verdict: &Verdict) -> Call {
    settling(Call::new("finish").arg(worker).number(call), held, outcome, verdict)
}

/// The same call once more, from its arguments as they were kept; nothing where they cannot be that.
pub(crate) fn finish_as_kept(args: &[String]) -> Option<Call> {
    // Worker, call, task, run, entry, round, then the verdict up to the count of its fields, and those.
    let fields: usize = args.get(17)?.parse().ok()?;
    (args.len() == 18 + 2 * fields).then(|| Call::new("finish").args(args))
}

pub(crate) fn step(
    worker: &str,
    call: u64,
    held: &Held,
    outcome: &Outcome,
    verdict: &Verdict,
    config: &str,
    lanes: &[String],
) -> Call {
    settling(Call::new("step").arg(worker).number(call), held, outcome, verdict)
        .arg(config)
        .number(lanes.len() as u64)
        .args(lanes)
}

/// What a finish answered: settled, or too late.
pub(crate) fn told_finish(reply: &Reply) -> Result<Told> {
    match reply.word() {
        "ok" => Ok(Told::Ok),
        "stale" | "unknown" | "moved" => Ok(Told::Stale),
        _ => Err(reply.unexpected()),
    }
}
