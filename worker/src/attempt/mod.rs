//! One attempt at a task: a pure machine and the thin shell that carries out what it says.
//!
//! Not here: who claims and finishes (the worker's loop), what becomes of the outcome (`motorpool::domain::attempt`).

pub mod drive;
pub mod exchange;
pub mod machine;
