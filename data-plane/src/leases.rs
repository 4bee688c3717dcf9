//! The requests that run under a limit of concurrency: while they run, their leases in the counter store are renewed.
//!
//! A lease that nobody renews ends by itself, so a node that dies frees its keys within half a minute.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hashbrown::{HashMap, HashSet};
use keyforge_counters::{CounterStore, Counters, ReservationId};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::KeyId;
use parking_lot::Mutex;

/// How long a request counts as running without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often it is: two may fail.
const RENEW: Duration = Duration::from_secs(10);
/// Keys whose leases are renewed at the same time: ten thousand are not to take longer than a lease.
const KEYS: usize = 32;
/// Most leases in one call.
const MOST: usize = 500;

type Running = HashMap<KeyId, HashSet<ReservationId>>;

/// The requests that run under a limit of concurrency. Clones share it.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<Running>>);

/// One running request's place; leaves it when dropped.
pub struct Lease {
    leases: Leases,
    key: KeyId,
    id: ReservationId,
}

impl Leases {
    /// Renews what runs, until the process ends.
    #[must_use]
    pub fn start(counters: Arc<Counters>, shutdown: &Shutdown) -> Self {
        let leases = Self::default();
        let running = leases.clone();
        drop(shutdown.spawn_background("leases", async move {
            let mut due = tokio::time::interval(RENEW);
            due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                due.tick().await;
                running.renew(&counters).await;
            }
        }));
        leases
    }

    /// A request of `key` runs from here on, until the lease is dropped.
    #[must_use]
    pub fn enter(&self, key: KeyId, id: ReservationId) -> Lease {
        self.0.lock().entry(key).or_default().insert(id);
        Lease { leases: self.clone(), key, id }
    }

    /// How many run.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().values().map(HashSet::len).sum()
    }

    pub(crate) async fn renew(&self, counters: &Counters) {
        let running: Vec<(KeyId, Vec<ReservationId>)> =
            self.0.lock().iter().map(|(key, ids)| (*key, ids.iter().copied().collect())).collect();
        let renew = |(key, ids)| self.renew_key(counters, key, ids);
        stream::iter(running).for_each_concurrent(KEYS, renew).await;
    }

    async fn renew_key(&self, counters: &Counters, key: KeyId, ids: Vec<ReservationId>) {
        for some in ids.chunks(MOST) {
            // What ended meanwhile is not to run again.
            let some: Vec<_> = some.iter().copied().filter(|id| self.runs(key, *id)).collect();
            if let Err(error) = counters.renew(key, &some, LEASE).await {
                tracing::debug!(%key, %error, "leases were not renewed; they are in ten seconds, or end");
            }
        }
    }

    fn runs(&self, key: KeyId, id: ReservationId) -> bool {
        self.0.lock().get(&key).is_some_and(|ids| ids.contains(&id))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut running = self.leases.0.lock();
        if let Some(ids) = running.get_mut(&self.key) {
            ids.remove(&self.id);
            if ids.is_empty() {
                running.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keyforge_counters::{Concurrency, MemoryCounters, Rates, Reserve, Verdict};
    use keyforge_shared::clock::ManualClock;
    use keyforge_shared::id::RequestId;

    use super::*;
    use crate::fixture::{START, key_id};

    async fn is_admitted(counters: &Counters, number: u8) -> bool {
        let id = ReservationId { request: RequestId::from_bytes([number; 16]), attempt: 1 };
        let rates = Rates { concurrency: Some(Concurrency { limit: 1, lease: LEASE }), ..Rates::default() };
        let expires_after = Duration::from_secs(3_600);
        let ask = Reserve { id, key: key_id(1), epoch: 0, needs: &[], rates, expires_after, not_after: None };
        matches!(counters.reserve(ask).await.unwrap(), Verdict::Admitted(_))
    }

    #[tokio::test]
    async fn what_runs_keeps_its_place_and_what_ended_unheard_loses_it_by_time() {
        let clock = Arc::new(ManualClock::at(START));
        let counters = Counters::Memory(MemoryCounters::new(Arc::clone(&clock) as _));
        let leases = Leases::default();
        assert!(is_admitted(&counters, 1).await);
        let id = ReservationId { request: RequestId::from_bytes([1; 16]), attempt: 1 };
        let lease = leases.enter(key_id(1), id);
        for number in 2..8 {
            clock.advance(Duration::from_secs(20));
            leases.renew(&counters).await;
            assert!(!is_admitted(&counters, number).await, "it still runs");
        }
        drop(lease);
        assert_eq!(leases.count(), 0);
        clock.advance(Duration::from_secs(20));
        leases.renew(&counters).await;
        assert!(!is_admitted(&counters, 8).await, "nobody has said that it ended");
        clock.advance(Duration::from_secs(10));
        assert!(is_admitted(&counters, 9).await);
    }
}
