//! End to end: the real `keyforge` process, a real socket, and the scripted provider, whose own bill is the truth that charges are compared with.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]
#![expect(clippy::disallowed_methods, reason = "a test may read its environment and spawn")]

mod canary;
mod collector;
mod harness;
mod processes;

mod chat;
mod cluster;
mod corpus;
mod crash;
mod faults;
mod key_life;
mod limits;
mod nodes;
mod pools;
mod refusals;
mod revocation;
mod sdk;
mod secrets;
mod tampering;
mod telemetry;
mod translated;
mod translated_faults;
