//! Deciding how a piece of work is done, by a run of a worker, and doing it so.
//!
//! Not here: what the decision is made of (`domain/route.rs`).

use super::group::Known;
use super::{Pool, Submitted, SubmittedGroup};
use crate::domain::batch::FanOut;
use crate::domain::ids::{Id, TaskId};
use crate::domain::limits;
use crate::domain::options::{PermissionMode, TaskOptions};
use crate::domain::route::{self, Auto, Decision, Hints, Route};
use crate::domain::state::State;
use crate::domain::task::{Record, Spec};
use crate::error::{Error, Result};

/// How work is classified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Router {
    /// The model that classifies; the pool's default unless said.
    pub model: Option<String>,
    /// A prompt of one's own in the place of [`route::PROMPT`].
    pub prompt: Option<String>,
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
    /// The task that classifies a piece of work; with `auto` its worker starts the work.
    ///
    /// # Errors
    /// Hints that say nothing; work that is too long.
    pub fn spec(&self, prompt: &str, hints: &Hints, auto: Option<TaskOptions>) -> Result<Spec> {
        limits::check_prompt(prompt)?;
        hints.check()?;
        let own = auto.as_ref();
        let options = TaskOptions {
            model: self.model.clone(),
            // Without tools there is nothing to plan, and in plan mode the CLI may take another model.
            permission_mode: Some(PermissionMode::DontAsk),
            max_turns: Some(TURNS),
            replace_system_prompt: Some(route::system_prompt(self.prompt.as_deref(), hints)),
            tools: Some(Vec::new()),
            json_schema: Some(route::schema(hints)),
            timeout_s: Some(TIMEOUT_S),
            // Where the work itself may run; when is the work's own affair.
            lane: own.and_then(|own| own.lane.clone()),
            needs: own.map(|own| own.needs.clone()).unwrap_or_default(),
            priority: own.and_then(|own| own.priority),
            working_dir: own.and_then(|own| own.working_dir.clone()),
            coordinator: own.and_then(|own| own.coordinator.clone()),
            once: own.and_then(|own| own.once.as_ref()).map(|once| format!("route of {once}")),
            tags: vec!["route".to_owned()],
            ..TaskOptions::default()
        };
        let mut spec = Spec::new(route::question(prompt), options)?;
        spec.project_dir.clone_from(&self.project_dir);
        if let Some(options) = auto {
            options.check()?;
            spec.auto = Some(Box::new(Auto { prompt: prompt.to_owned(), hints: hints.clone(), options }));
        }
        Ok(spec)
    }
}

impl Pool {
    /// Decides how a piece of work is done; starts nothing but the classification.
    ///
    /// # Errors
    /// Redis is away or refuses; the classification was cancelled, or no worker could make it. One that failed by itself
    /// is no error: then it is one task, and the decision says why.
    pub async fn route(&self, prompt: &str, hints: &Hints, router: &Router) -> Result<Routed> {
        let task = self.submit(router.spec(prompt, hints, None)?).await?.id;
        let Known::Task(record) = self.wait_for(task, None).await? else {
            return Err(Error::failed("a classification is a task"));
        };
        let decision = self.decided(&record, prompt, hints)?;
        Ok(Routed { decision, task, cost_microusd: record.cost_microusd })
    }

    fn decided(&self, record: &Record, prompt: &str, hints: &Hints) -> Result<Decision> {
        let (task, error) = (record.id, &record.error);
        if record.state == State::Completed {
            return Ok(route::decide(prompt, hints, record.structured.as_ref()));
        }
        let why = error.as_ref().map_or_else(String::new, |error| format!("{}: {}", error.class, error.message));
        if record.state == State::Cancelled {
            return Err(Error::refused(format!("the classification {task} was cancelled")).hint("call again"));
        }
        match error.as_ref().and_then(|error| route::fall_back(prompt, error)) {
            Some(decision) => Ok(decision),
            None => Err(Error::failed(format!("the classification {task} failed ({why})"))
                .hint("see `motorpool status`; or start the work as one task")),
        }
    }

    /// Has a piece of work classified, and started as it was classified, by whichever worker does that: nobody needs to
    /// wait for it. The classification's task has what came of it as its structured result ([`route::Carried`]).
    ///
    /// # Errors
    /// As [`Pool::submit`].
    pub async fn auto(&self, prompt: &str, hints: &Hints, router: &Router, options: TaskOptions) -> Result<Submitted> {
        // Before the decision is paid for.
        for id in options.after.iter().chain(&options.continue_from) {
            self.state_of(*id).await?.ok_or_else(|| super::unknown(*id))?;
        }
        self.submit(router.spec(prompt, hints, Some(options))?).await
    }

    /// Does a piece of work as a route says, be it decided here or given; each part with these options. What their key
    /// (`once`) has made before, in whatever way, is that work.
    ///
    /// # Errors
    /// As [`Pool::submit`], [`Pool::fan_out`] and [`Pool::submit_chain`].
    pub async fn execute(&self, route: &Route, options: &TaskOptions, project_dir: Option<&str>) -> Result<Id> {
        let spec = |prompt: &str, options: TaskOptions| {
            let mut spec = Spec::new(prompt, options)?;
            spec.project_dir = project_dir.map(str::to_owned);
            Ok::<_, Error>(spec)
        };
        if let Some(key) = &options.once
            && let Some(id) = self.patiently(|| self.store().made_by(key)).await?
            && self.state_of(id).await?.is_some()
        {
            return Ok(id);
        }
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
