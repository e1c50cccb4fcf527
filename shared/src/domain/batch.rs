//! Fan-outs: independent tasks and chains at once, and the records that they are made of.
//!
//! Not here: chains (`chain.rs`), how a batch stands (`group.rs`).

use std::collections::BTreeSet;

use super::chain::{Chain, GroupSpec, Node, Ref, refuse_own_options, title_of};
use super::ids::GroupKind;
use super::limits;
use super::options::{AfterFailure, TaskOptions};
use super::task::Spec;
use super::template::{Prompt, Template};
use crate::error::{Error, Result};

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
