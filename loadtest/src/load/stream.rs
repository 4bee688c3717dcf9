//! Streams: when the first byte and the first content come, when the last, and in how many chunks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use memchr::memmem;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::closed::take_one;
use super::{Connection, Histogram, Limit, Target};

/// Pause of a connection after a failure, so that a target that is down is not flooded.
const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// Time between the first streams of two connections, so that paced streams do not run in step.
const STAGGER: Duration = Duration::from_millis(7);

/// What a run of streams saw. Latencies are nanoseconds from the start of the call.
#[derive(Clone, Debug, Default)]
pub struct MeasuredStreams {
    /// Streams that came to `[DONE]`.
    pub streams: u64,
    /// Streams that did not.
    pub failures: u64,
    /// What went wrong first.
    pub first_failure: Option<String>,
    /// From the first call to the last `[DONE]`.
    pub elapsed: Duration,
    /// Events of all streams.
    pub events: u64,
    /// To the first byte of the body.
    pub first_byte: Histogram,
    /// To the first event with content.
    pub first_content: Histogram,
    /// To the last byte.
    pub total: Histogram,
}

/// One stream.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    events: u64,
    first_byte: Duration,
    first_content: Option<Duration>,
    done: bool,
}

/// Runs streams one after another on so many connections. `body` must ask for a stream.
///
/// # Errors
/// The key cannot be sent, or a task was lost. Failed streams are counted, not returned.
pub async fn run(target: &Target, body: &Bytes, connections: usize, limit: Limit) -> anyhow::Result<MeasuredStreams> {
    let left = Arc::new(AtomicU64::new(limit.calls));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    let lanes = u32::try_from(connections.max(1)).context("too many connections")?;
    let stagger = STAGGER.min(limit.time / 2 / lanes);
    for lane in 0..lanes {
        let (connection, body, left) = (Connection::new(target)?, body.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            sleep(stagger * lane).await;
            repeat(connection, body, start, limit.time, left).await
        });
    }
    let mut measured = MeasuredStreams::default();
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
    left: Arc<AtomicU64>,
) -> MeasuredStreams {
    let mut measured = MeasuredStreams::default();
    while start.elapsed() < time && take_one(&left) {
        let began = Instant::now();
        let outcome = connection.bounded(body.clone(), async |response| read(response.into_body(), began).await).await;
        let failed = outcome.is_err();
        measured.record(outcome, began.elapsed());
        if failed {
            sleep(FAILURE_PAUSE).await;
        }
    }
    measured.elapsed = start.elapsed();
    measured
}

/// Events may be cut anywhere by the transfer, so the end of the last chunk is kept before the next.
async fn read(mut body: hyper::body::Incoming, began: Instant) -> anyhow::Result<Seen> {
    const CONTENT: &[u8] = b"\"content\":\"";
    let mut seen = Seen::default();
    let mut line: Vec<u8> = Vec::with_capacity(512);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the stream broke off")?.into_data() else { continue };
        if seen.first_byte.is_zero() {
            seen.first_byte = began.elapsed();
        }
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if !line.ends_with(b"\n") {
                continue;
            }
            if line.starts_with(b"data:") {
                seen.events += 1;
                seen.done |= line.starts_with(b"data: [DONE]");
            }
            if seen.first_content.is_none() {
                let text = memmem::find(&line, CONTENT).and_then(|at| line.get(at + CONTENT.len()));
                seen.first_content = text.filter(|first| **first != b'"').map(|_| began.elapsed());
            }
            line.clear();
        }
    }
    ensure!(seen.done, "the stream ended without [DONE] after {} events", seen.events);
    Ok(seen)
}

impl MeasuredStreams {
    fn record(&mut self, outcome: anyhow::Result<Seen>, total: Duration) {
        match outcome {
            Ok(seen) => {
                self.streams += 1;
                self.events += seen.events;
                self.first_byte.record(seen.first_byte);
                self.first_content.record(seen.first_content.unwrap_or(total));
                self.total.record(total);
            }
            Err(cause) => {
                self.failures += 1;
                self.first_failure.get_or_insert_with(|| format!("{cause:#}"));
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.streams += other.streams;
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.events += other.events;
        self.first_byte.merge(&other.first_byte);
        self.first_content.merge(&other.first_content);
        self.total.merge(&other.total);
    }
}
