//! Tasks that not every worker can do: they find the one that has what they need, and disturb nobody else.

use motorpool::{Class, State};
use motorpool_tests::fleet::{Cli, Fleet};
use serde_json::json;

#[tokio::test]
async fn a_task_is_run_by_a_worker_that_has_what_it_needs() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 3).await;
    let plain = fleet.joined(&[]).await;
    let needy = fleet.submit("@say on a gpu", json!({"needs": ["gpu", "os:linux"], "queue_timeout_s": 600})).await;
    let nobody = fleet.submit("@say never", json!({"needs": ["tpu"], "queue_timeout_s": 2})).await;
    // The others go on.
    for n in 0..3 {
        assert_eq!(fleet.run(&format!("@say {n}"), json!({})).await.state, State::Completed);
    }
    let late = fleet.over(nobody).await;
    let error = late.error.expect("it failed");
    assert_eq!((late.state, error.class, late.run), (State::Failed, Class::Timeout, 0), "{error:?}");
    assert_eq!(fleet.reaches(needy, State::Pending).await.lane, "default+gpu+os:linux");
    let gpu = fleet.joined(&["--labels", "gpu,big"]).await;
    let record = fleet.over(needy).await;
    let workers = fleet.pool.workers().await.expect("the pool answers");
    let of = |pid: i32| workers.iter().find(|worker| worker.pid as i32 == pid).expect("it lives");
    assert_eq!((record.output.as_deref(), &record.runs[0].worker), (Some("on a gpu"), &of(gpu).id), "{}", fleet.logs());
    assert!(of(gpu).serves("default+big+gpu") && !of(plain).serves("default+gpu"));
    let kinds = ["machine:", "host:", "os:", "arch:"];
    let labels = &of(plain).labels;
    assert!(kinds.iter().all(|kind| labels.iter().any(|label| label.starts_with(kind))), "{labels:?}");
    // A lane that came while they were idle is found, with nothing else to wake for.
    let host = labels.iter().find(|label| label.starts_with("host:")).expect("its host");
    for needs in [json!(["big"]), json!([host])] {
        assert_eq!(fleet.run("@say found", json!({"needs": needs})).await.state, State::Completed);
    }
    fleet.end().await;
}
