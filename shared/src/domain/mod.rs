//! The rules of the game: types, tables and decisions.
//!
//! Pure: nothing here does I/O, reads a clock or draws a random number; time and chance are arguments.
//! Not here: how a record is written (`store`), who calls (`pool`), how Claude is run (`worker`).

pub mod attempt;
pub mod batch;
pub mod chain;
pub mod choice;
pub mod definition;
pub mod event;
pub mod fleet;
pub mod group;
pub mod host;
pub mod ids;
pub mod lane;
pub mod limits;
pub mod merge;
pub mod options;
pub mod retry;
pub mod review;
pub mod route;
pub mod slot;
pub mod state;
pub mod task;
pub mod template;
pub mod waits;
