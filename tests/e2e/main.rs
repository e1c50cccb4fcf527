//! End-to-end stories: the real CLI, a real Redis, the real programs; one story a test.

mod chain;
mod compose;
mod embedded;
mod failures;
mod fitness;
mod follow;
mod forms;
mod labels;
mod midway;
mod options;
mod place;
mod stop;
mod task;
mod waits;
mod whole;
