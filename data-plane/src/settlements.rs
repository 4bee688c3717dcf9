//! What the counter store is told after the fact: how attempts ended, what turned out to be cheaper, and which keys must stop.
//!
//! Nobody waits for it. A store in this process is told at once; any other by a few workers, out of a bounded queue, until it has taken it. What
//! falls out of a full queue is not lost: its hold expires by itself, charged in full, and the ledger learns the truth from the record. A key that
//! must stop is refused here from the first moment, and until the store has taken that over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hashbrown::HashSet;
use keyforge_counters::{CounterError, CounterStore, Counters, ReservationId, Settlement};
use keyforge_runtime::backoff::Backoff;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::KeyId;
use keyforge_shared::money::NanoUsd;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::metrics::Metrics;

/// Most messages that wait; about a hundred bytes each.
const MOST_WAITING: usize = 10_000;
/// Messages on their way at the same time.
const WORKERS: usize = 16;
/// Waits between two attempts at one message.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A message about one reservation.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Whose.
    pub key: KeyId,
    /// The epoch that it was made in; 0 without limits.
    pub epoch: u32,
    /// Which.
    pub id: ReservationId,
}

#[derive(Clone, Copy, Debug)]
enum News {
    /// It ended.
    Ended(Settlement),
    /// It cannot cost or take more than this.
    AtMost { bound: NanoUsd, tokens: Option<u64> },
}

struct Inner {
    counters: Arc<Counters>,
    metrics: Metrics,
    shutdown: Shutdown,
    waiting: Mutex<VecDeque<(About, News)>>,
    more: Notify,
    /// Keys that must stop and that the store may still let through.
    frozen: RwLock<HashSet<KeyId>>,
}

/// Tells the counter store. Clones share one queue.
#[derive(Clone)]
pub struct Settlements(Arc<Inner>);

impl Settlements {
    /// Starts the workers.
    #[must_use]
    pub fn start(counters: Arc<Counters>, metrics: Metrics, shutdown: &Shutdown) -> Self {
        let workers = if matches!(*counters, Counters::Memory(_)) { 0 } else { WORKERS };
        let settlements = Self(Arc::new(Inner {
            counters,
            metrics,
            shutdown: shutdown.clone(),
            waiting: Mutex::default(),
            more: Notify::new(),
            frozen: RwLock::default(),
        }));
        for _ in 0..workers {
            let worker = settlements.clone();
            // It outlives the drain: what runs until its end is settled after that.
            drop(shutdown.spawn_background("settlements", async move { worker.work().await }));
        }
        settlements
    }

    /// An attempt ended.
    pub fn settle(&self, about: About, settlement: Settlement) {
        self.tell(about, News::Ended(settlement));
    }

    /// Nothing was dispatched, or nobody knows whether the question arrived.
    pub fn cancel(&self, about: About) {
        self.tell(about, News::Ended(Settlement::CANCELLED));
    }

    /// An attempt that runs cannot cost more than `bound`, nor take more than `tokens` of the minute.
    pub fn shrink(&self, about: About, bound: NanoUsd, tokens: Option<u64>) {
        self.tell(about, News::AtMost { bound, tokens });
    }

    /// No request of the key is admitted from here on.
    pub fn freeze(&self, key: KeyId) {
        self.0.frozen.write().insert(key);
        let this = self.clone();
        super::request::carry_on::now_or_spawn(&self.0.shutdown, "freeze", async move { this.hand_over(key).await });
    }

    /// Whether the key must stop and the store may not know it yet.
    #[must_use]
    pub fn is_frozen(&self, key: KeyId) -> bool {
        self.0.frozen.read().contains(&key)
    }

    /// An operator looked at the key.
    pub fn unfreeze(&self, key: KeyId) {
        self.0.frozen.write().remove(&key);
        let this = self.clone();
        drop(self.0.shutdown.spawn_background("unfreeze", async move {
            let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
            while let Err(error) = this.0.counters.unfreeze(key).await {
                tracing::debug!(%key, %error, "the key could not be unfrozen yet");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }));
    }

    /// Messages that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting.lock().len()
    }

    async fn hand_over(&self, key: KeyId) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        while self.is_frozen(key) {
            match self.0.counters.freeze(key).await {
                Ok(()) => {
                    self.0.frozen.write().remove(&key);
                }
                Err(error) => {
                    tracing::warn!(%key, %error, "the counter store does not know yet that the key is frozen; this node does");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn tell(&self, about: About, news: News) {
        if matches!(*self.0.counters, Counters::Memory(_)) {
            // Its answers are there at once.
            let done = self.0.deliver(about, news).now_or_never();
            debug_assert!(matches!(done, Some(Ok(()))), "the store in this process answered {done:?}");
            return;
        }
        let dropped = {
            let mut waiting = self.0.waiting.lock();
            waiting.push_back((about, news));
            if waiting.len() > MOST_WAITING { waiting.pop_front() } else { None }
        };
        if dropped.is_some() {
            self.0.metrics.settlement_dropped();
        }
        self.0.more.notify_one();
    }

    async fn work(&self) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let next = self.0.waiting.lock().pop_front();
            let Some((about, news)) = next else {
                self.0.more.notified().await;
                continue;
            };
            while let Err(error) = self.0.deliver(about, news).await {
                tracing::debug!(request = %about.id.request, %error, "the counter store cannot be told yet");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            backoff.reset();
        }
    }
}

impl Inner {
    /// Tells the store once. Whatever it answers ends the matter: the record reaches the ledger in any case.
    async fn deliver(&self, About { key, epoch, id }: About, news: News) -> Result<(), CounterError> {
        let answer = match news {
            News::Ended(settlement) => {
                let settled = self.counters.settle(key, epoch, id, settlement).await;
                settled.map(|settled| tracing::trace!(request = %id.request, ?settled, "settled"))
            }
            News::AtMost { bound, tokens } => {
                let shrunk = self.counters.shrink(key, epoch, id, bound, tokens).await;
                shrunk.map(|shrunk| tracing::trace!(request = %id.request, shrunk, "shrunk"))
            }
        };
        match answer {
            Err(error @ CounterError::Unavailable(_)) => Err(error),
            Err(error) => {
                tracing::debug!(request = %id.request, %error, "the books have gone on");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use keyforge_counters::RedisCounters;
    use keyforge_counters::redis::RedisSettings;
    use keyforge_shared::id::RequestId;

    use super::*;
    use crate::fixture::key_id;

    #[tokio::test]
    async fn what_waits_for_a_store_that_is_away_is_bounded() {
        let settings = RedisSettings {
            urls: vec!["redis://127.0.0.1:1".to_owned()],
            cluster: false,
            username: None,
            password: None,
            timeout: Duration::from_millis(40),
        };
        let shutdown = Shutdown::new();
        let counters = Arc::new(Counters::Redis(RedisCounters::start(settings, &shutdown).await.unwrap()));
        let metrics = Metrics::new(&opentelemetry::global::meter("test"));
        let settlements = Settlements::start(counters, metrics, &shutdown);
        for number in 0..2 * MOST_WAITING as u128 {
            let id = ReservationId { request: RequestId::from_bytes(number.to_be_bytes()), attempt: 1 };
            settlements.cancel(About { key: key_id(1), epoch: 1, id });
        }
        assert_eq!(settlements.waiting(), MOST_WAITING);
        let first = settlements.0.waiting.lock()[0].0.id.request;
        assert_eq!(first, RequestId::from_bytes((MOST_WAITING as u128).to_be_bytes()), "the oldest went");
    }
}
