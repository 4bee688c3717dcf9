//! What the runtime promises, proved on real sockets.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod accept;
mod mutual;
mod ops;
mod server;
mod signals;
mod stalled_readers;
mod telemetry;
mod tls;
