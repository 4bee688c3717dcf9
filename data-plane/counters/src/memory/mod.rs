//! Counters in this process: for one node that is its own counter store.
//!
//! Each key has its own lock, held for one decision and never across an await, so no key waits for another. The lives of all books end with the
//! process: what it forgets, the ledger keeps written off. Keys that are idle, with nothing left to count, are forgotten when others need the
//! room; they begin a new life when they are heard of again. A clock that jumps ahead makes no key idle: as much time must really have passed.

mod books;
mod bucket;
mod leases;
mod pace;
mod rate;
mod reservation;
mod tokens;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap};
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::money::NanoUsd;
use parking_lot::{Mutex, RwLock};

use self::books::KeyBooks;
use crate::grant::{ClawBack, GrantSet};
use crate::reserve::{ReservationId, Reserve, Verdict};
use crate::settle::{Settled, Settlement};
use crate::store::{CounterError, CounterState, CounterStore, Freeze, Outage};

/// Enough that two keys rarely share one; a power of two.
const SHARDS: usize = 64;
/// A shard looks for idle keys when it has grown by this much, and by as many keys as the last look left.
const SHARD_SLACK: usize = 64;

/// Where the names of new lives come from.
type Lives = Box<dyn Fn() -> Result<LifeId, getrandom::Error> + Send + Sync>;

#[derive(Default)]
struct Shard {
    keys: HashMap<KeyId, Arc<Mutex<KeyBooks>>>,
    /// Number of keys at which idle ones are looked for.
    crowded_at: usize,
}

/// The in-process counter store.
pub struct MemoryCounters {
    clock: Arc<dyn Clock>,
    lives: Lives,
    hasher: DefaultHashBuilder,
    shards: Box<[RwLock<Shard>]>,
}

impl MemoryCounters {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_lives(clock, LifeId::generate)
    }

    /// An empty store whose books take their lives from `lives`, which gives none twice: for tests that tell the lives of two stores apart.
    #[must_use]
    pub fn with_lives(
        clock: Arc<dyn Clock>,
        lives: impl Fn() -> Result<LifeId, getrandom::Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            clock,
            lives: Box::new(lives),
            hasher: DefaultHashBuilder::default(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    fn shard(&self, key: KeyId) -> &RwLock<Shard> {
        // The low bits choose the slot within a shard's map.
        let hash = self.hasher.hash_one(key).rotate_left(16);
        &self.shards[usize::try_from(hash).unwrap_or_default() % SHARDS]
    }

    fn new_life(&self) -> Result<LifeId, CounterError> {
        (self.lives)().map_err(|error| {
            CounterError::Unavailable(Outage::not_asked(format!("no randomness for a new life: {error}")))
        })
    }

    /// Decides about a key that the store has heard of.
    fn known<T>(&self, key: KeyId, decide: impl FnOnce(&mut KeyBooks, Timestamp) -> T) -> Option<T> {
        let books = self.shard(key).read().keys.get(&key).map(Arc::clone)?;
        let mut books = books.lock();
        // Read under the lock: a decision rarely sees an earlier time than the one before it.
        let now = self.clock.now();
        Some(decide(&mut books, now))
    }

    /// Decides about a key, with new books if the store has not heard of it.
    fn any<T>(
        &self,
        key: KeyId,
        decide: impl FnOnce(&mut KeyBooks, Timestamp) -> Result<T, CounterError>,
    ) -> Result<T, CounterError> {
        let known = self.shard(key).read().keys.get(&key).map(Arc::clone);
        let books = match known {
            Some(books) => books,
            None => self.open(key)?,
        };
        let mut books = books.lock();
        let now = self.clock.now();
        decide(&mut books, now)
    }

    fn open(&self, key: KeyId) -> Result<Arc<Mutex<KeyBooks>>, CounterError> {
        let life = self.new_life()?;
        let mut shard = self.shard(key).write();
        if shard.keys.len() >= shard.crowded_at {
            let (now, passed) = (self.clock.now(), self.clock.monotonic_nanos());
            // Arcs are cloned under the shard's lock only: a count of one means that nobody decides about the key now.
            shard.keys.retain(|_, books| Arc::strong_count(books) > 1 || !books.lock().retire(now, passed));
            shard.crowded_at = shard.keys.len().saturating_mul(2).saturating_add(SHARD_SLACK);
        }
        Ok(Arc::clone(shard.keys.entry(key).or_insert_with(|| Arc::new(Mutex::new(KeyBooks::new(key, life))))))
    }
}

impl fmt::Debug for MemoryCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCounters").finish_non_exhaustive()
    }
}

impl CounterStore for MemoryCounters {
    async fn reserve(&self, reserve: Reserve<'_>) -> Result<Verdict, CounterError> {
        self.any(reserve.key, |books, clock| Ok(books.reserve(&reserve, clock, self.clock.monotonic_nanos())))
    }

    async fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> Result<Settled, CounterError> {
        self.any(key, |books, clock| books.settle(epoch, id, settlement, clock))
    }

    async fn shrink(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
        tokens: Option<u64>,
    ) -> Result<bool, CounterError> {
        self.any(key, |books, _| books.shrink(epoch, id, bound, tokens))
    }

    async fn renew(&self, key: KeyId, ids: &[ReservationId], lease: Duration) -> Result<(), CounterError> {
        self.any(key, |books, clock| {
            books.renew(ids, lease, clock);
            Ok(())
        })
    }

    async fn grant(&self, key: KeyId, grants: &GrantSet) -> Result<(), CounterError> {
        self.any(key, |books, _| books.grant(grants))
    }

    async fn claw_back(&self, key: KeyId) -> Result<Option<ClawBack>, CounterError> {
        Ok(self.known(key, |books, _| books.claw_back()).flatten())
    }

    async fn vacate(&self, key: KeyId, life: LifeId) -> Result<LifeId, CounterError> {
        self.any(key, |books, _| {
            if books.life() == life {
                books.begin(self.new_life()?);
            }
            Ok(books.life())
        })
    }

    async fn freeze(&self, key: KeyId, freeze: Freeze) -> Result<(), CounterError> {
        self.any(key, |books, _| {
            books.freeze(freeze.revision);
            Ok(())
        })
    }

    async fn unfreeze(&self, key: KeyId, revision: u64) -> Result<bool, CounterError> {
        Ok(self.known(key, |books, _| books.unfreeze(revision)).unwrap_or_default())
    }

    async fn life(&self, key: KeyId) -> Result<Option<LifeId>, CounterError> {
        Ok(self.known(key, |books, _| books.numbered_life()).flatten())
    }

    async fn books(&self, key: KeyId) -> Result<Vec<CounterState>, CounterError> {
        Ok(self.known(key, |books, _| books.report()).unwrap_or_default())
    }
}

#[cfg(test)]
impl MemoryCounters {
    /// Counts all reservations of a key again and compares them with its counters.
    fn recount(&self, key: KeyId) {
        self.known(key, |books, _| books.recount());
    }

    fn knows(&self, key: KeyId) -> bool {
        self.known(key, |_, _| ()).is_some()
    }
}

#[cfg(test)]
mod tests;
