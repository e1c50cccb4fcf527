//! Trying anew what failed or was cancelled: as a new task, or a new chain that begins where the old one stopped.
//!
//! Not here: attempts of the same task (`domain/attempt.rs`).

use std::collections::BTreeMap;

use super::group::SubmittedGroup;
use super::{Pool, Submitted};
use crate::domain::chain::{Chain, ChainStep, Step};
use crate::domain::ids::{GroupId, GroupKind, Id, TaskId};
use crate::domain::options::{AfterFailure, TaskOptions};
use crate::domain::state::State;
use crate::domain::task::{Record, Spec};
use crate::domain::template::{Place, Prompt, Template};
use crate::error::{Error, Result};

/// Whether a step that succeeded owes a value to one behind it, which fails without.
fn owes(step: &Step, vars: &BTreeMap<String, String>, behind: &[(Record, Spec, Step)]) -> bool {
    let missing: Vec<&String> = step.output_vars.keys().filter(|var| !vars.contains_key(*var)).collect();
    let names = |prompt: &str| {
        Template::read(prompt, Prompt::Step).is_ok_and(|template| {
            let named = |place: &&Place| matches!(place, Place::Var { step: of, var } if *of == step.name && missing.contains(&var));
            template.places().iter().any(named)
        })
    };
    !missing.is_empty() && behind.iter().any(|(_, spec, _)| names(&spec.prompt))
}

impl Pool {
    /// Tries a task anew that failed or was cancelled: a new task with the same prompt and options, but its key. Asked
    /// for again it makes no second one.
    ///
    /// # Errors
    /// An id that nobody knows; a task that is not over, or that succeeded; as [`Pool::submit`].
    pub async fn retry(&self, id: TaskId) -> Result<Submitted> {
        let record = self.task(id).await?;
        if !matches!(record.state, State::Failed | State::Cancelled) {
            return Err(Error::refused(format!(
                "{id} is {}; only what failed or was cancelled is tried anew",
                record.state
            ))
            .hint("submit it once more for a second result"));
        }
        if let (Some(group), true) = (record.group, record.spec.as_ref().is_some_and(|spec| spec.step.is_some())) {
            return Err(Error::refused(format!("{id} is a step of {group}")).hint(format!("`motorpool retry {group}`")));
        }
        if let (Some(group), true) = (record.group, record.spec.as_ref().is_some_and(|spec| spec.collects)) {
            return Err(Error::refused(format!("{id} gathers what {group} gave"))
                .hint(format!("submit what it was to do with --after {group}, or the whole once more")));
        }
        let Some(mut spec) = record.spec else {
            return Err(Error::failed(format!("what {id} was asked is not known any more")));
        };
        self.keep_following(id, &mut spec.options).await?;
        spec.options.once = None;
        spec.options.delay_s = None;
        spec.retry_of = Some(id);
        self.submit(spec).await
    }

    /// A new chain that begins at the step of a chain that failed or was cancelled, with the outputs so far. Asked for
    /// again it makes no second one.
    ///
    /// # Errors
    /// An id that nobody knows; a chain that is not over, or that succeeded.
    pub async fn retry_chain(&self, id: GroupId) -> Result<SubmittedGroup> {
        let group = self.group(id).await?;
        if group.id.kind != GroupKind::Chain {
            return Err(Error::refused(format!("{id} is a batch")).hint("try its failed items anew, each by its id"));
        }
        if !matches!(group.state, State::Failed | State::Cancelled) {
            let state = self.view_of(group).await?.state;
            return Err(Error::refused(format!("{id} is {state}; only what failed or was cancelled is tried anew"))
                .hint("submit it once more for a second result"));
        }
        let mut members = Vec::new();
        for member in &group.members {
            let Id::Task(task) = *member else { continue };
            let mut record = self.task(task).await?;
            let Some((spec, step)) = record.spec.take().and_then(|spec| spec.step.clone().map(|step| (spec, step)))
            else {
                return Err(Error::failed(format!("what {task} of {id} was asked is not known any more")));
            };
            members.push((record, spec, step));
        }
        let is_done = |at: usize| {
            let (record, _, step) = &members[at];
            record.state == State::Completed && !owes(step, &record.vars, &members[at + 1..])
        };
        let done = (0..members.len()).take_while(|at| is_done(*at)).count();
        let kept: Vec<TaskId> = members[..done].iter().map(|(record, ..)| record.id).collect();
        let mut chain = Chain::default();
        for (at, (record, spec, step)) in members.into_iter().enumerate() {
            chain.project_dir = spec.project_dir.or(chain.project_dir);
            let mut options = spec.options;
            chain.options.coordinator = options.coordinator.take();
            options.once = None;
            options.delay_s = None;
            if at < done {
                options.after.clear();
            } else {
                self.keep_following(record.id, &mut options).await?;
            }
            chain.steps.push(ChainStep {
                name: step.name,
                prompt: spec.prompt,
                options,
                output_vars: step.output_vars,
                retries: step.retries,
                recovery_prompt: step.recovery_prompt,
            });
        }
        chain.options.tags = group.tags;
        self.submit_nodes(chain.nodes_from(&kept, id)?).await
    }

    /// Of what a task was to follow that is tried anew, what it follows still: what is not over. Refused where it would
    /// not begin.
    async fn keep_following(&self, id: TaskId, options: &mut TaskOptions) -> Result<()> {
        for other in std::mem::take(&mut options.after) {
            match self.state_of(other).await? {
                Some(state) if !state.is_terminal() => options.after.push(other),
                None | Some(State::Completed) => {}
                Some(_) if options.after_failure == Some(AfterFailure::Run) => {}
                Some(stands) => {
                    return Err(Error::refused(format!("{id} was to follow {other}, which is {stands}"))
                        .hint(format!("try {other} anew, then submit what {id} was to do with --after")));
                }
            }
        }
        Ok(())
    }
}
