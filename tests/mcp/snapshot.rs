//! What a coordinator pays for in every conversation: the tools and the instructions, as they are, and their size.

use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::generated::expect_fresh;
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{ERAS, Era};
use serde_json::{Value, json};

/// Most tokens of `tools/list`, by the rule of thumb of four characters each.
const TOOLS: usize = 3_000;
/// Most characters of the instructions.
const INSTRUCTIONS: usize = 1_200;

async fn described(era: Era) -> (Value, String) {
    let fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::open(&fleet, era, &[]);
    let hello = it.greet().await;
    let tools = it.ask("tools/list", json!({})).await.unwrap()["tools"].clone();
    it.end().await;
    fleet.end().await;
    (tools, hello["instructions"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn tools_and_instructions_are_as_they_were_reviewed() {
    let (tools, instructions) = described(Era::Legacy).await;
    assert_eq!(described(Era::Modern).await, (tools.clone(), instructions.clone()), "the eras differ");
    let page = json!({"instructions": instructions.lines().collect::<Vec<_>>(), "tools": tools});
    expect_fresh("tests/mcp/snapshots/tools.json", &format!("{page:#}\n"));
}

#[tokio::test]
async fn tools_and_instructions_have_their_size() {
    for era in ERAS {
        let (tools, instructions) = described(era).await;
        let text = tools.to_string();
        assert!(text.is_ascii() && instructions.is_ascii(), "what is no ASCII costs more");
        let (all, instructed) = (text.len() / 4, instructions.len());
        println!("tools/list: {all} tokens; instructions: {instructed} characters");
        for tool in tools.as_array().unwrap() {
            println!("  {}: {} tokens", tool["name"].as_str().unwrap(), tool.to_string().len() / 4);
        }
        assert!(all < TOOLS, "tools/list has {all} tokens");
        assert!(instructed < INSTRUCTIONS, "the instructions have {instructed} characters");
    }
}
