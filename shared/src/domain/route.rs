//! Routing: whether a piece of work is done by one worker, by several at once, or step by step.
//!
//! A worker classifies it; what it answers is read here, and anything that will not do becomes one task with the reason
//! told. Not here: the run that classifies (`pool/route.rs`), the prompt (`shared/route/prompt.md`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attempt::{Class, Failure};
use super::chain::{Chain, ChainStep};
use super::ids::Id;
use super::options::TaskOptions;
use super::state::words;
use super::task::Record;
use super::{limits, template};
use crate::error::{Error, Result};

/// The prompt of the classification, where there is no other.
pub const PROMPT: &str = include_str!("../../route/prompt.md");
/// Most parts or steps where nobody says.
const MOST: u32 = 12;

words! {
    /// One of the three ways.
    RouteKind {
        /// One task.
        Single = "single",
        /// Several tasks at once.
        Parallel = "parallel",
        /// One after the other.
        Chain = "chain",
    }
}

/// What a caller says of the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hints {
    /// Most parts of a fan-out; what has more becomes one task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// Most steps of a chain; what has more becomes one task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_chain_steps: Option<u32>,
    /// Which way is to be taken where two would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer: Option<RouteKind>,
    /// What the work is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// How it may be taken apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decomposition_hints: Option<String>,
}

/// Longest text of a hint, in bytes.
const HINT_BYTES: usize = 4 * 1024;

impl Hints {
    /// Refuses what says nothing.
    pub fn check(&self) -> Result<()> {
        for (name, most) in [("max_parallel", self.max_parallel), ("max_chain_steps", self.max_chain_steps)] {
            if most.is_some_and(|most| !(1..=limits::STEPS as u32).contains(&most)) {
                return Err(Error::usage(format!("{name} does not do")).hint("give a whole number from 1 to 100"));
            }
        }
        let texts = [("domain", &self.domain), ("decomposition_hints", &self.decomposition_hints)];
        for (name, text) in texts {
            if text.as_ref().is_some_and(|text| text.trim().is_empty() || text.len() > HINT_BYTES) {
                return Err(Error::usage(format!("{name} does not do"))
                    .hint(format!("give 1 to {HINT_BYTES} bytes, or leave it out")));
            }
        }
        Ok(())
    }

    fn most_parallel(&self) -> u32 {
        self.max_parallel.unwrap_or(MOST)
    }

    fn most_steps(&self) -> u32 {
        self.max_chain_steps.unwrap_or(MOST)
    }

    /// As lines of the prompt.
    fn words(&self) -> String {
        let mut lines = vec![
            format!("- A fan-out has at most {} parts.", self.most_parallel()),
            format!("- A chain has at most {} steps.", self.most_steps()),
        ];
        if let Some(kind) = self.prefer {
            lines.push(format!("- Where two routes would do, take `{kind}`."));
        }
        if let Some(domain) = &self.domain {
            lines.push(format!("- The work is about: {domain}"));
        }
        if let Some(hints) = &self.decomposition_hints {
            lines.push(format!("- How it may be taken apart: {hints}"));
        }
        lines.join("\n")
    }
}

/// How a piece of work is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "route", rename_all = "snake_case")]
pub enum Route {
    /// By one worker, as it was asked.
    Single {
        /// What was asked.
        prompt: String,
    },
    /// By several at once.
    Parallel {
        /// What each is asked.
        prompts: Vec<String>,
    },
    /// By several, one after the other.
    Chain {
        /// What each is asked.
        steps: Vec<RouteStep>,
    },
}

/// A step of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStep {
    /// Its name.
    pub name: String,
    /// What it asks.
    pub prompt: String,
}

impl Route {
    /// Which of the three.
    #[must_use]
    pub fn kind(&self) -> RouteKind {
        match self {
            Self::Single { .. } => RouteKind::Single,
            Self::Parallel { .. } => RouteKind::Parallel,
            Self::Chain { .. } => RouteKind::Chain,
        }
    }

    /// How many parts or steps it has.
    #[must_use]
    pub fn parts(&self) -> usize {
        match self {
            Self::Single { .. } => 1,
            Self::Parallel { prompts } => prompts.len(),
            Self::Chain { steps } => steps.len(),
        }
    }

    /// In words: `3 tasks at once`.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Single { .. } => "one task".to_owned(),
            Self::Parallel { prompts } => format!("{} tasks at once", prompts.len()),
            Self::Chain { steps } => {
                let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
                format!("a chain of {}: {}", steps.len(), names.join(", "))
            }
        }
    }
}

/// A route, and why it is not the one that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How it is done.
    pub route: Route,
    /// Why it is one task, where no answer says so.
    pub fallback: Option<String>,
}

/// Work that is started as it is classified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auto {
    /// The work.
    pub prompt: String,
    /// What was said of the decision.
    pub hints: Hints,
    /// The options of each part.
    pub options: TaskOptions,
}

/// What a classification came to, as it stands in its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// How the work is done.
    #[serde(flatten)]
    pub route: Route,
    /// Why it is one task, where no answer says so.
    pub fallback: Option<String>,
    /// The task, chain or batch that was started.
    pub made: Option<Id>,
}

impl Carried {
    /// What the task that decided has started, if it has.
    #[must_use]
    pub fn of(record: &Record) -> Option<(Self, Id)> {
        record.spec.as_ref()?.auto.as_ref()?;
        let carried: Self = serde_json::from_value(record.structured.clone()?).ok()?;
        let made = carried.made?;
        Some((carried, made))
    }
}

/// The system prompt of the classification.
#[must_use]
pub fn system_prompt(own: Option<&str>, hints: &Hints) -> String {
    format!("{}\n\n## Limits and wishes of this call\n\n{}\n", own.unwrap_or(PROMPT).trim_end(), hints.words())
}

/// What is asked: the work between tags that it cannot close.
#[must_use]
pub fn question(prompt: &str) -> String {
    let inner = prompt.replace("</task>", "<\\/task>");
    format!("<task>\n{inner}\n</task>")
}

/// What its answer has to look like.
#[must_use]
pub fn schema(hints: &Hints) -> Value {
    json!({
        "type": "object",
        "properties": {
            "route": {"enum": ["single", "parallel", "chain"]},
            "prompts": {"type": "array", "items": {"type": "string"}, "maxItems": hints.most_parallel()},
            "steps": {"type": "array", "maxItems": hints.most_steps(), "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "prompt": {"type": "string"}},
                "required": ["name", "prompt"],
            }},
        },
        "required": ["route"],
    })
}

/// What an answer comes to: the route, or one task and why.
#[must_use]
pub fn decide(prompt: &str, hints: &Hints, answer: Option<&Value>) -> Decision {
    let single = || Route::Single { prompt: prompt.to_owned() };
    let fall_back = |why: String| Decision { route: single(), fallback: Some(why) };
    let Some(answer) = answer else { return fall_back("the classification brought no JSON".into()) };
    let read = match read(answer) {
        Ok(read) => read,
        Err(why) => return fall_back(why),
    };
    let route = match read {
        Read::Single => return Decision { route: single(), fallback: None },
        Read::Parallel(prompts) => Route::Parallel { prompts },
        Read::Chain(steps) => Route::Chain { steps: named(steps) },
    };
    if route.parts() < 2 {
        return fall_back(format!("the answer was {} of {} part", route.kind(), route.parts()));
    }
    let most = if route.kind() == RouteKind::Parallel { hints.most_parallel() } else { hints.most_steps() };
    if route.parts() > most as usize {
        return fall_back(format!(
            "the answer was {} of {} parts, and at most {most} are allowed",
            route.kind(),
            route.parts()
        ));
    }
    if let Route::Parallel { prompts } = &route
        && let Some(error) = prompts.iter().find_map(|prompt| limits::check_prompt(prompt).err())
    {
        return fall_back(format!("a part that was answered does not do: {}", error.message()));
    }
    match chain_of(&route, TaskOptions::default()).map(|chain| chain.check()) {
        Some(Err(error)) => fall_back(format!("the chain that was answered does not do: {}", error.message())),
        _ => Decision { route, fallback: None },
    }
}

/// What a failed classification comes to: one task, where the failure is of the classification itself. Nothing where
/// the pool cannot work: trying the work itself would not help.
#[must_use]
pub fn fall_back(prompt: &str, failure: &Failure) -> Option<Decision> {
    if matches!(failure.class, Class::Auth | Class::Limit | Class::Lost | Class::Transient | Class::Cancelled) {
        return None;
    }
    let fallback = Some(format!("the classification failed ({}: {})", failure.class, failure.message));
    Some(Decision { route: Route::Single { prompt: prompt.to_owned() }, fallback })
}

enum Read {
    Single,
    Parallel(Vec<String>),
    Chain(Vec<(String, String)>),
}

fn read(answer: &Value) -> std::result::Result<Read, String> {
    let text = |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    match answer.get("route").and_then(Value::as_str) {
        Some("single") => Ok(Read::Single),
        Some("parallel") => {
            let Some(prompts) = answer.get("prompts").and_then(Value::as_array) else {
                return Err("the answer was parallel, without prompts".into());
            };
            Ok(Read::Parallel(prompts.iter().filter_map(text).collect()))
        }
        Some("chain") => {
            let Some(steps) = answer.get("steps").and_then(Value::as_array) else {
                return Err("the answer was chain, without steps".into());
            };
            let step = |step: &Value| {
                let name = step.get("name").and_then(text).unwrap_or_default();
                Some((name, step.get("prompt").and_then(text)?))
            };
            Ok(Read::Chain(steps.iter().filter_map(step).collect()))
        }
        Some(other) => Err(format!("the answer was a route that there is not: {:?}", limits::cut_middle(other, 60))),
        None => Err("the answer names no route".into()),
    }
}

/// Steps with names that do, each its own.
fn named(steps: Vec<(String, String)>) -> Vec<RouteStep> {
    let mut known = BTreeSet::new();
    let mut named = Vec::new();
    for (at, (name, prompt)) in steps.into_iter().enumerate() {
        let mut name = if template::is_name(&name) { name } else { format!("step-{}", at + 1) };
        while !known.insert(name.clone()) {
            name = format!("step-{}-{}", at + 1, known.len());
        }
        named.push(RouteStep { name, prompt });
    }
    named
}

/// The chain of a route that is one; each step with these options.
#[must_use]
pub fn chain_of(route: &Route, options: TaskOptions) -> Option<Chain> {
    let Route::Chain { steps } = route else { return None };
    let own = options.of_one();
    let step = |step: &RouteStep| ChainStep { options: own.clone(), ..ChainStep::new(&step.name, &step.prompt) };
    Some(Chain { steps: steps.iter().map(step).collect(), options: options.of_whole(), project_dir: None })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
