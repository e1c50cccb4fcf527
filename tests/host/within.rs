//! Inside a run: a worker's Claude starts no dispatcher, though its project names one, and a dispatcher would refuse.

use motorpool_tests::fleet::{Cli, program};
use serde_json::json;

use super::yard::{coordinator, end, script};

#[tokio::test]
async fn a_worker_starts_no_dispatcher_unless_it_is_told_to_and_then_it_refuses() {
    let user = coordinator(Cli::Real).await;
    let home = user.project("home");
    let (started, ended) = (home.join("started"), home.join("ended"));
    let text = format!(
        "#!/bin/sh\ntouch {}\n{} serve\necho $? > {}\n",
        started.display(),
        program("motorpool").display(),
        ended.display()
    );
    let wrapper = script(&user, "wrapper", &text);
    let entry = json!({ "mcpServers": { "pool": { "command": wrapper, "args": [] } } });
    std::fs::write(user.project("one").join(".mcp.json"), entry.to_string()).expect("a file in the project");

    let done = user.motorpool("one", &["run", "--linger=10m", "Go.\n@say on my own"]).await;
    assert_eq!((done.code, done.out.trim()), (Some(0), "on my own"), "{done:#?}\n{}", user.logs());
    assert!(!started.exists(), "a dispatcher was started");
    let requests = user.api.requests();
    assert!(
        requests.iter().all(|request| !request.tools.iter().any(|tool| tool.starts_with("mcp__"))),
        "{requests:#?}"
    );

    // The same project, where the servers it names are wanted.
    let done = user.motorpool("one", &["run", "--strict-mcp-config=no", "Go.\n@sleep 1000\n@say with others"]).await;
    assert_eq!((done.code, done.out.trim()), (Some(0), "with others"), "{done:#?}\n{}", user.logs());
    assert!(started.exists(), "nothing is shown here: the project's servers are not started at all");
    let code =
        user.until("it ends", |_| std::fs::read_to_string(&ended).ok().filter(|code| code.ends_with('\n'))).await;
    assert_eq!(code.trim(), "6");
    end(&user).await;
}

#[tokio::test]
async fn a_dispatcher_inside_a_run_says_why_it_does_not_start() {
    let user = coordinator(Cli::StandIn).await;
    let mut command = user.command("one", &["serve"]);
    command.env("MOTORPOOL_RUN", "00000000-0000-0000-0000-000000000000/t1/1");
    let done = user.done(command).await;
    assert_eq!((done.code, done.out.as_str()), (Some(6), ""), "{done:#?}");
    assert!(done.err.contains("does not work inside a run"), "{done:#?}");
    assert_eq!(user.processes(&[]), [0; 0], "nothing was started");
}
