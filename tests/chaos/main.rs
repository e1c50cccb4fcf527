//! Chaos: a whole farm at work, and everything that can happen to it, in random order from a printed seed
//! (`TEST_SEED` repeats one). At the end every invariant holds: what was acknowledged is done, once, by one worker at a
//! time, and nothing is left.
//!
//! `field.rs` is the farm, `fault.rs` what is done to it, `orders.rs` and `bosses.rs` are its clients and coordinators,
//! `watcher.rs` looks on, `verdict.rs` reads the history afterwards.

mod bosses;
mod fault;
mod field;
mod forgets;
mod orders;
mod verdict;
mod watcher;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use motorpool::{Filter, TaskId, TaskRecord};
use motorpool_tests::faults::Dice;
use motorpool_tests::fleet::Fleet;
use tokio::time::{Instant, sleep, timeout};

use fault::Fault;
use field::{Field, Size};
use verdict::{History, Verdict};

/// Coordinators, each with a dispatcher.
const COORDINATORS: usize = 2;

/// How long nothing of what is left may end when nothing is done to it any more. Generous: a noisy machine is no failure.
const AFTERWARDS: Duration = Duration::from_secs(90);

/// Until when it is struck.
#[derive(Clone, Copy)]
enum Until {
    Time(Duration),
    Faults(usize, Duration),
}

impl Until {
    /// How far it is, from 0 to 1.
    fn share(self, begun: Instant, faults: usize) -> f64 {
        match self {
            Self::Time(length) => begun.elapsed().as_secs_f64() / length.as_secs_f64(),
            Self::Faults(count, most) => {
                let by_time = begun.elapsed().as_secs_f64() / most.as_secs_f64();
                if by_time >= 1.0 { 1.0 } else { faults as f64 / count as f64 }
            }
        }
    }
}

/// Rows of a table: how often, and the longest until everybody was back, where workers were concerned.
type Rows = BTreeMap<&'static str, (usize, Option<Duration>)>;

/// How it is struck.
#[derive(Clone, Copy)]
struct Storm {
    until: Until,
    /// The longest pause between two faults.
    pause_ms: usize,
    /// After so many faults nothing is done until everybody is heard again.
    calm_every: usize,
}

/// Strikes the field until it is enough, then lets it come to its end, and judges.
async fn strike(size: Size, storm: Storm) -> (Rows, Verdict) {
    let mut dice = Dice::default();
    let mut field = Field::new(size, "", &mut dice).await;
    let begun = Instant::now();
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut faults = 0;
    let each = size.tasks / size.clients;
    let mut most_ms = 0;
    loop {
        let share = storm.until.share(begun, faults);
        if share >= 1.0 {
            break;
        }
        // Somewhat ahead, so that there is always something to claim.
        field.allowed.send_replace(((each as f64 * share * 1.2) as usize + 5).min(each));
        sleep(Duration::from_millis(dice.one_of(storm.pause_ms) as u64)).await;
        field.mend(false);
        let fault = Fault::by_chance(&mut dice);
        let at = begun.elapsed();
        if fault.strike(&mut field, &mut dice).await {
            eprintln!("{:>7.2} s  {}", at.as_secs_f64(), fault.name());
            *counts.entry(fault.name()).or_default() += 1;
            faults += 1;
            if faults % storm.calm_every == 0 {
                calm(&mut field).await;
            }
        }
        most_ms = most_ms.max(field.clock.step_ms());
    }
    eprintln!("{faults} faults in {:?}", begun.elapsed());
    field.mend(true);
    // What waits for a time waits by the clock as it stood then.
    field.clock.set_ms(most_ms);
    field.allowed.send_replace(each);
    let verdict = end(field, &[]).await;
    let mut rows: Rows = counts.into_iter().map(|(name, count)| (name, (count, None))).collect();
    for (name, longest) in verdict.1 {
        rows.entry(name).or_default().1 = Some(longest);
    }
    (rows, verdict.0)
}

/// Nothing is done until everybody is back; the watcher says where that takes too long.
async fn calm(field: &mut Field) {
    field.mend(true);
    while field.watcher.is_recovering() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until all is done, ends everything, and judges.
async fn end(mut field: Field, forgotten: &[(Instant, Instant)]) -> (Verdict, BTreeMap<&'static str, Duration>) {
    let begun = Instant::now();
    let left = async || {
        let acknowledged = orders::open(&field.ledger).acknowledged.len();
        let unfinished = field.fleet.pool.unfinished().await.unwrap_or(u64::MAX);
        (field.size.tasks - acknowledged, unfinished)
    };
    // However much is left: as long as there is less and less of it.
    let (mut least, mut since) = (left().await, Instant::now());
    while least != (0, 0) {
        sleep(Duration::from_millis(100)).await;
        let now = left().await;
        if now < least {
            (least, since) = (now, Instant::now());
        }
        if since.elapsed() > AFTERWARDS {
            let wrong = [&orders::open(&field.ledger).wrong[..], &field.watcher.seen().wrong[..]].concat().join("\n");
            let logs = field.fleet.logs();
            panic!("(not acknowledged, not over) {now:?}, no less for {AFTERWARDS:?}\n{wrong}\n{logs}");
        }
    }
    eprintln!("all was done {:?} afterwards", begun.elapsed());
    field.done.send_replace(true);
    for work in std::mem::take(&mut field.at_work) {
        timeout(AFTERWARDS, work).await.expect("clients and coordinators come to their end").expect("they do not fail");
    }
    let records = records(&field.fleet).await;
    let events = field.fleet.events().await;
    let acknowledged = std::mem::take(&mut orders::open(&field.ledger).acknowledged);
    let (excused, failed, rows, longest_dead) = {
        let mut seen = field.watcher.seen();
        let (excused, failed) = (std::mem::take(&mut seen.excused), std::mem::take(&mut seen.failed));
        (excused, failed, std::mem::take(&mut seen.recovered), seen.longest_dead)
    };
    let mut verdict = verdict::of(&History {
        acknowledged: &acknowledged,
        records: &records,
        events: &events,
        runs: &field.runs,
        excused: &excused,
        failed: &failed,
        forgotten,
    });
    verdict.wrong.append(&mut field.watcher.seen().wrong);
    let refused = {
        let mut ledger = orders::open(&field.ledger);
        verdict.wrong.append(&mut ledger.wrong);
        ledger.refused
    };
    let handed: Vec<_> = field.bosses.iter().map(|boss| std::mem::take(&mut bosses::open(boss).handed)).collect();
    for (id, record) in &records {
        let boss = record.coordinator.as_deref().and_then(|name| name.strip_prefix("boss")?.parse::<usize>().ok());
        let times = boss.and_then(|boss| handed[boss].get(id).copied());
        // Never without a word that it had been before, where that answer was lost with its dispatcher.
        if times.is_none_or(|times| times > 1) && forgotten.is_empty() {
            verdict.wrong.push(format!("{id} was handed over {times:?} times as if for the first time"));
        }
    }
    eprintln!(
        "{} acknowledged, {} refused for want of memory; {} runs, {} lost, {} handed back; {} began while another was \
         alive; the longest time with a dead worker: {longest_dead:?}",
        acknowledged.len(),
        refused,
        verdict.runs,
        verdict.lost_runs,
        verdict.given_back,
        verdict.overlaps
    );
    let logs = field.fleet.logs();
    let Field { fleet, hosts, way, .. } = field;
    fleet.end_empty().await;
    drop((hosts, way));
    verdict.wrong.sort();
    assert!(verdict.wrong.is_empty(), "{}\n{logs}", verdict.wrong.join("\n"));
    (verdict, rows)
}

/// Everything there is.
async fn records(fleet: &Fleet) -> HashMap<TaskId, TaskRecord> {
    let mut records = HashMap::new();
    let mut filter = Filter::default();
    loop {
        let page = fleet.pool.list(&filter, 500).await.expect("the pool answers");
        for item in page.items {
            records.insert(item.id, fleet.pool.task(item.id).await.expect("it is there"));
        }
        match page.cursor {
            Some(cursor) => filter.before = Some(cursor),
            None => return records,
        }
    }
}

/// A storm that nothing and nobody is lost in; its table.
async fn survives(tasks: usize, storm: Storm) -> Vec<[String; 5]> {
    let size = Size { hosts: 4, slots: 4, clients: 4, tasks, lease_s: 6, forgets: false };
    let (rows, verdict) = strike(size, storm).await;
    assert_eq!((verdict.lost, verdict.doubled), (0, 0));
    // Nothing is: so nothing by any of them.
    let row = |name: &str, count: usize, longest: Option<Duration>| {
        let longest = longest.map_or("-".to_owned(), |longest| format!("{:.1} s", longest.as_secs_f64()));
        [name, &count.to_string(), "0", "0", &longest].map(str::to_owned)
    };
    let all = rows.values().fold((0, None), |(sum, most), (count, longest)| (sum + count, most.max(*longest)));
    let rows = rows.into_iter().map(|(name, (count, longest))| row(name, count, longest));
    rows.chain([row("all", all.0, all.1)]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_a_storm() {
    let storm = Storm { until: Until::Time(Duration::from_secs(75)), pause_ms: 250, calm_every: 15 };
    for row in survives(500, storm).await {
        eprintln!("| {} |", row.join(" | "));
    }
}

mod long {
    use motorpool_tests::report;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_lost_in_a_thousand_faults() {
        let most = Duration::from_secs(20 * 60);
        let storm = Storm { until: Until::Faults(1000, most), pause_ms: 200, calm_every: 25 };
        for row in survives(4400, storm).await {
            report::row_of("TEST_FAULTS", &row.each_ref().map(String::as_str));
        }
    }
}
