//! Following a chain or batch to its end: a line of how far it is, signals, a time limit, a Redis that goes away.
//!
//! The first signal cancels all of it and waits for the proof, the second ends at once. Not here: one task (`run.rs`),
//! what is printed at the end (`group.rs`).

use std::time::Duration;

use motorpool::domain::fleet::Unfit;
use motorpool::pool::{GroupView, Member};
use motorpool::{ErrorKind, GroupId, GroupKind, Result, State, TaskRecord};
use tokio::time::{Instant, sleep_until, timeout};

use super::Call;
use super::group::{PACE, conclude};
use super::reach::Reached;
use super::signals::Signals;
use super::waiting::{Stuck, Waiting, hopeless};
use crate::term::group::member_word;
use crate::term::progress::Progress;
use crate::term::table::harmless;
use crate::term::{tell, time};

/// How long a whole that ran out of time is waited for to be proved stopped.
const PROOF: Duration = Duration::from_secs(60);
/// How long the pool is asked to cancel by who does not wait.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Why it is being cancelled.
#[derive(Debug)]
enum Cancel {
    Interrupted,
    TimedOut,
    /// No worker could ever take what comes next.
    Hopeless(Unfit),
}

impl Cancel {
    fn reason(&self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted at the command line",
            Self::TimedOut => "the time limit of the command line ran out",
            Self::Hopeless(_) => "no worker can take it",
        }
    }

    /// The exit code where the end is not waited for.
    fn code(&self) -> u8 {
        if matches!(self, Self::TimedOut) { 4 } else { 5 }
    }
}

/// Of a whole of which nothing runs, the first task that could.
fn ready(view: &GroupView) -> Option<&TaskRecord> {
    let runs = |record: &TaskRecord| matches!(record.state, State::Running | State::PendingReview);
    if view.tasks().any(runs) {
        return None;
    }
    view.tasks().find(|record| record.state == State::Pending)
}

/// How far it is, in words: what lasts, and what passes.
fn words(view: &GroupView) -> (String, String) {
    let (id, count) = (view.group.id, view.members.len());
    if id.kind == GroupKind::Batch {
        let with = |state: State| view.members.iter().filter(|member| member.state() == state).count();
        let mut parts = vec![format!("{} of {count} done", view.members.iter().filter(is_over).count())];
        for (state, word) in [(State::Failed, "failed"), (State::Running, "running")] {
            if with(state) > 0 {
                parts.push(format!("{} {word}", with(state)));
            }
        }
        return (format!("{id} {}: {}", view.state, parts.join(", ")), time::dollars(view.cost_microusd()));
    }
    let at = view.members.iter().position(|member| !is_over(&member)).unwrap_or(count.saturating_sub(1));
    let Some(member) = view.members.get(at) else { return (format!("{id} {}", view.state), String::new()) };
    let mut line = format!("{id} step {} of {count} ({}) {}", at + 1, view.name_of(at), member_word(member));
    if let Member::Task(record) = member
        && record.run > 1
    {
        line.push_str(&format!(", run {}", record.run));
    }
    let tool = match member {
        Member::Task(record) => record.tool.as_deref().map(harmless),
        Member::Group(_) => None,
    };
    (line, format!("{}  {}", time::dollars(view.cost_microusd()), tool.unwrap_or_default()))
}

fn is_over(member: &&Member) -> bool {
    member.state().is_terminal()
}

/// Follows it, prints what it brought; gives the exit code.
pub(super) async fn follow(
    call: &Call,
    reached: &Reached,
    id: GroupId,
    signals: Signals,
    deadline: Option<Instant>,
) -> Result<u8> {
    let mut progress = Progress::new();
    let mut watch = reached.pool.watch(id).await;
    let (mut cancel, mut asked, mut proof_by) = (None::<Cancel>, false, None::<Instant>);
    let mut waiting = Waiting::new();
    let began = Instant::now();
    loop {
        if let Some(why) = cancel.as_ref().filter(|_| !asked) {
            asked = reached.pool.cancel(id, why.reason()).await.is_ok();
        }
        match reached.pool.group_view(id).await {
            Ok(view) if !view.state.is_unfinished() => {
                progress.clear();
                let took = view.group.ended_ms.unwrap_or(view.group.created_ms) - view.group.created_ms;
                tell(&format!("{id} {} in {}, {}", view.state, time::span(took), time::dollars(view.cost_microusd())));
                let code = conclude(reached, &view, call.json).await?;
                // One that ended by itself in the meantime counts as it ended.
                return match cancel.filter(|_| view.state == State::Cancelled) {
                    Some(Cancel::TimedOut) => Ok(4),
                    Some(Cancel::Hopeless(unfit)) => Err(hopeless(id.into(), &unfit)),
                    _ => Ok(code),
                };
            }
            Ok(view) => {
                let (mut lasting, passing) = words(&view);
                // What cannot be asked now is asked at the next look.
                if let (None, Some(task)) = (&cancel, ready(&view))
                    && let Ok(why) = reached.pool.waits_for(&task.lane).await
                {
                    let stuck = Stuck { id: id.into(), lane: &task.lane, state: task.state };
                    let found = waiting.judge(reached, stuck, &why, &mut progress);
                    if !found.is_turn {
                        lasting.push_str(&format!(": {}", found.words));
                    }
                    cancel = found.hopeless.map(Cancel::Hopeless);
                }
                let elapsed = time::span(u64::try_from(began.elapsed().as_millis()).unwrap_or(0) / 1000 * 1000);
                progress.show(&lasting, &format!("{elapsed}  {passing}"));
            }
            Err(error) if error.kind() == ErrorKind::Redis => {
                progress.show(&format!("{id}: reconnecting to Redis"), "");
            }
            Err(error) => return Err(error),
        }
        if proof_by.is_some_and(|by| Instant::now() >= by) {
            progress.clear();
            tell(&format!("{id} is being cancelled; it is not proved yet that all of it stopped"));
            return Ok(cancel.map_or(5, |why| why.code()));
        }
        let enough = if matches!(cancel, Some(Cancel::Interrupted)) { 2 } else { 1 };
        tokio::select! {
            () = pause(&mut watch) => {}
            () = signals.reach(enough) => {
                if let Some(why) = &cancel {
                    // Who does not wait: the pool should have heard of it at least.
                    if !asked {
                        let _ = timeout(LAST_WORD, reached.pool.cancel(id, why.reason())).await;
                    }
                    progress.clear();
                    tell(&format!("{id} is being cancelled; not waiting for the proof"));
                    return Ok(why.code());
                }
                progress.say(&format!("{id}: cancelling; a second Ctrl-C does not wait"));
                cancel = Some(Cancel::Interrupted);
            }
            () = until(deadline), if cancel.is_none() => {
                progress.say(&format!("{id}: the time is up; cancelling; Ctrl-C does not wait"));
                (cancel, proof_by) = (Some(Cancel::TimedOut), Some(Instant::now() + PROOF));
            }
        }
    }
}

/// A short rest at least: a whole has many members, and is read as a whole.
async fn pause(watch: &mut motorpool::pool::Watch) {
    tokio::time::sleep(PACE / 10).await;
    watch.news(Instant::now() + PACE).await;
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
