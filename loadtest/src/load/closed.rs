//! Closed loop: every connection sends its next request when the last answer is whole. Measures capacity.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::{Connection, Limit, Measured, Target};

/// Pause of a connection after a failure, so that a target that is down is not flooded.
const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// Sends `body` over and over on so many connections.
///
/// # Errors
/// The key cannot be sent, or a task was lost. Failed calls are counted, not returned.
pub async fn run(target: &Target, body: &Bytes, connections: usize, limit: Limit) -> anyhow::Result<Measured> {
    let calls_left = Arc::new(AtomicU64::new(limit.calls));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let connection = Connection::new(target)?;
        tasks.spawn(repeat(connection, body.clone(), start, limit.time, Arc::clone(&calls_left)));
    }
    let mut measured = Measured::default();
    while let Some(done) = tasks.join_next().await {
        measured.merge(done.context("a connection's task was lost")?);
    }
    Ok(measured)
}

async fn repeat(
    mut connection: Connection,
    body: Bytes,
    start: Instant,
    time: Duration,
    calls_left: Arc<AtomicU64>,
) -> Measured {
    let mut measured = Measured::default();
    while start.elapsed() < time && take_one(&calls_left) {
        let began = Instant::now();
        let outcome = connection.call(body.clone()).await;
        let failed = outcome.is_err();
        measured.record(outcome, began.elapsed());
        if failed {
            sleep(FAILURE_PAUSE).await;
        }
    }
    measured.elapsed = start.elapsed();
    measured
}

/// Takes one call from what is left.
pub(crate) fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}
