//! Motorpool: a farm of Claude Code workers behind a Redis job queue.

pub mod domain;
pub mod embedded;
pub mod error;
pub mod pool;
pub mod process;
pub mod settings;
mod store;
pub mod telemetry;

pub use domain::attempt::{Class, Ending, Failure, Outcome, Report};
pub use domain::ids::{Name, TaskId};
pub use domain::options::TaskOptions;
pub use domain::state::State;
pub use domain::task::{Record as TaskRecord, Run, Spec};
pub use error::{Error, ErrorKind, Result};
pub use pool::{Pool, PoolBuilder, PoolStatus};
pub use store::attempt::Progress;
pub use store::doctor::Findings;
pub use store::event::Chunk;
pub use store::fleet::Presence;
pub use store::listing::Filter;
pub use store::sweep::Swept;
