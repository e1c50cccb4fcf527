//! The harness of the end-to-end tests.

pub mod api;
pub mod clock;
pub mod faults;
pub mod fleet;
pub mod generated;
pub mod mcp;
pub mod project;
pub mod proxy;
pub mod report;
pub mod servers;
