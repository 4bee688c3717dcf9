//! A load generator that measures what one client sees and what processes spend.
//!
//! In reading order: [`target`] (where to send), [`prompt`] (what to send), [`connection`] (one kept-alive connection),
//! [`closed`] (as fast as answers come), [`rate`] (at fixed moments, late or not), [`stream`] (time to first byte and
//! chunk), [`histogram`] (latencies), [`cpu`] (CPU time and memory of processes). Every run ends: by count, by time, or
//! by the limit of one call.

pub mod closed;
pub mod connection;
pub mod cpu;
pub mod histogram;
pub mod prompt;
pub mod rate;
pub mod stream;
pub mod target;

pub use connection::Connection;
pub use cpu::ProcessTree;
pub use histogram::Histogram;
pub use target::Target;

use std::time::Duration;

/// The longest that one call may take; a longer one is a failure.
pub const CALL_LIMIT: Duration = Duration::from_secs(30);

/// When a run ends: the first of both.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// No call begins after this time.
    pub time: Duration,
    /// The most calls.
    pub calls: u64,
}

impl Limit {
    /// So many seconds, whatever the count.
    #[must_use]
    pub fn seconds(seconds: u64) -> Self {
        Self { time: Duration::from_secs(seconds), calls: u64::MAX }
    }
}

/// What a run of buffered calls saw.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Calls answered with 200 and a whole body.
    pub calls: u64,
    /// Calls that were not.
    pub failures: u64,
    /// What went wrong first.
    pub first_failure: Option<String>,
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// Nanoseconds from the call's start (its intended start, at a fixed rate) to its last byte; failures left out.
    pub latency: Histogram,
}

impl Measured {
    /// Counts one call.
    pub(crate) fn record(&mut self, outcome: anyhow::Result<()>, latency: Duration) {
        match outcome {
            Ok(()) => {
                self.calls += 1;
                self.latency.record(latency);
            }
            Err(cause) => {
                self.failures += 1;
                self.first_failure.get_or_insert_with(|| format!("{cause:#}"));
            }
        }
    }

    /// Adds what another connection of the same run saw.
    pub(crate) fn merge(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency.merge(&other.latency);
    }

    /// Calls per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}
