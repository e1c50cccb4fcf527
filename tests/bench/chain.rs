//! What a chain and a fan-out cost: ratios, taken in one run.

use std::time::Duration;

use motorpool::pool::{Claim, Seat};
use motorpool::{Chain, ChainStep, Ending, FanOut, Outcome, Pool, Presence, Report, Spec, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet};
use tokio::time::Instant;

use crate::Measure;

/// Steps of the chain whose gaps are measured.
const STEPS: usize = 100;
/// Items of a fan-out.
const ITEMS: usize = 1000;
const ROUNDS: usize = 5;

pub(crate) async fn measure() -> Vec<Measure> {
    let fleet = Fleet::with_lease(Cli::StandIn, 15).await;
    let measures = vec![gap(&fleet).await, overhead(&fleet).await];
    fleet.end_empty().await;
    measures
}

async fn seat(pool: &Pool) -> Seat {
    let presence = Presence { host: "bench".into(), lanes: vec!["default".into()], ..Presence::default() };
    Seat::join(pool, presence).await.expect("it joins")
}

fn done() -> Outcome {
    let report = Report { output: Some("an output".into()), spoke: true, ..Report::default() };
    Outcome { report, ending: Ending::Success, retry_after_ms: None }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// From the end of a step on one worker until another one, which was idle, has the next one: against a round trip.
async fn gap(fleet: &Fleet) -> Measure {
    let steps = (0..STEPS).map(|n| ChainStep::new(format!("s{n}"), "a prompt")).collect();
    fleet.pool.submit_chain(Chain { steps, ..Chain::default() }).await.expect("it is taken");
    let (mut one, mut other) = (seat(&fleet.pool).await, seat(&fleet.pool).await);
    let mut line = fleet.redis().await;
    let Claim::Run(mut lease) = one.claim(None).await.expect("it claims") else { panic!("a chain was submitted") };
    let mut ratios = Vec::new();
    for _ in 1..STEPS {
        let begin = Instant::now();
        redis::cmd("PING").query_async::<()>(&mut line).await.expect("Redis answers");
        let trip = begin.elapsed();
        let idle = async {
            loop {
                let token = other.wait_for_work().await;
                if let Claim::Run(lease) = other.claim(token.as_deref()).await.expect("it claims") {
                    return lease;
                }
            }
        };
        let ending = async {
            // The other one waits by then.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let begin = Instant::now();
            one.finish(lease, &done()).await.expect("it is answered");
            begin
        };
        let (next, begin) = tokio::join!(idle, ending);
        ratios.push(begin.elapsed().as_secs_f64() / trip.as_secs_f64());
        lease = next;
        std::mem::swap(&mut one, &mut other);
    }
    one.finish(lease, &done()).await.expect("it is answered");
    one.leave().await;
    other.leave().await;
    Measure::new(
        "end of a step to the start of the next on an idle worker, against a round trip",
        median(ratios),
        "times as long",
    )
    .at_most(60.0)
}

/// A fan-out of 1,000 in one submission, against 1,000 submissions of one task.
async fn overhead(fleet: &Fleet) -> Measure {
    let spec = || Spec::new("a prompt", TaskOptions::default()).expect("a task that does");
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..ITEMS {
            fleet.pool.submit(spec()).await.expect("it is taken");
        }
        let single = begin.elapsed();
        let items = (0..ITEMS).map(|_| spec().into()).collect();
        let begin = Instant::now();
        fleet.pool.fan_out(FanOut { items, ..FanOut::default() }).await.expect("it is taken");
        ratios.push(begin.elapsed().as_secs_f64() / single.as_secs_f64());
    }
    Measure::new("a fan-out of 1,000, against 1,000 submissions", median(ratios), "times as long").at_most(1.0)
}
