//! pool_chain, pool_submit_chain, pool_chain_result, pool_fan_out, pool_auto: several tasks at once.
//!
//! Not here: what a definition may say (the library), what an answer says of a whole (`whole.rs`).

use motorpool::domain::definition::{self, Vars};
use motorpool::domain::route::{Carried, Hints};
use motorpool::pool::{Known, Member, Router, SubmittedGroup};
use motorpool::{Error, ErrorKind, GroupId, Id, Pool, Result, State, TaskOptions};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::answer::{Answer, in_line};
use super::super::call::Call;
use super::super::{task as protocol, whole};
use super::task::{self, WAIT_S, goes_on};
use crate::work;

/// What is said besides of a whole that was submitted.
struct Placed {
    made: SubmittedGroup,
    modes: String,
}

/// The definition that a call gives; made again by the host, it is known by its key.
fn definition_of(call: &mut Call, own: &[&'static str]) -> Map<String, Value> {
    let mut definition = call.rest().definition();
    for name in own {
        definition.remove(*name);
    }
    definition.insert("coordinator".into(), call.coordinator.clone().into());
    if let (false, Some(id)) = (definition.contains_key("once"), &call.tool_use) {
        definition.insert("once".into(), format!("call {id}").into());
    }
    definition
}

/// Which permission modes apply, each once.
async fn modes<'a>(pool: &Pool, options: impl Iterator<Item = &'a TaskOptions>) -> String {
    let defaults = pool.defaults().await.unwrap_or_default();
    let mut words: Vec<&str> = options.map(|options| work::mode_of(&defaults, options).word()).collect();
    words.sort_unstable();
    words.dedup();
    let plans = if words.contains(&"plan") { "; in plan mode Claude plans and edits no file" } else { "" };
    format!("mode {}{plans}", words.join(" and "))
}

fn maybe_made(error: Error) -> Error {
    match error.kind() {
        // Its answer may be all that was lost.
        ErrorKind::Redis => Error::redis(in_line(&error))
            .hint("the work may have been made all the same: look at pool_view tasks before you start it again"),
        _ => error,
    }
}

async fn place_chain(call: &mut Call, pool: &Pool) -> Result<Placed> {
    let definition = definition_of(call, &[]);
    let mut chain = definition::chain(&definition, &mut Vars::default())?;
    chain.project_dir = call.desk.project_dir();
    let modes = modes(pool, chain.steps.iter().map(|step| &step.options)).await;
    Ok(Placed { made: pool.submit_chain(chain).await.map_err(maybe_made)?, modes })
}

async fn place_fan_out(call: &mut Call, pool: &Pool) -> Result<Placed> {
    let definition = definition_of(call, &[]);
    let mut fan_out = definition::fan_out(&definition, &mut Vars::default())?;
    fan_out.work_in(call.desk.project_dir().as_deref());
    let modes = modes(pool, fan_out.options_of_parts()).await;
    Ok(Placed { made: pool.fan_out(fan_out).await.map_err(maybe_made)?, modes })
}

/// The ids of a whole that was submitted, at once.
async fn ids_of(call: &Call, pool: &Pool, placed: &Placed) -> Result<Answer> {
    let id = placed.made.id;
    let known = call.known(id.into()).await.map_err(goes_on(id))?;
    let Known::Group(view) = &known else { return Err(Error::failed(format!("{id} is no chain or batch"))) };
    let mut answer = json!({"id": id, "state": view.state.word(), "created": placed.made.fresh, "mode": placed.modes});
    let members: Vec<Value> = view
        .members
        .iter()
        .enumerate()
        .map(|(at, member)| {
            if view.group.spec.names.is_empty() {
                json!(member.id())
            } else {
                json!({"name": view.name_of(at), "id": member.id()})
            }
        })
        .collect();
    answer[if view.group.spec.names.is_empty() { "items" } else { "steps" }] = members.into();
    if let Some(warning) = warning(call, pool, &view.members).await {
        answer["warning"] = warning.into();
    }
    Ok(Answer::json(&answer))
}

/// What a caller has to know of where the first of them wait.
async fn warning(call: &Call, pool: &Pool, members: &[Member]) -> Option<String> {
    let lane = members.iter().find_map(|member| match member {
        Member::Task(record) if record.state == State::Pending => Some(record.lane.clone()),
        _ => None,
    })?;
    task::warning(call, pool, &lane).await
}

/// Waits for a whole and says what came of it.
async fn follow(call: &mut Call, pool: &Pool, placed: &Placed, until: Instant) -> Result<Answer> {
    let id = placed.made.id;
    if call.ended.is_cancelled() {
        return task::given_up(call, pool, id).await;
    }
    if call.has_tasks {
        let known = call.known(id.into()).await.map_err(goes_on(id))?;
        if let Known::Group(view) = &known {
            return Ok(Answer::Task(protocol::of_group(view)));
        }
    }
    if !call.follow(id, until).await.map_err(goes_on(id))? {
        return task::given_up(call, pool, id).await;
    }
    finished(call, pool, id, &placed.modes).await
}

/// What there is to say of a whole by now.
async fn finished(call: &Call, pool: &Pool, id: GroupId, modes: &str) -> Result<Answer> {
    let known = call.known(id.into()).await.map_err(goes_on(id))?;
    call.names_any([&known]).await.map_err(goes_on(id))?;
    let Known::Group(view) = &known else { return Err(Error::failed(format!("{id} is no chain or batch"))) };
    if view.state.is_unfinished() {
        let warning = warning(call, pool, &view.members).await.map(|words| format!("\n{words}")).unwrap_or_default();
        return Ok(Answer::text(format!(
            "{id} is still {}; do not start it again; pool_wait hands it over\n{}, {modes}{warning}",
            view.state,
            whole::progress(pool, view).await,
        )));
    }
    Ok(Answer::text(whole::text(pool, &known).await?).failed_if(view.state == State::Failed))
}

pub(super) async fn chain(mut call: Call) -> Result<Answer> {
    let until = Instant::now() + call.wait(WAIT_S)?;
    let pool = call.desk.pool_for_work().await?;
    let placed = place_chain(&mut call, &pool).await?;
    follow(&mut call, &pool, &placed, until).await
}

pub(super) async fn submit_chain(mut call: Call) -> Result<Answer> {
    let pool = call.desk.pool_for_work().await?;
    let placed = place_chain(&mut call, &pool).await?;
    ids_of(&call, &pool, &placed).await
}

pub(super) async fn fan_out(mut call: Call) -> Result<Answer> {
    let wait = call.wait(WAIT_S)?;
    let until = Instant::now() + wait;
    let pool = call.desk.pool_for_work().await?;
    let placed = place_fan_out(&mut call, &pool).await?;
    if wait.is_zero() {
        return ids_of(&call, &pool, &placed).await;
    }
    follow(&mut call, &pool, &placed, until).await
}

pub(super) async fn auto(mut call: Call) -> Result<Answer> {
    let until = Instant::now() + call.wait(WAIT_S)?;
    let prompt = call.args.needed_text("prompt", "say what is to be done")?;
    let is_dry = call.args.flag("dry_run")?;
    let hints: Hints = match call.args.object("hints")? {
        None => Hints::default(),
        Some(hints) => serde_json::from_value(hints).map_err(|error| {
            Error::usage(format!("hints: {error}")).hint(
                "known: max_parallel, max_chain_steps, prefer (single, parallel, chain), domain, decomposition_hints",
            )
        })?,
    };
    let mut options = call.rest().options()?;
    options.coordinator = Some(call.coordinator.clone());
    if options.once.is_none() {
        options.once = call.tool_use.as_ref().map(|id| format!("call {id}"));
    }
    let pool = call.desk.pool_for_work().await?;
    let router = Router { project_dir: call.desk.project_dir(), ..call.desk.router() };
    if is_dry {
        let routed = tokio::select! {
            routed = pool.route(&prompt, &hints, &router) => routed?,
            () = call.ended.cancelled() => return Ok(Answer::text("the call was given up; nothing was started")),
            () = tokio::time::sleep_until(until) => {
                return Ok(Answer::text(
                    "no decision yet, and nothing was started; call again with a larger wait_s; pool_status says what is stuck",
                ));
            }
        };
        let mut value = serde_json::to_value(&routed.decision.route).unwrap_or_default();
        value["fallback"] = routed.decision.fallback.into();
        value["id"] = routed.task.to_string().into();
        value["state"] = State::Completed.word().into();
        value["cost_usd"] = crate::term::time::usd(routed.cost_microusd).into();
        return Ok(Answer::json(&value));
    }
    let decides = pool.auto(&prompt, &hints, &router, options).await.map_err(maybe_made)?.id;
    if !call.follow(decides, until).await.map_err(goes_on(decides))? {
        return task::given_up(&call, &pool, decides).await;
    }
    let record = call.find(decides).await.map_err(goes_on(decides))?;
    let Some((carried, id)) = Carried::of(&record) else {
        if record.state.is_unfinished() {
            return Ok(Answer::text(format!(
                "{decides} is still {}: it decides how the work is done and starts it then; do not start it again; pool_wait hands \
                 over what comes of it",
                record.state
            )));
        }
        let known = Known::Task(Box::new(record));
        call.names_any([&known]).await?;
        return Ok(Answer::text(whole::text(&pool, &known).await?).failed_if(known.state() == State::Failed));
    };
    // The decision is told with what was started.
    call.names([&record]).await?;
    let route = format!("route: {} of {}", carried.route.kind(), carried.route.parts());
    let why = carried.fallback.map(|why| format!(", since {why}")).unwrap_or_default();
    let started = started(&mut call, &pool, id, until).await?;
    Ok(match started {
        Answer::Text { text, is_error } => Answer::Text { text: format!("{text}\n({route}{why})"), is_error },
        other => other,
    })
}

/// What was started, followed as its own tool would.
async fn started(call: &mut Call, pool: &Pool, id: Id, until: Instant) -> Result<Answer> {
    if !call.follow(id, until).await.map_err(goes_on(id))? {
        return task::given_up(call, pool, id).await;
    }
    match id {
        Id::Group(id) => finished(call, pool, id, "as it was decided").await,
        Id::Task(id) => {
            let known = call.known(id.into()).await.map_err(goes_on(id))?;
            call.names_any([&known]).await.map_err(goes_on(id))?;
            if known.state().is_unfinished() {
                return Ok(Answer::text(format!(
                    "{id} is still {}; do not start it again; pool_wait hands it over",
                    known.state()
                )));
            }
            Ok(Answer::text(whole::text(pool, &known).await?).failed_if(known.state() == State::Failed))
        }
    }
}
