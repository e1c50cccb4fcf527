//! up, down, keep: the project's embedded pool as a whole.
//!
//! `keep` is what runs in the background; `up` is the same in the foreground, with a line per event.
//! Not here: what a keeper does (`embedded` of the library), how others join it (`reach.rs`).

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use motorpool::domain::event::Event as TaskEvent;
use motorpool::domain::fleet::Unfit;
use motorpool::embedded::{self, End, Event, KeepOptions, KeeperRecord, Place, Presence, keeper_of};
use motorpool::pool::Notice;
use motorpool::settings::{self, Scope};
use motorpool::{Error, Name, Pool, Result, State};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::reach::{self, Wish};
use super::signals::Signals;
use super::{Call, EVERY, json_arg};
use crate::term::table::harmless;
use crate::term::{counted, print, print_json, tell, time};

/// Tells the host how a keeper is started: a JSON list, the program first.
const KEEPER: &str = "MOTORPOOL_KEEPER";
/// What `down` waits beyond the drain time.
const MARGIN: Duration = Duration::from_secs(20);
/// When who waits is told for what.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// How long the first worker of a pool in the background is waited for.
const FIRST_WORKER: Duration = Duration::from_secs(5);
/// How long a keeper keeps asking its own server, which may be reading its data.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn up_command() -> Command {
    let detach = Arg::new("detach").long("detach").action(ArgAction::SetTrue).help("in the background");
    let command = Command::new("up")
        .about("Run this project's pool: a private Redis and workers")
        .arg(detach)
        .arg(json_arg("print {state, …}; in the foreground one object a line"))
        .after_help(
            "Examples:\n  motorpool up --slots 4\n  motorpool up --detach --linger 2h --model sonnet\n\
             In the foreground Ctrl-C drains and a second one stops; `motorpool down` ends one in the background.",
        );
    settings::flags::add(command, EVERY)
}

pub(super) fn down_command() -> Command {
    let command = Command::new("down")
        .about("End this project's pool; what is unfinished goes on with the next command")
        .arg(json_arg("print {state}"))
        .after_help("Example:\n  motorpool down");
    settings::flags::add(command, &[Scope::Base])
}

pub(super) fn keep_command() -> Command {
    let command = Command::new("keep").about("Keep this project's pool, in the background").hide(true);
    settings::flags::add(command, EVERY)
}

fn embedded_only(call: &Call, verb: &str) -> Result<()> {
    if call.settings.redis_url.is_none() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "`motorpool {verb}` is for a project's own pool; {} names a Redis",
        call.settings.origin("redis-url")
    ))
    .hint("`motorpool-worker host --redis-url URL --slots N` runs workers for the pool of that Redis"))
}

pub(super) async fn up(call: &Call, matches: &ArgMatches) -> Result<u8> {
    embedded_only(call, "up")?;
    call.refuse_inside_run("up")?;
    let place = Place::of(&call.settings, &call.sources);
    let (slots, detach) = (call.settings.slots, matches.get_flag("detach"));
    let project = place.project().display();
    if let Some(keeper) = keeper_of(&place)?
        && let Some(running) = reach::find(call).await?
    {
        let line = format!("the pool of {project} runs already ({})", running_text(&keeper));
        if let Some(other) = other_wish(call, &keeper, detach) {
            return Err(Error::refused(format!("{line}, and not {other}")).hint(
                "`motorpool down` ends it, and what it runs goes on with the next one; then start it as you want it",
            ));
        }
        if !reach::set_defaults(call, &running.pool).await? {
            return Err(Error::refused(format!("{line}, with other defaults for its tasks"))
                .hint("run and submit take what a task is to have"));
        }
        if call.json {
            print_json(
                &json!({ "state": "running", "started": false, "slots": keeper.slots, "url": running.pool.redis() }),
            )?;
        } else {
            tell(&line);
        }
        return Ok(0);
    }
    if slots > 0 {
        reach::worker_bin()?;
    }
    if !detach {
        tell(&format!("a pool for {project} ({}); Ctrl-C ends it", counted(slots.into(), "worker")));
        return foreground(call, &place).await;
    }
    let starter = reach::starter(call, Wish::Submit)?;
    let joined = embedded::join(&place, &starter, Presence::User, tell).await?;
    let unfit = match reach::find(call).await? {
        Some(reached) => {
            reach::set_defaults(call, &reached.pool).await?;
            unfit_worker(&reached.pool, slots).await
        }
        None => None,
    };
    if let Some(why) = &unfit {
        let hint = why.hint.as_deref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        tell(&harmless(&format!("warning: its workers cannot work ({}): {}{hint}", why.class, why.message)));
    }
    if call.json {
        let unfit = unfit.map(|why| why.message);
        print_json(
            &json!({ "state": "running", "started": true, "slots": slots, "url": joined.url(), "unfit": unfit }),
        )?;
    } else {
        tell(&format!("the pool of {project} runs ({}); motorpool down ends it", counted(slots.into(), "worker")));
    }
    Ok(0)
}

/// Waits a little until a pool that was just started has a worker; gives why that one cannot work, if it cannot.
async fn unfit_worker(pool: &Pool, slots: u32) -> Option<Unfit> {
    let until = Instant::now() + FIRST_WORKER;
    while slots > 0 && Instant::now() < until {
        // A pool that does not answer now is looked at by the next command.
        let workers = pool.workers().await.ok()?;
        if let Some(first) = workers.into_iter().next() {
            return first.unfit;
        }
        sleep(Duration::from_millis(100)).await;
    }
    None
}

/// How a pool runs.
fn running_text(keeper: &KeeperRecord) -> String {
    let ends = match keeper.linger_ms {
        0 => ", ends with the last command that uses it".to_owned(),
        u64::MAX => String::new(),
        ms => format!(", ends {} after its last use", settings::duration_text(Duration::from_millis(ms))),
    };
    format!("{}{ends}", counted(keeper.slots.into(), "slot"))
}

/// In what a pool that runs is not what a call of `up` would start.
fn other_wish(call: &Call, keeper: &KeeperRecord, detach: bool) -> Option<String> {
    let wishes = reach::other_wishes(call, keeper);
    if !wishes.is_empty() {
        return Some(format!("with {}", wishes.join(" ")));
    }
    let is_longer = |linger: Duration| linger.as_millis().min(u128::from(u64::MAX)) > u128::from(keeper.linger_ms);
    if !detach && !call.is_given("linger") && keeper.linger_ms != u64::MAX {
        return Some("in the foreground, until it is told to end".to_owned());
    }
    let linger = call.settings.linger;
    (detach && is_longer(linger)).then(|| format!("for {} after its last use", settings::duration_text(linger)))
}

async fn foreground(call: &Call, place: &Place) -> Result<u8> {
    // Until it is told to end, whoever is there.
    let linger = if call.is_given("linger") { call.settings.linger } else { Duration::MAX };
    let end = kept(call, place, linger, Sink::Terminal { json: call.json }).await?;
    if end == End::AlreadyRunning {
        tell("another keeper keeps this pool");
    }
    Ok(0)
}

pub(super) async fn keep(call: &Call) -> Result<u8> {
    embedded_only(call, "keep")?;
    call.refuse_inside_run("keep")?;
    let place = Place::of(&call.settings, &call.sources);
    kept(call, &place, call.settings.linger, Sink::Log).await?;
    Ok(0)
}

/// Where events are told.
#[derive(Clone, Copy, Debug)]
enum Sink {
    /// The keeper's log: with the time, without tasks.
    Log,
    /// Who watches.
    Terminal { json: bool },
}

impl Sink {
    fn tell(self, event: &Event) {
        let words = harmless(&event.to_string());
        match self {
            Self::Log => tell(&format!("{} {words}", time::rfc3339(time::now_ms()))),
            Self::Terminal { json: false } => drop(print(&format!("{words}\n"))),
            Self::Terminal { json: true } => {
                drop(print_json(&json!({ "time": time::rfc3339(time::now_ms()), "event": "pool", "text": words })));
            }
        }
    }
}

/// Keeps the pool; meanwhile sets its defaults and, for who watches, tells what happens to tasks.
async fn kept(call: &Call, place: &Place, linger: Duration, sink: Sink) -> Result<End> {
    let options = options(call, linger)?;
    let signals = Signals::count()?;
    let (sender, urls) = mpsc::unbounded_channel();
    let events = |event: Event| {
        sink.tell(&event);
        if let Event::ServerStarted { url, .. } = event {
            // The receiver below lives as long as the keeper.
            let _ = sender.send(url);
        }
    };
    let lease = call.settings.lease;
    let unfinished =
        |url: String| async move { Pool::builder(&url).lease(lease).patience(PATIENCE).build()?.unfinished().await };
    tokio::select! {
        end = embedded::keep(place, &options, unfinished, events, signals.reach(1), signals.reach(2)) => end,
        () = accompany(call, urls, sink) => Err(Error::failed("the keeper's companion ended")),
    }
}

/// What the keeper starts: the worker's program, with every setting that was given.
fn options(call: &Call, linger: Duration) -> Result<KeepOptions> {
    let settings = &call.settings;
    // One that is missing now may be there at the next try: the server serves all the same.
    let worker_bin = reach::worker_bin().ok().or_else(reach::beside_us).unwrap_or_else(|| reach::WORKER.into());
    let mut worker_args = reach::given_args(call, &[Scope::Worker]);
    let is = |name: &str, arg: &OsString| arg.to_string_lossy().starts_with(&format!("--{name}="));
    let names = ["lease", "drain-timeout", "min-slots", "max-slots", "max-restarts"];
    let of_host = |arg: &OsString| names.iter().any(|name| is(name, arg));
    worker_args.extend(reach::given_args(call, &[Scope::Pool]).into_iter().filter(of_host));
    // Whatever the environment calls a pool: the embedded one has one name.
    worker_args.push(format!("--pool={}", Name::default()).into());
    let starter = reach::starter(call, Wish::Submit)?;
    let words = std::iter::once(starter.program.as_os_str()).chain(starter.args.iter().map(OsString::as_os_str));
    let words: Option<Vec<&str>> = words.map(|word| word.to_str()).collect();
    let mut worker_env = starter.env.clone();
    // Without it a host that finds the server gone looks for us on PATH.
    worker_env.extend(words.map(|words| (KEEPER.into(), json!(words).to_string().into())));
    Ok(KeepOptions {
        given: reach::given_texts(call),
        slots: settings.slots,
        linger,
        drain_timeout: settings.drain_timeout,
        worker_bin,
        worker_args,
        worker_env,
        path: std::env::var_os("PATH").unwrap_or_default(),
        host: settings.slots > 0,
    })
}

/// Never ends. At every start of the server the defaults are set where there are none.
async fn accompany(call: &Call, mut urls: mpsc::UnboundedReceiver<String>, sink: Sink) {
    let mut url = urls.recv().await;
    // Without a server there is nothing to do; the keeper ends both.
    while let Some(current) = url {
        tokio::select! {
            // A new server: what the old one's feed would have said is lost with it.
            next = urls.recv() => url = next,
            () = attend(call, &current, sink) => url = None,
        }
    }
    std::future::pending().await
}

/// Sets the defaults of the pool at `url`, and tells what happens to its tasks where somebody watches, for ever.
async fn attend(call: &Call, url: &str, sink: Sink) {
    let prepared = async {
        let pool = Pool::builder(url).lease(call.settings.lease).build()?;
        reach::set_defaults(call, &pool).await?;
        Ok::<Pool, Error>(pool)
    };
    match (prepared.await, sink) {
        (Ok(pool), Sink::Terminal { json }) => tell_tasks(&pool, json).await,
        (Ok(_), Sink::Log) => {}
        (Err(error), _) => tell(&format!("the pool's defaults are not set: {error}")),
    }
    std::future::pending().await
}

/// Tells what happens to tasks, for ever.
async fn tell_tasks(pool: &Pool, json: bool) {
    let mut notices = pool.notices().await;
    loop {
        let Notice::Event(event) = notices.next().await else { continue };
        // Work goes on whether somebody reads the lines or not.
        if json {
            drop(print_json(&json!({
                "time": time::rfc3339(time::now_ms()), "event": "task", "id": event.task, "state": event.to.word(),
                "cause": event.cause.word(), "run": event.run,
            })));
        } else {
            drop(print(&format!("{}\n", event_text(pool, &event).await)));
        }
    }
}

async fn event_text(pool: &Pool, event: &TaskEvent) -> String {
    let mut line = format!("{} {}", event.task, event.to);
    if event.to == State::Running {
        line.push_str(&format!(", run {}", event.run));
    } else if let Ok(record) = pool.task(event.task).await
        && event.from.is_some()
    {
        if let (Some(started), Some(ended)) = (record.started_ms, record.ended_ms) {
            line.push_str(&format!(" after {}", time::span(ended.saturating_sub(started))));
        }
        line.push_str(&format!(", {}", time::dollars(record.cost_microusd)));
        let why = record.error.map(|error| format!("{}: {}", error.class, error.message)).or(record.reason);
        if let Some(why) = why.filter(|_| event.to != State::Completed) {
            line.push_str(&format!(", {}", harmless(&why).replace('\n', " ")));
        }
    }
    line
}

pub(super) async fn down(call: &Call) -> Result<u8> {
    embedded_only(call, "down")?;
    call.refuse_inside_run("down")?;
    let place = Place::of(&call.settings, &call.sources);
    let drain =
        keeper_of(&place)?.map_or(call.settings.drain_timeout, |keeper| Duration::from_millis(keeper.drain_timeout_ms));
    let mut stopping = std::pin::pin!(embedded::stop(&place, drain.saturating_add(MARGIN)));
    let ran = match tokio::time::timeout(TELL_AFTER, &mut stopping).await {
        Ok(ran) => ran?,
        Err(_) => {
            tell(&format!("draining: what runs gets up to {}", settings::duration_text(drain)));
            stopping.await?
        }
    };
    let project = place.project().display();
    if call.json {
        print_json(&json!({ "state": "down", "stopped": ran }))?;
    } else if ran {
        tell(&format!("the pool of {project} is down; what is unfinished goes on with the next command"));
    } else {
        tell(&format!("no pool runs for {project}"));
    }
    Ok(0)
}
