//! Chains and fan-outs: what is asked, what is refused, and the tasks that they are made of.
//!
//! A step is a task that follows the one before; a chain is over when all its steps are. Not here: the places in
//! prompts (`template.rs`), what becomes of a step that failed (`attempt.rs`), who sets it free (`after.lua`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::attempt::Report;
use super::ids::{GroupId, GroupKind, Id, TaskId};
use super::limits;
use super::options::{AfterFailure, TaskOptions};
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

/// One thing of several that are submitted at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A task.
    Task(Spec),
    /// A chain.
    Chain(Chain),
}

/// Independent tasks and chains, and perhaps a task that gathers what they gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FanOut {
    /// 1 to 1,000 of them.
    pub items: Vec<Item>,
    /// A task that begins when all of them are over, however they ended; `{outputs}` is what they gave.
    pub collect: Option<Spec>,
    /// What is the batch's own: `coordinator`, `tags`, `once`, `after`, `after_failure`, `delay_s`.
    pub options: TaskOptions,
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

fn refuse_own_options(what: &str, options: &TaskOptions) -> Result<()> {
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
    fn plan(self, nodes: &mut Vec<Node>, batch: Option<usize>, first_follows: &[Ref]) {
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

fn title_of(prompt: &str) -> String {
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

impl FanOut {
    /// The options of its tasks and steps.
    pub fn options_of_parts(&self) -> impl Iterator<Item = &TaskOptions> {
        fn of_item(item: &Item) -> Vec<&TaskOptions> {
            match item {
                Item::Task(spec) => vec![&spec.options],
                Item::Chain(chain) => chain.steps.iter().map(|step| &step.options).collect(),
            }
        }
        self.items.iter().flat_map(of_item).chain(self.collect.iter().map(|spec| &spec.options))
    }

    /// In an embedded pool its tasks work in the submitter's project directory.
    pub fn work_in(&mut self, project_dir: Option<&str>) {
        let dir = || project_dir.map(str::to_owned);
        for item in &mut self.items {
            match item {
                Item::Task(spec) => spec.project_dir = dir(),
                Item::Chain(chain) => chain.project_dir = dir(),
            }
        }
        if let Some(spec) = &mut self.collect {
            spec.project_dir = dir();
        }
    }

    /// Its records, ids rising in the order of the items: those of each item, the task that collects, the batch.
    ///
    /// # Errors
    /// What cannot be carried out, with the item's number.
    pub fn nodes(self) -> Result<Vec<Node>> {
        if self.items.is_empty() {
            return Err(Error::usage("there are no items").hint("give at least one prompt, task or chain"));
        }
        if self.items.len() > limits::ITEMS {
            return Err(Error::usage(format!("there are {} items", self.items.len()))
                .hint(format!("at most {} are taken in one fan-out", limits::ITEMS)));
        }
        self.options.check()?;
        let records: usize = self.items.iter().map(Item::records).sum();
        let batch = records + usize::from(self.collect.is_some());
        let mut nodes = Vec::new();
        let mut members = Vec::new();
        let title = self.items.first().map(Item::title).unwrap_or_default();
        for (at, item) in self.items.into_iter().enumerate() {
            let what = format!("item {}", at + 1);
            let within = |error: Error| {
                let told = Error::usage(format!("{what}: {}", error.message()));
                match error.hint_text() {
                    Some(hint) => told.hint(hint),
                    None => told,
                }
            };
            match item {
                Item::Task(mut spec) => {
                    limits::check_prompt(&spec.prompt).map_err(within)?;
                    spec.options.check().map_err(within)?;
                    refuse_own_options(&what, &spec.options)?;
                    inherit(&mut spec.options, &self.options);
                    nodes.push(Node::Task { spec: Box::new(spec), follows: Vec::new(), group: Some(batch) });
                }
                Item::Chain(mut chain) => {
                    refuse_own_options(&what, &chain.options)?;
                    inherit(&mut chain.options, &self.options);
                    chain.check().map_err(within)?;
                    chain.plan(&mut nodes, Some(batch), &[]);
                }
            }
            members.push(Ref::Here(nodes.len() - 1));
        }
        let collects = self.collect.is_some();
        if let Some(mut spec) = self.collect {
            limits::check_prompt(&spec.prompt)?;
            Template::read(&spec.prompt, Prompt::Collect)?;
            refuse_own_options("collect", &spec.options)?;
            spec.options.coordinator.clone_from(&self.options.coordinator);
            spec.options.after_failure = Some(AfterFailure::Run);
            spec.collects = true;
            nodes.push(Node::Task { spec: Box::new(spec), follows: members.clone(), group: Some(batch) });
            members.push(Ref::Here(nodes.len() - 1));
        }
        nodes.push(Node::Group {
            kind: GroupKind::Batch,
            spec: GroupSpec { collects, ..GroupSpec::default() },
            options: Box::new(self.options),
            title,
            members,
            group: None,
        });
        Ok(nodes)
    }
}

/// What is said of the whole holds for each item.
fn inherit(item: &mut TaskOptions, whole: &TaskOptions) {
    item.coordinator.clone_from(&whole.coordinator);
    item.after.extend(&whole.after);
    let mut known = BTreeSet::new();
    item.after.retain(|id| known.insert(*id));
    item.after_failure = item.after_failure.or(whole.after_failure);
    item.delay_s = item.delay_s.or(whole.delay_s);
    item.review = item.review.or(whole.review);
    item.max_rejections = item.max_rejections.or(whole.max_rejections);
}

impl Item {
    fn records(&self) -> usize {
        match self {
            Self::Task(_) => 1,
            Self::Chain(chain) => chain.steps.len() + 1,
        }
    }

    fn title(&self) -> String {
        match self {
            Self::Task(spec) => spec.title(),
            Self::Chain(chain) => chain.steps.first().map(|step| title_of(&step.prompt)).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(steps: Vec<ChainStep>) -> Chain {
        Chain { steps, ..Chain::default() }
    }

    #[test]
    fn a_step_follows_the_one_before_and_the_chain_holds_them() {
        let options = TaskOptions { after: vec!["b2".parse().unwrap()], delay_s: Some(5), ..TaskOptions::default() };
        let steps = vec![ChainStep::new("a", "one").output_var("v", "."), ChainStep::new("b", "{steps.a.v}")];
        let nodes = Chain { steps, options, project_dir: None }.nodes().unwrap();
        let Node::Task { spec, follows, group } = &nodes[0] else { panic!("{nodes:?}") };
        assert_eq!((spec.options.after.len(), spec.options.delay_s, follows.len(), *group), (1, Some(5), 0, Some(2)));
        let Node::Task { spec, follows, group } = &nodes[1] else { panic!("{nodes:?}") };
        assert_eq!((spec.options.after.len(), spec.options.delay_s, *group), (0, None, Some(2)));
        assert_eq!(follows, &[Ref::Here(0)]);
        let Node::Group { spec, members, title, .. } = &nodes[2] else { panic!("{nodes:?}") };
        assert_eq!((spec.names.join(" "), members.len(), title.as_str()), ("a b".to_owned(), 2, "one"));
    }

    #[test]
    fn a_chain_that_goes_on_takes_what_is_done() {
        let steps = ["a", "b", "c"].map(|name| ChainStep::new(name, name)).to_vec();
        let nodes = chain(steps).nodes_from(&[TaskId::new(7)], "c1".parse().unwrap()).unwrap();
        let Node::Task { follows, group, .. } = &nodes[0] else { panic!("{nodes:?}") };
        assert_eq!((follows.as_slice(), *group), (&[Ref::Known(TaskId::new(7).into())][..], Some(2)));
        let Node::Group { members, .. } = &nodes[2] else { panic!("{nodes:?}") };
        assert_eq!(members.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t7", "@0", "@1"]);
    }

    #[test]
    fn what_a_chain_cannot_do_is_refused_with_the_step() {
        let var = |prompt: &str| ChainStep::new("b", prompt);
        let recovery =
            ChainStep { recovery_prompt: Some("{previous_output} {error}".into()), ..ChainStep::new("a", "x") };
        for (steps, message, hint) in [
            (vec![], "no steps", "at least one"),
            (vec![ChainStep::new("a", "{previous_output}")], "step 1 (a): its prompt", "{{previous_output}"),
            (vec![recovery], "step 1 (a): its recovery_prompt", "{{previous_output}"),
            (vec![ChainStep::new("a b", "x")], "step 1 (a b): the name", "letters"),
            (vec![ChainStep::new("a", " ")], "step 1 (a): the prompt is empty", ""),
            (vec![ChainStep::new("a", "x"), ChainStep::new("a", "y")], "step 2 (a): there is another", "own"),
            (vec![ChainStep::new("a", "x"), var("{steps.c.v}")], "no step before it is called c", "before it: a"),
            (vec![ChainStep::new("a", "x").output_var("w", "."), var("{steps.a.v}")], "a does not give", "of a: w"),
            (vec![ChainStep::new("a", "{steps.b.v}"), var("x").output_var("v", "")], "called b", "none"),
            (vec![ChainStep::new("a", "x"); 101], "101 steps", "at most 100"),
        ] {
            let error = chain(steps).nodes().expect_err(message);
            assert!(error.message().contains(message), "{error}");
            assert!(error.hint_text().unwrap_or("").contains(hint), "{error}");
        }
    }

    #[test]
    fn items_of_a_fan_out_stand_in_order_and_what_collects_behind_them() {
        let task = |prompt: &str| Item::Task(Spec::new(prompt, TaskOptions::default()).unwrap());
        let steps = vec![ChainStep::new("a", "one"), ChainStep::new("b", "two")];
        let fan_out = FanOut {
            items: vec![task("first"), Item::Chain(chain(steps)), task("last")],
            collect: Some(Spec::new("{outputs}", TaskOptions::default()).unwrap()),
            options: TaskOptions { coordinator: Some("me".into()), ..TaskOptions::default() },
        };
        let nodes = fan_out.nodes().unwrap();
        assert_eq!(nodes.len(), 7);
        let Node::Group { members, kind: GroupKind::Batch, .. } = &nodes[6] else { panic!("{nodes:?}") };
        assert_eq!(members, &[0, 3, 4, 5].map(Ref::Here));
        let Node::Task { spec, follows, group: Some(6) } = &nodes[5] else { panic!("{nodes:?}") };
        assert_eq!((follows.as_slice(), spec.collects), (&[0, 3, 4].map(Ref::Here)[..], true));
        let own = |node: &Node| match node {
            Node::Task { spec, .. } => spec.options.coordinator.clone(),
            Node::Group { options, .. } => options.coordinator.clone(),
        };
        assert!(nodes.iter().all(|node| own(node).as_deref() == Some("me")));
        let wrong = FanOut { items: vec![task("x"), Item::Chain(chain(vec![]))], ..FanOut::default() };
        assert!(wrong.nodes().unwrap_err().message().starts_with("item 2: the chain has no steps"));
    }
}
