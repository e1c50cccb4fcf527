//! The scripts against a model: sequences by chance of what callers, workers, sweepers, time and an operator do, each
//! step done on a real Redis and in a small model of the pool, which says what is answered and what stands in every key.
//!
//! A sequence that differs is made smaller until nothing can be left out, and printed. That the model can tell is shown
//! by scripts with a guard taken out. Not here: chains, batches, accounts, hosts (`group.rs`, `account.rs`, `host.rs`).

mod calls;
mod disturb;
mod drive;
mod ends;
mod lanes;
mod look;
mod ops;
mod pool;
mod say;
mod task;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::TestPool;
use crate::domain::state::{Cause, MOVES, State, is_legal};
use crate::store::Store;
use crate::store::assemble::changed;
use crate::store::keys::Keys;
use ops::{Case, cases};

/// Sequences of the normal run.
const CASES: u32 = 600;
/// Steps of a sequence, at most.
const STEPS: usize = 60;

/// How long the normal run makes a sequence smaller that differs.
const LITTLE_MS: u32 = 1_500;

/// A sequence that took longer is not judged: what Redis itself takes for silence is told by its own clock.
const LONGEST: Duration = Duration::from_secs(7);

type Move = (Option<State>, Cause, State);

fn cases_wanted() -> u32 {
    std::env::var("TEST_CASES").ok().map_or(CASES, |cases| cases.parse().expect("TEST_CASES is a number"))
}

/// What came of many sequences.
#[derive(Default)]
struct Played {
    moves: BTreeSet<Move>,
    cases: u32,
    steps: usize,
    /// The smallest sequence that differs, and how.
    differs: Option<(Case, String)>,
}

static POOLS: AtomicU64 = AtomicU64::new(0);

/// Plays so many sequences, in this thread; one that differs is made smaller for as long as `shrink_ms`.
fn play(url: &str, seed: u64, cases_wanted: u32, shrink_ms: u32) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = TestPool::named(url, "model", false).store;
    let line = runtime.block_on(store.connector.dedicated()).expect("Redis answers");
    let bytes = (u128::from(seed) << 64 | 1).to_le_bytes();
    let config = Config {
        cases: cases_wanted,
        failure_persistence: None,
        max_shrink_time: shrink_ms,
        max_shrink_iters: if shrink_ms > 0 { 100_000 } else { 0 },
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &bytes));
    let (moves, count, steps) = (RefCell::new(BTreeSet::new()), Cell::new(0), Cell::new(0));
    let outcome = runner.run(&cases(STEPS), |case| {
        let name = format!("m{}", POOLS.fetch_add(1, Ordering::Relaxed)).parse().expect("a name");
        let pool = TestPool { store: Store { keys: Keys::new(&name), ..store.clone() }, twice: false };
        let (mut line, began) = (line.clone(), Instant::now());
        let played = runtime.block_on(drive::play(&pool, &mut line, &case));
        if began.elapsed() > LONGEST {
            return Ok(());
        }
        let model = played.map_err(TestCaseError::fail)?;
        moves.borrow_mut().extend(model.moves);
        count.set(count.get() + 1);
        steps.set(steps.get() + case.steps.len());
        Ok(())
    });
    let differs = match outcome {
        Ok(()) => None,
        Err(TestError::Fail(reason, case)) => Some((case, reason.message().to_owned())),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    };
    Played { moves: moves.into_inner(), cases: count.get(), steps: steps.get(), differs }
}

fn shown((from, cause, to): &Move) -> String {
    format!("{} {cause} {to}", from.map_or("-", State::word))
}

/// Plays so many sequences in two threads: one the same each time, one such as never was before.
async fn agree(cases: u32) {
    let server = super::server().await;
    let began = Instant::now();
    let url = server.url();
    let new = uuid::Uuid::new_v4().as_u128() as u64;
    let threads = [1, new].map(|seed| {
        let url = url.clone();
        (seed, thread::spawn(move || play(&url, seed, cases.div_ceil(2), 30_000)))
    });
    let mut all = Played::default();
    let mut ended = Vec::new();
    for (seed, thread) in threads {
        let played = tokio::task::spawn_blocking(|| thread.join()).await.expect("it is waited for");
        ended.push((seed, played.expect("it ends")));
    }
    for (seed, mut played) in ended {
        if let Some((case, how)) = played.differs {
            panic!("seed {seed}: scripts and model differ in\n{case:?}\n{how}");
        }
        all.moves.append(&mut played.moves);
        all.cases += played.cases;
        all.steps += played.steps;
    }
    server.stop().await;
    eprintln!("{} sequences of {} steps in {} ms", all.cases, all.steps, began.elapsed().as_millis());
    eprintln!("{} moves: {}", all.moves.len(), all.moves.iter().map(shown).collect::<Vec<_>>().join(", "));
    for one in &all.moves {
        assert!(is_legal(one.0, one.1, one.2), "{}", shown(one));
    }
    let missed: Vec<String> = MOVES.iter().filter(|one| !all.moves.contains(one)).map(shown).collect();
    assert_eq!(missed, Vec::<String>::new(), "legal moves that no sequence took");
}

#[tokio::test]
async fn scripts_do_what_the_model_says() {
    agree(cases_wanted()).await;
}

/// File, guard, and what stands there instead.
const SABOTAGE: &[(&str, &str, &str)] = &[
    // The worker's half of the fence.
    ("parts/fence", " or held[3] ~= worker", ""),
    // The order of priorities.
    ("parts/begin", "rank - (aged[place] or 0) == class", "true"),
    // Runs are lost, and charged, in a grace.
    ("sweep", "local lost, dead = 0, 0", "local lost, dead = do_lost(retention_ms), 0"),
    // A call that comes once more.
    ("claim", "if before then", "if before == '' then"),
    // All that a task waits for.
    ("parts/after", "elseif is_next then", "else"),
    // The list of what was delivered is the table of leases.
    ("parts/fence", "pending.err or #pending == 0", "false"),
    // What was taken out of the lane is begun, whatever its record says.
    ("parts/begin", "named[1] == 'pending' and named[2] == entry", "named[1]"),
    // Of two that have aged into a class, the one that has waited longer.
    ("parts/begin", "for rank = #PRIORITIES, class, -1", "for rank = class, #PRIORITIES"),
    // A call that comes too late.
    ("parts/again", "if tonumber(call) < tonumber(last) then", "if false then"),
    // How long a task may wait for its start, where nobody could begin it.
    ("parts/retire", "until_ms = math.max(until_ms, tonumber(meta[2] or '0'))", ""),
    // Stopped on request, whatever else went wrong meanwhile.
    ("parts/settle", "if known[5] == '1' and", "if known[5] == '2' and"),
    // What a run has cost is not booked twice.
    ("parts/books", "if before ~= '0' then redis.call('HINCRBY', task, F.cost, '-' .. before) end", ""),
    // A worker that was silent may have another task by then.
    ("parts/lost", "redis.call('HGET', key.worker(known[9]), F.task) == id", "true"),
];

/// Each fault that is put into the scripts is found, and made small.
async fn find(sabotage: &'static [(&str, &str, &str)], shrink_ms: u32) {
    let server = super::server().await;
    let url = server.url();
    let hunt = tokio::task::spawn_blocking(move || {
        for (n, (file, guard, instead)) in sabotage.iter().enumerate() {
            let (_, text) = changed::files().find(|(name, _)| name == file).expect("there is such a file");
            assert_eq!(text.matches(guard).count(), 1, "{file}: {guard}");
            changed::change(file, &text.replace(guard, instead));
            let played = play(&url, n as u64, 2 * CASES, shrink_ms);
            changed::restore();
            let Some((case, how)) = played.differs else { panic!("nobody misses in {file}: {guard}") };
            eprintln!("without {guard}: after {} sequences, {case:?}\n{how}", played.cases);
            // In little time little is left out.
            let few = if shrink_ms > LITTLE_MS { STEPS / 3 } else { STEPS };
            assert!(case.steps.len() <= few, "{} steps are not few", case.steps.len());
        }
    });
    hunt.await.expect("each is found");
    server.stop().await;
}

#[tokio::test]
async fn a_guard_that_is_missing_is_found() {
    find(&SABOTAGE[..5], LITTLE_MS).await;
}

mod long {
    #[tokio::test]
    async fn scripts_do_what_the_model_says_five_times_as_often() {
        super::agree(5 * super::cases_wanted()).await;
    }

    #[tokio::test]
    async fn any_guard_that_is_missing_is_found() {
        super::find(super::SABOTAGE, 20_000).await;
    }
}
