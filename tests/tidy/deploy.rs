//! Deployment files: they parse, and agree with the code.

use motorpool::settings::{Row, Scope, TABLE};
use serde_norway::Value;

use crate::tree::{all, expect_none, read, root};

/// Settings that make no sense for a worker in a container.
const NOT_IN_COMPOSE: &[&str] = &["coordinator", "state-dir", "linger", "slot", "routing-model", "routing-prompt"];

fn compose() -> Value {
    serde_norway::from_str(&read("docker-compose.yml")).expect("docker-compose.yml is YAML")
}

#[test]
fn the_compose_file_has_its_services() {
    let compose = compose();
    for service in ["redis", "worker", "dispatcher"] {
        let service = &compose["services"][service];
        assert!(service["healthcheck"]["test"].is_sequence(), "every service has a health check: {service:?}");
        assert!(service["restart"].is_string(), "every service comes back: {service:?}");
    }
    let worker = &compose["services"]["worker"];
    assert!(worker["container_name"].is_null(), "a name would keep it from being scaled");
    assert!(worker["ports"].is_null(), "a worker listens to nothing");
    assert!(compose["services"]["redis"]["ports"].is_null(), "Redis is not for the outside");
    assert_eq!(worker["depends_on"]["redis"]["condition"].as_str(), Some("service_healthy"));
    for volume in compose["services"]["redis"]["volumes"].as_sequence().into_iter().flatten() {
        let name = volume.as_str().and_then(|text| text.split(':').next()).unwrap_or_default();
        let is_path = name.starts_with('.') || name.starts_with('/');
        assert!(is_path || compose["volumes"].get(name).is_some(), "the volume {name} is declared");
    }
}

#[test]
fn a_container_gets_every_setting_that_means_something_to_it() {
    let compose = compose();
    let environment = &compose["services"]["worker"]["environment"];
    let mut wrong = Vec::new();
    // Defaults of a pool are written by what starts an embedded one, not by a host.
    let of_worker = |row: &&Row| !matches!(row.scope, Scope::PoolDefault | Scope::Serve);
    for row in TABLE.iter().filter(of_worker).filter(|row| !NOT_IN_COMPOSE.contains(&row.name)) {
        if environment.get(row.variable().as_str()).is_none() {
            wrong.push(format!("docker-compose.yml does not pass {} to the worker", row.variable()));
        }
    }
    for row in TABLE.iter().filter(|row| row.scope == Scope::Serve) {
        if compose["services"]["dispatcher"]["environment"].get(row.variable().as_str()).is_none() {
            wrong.push(format!("docker-compose.yml does not pass {} to the dispatcher", row.variable()));
        }
    }
    let variables: Vec<String> = TABLE.iter().map(Row::variable).collect();
    let dispatcher = &compose["services"]["dispatcher"]["environment"];
    let environments = [environment, dispatcher].map(|names| names.as_mapping().expect("environment is a mapping"));
    for name in environments.into_iter().flat_map(|names| names.keys()).filter_map(Value::as_str) {
        if name.starts_with("MOTORPOOL_") && !variables.iter().any(|variable| variable == name) {
            wrong.push(format!("docker-compose.yml: {name} is no setting"));
        }
    }
    expect_none(&wrong);
}

#[test]
fn the_example_environment_names_every_setting() {
    let example = read(".env.example");
    let named: Vec<&str> = example
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").split_once('='))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("MOTORPOOL_"))
        .collect();
    let mut wrong = Vec::new();
    for row in TABLE {
        if !named.contains(&row.variable().as_str()) {
            wrong.push(format!(".env.example does not name {}", row.variable()));
        }
    }
    let variables: Vec<String> = TABLE.iter().map(Row::variable).collect();
    for name in named {
        if !variables.iter().any(|variable| variable == name) {
            wrong.push(format!(".env.example: {name} is no setting"));
        }
    }
    expect_none(&wrong);
}

#[test]
fn redis_is_set_up_to_keep_what_it_is_given() {
    let conf = read("deploy/redis.conf");
    for line in ["appendonly yes", "appendfsync always", "maxmemory-policy noeviction"] {
        assert!(conf.lines().any(|given| given == line), "deploy/redis.conf says `{line}`");
    }
}

/// What a service manager does with a host's signals and exit codes.
#[test]
fn the_unit_renews_drains_and_starts_again_what_may_come_yet() {
    let unit = read("deploy/motorpool-host.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap_or_default();
    assert_eq!(value("ExecReload"), "/bin/kill -HUP $MAINPID");
    assert_eq!((value("Restart"), value("RestartPreventExitStatus")), ("on-failure", "2 6"));
    assert_eq!(value("KillMode"), "mixed", "the host alone is told to drain");
    let drain = TABLE.iter().find(|row| row.name == "drain-timeout").expect("a setting");
    let drain = motorpool::settings::duration(drain.default).expect("a time");
    let stop: u64 = value("TimeoutStopSec").parse().expect("seconds");
    assert!(stop > drain.as_secs(), "what runs has its time");
    let begins = value("ExecStart");
    assert!(begins.contains("/motorpool-worker host"), "{begins}");
}

/// `env NAME=VALUE program` has the value in its arguments, which every user of a machine can read.
#[test]
fn no_script_hands_variables_over_in_arguments() {
    let mut wrong = Vec::new();
    for file in all().into_iter().filter(|file| !file.ends_with(".rs") && !file.starts_with("tests/transcripts/")) {
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        if !text.starts_with("#!") || !text.lines().next().is_some_and(|line| line.ends_with("sh")) {
            continue;
        }
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
            if line.split(|c: char| c.is_whitespace() || "();|&".contains(c)).any(|word| word == "env") {
                wrong.push(format!("{file}:{}: export what a program is to get, in a subshell", i + 1));
            }
        }
    }
    expect_none(&wrong);
}

/// One version of Claude Code is pinned for the tests and for the image.
#[test]
fn the_image_has_the_claude_code_that_the_tests_ran_with() {
    let installer = read("tests/install-claude");
    let pinned =
        installer.lines().find_map(|line| line.strip_prefix("pinned=")).expect("tests/install-claude pins one");
    let image = read("deploy/Dockerfile");
    assert!(image.contains(&format!("ARG CLAUDE_VERSION={pinned}\n")), "deploy/Dockerfile installs {pinned}");
}
