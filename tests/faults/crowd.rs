//! Many tasks, and a worker killed each second.

use std::time::Duration;

use motorpool::{Spec, TaskId, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::report;
use serde_json::json;

/// A crowd of tasks and what it has to live through.
struct Crowd {
    cli: Cli,
    tasks: usize,
    workers: u32,
    max_attempts: u32,
    /// Kills, one a second.
    kills: usize,
}

impl Crowd {
    async fn survives(self) {
        // The real CLI takes seconds for a task, in which a machine may well stand still for two.
        let lease_s = if self.cli == Cli::Real { 6 } else { 3 };
        let mut fleet = Fleet::with_lease(self.cli, lease_s).await;
        // That many kills in a minute are no fault of the workers.
        let slots = self.workers.to_string();
        let host = fleet.start("motorpool-worker", &["host", "--slots", &slots, "--max-restarts", "1000"]);
        fleet.all_joined(1).await;
        let options = json!({"max_attempts": self.max_attempts, "permission_mode": "acceptEdits", "allowed_tools": ["Bash"], "model": "sonnet"});
        let options = TaskOptions::from_json(options.as_object().unwrap()).unwrap();
        let spec = |n: usize| {
            // Tasks of at most 0.3 s each, besides the CLI's own time.
            let prompt = format!("@bash echo {n} >> log; sleep 0.{}\n@say {n}", n % 4);
            Spec::new(prompt, options.clone()).unwrap()
        };
        let submitted = fleet.pool.submit_all((0..self.tasks).map(spec).collect()).await.unwrap();
        let ids: Vec<TaskId> = submitted.into_iter().map(|task| task.id).collect();
        let killed = fleet.shoot(host, &ids, Duration::from_secs(1), self.kills).await;
        let records = fleet.completed_once(&ids).await;
        for (n, record) in records.iter().enumerate() {
            assert_eq!(record.output, Some(n.to_string()));
        }
        let runs: u64 = records.iter().map(|record| record.run).sum();
        assert!(killed > 0);
        fleet.end_empty().await;
        let cli = match self.cli {
            Cli::Real => "the real one",
            Cli::StandIn => "the stand-in",
        };
        let counts = [self.tasks, self.workers as usize, killed, runs as usize].map(|count| count.to_string());
        // Columns: CLI, tasks, workers, kills, runs.
        report::row(&[cli, &counts[0], &counts[1], &counts[2], &counts[3]]);
    }
}

#[tokio::test]
async fn eight_tasks_survive_a_kill_a_second_with_the_real_cli() {
    Crowd { cli: Cli::Real, tasks: 8, workers: 2, max_attempts: 20, kills: 5 }.survives().await;
}

#[tokio::test]
async fn a_hundred_tasks_survive_a_kill_a_second() {
    Crowd { cli: Cli::StandIn, tasks: 100, workers: 6, max_attempts: 10, kills: 20 }.survives().await;
}

mod long {
    use super::*;

    #[tokio::test]
    async fn twenty_tasks_survive_a_kill_a_second_with_the_real_cli() {
        Crowd { cli: Cli::Real, tasks: 20, workers: 4, max_attempts: 20, kills: 60 }.survives().await;
    }

    #[tokio::test]
    async fn five_hundred_tasks_survive_a_kill_a_second() {
        Crowd { cli: Cli::StandIn, tasks: 500, workers: 16, max_attempts: 10, kills: 120 }.survives().await;
    }
}
