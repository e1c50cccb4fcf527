//! Chains and batches as a coordinator reads them: a line that says it all, every failure by its id, then what was
//! brought.
//!
//! Not here: single records (`digest.rs`), JSON of a whole record (`crate::term::group`).

use std::collections::BTreeMap;

use motorpool::pool::{GroupView, Known, Member};
use motorpool::{GroupKind, Pool, Result, State, TaskId, TaskRecord};
use serde_json::{Value, json};

use super::digest::{self, Piece, cut};
use crate::term::group::{self, member_word};
use crate::term::time::{dollars, rfc3339, span, usd};
use crate::term::{counted, live};

/// Most characters that the failures of a batch take.
const FAILURES: usize = 4_000;
/// Most items whose outputs are shown.
const SHOWN: usize = 40;
/// Least characters of an output that is worth showing.
const WORTH: usize = 80;
/// Most characters of live output behind a running step.
const TAIL: usize = 600;

/// Where a chain stands: the step that is under way, or the one that failed or was stopped, from 0.
fn at_step(view: &GroupView) -> Option<usize> {
    view.members.iter().position(|member| member.state() != State::Completed)
}

/// `c3 running, step 2 of 4 (write), $0.0123`, or `b5 failed, 10 items: 8 completed, 2 failed, $0.1, 12s`.
pub(super) fn head(view: &GroupView) -> String {
    let (id, count) = (view.group.id, view.members.len() as u64);
    let mut parts = vec![format!("{id} {}", view.state)];
    let denied: u64 = view.tasks().map(|record| record.denied.len() as u64).sum();
    if denied > 0 {
        let where_denied: Vec<String> =
            view.tasks().filter(|record| !record.denied.is_empty()).map(|record| record.id.to_string()).collect();
        let ids = cut(&where_denied.join(" "), 200);
        parts.push(format!("{} denied ({ids}); allow with allowed_tools", counted(denied, "call")));
    }
    match id.kind {
        GroupKind::Chain => match at_step(view) {
            Some(at) => {
                let step = format!("step {} of {count} ({})", at + 1, view.name_of(at));
                let state = view.members.get(at).map(member_word).unwrap_or_default();
                match view.state {
                    State::Failed | State::Cancelled => {
                        let why = group::reason(view).unwrap_or_default();
                        parts.push(format!("{step}: {}", cut(&why, 500)));
                    }
                    State::PendingReview => {
                        parts.push(format!("{step} is up for review: pool_approve_result or pool_reject_result"))
                    }
                    _ => parts.push(format!("{step} {state}")),
                }
            }
            None => parts.push(counted(count, "step")),
        },
        GroupKind::Batch => {
            let with = |state: State| view.members.iter().filter(|member| member.state() == state).count();
            let states = State::ALL.iter().filter(|state| with(**state) > 0);
            let counts: Vec<String> = states.map(|state| format!("{} {state}", with(*state))).collect();
            parts.push(format!("{}: {}", counted(count, "item"), counts.join(", ")));
            if view.state == State::PendingReview {
                parts.push("to be judged with pool_approve_result or pool_reject_result".to_owned());
            }
        }
    }
    if view.state == State::Cancelled
        && let Some(reason) = &view.group.reason
    {
        parts.push(cut(reason, 200));
    }
    if view.cost_microusd() > 0 {
        parts.push(dollars(view.cost_microusd()));
    }
    if let Some(ended) = view.group.ended_ms {
        parts.push(span(ended.saturating_sub(view.group.created_ms)));
    }
    digest::one_line(&parts.join(", "))
}

/// Ids in order, neighbours as a range: `t3 t7-t9`.
fn ranges(ids: &[String]) -> String {
    let number = |id: &str| id.get(1..).and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0);
    let mut text: Vec<String> = Vec::new();
    let mut begin = 0;
    for at in 1..=ids.len() {
        let follows = at < ids.len()
            && ids[at].as_bytes()[0] == ids[at - 1].as_bytes()[0]
            && number(&ids[at]) == number(&ids[at - 1]) + 1;
        if follows {
            continue;
        }
        match at - begin {
            1 => text.push(ids[begin].clone()),
            2 => text.extend([ids[begin].clone(), ids[begin + 1].clone()]),
            _ => text.push(format!("{}-{}", ids[begin], ids[at - 1])),
        }
        begin = at;
    }
    text.join(" ")
}

/// Why a member did not bring what it was to.
fn why(member: &Member) -> String {
    let said = match member {
        Member::Task(record) => match &record.error {
            Some(error) => {
                let status = error.status.map(|status| format!(", status {status}")).unwrap_or_default();
                Some(format!("{}{status}: {}", error.class, error.message))
            }
            None => record.reason.clone(),
        },
        Member::Group(view) => group::reason(view),
    };
    said.map(|said| digest::one_line(&said)).unwrap_or_default()
}

/// Every item that failed or was cancelled, by its id; those that say the same stand together.
fn failures(view: &GroupView) -> String {
    let mut groups: Vec<(State, String, Vec<String>)> = Vec::new();
    let wrong = view.members.iter().filter(|member| matches!(member.state(), State::Failed | State::Cancelled));
    for member in wrong {
        let (state, why, id) = (member.state(), why(member), member.id().to_string());
        match groups.iter_mut().find(|(other, reason, _)| *other == state && *reason == why) {
            Some((.., ids)) => ids.push(id),
            None => groups.push((state, why, vec![id])),
        }
    }
    groups.sort_by_key(|(state, ..)| *state != State::Failed);
    let line = |(state, why, ids): &(State, String, Vec<String>), longest: usize| {
        format!("{} {state}: {}\n", ranges(ids), cut(why, longest))
    };
    for longest in [300, 120, 40] {
        let text: String = groups.iter().map(|group| line(group, longest)).collect();
        if text.chars().count() <= FAILURES {
            return text;
        }
    }
    // Too many different words: the ids alone, each of them.
    let of = |wanted: State| {
        let ids = view.members.iter().filter(|member| member.state() == wanted).map(|member| member.id().to_string());
        ids.collect::<Vec<_>>()
    };
    let named = [State::Failed, State::Cancelled].map(|state| (state, of(state)));
    let line = |(state, ids): &(State, Vec<String>)| format!("{} {state}; pool_result says why\n", ranges(ids));
    named.iter().filter(|(_, ids)| !ids.is_empty()).map(line).collect()
}

/// The tasks whose words an answer about it has room for, each with what it stands for and how that stands.
fn shown(view: &GroupView) -> Vec<(String, State, TaskId)> {
    match view.group.id.kind {
        GroupKind::Chain => {
            view.last_done().map(|record| (view.group.id.to_string(), view.state, record.id)).into_iter().collect()
        }
        GroupKind::Batch => view
            .members
            .iter()
            .filter(|member| matches!(member.state(), State::Completed | State::PendingReview))
            .filter_map(|member| Some((member.id().to_string(), member.state(), member.result()?.id)))
            .collect(),
    }
}

/// What an answer says of it, in at most so many characters.
pub(super) async fn pieces(pool: &Pool, view: &GroupView, note: &str, longest: usize) -> Result<Vec<Piece>> {
    let mut head = format!("{}{note}", head(view));
    if view.group.id.kind == GroupKind::Batch {
        let failures = failures(view);
        if !failures.is_empty() {
            head.push('\n');
            head.push_str(failures.trim_end());
        }
    }
    let failed = view.state == State::Failed;
    let id = view.group.id.to_string();
    let mut pieces = vec![Piece { id: id.clone(), head, output: String::new(), failed }];
    let mut left = longest.saturating_sub(pieces[0].size());
    let all = shown(view);
    let mut named = 0;
    for (owner, state, task) in all.iter().take(SHOWN) {
        let line = format!("{owner} {state}");
        let size = line.chars().count() + 160 + WORTH;
        if size > left {
            break;
        }
        left -= size;
        named += 1;
        let Some(record) = pool.find(*task).await? else { continue };
        let output = digest::output(&record).unwrap_or_default();
        if view.group.id.kind == GroupKind::Chain {
            // Its own words are those of its last step.
            pieces[0].output = output;
        } else {
            pieces.push(Piece { id: owner.clone(), head: line, output, failed: false });
        }
    }
    if named < all.len() {
        let rest = |wanted: State| {
            let ids: Vec<String> =
                all[named..].iter().filter(|(_, state, _)| *state == wanted).map(|(owner, ..)| owner.clone()).collect();
            (!ids.is_empty()).then(|| format!("also {wanted}: {}", cut(&ranges(&ids), 300)))
        };
        let notes: Vec<String> = [State::Completed, State::PendingReview].into_iter().filter_map(rest).collect();
        let note = format!("{}; pool_result has their outputs", notes.join("; "));
        pieces.push(Piece { id, head: note, output: String::new(), failed: false });
    }
    Ok(pieces)
}

/// Anything, as an answer says it.
pub(super) async fn of(pool: &Pool, known: &Known, note: &str, longest: usize) -> Result<Vec<Piece>> {
    match known {
        Known::Task(record) => Ok(vec![Piece::of(record, note)]),
        Known::Group(view) => pieces(pool, view, note, longest).await,
    }
}

/// One thing, as a whole answer.
pub(super) async fn text(pool: &Pool, known: &Known) -> Result<String> {
    Ok(digest::pieces(&of(pool, known, "", digest::LONGEST).await?, digest::LONGEST))
}

/// The last of what the step under way said.
async fn tail(pool: &Pool, view: &GroupView) -> Option<String> {
    let running = view.tasks().find(|record| record.state == State::Running)?;
    let chunks = pool.output_tail(running.id, running.run, 50).await.ok()?;
    let words = live::text(&chunks);
    let size = words.chars().count();
    let tail: String = words.chars().skip(size.saturating_sub(TAIL)).collect();
    (!tail.trim().is_empty()).then_some(tail)
}

/// How far it is, for who waits.
pub(super) async fn progress(pool: &Pool, view: &GroupView) -> String {
    match tail(pool, view).await {
        Some(tail) if view.group.id.kind == GroupKind::Chain => {
            format!("{}: ...{}", head(view), digest::one_line(&cut(&tail, 200)))
        }
        _ => head(view),
    }
}

/// Its members, a line each, as far as there is room.
pub(super) fn listing(view: &GroupView) -> String {
    let mut lines = vec![head(view)];
    let mut left = digest::LONGEST.saturating_sub(lines[0].chars().count() + 200);
    for (at, member) in view.members.iter().enumerate() {
        let why = why(member);
        let why = if why.is_empty() { why } else { format!(": {}", cut(&why, 120)) };
        let cost = dollars(member.cost_microusd());
        let line = format!("{}. {} {} {}, {cost}{why}", at + 1, view.name_of(at), member.id(), member_word(member));
        if line.chars().count() + 1 > left {
            lines.push(format!(
                "{} more; pool_result {} names those that failed",
                view.members.len() - at,
                view.group.id
            ));
            break;
        }
        left -= line.chars().count() + 1;
        lines.push(line);
    }
    lines.join("\n")
}

/// As JSON, in at most so many characters: the record, its members as far as there is room, every failure.
pub(super) async fn json(pool: &Pool, view: &GroupView, longest: usize) -> Result<Value> {
    let mut value = group::json(view, &BTreeMap::<TaskId, TaskRecord>::new());
    let members = if view.group.id.kind == GroupKind::Chain { "steps" } else { "items" };
    value["progress"] = head(view).into();
    if let Some(tail) = tail(pool, view).await {
        value["live"] = tail.into();
    }
    let short: Vec<Value> = view.members.iter().enumerate().map(|(at, member)| short(view, at, member)).collect();
    let fits = |value: &Value, room: usize| value.to_string().chars().count() <= room;
    value[members] = short.into();
    // Room for what it brought.
    if !fits(&value, longest / 2) {
        let plain = |(at, member): (usize, &Member)| json!({"name": view.name_of(at), "id": member.id(), "state": member_word(member)});
        value[members] = view.members.iter().enumerate().map(plain).collect();
    }
    if !fits(&value, longest / 2) {
        value[members] = json!([]);
        let ids: Vec<String> = view.members.iter().map(|member| member.id().to_string()).collect();
        value["members"] = cut(&ranges(&ids), 1_000).into();
        let failures = failures(view);
        if !failures.is_empty() {
            value["failures"] = failures.lines().map(Value::from).collect();
        }
    }
    let left = longest.saturating_sub(value.to_string().chars().count() + 200);
    if view.group.id.kind == GroupKind::Chain
        && let Some(last) = view.last_done()
        && let Some(record) = pool.find(last.id).await?
    {
        super::tools::task::put_result(&mut value, &record, left);
    }
    Ok(value)
}

/// A member in a few words.
fn short(view: &GroupView, at: usize, member: &Member) -> Value {
    let mut value = json!({
        "name": view.name_of(at), "id": member.id(), "state": member_word(member), "cost_usd": usd(member.cost_microusd()),
    });
    if let Member::Task(record) = member {
        if record.failures > 0 {
            value["retries"] = record.failures.into();
        }
        if record.run > 1 {
            value["runs"] = record.run.into();
        }
        if let Some(started) = record.started_ms.filter(|_| record.state == State::Running) {
            value["started"] = rfc3339(started).into();
        }
    }
    if matches!(member.state(), State::Failed | State::Cancelled | State::PendingReview) {
        value["why"] = cut(&why(member), 200).into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::record::tests::pending;
    use motorpool::domain::chain::GroupSpec;
    use motorpool::domain::group::Group;
    use motorpool::{Class, Failure};

    fn batch(members: Vec<TaskRecord>, state: State) -> GroupView {
        let group = Group {
            id: "b5".parse().unwrap(),
            state,
            title: String::new(),
            spec: GroupSpec::default(),
            coordinator: None,
            tags: vec![],
            members: members.iter().map(|record| record.id.into()).collect(),
            batch: None,
            reason: None,
            created_ms: 0,
            ended_ms: Some(12_000),
            news: None,
            offered: None,
        };
        GroupView { group, state, members: members.into_iter().map(|record| Member::Task(Box::new(record))).collect() }
    }

    fn item(n: u64, state: State, why: Option<String>) -> TaskRecord {
        let error = why.map(|why| Failure::new(Class::Request, why));
        TaskRecord { id: TaskId::new(n), state, error, ..pending() }
    }

    #[test]
    fn every_failed_item_is_named_however_many_there_are() {
        let failed = |n: u64| n.is_multiple_of(3);
        let of = |different: bool| {
            let items = (1..=1000).map(|n| match failed(n) {
                true => item(
                    n,
                    State::Failed,
                    Some(if different { format!("{n}: {}", "x".repeat(300)) } else { "same".into() }),
                ),
                false => item(n, State::Completed, None),
            });
            batch(items.collect(), State::Failed)
        };
        for different in [false, true] {
            let view = of(different);
            let text = failures(&view);
            assert!(text.chars().count() <= FAILURES, "{}", text.chars().count());
            for n in (1..=1000).filter(|n| failed(*n)) {
                assert!(text.split_whitespace().any(|word| word == format!("t{n}")), "t{n}: {text}");
            }
            assert_eq!(head(&view), "b5 failed, 1000 items: 667 completed, 333 failed, 12s");
        }
        let run: Vec<TaskRecord> = (1..=1000).map(|n| item(n, State::Failed, Some("same".into()))).collect();
        assert_eq!(failures(&batch(run, State::Failed)), "t1-t1000 failed: request: same\n");
    }

    #[test]
    fn an_item_that_is_up_for_review_is_not_called_completed() {
        let view =
            batch(vec![item(1, State::Completed, None), item(2, State::PendingReview, None)], State::PendingReview);
        let said: Vec<String> = shown(&view).iter().map(|(owner, state, _)| format!("{owner} {state}")).collect();
        assert_eq!(said, ["t1 completed", "t2 pending_review"]);
        let head = head(&view);
        assert!(head.contains("1 pending_review, 1 completed") && head.contains("pool_approve_result"), "{head}");
    }

    #[test]
    fn neighbours_are_a_range() {
        let ids = ["t1", "t2", "t3", "t5", "t7", "t8", "c9"].map(str::to_owned);
        assert_eq!(ranges(&ids), "t1-t3 t5 t7 t8 c9");
    }
}
