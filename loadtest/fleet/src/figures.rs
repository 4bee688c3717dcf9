//! Quantiles of measured times, and the memory of a process as the kernel counts it.

use std::time::Duration;

use anyhow::Context as _;

/// Measured times.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// `p50 1.2 ms, p99 3.4 ms, max 5.6 ms (of 100)`: the smallest time that so many of the measured ones do not exceed.
    pub fn line(&mut self) -> String {
        self.0.sort_unstable();
        let at = |share: usize| {
            let index = (self.0.len() * share).div_ceil(100).saturating_sub(1);
            millis(self.0.get(index).copied().unwrap_or_default())
        };
        format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms (of {})", at(50), at(99), at(100), self.0.len())
    }
}

/// Milliseconds, for reading.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Resident bytes of a process.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most resident bytes that a process ever had.
pub fn peak(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, field: &str) -> anyhow::Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("the kernel does not say")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().context("not a number")?;
    Ok(kibibytes * 1024)
}

/// Megabytes (10^6 bytes), for reading.
#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
