//! Counters in this process: for one node that is its own counter store.
//!
//! Each key has its own lock, held for one decision and never across an await, so no key waits for another. The store's life is the
//! process's: what it forgets, the ledger keeps written off. Time is the wall clock in whole milliseconds, held back from going backwards.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hashbrown::{DefaultHashBuilder, HashMap};
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{CounterStoreId, KeyId};
use keyforge_shared::money::NanoUsd;
use parking_lot::{Mutex, RwLock};

use super::books::KeyBooks;
use super::{Books, ClawBack, CounterError, CounterStore, Grant, ReservationId, Reserve, Settled, Settlement, Verdict};

/// Enough that two keys rarely share one; a power of two.
const SHARDS: usize = 64;
/// A shard looks for idle keys when it has grown by this much, and by as many keys as the last look left.
const SHARD_SLACK: usize = 64;

const UNCOUNTED: Settlement = Settlement { cost: NanoUsd::ZERO, counted: false };

#[derive(Default)]
struct Shard {
    keys: HashMap<KeyId, Arc<Mutex<KeyBooks>>>,
    /// Number of keys at which idle ones are looked for.
    crowded_at: usize,
}

/// The in-process counter store.
pub struct MemoryCounters {
    id: CounterStoreId,
    clock: SteadyClock,
    hasher: DefaultHashBuilder,
    shards: Box<[RwLock<Shard>]>,
}

impl MemoryCounters {
    /// An empty store. `id` is new for each: no store's memory outlives it.
    #[must_use]
    pub fn new(id: CounterStoreId, clock: Arc<dyn Clock>) -> Self {
        Self {
            id,
            clock: SteadyClock { clock, latest: AtomicI64::new(i64::MIN) },
            hasher: DefaultHashBuilder::default(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    fn shard(&self, key: KeyId) -> &RwLock<Shard> {
        // The low bits choose the slot within a shard's map.
        let hash = self.hasher.hash_one(key).rotate_left(16);
        &self.shards[usize::try_from(hash).unwrap_or_default() % SHARDS]
    }

    /// Decides about a key that the store has heard of.
    fn known<T>(&self, key: KeyId, decide: impl FnOnce(&mut KeyBooks, Timestamp) -> T) -> Option<T> {
        let books = self.shard(key).read().keys.get(&key).map(Arc::clone)?;
        let mut books = books.lock();
        // Read under the lock: a decision never sees an earlier time than the one before it.
        let now = self.clock.now();
        Some(decide(&mut books, now))
    }

    /// Decides about a key, with new books if the store has not heard of it.
    fn any<T>(&self, key: KeyId, decide: impl FnOnce(&mut KeyBooks, Timestamp) -> T) -> T {
        let known = self.shard(key).read().keys.get(&key).map(Arc::clone);
        let books = known.unwrap_or_else(|| self.open(key));
        let mut books = books.lock();
        let now = self.clock.now();
        decide(&mut books, now)
    }

    fn open(&self, key: KeyId) -> Arc<Mutex<KeyBooks>> {
        let mut shard = self.shard(key).write();
        if shard.keys.len() >= shard.crowded_at {
            let now = self.clock.now();
            // Arcs are cloned under the shard's lock only: a count of one means that nobody decides about the key now.
            shard.keys.retain(|_, books| Arc::strong_count(books) > 1 || !books.lock().retire(now));
            shard.crowded_at = shard.keys.len().saturating_mul(2).saturating_add(SHARD_SLACK);
        }
        Arc::clone(shard.keys.entry(key).or_insert_with(|| Arc::new(Mutex::new(KeyBooks::new(key)))))
    }
}

impl fmt::Debug for MemoryCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCounters").field("id", &self.id).finish_non_exhaustive()
    }
}

impl CounterStore for MemoryCounters {
    fn id(&self) -> CounterStoreId {
        self.id
    }

    async fn grant(&self, key: KeyId, epoch: u32, grants: &[Grant]) -> Result<(), CounterError> {
        self.any(key, |books, now| books.grant(epoch, grants, now))
    }

    async fn reserve(&self, reserve: Reserve<'_>) -> Result<Verdict, CounterError> {
        Ok(self.any(reserve.key, |books, now| books.reserve(&reserve, now)))
    }

    async fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> Result<Settled, CounterError> {
        self.any(key, |books, now| books.settle(epoch, id, settlement, now))
    }

    async fn cancel(&self, key: KeyId, epoch: u32, id: ReservationId) -> Result<Settled, CounterError> {
        self.settle(key, epoch, id, UNCOUNTED).await
    }

    async fn shrink(&self, key: KeyId, epoch: u32, id: ReservationId, bound: NanoUsd) -> Result<bool, CounterError> {
        self.any(key, |books, _| books.shrink(epoch, id, bound))
    }

    async fn claw_back(&self, key: KeyId) -> Result<Option<ClawBack>, CounterError> {
        Ok(self.known(key, |books, _| books.claw_back()).flatten())
    }

    async fn freeze(&self, key: KeyId) -> Result<(), CounterError> {
        self.any(key, |books, _| books.set_frozen(true));
        Ok(())
    }

    async fn unfreeze(&self, key: KeyId) -> Result<(), CounterError> {
        self.known(key, |books, _| books.set_frozen(false)).unwrap_or_default();
        Ok(())
    }

    async fn books(&self, key: KeyId) -> Result<Vec<Books>, CounterError> {
        Ok(self.known(key, |books, _| books.report()).unwrap_or_default())
    }
}

/// The wall clock in whole milliseconds, which stands still when the machine's time is set back.
struct SteadyClock {
    clock: Arc<dyn Clock>,
    latest: AtomicI64,
}

impl SteadyClock {
    fn now(&self) -> Timestamp {
        let wall = self.clock.now().millis();
        let latest = self.latest.load(Ordering::Acquire);
        // Written at most once a millisecond, so that nodes with many cores do not pass this cache line around.
        let now = if wall > latest { self.latest.fetch_max(wall, Ordering::AcqRel).max(wall) } else { latest };
        Timestamp::from_millis(now)
    }
}

#[cfg(test)]
impl MemoryCounters {
    /// Counts all reservations of a key again and compares them with its counters.
    pub(super) fn recount(&self, key: KeyId) {
        self.known(key, |books, _| books.recount());
    }

    fn knows(&self, key: KeyId) -> bool {
        self.known(key, |_, _| ()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use keyforge_shared::clock::{ManualClock, SystemClock};
    use keyforge_shared::limit::Dimension;
    use keyforge_shared::period::Window;
    use tokio::runtime::{Builder, Runtime};

    use super::super::conformance::{START, TTL, counter_at, key, reservation, settlement, suite};
    use super::super::{Counters, Need};
    use super::*;

    fn store(clock: Arc<dyn Clock>) -> MemoryCounters {
        MemoryCounters::new(CounterStoreId::generate().unwrap(), clock)
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    #[tokio::test]
    async fn the_memory_store_conforms() {
        suite(|clock| store(clock)).await;
    }

    #[tokio::test]
    async fn the_configured_store_conforms() {
        suite(|clock| Counters::Memory(store(clock))).await;
    }

    /// Lets 64 threads reserve at once, `rounds` times each, and gives how many were admitted.
    fn stampede(store: &MemoryCounters, needs: &[Need], rate: Option<u32>, rounds: u32) -> u64 {
        let (admitted, start) = (AtomicU64::new(0), Barrier::new(64));
        std::thread::scope(|scope| {
            for thread in 0..64 {
                let (admitted, start) = (&admitted, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..rounds {
                        let ask = Reserve {
                            id: reservation(thread * rounds + round),
                            key: key(0),
                            needs,
                            requests_per_minute: rate,
                            expires_after: TTL,
                            not_after: None,
                        };
                        if let Verdict::Admitted(_) = runtime().block_on(store.reserve(ask)).unwrap() {
                            admitted.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        admitted.into_inner()
    }

    fn granted(store: &MemoryCounters, dimension: Dimension, granted: u64, amount: u64) -> Vec<Need> {
        let (counter, period) = counter_at(key(0), (dimension, Window::Day), START);
        runtime().block_on(store.grant(key(0), 1, &[Grant { counter, period, granted, elsewhere: 0 }])).unwrap();
        vec![Need { counter, period, limit: granted, amount }]
    }

    #[test]
    fn i_1_64_threads_get_exactly_the_quota_of_20() {
        for _ in 0..10 {
            let store = store(Arc::new(ManualClock::at(START)));
            let needs = granted(&store, Dimension::Requests, 20, 1);
            assert_eq!(stampede(&store, &needs, None, 1), 20);
            store.recount(key(0));
        }
    }

    #[test]
    fn i_1_64_threads_spend_exactly_what_fits_under_a_cap() {
        for _ in 0..10 {
            let store = store(Arc::new(ManualClock::at(START)));
            let needs = granted(&store, Dimension::Spend, 1_000_000_006, 7_000_000);
            assert_eq!(stampede(&store, &needs, None, 4), 142);
            let books = runtime().block_on(store.books(key(0))).unwrap();
            assert_eq!(books[0].held, 994_000_000);
            store.recount(key(0));
        }
    }

    #[test]
    fn i_10_64_threads_get_exactly_the_rate() {
        let store = store(Arc::new(ManualClock::at(START)));
        assert_eq!(stampede(&store, &[], Some(50), 2), 50);
    }

    #[tokio::test]
    async fn idle_keys_are_forgotten_and_keys_in_use_are_not() {
        let clock = Arc::new(ManualClock::at(START));
        let store = store(Arc::clone(&clock) as Arc<dyn Clock>);
        for number in 0..2_000 {
            let name = named(number);
            let window = if number < 50 { Window::Total } else { Window::Day };
            let (counter, period) = counter_at(name, (Dimension::Requests, window), START);
            let grant = Grant { counter, period, granted: 1, elsewhere: 0 };
            store.grant(name, 1, &[grant]).await.unwrap();
            let needs = [Need { counter, period, limit: 1, amount: 1 }];
            let ask = Reserve {
                id: reservation(number),
                key: name,
                needs: &needs,
                requests_per_minute: Some(5),
                expires_after: TTL,
                not_after: None,
            };
            assert!(matches!(store.reserve(ask).await.unwrap(), Verdict::Admitted(_)));
            if (50..100).contains(&number) {
                store.freeze(name).await.unwrap();
            }
        }
        // A day to charge what nobody settled, one more to forget it, and new keys each day.
        for day in 1..=3 {
            clock.advance(Duration::from_secs(24 * 3_600));
            for number in day * 20_000..(day + 1) * 20_000 {
                store.cancel(named(number), 0, reservation(number)).await.unwrap();
            }
        }
        for number in 0..2_000 {
            assert_eq!(store.knows(named(number)), number < 100, "{number}");
        }
        for number in 0..50 {
            assert_eq!(store.books(named(number)).await.unwrap()[0].used, 1, "expired, charged, and counted for ever");
        }
        assert_eq!(store.reserve(ask_nothing(named(50))).await.unwrap(), Verdict::Frozen);
    }

    #[tokio::test]
    async fn books_that_are_being_decided_about_are_not_dropped() {
        let store = store(Arc::new(ManualClock::at(START)));
        let (deciding, idle) = (named(0), named(1));
        let books = store.open(deciding);
        drop(store.open(idle));
        for number in 2..20_000 {
            drop(store.open(named(number)));
        }
        assert!(!store.knows(idle), "others were looked at");
        assert!(Arc::ptr_eq(&books, &store.open(deciding)), "what is decided now would be lost");
    }

    fn named(number: u32) -> KeyId {
        KeyId::from_ascii(format!("{number:012}").as_bytes()).unwrap()
    }

    fn ask_nothing(key: KeyId) -> Reserve<'static> {
        let id = reservation(u32::MAX);
        Reserve { id, key, needs: &[], requests_per_minute: None, expires_after: TTL, not_after: None }
    }

    #[tokio::test]
    async fn markers_are_kept_for_60_seconds_and_bounded() {
        let clock = Arc::new(ManualClock::at(START));
        let store = store(Arc::clone(&clock) as Arc<dyn Clock>);
        let ask = |number| Reserve {
            id: reservation(number),
            key: key(0),
            needs: &[],
            requests_per_minute: None,
            expires_after: TTL,
            not_after: None,
        };
        for number in 0..100_000 {
            store.reserve(ask(number)).await.unwrap();
            store.settle(key(0), 0, reservation(number), settlement(1)).await.unwrap();
        }
        let count = || store.known(key(0), |books, _| books.remembered()).unwrap();
        assert!(count() <= 65_540, "{}", count());
        assert_eq!(store.reserve(ask(99_999)).await.unwrap(), Verdict::Duplicate);
        clock.advance(Duration::from_secs(60));
        for number in 200_000..210_000 {
            store.reserve(ask(number)).await.unwrap();
            store.settle(key(0), 0, reservation(number), settlement(1)).await.unwrap();
        }
        assert_eq!(count(), 10_000);
    }

    /// Not a promise but a look: run with `--release --run-ignored all --no-capture`.
    #[test]
    #[ignore = "measures, in release builds"]
    fn a_reserve_and_settle_pair_takes_less_than_a_microsecond() {
        let store = store(Arc::new(SystemClock));
        let now = SystemClock.now();
        let needs: Vec<_> = [(Dimension::Requests, Window::Day), (Dimension::Spend, Window::Month)]
            .map(|name| counter_at(key(0), name, now))
            .map(|(counter, period)| Need { counter, period, limit: u64::MAX, amount: 1 })
            .to_vec();
        let grants: Vec<_> = needs
            .iter()
            .map(|need| Grant { counter: need.counter, period: need.period, granted: u64::MAX, elsewhere: 0 })
            .collect();
        let pairs = 1_000_000_u32;
        let took = runtime().block_on(async {
            store.grant(key(0), 1, &grants).await.unwrap();
            let start = SystemClock.monotonic_nanos();
            for number in 0..pairs {
                let ask = Reserve {
                    id: reservation(number),
                    key: key(0),
                    needs: &needs,
                    requests_per_minute: None,
                    expires_after: TTL,
                    not_after: None,
                };
                assert!(matches!(store.reserve(ask).await.unwrap(), Verdict::Admitted(_)));
                store.settle(key(0), 1, reservation(number), settlement(1)).await.unwrap();
            }
            SystemClock.monotonic_nanos() - start
        });
        let each = took / u64::from(pairs);
        println!("{each} ns for a pair");
        assert!(each < 1_000, "{each} ns");
    }
}
