//! What the repository holds itself to, and no compiler checks.
//!
//! Each test collects everything that is wrong and says it at once.

mod deploy;
mod docs;
mod files;
mod layers;
mod tree;
