//! What arrived at the provider: the last requests, whole, for tests to look at.
//!
//! The ring holds at most [`MAX_REQUESTS`] requests and [`MAX_BYTES`] of bodies; the oldest leave first. The count of
//! arrivals never forgets.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The most requests that are kept.
pub const MAX_REQUESTS: usize = 10_000;

/// The most body bytes that are kept.
pub const MAX_BYTES: usize = 256 << 20;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// All headers, credentials included.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The key it carried: bearer token, or `x-api-key`, `api-key`, `x-goog-api-key`; empty if none.
    pub credential: String,
    /// When its body had arrived.
    pub at: Instant,
}

impl SeenRequest {
    /// The body as JSON; `null` if it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header as text; `None` if absent or not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The last requests and the count of all.
#[derive(Debug, Default)]
pub(crate) struct SeenRing {
    kept: Mutex<Kept>,
    arrived: AtomicU64,
    arrival: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    requests: VecDeque<SeenRequest>,
    bytes: usize,
}

impl SeenRing {
    /// Counts an arrival; keeps it when the script records.
    pub(crate) fn arrived(&self, request: Option<SeenRequest>) {
        if let Some(request) = request {
            self.keep(request);
        }
        self.arrived.fetch_add(1, Ordering::Release);
        self.arrival.notify_waiters();
    }

    fn keep(&self, request: SeenRequest) {
        let mut kept = self.kept.lock();
        kept.bytes += request.body.len();
        kept.requests.push_back(request);
        while kept.requests.len() > MAX_REQUESTS || kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.requests.pop_front() else { break };
            kept.bytes -= oldest.body.len();
        }
    }

    pub(crate) fn all(&self) -> Vec<SeenRequest> {
        self.kept.lock().requests.iter().cloned().collect()
    }

    pub(crate) fn count(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    /// Returns when at least `wanted` requests have arrived since the start.
    pub(crate) async fn wait(&self, wanted: u64) {
        loop {
            let arrival = self.arrival.notified();
            tokio::pin!(arrival);
            arrival.as_mut().enable();
            if self.count() >= wanted {
                return;
            }
            arrival.await;
        }
    }
}
