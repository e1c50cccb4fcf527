//! The calls of workers, new ones and old ones, by what they believe to hold.

use super::calls::{Belief, End, Words};
use super::drive::{Actor, Sent, World, pick, task_id};
use super::ops::{Say, Which};
use super::pool::LEASE_MS;
use super::task::LANES;
use crate::domain::attempt::{History, Verdict};
use crate::store::attempt::{self, Held, Progress};
use crate::store::tests::worker::{failure, give_back, outcome, retry, unspoken};

impl World<'_> {
    /// The first worker from this one on that is so.
    pub(super) fn one(&self, who: u8, is_so: impl Fn(&Actor) -> bool) -> Option<usize> {
        let count = self.actors.len();
        (0..count).map(|n| (usize::from(who) + n) % count).find(|who| is_so(&self.actors[*who]))
    }

    pub(super) fn belief(&self, who: u8, which: Which) -> Option<(usize, Belief)> {
        match which {
            Which::Own => {
                let who = self.one(who, |actor| actor.holds.is_some())?;
                Some((who, self.actors[who].holds.clone()?))
            }
            Which::Any(which) => Some((usize::from(who), pick(&self.beliefs, which)?.clone())),
        }
    }

    pub(super) fn end(&self, who: u8, which: Which, say: Say, cost: u8) -> Option<(usize, End)> {
        let (who, belief) = self.belief(who, which)?;
        let is_last =
            self.model.tasks.get(&belief.task).is_some_and(|task| task.attempt >= task.new.max_attempts.into());
        let verdict = match say {
            Say::Complete => Verdict::Complete,
            Say::Review => Verdict::Review,
            Say::Cancel => Verdict::Cancel("chance".into()),
            Say::Retry(delay_ms) if !is_last => retry(delay_ms),
            Say::Fail | Say::Retry(_) => Verdict::Fail(failure()),
            Say::GiveBack(delay_ms) => give_back(delay_ms),
            Say::Unspoken(delay_ms) => unspoken(delay_ms),
        };
        Some((who, End { belief, verdict, cost: u64::from(cost) }))
    }

    /// A new call of a worker; where its reply is lost, it is made again.
    pub(super) async fn speak(&mut self, who: usize, sent: Sent, times: usize) -> Result<(), String> {
        self.actors[who].calls.push(sent.clone());
        let at = self.actors[who].calls.len() - 1;
        let mut told = Words::new();
        for _ in 0..times {
            told = self.say(who, at).await?;
        }
        let name = self.actors[who].name.clone();
        if told[0] == "unknown" && told[1] == name {
            // It does not know what became of its run.
            return self.present(&name, "join").await;
        }
        let claimed = match sent {
            Sent::Claim(_) => &told[..],
            Sent::Step(_) => &told[2..],
            Sent::Beat(..) if told[0] == "ok" => return Ok(()),
            _ => &[],
        };
        let belief = (claimed.first().map(String::as_str) == Some("ok")).then(|| {
            let number = |at: usize| claimed[at].trim_start_matches(['t', '#']).parse().expect("a number");
            Belief { task: number(1), run: number(2), entry: number(3), round: number(10) }
        });
        self.beliefs.extend(belief.clone());
        self.actors[who].holds = belief;
        Ok(())
    }

    /// One of a worker's calls, be it an old one: what it was told.
    pub(super) async fn say(&mut self, who: usize, at: usize) -> Result<Words, String> {
        let actor = &self.actors[who];
        let (name, lanes, number) = (actor.name.clone(), actor.lanes.clone(), at as u64 + 1);
        let lane_names: Vec<String> = lanes.iter().map(|lane| LANES[*lane].to_owned()).collect();
        let sent = actor.calls[at].clone();
        let (call, expected) = match &sent {
            Sent::Claim(token) => {
                let word = token.map_or("", |token| LANES[token]);
                let call = attempt::claim(&name, number, word, "0", &lane_names);
                (call, self.model.claim(&name, number, *token, &lanes))
            }
            Sent::Beat(belief, cost) => {
                let progress = Progress {
                    cost_microusd: *cost,
                    tool: "Bash(ls)".into(),
                    heard_ago_ms: 5,
                    session_id: "s1".into(),
                };
                let call = attempt::beat(&name, number, &self.held(belief), &progress, "0");
                (call, self.model.beat(&name, number, belief, *cost))
            }
            Sent::Finish(end) => {
                let held = self.held(&end.belief);
                let call = attempt::finish(&name, number, &held, &outcome(end.cost), &end.verdict);
                (call, self.model.finish(&name, number, end))
            }
            Sent::Step(end) => {
                let held = self.held(&end.belief);
                let call = attempt::step(&name, number, &held, &outcome(end.cost), &end.verdict, "0", &lane_names);
                (call, self.model.step(&name, number, end, &lanes))
            }
        };
        self.check(&call, &expected).await?;
        Ok(expected)
    }

    fn held(&self, belief: &Belief) -> Held {
        Held {
            id: task_id(belief.task),
            run: belief.run,
            entry: self.entries[&belief.entry].clone(),
            round: belief.round.to_string(),
            spec: serde_json::from_str(r#"{"prompt":"a prompt"}"#).expect("a spec"),
            history: History::default(),
            lease_ms: LEASE_MS as u64,
            group: None,
            last_error: String::new(),
        }
    }
}
