//! The scripted provider and the load generator over real sockets.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test helper that cannot go on fails the test")]

mod bill;
mod chat;
mod client;
mod command;
mod faults;
mod limits;
mod load;
mod replay;
mod stream;
