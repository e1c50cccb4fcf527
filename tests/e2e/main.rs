//! End-to-end stories: the real CLI, a real Redis, the real programs; one story a test.

mod embedded;
mod task;
