//! auto, route-test: work that is classified before it is started, and how good that is.
//!
//! Not here: the decision and its prompt (the library).

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::route::{Carried, Hints, Route, RouteKind};
use motorpool::pool::{Routed, Router};
use motorpool::{Error, Pool, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reach::{self, Wish};
use super::run::{End, Follow};
use super::signals::Signals;
use super::task::looking;
use super::{Call, json_arg, options};
use crate::term::{COLUMNS, print, print_json, table, tell, time};

/// The cases that come with the program.
const CASES: &str = include_str!("../../../shared/route/cases.json");
/// Most bytes of a file of cases or a prompt.
const FILE_BYTES: u64 = 1024 * 1024;

/// How work is classified here.
pub(super) fn router(call: &Call, project_dir: Option<String>) -> Result<Router> {
    let prompt = call.settings.routing_prompt.as_deref().map(|file| read("--routing-prompt", file)).transpose()?;
    if prompt.as_ref().is_some_and(|prompt| prompt.trim().is_empty()) {
        return Err(Error::usage("the file of --routing-prompt is empty").hint("leave it out for Motorpool's own"));
    }
    Ok(Router { model: Some(call.settings.routing_model.clone()), prompt, project_dir })
}

fn read(of: &str, file: &Path) -> Result<String> {
    let shown = file.display();
    let wrong = |error: std::io::Error| Error::usage(format!("{of}: cannot read {shown}: {error}"));
    if std::fs::metadata(file).map_err(wrong)?.len() > FILE_BYTES {
        return Err(Error::usage(format!("{of}: {shown} has more than {FILE_BYTES} bytes")));
    }
    std::fs::read_to_string(file).map_err(wrong)
}

fn hints_args(command: Command) -> Command {
    let arg = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).help_heading("Hints for the decision")
    };
    command
        .arg(arg("max-parallel", "N", "most parts at once"))
        .arg(arg("max-chain-steps", "N", "most steps one after the other"))
        .arg(arg("prefer", "ROUTE", "single, parallel or chain, where two would do"))
        .arg(arg("domain", "TEXT", "what the work is about"))
        .arg(arg("decomposition-hints", "TEXT", "how it may be taken apart"))
}

fn hints_of(matches: &ArgMatches) -> Result<Hints> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let count = |name: &str| match text(name) {
        None => Ok(None),
        Some(text) => text.parse::<u32>().map(Some).map_err(|_| {
            Error::usage(format!("--{name}: {text:?} is no number")).hint("give a whole number from 1 to 100")
        }),
    };
    let hints = Hints {
        max_parallel: count("max-parallel")?,
        max_chain_steps: count("max-chain-steps")?,
        prefer: text("prefer").map(|word| word.parse()).transpose()?,
        domain: text("domain"),
        decomposition_hints: text("decomposition-hints"),
    };
    hints.check()?;
    Ok(hints)
}

pub(super) fn auto_command() -> Command {
    let dry_run = Arg::new("dry-run").long("dry-run").action(ArgAction::SetTrue).help("print the route; start nothing");
    let detach =
        Arg::new("detach").long("detach").action(ArgAction::SetTrue).help("print the id of the decision's task");
    hints_args(options::add(
        Command::new("auto")
            .about("Let a worker decide whether work is one task, several at once or a chain, and do it so")
            .arg(dry_run)
            .arg(detach.conflicts_with("dry-run"))
            .arg(json_arg("print the route (with --dry-run), or the record of what was started"))
            .after_help(
                "Examples:\n  motorpool auto 'Write a README for each package'\n  motorpool auto --dry-run @task.md\n\
                 The decision is a run of its own (--routing-model); the options are those of each part.",
            ),
    ))
}

fn routed_json(routed: &Routed) -> Value {
    let mut value = serde_json::to_value(&routed.decision.route).unwrap_or_default();
    value["fallback"] = routed.decision.fallback.clone().into();
    value["task"] = routed.task.to_string().into();
    value["cost_usd"] = time::usd(routed.cost_microusd).into();
    value
}

/// The route and its parts, for people.
fn routed_text(routed: &Routed) -> String {
    let mut text = format!("{}\n", routed.decision.route.kind());
    match &routed.decision.route {
        Route::Single { .. } => {}
        Route::Parallel { prompts } => {
            for (at, prompt) in prompts.iter().enumerate() {
                text.push_str(&format!("\n{}. {prompt}\n", at + 1));
            }
        }
        Route::Chain { steps } => {
            for (at, step) in steps.iter().enumerate() {
                text.push_str(&format!("\n{}. {}: {}\n", at + 1, step.name, step.prompt));
            }
        }
    }
    text
}

pub(super) async fn auto(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let hints = hints_of(matches)?;
    let spec = options::spec(call, matches)?;
    let router = router(call, None)?;
    reach::check(call)?;
    call.refuse_inside_run("auto")?;
    let is_dry = matches.get_flag("dry-run");
    let wish = if matches.get_flag("detach") { Wish::Submit } else { Wish::Run };
    let signals = Signals::count()?;
    let reached = tokio::select! {
        reached = reach::reach(call, wish) => reached?,
        () = signals.reach(1) => {
            tell("cancelled; nothing was submitted");
            return Ok(5);
        }
    };
    let router = Router { project_dir: reached.joined.is_some().then(|| call.project_dir()), ..router };
    if is_dry {
        let routed = tokio::select! {
            routed = reached.pool.route(&spec.prompt, &hints, &router) => routed?,
            () = signals.reach(1) => {
                tell("interrupted; nothing was started but the decision, which goes on");
                return Ok(5);
            }
        };
        if let Some(why) = &routed.decision.fallback {
            tell(&format!("one task, since {why}"));
        }
        if call.json {
            print_json(&routed_json(&routed))?;
        } else {
            print(&routed_text(&routed))?;
        }
        return Ok(0);
    }
    let made = reached.pool.auto(&spec.prompt, &hints, &router, spec.options).await?;
    if matches.get_flag("detach") {
        if call.json {
            print_json(
                &json!({"id": made.id, "state": reached.pool.task(made.id).await?.state.word(), "created": made.fresh}),
            )?;
        } else {
            print(&format!("{}\n", made.id))?;
        }
        return Ok(0);
    }
    tell(&format!("{} decides how it is done", made.id));
    let mut decision = Follow::new(&reached, made.id, signals, None);
    let record = match decision.until_over().await? {
        End::Left(code) => return Ok(code),
        End::Over(record) => *record,
    };
    let Some((carried, id)) = Carried::of(&record) else { return decision.conclude(record, call.json) };
    if let Some(why) = &carried.fallback {
        tell(&format!("one task, since {why}"));
    }
    tell(&format!("{id}: {}", carried.route.words()));
    if decision.was_cancelled() {
        // It was quicker than the cancel.
        reached.pool.cancel(id, "interrupted at the command line").await?;
    }
    super::group::follow_any(call, &reached, id, None).await
}

/// A labelled case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    label: String,
    prompt: String,
    /// `single`, `parallel`, `chain`, or `any`.
    expected: String,
    #[serde(default)]
    hints: Hints,
}

impl Case {
    fn passes(&self, kind: RouteKind) -> bool {
        self.expected == "any" || self.expected == kind.word()
    }
}

fn cases(text: &str, origin: &str) -> Result<Vec<Case>> {
    let cases: Vec<Case> = serde_norway::from_str(text).map_err(|error| {
        Error::usage(format!("{origin}: {error}"))
            .hint("give a list of {label, prompt, expected: single, parallel, chain or any, hints}, as YAML or JSON")
    })?;
    for case in &cases {
        if case.expected != "any" {
            case.expected.parse::<RouteKind>().map_err(|error| {
                Error::usage(format!("{origin}: case {:?}: {}", case.label, error.message()))
                    .hint("expected is single, parallel, chain or any")
            })?;
        }
        case.hints.check()?;
    }
    if cases.is_empty() {
        return Err(Error::usage(format!("{origin} has no cases")).hint("leave FILE out for those that come with it"));
    }
    Ok(cases)
}

pub(super) fn test_command() -> Command {
    looking(
        Command::new("route-test")
            .about("Measure how well work is classified: labelled cases, accuracy, misses, cost")
            .arg(Arg::new("file").value_name("FILE").help("cases as YAML or JSON; without it the 40 that come with Motorpool"))
            .arg(
                Arg::new("at-least").long("at-least").value_name("PERCENT").help(
                    "exit code 1 below this accuracy",
                ),
            )
            .arg(json_arg("print {total, correct, wrong, errors, accuracy, cost_usd, results}"))
            .after_help("Example:\n  motorpool route-test --routing-model haiku --at-least 90\nEach case is a run that is paid for."),
    )
}

/// What a case came to.
struct Tested<'a> {
    case: &'a Case,
    outcome: Result<Routed>,
    took_ms: u64,
}

impl Tested<'_> {
    fn word(&self) -> &'static str {
        match &self.outcome {
            // A decision that nobody made is none.
            Ok(routed) if routed.decision.fallback.is_some() => "ERROR",
            Ok(routed) if self.case.passes(routed.decision.route.kind()) => "OK",
            Ok(_) => "MISMATCH",
            Err(_) => "ERROR",
        }
    }

    fn json(&self) -> Value {
        let routed = self.outcome.as_ref().ok();
        let error = match &self.outcome {
            Ok(routed) => routed.decision.fallback.clone(),
            Err(error) => Some(error.to_string()),
        };
        json!({
            "label": self.case.label, "prompt": self.case.prompt, "expected": self.case.expected,
            "outcome": self.word(), "got": routed.map(|routed| routed.decision.route.kind().word()),
            "parts": routed.map(|routed| routed.decision.route.parts()), "route": routed.map(routed_json),
            "error": error, "elapsed_ms": self.took_ms,
        })
    }
}

pub(super) async fn test(call: &Call, matches: &ArgMatches) -> Result<u8> {
    let at_least = match matches.get_one::<String>("at-least") {
        None => None,
        Some(text) => match text.trim_end_matches('%').parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Some(percent),
            _ => return Err(Error::usage(format!("--at-least: {text:?} is no percentage")).hint("as in --at-least 90")),
        },
    };
    let cases = match matches.get_one::<String>("file") {
        Some(file) => cases(&read("FILE", Path::new(file))?, file)?,
        None => cases(CASES, "the cases that come with Motorpool")?,
    };
    let router = router(call, None)?;
    reach::check(call)?;
    call.refuse_inside_run("route-test")?;
    let reached = reach::reach(call, Wish::Run).await?;
    let router = Router { project_dir: reached.joined.is_some().then(|| call.project_dir()), ..router };
    let tested = run_all(&reached.pool, &cases, &router).await;
    let count = |word: &str| tested.iter().filter(|one| one.word() == word).count();
    let (correct, wrong, errors) = (count("OK"), count("MISMATCH"), count("ERROR"));
    let answered = correct + wrong;
    let accuracy = if answered == 0 { 0.0 } else { 100.0 * correct as f64 / answered as f64 };
    let cost: u64 = tested.iter().filter_map(|one| one.outcome.as_ref().ok()).map(|routed| routed.cost_microusd).sum();
    if call.json {
        let results: Vec<Value> = tested.iter().map(Tested::json).collect();
        print_json(&json!({
            "total": tested.len(), "correct": correct, "wrong": wrong, "errors": errors, "accuracy": accuracy,
            "cost_usd": time::usd(cost), "results": results,
        }))?;
    } else {
        print(&report(&tested))?;
        print(&format!(
            "{correct} of {answered} correct ({accuracy:.1} %), {errors} without an answer, {}\n",
            time::dollars(cost)
        ))?;
    }
    let is_good = errors < tested.len() && at_least.is_none_or(|least| errors == 0 && accuracy >= least);
    Ok(u8::from(!is_good))
}

/// All cases at once: the pool has its own bounds.
async fn run_all<'a>(pool: &Pool, cases: &'a [Case], router: &Router) -> Vec<Tested<'a>> {
    let one = |case: &'a Case| async move {
        let began = std::time::Instant::now();
        let outcome = pool.route(&case.prompt, &case.hints, router).await;
        Tested { case, outcome, took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX) }
    };
    futures_util::future::join_all(cases.iter().map(one)).await
}

fn report(tested: &[Tested<'_>]) -> String {
    let row = |one: &Tested<'_>| {
        let got = match &one.outcome {
            Ok(routed) => routed
                .decision
                .fallback
                .clone()
                .unwrap_or_else(|| format!("{} ({})", routed.decision.route.kind(), routed.decision.route.parts())),
            Err(error) => error.message().to_owned(),
        };
        vec![one.word().to_owned(), one.case.expected.clone(), got, one.case.label.clone()]
    };
    let rows: Vec<Vec<String>> = tested.iter().map(row).collect();
    table::render(&["", "EXPECTED", "GOT", "CASE"], &rows, COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_that_come_with_it_are_read_and_cover_each_route() {
        let cases = cases(CASES, "x").unwrap();
        assert_eq!(cases.len(), 40);
        for kind in ["single", "parallel", "chain", "any"] {
            assert!(cases.iter().any(|case| case.expected == kind), "{kind}");
        }
        let labels: std::collections::BTreeSet<&str> = cases.iter().map(|case| case.label.as_str()).collect();
        assert_eq!(labels.len(), 40, "each has a label of its own");
    }

    #[test]
    fn a_case_that_cannot_be_meant_is_refused() {
        for (text, expected) in [
            ("[]", "no cases"),
            ("- {label: a, prompt: b}", "expected"),
            ("- {label: a, prompt: b, expected: sideways}", "case \"a\""),
            ("- {label: a, prompt: b, expected: any, hints: {max_parallel: 0}}", "max_parallel"),
            ("- {label: a, prompt: b, expected: any, colour: red}", "colour"),
        ] {
            let error = cases(text, "f").unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }
}
