//! Every recorded run of every recorded version of the CLI, and how it is judged.

use std::path::PathBuf;

use motorpool::domain::attempt::Ending;
use motorpool_worker::claude::classify::{Classified, Exit, Seen, classify};
use motorpool_worker::claude::event::Event;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/transcripts")
}

fn versions() -> Vec<String> {
    let mut versions: Vec<String> = std::fs::read_dir(root())
        .expect("the transcripts")
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    versions.sort();
    versions
}

fn replay(version: &str, name: &str) -> (Seen, Classified) {
    let path = root().join(version).join(format!("{name}.jsonl"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut seen = Seen::default();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        seen.note(&Event::read(line));
    }
    let exit = match &seen.result {
        Some(_) => Exit::Code(i32::from(!seen.succeeded())),
        None => Exit::Code(143),
    };
    let classified = classify(&seen, exit, "", name.starts_with("structured"));
    (seen, classified)
}

/// Name, class (or `success`), status, a part of the message, window of a limit.
type Row = (&'static str, &'static str, Option<u16>, &'static str, Option<&'static str>);

const EXPECTED: &[Row] = &[
    ("400", "request", Some(400), "messages: the request is not valid", None),
    ("400_credit", "limit", Some(400), "Credit balance is too low", None),
    ("400_org_disabled", "auth", Some(400), "disabled organization", None),
    ("400_prompt_too_long", "request", Some(400), "Prompt is too long", None),
    ("400_usage_limits", "limit", Some(400), "You will regain access on", None),
    ("401_key", "auth", Some(401), "Invalid API key", None),
    ("401_oauth", "auth", Some(401), "401 OAuth authentication failed", None),
    ("402", "limit", Some(402), "a problem with your billing", None),
    ("403", "auth", Some(403), "does not have permission", None),
    ("403_revoked", "auth", Some(403), "in again or contact", None),
    ("404", "request", Some(404), "issue with the selected model", None),
    ("413", "request", Some(413), "Request too large", None),
    ("429_limit", "limit", Some(429), "hit your", Some("five_hour")),
    ("429_limit_after_tool", "limit", Some(429), "hit your", Some("five_hour")),
    ("429_limit_key", "transient", Some(429), "exceed your account's rate limit", None),
    ("429_limit_opus", "limit", Some(429), "Opus limit", Some("seven_day_opus")),
    ("429_limit_weekly", "limit", Some(429), "weekly limit", Some("seven_day")),
    ("429_plain", "transient", Some(429), "rate limit", None),
    ("429_plain_oauth", "transient", Some(429), "temporarily limiting", None),
    ("500", "transient", Some(500), "Internal server error", None),
    ("503", "transient", Some(503), "Service unavailable", None),
    ("529", "transient", Some(529), "Overloaded", None),
    ("connection_refused", "transient", None, "API Error:", None),
    ("denied", "success", None, "", None),
    ("dropped", "transient", None, "Connection to the API was lost", None),
    ("initialize", "success", None, "", None),
    ("interrupt", "transient", None, "ede_diagnostic", None),
    ("max_budget", "budget", None, "", None),
    ("max_turns", "turns", None, "maximum number of turns", None),
    ("not_logged_in", "auth", None, "Not logged in", None),
    ("partial", "success", None, "", None),
    ("permission", "success", None, "", None),
    ("sigint", "transient", None, "ede_diagnostic", None),
    ("sigterm", "transient", None, "code 143 without a result", None),
    ("steering", "success", None, "", None),
    ("structured", "success", None, "", None),
    ("structured_missing", "check", None, "without the JSON", None),
    ("success", "success", None, "", None),
    ("tools", "success", None, "", None),
];

#[test]
fn every_recorded_run_is_judged_alike_in_every_version() {
    let versions = versions();
    assert!(versions.len() >= 2, "{versions:?}");
    for version in &versions {
        for (name, class, status, message, window) in EXPECTED {
            let (_, got) = replay(version, name);
            let at = format!("{version} {name}: {got:?}");
            match &got.outcome.ending {
                Ending::Success => assert_eq!(*class, "success", "{at}"),
                Ending::Failed(failure) => {
                    assert_eq!(failure.class.to_string(), *class, "{at}");
                    assert_eq!(failure.status, *status, "{at}");
                    assert!(failure.message.contains(message), "{at}");
                    assert!(failure.hint.is_some() || *class == "transient" || *name == "400", "{at}");
                }
                Ending::Stopped(_) | Ending::Elsewhere { .. } => panic!("{at}"),
            }
            assert_eq!(got.unfit.is_some(), *class == "auth", "{at}");
            assert_eq!(got.limit.is_some(), *class == "limit", "{at}");
            let limit = got.limit.unwrap_or_default();
            assert_eq!(limit.window.as_deref(), *window, "{version} {name}");
            assert_eq!(limit.until_ms.is_some(), window.is_some(), "{version} {name}");
            assert!(limit.until_ms.is_none_or(|until| until > 1_700_000_000_000), "{version} {name}: milliseconds");
        }
    }
}

#[test]
fn no_recorded_run_is_left_out() {
    for version in versions() {
        for entry in std::fs::read_dir(root().join(&version)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let Some(name) = name.strip_suffix(".jsonl") else { continue };
            assert!(EXPECTED.iter().any(|(one, ..)| *one == name), "{version}/{name} has no row");
        }
    }
}

#[test]
fn a_report_holds_what_the_run_brought_home() {
    for version in versions() {
        let report = |name: &str| replay(&version, name).1.outcome.report;
        let success = report("success");
        assert_eq!(success.output.as_deref(), Some("hello"), "{version}");
        assert!(success.session_id.is_some() && success.cost_microusd > 0 && !success.cost_estimated, "{version}");
        assert!(success.usage.is_some() && success.turns == 1 && success.spoke, "{version}");
        assert_eq!(report("structured").structured.unwrap()["score"], 7, "{version}");
        let denied = report("denied").denied;
        assert!(denied.iter().any(|call| call.starts_with("Write(")), "{version}: {denied:?}");
        assert!(!report("401_key").spoke, "{version}");
        assert!(report("429_limit_after_tool").spoke, "{version}");
        assert_eq!(report("401_key").output, None, "{version}: what the API says is no output");
        let killed = report("sigterm");
        assert!(killed.cost_estimated && killed.cost_microusd > 0, "{version}: {killed:?}");
    }
}

/// One version reckons a model at another price than the next: the table follows the newer one.
#[test]
fn the_estimate_is_near_the_clis_own_figure() {
    for version in versions() {
        let (seen, _) = replay(&version, "partial");
        let (own, estimate) = (seen.cost().0, seen.meter.microusd());
        assert!(estimate.abs_diff(own) <= own / 2 + 1, "{version}: {estimate} for {own}");
    }
}

#[test]
fn an_exit_without_a_result_is_judged_by_how_it_came() {
    let (root, space) = ("--dangerously-skip-permissions cannot be used with root/sudo privileges", "ENOSPC: no");
    for (exit, events, stderr, class, message) in [
        (Exit::Code(1), 0, root, "request", "cannot be used with root"),
        (Exit::Code(1), 0, "", "transient", "code 1 without a result"),
        (Exit::Code(0), 3, "warning", "transient", "code 0 without a result: warning"),
        (Exit::Code(137), 0, "x", "transient", "code 137"),
        (Exit::Code(1), 0, space, "transient", "ENOSPC"),
        (Exit::Signal(9), 0, "x", "transient", "signal 9"),
    ] {
        let mut seen = Seen::default();
        (0..events).for_each(|_| seen.note(&Event::Other));
        let got = classify(&seen, exit, stderr, false);
        let Ending::Failed(failure) = got.outcome.ending else { panic!("{exit:?}") };
        assert_eq!(failure.class.to_string(), class, "{exit:?} {stderr}");
        assert!(failure.message.contains(message), "{failure:?}");
    }
}
