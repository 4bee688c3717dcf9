//! The `keyforge` command as its users meet it: the real binary, its exit codes and its words, against a `keyforge dev` of its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod command;
mod dev;
mod drain;
mod import;
mod operators;
mod planes;
mod refusals;
mod vault;
