//! Reaching the pool: the Redis that was given, else the project's embedded pool, started where none runs.
//!
//! Not here: what a keeper does (`serve.rs`, `embedded` of the library).

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use motorpool::domain::ids::Name;
use motorpool::embedded::{self, Joined, KeeperRecord, Place, Presence, Starter, keeper_of};
use motorpool::pool::{GroupView, PoolBuilder, Redis};
use motorpool::settings::{Kind, Scope, TABLE, duration_text};
use motorpool::{Error, ErrorKind, GroupId, Id, Pool, Result, State, TaskId, TaskOptions, TaskRecord};
use tokio::time::sleep;

use super::Call;
use crate::term::{counted, tell};

/// The worker's program.
pub(super) const WORKER: &str = "motorpool-worker";

/// How often, and how long apart, a server of ours is asked that may just be ending.
const REPLACED_WITHIN: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// What a command wants of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To look, or to change what is there.
    Look,
    /// To leave work there.
    Submit,
    /// To leave work there and wait for it.
    Run,
}

/// A pool that was reached.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) pool: Pool,
    /// Membership in the embedded pool, where it is one.
    pub(super) joined: Option<Arc<Joined>>,
}

impl Reached {
    /// A task's record.
    ///
    /// # Errors
    /// It is not known, and where not; or Redis does not answer.
    pub(super) async fn task(&self, id: TaskId) -> Result<TaskRecord> {
        self.pool.task(id).await.map_err(|error| self.unknown(id.into(), error))
    }

    /// A chain or batch as it stands.
    ///
    /// # Errors
    /// As [`Reached::task`].
    pub(super) async fn group(&self, id: GroupId) -> Result<GroupView> {
        self.pool.group_view(id).await.map_err(|error| self.unknown(id.into(), error))
    }

    /// How anything stands.
    ///
    /// # Errors
    /// As [`Reached::task`].
    pub(super) async fn state(&self, id: Id) -> Result<State> {
        match id {
            Id::Task(id) => Ok(self.task(id).await?.state),
            Id::Group(id) => Ok(self.group(id).await?.state),
        }
    }

    /// Of something that is not known: which pool was asked. Each project has its own, and its numbers begin at 1.
    fn unknown(&self, id: Id, error: Error) -> Error {
        if error.kind() != ErrorKind::Refused {
            return error;
        }
        let pool = match &self.joined {
            Some(joined) => format!("the pool of {}", joined.place().project().display()),
            None => format!("the pool at {}", self.pool.redis()),
        };
        let what = match id {
            Id::Task(_) => "task",
            Id::Group(id) => id.kind.word(),
        };
        Error::refused(format!("no {what} {id} in {pool}")).hint(format!("`{}` shows what there is", id.listed_by()))
    }
}

/// Checks what can be said about the pool without contacting it.
pub(super) fn check(call: &Call) -> Result<()> {
    if let Some(url) = &call.settings.redis_url {
        named(Pool::builder(url.expose()), call)?.build()?;
    }
    Ok(())
}

fn named(builder: PoolBuilder, call: &Call) -> Result<PoolBuilder> {
    let name: Name = call.settings.pool.parse()?;
    Ok(builder.name(name).lease(call.settings.lease))
}

/// Reaches the pool, and starts the embedded one where none runs.
pub(super) async fn reach(call: &Call, wish: Wish) -> Result<Reached> {
    if let Some(url) = &call.settings.redis_url {
        let pool = named(Pool::builder(url.expose()), call)?.connect().await?;
        return Ok(Reached { pool, joined: None });
    }
    let place = Place::of(&call.settings, &call.sources);
    let starter = starter(call, wish)?;
    let fresh = embedded::find(&place, &starter, Presence::Worker).await?.is_none();
    if fresh {
        if wish == Wish::Run && call.settings.slots > 0 {
            // Without it nobody would ever take the task.
            worker_bin()?;
        }
        tell(&format!(
            "starting a pool for {} ({}; motorpool down ends it)",
            place.project().display(),
            counted(call.settings.slots.into(), "worker")
        ));
    } else {
        tell_other_wishes(call, &place);
    }
    let joined = Arc::new(embedded::join(&place, &starter, Presence::User, tell).await?);
    let reached = member(call, joined, wish)?;
    facts(&reached).await?;
    if fresh {
        // The keeper does it too; the first task must not be quicker.
        set_defaults(call, &reached.pool).await?;
    }
    Ok(reached)
}

/// Reaches the embedded pool if it runs, or the Redis that was given; starts nothing.
pub(super) async fn find(call: &Call) -> Result<Option<Reached>> {
    if call.settings.redis_url.is_some() {
        return reach(call, Wish::Look).await.map(Some);
    }
    let place = Place::of(&call.settings, &call.sources);
    match embedded::find(&place, &starter(call, Wish::Look)?, Presence::User).await? {
        Some(joined) => member(call, Arc::new(joined), Wish::Look).map(Some),
        None => Ok(None),
    }
}

fn member(call: &Call, joined: Arc<Joined>, wish: Wish) -> Result<Reached> {
    let member = Arc::clone(&joined);
    let reviving = Arc::new(AtomicBool::new(false));
    let revive = move || {
        if reviving.swap(true, Ordering::SeqCst) {
            return;
        }
        let (member, reviving) = (Arc::clone(&member), Arc::clone(&reviving));
        tokio::spawn(async move {
            // Who has new work brings back what was ended on purpose; a failure shows as Redis away.
            let _ = match wish {
                Wish::Look => member.ensure().await.map(drop),
                Wish::Submit | Wish::Run => member.start(|_| {}).await,
            };
            reviving.store(false, Ordering::SeqCst);
        });
    };
    let builder = Pool::builder(&joined.url()).whereabouts(Arc::new(joined.whereabouts()));
    let pool = builder.lease(call.settings.lease).revive(Arc::new(revive)).build()?;
    Ok(Reached { pool, joined: Some(joined) })
}

/// What Redis tells of itself; refuses one that will not do. A server of ours that ends just now is replaced.
pub(super) async fn facts(reached: &Reached) -> Result<Redis> {
    let mut tries = 0;
    loop {
        match (reached.pool.check_redis().await, &reached.joined) {
            (Err(error), Some(joined)) if error.kind() == ErrorKind::Redis && tries < REPLACED_WITHIN => {
                tries += 1;
                sleep(PAUSE).await;
                joined.start(tell).await?;
            }
            (answer, _) => return answer,
        }
    }
}

/// The defaults of a pool that this call was given.
fn given_defaults(call: &Call) -> Result<TaskOptions> {
    let given = &call.settings.defaults;
    let defaults = TaskOptions {
        model: given.model.clone(),
        effort: given.effort.as_deref().map(str::parse).transpose()?,
        permission_mode: given.permission_mode.as_deref().map(str::parse).transpose()?,
        system_prompt: given.system_prompt.clone(),
        ..TaskOptions::default()
    };
    defaults.check()?;
    Ok(defaults)
}

/// Sets the pool's defaults where it has none and there are any; false, with a word, where it keeps others.
pub(super) async fn set_defaults(call: &Call, pool: &Pool) -> Result<bool> {
    let defaults = given_defaults(call)?;
    if defaults == TaskOptions::default() || pool.set_defaults(&defaults).await? {
        return Ok(true);
    }
    let kept = pool.defaults().await?;
    if kept != defaults {
        let words = serde_json::to_string(&kept).unwrap_or_default();
        tell(&format!(
            "the pool keeps its defaults, {words}: `motorpool config set` changes them, and run and submit take what one \
             task is to have"
        ));
    }
    Ok(kept == defaults)
}

/// How the keeper of this project's pool is started: with every setting that was given here, paths made absolute.
pub(super) fn starter(call: &Call, wish: Wish) -> Result<Starter> {
    let program =
        std::env::current_exe().map_err(|error| Error::failed(format!("cannot find this program: {error}")))?;
    let mut args = vec![OsString::from("keep")];
    args.extend(given_args(call, &[Scope::Pool, Scope::Worker, Scope::PoolDefault]));
    if wish == Wish::Run && !call.is_given("linger") {
        args.push("--linger=0".into());
    }
    // A prompt stands in no process's arguments.
    let env = call.settings.defaults.system_prompt.iter();
    let env = env.map(|text| ("MOTORPOOL_SYSTEM_PROMPT".into(), text.into())).collect();
    Ok(Starter { program, args, env })
}

/// The settings of these scopes that were given, as arguments for a program that runs in the project's directory:
/// whatever its own environment and files say, it has the values that hold here.
pub(super) fn given_args(call: &Call, scopes: &[Scope]) -> Vec<OsString> {
    let settings = &call.settings;
    let joined = |name: &str, value: OsString| {
        let mut arg = OsString::from(format!("--{name}="));
        arg.push(value);
        arg
    };
    let mut args = vec![joined("state-dir", settings.state_dir.clone().into())];
    let rows = TABLE.iter().filter(|row| scopes.contains(&row.scope) || row.name.starts_with("log"));
    for row in rows.filter(|row| call.is_given(row.name)) {
        let yes = |value: bool| vec![if value { "yes".into() } else { "no".into() }];
        let text = |value: &Option<String>| value.iter().map(OsString::from).collect();
        let values: Vec<OsString> = match row.name {
            "log" => vec![settings.log.clone().into()],
            "log-format" => {
                vec![if settings.log_format == motorpool::settings::LogFormat::Json { "json" } else { "text" }.into()]
            }
            "slots" => vec![settings.slots.to_string().into()],
            "min-slots" => vec![settings.min_slots.to_string().into()],
            "max-slots" => vec![settings.max_slots.to_string().into()],
            "max-restarts" => vec![settings.max_restarts.to_string().into()],
            "linger" => vec![duration_text(settings.linger).into()],
            "drain-timeout" => vec![duration_text(settings.drain_timeout).into()],
            "lease" => vec![duration_text(settings.lease).into()],
            "claude-bin" => vec![settings.claude_bin.clone().into()],
            "working-dir" => vec![settings.working_dir.clone().into()],
            "labels" => settings.labels.iter().map(OsString::from).collect(),
            "lanes" => settings.lanes.iter().map(OsString::from).collect(),
            "allow-mode" => vec![settings.allow_mode.clone().into()],
            "allow-dir" => settings.allow_dir.iter().map(OsString::from).collect(),
            "allow-mcp" => yes(settings.allow_mcp),
            "clean-env" => yes(settings.clean_env),
            "pass-env" => settings.pass_env.iter().map(OsString::from).collect(),
            "model" => text(&settings.defaults.model),
            "effort" => text(&settings.defaults.effort),
            "permission-mode" => text(&settings.defaults.permission_mode),
            // Handed over in the environment, see `starter`.
            _ => vec![],
        };
        debug_assert!(row.kind != Kind::Url, "a secret stands in no argument");
        args.extend(values.into_iter().map(|value| joined(row.name, value)));
    }
    args
}

/// The settings of the pool that were given, as the record of its keeper has them. Its defaults stand in Redis.
pub(super) fn given_texts(call: &Call) -> Vec<String> {
    let args = given_args(call, &[Scope::Pool, Scope::Worker]);
    args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

/// The flags of this call that say something else about the pool than what it was started with.
pub(super) fn other_wishes(call: &Call, keeper: &KeeperRecord) -> Vec<String> {
    let is_flag = |arg: &String| {
        let name = arg.strip_prefix("--").and_then(|arg| arg.split('=').next()).unwrap_or_default();
        let of_pool = !name.starts_with("log") && name != "state-dir";
        of_pool && call.settings.origin(name) == format!("--{name}")
    };
    // What it has without being told so is no other wish either.
    let defaults = [format!("--slots={}", keeper.slots), format!("--linger={}", linger_text(keeper))];
    let is_so = |arg: &String| keeper.given.contains(arg) || defaults.contains(arg);
    given_texts(call).into_iter().filter(|arg| is_flag(arg) && !is_so(arg)).collect()
}

fn linger_text(keeper: &KeeperRecord) -> String {
    duration_text(Duration::from_millis(keeper.linger_ms))
}

/// Says which flags of this call have no effect, since the pool runs.
fn tell_other_wishes(call: &Call, place: &Place) {
    // Its record is a courtesy here.
    let Ok(Some(keeper)) = keeper_of(place) else { return };
    let wishes = other_wishes(call, &keeper);
    if !wishes.is_empty() {
        tell(&format!(
            "the pool runs already, without {}: that counts at its next start, after `motorpool down`",
            wishes.join(" ")
        ));
    }
}

/// The worker's program: beside this one, else on PATH.
///
/// # Errors
/// It is in neither place; the error says where it was looked for.
pub(super) fn worker_bin() -> Result<PathBuf> {
    let beside = beside_us();
    if let Some(file) = beside.iter().find(|file| file.is_file()) {
        return Ok(file.clone());
    }
    on_path(WORKER).ok_or_else(|| {
        let place = beside.map_or_else(String::new, |file| format!("at {} and ", file.display()));
        Error::failed(format!("the worker's program is missing: looked {place}for {WORKER} on PATH"))
            .hint("install motorpool-worker beside motorpool")
    })
}

/// Where the worker's program is expected.
pub(super) fn beside_us() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.join(WORKER))
}

/// The first file of this name on PATH.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
