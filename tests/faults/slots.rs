//! Slots: given up when their workers end badly too often, and keeping what they were told.

use motorpool::domain::host::Keeping;
use motorpool_tests::faults::signal;
use motorpool_tests::fleet::{Cli, Fleet, program};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::host::{keeps, workers_of};
use crate::scale::{hosts, known};

/// The process that fills a slot.
async fn filled(fleet: &Fleet, slot: &str, but: &[u32]) -> u32 {
    fleet
        .until(&format!("{slot} is filled"), async |fleet| {
            let hosts = hosts(fleet).await;
            let slots = hosts.into_iter().flat_map(|host| host.slots);
            let pid = slots.filter(|one| one.name == slot && one.state == Keeping::Kept).find_map(|one| one.pid)?;
            (!but.contains(&pid)).then_some(pid)
        })
        .await
}

/// Kills the workers of a slot until it is given up.
async fn give_up(fleet: &Fleet, slot: &str, kills: u32) {
    let mut killed = Vec::new();
    for _ in 0..kills {
        let pid = filled(fleet, slot, &killed).await;
        signal(pid as i32, Signal::SIGKILL);
        killed.push(pid);
    }
    fleet
        .until("it is given up", async |fleet| {
            hosts(fleet).await.iter().any(|host| host.errored().any(|one| one.name == slot)).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_slot_whose_workers_end_badly_is_given_up_reported_and_healed_by_a_word() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.start("motorpool-worker", &["host", "--slots", "2", "--max-restarts", "2"]);
    let name = known(&fleet, 1).await.remove(0);
    let slot = format!("{name}-2");
    fleet.all_joined(2).await;
    give_up(&fleet, &slot, 3).await;
    assert_eq!(workers_of(host).len(), 1, "the other goes on");
    assert_eq!(fleet.run("@say well", json!({})).await.state, motorpool::State::Completed);

    let slots = fleet.motorpool_json(&["slots"]).await;
    let errored = slots["items"].as_array().expect("slots").iter().find(|one| one["id"] == slot.as_str());
    let errored = errored.unwrap_or_else(|| panic!("{slots}"));
    assert_eq!((&errored["state"], &errored["host"]), (&"errored".into(), &name.as_str().into()), "{errored}");
    assert!(errored["why"].as_str().is_some_and(|why| why.contains("SIGKILL")), "{errored}");
    for (command, code) in [("status", 0), ("doctor", 1)] {
        let done = fleet.motorpool(&[command]).await;
        assert_eq!(done.code, Some(code), "{done:?}");
        for word in [slot.as_str(), &format!("host {name}"), "SIGKILL", "motorpool scale 2"] {
            assert!(done.out.contains(word), "{word}: {done:?}");
        }
    }

    signal(host, Signal::SIGHUP);
    filled(&fleet, &slot, &[]).await;
    keeps(&fleet, host, 2).await;
    give_up(&fleet, &slot, 3).await;
    // The same number as before.
    fleet.motorpool_json(&["scale", "2"]).await;
    filled(&fleet, &slot, &[]).await;
    fleet.all_joined(2).await;
    assert_eq!(fleet.motorpool(&["doctor"]).await.code, Some(0));
    fleet.end_empty().await;
}

#[tokio::test]
async fn what_a_worker_said_last_is_told_with_its_slot() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let dir = fleet.path("place");
    std::fs::create_dir(&dir).expect("a directory");
    let place = dir.display().to_string();
    fleet.start("motorpool-worker", &["host", "--slots", "1", "--max-restarts", "1", "--working-dir", &place]);
    let name = known(&fleet, 1).await.remove(0);
    let pid = filled(&fleet, &format!("{name}-1"), &[]).await;
    fleet.all_joined(1).await;
    std::fs::remove_dir(&dir).expect("it was empty");
    signal(pid as i32, Signal::SIGKILL);
    let slot = fleet.until("it is given up", async |fleet| hosts(fleet).await.first()?.errored().next().cloned()).await;
    assert_eq!(slot.ended.as_deref(), Some("exit status: 2"), "{slot:?}");
    assert!(slot.said.as_deref().is_some_and(|said| said.contains("is no directory")), "{slot:?}");
    std::fs::create_dir(&dir).expect("a directory");
    fleet.motorpool_json(&["scale", "1"]).await;
    fleet.all_joined(1).await;
    fleet.end_empty().await;
}

#[tokio::test]
async fn what_a_slot_keeps_survives_its_worker_and_its_host_and_reaches_claude() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 3).await;
    let claude = program("fake-claude");
    let text =
        format!("#!/bin/sh\necho \"$@\" >>\"{}\"\nexec {} \"$@\"\n", fleet.path("args").display(), claude.display());
    let script = fleet.script("claude", &text);
    fleet.env("MOTORPOOL_CLAUDE_BIN", &script.display().to_string());
    let said = |fleet: &Fleet| {
        let text = std::fs::read_to_string(fleet.path("args")).expect("the arguments of every call");
        text.lines().rfind(|line| line.contains("stream-json")).expect("a run").to_owned()
    };
    let host = fleet.host(1);
    let slot = format!("{}-1", known(&fleet, 1).await[0]);
    fleet.all_joined(1).await;
    fleet.run("@say first", json!({})).await;
    assert!(!said(&fleet).contains("--model"), "{}", said(&fleet));

    let args =
        ["slots", &slot, "--set-name", "Ada", "--role", "reviewer", "--model", "haiku", "--allowed-tools", "Read"];
    let told = fleet.motorpool_json(&args).await;
    assert_eq!(
        (&told["name"], &told["role"], &told["options"]["model"]),
        (&"Ada".into(), &"reviewer".into(), &"haiku".into())
    );
    fleet.motorpool_json(&["config", "set", "model=opus", "effort=low"]).await;
    fleet.run("@say second", json!({})).await;
    let has_slots =
        |args: String| args.contains("--model haiku") && args.contains("--effort low") && args.contains("Read");
    assert!(has_slots(said(&fleet)), "the slot's before the pool's: {}", said(&fleet));
    fleet.run("@say third", json!({"model": "sonnet"})).await;
    assert!(said(&fleet).contains("--model sonnet"), "the task's before the slot's: {}", said(&fleet));

    let worker = keeps(&fleet, host, 1).await[0];
    signal(worker, Signal::SIGKILL);
    filled(&fleet, &slot, &[worker as u32]).await;
    fleet.run("@say fourth", json!({})).await;
    assert!(has_slots(said(&fleet)), "after the worker's death: {}", said(&fleet));

    let refused = fleet.motorpool(&["slots", &slot, "--forget"]).await;
    assert_eq!(refused.code, Some(6), "{refused:?}");
    for pid in [host, keeps(&fleet, host, 1).await[0]] {
        fleet.kill(pid, Signal::SIGKILL);
    }
    let again = fleet.host(1);
    keeps(&fleet, again, 1).await;
    fleet.run("@say fifth", json!({})).await;
    assert!(has_slots(said(&fleet)), "after the host's death: {}", said(&fleet));

    fleet.motorpool_json(&["slots", &slot, "--unset", "model"]).await;
    fleet.run("@say sixth", json!({})).await;
    assert!(said(&fleet).contains("--model opus"), "the pool's again: {}", said(&fleet));
    assert_eq!(fleet.motorpool_json(&["config", "unset", "model"]).await["options"], json!({"effort": "low"}));
    fleet.run("@say seventh", json!({})).await;
    assert!(!said(&fleet).contains("--model"), "{}", said(&fleet));

    fleet.kill(again, Signal::SIGTERM);
    fleet.ended(again).await;
    fleet
        .until("nobody has the slot", async |fleet| {
            let slots = fleet.motorpool_json(&["slots"]).await;
            slots["items"].as_array()?.iter().all(|one| one["state"] == "absent").then_some(())
        })
        .await;
    assert_eq!(fleet.motorpool_json(&["slots", &slot]).await["role"], "reviewer");
    assert_eq!(fleet.motorpool_json(&["slots", &slot, "--forget"]).await["state"], "forgotten");
    assert_eq!(fleet.motorpool(&["slots", &slot]).await.code, Some(6));
    fleet.end_empty().await;
}

#[tokio::test]
async fn lone_workers_have_slots_of_their_own() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    fleet.joined(&[]).await;
    fleet.joined(&["--slot", "mine"]).await;
    let slots = fleet.motorpool_json(&["slots"]).await;
    let mut ids: Vec<&str> =
        slots["items"].as_array().expect("slots").iter().filter_map(|one| one["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids.len(), 3, "{slots}");
    assert!(ids.contains(&"mine") && ids.iter().any(|id| id.ends_with(".2")), "{slots}");
    for (args, word) in [
        (&["slots", "a:b"][..], "is no slot"),
        (&["slots", "mine", "--unset", "modle"], "cannot be set for a slot"),
        (&["slots", "--role", "x"], "which slot"),
        (&["slots", "mine", "--effort", "huge"], "effort"),
        (&["config", "set", "priority=high"], "cannot be set for a pool"),
        (&["config", "set", "modle=x"], "did you mean model"),
        (&["config", "set"], "it is not said what"),
        (&["scale", "many"], "no number of workers"),
    ] {
        let done = fleet.motorpool(args).await;
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
        assert!(done.err.contains(word), "{args:?}: {done:?}");
    }
    fleet.end_empty().await;
}
