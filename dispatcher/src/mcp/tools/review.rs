//! pool_submit_with_review, pool_approve_result, pool_reject_result.
//!
//! Not here: how a judgement is carried out (the library).

use motorpool::pool::ReviewVerdict;
use motorpool::{Error, Result, TaskId};
use serde_json::{Value, json};

use super::super::answer::{Answer, in_line};
use super::super::call::Call;
use super::super::digest;
use super::task;
use crate::work;

/// Submits with `review`, whatever else was said.
pub(super) async fn submit(mut call: Call) -> Result<Answer> {
    call.args.put("review", true.into());
    task::submit(call).await
}

/// The round that was looked at.
fn round(call: &mut Call) -> Result<Option<u32>> {
    match call.args.count("round", u64::from(u32::MAX))? {
        Some(0) => {
            Err(Error::usage("round: 0 does not do")
                .hint("rounds are counted from 1; leave it out for the current one"))
        }
        round => Ok(round.map(|round| round as u32)),
    }
}

fn item(verdict: &ReviewVerdict) -> Value {
    json!({
        "id": verdict.id, "state": verdict.state.word(), "round": verdict.round, "again": verdict.again,
        "said": work::judged_text(verdict),
    })
}

/// Several judgements: each by itself, so that one that fails does not hide the others.
async fn answered(call: &Call, mut items: Vec<(TaskId, Result<ReviewVerdict>)>) -> Result<Answer> {
    if let [(_, Err(_))] = &items[..]
        && let Some((_, verdict)) = items.pop()
    {
        return verdict.map(|verdict| Answer::json(&item(&verdict)));
    }
    let failed = items.iter().all(|(_, verdict)| verdict.is_err());
    let mut over = Vec::new();
    let mut values = Vec::new();
    for (id, verdict) in items {
        match verdict {
            Ok(verdict) => {
                values.push(item(&verdict));
                over.push(call.find(id).await?);
            }
            Err(error) => {
                let state = call.find(id).await?.state;
                values.push(json!({"id": id, "state": state.word(), "error": digest::cut(&in_line(&error), 600)}));
            }
        }
    }
    call.names(&over).await?;
    let value = if values.len() == 1 { values.remove(0) } else { json!({ "items": values }) };
    Ok(Answer::json(&value).failed_if(failed))
}

pub(super) async fn approve(mut call: Call) -> Result<Answer> {
    let ids = call.args.needed_ids()?;
    let round = round(&mut call)?;
    let why = call.args.text("reason")?.unwrap_or_default();
    call.rest().end()?;
    let pool = call.desk.pool_for_work().await?;
    let mut tasks = Vec::new();
    for id in ids {
        // None is judged if one of them is not known.
        tasks.extend(pool.up_for_review(id).await?);
    }
    let mut items = Vec::new();
    for id in tasks {
        items.push((id, pool.approve(id, round, &call.coordinator, &why).await));
    }
    answered(&call, items).await
}

pub(super) async fn reject(mut call: Call) -> Result<Answer> {
    let ids = call.args.needed_ids()?;
    let round = round(&mut call)?;
    let feedback = call.args.needed_text("feedback", "say what is to be done better")?;
    let changes = call.rest().options()?;
    let pool = call.desk.pool_for_work().await?;
    let mut tasks = Vec::new();
    for id in ids {
        tasks.extend(pool.up_for_review(id).await?);
    }
    let mut items = Vec::new();
    for id in tasks {
        items.push((id, pool.reject(id, round, &call.coordinator, &feedback, &changes).await));
    }
    answered(&call, items).await
}
