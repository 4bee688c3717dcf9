//! Counters: what may still be spent, decided before a request is dispatched.
//!
//! A counter store holds slices of limits (grants) that the ledger has already written off for it. One decision takes from all counters of a
//! request and from its rate, or from none. What is unknown stays charged: a reservation whose end nobody reported is charged in full until
//! it is settled, and a counter without books is refused, never taken as zero. Every store passes the same suite (`conformance`).

mod books;
mod memory;
mod rate;
mod reservation;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod property;

use std::future::Future;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{CounterStoreId, KeyId, RequestId};
use keyforge_shared::limit::CounterId;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Period;

pub use memory::MemoryCounters;

/// A reservation's identity: one attempt at one request. It is never used for a second dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId {
    /// The request.
    pub request: RequestId,
    /// Which attempt at it, from 1.
    pub attempt: u16,
}

/// What a reservation takes from one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which counter.
    pub counter: CounterId,
    /// The period it counts; the reservation must be made inside.
    pub period: Period,
    /// The policy's present limit, in requests or nano-dollars. It bounds even what was granted under a higher one.
    pub limit: u64,
    /// Requests (one), or the request's bound in nano-dollars.
    pub amount: u64,
}

/// A question to the store: may this attempt be dispatched?
#[derive(Clone, Copy, Debug)]
pub struct Reserve<'a> {
    /// The attempt. Asking again with the same id never takes twice.
    pub id: ReservationId,
    /// Whose request.
    pub key: KeyId,
    /// The counters it touches; empty for a key without limits.
    pub needs: &'a [Need],
    /// Most admissions of the key in any 60 seconds.
    pub requests_per_minute: Option<u32>,
    /// After this long without a settlement the reservation is charged in full.
    pub expires_after: Duration,
    /// The store refuses when its clock is past this moment: the question was delayed and its asker is gone.
    pub not_after: Option<Timestamp>,
}

/// The store's answer to a [`Reserve`]. Everything but `Admitted` took nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every need is held. The same answer is given again to the same id while the reservation is open.
    Admitted(Admission),
    /// The granted slices of these counters are too small. The control plane may have more; if not, the limit is exhausted.
    Short(Shortage),
    /// The needs with these indexes have no books in this store and need a grant first.
    NoBooks(Vec<usize>),
    /// As many admissions as the rate allows are younger than 60 seconds.
    RateLimited {
        /// Until enough of them are older; exact in milliseconds.
        retry_after: Duration,
    },
    /// The key was frozen.
    Frozen,
    /// This attempt was settled, cancelled, or expired and charged. It must not be dispatched.
    Duplicate,
    /// The store's clock is past `not_after`.
    Late,
    /// The store's clock is outside the period of a need: compute the needs again.
    OutsidePeriod,
}

/// An admitted reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The epoch to settle in; 0 when no counter was touched.
    pub epoch: u32,
    /// What is left in this store for each need's counter after this reservation.
    pub remaining: Vec<(CounterId, u64)>,
    /// How many more admissions the rate allows at this moment, if there is one.
    pub rate_remaining: Option<u32>,
}

/// Which needs did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Index of each need that did not fit, and what its counter has free in this store.
    pub needs: Vec<(usize, u64)>,
}

/// A slice of a limit that the ledger has written off for this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which counter.
    pub counter: CounterId,
    /// The period it counts.
    pub period: Period,
    /// Requests or nano-dollars, cumulative in this epoch: hearing the same grant twice changes nothing.
    pub granted: u64,
    /// What is settled in closed epochs or granted to other stores, in requests or nano-dollars.
    pub elsewhere: u64,
}

/// How a dispatched attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What it cost, charged to every spend counter it reserved.
    pub cost: NanoUsd,
    /// Whether it counts as a request.
    pub counted: bool,
}

/// What a settlement or cancellation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The hold became this charge.
    Done {
        /// The cost was higher than the bound that was reserved. The truth is booked; the key must be frozen.
        over_bound: bool,
    },
    /// The reservation had expired; this charge replaced the full one.
    Late {
        /// As above.
        over_bound: bool,
    },
    /// It was settled or cancelled before; nothing changed.
    Duplicate,
    /// The store does not know the reservation. From now on it refuses a delayed [`Reserve`] of that id.
    Unknown,
}

/// One counter as the store sees it, in requests or nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Books {
    /// Which counter.
    pub counter: CounterId,
    /// Ceiling of `used + held`, cumulative in this epoch.
    pub granted: u64,
    /// Charged.
    pub used: u64,
    /// Held by open reservations.
    pub held: u64,
    /// The part of `used` that stands for expired reservations without a settlement.
    pub orphaned: u64,
    /// What is settled in closed epochs or granted to other stores.
    pub elsewhere: u64,
}

/// What a store keeps of a key's grants after it lowered every ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClawBack {
    /// The epoch of the books.
    pub epoch: u32,
    /// Each counter's new ceiling: what is used or held.
    pub holdings: Vec<(CounterId, u64)>,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The books are of another epoch. A settlement then reaches the ledger by its audit entry alone; a grant must be asked for again.
    #[error("epoch: {given} was given for {key}, but its books are in epoch {current} (0: it has none)")]
    Epoch {
        /// Whose books.
        key: KeyId,
        /// The epoch that was named.
        given: u32,
        /// The epoch of the books, 0 without books.
        current: u32,
    },
    /// A grant names a counter of another key; nothing was applied.
    #[error("grants: a counter of {owner} was granted to {key}")]
    ForeignCounter {
        /// Whose books were to be changed.
        key: KeyId,
        /// Whose counter it is.
        owner: KeyId,
    },
    /// The store cannot be reached or answers nonsense. Nothing may be dispatched on its word.
    #[error("counter store unavailable: {0}")]
    Unavailable(String),
}

/// Where reservations are decided.
///
/// Wherever an epoch is asked for, 0 means that the caller never learned it (the answer to its [`Reserve`] was lost) or that the reservation
/// touched no counter: the reservation is then found by its id alone, which no epoch uses twice.
pub trait CounterStore: Send + Sync {
    /// This life of the store.
    fn id(&self) -> CounterStoreId;

    /// Raises ceilings to what the ledger has granted. A higher epoch than that of the key's books replaces them, with all reservations,
    /// orphans and markers; a key's first books replace nothing. In the same epoch the higher of two cumulative grants holds.
    ///
    /// # Errors
    /// [`CounterError::Epoch`] for an epoch lower than that of the books, or 0; [`CounterError::ForeignCounter`].
    fn grant(&self, key: KeyId, epoch: u32, grants: &[Grant]) -> impl Future<Output = Result<(), CounterError>> + Send;

    /// Takes every need and one admission of the rate, or nothing.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`]: it may or may not have been taken. Ask again with the same id, or cancel. Whoever is refused after that
    /// cancels as well: the question without an answer may have been admitted, or may still arrive.
    fn reserve(&self, reserve: Reserve<'_>) -> impl Future<Output = Result<Verdict, CounterError>> + Send;

    /// Replaces a reservation's hold, or the full charge of an expired one, by what it cost.
    ///
    /// # Errors
    /// [`CounterError::Epoch`] when the books are of another epoch.
    fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> impl Future<Output = Result<Settled, CounterError>> + Send;

    /// Settles at nothing, uncounted. Only for an attempt that was not dispatched. The admission stays in the rate's window.
    ///
    /// # Errors
    /// [`CounterError::Epoch`] when the books are of another epoch.
    fn cancel(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
    ) -> impl Future<Output = Result<Settled, CounterError>> + Send;

    /// Lowers an open reservation's hold on spend counters to `bound`; never raises it. Answers whether anything was lowered.
    ///
    /// # Errors
    /// [`CounterError::Epoch`] when the books are of another epoch.
    fn shrink(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
    ) -> impl Future<Output = Result<bool, CounterError>> + Send;

    /// Lowers every ceiling of the key to what is used or held, so that the ledger can take back the rest; `None` without books.
    ///
    /// The caller has no [`Self::grant`] of the key under way, and applies none before the ledger knows the new ceilings: an older cumulative
    /// grant would raise them again.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`]: the ceilings may have been lowered. Claw back again; the answer is then complete.
    fn claw_back(&self, key: KeyId) -> impl Future<Output = Result<Option<ClawBack>, CounterError>> + Send;

    /// Refuses new reservations of the key, over all epochs, until [`Self::unfreeze`]. Open ones can be settled.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn freeze(&self, key: KeyId) -> impl Future<Output = Result<(), CounterError>> + Send;

    /// Undoes [`Self::freeze`].
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn unfreeze(&self, key: KeyId) -> impl Future<Output = Result<(), CounterError>> + Send;

    /// The key's counters in this store; empty without books.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn books(&self, key: KeyId) -> impl Future<Output = Result<Vec<Books>, CounterError>> + Send;
}

/// The counter store that a data plane was configured with.
#[derive(Debug)]
pub enum Counters {
    /// In this process.
    Memory(MemoryCounters),
}

impl CounterStore for Counters {
    fn id(&self) -> CounterStoreId {
        match self {
            Self::Memory(store) => store.id(),
        }
    }

    async fn grant(&self, key: KeyId, epoch: u32, grants: &[Grant]) -> Result<(), CounterError> {
        match self {
            Self::Memory(store) => store.grant(key, epoch, grants).await,
        }
    }

    async fn reserve(&self, reserve: Reserve<'_>) -> Result<Verdict, CounterError> {
        match self {
            Self::Memory(store) => store.reserve(reserve).await,
        }
    }

    async fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> Result<Settled, CounterError> {
        match self {
            Self::Memory(store) => store.settle(key, epoch, id, settlement).await,
        }
    }

    async fn cancel(&self, key: KeyId, epoch: u32, id: ReservationId) -> Result<Settled, CounterError> {
        match self {
            Self::Memory(store) => store.cancel(key, epoch, id).await,
        }
    }

    async fn shrink(&self, key: KeyId, epoch: u32, id: ReservationId, bound: NanoUsd) -> Result<bool, CounterError> {
        match self {
            Self::Memory(store) => store.shrink(key, epoch, id, bound).await,
        }
    }

    async fn claw_back(&self, key: KeyId) -> Result<Option<ClawBack>, CounterError> {
        match self {
            Self::Memory(store) => store.claw_back(key).await,
        }
    }

    async fn freeze(&self, key: KeyId) -> Result<(), CounterError> {
        match self {
            Self::Memory(store) => store.freeze(key).await,
        }
    }

    async fn unfreeze(&self, key: KeyId) -> Result<(), CounterError> {
        match self {
            Self::Memory(store) => store.unfreeze(key).await,
        }
    }

    async fn books(&self, key: KeyId) -> Result<Vec<Books>, CounterError> {
        match self {
            Self::Memory(store) => store.books(key).await,
        }
    }
}
