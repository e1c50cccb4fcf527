//! Deciding how a piece of work is done, by a run of a worker, and doing it so.
//!
//! Not here: what the decision is made of (`domain/route.rs`).

use super::group::Known;
use super::{Pool, SubmittedGroup};
use crate::domain::attempt::Class;
use crate::domain::chain::FanOut;
use crate::domain::ids::{Id, TaskId};
use crate::domain::options::{PermissionMode, TaskOptions};
use crate::domain::route::{self, Decision, Hints, Route};
use crate::domain::state::State;
use crate::domain::task::Spec;
use crate::error::{Error, Result};

/// How work is classified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Router {
    /// The model that classifies; the pool's default unless said.
    pub model: Option<String>,
    /// A prompt of one's own in the place of [`route::PROMPT`].
    pub prompt: Option<String>,
    /// Where the classification runs, and in whose project.
    pub options: TaskOptions,
    /// The project's directory, in an embedded pool.
    pub project_dir: Option<String>,
}

/// A decision, and the run that made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// The decision.
    pub decision: Decision,
    /// The task that classified.
    pub task: TaskId,
    /// Its cost in microdollars.
    pub cost_microusd: u64,
}

/// How long a classification may run, in seconds.
const TIMEOUT_S: u64 = 180;
/// Turns that it may take: an answer without JSON is asked for once more.
const TURNS: u32 = 4;

impl Router {
    /// The task that classifies a piece of work.
    ///
    /// # Errors
    /// Hints that say nothing; work that is too long.
    pub fn spec(&self, prompt: &str, hints: &Hints) -> Result<Spec> {
        hints.check()?;
        let options = TaskOptions {
            model: self.model.clone().or_else(|| self.options.model.clone()),
            permission_mode: Some(PermissionMode::Plan),
            max_turns: Some(TURNS),
            replace_system_prompt: Some(route::system_prompt(self.prompt.as_deref(), hints)),
            tools: Some(Vec::new()),
            json_schema: Some(route::schema(hints)),
            timeout_s: Some(TIMEOUT_S),
            lane: self.options.lane.clone(),
            needs: self.options.needs.clone(),
            priority: self.options.priority,
            working_dir: self.options.working_dir.clone(),
            once: self.options.once.as_ref().map(|once| format!("route of {once}")),
            tags: vec!["route".to_owned()],
            ..TaskOptions::default()
        };
        let mut spec = Spec::new(route::question(prompt), options)?;
        spec.project_dir.clone_from(&self.project_dir);
        Ok(spec)
    }
}

impl Pool {
    /// Decides how a piece of work is done; starts nothing but the classification.
    ///
    /// # Errors
    /// Redis is away or refuses; the classification was cancelled. One that failed is no error: then it is one task, and
    /// the decision says why.
    pub async fn route(&self, prompt: &str, hints: &Hints, router: &Router) -> Result<Routed> {
        let task = self.submit(router.spec(prompt, hints)?).await?.id;
        self.routed(task, prompt, hints).await
    }

    /// The decision of a classification that was submitted, once it is over.
    ///
    /// # Errors
    /// As [`Pool::route`].
    pub async fn routed(&self, task: TaskId, prompt: &str, hints: &Hints) -> Result<Routed> {
        let Known::Task(record) = self.wait_for(task, None).await? else {
            return Err(Error::failed("a classification is a task"));
        };
        let decision = match (record.state, &record.error) {
            (State::Cancelled, _) => {
                return Err(Error::refused(format!("the classification {task} was cancelled")).hint("call again"));
            }
            (State::Completed, _) => route::decide(prompt, hints, record.structured.as_ref()),
            (_, error) => {
                let why =
                    error.as_ref().map_or_else(String::new, |error| format!("{}: {}", error.class, error.message));
                // A pool that cannot work is not helped by trying the work itself.
                if error.as_ref().is_some_and(|error| matches!(error.class, Class::Auth | Class::Limit | Class::Lost)) {
                    return Err(Error::failed(format!("the classification {task} failed ({why})"))
                        .hint("see `motorpool status`; or start the work as one task"));
                }
                Decision {
                    route: Route::Single { prompt: prompt.to_owned() },
                    fallback: Some(format!("the classification {task} failed ({why})")),
                }
            }
        };
        Ok(Routed { decision, task, cost_microusd: record.cost_microusd })
    }

    /// Does a piece of work as a route says, be it decided here or given; each part with these options.
    ///
    /// # Errors
    /// As [`Pool::submit`], [`Pool::fan_out`] and [`Pool::submit_chain`].
    pub async fn execute(&self, route: &Route, options: &TaskOptions, project_dir: Option<&str>) -> Result<Id> {
        let spec = |prompt: &str, options: TaskOptions| {
            let mut spec = Spec::new(prompt, options)?;
            spec.project_dir = project_dir.map(str::to_owned);
            Ok::<_, Error>(spec)
        };
        let made = |group: SubmittedGroup| Id::Group(group.id);
        match route {
            Route::Single { prompt } => Ok(self.submit(spec(prompt, options.clone())?).await?.id.into()),
            Route::Parallel { prompts } => {
                let items = prompts.iter().map(|prompt| Ok(spec(prompt, options.of_one())?.into()));
                let items = items.collect::<Result<_>>()?;
                let options = options.of_whole();
                Ok(made(self.fan_out(FanOut { items, collect: None, options }).await?))
            }
            Route::Chain { .. } => {
                let chain = route::chain_of(route, options.clone());
                let mut chain = chain.ok_or_else(|| Error::failed("a chain has steps"))?;
                chain.project_dir = project_dir.map(str::to_owned);
                Ok(made(self.submit_chain(chain).await?))
            }
        }
    }
}
