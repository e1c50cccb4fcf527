//! News: what a coordinator wants to hear of and was not told, kept until an answer with it has arrived.
//!
//! Offered when an answer names it, told when that answer is known to have arrived. Not here: when an answer has
//! (the face that gave it).

use super::Pool;
use super::group::Known;
use crate::domain::ids::Id;
use crate::domain::task::Record;
use crate::error::Result;
use crate::store::news;

/// A task, chain or batch that is over or up for review.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// What it is about, as it stands.
    pub what: Known,
    /// Its mark.
    pub mark: NewsMark,
    /// An answer named it before, and nobody knows whether that answer arrived.
    pub again: bool,
}

/// What names a piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewsMark {
    /// What it is about.
    pub id: Id,
    /// The number of the news.
    pub number: u64,
}

/// What a coordinator is to be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unseen {
    /// The oldest of it, in order.
    pub news: Vec<News>,
    /// How much there is in all.
    pub total: u64,
}

impl NewsMark {
    /// The mark of a record's news, where there is any.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        Some(Self { id: record.id.into(), number: record.news? })
    }
}

impl News {
    /// The mark of anything's news, where there is any.
    #[must_use]
    pub fn mark_of(what: &Known) -> Option<NewsMark> {
        match what {
            Known::Task(record) => NewsMark::of(record),
            Known::Group(view) => Some(NewsMark { id: view.group.id.into(), number: view.group.news? }),
        }
    }
}

fn pairs(marks: &[NewsMark]) -> Vec<news::Mark> {
    marks.iter().map(|mark| (mark.id, mark.number)).collect()
}

impl Pool {
    /// The oldest `count` pieces of news that a coordinator was not told.
    pub async fn unseen(&self, coordinator: &str, count: usize) -> Result<Unseen> {
        let (marks, total) = self.patiently(move || self.store().unseen(coordinator, count)).await?;
        Ok(Unseen { news: self.news(marks).await?, total })
    }

    /// Which of these a coordinator is still to be told of.
    pub async fn unseen_among(&self, coordinator: &str, ids: &[Id]) -> Result<Vec<NewsMark>> {
        let marks = self.patiently(move || self.store().unseen_among(coordinator, ids)).await?;
        Ok(marks.into_iter().map(|(id, number)| NewsMark { id, number }).collect())
    }

    /// The last `count` pieces of news that a coordinator was told, oldest first.
    pub async fn told(&self, coordinator: &str, count: usize) -> Result<Vec<News>> {
        let marks = self.patiently(move || self.store().told(coordinator, count)).await?;
        self.news(marks).await
    }

    /// Notes that an answer names these.
    pub async fn offer(&self, coordinator: &str, marks: &[NewsMark]) -> Result<()> {
        if marks.is_empty() {
            return Ok(());
        }
        news::marked_count(&self.ask(&news::offer(coordinator, &pairs(marks))).await?).map(drop)
    }

    /// Notes that an answer with these arrived; what changed since stays to be told.
    pub async fn confirm(&self, coordinator: &str, marks: &[NewsMark]) -> Result<()> {
        for page in marks.chunks(500) {
            news::marked_count(&self.ask(&news::confirm(coordinator, &pairs(page))).await?)?;
        }
        Ok(())
    }

    async fn news(&self, marks: Vec<news::Mark>) -> Result<Vec<News>> {
        let mut news = Vec::new();
        for (id, number) in marks {
            // One whose time was up in between is gone.
            let (what, offered) = match id {
                Id::Task(id) => {
                    let Some(record) = self.patiently(move || self.store().task(id)).await? else { continue };
                    let offered = record.offered;
                    (Known::Task(Box::new(record)), offered)
                }
                Id::Group(id) => {
                    let Some(group) = self.patiently(move || self.store().group(id)).await? else { continue };
                    let offered = group.offered;
                    (Known::Group(Box::new(self.view_of(group).await?)), offered)
                }
            };
            let again = offered == Some(number);
            news.push(News { what, mark: NewsMark { id, number }, again });
        }
        Ok(news)
    }
}
