//! Faults: workers, hosts and Redis are killed, frozen and restarted in the middle of things.
//!
//! Every story ends with the invariants on the pool and without a process left.

mod crowd;
mod disk;
mod host;
mod idle;
mod kill;
mod outbox;
mod redis;
mod scale;
mod slots;
