//! How a run ended, from what the CLI said and how it exited, to an [`Outcome`].
//!
//! One table, read by the last assistant event's `error`, then the status, then the text. The message is the API's
//! own. Not here: why the worker itself ended a run (`attempt/machine.rs`), what follows (`domain/attempt.rs`).

use motorpool::domain::attempt::{Class, Ending, Failure, Outcome, Report};
use motorpool::domain::fleet::Unfit;
use motorpool::domain::limits::{OUTPUT_BYTES, cut_middle};

use super::cost::Meter;
use super::event::{Assistant, Event, RateLimit, RunResult};

/// Text of a run without a result is kept up to so many bytes; the oldest goes first.
const KEPT_TEXT_BYTES: usize = 1024 * 1024;
/// Messages are cut to so many bytes.
const MESSAGE_BYTES: usize = 2000;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// An outcome, and what it means for the worker and its account.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// For the task.
    pub outcome: Outcome,
    /// For the account: no run will do better before.
    pub limit: Option<UsageLimit>,
    /// For the worker: it cannot work.
    pub unfit: Option<Unfit>,
}

/// The account's usage limit, as it was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageLimit {
    /// Until when, milliseconds since 1970, where that was told.
    pub until_ms: Option<u64>,
    /// Which: `five_hour`, `seven_day`, `seven_day_opus` (that model alone), …; nothing for money or an API key's limit.
    pub window: Option<String>,
}

/// All that is remembered of a run's events.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The session.
    pub session_id: Option<String>,
    /// A turn has begun.
    pub began: bool,
    /// Any JSON line came.
    pub events: u64,
    /// Claude said or did something.
    pub spoke: bool,
    /// Answers of the task itself.
    pub turns: u32,
    /// What it costs.
    pub meter: Meter,
    /// The last result.
    pub result: Option<RunResult>,
    /// `initialize` was refused, with these words.
    pub refused: Option<String>,
    text: String,
    last_error: Option<String>,
    last_answer: String,
    limit: Option<RateLimit>,
    retry_ms: Option<u64>,
}

impl Seen {
    /// Takes note of an event.
    pub fn note(&mut self, event: &Event) {
        self.events += u64::from(*event != Event::Noise);
        match event {
            Event::Init { session_id, .. } => {
                self.began = true;
                self.session_id = Some(session_id.clone());
            }
            Event::Assistant(part) => self.assistant(part),
            Event::Partial(_) => self.spoke = true,
            Event::AnswerStart { parent, answer } => self.meter.answer(parent.as_deref(), answer),
            Event::AnswerUsage { parent, usage } => self.meter.usage(parent.as_deref(), *usage),
            Event::Retry { delay_ms, .. } => self.retry_ms = Some(*delay_ms),
            Event::RateLimit(limit) => self.limit = Some(limit.clone()),
            Event::Answered { id, error: Some(error) } if id == super::command::INITIALIZE => {
                self.refused = Some(error.clone());
            }
            Event::Result(result) => {
                if result.session_id.is_some() {
                    self.session_id.clone_from(&result.session_id);
                }
                self.result = Some(RunResult::clone(result));
            }
            Event::ToolResults(_) | Event::Answered { .. } | Event::Asks { .. } | Event::Other | Event::Noise => {}
        }
    }

    fn assistant(&mut self, part: &Assistant) {
        if part.parent.is_none() {
            self.last_error.clone_from(&part.error);
        }
        if part.synthetic {
            return;
        }
        self.meter.answer(part.parent.as_deref(), &part.answer);
        self.spoke = true;
        self.retry_ms = None;
        if part.parent.is_some() {
            return;
        }
        if part.answer.id.is_empty() || part.answer.id != self.last_answer {
            self.turns += 1;
            self.last_answer.clone_from(&part.answer.id);
        }
        if !part.text.is_empty() {
            if !self.text.is_empty() {
                self.text.push_str("\n\n");
            }
            self.text.push_str(&part.text);
            let over = self.text.len().saturating_sub(KEPT_TEXT_BYTES);
            if over > 0 {
                let start = (over..self.text.len()).find(|at| self.text.is_char_boundary(*at)).unwrap_or(over);
                self.text.drain(..start);
            }
        }
    }

    /// Microdollars so far, and whether that is an estimate. An interrupted CLI leaves out the answer that it was
    /// reading, which is paid all the same.
    #[must_use]
    pub fn cost(&self) -> (u64, bool) {
        let estimate = self.meter.microusd();
        match self.result.as_ref().and_then(|result| Some((result.cost_microusd?, result))) {
            Some((own, result)) if result.subtype != "error_during_execution" || own >= estimate => (own, false),
            _ => (estimate, true),
        }
    }

    /// Whether the run has succeeded, whatever came after.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.result.as_ref().is_some_and(|result| {
            let aborted = result.terminal_reason.as_deref().is_some_and(|reason| reason.starts_with("aborted"));
            result.subtype == "success" && !result.is_error && !aborted
        })
    }

    /// What the run brought home. The text of a failed result is no output.
    #[must_use]
    pub fn report(&self) -> Report {
        let result = self.result.as_ref();
        let (cost_microusd, cost_estimated) = self.cost();
        let answered = result.filter(|_| self.succeeded()).and_then(|result| result.text.clone());
        let output = answered.or_else(|| Some(self.text.clone()).filter(|text| !text.is_empty()));
        Report {
            output: output.map(|text| cut_middle(&text, OUTPUT_BYTES)),
            structured: result.and_then(|result| result.structured.clone()),
            session_id: self.session_id.clone(),
            cost_microusd,
            cost_estimated,
            usage: result.and_then(|result| result.usage.clone()),
            turns: result.map_or(self.turns, |result| result.turns),
            denied: result.map(|result| result.denied.clone()).unwrap_or_default(),
            spoke: self.spoke,
            resumed: None,
        }
    }

    /// An outcome that the worker itself decided.
    #[must_use]
    pub fn ended(&self, ending: Ending) -> Classified {
        let outcome = Outcome { report: self.report(), ending, retry_after_ms: None };
        Classified { outcome, limit: None, unfit: None }
    }
}

/// How the run ended. `structured`: a schema was given.
#[must_use]
pub fn classify(seen: &Seen, exit: Exit, stderr: &str, structured: bool) -> Classified {
    let Some(result) = &seen.result else {
        return seen.ended(Ending::Failed(without_result(seen, exit, stderr)));
    };
    if seen.succeeded() {
        if structured && result.structured.is_none() {
            let failure = Failure::new(Class::Check, "Claude answered, but without the JSON that json_schema asks for")
                .hint(
                    "say in the prompt what the JSON should hold, or see whether json_schema is a schema of an object",
                );
            return seen.ended(Ending::Failed(failure));
        }
        return seen.ended(Ending::Success);
    }
    let (class, hint) = judge(seen, result);
    let failure = Failure { class, status: result.status, message: message(result), hint: hint.map(str::to_owned) };
    let mut classified = seen.ended(Ending::Failed(failure.clone()));
    match class {
        Class::Limit => {
            let limit = seen.limit.as_ref().filter(|limit| limit.status == "rejected" && result.status == Some(429));
            classified.limit = Some(UsageLimit {
                until_ms: limit.and_then(|limit| limit.resets_ms),
                window: limit.and_then(|limit| limit.window.clone()),
            });
        }
        Class::Auth => {
            let Failure { message, hint, .. } = failure;
            classified.unfit = Some(Unfit { class, message, hint, until_ms: None });
        }
        Class::Transient => classified.outcome.retry_after_ms = seen.retry_ms,
        _ => {}
    }
    classified
}

const SIGN_IN: &str = "on the worker's machine: `claude auth login` (or /login), or set a valid ANTHROPIC_API_KEY";

/// What a row of the table asks of a failed run; what is absent fits all.
struct Row {
    error: Option<&'static str>,
    status: Option<(u16, u16)>,
    text: Option<&'static str>,
    class: Class,
    hint: Option<&'static str>,
}

const fn row(
    error: Option<&'static str>,
    status: Option<(u16, u16)>,
    text: Option<&'static str>,
    class: Class,
    hint: Option<&'static str>,
) -> Row {
    Row { error, status, text, class, hint }
}

/// The first row that fits decides.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    // Only the text tells these from a wrong request.
    row(None, Some((400, 429)), Some("regain access on"), Class::Limit, Some("raise the API usage limit in the Console, or wait until then")),
    row(None, Some((400, 403)), Some("disabled organization"), Class::Auth, Some(SIGN_IN)),
    row(None, Some((400, 403)), Some("organization has been disabled"), Class::Auth, Some(SIGN_IN)),
    row(Some("billing_error"), None, None, Class::Limit, Some("add credit to the account")),
    row(None, Some((402, 402)), None, Class::Limit, Some("settle the account's billing")),
    row(None, Some((400, 400)), Some("credit balance is too low"), Class::Limit, Some("add credit to the account")),
    row(Some("oauth_org_not_allowed"), None, None, Class::Auth, Some("the organization allows no subscription sign-in here: set an ANTHROPIC_API_KEY")),
    row(Some("authentication_failed"), None, None, Class::Auth, Some(SIGN_IN)),
    row(None, Some((401, 401)), None, Class::Auth, Some(SIGN_IN)),
    row(None, Some((403, 403)), None, Class::Auth, Some(SIGN_IN)),
    row(None, None, Some("not logged in"), Class::Auth, Some(SIGN_IN)),
    row(Some("model_not_found"), None, None, Class::Request, Some("choose another model; this account may not have it")),
    row(None, Some((404, 404)), None, Class::Request, Some("choose another model; this account may not have it")),
    row(None, None, Some("prompt is too long"), Class::Request, Some("shorten the prompt, or split the task")),
    row(None, Some((413, 413)), None, Class::Request, Some("shorten the prompt, or split the task")),
    row(Some("rate_limit"), None, None, Class::Transient, None),
    row(Some("server_error"), None, None, Class::Transient, None),
    row(Some("overloaded"), None, None, Class::Transient, None),
    row(None, Some((408, 409)), None, Class::Transient, None),
    row(None, Some((429, 429)), None, Class::Transient, None),
    row(None, Some((500, 599)), None, Class::Transient, None),
    row(Some("invalid_request"), None, None, Class::Request, None),
    row(None, Some((400, 499)), None, Class::Request, None),
    // No status: a connection that failed or broke off.
    row(None, None, None, Class::Transient, None),
];

fn judge(seen: &Seen, result: &RunResult) -> (Class, Option<&'static str>) {
    match result.subtype.as_str() {
        "error_max_turns" => return (Class::Turns, Some("raise max_turns, or split the task")),
        "error_max_budget_usd" => return (Class::Budget, Some("raise max_budget_usd, or split the task")),
        "error_max_structured_output_retries" => return (Class::Check, Some("simplify json_schema")),
        _ => {}
    }
    if result.api_error.as_deref() == Some("org_disabled_credential") {
        return (Class::Auth, Some(SIGN_IN));
    }
    // Never by the event alone: a good result can follow a `rejected`, and without a window it is a passing 429.
    let rejected = seen.limit.as_ref().is_some_and(|limit| limit.status == "rejected" && limit.window.is_some());
    if result.status == Some(429) && (rejected || result.api_error.as_deref() == Some("usage_limit_reached")) {
        return (Class::Limit, Some("it goes on after the reset, or on a worker with another account"));
    }
    let text = result.text.as_deref().unwrap_or_default().to_lowercase();
    let fits = |row: &&Row| {
        row.error.is_none_or(|error| seen.last_error.as_deref() == Some(error))
            && row.status.is_none_or(|(from, to)| result.status.is_some_and(|status| (from..=to).contains(&status)))
            && row.text.is_none_or(|part| text.contains(part))
    };
    TABLE.iter().find(fits).map_or((Class::Transient, None), |row| (row.class, row.hint))
}

fn message(result: &RunResult) -> String {
    let text = result.text.clone().filter(|text| !text.trim().is_empty());
    let text = text.or_else(|| Some(result.errors.join("; ")).filter(|text| !text.is_empty()));
    cut_middle(&text.unwrap_or_else(|| format!("the run ended with {}", result.subtype)), MESSAGE_BYTES)
}

fn without_result(seen: &Seen, exit: Exit, stderr: &str) -> Failure {
    let stderr = stderr.trim();
    if let Some(refused) = &seen.refused {
        let message = format!("the CLI refused the task: {}", cut_middle(refused, MESSAGE_BYTES));
        return Failure::new(Class::Request, message).hint("check json_schema and the system prompts");
    }
    let how = match exit {
        Exit::Signal(signal) => format!("the CLI was ended by signal {signal} without a result"),
        Exit::Code(code) => format!("the CLI exited with code {code} without a result"),
    };
    // A shell in between turns a signal into 128 and more.
    let by_itself = matches!(exit, Exit::Code(0..=127));
    let machine = ["ENOSPC", "EDQUOT", "EROFS", "ENOMEM", "EMFILE", "EAGAIN", "No space left", "out of memory"];
    if by_itself && seen.events == 0 && !stderr.is_empty() && !machine.iter().any(|word| stderr.contains(word)) {
        let failure = Failure::new(Class::Request, cut_middle(stderr, MESSAGE_BYTES));
        if stderr.contains("root/sudo") {
            return failure.hint("choose another permission_mode, or run the worker as a user other than root");
        }
        return failure;
    }
    let message = if stderr.is_empty() { how } else { format!("{how}: {}", cut_middle(stderr, MESSAGE_BYTES)) };
    Failure::new(Class::Transient, message)
}
