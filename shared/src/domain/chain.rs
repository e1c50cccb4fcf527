//! Chains: what is asked, what is refused, and the tasks that they are made of.
//!
//! A step is a task that follows the one before; a chain is over when all its steps are. Not here: the places in
//! prompts (`template.rs`), fan-outs (`batch.rs`), what becomes of a step that failed (`attempt.rs`), who sets it free (`after.lua`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::attempt::Report;
use super::ids::{GroupId, GroupKind, Id, TaskId};
use super::limits;
use super::options::TaskOptions;
use super::task::Spec;
use super::template::{self, Place, Prompt, Template};
use crate::error::{Error, Result};

/// A step as its task carries it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// Its name, unique in the chain.
    pub name: String,
    /// Its place in the chain, from 1.
    pub number: u32,
    /// Values to take out of its output, by name: where each stands.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub output_vars: BTreeMap<String, String>,
    /// How often a failure of the work is tried anew.
    pub retries: u32,
    /// What is asked, once, when those are used up; `{error}` is why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_prompt: Option<String>,
}

impl Step {
    /// The values that it takes out of what its run gave; those that are not there are left out.
    #[must_use]
    pub fn values(&self, id: TaskId, report: &Report) -> BTreeMap<String, String> {
        let output = report.output.as_deref().unwrap_or("");
        let value = |(name, path): (&String, &String)| {
            let text = template::extract(path, output, report.structured.as_ref())?;
            Some((name.clone(), template::shortened(&text, &format!("`motorpool result {id}`"))))
        };
        self.output_vars.iter().filter_map(value).collect()
    }
}

/// A step as it is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainStep {
    /// Its name; `step-N` where there is none.
    pub name: String,
    /// Its prompt; `{previous_output}` and `{steps.NAME.VAR}` are filled in when it begins.
    pub prompt: String,
    /// Its options.
    pub options: TaskOptions,
    /// Values to take out of its output, by name: a path in its JSON (`a.b.0`), or `.` for all of it.
    pub output_vars: BTreeMap<String, String>,
    /// How often a failure of the work is tried anew; 0.
    pub retries: u32,
    /// What is asked, once, when those are used up; `{error}` is why it failed.
    pub recovery_prompt: Option<String>,
}

impl ChainStep {
    /// A step with a name and a prompt.
    pub fn new(name: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self { name: name.into(), prompt: prompt.into(), ..Self::default() }
    }

    /// Takes a value out of its output, for the steps behind it.
    #[must_use]
    pub fn output_var(mut self, name: impl Into<String>, path: impl Into<String>) -> Self {
        self.output_vars.insert(name.into(), path.into());
        self
    }
}

/// Steps in order, each fed by the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// Its steps, 1 to 100.
    pub steps: Vec<ChainStep>,
    /// What is the chain's own: `coordinator`, `tags`, `once`, `after`, `after_failure`, `delay_s`; `review` and
    /// `max_rejections` are of its last step.
    pub options: TaskOptions,
    /// The submitter's project directory, in an embedded pool.
    pub project_dir: Option<String>,
}

/// What holds tasks together, as it is stored; fields of a later version survive a round trip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupSpec {
    /// Of a chain: the names of its steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Of a batch: its last member gathers what the others gave.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub collects: bool,
    /// The chain that it goes on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<GroupId>,
    /// What a later version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A thing of the pool, or one of the same submission by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ref {
    /// It is there.
    Known(Id),
    /// It is made by the same call, further up.
    Here(usize),
}

impl std::fmt::Display for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(id) => id.fmt(f),
            Self::Here(place) => write!(f, "@{place}"),
        }
    }
}

/// What is to be written, in the order in which ids are given.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A task.
    Task {
        /// What was asked.
        spec: Box<Spec>,
        /// What it follows, besides what its options say.
        follows: Vec<Ref>,
        /// The place of the group that it belongs to.
        group: Option<usize>,
    },
    /// A chain or batch, behind its members.
    Group {
        /// Which of the two.
        kind: GroupKind,
        /// What was asked.
        spec: GroupSpec,
        /// Its own options.
        options: Box<TaskOptions>,
        /// What it is called in lists.
        title: String,
        /// What it holds together, in order.
        members: Vec<Ref>,
        /// The place of the batch that it belongs to.
        group: Option<usize>,
    },
}

impl Node {
    /// A task of its own.
    #[must_use]
    pub fn task(spec: Spec) -> Self {
        Self::Task { spec: Box::new(spec), follows: Vec::new(), group: None }
    }
}

pub(super) fn refuse_own_options(what: &str, options: &TaskOptions) -> Result<()> {
    let wrong = [("once", options.once.is_some()), ("coordinator", options.coordinator.is_some())];
    match wrong.iter().find(|(_, is_set)| *is_set) {
        Some((name, _)) => {
            Err(Error::usage(format!("{what}: {name} is not for a single one"))
                .hint(format!("give {name} for the whole")))
        }
        None => Ok(()),
    }
}

impl Chain {
    /// Refuses what cannot be carried out: names, places that name nothing that is there by then, bounds.
    pub fn check(&self) -> Result<()> {
        if self.steps.is_empty() {
            return Err(Error::usage("the chain has no steps").hint("give at least one, with a name and a prompt"));
        }
        if self.steps.len() > limits::STEPS {
            return Err(Error::usage(format!("the chain has {} steps", self.steps.len()))
                .hint(format!("at most {} are taken", limits::STEPS)));
        }
        self.options.check()?;
        let mut before: BTreeMap<&str, &BTreeMap<String, String>> = BTreeMap::new();
        for (at, step) in self.steps.iter().enumerate() {
            let what = format!("step {} ({})", at + 1, step.name);
            step.check(&what, at == 0, &before)?;
            if before.insert(&step.name, &step.output_vars).is_some() {
                return Err(Error::usage(format!("{what}: there is another step of this name"))
                    .hint("give each step a name of its own"));
            }
        }
        Ok(())
    }

    /// Its records, behind those that stand there: the steps, then the chain.
    pub(super) fn plan(self, nodes: &mut Vec<Node>, batch: Option<usize>, first_follows: &[Ref]) {
        let first = nodes.len();
        let chain = first + self.steps.len();
        let names = self.steps.iter().map(|step| step.name.clone()).collect();
        let title = self.steps.first().map(|step| title_of(&step.prompt)).unwrap_or_default();
        for (at, step) in self.steps.into_iter().enumerate() {
            let mut options = step.options;
            if at + 1 == chain - first {
                // What is said of the chain is said of its result.
                options.review = options.review.or(self.options.review);
                options.max_rejections = options.max_rejections.or(self.options.max_rejections);
            }
            let follows = if at == 0 {
                options.after.extend(&self.options.after);
                options.after_failure = self.options.after_failure.or(options.after_failure);
                options.delay_s = self.options.delay_s.or(options.delay_s);
                first_follows.to_vec()
            } else {
                // What went before has to have succeeded.
                options.after_failure = None;
                vec![Ref::Here(first + at - 1)]
            };
            options.coordinator.clone_from(&self.options.coordinator);
            let carried = Step {
                name: step.name,
                number: at as u32 + 1,
                output_vars: step.output_vars,
                retries: step.retries,
                recovery_prompt: step.recovery_prompt,
            };
            let project_dir = self.project_dir.clone();
            let spec = Spec { prompt: step.prompt, options, project_dir, step: Some(carried), ..Spec::default() };
            nodes.push(Node::Task { spec: Box::new(spec), follows, group: Some(chain) });
        }
        nodes.push(Node::Group {
            kind: GroupKind::Chain,
            spec: GroupSpec { names, ..GroupSpec::default() },
            options: Box::new(self.options),
            title,
            members: (first..chain).map(Ref::Here).collect(),
            group: batch,
        });
    }

    /// Its records.
    ///
    /// # Errors
    /// As [`Chain::check`].
    pub fn nodes(self) -> Result<Vec<Node>> {
        self.check()?;
        let mut nodes = Vec::new();
        self.plan(&mut nodes, None, &[]);
        Ok(nodes)
    }

    /// The records of a chain that begins at step `from` (from 0), those before it being `done` already.
    ///
    /// # Errors
    /// As [`Chain::check`].
    pub fn nodes_from(self, done: &[TaskId], retry_of: GroupId) -> Result<Vec<Node>> {
        self.check()?;
        let from = done.len();
        let all = self.nodes()?;
        let mut nodes = Vec::new();
        for node in all.into_iter().skip(from) {
            nodes.push(match node {
                Node::Task { spec, follows, .. } => {
                    let follows = follows.into_iter().map(|one| shifted(one, from, done)).collect();
                    Node::Task { spec, follows, group: None }
                }
                Node::Group { kind, spec, options, title, members, group } => {
                    let members = members.into_iter().map(|one| shifted(one, from, done)).collect();
                    let spec = GroupSpec { retry_of: Some(retry_of), ..spec };
                    Node::Group { kind, spec, options, title, members, group }
                }
            });
        }
        let chain = nodes.len() - 1;
        for node in &mut nodes {
            if let Node::Task { group, .. } = node {
                *group = Some(chain);
            }
        }
        Ok(nodes)
    }
}

fn shifted(one: Ref, from: usize, done: &[TaskId]) -> Ref {
    match one {
        Ref::Here(place) if place < from => Ref::Known(done[place].into()),
        Ref::Here(place) => Ref::Here(place - from),
        known @ Ref::Known(_) => known,
    }
}

pub(super) fn title_of(prompt: &str) -> String {
    Spec { prompt: prompt.to_owned(), ..Spec::default() }.title()
}

impl ChainStep {
    fn check(&self, what: &str, is_first: bool, before: &BTreeMap<&str, &BTreeMap<String, String>>) -> Result<()> {
        let within = |error: Error| {
            let told = Error::usage(format!("{what}: {}", error.message()));
            match error.hint_text() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        };
        if !template::is_name(&self.name) {
            return Err(Error::usage(format!("{what}: the name does not do"))
                .hint(format!("use 1 to {} letters, digits, - and _", limits::STEP_NAME_CHARS)));
        }
        limits::check_prompt(&self.prompt).map_err(within)?;
        self.options.check().map_err(within)?;
        refuse_own_options(what, &self.options)?;
        if self.retries > limits::STEP_RETRIES {
            return Err(Error::usage(format!("{what}: {} retries", self.retries))
                .hint(format!("at most {} are taken", limits::STEP_RETRIES)));
        }
        if self.output_vars.len() > limits::OUTPUT_VARS {
            return Err(Error::usage(format!("{what}: {} output_vars", self.output_vars.len()))
                .hint(format!("at most {} are taken", limits::OUTPUT_VARS)));
        }
        if let Some(name) = self.output_vars.keys().find(|name| !template::is_name(name)) {
            return Err(Error::usage(format!("{what}: {name:?} is no name of a variable"))
                .hint(format!("use 1 to {} letters, digits, - and _", limits::STEP_NAME_CHARS)));
        }
        let mut prompts = vec![("its prompt", &self.prompt, Prompt::Step)];
        if let Some(recovery) = &self.recovery_prompt {
            limits::check_prompt(recovery).map_err(within)?;
            prompts.push(("its recovery_prompt", recovery, Prompt::Recovery));
        }
        for (which, prompt, kind) in prompts {
            let read = Template::read(prompt, kind).map_err(within)?;
            for place in read.places() {
                self.check_place(what, which, place, is_first, before)?;
            }
        }
        Ok(())
    }

    fn check_place(
        &self,
        what: &str,
        which: &str,
        place: &Place,
        is_first: bool,
        before: &BTreeMap<&str, &BTreeMap<String, String>>,
    ) -> Result<()> {
        match place {
            Place::Previous if is_first => {
                Err(Error::usage(format!("{what}: {which} names {place}, and there is no step before the first"))
                    .hint("say what it is to work on; {{previous_output} stands for the words themselves"))
            }
            Place::Var { step, var } => match before.get(step.as_str()) {
                None => {
                    let names: Vec<&str> = before.keys().copied().collect();
                    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                    Err(Error::usage(format!("{what}: {which} names {place}, and no step before it is called {step}"))
                        .hint(format!("the steps before it: {known}")))
                }
                Some(vars) if !vars.contains_key(var) => {
                    let names: Vec<&str> = vars.keys().map(String::as_str).collect();
                    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                    Err(Error::usage(format!("{what}: {which} names {place}, which {step} does not give"))
                        .hint(format!("the output_vars of {step}: {known}")))
                }
                Some(_) => Ok(()),
            },
            Place::Previous | Place::Error | Place::Outputs => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
