//! One round of one node: capacity with 64 connections, and latency at a fixed rate.
//!
//! A node reserves while the request waits and settles afterwards, so what a request costs is counted until Redis has
//! heard of the end of the last one.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::node::Node;
use super::redis::Scripts;
use crate::compare::round::{CONNECTIONS, RATE, WARM_UP_CALLS, per, spent};
use crate::load::prompt::Prompt;
use crate::load::{Connection, Limit, Measured, closed, rate};

/// How long a node may take to hear of a new key and to be granted its first slices.
const SERVED_LIMIT: Duration = Duration::from_secs(15);

/// Time between two tries.
const POLL: Duration = Duration::from_millis(20);

/// How long a node may take to tell Redis how requests ended, after the last of them.
const SETTLED_LIMIT: Duration = Duration::from_secs(20);

/// Time between two looks at whether it still does.
const LULL: Duration = Duration::from_millis(200);

/// Scripts in a lull that are the node's own business.
const LULL_SCRIPTS: u64 = 20;

/// The largest share of calls that may be refused: a node refuses for a moment when Redis answers too late.
const MOST_REFUSED: f64 = 0.05;

/// What one round measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Requests per second, 64 connections.
    pub requests_per_second: f64,
    /// Share of the calls that were refused, 0 to 1, in the worse measurement.
    pub refused: f64,
    /// CPU time of the node per request, 64 connections.
    pub node_cpu: Duration,
    /// Median latency at 200 requests per second.
    pub p50: Duration,
    /// 99th percentile of the same.
    pub p99: Duration,
    /// What Redis did meanwhile, 64 connections; zero for counters in memory.
    pub redis: RedisFigures,
}

/// What the requests of one measurement cost a Redis server.
#[derive(Clone, Copy, Debug, Default)]
pub struct RedisFigures {
    /// CPU time of the whole process per request.
    pub cpu: Duration,
    /// Scripts per request.
    pub scripts: f64,
    /// CPU time of the whole process per script.
    pub cpu_per_script: Duration,
    /// Time inside of one script by the clock, as the server tells it; on a core that others use too it is more than CPU time.
    pub inside_script: Duration,
}

/// The requests of a measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    body: Bytes,
    seconds: u64,
}

impl Plan {
    /// Requests for this model; every measurement takes so many seconds.
    #[must_use]
    pub fn new(model: &str, seconds: u64) -> Self {
        let prompt = Prompt { model: model.to_owned(), prompt_bytes: 100, max_tokens: 256, stream: false };
        Self { body: prompt.body(), seconds }
    }

    /// Waits until the node serves its key, opens connections and fills caches.
    ///
    /// # Errors
    /// The key is not served in time, or the load cannot be sent.
    pub async fn warm_up(&self, node: &Node) -> anyhow::Result<()> {
        let (start, mut connection) = (Instant::now(), Connection::new(&node.target)?);
        while let Err(refused) = connection.call(self.body.clone()).await {
            ensure!(start.elapsed() < SERVED_LIMIT, "its key is not served: {refused:#}");
            sleep(POLL).await;
        }
        let limit = Limit { calls: WARM_UP_CALLS, ..Limit::seconds(self.seconds) };
        closed::run(&node.target, &self.body, CONNECTIONS, limit).await.map(drop)
    }

    /// Measures both once.
    ///
    /// # Errors
    /// More than a few calls failed, or a process is gone.
    pub async fn round(&self, node: &Node) -> anyhow::Result<Figures> {
        let (target, limit) = (&node.target, Limit::seconds(self.seconds));
        let before = scripts(node).await?;
        let redis = node.redis.as_ref().map(|redis| &redis.process);
        let run = spent(redis, async {
            let capacity = closed::run(target, &self.body, CONNECTIONS, limit).await?;
            Ok((capacity, settled(node).await?))
        });
        let (node_cpu, (redis_cpu, (capacity, after))) = spent(Some(&node.process), run).await?;
        let scripts = after.since(&before);
        let paced = rate::run(target, &self.body, RATE, CONNECTIONS, limit).await?;
        let refused = refused(&[&capacity, &paced])?;
        Ok(Figures {
            requests_per_second: capacity.per_second(),
            refused,
            node_cpu: per(node_cpu, capacity.calls),
            p50: paced.latency.quantile(0.5),
            p99: paced.latency.quantile(0.99),
            redis: RedisFigures {
                cpu: per(redis_cpu, capacity.calls),
                scripts: scripts.calls as f64 / capacity.calls as f64,
                cpu_per_script: per(redis_cpu, scripts.calls),
                inside_script: per(scripts.time, scripts.calls),
            },
        })
    }
}

/// The share of calls that failed, in the run where it is largest.
fn refused(runs: &[&Measured]) -> anyhow::Result<f64> {
    let mut largest = 0.0_f64;
    for run in runs {
        let share = run.failures as f64 / (run.calls + run.failures).max(1) as f64;
        let first = run.first_failure.as_deref().unwrap_or_default();
        ensure!(
            run.calls > 0 && share <= MOST_REFUSED,
            "{} of {} calls failed; the first: {first}",
            run.failures,
            run.calls + run.failures
        );
        largest = largest.max(share);
    }
    Ok(largest)
}

/// Waits until a node has told Redis how its requests ended, which nobody else waits for, and gives all scripts until then.
async fn settled(node: &Node) -> anyhow::Result<Scripts> {
    let (start, mut seen) = (Instant::now(), scripts(node).await?);
    loop {
        sleep(LULL).await;
        let now = scripts(node).await?;
        if now.since(&seen).calls < LULL_SCRIPTS {
            return Ok(now);
        }
        ensure!(start.elapsed() < SETTLED_LIMIT, "scripts still run {SETTLED_LIMIT:?} after the last request");
        seen = now;
    }
}

async fn scripts(node: &Node) -> anyhow::Result<Scripts> {
    match &node.redis {
        Some(redis) => redis.scripts().await,
        None => Ok(Scripts::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_are_a_figure_and_more_are_a_failure() {
        let run = |calls, failures| Measured { calls, failures, ..Measured::default() };
        let share = refused(&[&run(1000, 0), &run(995, 5)]).unwrap();
        assert!((share - 0.005).abs() < 1e-9, "{share}");
        for bad in [run(94, 6), run(0, 0)] {
            assert!(refused(&[&run(1000, 0), &bad]).is_err(), "{bad:?}");
        }
    }
}
