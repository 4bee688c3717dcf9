//! One round of one contestant: capacity, latency at a fixed rate, streams, and a large prompt.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;

use super::contestant::Contestant;
use crate::load::prompt::Prompt;
use crate::load::{Limit, Measured, ProcessTree, closed, rate, stream};

pub(crate) const CONNECTIONS: usize = 64;
pub(crate) const RATE: u32 = 200;
const STREAMS: usize = 20;
const LARGE_CONNECTIONS: usize = 16;
const LARGE_BYTES: usize = 100_000;
pub(crate) const WARM_UP_CALLS: u64 = 500;

/// What one round measured. CPU is that of the contestant's processes; zero for direct.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// CPU time per buffered request, 64 connections.
    pub cpu_per_request: Duration,
    /// Buffered requests per second, 64 connections.
    pub requests_per_second: f64,
    /// Median latency at 200 requests per second.
    pub p50: Duration,
    /// 99th percentile of the same.
    pub p99: Duration,
    /// CPU time per stream of 100 tokens.
    pub cpu_per_stream: Duration,
    /// Median time to the first byte of a stream.
    pub first_byte: Duration,
    /// CPU time per request with a prompt of 100 KB.
    pub cpu_per_large: Duration,
    /// Resident bytes at the end of the round.
    pub resident_bytes: u64,
}

/// The requests of a comparison.
#[derive(Clone, Debug)]
pub struct Plan {
    small: Bytes,
    streamed: Bytes,
    large: Bytes,
    seconds: u64,
}

impl Plan {
    /// Requests for this model; every measurement takes so many seconds.
    #[must_use]
    pub fn new(model: &str, seconds: u64) -> Self {
        let prompt = Prompt { model: model.to_owned(), prompt_bytes: 100, max_tokens: 256, stream: false };
        Self {
            small: prompt.body(),
            streamed: Prompt { stream: true, ..prompt.clone() }.body(),
            large: Prompt { prompt_bytes: LARGE_BYTES, ..prompt }.body(),
            seconds,
        }
    }

    /// Opens connections and fills caches; proves that the contestant serves.
    ///
    /// # Errors
    /// A call failed.
    pub async fn warm_up(&self, contestant: &Contestant) -> anyhow::Result<()> {
        let limit = Limit { calls: WARM_UP_CALLS, ..Limit::seconds(self.seconds) };
        healthy(&closed::run(&contestant.target, &self.small, CONNECTIONS, limit).await?)
    }

    /// Measures everything once.
    ///
    /// # Errors
    /// A call failed, or the contestant's process is gone.
    pub async fn round(&self, contestant: &Contestant) -> anyhow::Result<Figures> {
        let (target, limit) = (&contestant.target, Limit::seconds(self.seconds));
        let processes = contestant.processes.as_ref();
        let (cpu, capacity) = spent(processes, closed::run(target, &self.small, CONNECTIONS, limit)).await?;
        healthy(&capacity)?;
        let paced = rate::run(target, &self.small, RATE, CONNECTIONS, limit).await?;
        healthy(&paced)?;
        let (stream_cpu, streams) = spent(processes, stream::run(target, &self.streamed, STREAMS, limit)).await?;
        ensure!(streams.failures == 0, "{} streams failed: {:?}", streams.failures, streams.first_failure);
        let (large_cpu, large) = spent(processes, closed::run(target, &self.large, LARGE_CONNECTIONS, limit)).await?;
        healthy(&large)?;
        Ok(Figures {
            cpu_per_request: per(cpu, capacity.calls),
            requests_per_second: capacity.per_second(),
            p50: paced.latency.quantile(0.5),
            p99: paced.latency.quantile(0.99),
            cpu_per_stream: per(stream_cpu, streams.streams),
            first_byte: streams.first_byte.quantile(0.5),
            cpu_per_large: per(large_cpu, large.calls),
            resident_bytes: processes.map_or(Ok(0), |tree| tree.resident_bytes())?,
        })
    }
}

/// Runs something and tells the CPU time that these processes spent meanwhile; zero without any.
pub(crate) async fn spent<T>(
    processes: Option<&ProcessTree>,
    run: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Duration, T)> {
    let Some(processes) = processes else { return Ok((Duration::ZERO, run.await?)) };
    let before = processes.cpu()?;
    let seen = run.await?;
    Ok((processes.cpu()?.since(&before), seen))
}

/// Every call was answered, and there was one.
fn healthy(seen: &Measured) -> anyhow::Result<()> {
    ensure!(seen.failures == 0, "{} calls failed; the first: {:?}", seen.failures, seen.first_failure);
    ensure!(seen.calls > 0, "no call was answered");
    Ok(())
}

/// The share of one call.
pub(crate) fn per(spent: Duration, calls: u64) -> Duration {
    u32::try_from(calls.max(1)).map_or(Duration::ZERO, |calls| spent / calls)
}
