//! The same tools through rmcp's client, which nobody here has written: in both eras, over pipes and HTTP.
//!
//! Its HTTP client speaks to unix sockets; a relay leads from one to the dispatcher's port.

use std::time::Duration;

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::http::Server;
use rmcp::RoleClient;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities,
    ClientConfig, ClientRequest, GetTaskParams, Implementation, ProtocolVersion, TaskPayload, TaskStatus,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, PeerRequestOptions, RunningService};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess, UnixSocketHttpClient};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixListener};

use crate::{at_gate, gated, let_go, t};

type Client = RunningService<RoleClient, ClientConfig>;

fn modern() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
}

fn config(tasks: bool) -> ClientConfig {
    let capabilities = match tasks {
        true => ClientCapabilities::builder().enable_tasks().build(),
        false => ClientCapabilities::default(),
    };
    ClientConfig::new(capabilities, Implementation::new("typed", "1"))
}

async fn over_pipes(fleet: &Fleet, how: ClientLifecycleMode, tasks: bool) -> Client {
    let (command, log) = fleet.dispatcher(&["--coordinator=ann"]);
    let log = std::fs::OpenOptions::new().append(true).open(log).unwrap();
    let (process, _) = TokioChildProcess::builder(command).stderr(log).spawn().unwrap();
    config(tasks).serve_with_lifecycle(process, how).await.unwrap()
}

async fn over_http(fleet: &Fleet, server: &Server, how: ClientLifecycleMode) -> Client {
    let socket = fleet.path("relay.sock");
    // That of the client before.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let address = server.address;
    // It ends with the runtime of the test.
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let Ok(mut far) = TcpStream::connect(address).await else { return };
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let url = format!("http://{address}/mcp");
    let client = UnixSocketHttpClient::new(&socket.display().to_string(), &url);
    let options = StreamableHttpClientTransportConfig::with_uri(url);
    let transport = StreamableHttpClientTransport::with_client(client, options);
    config(false).serve_with_lifecycle(transport, how).await.unwrap()
}

fn params(tool: &'static str, arguments: Value) -> CallToolRequestParams {
    CallToolRequestParams::new(tool).with_arguments(arguments.as_object().unwrap().clone())
}

fn text(result: &CallToolResult) -> &str {
    let [content] = &result.content[..] else { panic!("{result:?}") };
    &content.as_text().unwrap().text
}

async fn call(client: &Client, tool: &'static str, arguments: Value) -> CallToolResult {
    client.call_tool(params(tool, arguments)).await.unwrap()
}

/// Tasks that one pass through every tool makes.
const PER_PASS: u64 = 13;

/// Every tool once, well and badly; `first` is the number of the first task.
async fn every_tool(fleet: &Fleet, client: &Client, first: u64) {
    let tools = client.list_all_tools().await.unwrap();
    let mut left: Vec<String> = tools.iter().map(|tool| tool.name.to_string()).collect();
    let [one, two, three] = [first, first + 1, first + 2].map(|n| t(n).to_string());
    let gate = format!("gate{first}");
    let pass = first / PER_PASS;
    let chains = [1, 2].map(|n| format!("c{}", 2 * pass + n));
    let batch = format!("b{}", pass + 1);
    let [judged, rejected] = [first + 9, first + 10].map(|n| t(n).to_string());
    let good = [
        ("pool_submit", json!({"prompt": "@say one"}), format!("\"id\":\"{one}\"")),
        ("pool_result", json!({"ids": [one], "wait_s": 60}), "\"output\":\"one\"".into()),
        ("pool_run", json!({"prompt": "@say two", "wait_s": 60}), format!("{two} completed")),
        ("pool_wait", json!({"wait_s": 60}), "nothing is new".into()),
        ("pool_status", json!({}), "\"state\":\"idle\"".into()),
        ("pool_view", json!({"what": "task", "id": two}), format!("{two} completed")),
        (
            "pool_submit",
            json!({"prompt": gated(&gate), "permission_mode": "acceptEdits", "allowed_tools": ["Bash"]}),
            format!("\"id\":\"{three}\""),
        ),
        ("pool_cancel", json!({"ids": [three]}), format!("{three} cancelled")),
        (
            "pool_chain",
            json!({"steps": [{"name": "a", "prompt": "@say x"}, {"prompt": "@say <{previous_output}>"}], "wait_s": 60}),
            "\n<x>\n".into(),
        ),
        (
            "pool_submit_chain",
            json!({"steps": ["@say y", "@say {previous_output}z"]}),
            format!("\"id\":\"{}\"", chains[1]),
        ),
        ("pool_chain_result", json!({"id": chains[1], "wait_s": 60}), "\"output\":\"yz\"".into()),
        ("pool_wait", json!({"ids": [chains[0]]}), format!("{} completed, 2 steps", chains[0])),
        (
            "pool_fan_out",
            json!({"items": ["@say first", {"prompt": "@status 400 no"}], "wait_s": 60}),
            format!("{batch} failed, 2 items: 1 completed, 1 failed"),
        ),
        ("pool_submit_with_review", json!({"prompt": "@say good"}), format!("\"id\":\"{judged}\"")),
        ("pool_result", json!({"ids": [judged], "wait_s": 60}), "pending_review".into()),
        ("pool_approve_result", json!({"ids": [judged], "round": 1}), "\"state\":\"completed\"".into()),
        (
            "pool_submit_with_review",
            json!({"prompt": "@say bad", "max_rejections": 1}),
            format!("\"id\":\"{rejected}\""),
        ),
        ("pool_result", json!({"ids": [rejected], "wait_s": 60}), "pending_review".into()),
        ("pool_reject_result", json!({"ids": [rejected], "feedback": "not so"}), "\"state\":\"failed\"".into()),
        (
            "pool_auto",
            json!({"prompt": "Do it.\n@json {\"route\": \"single\"}\n@say as it was", "wait_s": 60}),
            "(route: single of 1)".into(),
        ),
        ("pool_view", json!({"what": "task", "id": batch}), "1. item 1 t".into()),
    ];
    for (tool, arguments, words) in good {
        if tool == "pool_cancel" {
            at_gate(fleet, first + 2, &gate).await;
        }
        left.retain(|name| name != tool);
        let result = call(client, tool, arguments.clone()).await;
        // What failed is an answer, and marked so.
        let fails = words.contains("failed");
        assert!(
            (result.is_error == Some(true)) == (fails && tool == "pool_fan_out") && text(&result).contains(&words),
            "{tool} {arguments}: {result:?}"
        );
    }
    assert_eq!(left, Vec::<String>::new(), "tools that were not called");
    let tasks = async || fleet.pool.status().await.unwrap().tasks;
    let before = tasks().await;
    let bad = [
        ("pool_run", json!({}), "prompt is missing"),
        ("pool_submit", json!({"prompt": "x", "modle": "haiku"}), "did you mean model?"),
        ("pool_result", json!({"ids": ["t999"]}), "no task t999"),
        ("pool_wait", json!({"wait_s": 601}), "601 is more than 600"),
        ("pool_cancel", json!({"ids": [7]}), "give a list of ids"),
        ("pool_status", json!({"x": 1}), "is not an argument"),
        ("pool_view", json!({"what": "taks"}), "did you mean task"),
        ("pool_chain", json!({"steps": [{"prompt": "{previous_output}"}]}), "there is no step before the first"),
        ("pool_submit_chain", json!({"stpes": []}), "unknown name \"stpes\""),
        ("pool_chain_result", json!({"id": "c999"}), "no chain c999"),
        ("pool_fan_out", json!({"items": ["x", {"prompt": "y", "modle": "z"}]}), "item 2: unknown name \"modle\""),
        ("pool_auto", json!({"prompt": "x", "hints": {"prefer": "sideways"}}), "hints"),
        ("pool_submit_with_review", json!({}), "prompt is missing"),
        ("pool_approve_result", json!({"ids": [one]}), "is completed, not up for review"),
        ("pool_reject_result", json!({"ids": [one]}), "feedback is missing"),
    ];
    for (tool, arguments, words) in bad {
        let result = call(client, tool, arguments.clone()).await;
        assert!(result.is_error == Some(true) && text(&result).contains(words), "{tool} {arguments}: {result:?}");
        assert!(text(&result).contains("\nhint: "), "{tool} {arguments}: {result:?}");
    }
    assert_eq!(tasks().await, before);
    client.call_tool(params("pool_rum", json!({}))).await.unwrap_err();
}

#[tokio::test]
async fn every_tool_answers_over_pipes() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.joined(&[]).await;
    for (first, how) in [(1, ClientLifecycleMode::Initialize), (1 + PER_PASS, modern())] {
        let client = over_pipes(&fleet, how, false).await;
        every_tool(&fleet, &client, first).await;
        client.cancel().await.unwrap();
    }
    fleet.end().await;
}

#[tokio::test]
async fn every_tool_answers_over_http() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let server = Server::start(&fleet, &[]).await;
    let auto =
        ClientLifecycleMode::Auto { preferred_versions: vec![ProtocolVersion::V_2026_07_28], legacy_version: None };
    for (first, how) in [(1, ClientLifecycleMode::Initialize), (1 + PER_PASS, modern()), (1 + 2 * PER_PASS, auto)] {
        let client = over_http(&fleet, &server, how).await;
        every_tool(&fleet, &client, first).await;
        client.cancel().await.unwrap();
    }
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn tasks_are_followed_and_stopped() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let client = over_pipes(&fleet, modern(), true).await;
    for (number, gate) in [(1, "go"), (2, "never")] {
        let begun = client.call_tool_once(params("pool_run", json!({"prompt": gated(gate)}))).await.unwrap();
        let CallToolResponse::Task(begun) = begun else { panic!("{begun:?}") };
        assert_eq!((begun.task.task_id.as_str(), begun.task.status), (&*t(number).to_string(), TaskStatus::Working));
    }
    at_gate(&fleet, 1, "go").await;
    let_go(&fleet, "go");
    at_gate(&fleet, 2, "never").await;
    for _ in 0..2 {
        client.cancel_task(CancelTaskParams::new("t2")).await.unwrap();
    }
    let over = async |id: &str| {
        fleet
            .until(&format!("{id} is over"), async |_| {
                let task = client.get_task(GetTaskParams::new(id)).await.unwrap().task;
                (task.status() != TaskStatus::Working).then_some(task)
            })
            .await
    };
    let TaskPayload::Completed { result } = over("t1").await.payload else { panic!("t1 is not completed") };
    let result: CallToolResult = serde_json::from_value(result.into()).unwrap();
    assert!(text(&result).starts_with("t1 completed") && text(&result).contains("\nlet go\n"), "{result:?}");
    assert_eq!(over("t2").await.payload, TaskPayload::Cancelled);
    assert_eq!(over("t3").await.status(), TaskStatus::Failed);
    client.cancel().await.unwrap();
    fleet.end().await;
}

#[tokio::test]
async fn a_request_that_timed_out_there_goes_on_here() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    for (first, how) in [(1, ClientLifecycleMode::Initialize), (3, modern())] {
        let client = over_pipes(&fleet, how, false).await;
        let request = |prompt: String| {
            ClientRequest::CallToolRequest(CallToolRequest::new(params(
                "pool_run",
                json!({"prompt": prompt, "wait_s": 600}),
            )))
        };
        let (patient, hurried) =
            (PeerRequestOptions::default(), PeerRequestOptions::with_timeout(Duration::from_millis(300)));
        // The client tells the dispatcher that it waits no longer, and why.
        let gate = format!("go{first}");
        client
            .send_cancellable_request(request(gated(&gate)), hurried)
            .await
            .unwrap()
            .await_response()
            .await
            .unwrap_err();
        let record = at_gate(&fleet, first, &gate).await;
        assert!(!record.cancel, "{record:#?}");
        let_go(&fleet, &gate);
        assert_eq!(fleet.over(t(first)).await.state, State::Completed);
        // A stop is a stop.
        let stopped = client.send_cancellable_request(request(gated(&format!("never{first}"))), patient).await.unwrap();
        at_gate(&fleet, first + 1, &format!("never{first}")).await;
        stopped.cancel(Some("the user has enough".into())).await.unwrap();
        let record = fleet.over(t(first + 1)).await;
        assert_eq!((record.state, record.reason.as_deref()), (State::Cancelled, Some("the user has enough")));
        client.cancel().await.unwrap();
    }
    fleet.end().await;
}
