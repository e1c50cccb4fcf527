//! Tasks that follow others, through workers and a command line.

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use serde_json::json;

#[tokio::test]
async fn what_follows_begins_when_its_turn_has_come_and_never_after_a_failure() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let first = fleet.submit("@bash echo one >> order\n@say one", json!({"permission_mode": "acceptEdits"})).await;
    let edits = |after: Vec<motorpool::TaskId>| json!({"permission_mode": "acceptEdits", "after": after});
    let second = fleet.submit("@bash echo two >> order\n@say two", edits(vec![first])).await;
    let third = fleet.submit("@bash echo three >> order\n@say three", edits(vec![first, second])).await;
    let broken = fleet.submit("@status 400 no", json!({})).await;
    let behind = fleet.submit("@say never", json!({"after": [broken]})).await;
    let anyway = fleet.submit("@say tidied up", json!({"after": [broken], "after_failure": "run"})).await;
    assert_eq!(fleet.pool.task(third).await.expect("the pool answers").state, State::Waiting);
    for _ in 0..3 {
        fleet.worker(&[]);
    }
    for (id, state) in
        [(third, State::Completed), (broken, State::Failed), (behind, State::Cancelled), (anyway, State::Completed)]
    {
        let record = fleet.over(id).await;
        assert_eq!(record.state, state, "{record:#?}\n{}", fleet.logs());
    }
    assert_eq!(fleet.read("order").as_deref(), Some("one\ntwo\nthree"));
    assert_eq!(fleet.pool.task(behind).await.expect("the pool answers").run, 0);
    fleet.end().await;
}
