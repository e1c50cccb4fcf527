//! Motorpool: a farm of Claude Code workers behind a Redis job queue.
//!
//! A [`Pool`] is everything under one key prefix of a Redis. Whoever has work submits a [`Spec`] and gets a
//! [`TaskId`]; worker processes (`motorpool-worker`) claim tasks, run the Claude Code CLI on them, and write what
//! came of it into the task's [`TaskRecord`]. Redis holds the truth, and every process may be killed at any instant.
//!
//! ```no_run
//! # async fn example() -> motorpool::Result<()> {
//! use motorpool::{Pool, Spec, TaskOptions};
//!
//! let pool = Pool::connect("redis://127.0.0.1:6379").await?;
//! let options = TaskOptions { model: Some("haiku".to_owned()), ..TaskOptions::default() };
//! let task = pool.submit(Spec::new("What does this repository do?", options)?).await?;
//! let record = pool.wait(task.id, None).await?;
//! println!("{} cost ${:.4}", record.state, record.cost_microusd as f64 / 1e6);
//! println!("{}", record.output.unwrap_or_default());
//! # Ok(())
//! # }
//! ```
//!
//! The layers: [`domain`] holds types, tables and decisions and does no I/O; the store alone knows Redis; [`pool`]
//! has the verbs of callers and of workers; [`embedded`] keeps a private Redis for a project; [`settings`] is one
//! table for all programs.

pub mod domain;
pub mod embedded;
pub mod error;
pub mod names;
pub mod outbox;
pub mod pool;
pub mod process;
pub mod settings;
mod store;
pub mod telemetry;

pub use domain::attempt::{Class, Ending, Failure, Outcome, Report};
pub use domain::batch::FanOut;
pub use domain::chain::{Chain, ChainStep};
pub use domain::host::Scale;
pub use domain::ids::{GroupId, GroupKind, Id, Name, TaskId};
pub use domain::options::TaskOptions;
pub use domain::state::State;
pub use domain::task::{Record as TaskRecord, Run, Spec};
pub use error::{Error, ErrorKind, Result};
pub use pool::{Pool, PoolBuilder, PoolStatus};
pub use store::attempt::Progress;
pub use store::doctor::Findings;
pub use store::event::{Chunk, ChunkKind, Decided, Entry};
pub use store::fleet::Presence;
pub use store::host::{HostPresence, HostTold};
pub use store::listing::Filter;
pub use store::sweep::Swept;
