//! Faults: workers, hosts and Redis are killed, frozen and restarted in the middle of things.
//!
//! Every story ends with the invariants on the pool and without a process left.

mod answers;
mod crowd;
mod disk;
mod half_open;
mod host;
mod idle;
mod kill;
mod outbox;
mod recovery;
mod redis;
mod scale;
mod slots;
mod two_machines;
