//! What a run is asked. A step's prompt, and that of a task that collects, have places; what stands there is read from
//! records that are over, and so never changes.
//!
//! Not here: what a place is (`motorpool::domain::template`), the rest of the call (`claude/command.rs`).

use std::collections::HashMap;

use motorpool::domain::attempt::{Class, Ending, Failure};
use motorpool::domain::lane::{self, Lane};
use motorpool::domain::template::{Place, Prompt, Template, shortened};
use motorpool::domain::{limits, review};
use motorpool::pool::{GroupView, Known, Lease, Member};
use motorpool::{ErrorKind, GroupId, Id, Pool, Run, State, TaskId, TaskOptions, TaskRecord};

use crate::claude::command::Session;
use crate::session::{Sessions, has_failed_in, interrupted, last_with_session};

/// What of an item that says much is taken at least, in characters.
const SHARE: usize = 100;

/// What a run is asked, and the session that it goes on with.
pub(crate) struct Asked {
    pub(crate) prompt: String,
    pub(crate) session: Option<Session>,
}

/// What this run is asked.
///
/// # Errors
/// A place for which there is no value; a session that is on another machine, or nowhere; the pool does not answer.
pub(crate) async fn asked(
    pool: &Pool,
    lease: &Lease,
    options: &TaskOptions,
    sessions: &Sessions<'_>,
) -> Result<Asked, Ending> {
    let own = |id: String| Some(Session { id, is_branch: false });
    if lease.round() > 1 || lease.run() > 1 {
        let known = record(pool, lease.task()).await?;
        // One that could not be gone on with is not tried again.
        let here = |run: &Run| sessions.of(run).filter(|session| !has_failed_in(&known, session));
        if options.resume_on_retry != Some(false)
            && let Some(session) = interrupted(&known, lease.run()).and_then(here)
        {
            return Ok(Asked { prompt: GO_ON.to_owned(), session: own(session) });
        }
        if lease.round() > 1 {
            let judged = known.rounds.last().and_then(|round| known.runs.iter().find(|run| run.n == round.run));
            if let Some(session) = judged.and_then(here) {
                return Ok(Asked { prompt: review::continued(&known.rounds), session: own(session) });
            }
            let prompt = review::repeated(&first_prompt(pool, lease).await?, &known.rounds);
            return Ok(Asked { prompt: fits(prompt, &lease.task().to_string())?, session: None });
        }
    }
    let prompt = first_prompt(pool, lease).await?;
    let Some(other) = options.continue_from else { return Ok(Asked { prompt, session: None }) };
    let known = match pool.known(other).await.map_err(|error| unread(&error, other))? {
        Known::Task(record) => *record,
        Known::Group(view) => match view.last_done() {
            Some(last) => record(pool, last.id).await?,
            None => return Err(no_session(other, "none of its tasks has succeeded").into()),
        },
    };
    let Some(run) = last_with_session(&known) else { return Err(no_session(other, "it has none").into()) };
    match sessions.of(run) {
        Some(id) => Ok(Asked { prompt, session: Some(Session { id, is_branch: true }) }),
        None if run.host != sessions.host => {
            let why = format!("the session of {other} is on the machine {}", run.host);
            let lane = Lane::parse(&record(pool, lease.task()).await?.lane).needing(&lane::as_label("host", &run.host));
            match lane {
                Some(lane) => Err(Ending::Elsewhere { lane: lane.to_string(), why }),
                // This worker has that machine's label and is another one.
                None => Err(no_session(other, &format!("{why}, and this is {}", sessions.host)).into()),
            }
        }
        None => Err(no_session(other, "it is not there any more, or belongs to another directory").into()),
    }
}

/// What is asked of a run that goes on where the one before it was stopped.
const GO_ON: &str = "You were interrupted before you had finished. Go on where you stopped: what you did until then \
                     is done. Your last message is the task's result.";

fn no_session(id: Id, why: &str) -> Failure {
    Failure::new(Class::Request, format!("the session of {id} cannot be gone on with: {why}"))
        .hint("submit it without continue_from, with what it needs to know in its prompt")
}

/// What it asks without what was said of earlier rounds.
async fn first_prompt(pool: &Pool, lease: &Lease) -> Result<String, Failure> {
    let spec = lease.spec();
    let Some(step) = &spec.step else {
        return match (spec.collects, lease.group()) {
            (true, Some(batch)) => collected(pool, &spec.prompt, batch, lease.task()).await,
            _ => Ok(spec.prompt.clone()),
        };
    };
    let what = format!("step {} ({})", step.number, step.name);
    let (text, kind) = match &step.recovery_prompt {
        Some(recovery) if lease.history().recovering => (recovery, Prompt::Recovery),
        _ => (&spec.prompt, Prompt::Step),
    };
    let template = Template::read(text, kind).map_err(|error| Failure::new(Class::Request, error.message()))?;
    let mut values: HashMap<Place, String> = HashMap::new();
    if !template.places().is_empty() {
        let Some(chain) = lease.group() else {
            return Err(Failure::new(Class::Internal, format!("{what} does not know its chain")));
        };
        let view = pool.group_view(chain).await.map_err(|error| unread(&error, chain))?;
        for place in template.places() {
            if let Some(value) = value(pool, &view, step.number as usize, place, lease).await? {
                values.insert(place.clone(), value);
            }
        }
    }
    let filled = template.fill(|place| values.get(place).cloned()).map_err(|place| {
        Failure::new(Class::Request, format!("{what}: there is no value for {place}"))
            .hint("the step that is to give it put out none there; ask it for JSON, with json_schema for certainty")
    })?;
    fits(filled, &what)
}

fn fits(prompt: String, what: &str) -> Result<String, Failure> {
    if prompt.len() <= limits::PROMPT_BYTES {
        return Ok(prompt);
    }
    let (bytes, most) = (prompt.len(), limits::PROMPT_BYTES);
    Err(Failure::new(Class::Request, format!("the prompt of {what}, filled in, has {bytes} bytes; at most {most} go"))
        .hint("name fewer outputs in it"))
}

fn unread(error: &motorpool::Error, what: impl std::fmt::Display) -> Failure {
    let class = if error.kind() == ErrorKind::Redis { Class::Transient } else { Class::Internal };
    Failure::new(class, format!("{what} cannot be read: {}", error.message()))
}

async fn value(
    pool: &Pool,
    chain: &GroupView,
    number: usize,
    place: &Place,
    lease: &Lease,
) -> Result<Option<String>, Failure> {
    let id_of = |at: usize| match chain.members.get(at) {
        Some(Member::Task(record)) => Some(record.id),
        _ => None,
    };
    match place {
        Place::Error => Ok(Some(shortened(lease.last_error(), "the task's runs"))),
        Place::Previous => match number.checked_sub(2).and_then(id_of) {
            Some(id) => Ok(Some(output_of(&record(pool, id).await?))),
            None => Ok(None),
        },
        Place::Var { step, var } => {
            let at = chain.group.spec.names.iter().position(|name| name == step);
            match at.and_then(id_of) {
                Some(id) => Ok(record(pool, id).await?.vars.remove(var)),
                None => Ok(None),
            }
        }
        Place::Outputs => Ok(None),
    }
}

async fn record(pool: &Pool, id: TaskId) -> Result<TaskRecord, Failure> {
    pool.task(id).await.map_err(|error| unread(&error, id))
}

/// What a task gave: its words, or its structured result where those are none.
fn output_of(record: &TaskRecord) -> String {
    let structured = || record.structured.as_ref().map(ToString::to_string);
    let text = record.output.clone().filter(|text| !text.is_empty()).or_else(structured).unwrap_or_default();
    shortened(&text, &whole(record.id))
}

fn whole(id: TaskId) -> String {
    format!("`motorpool result {id}`")
}

/// A prompt with what every item of a batch gave.
async fn collected(pool: &Pool, text: &str, batch: GroupId, own: TaskId) -> Result<String, Failure> {
    let template =
        Template::read(text, Prompt::Collect).map_err(|error| Failure::new(Class::Request, error.message()))?;
    let mut outputs = String::new();
    if !template.places().is_empty() {
        let view = pool.group_view(batch).await.map_err(|error| unread(&error, batch))?;
        let count = view.members.len().max(2) - 1;
        let share = (limits::SUBSTITUTED_CHARS * 9 / 10 / count).max(SHARE);
        for (at, member) in view.members.iter().enumerate().filter(|(_, member)| member.id() != own.into()) {
            let done = member.result().filter(|record| record.state == State::Completed).map(|record| record.id);
            let said = match (member.state(), done) {
                (State::Completed, Some(id)) => cut(&output_of(&record(pool, id).await?), share),
                (state, _) => why(member, state),
            };
            outputs.push_str(&format!("## {} ({}): {}\n{said}\n\n", view.name_of(at), member.id(), member.state()));
        }
    }
    let outputs = shortened(outputs.trim_end(), &format!("`motorpool result {batch}`"));
    let filled = template.fill(|_| Some(outputs.clone()));
    fits(filled.unwrap_or_default(), "what collects the outputs")
}

/// As much of a text as one item may take.
fn cut(text: &str, share: usize) -> String {
    if text.chars().count() <= share {
        return text.to_owned();
    }
    let half = share / 2;
    let head: String = text.chars().take(half).collect();
    let tail: Vec<char> = text.chars().rev().take(half).collect();
    format!("{head}\n[… cut here …]\n{}", tail.into_iter().rev().collect::<String>())
}

fn why(member: &Member, state: State) -> String {
    let failed = match member {
        Member::Task(record) => Some(record.as_ref()),
        Member::Group(view) => view.first_failed().or_else(|| view.tasks().find(|record| record.state == state)),
    };
    let said = failed.and_then(|record| match &record.error {
        Some(error) => Some(error.message.clone()),
        None => record.reason.clone(),
    });
    said.map(|said| cut(&said, SHARE * 5)).unwrap_or_default()
}
