//! A task: what was asked ([`Spec`]) and what is known ([`Record`]).
//!
//! Not here: its fields in Redis (`store/record.rs`), what a face prints of it (`dispatcher/src/term`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::attempt::{Class, Failure};
use super::chain::Step;
use super::ids::{GroupId, TaskId};
use super::lane::Lane;
use super::limits;
use super::options::TaskOptions;
use super::review::Round;
use super::route::Auto;
use super::state::State;
use crate::error::Result;

/// What was asked. Stored as JSON; fields of a later version survive a round trip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The prompt, unaltered.
    pub prompt: String,
    /// The options as they were given.
    #[serde(default)]
    pub options: TaskOptions,
    /// The submitter's project directory: where an embedded pool's task works if nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_dir: Option<String>,
    /// The task that it tries anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// The step of a chain that it is: its prompt has places that are filled when it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// It gathers what the members of its batch gave, and its prompt has a place for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub collects: bool,
    /// It classifies this work, and its worker starts it as it was classified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<Box<Auto>>,
    /// What a later version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Spec {
    /// A task with this prompt and these options, checked against every bound.
    pub fn new(prompt: impl Into<String>, options: TaskOptions) -> Result<Self> {
        let prompt = prompt.into();
        limits::check_prompt(&prompt)?;
        options.check()?;
        Ok(Self { prompt, options, ..Self::default() })
    }

    /// How its prompt begins: its first line with a word in it, cut.
    #[must_use]
    pub fn title(&self) -> String {
        let first = self.prompt.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        first.chars().filter(|c| !c.is_control()).take(limits::TITLE_CHARS).collect()
    }

    /// The lane it stands in.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::new(&self.options.lane.clone().unwrap_or_default(), &self.options.needs)
    }
}

/// One start of a task by one worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Its number in the task, from 1, without gaps.
    pub n: u64,
    /// Who ran it.
    pub worker: String,
    /// On which machine.
    pub host: String,
    /// The CLI's session.
    pub session_id: Option<String>,
    /// The session that it went on with, where it did not begin anew.
    pub resumed: Option<String>,
    /// When it began, milliseconds since 1970 by Redis's clock.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Nothing if it succeeded or is not over, else its class.
    pub class: Option<Class>,
    /// Why it failed, in the API's words.
    pub message: Option<String>,
    /// Its cost in microdollars, so far.
    pub cost_microusd: u64,
    /// Whether it counts against `max_attempts`.
    pub charged: bool,
}

/// What is known of a task. Its texts (prompt, output) are there only where they were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: TaskId,
    /// Where it stands.
    pub state: State,
    /// How its prompt begins.
    pub title: String,
    /// Why it stands there, in words.
    pub reason: Option<String>,
    /// What was asked.
    pub spec: Option<Spec>,
    /// The lane it stands in.
    pub lane: String,
    /// Its name under which it is handed over.
    pub coordinator: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The number of the current or last run.
    pub run: u64,
    /// Charged attempts, the current one included.
    pub attempt: u32,
    /// The most there may be.
    pub max_attempts: u32,
    /// The round of review.
    pub round: u32,
    /// Its entry in the lane.
    pub entry: Option<String>,
    /// Who runs it now.
    pub worker: Option<String>,
    /// It is to be stopped.
    pub cancel: bool,
    /// When it was submitted, by Redis's clock.
    pub created_ms: u64,
    /// When its current or last run began.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// The current tool of a running task.
    pub tool: Option<String>,
    /// When Claude last said anything.
    pub heard_ms: Option<u64>,
    /// The text of the result, or what there was of it.
    pub output: Option<String>,
    /// The structured result.
    pub structured: Option<Value>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// The cost of all runs in microdollars.
    pub cost_microusd: u64,
    /// Some of the cost is an estimate.
    pub cost_estimated: bool,
    /// Tokens by kind, of the run that gave the result.
    pub usage: Option<Value>,
    /// Turns of the run that gave the result.
    pub turns: Option<u32>,
    /// Calls that were denied.
    pub denied: Vec<String>,
    /// The rounds of review that were judged, oldest first.
    pub rounds: Vec<Round>,
    /// Its runs, oldest first.
    pub runs: Vec<Run>,
    /// The chain or batch that it belongs to.
    pub group: Option<GroupId>,
    /// Of a step: values taken out of its output.
    pub vars: BTreeMap<String, String>,
    /// Of a step: failures of the work that were tried anew.
    pub failures: u32,
    /// Of a step: it is at its recovery prompt, or ended with that.
    pub recovering: bool,
    /// The number of its last event.
    pub n: u64,
    /// The number under which its coordinator hears of how it stands, once there is something to hear.
    pub news: Option<u64>,
    /// The news that an answer to its coordinator has named last, arrived or not.
    pub offered: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_from_the_future_survives_a_round_trip() {
        let text = r#"{"prompt":"p","options":{"model":"m"},"hologram":{"x":[]},"big":12345678901234567}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        let again: Value = serde_json::to_value(&spec).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
    }
}
