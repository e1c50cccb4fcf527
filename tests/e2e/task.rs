//! A task all the way and back, and how it is seen meanwhile.

use motorpool::{ChunkKind, State};
use motorpool_tests::fleet::{Cli, Fleet};
use serde_json::json;

#[tokio::test]
async fn two_tool_calls_write_files_and_the_answer_comes_home() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let prompt = "Write two files.\n@write one.txt first\n@write two.txt second\n@say both are written";
    let record = fleet.run(prompt, json!({"permission_mode": "acceptEdits", "model": "sonnet"})).await;
    assert_eq!(record.state, State::Completed, "{record:#?}\n{}", fleet.logs());
    assert_eq!(record.output.as_deref(), Some("both are written"));
    assert_eq!(std::fs::read_to_string(fleet.work.join("one.txt")).unwrap().trim(), "first");
    assert_eq!(std::fs::read_to_string(fleet.work.join("two.txt")).unwrap().trim(), "second");
    assert!(record.turns >= Some(3), "{:?}", record.turns);
    assert!(record.cost_microusd > 0 && !record.cost_estimated);
    assert_eq!(record.denied, Vec::<String>::new());
    let chunks = fleet.pool.output_since(record.id, 1, "0").await.expect("the pool answers");
    let calls: Vec<&str> =
        chunks.iter().filter(|chunk| chunk.kind == ChunkKind::Tool).map(|chunk| &*chunk.text).collect();
    assert!(matches!(calls[..], [one, two] if one.contains("one.txt") && two.contains("two.txt")), "{chunks:?}");
    fleet.end().await;
}

#[tokio::test]
async fn a_slow_answer_is_seen_while_it_is_made() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let text = (1..=20).map(|n| format!("word{n}")).collect::<Vec<_>>().join(" ");
    let id = fleet.submit(&format!("@slow 20 100\n@say {text}"), json!({})).await;
    let early = fleet
        .until("live text", async |fleet| {
            let chunks = fleet.pool.output_since(id, 1, "0").await.expect("the pool answers");
            let text: String =
                chunks.iter().filter(|chunk| chunk.kind == ChunkKind::Text).map(|chunk| &*chunk.text).collect();
            (!text.is_empty()).then_some(text)
        })
        .await;
    let state = fleet.pool.task(id).await.expect("the pool answers").state;
    assert_eq!(state, State::Running, "the text came with the end");
    assert!(text.starts_with(&early) && early.len() < text.len(), "{early:?}");
    let record = fleet.over(id).await;
    assert_eq!(record.output.as_deref(), Some(text.as_str()));
    let chunks = fleet.pool.output_since(id, 1, "0").await.expect("the pool answers");
    let all: String = chunks.iter().filter(|chunk| chunk.kind == ChunkKind::Text).map(|chunk| &*chunk.text).collect();
    assert_eq!(all.trim_end(), text, "live text is the text, once");
    fleet.end().await;
}

#[tokio::test]
async fn a_beat_tells_tool_cost_and_session() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("MOTORPOOL_LEASE", "6s");
    fleet.joined(&[]).await;
    let prompt = "@usage 1000 1000\n@bash echo on > on.txt; until [ -e go.txt ]; do sleep 0.02; done\n@say done";
    let options = json!({"permission_mode": "acceptEdits", "allowed_tools": ["Bash"], "model": "haiku"});
    let id = fleet.submit(prompt, options).await;
    fleet.written("on.txt").await;
    let record = fleet
        .until("a beat with the tool", async |fleet| {
            let record = fleet.pool.task(id).await.expect("the pool answers");
            record.tool.is_some().then_some(record)
        })
        .await;
    assert_eq!(record.state, State::Running);
    assert!(record.tool.as_deref().unwrap_or_default().starts_with("Bash(echo on"), "{record:#?}");
    assert!(record.cost_microusd > 0 && record.heard_ms.is_some(), "{record:#?}");
    let session = record.runs[0].session_id.clone();
    assert!(session.is_some(), "{record:#?}");
    std::fs::write(fleet.work.join("go.txt"), "").unwrap();
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.tool.clone()), (State::Completed, None), "{record:#?}");
    assert_eq!(record.runs[0].session_id, session);
    fleet.end().await;
}

#[tokio::test]
async fn a_key_makes_one_task_and_a_worker_goes_from_one_to_the_next() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let once = json!({"once": "only"});
    let first = fleet.submit("@say one", once.clone()).await;
    assert_eq!(fleet.submit("@say one", once).await, first);
    let second = fleet.submit("@say two", json!({})).await;
    fleet.worker(&[]);
    let (one, two) = (fleet.over(first).await, fleet.over(second).await);
    assert_eq!((one.output.as_deref(), two.output.as_deref()), (Some("one"), Some("two")));
    assert_eq!((one.run, one.runs[0].worker.clone()), (1, two.runs[0].worker.clone()));
    // Settled and claimed in one trip: the same instant of Redis's clock.
    assert_eq!(one.ended_ms, two.started_ms, "{one:#?}\n{two:#?}");
    assert_eq!(fleet.api.requests().len(), 2);
    fleet.end().await;
}

#[tokio::test]
async fn twenty_tasks_go_through_two_workers_in_order() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(fleet.submit(&format!("@say number {n}"), json!({})).await);
    }
    fleet.worker(&[]);
    fleet.worker(&[]);
    let mut records = Vec::new();
    for id in ids {
        records.push(fleet.over(id).await);
    }
    for (n, record) in records.iter().enumerate() {
        assert_eq!((record.state, record.run), (State::Completed, 1), "{record:#?}");
        assert_eq!(record.output.as_deref(), Some(&*format!("number {n}")));
    }
    let starts: Vec<_> = records.iter().map(|record| record.started_ms).collect();
    assert!(starts.is_sorted(), "{starts:?}");
    let mut workers: Vec<_> = records.iter().map(|record| record.runs[0].worker.clone()).collect();
    workers.sort();
    workers.dedup();
    assert_eq!(workers.len(), 2);
    fleet.end().await;
}
