//! What every KeyForge process needs, in the order in which a process meets it:
//!
//! - [`config`]: a TOML file becomes a checked shape, or all its problems are named; secrets enter by reference.
//! - [`private_file`]: files and directories that only their owner may read.
//! - [`backoff`]: how long to wait before trying again.
//! - [`shutdown`]: the one home of spawned tasks, and the two phases in which they end.
//! - [`tls`]: server and client configurations with one cryptography provider.
//! - [`accept`]: listens, and serves HTTP/1.1 and HTTP/2 within limits.
//! - [`telemetry`]: logs, traces and metrics. [`propagation`]: how a trace crosses us.
//! - [`readiness`]: whether the process may be sent work. [`ops`]: the port that says so.

pub mod accept;
pub mod backoff;
pub mod config;
pub mod ops;
pub mod private_file;
pub mod propagation;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
