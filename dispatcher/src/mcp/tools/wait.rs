//! pool_wait: whatever is new for a coordinator, handed over and confirmed.
//!
//! Not here: a task whose id is known (`task.rs`), listings (`view.rs`).

use motorpool::domain::limits;
use motorpool::pool::{Known, News, NewsMark};
use motorpool::{ErrorKind, Filter, Id, Result, State, TaskRecord};
use tokio::time::Instant;

use super::super::answer::Answer;
use super::super::args::IDS;
use super::super::call::{Call, PROGRESS_EVERY};
use super::super::digest::Piece;
use super::super::{digest, task, whole};
use super::task::WAIT_S;
use super::view::stuck;
use crate::term::time::now_ms;

/// Most pieces of news in one answer.
const NEWS: usize = 20;
/// What a coordinator waits for: as a task of the protocol it has no record, its id says it all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) coordinator: String,
    ids: Vec<Id>,
    all: bool,
    /// Milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// Tells two waits for the same thing apart.
    nonce: u64,
}

impl Wait {
    /// `wait/any/t1+t2/1735689600000/7/NAME`.
    pub(crate) fn id(&self) -> String {
        let ids = self.ids.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        let which = if self.all { "all" } else { "any" };
        format!("wait/{which}/{ids}/{}/{}/{}", self.created_ms, self.nonce, self.coordinator)
    }

    pub(crate) fn parse(id: &str) -> Option<Self> {
        // As long as one of ours can be.
        if id.len() > 1_500 {
            return None;
        }
        let mut parts = id.strip_prefix("wait/")?.splitn(5, '/');
        let all = match parts.next()? {
            "all" => true,
            "any" => false,
            _ => return None,
        };
        let ids = parts.next()?.split('+').filter(|id| !id.is_empty()).map(str::parse).collect::<Result<_>>().ok()?;
        let created_ms = parts.next()?.parse().ok()?;
        let nonce = parts.next()?.parse().ok()?;
        let coordinator = parts.next()?.to_owned();
        let is_ours = Vec::len(&ids) <= IDS && !coordinator.is_empty() && coordinator.len() <= limits::KEY_BYTES;
        is_ours.then_some(Self { coordinator, ids, all, created_ms, nonce })
    }

    /// What it waits for, for people.
    pub(crate) fn words(&self) -> String {
        let ids: Vec<String> = self.ids.iter().map(ToString::to_string).collect();
        match (&ids[..], self.all) {
            ([], _) => "waiting for whatever is done next".into(),
            (ids, true) => format!("waiting for all of {}", ids.join(", ")),
            (ids, false) => format!("waiting for any of {}", ids.join(", ")),
        }
    }
}

pub(super) async fn wait(mut call: Call) -> Result<Answer> {
    let ids = call.args.ids()?;
    let all = call.args.flag("all")?;
    let for_how_long = call.wait(WAIT_S)?;
    let replay = call.args.count("replay", 100)?;
    call.rest().end()?;
    for id in &ids {
        call.known(*id).await?;
    }
    if let Some(count) = replay {
        return replayed(&call, count as usize).await;
    }
    let nonce = call.desk.next_nonce();
    let wait = Wait { coordinator: call.coordinator.clone(), ids, all, created_ms: now_ms(), nonce };
    let until = Instant::now() + for_how_long;
    let pool = call.pool().await?;
    // Before the first look, so that nothing falls in between.
    let mut notices = pool.notices().await;
    let mut next_word = Instant::now();
    loop {
        match answer_if_any(&mut call, &wait).await {
            Ok(Some((text, is_error))) => return Ok(Answer::text(text).failed_if(is_error)),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Redis && Instant::now() < until => {
                call.progress.tell(&format!("reconnecting to Redis: {}", error.message())).await;
            }
            Err(error) => return Err(error),
        }
        if call.has_tasks {
            return Ok(Answer::Task(task::of_wait(&wait)));
        }
        if Instant::now() >= until {
            return Ok(Answer::text(nothing_yet(&call, &wait).await?));
        }
        if Instant::now() >= next_word {
            next_word = Instant::now() + PROGRESS_EVERY;
            call.progress.tell(&wait.words()).await;
        }
        pool.tend().await;
        let look_at = until.min(next_word).min(Instant::now() + pool.look_anyway());
        tokio::select! {
            // Whatever moved may be news; the set says what is.
            () = moved(&mut notices, look_at) => {}
            () = call.ended.cancelled() => return Ok(Answer::text("the wait was given up; the work goes on")),
        }
    }
}

/// Returns when a task has ended or something was missed, at the latest at the deadline.
async fn moved(notices: &mut motorpool::pool::Notices, until: Instant) {
    use motorpool::pool::Notice;
    while let Ok(notice) = tokio::time::timeout_at(until, notices.next()).await {
        match notice {
            Notice::Event(event) if event.to.is_unfinished() => {}
            _ => return,
        }
    }
}

/// What a wait has to tell, once there is anything; and whether all of it failed.
pub(crate) async fn answer_if_any(call: &mut Call, wait: &Wait) -> Result<Option<(String, bool)>> {
    let pool = call.pool().await?;
    if wait.ids.is_empty() {
        let mut unseen = pool.unseen(&wait.coordinator, NEWS).await?;
        if unseen.news.is_empty() {
            if pool.has_unfinished(&wait.coordinator).await? {
                return Ok(None);
            }
            // What ended between these two looks is news by now.
            unseen = pool.unseen(&wait.coordinator, NEWS).await?;
        }
        if unseen.news.is_empty() {
            let words = "nothing is new, and nothing of yours is under way";
            return Ok(Some((format!("{words} (coordinator {})", wait.coordinator), false)));
        }
        let more = unseen.total.saturating_sub(unseen.news.len() as u64);
        return told(call, unseen.news, more).await.map(Some);
    }
    // Before the records: whatever is marked is over in them.
    let marks = pool.unseen_among(&wait.coordinator, &wait.ids).await?;
    // Without their texts as long as something is waited for.
    let mut states = Vec::new();
    for id in &wait.ids {
        match pool.state_of(*id).await? {
            Some(state) => states.push(state),
            None => states.push(call.known(*id).await?.state()),
        }
    }
    let left = states.iter().filter(|state| state.is_unfinished()).count();
    let is_new = |id: &Id| marks.iter().any(|mark| mark.id == *id);
    let is_done = if wait.all { left == 0 } else { left == 0 || wait.ids.iter().any(is_new) };
    if !is_done {
        return Ok(None);
    }
    // What was handed over before is shown again where nothing else is left to wait for.
    let over = wait.ids.iter().zip(&states).filter(|(id, state)| !state.is_unfinished() && (left == 0 || is_new(id)));
    let mut whole = Vec::new();
    for (id, _) in over {
        let what = call.known(*id).await?;
        let mark = News::mark_of(&what).unwrap_or(NewsMark { id: *id, number: 0 });
        let offered = match &what {
            Known::Task(record) => record.offered,
            Known::Group(view) => view.group.offered,
        };
        let again = marks.contains(&mark) && offered == Some(mark.number);
        whole.push(News { mark, what, again });
    }
    let (mut text, failed) = told(call, whole, 0).await?;
    if left > 0 {
        text.push_str(&format!("{left} of {} still under way\n", wait.ids.len()));
    }
    Ok(Some((text, failed)))
}

/// What an answer says of each of these, as far as there is room: the pieces, and how many have their place.
async fn pieces(call: &Call, items: &[(Known, &'static str)], longest: usize) -> Result<(Vec<Piece>, usize)> {
    let pool = call.pool().await?;
    let mut pieces = Vec::new();
    let mut left = longest;
    for (at, (known, note)) in items.iter().enumerate() {
        let room = left / (items.len() - at);
        let own = whole::of(&pool, known, note, room.max(1_000)).await?;
        let size = own.iter().map(Piece::size).sum::<usize>();
        if at > 0 && size > left {
            return Ok((pieces, at));
        }
        left = left.saturating_sub(size);
        pieces.extend(own);
    }
    Ok((pieces, items.len()))
}

/// The text of some news, noted as offered.
async fn told(call: &Call, news: Vec<News>, more: u64) -> Result<(String, bool)> {
    let note = |again: bool| if again { " (handed over before; that answer may not have arrived)" } else { "" };
    let mut items: Vec<(Known, &'static str)> = news.into_iter().map(|news| (news.what, note(news.again))).collect();
    // What has no room is told by the next call.
    let room = digest::LONGEST - 100;
    let (pieces, named) = pieces(call, &items, room).await?;
    let more = more + (items.len() - named) as u64;
    items.truncate(named);
    let failed = items.iter().all(|(known, _)| known.state() == State::Failed);
    call.names_any(items.iter().map(|(known, _)| known)).await?;
    let mut text = digest::pieces(&pieces, room);
    if more > 0 {
        text.push_str(&format!("{more} more; pool_wait again\n"));
    }
    Ok((text, failed))
}

async fn replayed(call: &Call, count: usize) -> Result<Answer> {
    let news = call.pool().await?.told(&call.coordinator, count.max(1)).await?;
    if news.is_empty() {
        return Ok(Answer::text(format!("nothing was handed over yet (coordinator {})", call.coordinator)));
    }
    let found = news.len();
    let mut items: Vec<_> = news.into_iter().map(|news| (news.what, " (again)")).collect();
    let room = digest::LONGEST - 100;
    // The newest ones, where not all have room.
    let pieces = loop {
        let (pieces, named) = pieces(call, &items, room).await?;
        if named == items.len() {
            break pieces;
        }
        items.remove(0);
    };
    let left_out = match found - items.len() {
        0 => String::new(),
        count => format!("{count} older ones have no room\n"),
    };
    Ok(Answer::text(format!("{}{left_out}", digest::pieces(&pieces, room))))
}

/// The unfinished tasks of a coordinator, newest first.
async fn open(call: &Call, coordinator: &str) -> Result<Vec<TaskRecord>> {
    let states = State::ALL.iter().copied().filter(|state| state.is_unfinished()).collect();
    let filter = Filter { states, coordinator: Some(coordinator.to_owned()), ..Filter::default() };
    Ok(call.pool().await?.list(&filter, 20).await?.items)
}

async fn nothing_yet(call: &Call, wait: &Wait) -> Result<String> {
    let mut lines = vec!["nothing new yet; call pool_wait again".to_owned()];
    if wait.ids.is_empty() {
        lines.extend(open(call, &wait.coordinator).await?.iter().take(20).map(digest::head));
    } else {
        for id in &wait.ids {
            lines.push(match call.known(*id).await? {
                Known::Task(record) => digest::head(&record),
                Known::Group(view) => whole::head(&view),
            });
        }
    }
    let status = call.pool().await?.status().await?;
    lines.extend(stuck(&status).into_iter().map(|(what, hint)| format!("stuck: {what}; {hint}")));
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_wait_says_it_all() {
        for (ids, all) in [(vec![], false), (vec!["t1".parse().unwrap(), "c22".parse().unwrap()], true)] {
            let wait =
                Wait { coordinator: "ann@box:/a b/+c/1".into(), ids, all, created_ms: 1_735_689_600_000, nonce: 7 };
            assert_eq!(Wait::parse(&wait.id()), Some(wait.clone()), "{}", wait.id());
        }
        for id in ["t17", "wait/", "wait/any/x/1/2/a", "wait/some//1/2/a", "wait/any//1/a"] {
            assert_eq!(Wait::parse(id), None, "{id}");
        }
    }
}
