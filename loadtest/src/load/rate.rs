//! Fixed rate: calls are due at fixed moments whether or not earlier ones were answered, and latency counts from the
//! moment a call was due. A target that stalls is charged for every call that had to wait (no coordinated omission).
//!
//! Moments are kept by a thread of its own, because timers of the async runtime are a millisecond coarse.

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::{Connection, Limit, Measured, Target};

/// Calls that may be due and not yet sent; more are failures.
const MAX_WAITING: usize = 16_384;

/// Sends `body` so many times per second over at most `connections` connections.
///
/// # Errors
/// The key cannot be sent, or a task was lost. Failed calls are counted, not returned.
pub async fn run(
    target: &Target,
    body: &Bytes,
    per_second: u32,
    connections: usize,
    limit: Limit,
) -> anyhow::Result<Measured> {
    let (due, mut dues) = mpsc::channel(MAX_WAITING);
    let start = Instant::now();
    let pacer = tokio::task::spawn_blocking(move || pace(&due, start, per_second, limit));
    let mut idle = (0..connections).map(|_| Connection::new(target)).collect::<anyhow::Result<Vec<_>>>()?;
    let (mut busy, mut measured, mut open) = (JoinSet::new(), Measured::default(), true);
    while open || !busy.is_empty() {
        tokio::select! {
            moment = dues.recv(), if open && !idle.is_empty() => match (moment, idle.pop()) {
                (Some(moment), Some(connection)) => drop(busy.spawn(one(connection, body.clone(), moment))),
                _ => open = false,
            },
            Some(done) = busy.join_next() => {
                let (connection, outcome, latency) = done.context("a call's task was lost")?;
                measured.record(outcome, latency);
                idle.push(connection);
            }
        }
    }
    let missed = pacer.await.context("the pacer was lost")?;
    measured.elapsed = start.elapsed();
    if missed > 0 {
        measured.failures += missed;
        measured.first_failure.get_or_insert_with(|| format!("{missed} calls were due while too many waited"));
    }
    Ok(measured)
}

async fn one(mut connection: Connection, body: Bytes, due: Instant) -> (Connection, anyhow::Result<()>, Duration) {
    let outcome = connection.call(body).await;
    (connection, outcome, due.elapsed())
}

/// Announces each call at its moment; returns how many could not be announced.
fn pace(due: &mpsc::Sender<Instant>, start: Instant, per_second: u32, limit: Limit) -> u64 {
    let gap = Duration::from_secs(1) / per_second.max(1);
    let mut missed = 0;
    let mut moment = start;
    for _ in 0..limit.calls {
        if moment.duration_since(start) >= limit.time || due.is_closed() {
            break;
        }
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
        missed += u64::from(due.try_send(moment).is_err());
        moment += gap;
    }
    missed
}
