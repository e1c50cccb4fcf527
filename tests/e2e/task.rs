//! A task all the way and back.

use motorpool::State;
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
    fleet.end().await;
}
