//! What the log says, and the fold that checks it.

use super::ids::TaskId;
use super::state::{Cause, State, is_legal};

/// One transition of one task, as it stands in the log and in notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which task.
    pub task: TaskId,
    /// Its own number of this event, from 1, without gaps.
    pub n: u64,
    /// The state before; nothing at submit.
    pub from: Option<State>,
    /// The state after.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// The run it concerns, 0 before the first.
    pub run: u64,
}

impl Event {
    /// Reads the notice `t17 4 running completed complete 1`; `-` stands for no state before.
    #[must_use]
    pub fn parse(notice: &str) -> Option<Self> {
        let mut words = notice.split(' ');
        let task = words.next()?.parse().ok()?;
        let n = words.next()?.parse().ok()?;
        let from = match words.next()? {
            "-" => None,
            word => Some(word.parse().ok()?),
        };
        let to = words.next()?.parse().ok()?;
        let cause = words.next()?.parse().ok()?;
        let run = words.next()?.parse().ok()?;
        Some(Self { task, n, from, to, cause, run })
    }
}

/// What is wrong with the log of one task, oldest first: gaps, illegal moves, an end that is not the record's.
#[must_use]
pub fn fold(events: &[Event], recorded: State) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut before: Option<&Event> = None;
    for event in events {
        let task = event.task;
        if !is_legal(event.from, event.cause, event.to) {
            wrong.push(format!(
                "{task}: event {}: {:?} -{}-> {} is no legal move",
                event.n, event.from, event.cause, event.to
            ));
        }
        if let Some(before) = before {
            if event.n != before.n + 1 {
                wrong.push(format!("{task}: event {} follows event {}", event.n, before.n));
            }
            if event.from != Some(before.to) {
                wrong.push(format!(
                    "{task}: event {} starts from {:?}, but {} was reached",
                    event.n, event.from, before.to
                ));
            }
        }
        before = Some(event);
    }
    if let Some(last) = before
        && last.to != recorded
    {
        wrong.push(format!("{}: the log ends at {}, the record says {recorded}", last.task, last.to));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(notices: &[&str]) -> Vec<Event> {
        notices.iter().map(|notice| Event::parse(notice).unwrap_or_else(|| panic!("{notice}"))).collect()
    }

    #[test]
    fn a_true_log_folds_to_its_end() {
        let events = log(&[
            "t1 1 - pending submit 0",
            "t1 2 pending running claim 1",
            "t1 3 running pending lost 1",
            "t1 4 pending running claim 2",
            "t1 5 running completed complete 2",
        ]);
        assert_eq!(fold(&events, State::Completed), Vec::<String>::new());
        assert_eq!(fold(&events[1..], State::Completed), Vec::<String>::new(), "a trimmed log starts anywhere");
    }

    #[test]
    fn a_false_log_is_found_out() {
        for (notices, recorded, expected) in [
            (vec!["t1 1 - running submit 0"], State::Running, "no legal move"),
            (vec!["t1 1 - pending submit 0", "t1 3 pending running claim 1"], State::Running, "follows event 1"),
            (vec!["t1 1 - pending submit 0", "t1 2 running failed fail 1"], State::Failed, "was reached"),
            (vec!["t1 1 - pending submit 0"], State::Running, "the record says running"),
        ] {
            let wrong = fold(&log(&notices), recorded).join("\n");
            assert!(wrong.contains(expected), "{notices:?}: {wrong}");
        }
    }
}
