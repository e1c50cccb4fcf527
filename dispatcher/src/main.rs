//! Motorpool: the dispatcher.
fn main() {}
