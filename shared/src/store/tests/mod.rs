//! The scripts against a real Redis: one file a script.
