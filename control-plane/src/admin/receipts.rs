//! Receipts: how far a change of a key has come when the caller is told, as an entry of the administrators' chain.
//!
//! A change is committed before its receipt is begun, so that a receipt that cannot be had undoes nothing; asking again makes a new one. It counts
//! the nodes of this control plane, and where several share a database those of the others ([`super::inquiry`]). It is written to its end
//! although the caller may hang up.

use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::NodeId;
use serde_json::json;
use tokio::time::Instant;

use super::inquiry::Inquiry;
use super::{Admin, AdminError, Caller};
use crate::publish::progress::{Collection, Progress};
use crate::publish::responder::pause;
use crate::publish::session::Publisher;
use crate::registry::Registry;
use crate::store::Store;
use crate::store::keys::StoredKey;

/// How long a change without a receipt waits for nodes.
const HEARD_WITHIN: Duration = Duration::from_millis(250);
/// Most nodes that a receipt names, and most control planes.
const MOST_NAMED: usize = 100;
/// Of the nodes, most that its entry names, which has little room.
const MOST_RECORDED: usize = 10;
/// The same of the control planes, and the most characters of each name.
const MOST_PLANES_RECORDED: (usize, usize) = (4, 75);

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
    /// Whether that is so at the latest, and may be still to come.
    pub is_bound: bool,
    /// Nodes that have not acknowledged, up to a hundred.
    pub pending: Vec<NodeId>,
    /// Control planes whose nodes are not counted, up to a hundred: they have not answered, or are gone and left no word of their nodes.
    pub missing: Vec<String>,
}

/// Makes receipts. Clones share what they are made of.
#[derive(Clone)]
pub struct Receipts {
    admin: Admin,
    publisher: Publisher,
    shutdown: Shutdown,
    /// Since when the nodes of this control plane are known; `None` for ever.
    known_since: Option<u64>,
    /// The others that share the database, if any may.
    others: Option<(Store, Registry)>,
}

/// When a change was committed at the latest, by the clock that tells of nodes and the monotonic one.
#[derive(Clone, Copy)]
struct Committed {
    at: Timestamp,
    nanos: u64,
}

impl Receipts {
    /// Receipts for what `admin` changes and `publisher` tells the nodes. A new installation has no nodes but those that come.
    #[must_use]
    pub fn new(
        admin: Admin,
        publisher: Publisher,
        shutdown: Shutdown,
        is_new: bool,
        others: Option<(Store, Registry)>,
    ) -> Self {
        let known_since = (!is_new).then(|| publisher.clock.monotonic_nanos());
        Self { admin, publisher, shutdown, known_since, others }
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

    /// The receipt for the last change of `key`, which `caller` asked for when the monotonic clock was at `began`. Waits for the nodes, but no longer
    /// than `wait`.
    ///
    /// # Errors
    /// [`AdminError::NoReceipt`] when it cannot be recorded, or the others cannot be asked. The change stands.
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
        let bound = key.record.policy.max_staleness_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let committed = Committed { at: self.publisher.fleet.clock().now(), nanos: self.now() };
        let collecting = self.shutdown.spawn("receipt", async move {
            let receipt = this.collect(revision, bound, wait, (committed, began)).await?;
            let detail = detail(&receipt, method);
            this.admin.record(&caller, "keys/Receipt", id, AdminOutcome::Done, detail).await.map(|()| receipt)
        });
        let collected = collecting.await.unwrap_or(Err(AdminError::Interrupted));
        collected.map_err(|error| AdminError::NoReceipt { revision, why: Box::new(error) })
    }

    async fn collect(
        &self,
        revision: u64,
        own_bound: Option<Duration>,
        wait: Duration,
        (committed, began): (Committed, u64),
    ) -> Result<Receipt, AdminError> {
        let deadline = Instant::now() + wait;
        let mut bound = own_bound.unwrap_or(self.publisher.max_staleness);
        let mut collection = self.publisher.collect(revision, bound);
        let mut inquiry = None;
        if let Some((store, registry)) = &self.others {
            let clock: Arc<dyn Clock> = self.publisher.fleet.clock();
            let parts = (store.clone(), clock);
            let begun = Inquiry::begin(parts, registry, revision, own_bound, wait).await?;
            // Another one may let its nodes serve for longer.
            if begun.bound != bound {
                bound = begun.bound;
                collection = self.publisher.collect(revision, bound);
            }
            inquiry = Some(begun);
        }
        let progress = gather(&collection, inquiry.as_mut(), deadline).await?;
        drop(collection);
        let unknown = match &inquiry {
            Some(inquiry) => inquiry.unknown_until(committed.at),
            // Nodes may not have come back since this control plane was started.
            None => self.is_young(committed.nanos, bound).then_some(committed.at),
        };
        // Who has not heard of the change knew itself fresh before it for the last time, or when it was last assured.
        let (acked, pending) = (progress.acked_nodes(), progress.pending_nodes());
        let unheard = pending.iter().map(|(_, assured)| (*assured).min(committed.at));
        let clock = self.publisher.fleet.clock();
        let now = clock.now();
        let latest = unheard.chain(unknown).max();
        let missing: Vec<String> = inquiry.as_ref().map(Inquiry::missing).into_iter().flatten().collect();
        let receipt = Receipt {
            revision,
            acked: acked.len(),
            total: acked.len() + pending.len(),
            took: Duration::from_nanos(progress.last_ack_nanos.max(committed.nanos).saturating_sub(began)),
            streams_cut: progress.streams_cut,
            effective_by: clock.as_wall(latest.map_or(now, |assured| assured.saturating_add(bound).max(now))),
            is_bound: latest.is_some() || !missing.is_empty(),
            pending: pending.into_iter().map(|(node, _)| node).take(MOST_NAMED).collect(),
            missing: missing.into_iter().take(MOST_NAMED).collect(),
        };
        if let Some(inquiry) = inquiry {
            drop(self.shutdown.spawn("receipt question", inquiry.end()));
        }
        Ok(receipt)
    }

    /// Whether there can be nodes that have not come back since this control plane started.
    fn is_young(&self, now_nanos: u64, bound: Duration) -> bool {
        self.known_since.is_some_and(|since| now_nanos.saturating_sub(since) <= nanos(bound))
    }
}

/// How far all have come when there is nothing to wait for, or at the deadline.
async fn gather(
    collection: &Collection,
    mut inquiry: Option<&mut Inquiry>,
    deadline: Instant,
) -> Result<Progress, AdminError> {
    let began = Instant::now();
    loop {
        let (progress, is_answered) = match inquiry.as_deref_mut() {
            None => (collection.progress(), true),
            Some(inquiry) => {
                inquiry.look().await?;
                (inquiry.with(&collection.progress()), inquiry.is_answered())
            }
        };
        if (is_answered && progress.is_done()) || Instant::now() >= deadline {
            return Ok(progress);
        }
        tokio::select! {
            () = collection.done() => {}
            () = tokio::time::sleep(pause(began.elapsed())) => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn detail(receipt: &Receipt, method: &str) -> String {
    let pending: Vec<String> = receipt.pending.iter().take(MOST_RECORDED).map(ToString::to_string).collect();
    let (most, longest) = MOST_PLANES_RECORDED;
    let missing = receipt.missing.iter().take(most).map(|name| name.chars().take(longest).collect());
    let missing: Vec<String> = missing.collect();
    json!({
        "of": method,
        "revision": receipt.revision,
        "nodes_acked": receipt.acked,
        "nodes_total": receipt.total,
        "took_us": u64::try_from(receipt.took.as_micros()).unwrap_or(u64::MAX),
        "streams_cut": receipt.streams_cut,
        "effective_by_ms": receipt.effective_by.millis(),
        "is_bound": receipt.is_bound,
        "pending": pending,
        "control_planes_pending": missing,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::MAX_REASON;

    #[test]
    fn an_entry_has_room_for_the_longest_receipt() {
        let receipt = Receipt {
            revision: u64::MAX,
            acked: usize::MAX,
            total: usize::MAX,
            took: Duration::MAX,
            streams_cut: u64::MAX,
            effective_by: Timestamp::from_millis(1_800_000_000_000),
            is_bound: false,
            pending: vec![NodeId::from_bytes([0xff; 16]); MOST_NAMED],
            missing: vec!["x".repeat(200); MOST_NAMED],
        };
        let detail = detail(&receipt, "keys/Revoke");
        assert!(detail.chars().count() <= MAX_REASON, "{}", detail.len());
        let detail: serde_json::Value = serde_json::from_str(&detail).unwrap();
        assert_eq!((detail["pending"][9].is_string(), detail["control_planes_pending"][3].is_string()), (true, true));
    }
}
