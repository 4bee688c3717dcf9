//! Receipts: how far a change of a key has come when the caller is told, as an entry of the administrators' chain.
//!
//! A change is committed before its receipt is begun, so that a receipt that cannot be had undoes nothing; asking again makes a new one. It is
//! written to its end although the caller may hang up.

use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::NodeId;
use serde_json::json;

use super::{Admin, AdminError, Caller};
use crate::publish::session::Publisher;
use crate::store::keys::StoredKey;

/// How long a change without a receipt waits for nodes.
const HEARD_WITHIN: Duration = Duration::from_millis(250);
/// Most nodes that a receipt names.
const MOST_NAMED: usize = 100;
/// Of these, most that its entry names.
const MOST_RECORDED: usize = 10;

/// How far a change of a key has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The revision that the change led to.
    pub revision: u64,
    /// Nodes that have done it.
    pub acked: usize,
    /// Nodes that may be serving.
    pub total: usize,
    /// From the call to the last acknowledgement; without one, to the commit.
    pub took: Duration,
    /// Running streams that were ended.
    pub streams_cut: u64,
    /// From here on no node admits what the change forbids.
    pub effective_by: Timestamp,
    /// Nodes that have not acknowledged, up to a hundred.
    pub pending: Vec<NodeId>,
}

/// Makes receipts. Clones share what they are made of.
#[derive(Clone)]
pub struct Receipts {
    admin: Admin,
    publisher: Publisher,
    shutdown: Shutdown,
    /// Since when the nodes of this installation are known; `None` for ever.
    known_since: Option<u64>,
}

impl Receipts {
    /// Receipts for what `admin` changes and `publisher` tells the nodes. A new installation has no nodes but those that come.
    #[must_use]
    pub fn new(admin: Admin, publisher: Publisher, shutdown: Shutdown, is_new: bool) -> Self {
        let known_since = (!is_new).then(|| publisher.clock.monotonic_nanos());
        Self { admin, publisher, shutdown, known_since }
    }

    /// The monotonic clock, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.publisher.clock.monotonic_nanos()
    }

    /// Waits until the connected nodes have applied `revision`, but not for long: the next request of whoever changed a key should find it changed.
    pub async fn heard(&self, revision: u64) {
        self.publisher.fleet.applied_everywhere(revision, HEARD_WITHIN).await;
    }

    /// Whether there can be nodes that this control plane does not know of: another one's, or some that have not come back since it started.
    fn may_be_unknown(&self, now_nanos: u64, bound: Duration) -> bool {
        let is_young = self.known_since.is_some_and(|since| now_nanos.saturating_sub(since) <= nanos(bound));
        is_young || self.publisher.horizon.is_shared()
    }

    /// The receipt for the last change of `key`, which `caller` asked for when the monotonic clock was at `began`. Waits for the nodes, but no longer
    /// than `wait`.
    ///
    /// # Errors
    /// [`AdminError`] when it cannot be recorded. The change stands.
    pub async fn of(
        &self,
        caller: Caller,
        method: &'static str,
        key: &StoredKey,
        wait: Duration,
        began: u64,
    ) -> Result<Receipt, AdminError> {
        let this = self.clone();
        let (id, revision) = (key.record.id, key.revision);
        let own = key.record.policy.max_staleness_seconds;
        let bound = own.map_or(self.publisher.max_staleness, |seconds| Duration::from_secs(seconds.into()));
        let committed = (self.publisher.clock.now(), self.now());
        let collecting = self.shutdown.spawn("receipt", async move {
            let progress = this.publisher.fleet.collect(revision, bound).wait(wait).await;
            // Who has not heard of the change knew itself fresh before it for the last time, or when it was last assured.
            let unheard = progress.pending.iter().map(|(_, assured)| (*assured).min(committed.0));
            // Somebody whom this control plane does not know may have been assured until the commit.
            let unknown = this.may_be_unknown(committed.1, bound).then_some(committed.0);
            let latest = unheard.chain(unknown).max();
            let receipt = Receipt {
                revision,
                acked: progress.acked,
                total: progress.total,
                took: Duration::from_nanos(progress.last_ack_nanos.max(committed.1).saturating_sub(began)),
                streams_cut: progress.streams_cut,
                effective_by: latest.map_or(this.publisher.clock.now(), |assured| assured.saturating_add(bound)),
                pending: progress.pending.into_iter().map(|(node, _)| node).take(MOST_NAMED).collect(),
            };
            let detail = detail(&receipt, method);
            this.admin.record(&caller, "keys/Receipt", id, AdminOutcome::Done, detail).await.map(|()| receipt)
        });
        collecting.await.map_err(|_| AdminError::Interrupted)?
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn detail(receipt: &Receipt, method: &str) -> String {
    let pending: Vec<String> = receipt.pending.iter().take(MOST_RECORDED).map(ToString::to_string).collect();
    json!({
        "of": method,
        "revision": receipt.revision,
        "nodes_acked": receipt.acked,
        "nodes_total": receipt.total,
        "took_us": u64::try_from(receipt.took.as_micros()).unwrap_or(u64::MAX),
        "streams_cut": receipt.streams_cut,
        "effective_by_ms": receipt.effective_by.millis(),
        "pending": pending,
    })
    .to_string()
}
