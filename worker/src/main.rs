//! Motorpool: the worker.
fn main() {}
