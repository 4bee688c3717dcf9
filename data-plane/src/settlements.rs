//! What the counter store is told after the fact: how attempts ended, what turned out to be cheaper, and which keys must stop.
//!
//! Nobody waits for it. A store in this process is told at once; any other by a few workers, out of a bounded `queue`, until it has taken it. What
//! falls out of a full queue is not lost: its hold expires by itself, charged in full, and the ledger learns the truth from the record. What waits
//! when the process dies is told by the node's next life, which finds on disk what each message keeps there until it was told. A key that
//! must stop is refused here from the first moment, and until the store has taken that over.

mod queue;
mod stops;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use hashbrown::HashSet;
use keyforge_counters::{CounterError, CounterStore, Counters, Freeze, ReservationId, Settlement};
use keyforge_runtime::backoff::Backoff;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::KeyId;
use keyforge_shared::money::NanoUsd;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::queue::{Next, Queue};
use self::stops::{Stops, Wish};
use crate::audit::{Asked, Marks};
use crate::metrics::Metrics;

/// Most messages that wait; about a hundred bytes each.
const MOST_WAITING: usize = 10_000;
/// Messages on their way at the same time.
const WORKERS: usize = 128;
/// Waits between two attempts at a key that must stop, or may go on.
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

/// What is on disk about an attempt that ended, until the store knows of its end.
pub enum Kept {
    /// Nothing.
    Nothing,
    /// A record with this number.
    Record(u64),
    /// The question that it began with.
    Question(Asked),
}

enum News {
    /// It ended.
    Ended(Settlement, Kept),
    /// It cannot cost or take more than this.
    AtMost { bound: NanoUsd, tokens: Option<u64> },
}

struct Inner {
    counters: Arc<Counters>,
    metrics: Metrics,
    shutdown: Shutdown,
    waiting: Mutex<Queue<(About, News)>>,
    more: Notify,
    /// Everything was told.
    done: Notify,
    /// Where records are marked as told.
    marks: OnceLock<Marks>,
    /// Keys that must stop and that the store may still let through.
    frozen: RwLock<HashSet<KeyId>>,
    /// What the store is to be told of keys that operators stopped, or let go on.
    stops: Stops,
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
            waiting: Mutex::new(Queue::new(MOST_WAITING)),
            more: Notify::new(),
            done: Notify::new(),
            marks: OnceLock::new(),
            frozen: RwLock::default(),
            stops: Stops::default(),
        }));
        let teller = settlements.clone();
        drop(shutdown.spawn_background("stops", async move { teller.0.stops.work(&teller.0.counters).await }));
        for _ in 0..workers {
            let worker = settlements.clone();
            // It outlives the drain: what runs until its end is settled after that.
            drop(shutdown.spawn_background("settlements", async move { worker.work().await }));
        }
        settlements
    }

    /// Whether the store knows of every end before anyone else does.
    #[must_use]
    pub fn are_told_at_once(&self) -> bool {
        matches!(*self.0.counters, Counters::Memory(_))
    }

    /// From here on, what the store was told is marked there.
    pub fn mark_in(&self, marks: Marks) {
        drop(self.0.marks.set(marks));
    }

    /// An attempt ended.
    pub fn settle(&self, about: About, settlement: Settlement, kept: Kept) {
        self.tell(about, News::Ended(settlement, kept));
    }

    /// Nothing was dispatched, or nobody knows whether the question arrived.
    pub fn cancel(&self, about: About, kept: Kept) {
        self.tell(about, News::Ended(Settlement::CANCELLED, kept));
    }

    /// An attempt that runs cannot cost more than `bound`, nor take more than `tokens` of the minute.
    pub fn shrink(&self, about: About, bound: NanoUsd, tokens: Option<u64>) {
        self.tell(about, News::AtMost { bound, tokens });
    }

    /// No request of the key is admitted from here on, until its state of a revision after `revision` says that it works.
    pub fn freeze(&self, key: KeyId, revision: u64) {
        self.0.frozen.write().insert(key);
        let this = self.clone();
        let handing = async move { this.hand_over(key, revision).await };
        super::request::carry_on::now_or_spawn(&self.0.shutdown, "freeze", handing);
    }

    /// The state says since `revision` that the key does not work: whoever shares the store and cannot hear of it is refused there.
    pub fn stop(&self, key: KeyId, revision: u64) {
        // Nobody shares a store in this process.
        if !self.are_told_at_once() {
            self.0.stops.wish(key, Wish { revision, stopped: true });
        }
    }

    /// Whether the key must stop and the store may not know it yet.
    #[must_use]
    pub fn is_frozen(&self, key: KeyId) -> bool {
        self.0.frozen.read().contains(&key)
    }

    /// The state says since `revision` that the key works.
    pub fn unfreeze(&self, key: KeyId, revision: u64) {
        self.0.frozen.write().remove(&key);
        if self.are_told_at_once() {
            let done = self.0.counters.unfreeze(key, revision).now_or_never();
            debug_assert!(matches!(done, Some(Ok(_))), "the store in this process answered {done:?}");
        } else {
            self.0.stops.wish(key, Wish { revision, stopped: false });
        }
    }

    /// Lifts a freeze that the store still holds although the state says since `revision` that the key works: the word that lifts it was lost, or
    /// overtaken. Answers whether there was one.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    pub async fn thaw(&self, key: KeyId, revision: u64) -> Result<bool, CounterError> {
        if self.is_frozen(key) {
            return Ok(false);
        }
        self.0.counters.unfreeze(key, revision).await
    }

    /// Messages that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting.lock().len()
    }

    /// Waits until the store was told everything, which it never is while it stays away.
    pub async fn all_told(&self) {
        loop {
            // Made before the look, so that it misses nothing that happens after it.
            let done = self.0.done.notified();
            if self.0.waiting.lock().is_done() {
                return;
            }
            done.await;
        }
    }

    async fn hand_over(&self, key: KeyId, revision: u64) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        while self.is_frozen(key) {
            match self.0.counters.freeze(key, Freeze { revision, lasting: true }).await {
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
            let done = self.0.deliver(about, &news).now_or_never();
            debug_assert!(matches!(done, Some(Ok(()))), "the store in this process answered {done:?}");
            return;
        }
        let fallen_out = self.0.waiting.lock().push((about, news));
        self.0.note(fallen_out);
        self.0.more.notify_one();
    }

    async fn work(&self) {
        loop {
            let next = self.0.next();
            match next {
                Next::Tell((about, news)) => self.0.attempt(about, news).await,
                Next::WaitUntil(moment) => drop(tokio::time::timeout_at(moment, self.0.more.notified()).await),
                Next::Nothing => self.0.more.notified().await,
            }
        }
    }
}

impl Inner {
    fn next(&self) -> Next<(About, News)> {
        let mut waiting = self.waiting.lock();
        let next = waiting.next(Instant::now());
        // Several messages may have come with one wake-up.
        if matches!(next, Next::Tell(_)) && waiting.len() > 0 {
            self.more.notify_one();
        }
        next
    }

    /// Tells the store, or lets the message wait for it. That an attempt costs less is not worth that: its end follows.
    async fn attempt(&self, about: About, news: News) {
        let told = self.deliver(about, &news).await;
        let (mut fallen_out, mut over) = (None, None);
        let mut waiting = self.waiting.lock();
        match (told, news) {
            (Err(error), news @ News::Ended(..)) => {
                tracing::debug!(request = %about.id.request, %error, "the counter store cannot be told yet");
                fallen_out = waiting.put_back((about, news), Instant::now());
            }
            (Ok(()), news) | (Err(_), news @ News::AtMost { .. }) => {
                waiting.told();
                over = Some(news);
            }
        }
        let is_done = waiting.is_done();
        drop(waiting);
        if let Some(news) = over {
            self.forget(news);
        }
        if is_done {
            self.done.notify_waiters();
        }
        self.note(fallen_out);
    }

    fn note(&self, fallen_out: Option<(About, News)>) {
        if let Some((_, news @ News::Ended(..))) = fallen_out {
            self.metrics.settlement_dropped();
            self.forget(news);
        }
    }

    /// Nobody has to be told this any more.
    fn forget(&self, news: News) {
        if let (News::Ended(_, Kept::Record(seq)), Some(marks)) = (news, self.marks.get()) {
            marks.told(seq);
        }
    }

    /// Tells the store once. Whatever it answers ends the matter: the record reaches the ledger in any case.
    async fn deliver(&self, About { key, epoch, id }: About, news: &News) -> Result<(), CounterError> {
        let answer = match *news {
            News::Ended(settlement, _) => {
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
    async fn messages_that_come_with_one_wake_up_wake_more_than_one_worker() {
        let settlements = of_a_store_that_is_away().await;
        for number in 1..=2 {
            settlements.cancel(about(number), Kept::Nothing);
        }
        let wake_up = || settlements.0.more.notified().now_or_never();
        assert_eq!(wake_up(), Some(()));
        assert!(matches!(settlements.0.next(), Next::Tell(_)));
        assert_eq!(wake_up(), Some(()), "another message waits");
        assert!(matches!(settlements.0.next(), Next::Tell(_)));
        assert_eq!(wake_up(), None);
    }

    #[tokio::test]
    async fn a_shrink_is_tried_once_and_an_end_until_it_was_told() {
        let settlements = of_a_store_that_is_away().await;
        settlements.shrink(about(1), NanoUsd::new(1), None);
        settlements.cancel(about(2), Kept::Nothing);
        for _ in 0..2 {
            let Next::Tell((about, news)) = settlements.0.next() else { panic!("nothing waits") };
            settlements.0.attempt(about, news).await;
        }
        assert_eq!(settlements.waiting(), 1);
    }

    #[tokio::test]
    async fn what_waits_for_a_store_that_is_away_is_bounded() {
        let settlements = of_a_store_that_is_away().await;
        for number in 0..2 * MOST_WAITING as u128 {
            settlements.cancel(about(number), Kept::Nothing);
        }
        assert_eq!(settlements.waiting(), MOST_WAITING);
        let Next::Tell((first, _)) = settlements.0.next() else { panic!("nothing waits") };
        assert_eq!(first.id.request, RequestId::from_bytes((MOST_WAITING as u128).to_be_bytes()), "the oldest went");
    }

    fn about(number: u128) -> About {
        let id = ReservationId { request: RequestId::from_bytes(number.to_be_bytes()), attempt: 1 };
        About { key: key_id(1), epoch: 1, id }
    }

    /// Its workers do not run before the test waits for something.
    async fn of_a_store_that_is_away() -> Settlements {
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
        Settlements::start(counters, metrics, &shutdown)
    }
}
