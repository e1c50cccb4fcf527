//! The commands: their table, and what they have in common.
//!
//! Everything that is wrong in itself is refused before a pool is contacted. Not here: what things look like
//! (`term`), what happens in a pool (the library).

mod dispatch;
mod doctor;
mod events;
mod follow;
mod group;
mod list;
mod options;
mod reach;
mod review;
mod route;
mod run;
mod scale;
mod serve;
mod show;
mod signals;
mod slots;
mod status;
mod task;
mod waiting;
mod watch;

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::options::{Isolation, Priority};
use motorpool::settings::{self, Scope, Settings, Sources};
use motorpool::{Error, GroupKind, Id, Result};

const AFTER_HELP: &str = "\
Examples:
  motorpool run 'Explain what src/main.rs does'
  motorpool run --permission-mode acceptEdits --allowed-tools 'Bash(cargo test:*)' 'Fix the failing test'
  motorpool submit @task.md && motorpool status

Without --redis-url (MOTORPOOL_REDIS_URL) the commands use this project's own pool and start it where none runs.
Exit codes: 0 succeeded, 1 failed, 2 wrong in itself, 3 Redis, 4 timeout, 5 cancelled, 6 the pool refuses.";

/// The command line.
pub(crate) fn command() -> Command {
    Command::new("motorpool")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run Claude Code tasks on a pool of workers")
        .after_help(AFTER_HELP)
        .max_term_width(crate::term::COLUMNS)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([
            run::command(),
            group::chain_command(),
            group::fan_out_command(),
            route::auto_command(),
            task::submit_command(),
            task::result_command(),
            task::cancel_command(),
            watch::logs_command(),
            list::command(),
            show::command(),
            task::retry_command(),
            review::approve_command(),
            review::reject_command(),
            status::command(),
            scale::command(),
            slots::command(),
            slots::config_command(),
            events::command(),
            serve::up_command(),
            serve::down_command(),
            dispatch::serve_command(),
            dispatch::config_command(),
            doctor::command(),
            route::test_command(),
            completions_command(),
            serve::keep_command(),
        ])
}

/// Whether errors are wanted as JSON.
pub(crate) fn wants_json(matches: &ArgMatches) -> bool {
    let json = |(_, of): (&str, &ArgMatches)| matches!(of.try_get_one::<bool>("json"), Ok(Some(true)));
    matches.subcommand().is_some_and(json)
}

/// Carries out a command line; gives its exit code.
///
/// # Errors
/// What the command could not do; its kind is the exit code.
pub(crate) async fn run(matches: &ArgMatches) -> Result<u8> {
    let Some((name, of)) = matches.subcommand() else { return Err(Error::usage("no command is given")) };
    if name == "completions" {
        return completions(of);
    }
    let call = Call::read(of)?;
    // What others look at tells them in the log whether the pool answers; a command tells it by itself.
    let contact = if matches!(name, "serve" | "up" | "keep") { "info" } else { "error" };
    call.start_logging(contact)?;
    match name {
        "run" => run::run(&call, of).await,
        "chain" => group::run(&call, of, GroupKind::Chain).await,
        "fan-out" => group::run(&call, of, GroupKind::Batch).await,
        "auto" => route::auto(&call, of).await,
        "route-test" => route::test(&call, of).await,
        "submit" => task::submit(&call, of).await,
        "result" => task::result(&call, of).await,
        "cancel" => task::cancel(&call, of).await,
        "logs" => watch::logs(&call, of).await,
        "list" => list::run(&call, of).await,
        "show" => show::run(&call, of).await,
        "retry" => task::retry(&call, of).await,
        "approve" => review::approve(&call, of).await,
        "reject" => review::reject(&call, of).await,
        "events" => events::run(&call, of).await,
        "status" => status::run(&call, of).await,
        "scale" => scale::run(&call, of).await,
        "slots" => slots::run(&call, of).await,
        "config" => slots::config(&call, of).await,
        "up" => serve::up(&call, of).await,
        "down" => serve::down(&call).await,
        "serve" => dispatch::serve(call).await,
        "mcp-config" => dispatch::config(&call),
        "doctor" => doctor::run(&call).await,
        "keep" => serve::keep(&call).await,
        _ => Err(Error::usage(format!("unknown command {name}")).hint("`motorpool --help` lists them")),
    }
}

/// What a command was given besides its own arguments.
#[derive(Debug)]
pub(crate) struct Call {
    settings: Settings,
    sources: Sources,
    json: bool,
    /// The task that this process runs inside of.
    run_id: Option<String>,
    claude_project_dir: Option<String>,
}

impl Call {
    fn read(matches: &ArgMatches) -> Result<Self> {
        let current_dir = std::env::current_dir()
            .map_err(|error| Error::usage(format!("the current directory cannot be used: {error}")))?;
        // A variable that is no text is none of ours.
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let text = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
        let (run_id, claude_project_dir) = (text("MOTORPOOL_RUN"), text("CLAUDE_PROJECT_DIR"));
        let flags = settings::flags::given(matches, ANY);
        let sources = Sources::of_process(flags, env.into_iter(), &current_dir);
        let settings = settings::load(&sources)?;
        let json = matches!(matches.try_get_one::<bool>("json"), Ok(Some(true)));
        Ok(Self { settings, sources, json, run_id, claude_project_dir })
    }

    /// Whether a setting was given as a flag, in the environment or in a file.
    fn is_given(&self, name: &str) -> bool {
        self.settings.origin(name) != "the default"
    }

    /// The directory in which this project's tasks work, in an embedded pool.
    fn project_dir(&self) -> String {
        let called = || self.sources.current_dir.to_string_lossy().into_owned();
        self.claude_project_dir.clone().unwrap_or_else(called)
    }

    fn start_logging(&self, contact: &str) -> Result<()> {
        // A command's answer is its output; what else happens is shown to who asks.
        let silent = format!("warn,{}={contact}", motorpool::telemetry::CONTACT);
        let filter = if self.is_given("log") { self.settings.log.as_str() } else { &silent };
        // The MCP library logs whole requests, prompts included, at its lower levels.
        let filter = if filter.contains("rmcp") { filter.to_owned() } else { format!("{filter},rmcp=warn") };
        motorpool::telemetry::init(&filter, self.settings.log_format, crate::term::has_colour())
    }

    /// Refuses to start work inside a run.
    fn refuse_inside_run(&self, verb: &str) -> Result<()> {
        let Some(id) = &self.run_id else { return Ok(()) };
        Err(Error::refused(format!("`motorpool {verb}` does not work inside a run: MOTORPOOL_RUN is {id}"))
            .hint("a task must not command its own pool; say in your result what else is to be done"))
    }
}

/// The scopes of settings, all of them.
const EVERY: &[Scope] = &[Scope::Base, Scope::Pool, Scope::Worker, Scope::PoolDefault];

/// The scopes of a command line, whichever it is.
const ANY: &[Scope] = &[Scope::Base, Scope::Pool, Scope::Worker, Scope::PoolDefault, Scope::Serve];

fn json_arg(doc: &'static str) -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help(doc)
}

fn id_arg() -> Arg {
    Arg::new("id").value_name("ID").required(true).help("the task, chain or batch, as in t17, c3 or b5")
}

fn id_of(matches: &ArgMatches) -> Result<Id> {
    matches.get_one::<String>("id").map(String::as_str).unwrap_or_default().parse()
}

/// A command's time limit: `90` or `90s` or `10m`.
fn timeout_arg(doc: &'static str) -> Arg {
    Arg::new("timeout").long("timeout").value_name("TIME").help(doc)
}

fn timeout_of(matches: &ArgMatches) -> Result<Option<std::time::Duration>> {
    let Some(text) = matches.get_one::<String>("timeout") else { return Ok(None) };
    match settings::duration(text).filter(|time| !time.is_zero() && time.as_secs() <= 365 * 86_400) {
        Some(time) => Ok(Some(time)),
        None => Err(Error::usage(format!("--timeout: {text:?} is no time limit"))
            .hint("give seconds or a number with a unit, as in 90 or 10m")),
    }
}

fn completions_command() -> Command {
    Command::new("completions")
        .about("Print completions for a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(clap::value_parser!(clap_complete::Shell)),
        )
        .after_help("Example:\n  motorpool completions bash > ~/.local/share/bash-completion/completions/motorpool")
}

/// The command line as far as it is offered: no file names where none is meant, no commands that are nobody's to call.
fn completed(command: Command) -> Command {
    let shown: Vec<Command> = command.get_subcommands().filter(|one| !one.is_hide_set()).cloned().collect();
    let one_of = |arg: &Arg| -> Option<Vec<&'static str>> {
        Some(match arg.get_long()? {
            "permission-mode" | "allow-mode" => settings::MODES.to_vec(),
            "effort" => settings::EFFORTS.to_vec(),
            "priority" => Priority::ALL.iter().map(|one| one.word()).collect(),
            "isolation" => Isolation::ALL.iter().map(|one| one.word()).collect(),
            _ => return None,
        })
    };
    let plain = |arg: Arg| {
        if let Some(words) = one_of(&arg) {
            return arg.value_parser(clap::builder::PossibleValuesParser::new(words));
        }
        let never = ["ID", "TIME", "N", "USD", "STATE", "TAG", "URL", "ADDR:PORT", "yes|no"];
        let is_plain = arg.get_value_names().unwrap_or_default().iter().any(|name| never.contains(&name.as_str()));
        if is_plain { arg.value_hint(clap::ValueHint::Other) } else { arg }
    };
    let shown = shown.into_iter().map(|one| {
        let name = one.get_name().to_owned();
        // What is not built has a flag that says so, and none that is offered.
        let args = one.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().map(plain).collect::<Vec<_>>();
        Command::new(name).about(one.get_about().cloned().unwrap_or_default()).args(args)
    });
    Command::new("motorpool").about("Run Claude Code tasks on a pool of workers").subcommands(shown)
}

fn completions(matches: &ArgMatches) -> Result<u8> {
    if let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") {
        let mut text = Vec::new();
        clap_complete::generate(*shell, &mut completed(command()), "motorpool", &mut text);
        crate::term::print(&String::from_utf8_lossy(&text))?;
    }
    Ok(0)
}
