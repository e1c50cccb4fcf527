//! run: submits a task, follows it to its end, prints its output.
//!
//! The first signal cancels and waits for the proof, the second ends at once; a task that is being cancelled for another
//! reason is waited for until the first one. Redis may vanish and come back.
//! Not here: what a finished task prints (`task.rs`).

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::fleet::Unfit;
use motorpool::domain::waits::Why;
use motorpool::{ErrorKind, Failure, Result, State, TaskId, TaskRecord};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::reach::{self, Reached, Wish};
use super::signals::Signals;
use super::waiting::{Stuck, Waiting, hopeless};
use super::{Call, json_arg, options, task, timeout_arg, timeout_of};
use crate::term::progress::Progress;
use crate::term::table::harmless;
use crate::term::{tell, time};

/// When somebody is told that Redis does not answer.
const SLOW: Duration = Duration::from_secs(2);
/// How often a task is looked at without news: the line on a terminal counts seconds.
const PACE: Duration = Duration::from_secs(1);

pub(super) fn command() -> Command {
    let detach = Arg::new("detach").long("detach").action(ArgAction::SetTrue).help("print the id and do not wait");
    options::add(
        Command::new("run")
            .about("Run a task and print its output")
            .arg(detach)
            .arg(timeout_arg("cancel the task after this time, waiting included").conflicts_with("detach"))
            .arg(json_arg("print the task's record"))
            .after_help(
                "Examples:\n  motorpool run 'What does this project do?'\n  git diff | motorpool run --model opus -\n\
                 Ctrl-C cancels the task; closing the terminal leaves it running.",
            ),
    )
}

pub(super) async fn run(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let limit = timeout_of(matches)?;
    let spec = options::spec(call, matches)?;
    reach::check(call)?;
    call.refuse_inside_run("run")?;
    if matches.get_flag("detach") {
        let reached = reach::reach(call, Wish::Submit).await?;
        return task::submit_to(call, &reached, spec).await;
    }
    let deadline = limit.map(|limit| Instant::now() + limit);
    let signals = Signals::count()?;
    let reached = tokio::select! {
        reached = reach::reach(call, Wish::Run) => reached?,
        // A pool that is being started goes on doing so, and ends by itself.
        () = signals.reach(1) => {
            tell("cancelled; nothing was submitted");
            return Ok(5);
        }
    };
    // Not given up half-way: a task whose id nobody heard could not be cancelled.
    let lane = spec.lane();
    let placed = task::place(call, &reached, spec).await?;
    // It is submitted: what can no longer be asked is left out.
    if reached.joined.is_some()
        && let Ok(Some(warning)) = task::lane_warning(call, &reached, &lane).await
    {
        tell(&format!("warning: {warning}"));
    }
    tell(&if placed.fresh {
        task::mode_text(placed.id, placed.mode)
    } else {
        format!("{} was submitted before with this --once key; following it", placed.id)
    });
    follow_task(call, &reached, placed.id, signals, deadline).await
}

/// Follows a task to its end, prints what it brought; gives the exit code.
pub(super) async fn follow_task(
    call: &Call,
    reached: &Reached,
    id: TaskId,
    signals: Signals,
    deadline: Option<Instant>,
) -> Result<u8> {
    let mut task = Follow::new(reached, id, signals, deadline);
    match task.until_over().await? {
        End::Left(code) => Ok(code),
        End::Over(record) => {
            tell(&summary(&record));
            task.conclude(*record, call.json)
        }
    }
}

/// How a task was left.
pub(super) enum End {
    /// It is over, or up for review.
    Over(Box<TaskRecord>),
    /// Nobody waited for that; the exit code.
    Left(u8),
}

/// Why a task is being cancelled.
#[derive(Debug)]
enum Cancel {
    Interrupted,
    TimedOut,
    /// No worker could ever take it.
    Hopeless(Unfit),
}

/// How long a task that ran out of time is waited for to be proved stopped: a lost worker is noticed within.
const PROOF: Duration = Duration::from_secs(60);
/// An embedded pool that was away for so long does not come back.
const GONE: Duration = Duration::from_secs(60);

/// What a look found.
#[derive(Debug)]
struct Look {
    record: TaskRecord,
    waits_for: Option<Why>,
}

/// Why a look ended.
enum Step {
    Looked(Result<Box<Look>>),
    Signal,
    Deadline,
}

/// Follows a task.
pub(super) struct Follow<'a> {
    reached: &'a Reached,
    id: TaskId,
    signals: Signals,
    deadline: Option<Instant>,
    progress: Progress,
    /// Since when it stands where it stands.
    moved: (Instant, Option<(State, u64)>),
    waiting: Waiting,
    cancel: Option<Cancel>,
    /// After so many signals nothing is waited for any more; after the first one, where it has yet to cancel.
    enough: u32,
    /// The pool has heard that it is to be cancelled.
    asked: bool,
    /// A cancel that nobody watches is given up then: its worker may be gone with its machine.
    proof_by: Option<Instant>,
    /// Since when Redis is away.
    away_since: Option<Instant>,
}

impl<'a> Follow<'a> {
    pub(super) fn new(reached: &'a Reached, id: TaskId, signals: Signals, deadline: Option<Instant>) -> Self {
        Self {
            reached,
            id,
            signals,
            deadline,
            progress: Progress::new(),
            moved: (Instant::now(), None),
            waiting: Waiting::new(),
            cancel: None,
            enough: 1,
            asked: false,
            proof_by: None,
            away_since: None,
        }
    }

    /// Whether it was cancelled from here, though it may have ended otherwise.
    pub(super) fn was_cancelled(&self) -> bool {
        self.cancel.is_some()
    }

    /// Waits for its end.
    pub(super) async fn until_over(&mut self) -> Result<End> {
        let mut watch = self.reached.pool.watch(self.id).await;
        loop {
            let step = self.look().await;
            let is_over = matches!(&step, Step::Looked(Ok(look)) if !look.record.state.is_unfinished());
            if !is_over && self.proof_by.is_some_and(|by| Instant::now() >= by) {
                return Ok(End::Left(self.give_up()));
            }
            match step {
                Step::Signal if self.cancel.is_some() => {
                    self.ask_once_more().await;
                    return Ok(End::Left(self.give_up()));
                }
                Step::Signal => {
                    self.enough = 2;
                    self.start_cancel(Cancel::Interrupted, "cancelling; a second Ctrl-C does not wait");
                }
                Step::Deadline => {
                    self.start_cancel(Cancel::TimedOut, "the time is up; cancelling; Ctrl-C does not wait")
                }
                Step::Looked(Err(error)) if error.kind() == ErrorKind::Redis => {
                    // The embedded pool's keeper is started anew by then, or it cannot be.
                    let since = *self.away_since.get_or_insert_with(Instant::now);
                    if self.reached.joined.is_some() && since.elapsed() > GONE {
                        return Err(error);
                    }
                    self.progress.show(&format!("{}: reconnecting to Redis", self.id), "");
                    self.pause(Instant::now() + Duration::from_millis(200)).await;
                }
                Step::Looked(Err(error)) => return Err(error),
                Step::Looked(Ok(look)) if !look.record.state.is_unfinished() => {
                    self.progress.clear();
                    return Ok(End::Over(Box::new(look.record)));
                }
                Step::Looked(Ok(look)) => {
                    self.away_since = None;
                    self.show(&look);
                    let until = Instant::now() + PACE;
                    // Each is looked at again in the next round, so losing one loses nothing.
                    tokio::select! {
                        () = watch.news(until) => {}
                        () = self.signals.reach(self.enough) => {}
                        () = until_deadline(self.deadline, &self.cancel) => {}
                    }
                }
            }
        }
    }

    /// Asks for the record, and for the cancelling first where the pool has not heard of it. A call that is given up
    /// for a signal is made again.
    async fn look(&mut self) -> Step {
        let (pool, id) = (&self.reached.pool, self.id);
        let reason = self.reason();
        let asking = async {
            if let Some(reason) = reason {
                pool.cancel(id, reason).await?;
            }
            let record = pool.task(id).await?;
            let waits = matches!(record.state, State::Pending | State::Delayed);
            let waits_for = if waits { Some(pool.waits_for(&record.lane).await?) } else { None };
            Ok(Box::new(Look { record, waits_for }))
        };
        let mut asking = std::pin::pin!(asking);
        let mut slow = false;
        let step = loop {
            tokio::select! {
                looked = &mut asking => break Step::Looked(looked),
                () = self.signals.reach(self.enough) => break Step::Signal,
                () = until_deadline(self.deadline, &self.cancel) => break Step::Deadline,
                () = sleep(SLOW), if !slow => {
                    slow = true;
                    self.progress.show(&format!("{id}: reconnecting to Redis"), "");
                }
            }
        };
        if matches!(step, Step::Looked(Ok(_))) && reason.is_some() {
            self.asked = true;
        }
        step
    }

    /// Why the pool is to be told to cancel; nothing where it has heard it, or need not.
    fn reason(&self) -> Option<&'static str> {
        Some(match self.cancel.as_ref().filter(|_| !self.asked)? {
            Cancel::Interrupted => "interrupted at the command line",
            Cancel::TimedOut => "the time limit of the command line ran out",
            Cancel::Hopeless(_) => "no worker can take it",
        })
    }

    /// Who does not wait is quick: the pool should have heard at least that the task is to be cancelled.
    async fn ask_once_more(&mut self) {
        let Some(reason) = self.reason() else { return };
        tokio::select! {
            told = timeout(SLOW, self.reached.pool.cancel(self.id, reason)) => self.asked = matches!(told, Ok(Ok(_))),
            () = self.signals.reach(self.enough + 1) => {}
        }
    }

    fn start_cancel(&mut self, cancel: Cancel, words: &str) {
        self.progress.say(&format!("{}: {words}", self.id));
        if matches!(cancel, Cancel::TimedOut) {
            self.proof_by = Some(Instant::now() + PROOF);
        }
        self.cancel = Some(cancel);
    }

    /// Waits a little, not longer than the next signal.
    async fn pause(&self, until: Instant) {
        tokio::select! {
            () = sleep_until(until) => {}
            () = self.signals.reach(self.enough) => {}
        }
    }

    /// Ends without the proof: the exit code says why it was cancelled.
    fn give_up(&mut self) -> u8 {
        let id = self.id;
        self.progress.say(&if self.asked {
            format!(
                "{id} may still run: there is no proof yet that it stopped; `motorpool result {id} --wait` waits for it"
            )
        } else {
            format!("{id} may still run: the pool did not hear that it is to stop; `motorpool cancel {id}` tells it")
        });
        if matches!(self.cancel, Some(Cancel::TimedOut)) { 4 } else { 5 }
    }

    fn show(&mut self, look: &Look) {
        let record = &look.record;
        if self.moved.1 != Some((record.state, record.run)) {
            self.moved = (Instant::now(), Some((record.state, record.run)));
        }
        let waiting = if self.cancel.is_none() { self.judge_waiting(look) } else { None };
        let mut line = format!("{} {}", self.id, record.state);
        if self.cancel.is_some() {
            line.push_str(", cancelling");
        }
        if record.state == State::Running && record.run > 1 {
            line.push_str(&format!(", run {}", record.run));
        }
        let reason = || record.reason.as_deref().filter(|_| record.state == State::Waiting).map(harmless);
        let about = waiting.or_else(|| record.tool.as_deref().map(harmless)).or_else(reason);
        let elapsed = u64::try_from(self.moved.0.elapsed().as_millis()).unwrap_or(0) / 1000 * 1000;
        let cost = time::dollars(record.cost_microusd);
        if self.progress.is_redrawn() {
            line.push_str(&format!("  {}  {cost}", time::span(elapsed)));
            self.progress.show(&line, &about.unwrap_or_default());
        } else {
            if let Some(about) = about {
                line.push_str(&format!(": {about}"));
            }
            self.progress.show(&line, "");
        }
    }

    /// What a task that does not run waits for, in words; cancels it where that never comes.
    fn judge_waiting(&mut self, look: &Look) -> Option<String> {
        let (record, why) = (&look.record, look.waits_for.as_ref()?);
        let task = Stuck { id: self.id.into(), lane: &record.lane, state: record.state };
        let found = self.waiting.judge(self.reached, task, why, &mut self.progress);
        if let Some(unfit) = found.hopeless {
            self.cancel = Some(Cancel::Hopeless(unfit));
        }
        let reason = record.reason.as_deref().map(harmless).filter(|_| found.is_turn);
        Some(reason.unwrap_or(found.words))
    }

    /// Prints what it brought; its exit code.
    pub(super) fn conclude(&self, mut record: TaskRecord, json: bool) -> Result<u8> {
        let is_cancelled = record.state == State::Cancelled;
        if let (true, Some(Cancel::Hopeless(unfit))) = (is_cancelled, &self.cancel) {
            let failure = Failure { status: None, ..Failure::new(unfit.class, unfit.message.clone()) };
            record.error = Some(Failure { hint: unfit.hint.clone(), ..failure });
            task::conclude(&record, json)?;
            return Err(hopeless(self.id.into(), unfit));
        }
        let code = task::conclude(&record, json)?;
        // One that ended by itself in the meantime counts as it ended.
        Ok(if is_cancelled && matches!(self.cancel, Some(Cancel::TimedOut)) { 4 } else { code })
    }
}

/// What it came to, for who only saw it run.
fn summary(record: &TaskRecord) -> String {
    let took = match (record.started_ms, record.ended_ms) {
        (Some(started), Some(ended)) => format!(" in {}", time::span(ended.saturating_sub(started))),
        _ => String::new(),
    };
    let runs = if record.run > 1 { format!(", {} runs", record.run) } else { String::new() };
    let estimated = if record.cost_estimated { " (estimated)" } else { "" };
    format!("{} {}{took}{runs}, {}{estimated}", record.id, record.state, time::dollars(record.cost_microusd))
}

/// Returns at the deadline, unless the task is being cancelled already.
async fn until_deadline(deadline: Option<Instant>, cancel: &Option<Cancel>) {
    match deadline {
        Some(deadline) if cancel.is_none() => sleep_until(deadline).await,
        _ => std::future::pending().await,
    }
}
