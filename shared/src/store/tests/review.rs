//! judge: a result that is up for review is approved, done anew or has failed, once for each round.

use super::worker::failure;
use super::{pool_test, words};
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::review::{Judgement, judge};

fn reviewed() -> TaskOptions {
    TaskOptions { review: Some(true), coordinator: Some("boss".into()), ..TaskOptions::default() }
}

#[tokio::test]
async fn a_result_holds_back_what_follows_it_until_it_is_approved() {
    pool_test(async |pool| {
        let id = pool.submit(reviewed()).await;
        let follower = pool.submit(TaskOptions { after: vec![id.into()], ..TaskOptions::default() }).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        assert_eq!(worker.finish(&held, &Verdict::Review).await, ["ok", "pending_review"]);
        assert_eq!((worker.claim().await, pool.state(follower).await), (None, State::Waiting), "the slot is free");
        assert_eq!(pool.store.unseen("boss", 9).await.unwrap().0.len(), 1, "it is news");
        let approve = judge(id, 1, Judgement::Approve, "me", "good", "");
        assert_eq!(pool.words(&approve).await, ["ok", "completed"]);
        assert_eq!((pool.state(id).await, pool.state(follower).await), (State::Completed, State::Pending));
        let record = pool.record(id).await;
        let round = &record.rounds[0];
        assert_eq!((round.approved, round.by.as_str(), round.why.as_str(), round.run), (true, "me", "good", 1));
        assert_eq!(record.output.as_deref(), Some("done"));
        // Another's approval says that there was one.
        let again = judge(id, 1, Judgement::Approve, "you", "", "");
        assert_eq!(pool.refused(&again).await, ["ok", "completed", "again"]);
        let reject = judge(id, 1, Judgement::Reject, "you", "bad", "");
        assert_eq!(pool.refused(&reject).await, ["already", "approve", "me"]);
    })
    .await;
}

#[tokio::test]
async fn a_rejected_one_is_done_anew_and_a_judgement_of_another_round_is_refused() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions { max_attempts: Some(2), ..reviewed() }).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        assert_eq!(pool.refused(&judge(id, 1, Judgement::Approve, "me", "", "")).await, ["state", "running"]);
        worker.finish(&held, &super::worker::retry(0)).await;
        let held = worker.take().await;
        assert_eq!(held.history.attempt, 2);
        worker.finish(&held, &Verdict::Review).await;
        let spec = r#"{"prompt":"a prompt","options":{"review":true,"model":"opus"}}"#;
        let reject = judge(id, 1, Judgement::Reject, "me", "too long", spec);
        assert_eq!(pool.words(&reject).await, ["ok", "pending"]);
        // Two look at the same round.
        assert_eq!(
            pool.refused(&judge(id, 1, Judgement::Reject, "me", "too long", "")).await,
            ["ok", "pending", "again"]
        );
        assert_eq!(pool.refused(&judge(id, 1, Judgement::Reject, "you", "x", "")).await, ["already", "reject", "me"]);
        assert_eq!(pool.refused(&judge(id, 1, Judgement::Approve, "you", "", "")).await, ["already", "reject", "me"]);
        assert_eq!(pool.refused(&judge(id, 3, Judgement::Approve, "you", "", "")).await, ["moved", "2"]);
        let held = worker.take().await;
        assert_eq!((held.run, held.round.as_str(), held.history.attempt), (3, "2", 1), "attempts are the round's own");
        assert_eq!(held.spec.options.model.as_deref(), Some("opus"));
        assert_eq!(pool.record(id).await.output, None);
        worker.finish(&held, &Verdict::Review).await;
        // The last one that it bears.
        assert_eq!(pool.words(&judge(id, 2, Judgement::Fail, "me", "no", "")).await, ["ok", "failed"]);
        let record = pool.record(id).await;
        let kept: Vec<_> = record.rounds.iter().map(|round| (round.n, round.why.as_str(), round.run)).collect();
        assert_eq!(kept, [(1, "too long", 2), (2, "no", 3)]);
        assert_eq!(record.rounds[0].output.as_deref(), Some("done"), "what was rejected is kept");
        assert_eq!(record.output.as_deref(), Some("done"));
        assert_eq!(record.error.unwrap().message, "rejected 2 times, the last time by me");
    })
    .await;
}

#[tokio::test]
async fn one_that_is_up_for_review_can_be_cancelled_and_a_lost_run_of_it_is_tried_anew() {
    pool_test(async |pool| {
        let id = pool.submit(reviewed()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        worker.finish(&held, &Verdict::Review).await;
        pool.words(&judge(id, 1, Judgement::Reject, "me", "no", "")).await;
        let held = worker.take().await;
        pool.age("default", &held.entry, 60_000).await;
        pool.sweep("s").await;
        let mut other = pool.join("w2").await;
        let again = other.take().await;
        assert_eq!((again.run, again.round.as_str(), again.history.attempt), (3, "2", 2));
        other.finish(&again, &Verdict::Review).await;
        pool.words(&crate::store::task::cancellation(id, "enough")).await;
        assert_eq!(pool.state(id).await, State::Cancelled);
        let other = pool.submit(reviewed()).await;
        let held = worker.take().await;
        worker.finish(&held, &Verdict::Fail(failure())).await;
        assert_eq!(pool.refused(&judge(other, 1, Judgement::Approve, "me", "", "")).await, ["state", "failed"]);
        assert_eq!(
            words(&pool.store.call(&judge("t9".parse().unwrap(), 1, Judgement::Approve, "", "", "")).await.unwrap()),
            ["unknown", "t9"]
        );
        pool.refuses_foreign_schema(&judge(id, 1, Judgement::Approve, "me", "", "")).await;
    })
    .await;
}
