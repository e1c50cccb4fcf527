//! Random graphs of tasks that follow each other, chains and batches among them, with failures and dead workers: what
//! runs, runs after what it follows, and everything ends as the graph says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use motorpool::domain::options::AfterFailure;
use motorpool::embedded::Server;
use motorpool::pool::{Claim, Lease, Seat};
use motorpool::{
    Chain, ChainStep, Class, Ending, Failure, FanOut, Id, Outcome, Pool, Presence, Report, Spec, State, TaskId,
    TaskOptions,
};
use tokio::time::timeout;

/// Things that a graph has, most of them tasks.
const NODES: usize = 200;
const WORKERS: usize = 4;

/// Numbers by chance that a seed gives again (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % most as u64) as usize
    }
}

/// A thing as it was submitted: its id, its tasks with what each is to come to, in order.
struct Node {
    id: Id,
    after: Vec<usize>,
    runs_anyway: bool,
    is_chain: bool,
    tasks: Vec<(TaskId, bool)>,
}

impl Node {
    /// How its tasks end, and itself.
    fn ends(&self, before: &[State]) -> (Vec<State>, State) {
        let may_run = self.runs_anyway || self.after.iter().all(|other| before[*other] == State::Completed);
        let mut ends = Vec::new();
        for (_, succeeds) in &self.tasks {
            let is_fed = !self.is_chain || ends.last().is_none_or(|last| *last == State::Completed);
            ends.push(match (may_run && is_fed, succeeds) {
                (false, _) => State::Cancelled,
                (true, true) => State::Completed,
                (true, false) => State::Failed,
            });
        }
        let whole = if ends.contains(&State::Failed) {
            State::Failed
        } else if ends.iter().all(|end| *end == State::Completed) {
            State::Completed
        } else {
            State::Cancelled
        };
        (ends, whole)
    }
}

fn prompt(succeeds: bool) -> &'static str {
    if succeeds { "good" } else { "bad" }
}

async fn submit(pool: &Pool, chance: &mut Chance, nodes: &[Node]) -> Node {
    let after: BTreeSet<usize> = match nodes.len() {
        0 => BTreeSet::new(),
        there => (0..chance.below(4)).map(|_| chance.below(there)).collect(),
    };
    let runs_anyway = chance.below(4) == 0;
    let options = TaskOptions {
        after: after.iter().map(|at| nodes[*at].id).collect(),
        after_failure: runs_anyway.then_some(AfterFailure::Run),
        ..TaskOptions::default()
    };
    let mut succeeds = || chance.below(10) > 0;
    let kind = NODES - nodes.len();
    let after = after.into_iter().collect();
    let spec = |succeeds: bool, options: TaskOptions| Spec::new(prompt(succeeds), options).unwrap();
    if kind.is_multiple_of(10) {
        let ends: Vec<bool> = (0..3).map(|_| succeeds()).collect();
        let is_chain = kind.is_multiple_of(20);
        let made = if is_chain {
            let step = |(n, end): (usize, &bool)| ChainStep::new(format!("s{n}"), prompt(*end));
            let steps = ends.iter().enumerate().map(step).collect();
            pool.submit_chain(Chain { steps, options, project_dir: None }).await.unwrap()
        } else {
            let items = ends.iter().map(|end| spec(*end, TaskOptions::default()).into()).collect();
            pool.fan_out(FanOut { items, collect: None, options }).await.unwrap()
        };
        let ids = made.members.iter().map(|id| if let Id::Task(id) = id { *id } else { panic!("{id}") });
        return Node { id: made.id.into(), after, runs_anyway, is_chain, tasks: ids.zip(ends).collect() };
    }
    let end = succeeds();
    let id = pool.submit(spec(end, options)).await.unwrap().id;
    Node { id: id.into(), after, runs_anyway, is_chain: false, tasks: vec![(id, end)] }
}

async fn seat(pool: &Pool) -> Seat {
    let presence = Presence { host: "h".into(), lanes: vec!["default".into()], ..Presence::default() };
    Seat::join(pool, presence).await.unwrap()
}

fn outcome(lease: &Lease) -> Outcome {
    let report = Report { output: Some("done".into()), spoke: true, ..Report::default() };
    let ending = match lease.spec().prompt.as_str() {
        "good" => Ending::Success,
        _ => Ending::Failed(Failure::new(Class::Request, "bad")),
    };
    Outcome { report, ending, retry_after_ms: None }
}

/// Works until nothing is left, and dies now and then with a task in hand; gives what it began.
async fn work(pool: Pool, seed: u64) -> Vec<TaskId> {
    let (mut chance, mut starts) = (Chance(seed), Vec::new());
    let mut at = seat(&pool).await;
    let mut deaths = 0;
    while pool.unfinished().await.unwrap() > 0 {
        let Claim::Run(lease) = at.claim(None).await.unwrap() else {
            let _ = timeout(Duration::from_millis(200), at.wait_for_work()).await;
            continue;
        };
        starts.push(lease.task());
        if deaths < 3 && chance.below(20) == 0 {
            // Never heard of again: its task is given to another after the lease.
            deaths += 1;
            at = seat(&pool).await;
            continue;
        }
        let outcome = outcome(&lease);
        at.finish(lease, &outcome).await.unwrap();
    }
    starts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_graph_ends_as_it_says_and_runs_in_its_order() {
    let server = Server::temporary().await.unwrap();
    let seed = uuid::Uuid::new_v4().as_u128() as u64;
    for seed in [1, 2, seed] {
        eprintln!("seed {seed}");
        let name = format!("g{}", seed % 1_000_000).parse().unwrap();
        let pool = Pool::builder(&server.url()).name(name).lease(Duration::from_secs(1)).connect().await.unwrap();
        let mut chance = Chance(seed);
        let mut nodes: Vec<Node> = Vec::new();
        let mut workers = Vec::new();
        while nodes.len() < NODES {
            let node = submit(&pool, &mut chance, &nodes).await;
            nodes.push(node);
            // The second half finds much of the first one over.
            if nodes.len() == NODES / 2 {
                workers.extend((1..=WORKERS as u64).map(|n| tokio::spawn(work(pool.clone(), seed ^ n))));
            }
        }
        // Those that found nothing left had ended.
        workers.extend((1..=WORKERS as u64).map(|n| tokio::spawn(work(pool.clone(), seed ^ (n << 8)))));
        let mut starts: BTreeMap<TaskId, u64> = BTreeMap::new();
        for worker in workers {
            for task in worker.await.unwrap() {
                *starts.entry(task).or_default() += 1;
            }
        }
        let mut expected: Vec<State> = Vec::new();
        for node in &nodes {
            let (ends, whole) = node.ends(&expected);
            expected.push(whole);
            assert_eq!(pool.state_of(node.id).await.unwrap(), Some(whole), "{} after {:?}", node.id, node.after);
            for ((id, _), end) in node.tasks.iter().zip(ends) {
                let record = pool.task(*id).await.unwrap();
                assert_eq!(record.state, end, "{record:#?}");
                assert_eq!(record.run, starts.get(id).copied().unwrap_or(0), "{id}: who never ran never started");
            }
        }
        for node in &nodes {
            let begun: Vec<u64> = begun_ms(&pool, node).await;
            for other in &node.after {
                let over = ended_ms(&pool, &nodes[*other]).await;
                assert!(
                    begun.iter().all(|begun| *begun >= over),
                    "{} began before {} was over",
                    node.id,
                    nodes[*other].id
                );
            }
        }
        let findings = pool.examine().await.unwrap();
        assert_eq!(findings.broken, Vec::<String>::new());
    }
    server.stop().await;
}

/// When its tasks first began, by the log.
async fn begun_ms(pool: &Pool, node: &Node) -> Vec<u64> {
    let mut begun = Vec::new();
    for (id, _) in &node.tasks {
        begun.extend(pool.task(*id).await.unwrap().runs.first().map(|run| run.started_ms));
    }
    begun
}

async fn ended_ms(pool: &Pool, node: &Node) -> u64 {
    let mut ended = 0;
    for (id, _) in &node.tasks {
        ended = ended.max(pool.task(*id).await.unwrap().ended_ms.unwrap());
    }
    ended
}
