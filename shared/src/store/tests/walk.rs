//! One task all the way, call by call.

use super::pool_test;
use crate::domain::attempt::{Ending, Outcome, Report, Verdict};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::attempt::{self, Claimed, Progress, Told};

#[tokio::test]
async fn a_task_is_submitted_claimed_beaten_for_and_finished() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        pool.join("w1").await;
        let lanes = vec!["default".to_owned()];
        let (claimed, news) = attempt::claimed(&pool.call(&attempt::claim("w1", 1, "", "0", &lanes)).await, 0).unwrap();
        let Claimed::Run(held) = claimed else { panic!("{claimed:?}") };
        assert!(news.sweep, "nobody sweeps yet");
        assert_eq!((held.id, held.run, held.history.attempt, held.history.max_attempts), (id, 1, 1, 3));
        assert_eq!(held.spec.prompt, "a prompt");

        let progress = Progress { cost_microusd: 1234, tool: "Bash(ls)".into(), ..Progress::default() };
        let (told, _) = attempt::told_beat(&pool.call(&attempt::beat("w1", 2, &held, &progress, "0")).await).unwrap();
        assert_eq!(told, Told::Ok);
        let record = pool.store.task(id).await.unwrap().unwrap();
        assert_eq!(
            (record.state, record.cost_microusd, record.tool.as_deref()),
            (State::Running, 1234, Some("Bash(ls)"))
        );

        let outcome = Outcome {
            report: Report { output: Some("done".into()), cost_microusd: 2000, turns: 2, ..Report::default() },
            ending: Ending::Success,
            retry_after_ms: None,
        };
        let call = attempt::finish("w1", 3, &held, &outcome, &Verdict::Complete);
        assert_eq!(attempt::told_finish(&pool.call(&call).await).unwrap(), Told::Ok);
        let record = pool.store.task(id).await.unwrap().unwrap();
        assert_eq!(record.state, State::Completed);
        assert_eq!((record.output.as_deref(), record.cost_microusd, record.turns), (Some("done"), 2000, Some(2)));
        assert_eq!(record.runs.len(), 1);
        assert!(record.runs[0].ended_ms.is_some());
        let depth = pool.store.lanes().await.unwrap();
        assert_eq!(depth, vec![("default".to_owned(), 0, None)]);
    })
    .await;
}

#[tokio::test]
async fn a_lost_worker_is_replaced_and_the_ladder_ends() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions { max_attempts: Some(2), ..TaskOptions::default() }).await;
        let lanes = vec!["default".to_owned()];
        for (n, expected) in [(1, State::Pending), (2, State::Failed)] {
            let worker = format!("w{n}");
            pool.join(&worker).await;
            let reply = pool.call(&attempt::claim(&worker, 1, "", "0", &lanes)).await;
            let Claimed::Run(held) = attempt::claimed(&reply, 0).unwrap().0 else { panic!() };
            assert_eq!(held.run, n);
            pool.age("default", &held.entry, 60_000).await;
            let swept = pool.sweep("s").await;
            let state = pool.store.task(id).await.unwrap().unwrap().state;
            assert_eq!(state, expected, "{swept:?}");
            let call = attempt::beat(&worker, 2, &held, &Progress::default(), "0");
            assert_eq!(attempt::told_beat(&pool.call(&call).await).unwrap().0, Told::Stale);
        }
        let record = pool.store.task(id).await.unwrap().unwrap();
        assert_eq!(record.error.unwrap().class, crate::domain::attempt::Class::Lost);
    })
    .await;
}
