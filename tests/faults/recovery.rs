//! How long it takes until the task of a killed worker is begun anew.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use motorpool_tests::faults::{Dice, signal};
use motorpool_tests::report;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::redis::at_work;

const LEASE_S: u64 = 15;
const KILLS: usize = 20;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64
}

mod long {
    use super::*;

    #[tokio::test]
    async fn the_task_of_a_killed_worker_begins_anew_soon_after_the_lease() {
        let mut dice = Dice::default();
        let command = |n| format!("[ -e begun-{n} ] || {{ touch begun-{n}; sleep 300; }}");
        let (mut fleet, ids) = at_work(KILLS, LEASE_S, command).await;
        // Those that begin the tasks anew.
        for _ in 0..KILLS {
            fleet.worker(&[]);
        }
        fleet.all_joined(2 * KILLS).await;
        let workers = fleet.pool.workers().await.expect("the pool answers");
        let mut killed_ms = Vec::new();
        for id in &ids {
            // Anywhere between two beats.
            sleep(Duration::from_millis(dice.one_of(500) as u64)).await;
            let record = fleet.pool.task(*id).await.expect("a record");
            let worker = workers.iter().find(|worker| Some(&worker.id) == record.worker.as_ref()).expect("its worker");
            killed_ms.push(now_ms());
            signal(worker.pid as i32, Signal::SIGKILL);
        }
        let records = fleet.completed_once(&ids).await;
        let took = |(record, killed_ms): (&motorpool::TaskRecord, u64)| {
            assert_eq!((record.run, record.attempt), (2, 2), "{}", fleet.logs());
            record.runs[1].started_ms.saturating_sub(killed_ms)
        };
        let mut took: Vec<u64> = records.iter().zip(killed_ms).map(took).collect();
        took.sort_unstable();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        assert!(longest <= (LEASE_S + 10) * 1000, "{took:?}");
        let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
        let charged = KILLS.to_string();
        let what = format!("worker killed (SIGKILL), lease {LEASE_S} s: until its task began anew");
        report::row_of("TEST_RECOVERY", &[&what, &charged, &charged, &seconds(median), &seconds(longest)]);
        fleet.end_empty().await;
    }
}
