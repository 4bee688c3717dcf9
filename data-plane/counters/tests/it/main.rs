//! The counter stores, seen from outside.
//!
//! * [`conformance`]: what every store does, as a list of checks; [`memory`] and [`redis`] run it
//! * [`cooldowns`]: the same for cooldowns
//! * [`differential`]: random operations on the in-process store and on the [`scripts`], which must answer alike
//! * [`property`]: random histories of nodes, networks and losses, judged by what must always hold
//! * [`mutants`]: whether those two would notice a mistake
//! * [`model`]: the protocol between store, nodes and ledger, in every order there is

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test says how much it looked at")]

mod conformance;
mod cooldowns;
mod differential;
mod log;
mod memory;
mod model;
mod mutants;
mod property;
mod random;
mod redis;
mod redis_server;
mod scripts;
