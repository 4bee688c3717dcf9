//! The seam between requests and the stores that decide about them.

use std::future::Future;
use std::time::Duration;

use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::CounterId;
use keyforge_shared::money::NanoUsd;

use crate::grant::{ClawBack, GrantSet};
use crate::reserve::{ReservationId, Reserve, Verdict};
use crate::settle::{Settled, Settlement};

/// Why and since when no reservation of a key is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The revision of the replicated state that it comes from: only a later one lifts it.
    pub revision: u64,
    /// Whether it stays however long nobody asks about the key. One that nodes know of themselves need not.
    pub lasting: bool,
}

/// One counter as the store sees it, in requests or nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterState {
    /// Which counter.
    pub counter: CounterId,
    /// Ceiling of `used + held`, cumulative in this epoch.
    pub granted: u64,
    /// Charged.
    pub used: u64,
    /// Held by open reservations.
    pub held: u64,
    /// The part of `used` that stands for expired reservations whose settlement these books never saw. One that is too old to be settled here stays
    /// in it: above zero, it says that the ledger may know better what was spent.
    pub orphaned: u64,
    /// What counts against the limit and is not in these books.
    pub elsewhere: u64,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The books are of another epoch. A settlement then reaches the ledger by its audit entry alone.
    #[error("epoch: {given} was given for {key}, but its books are in epoch {current} (0: it has none)")]
    Epoch {
        /// Whose books.
        key: KeyId,
        /// The epoch that was named.
        given: u32,
        /// The epoch of the books, 0 without one.
        current: u32,
    },
    /// The grants are for another life than that of the books; nothing was applied.
    #[error("life: the books of {key} are of {current}; ask for grants of that life")]
    Life {
        /// Whose books.
        key: KeyId,
        /// The life of the books.
        current: LifeId,
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
    Unavailable(Outage),
}

impl CounterError {
    /// Whether nothing can have been done: the question was not sent, or the store said that it did not take it. Then there is nothing to take
    /// back. `false` when no answer came, and for every refusal that is an answer.
    ///
    /// Of a [`CounterStore::renew`] of many ids the first may have been renewed all the same.
    #[must_use]
    pub const fn was_surely_not_asked(&self) -> bool {
        matches!(self, Self::Unavailable(Outage { asked: false, .. }))
    }
}

/// Why a store gave no answer, and whether it can have heard the question.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Outage {
    reason: String,
    asked: bool,
}

impl Outage {
    /// The question did not reach the store, and never will.
    #[must_use]
    pub const fn not_asked(reason: String) -> Self {
        Self { reason, asked: false }
    }

    /// The question was sent, and there is no answer that can be used: it may have been decided, or may still be.
    #[must_use]
    pub const fn unanswered(reason: String) -> Self {
        Self { reason, asked: true }
    }
}

/// Where reservations are decided.
///
/// Any call may fail with [`CounterError::Unavailable`]: it may or may not have been done, unless [`CounterError::was_surely_not_asked`].
///
/// Stores agree to the millisecond and the last unit, so that one can be compared with the other:
/// * Time is in whole milliseconds, and a duration that is not is cut. Every operation looks at the later of the clock and the key's own time;
///   [`Self::reserve`] moves the key's own time on once it gets as far as `not_after`, and nothing else does. Only what looks at time that was
///   moved on may forget anything that time makes void: a clock that jumps ahead and comes back must not have cleared a window.
/// * The epoch of books without one is 0, and no reservation with needs is in epoch 0.
/// * A reservation expires when its time has come (`expiry <= now`) and stays open until a [`Self::reserve`] finds it: each charges the eight that
///   expired first (then by id), and forgets the eight oldest of those that were charged 24 hours ago or more. What is forgotten can no
///   longer be settled; its charge stays used and orphaned until the life ends.
/// * An id that is over is remembered for 60 seconds from its settlement (`now - then < 60 s`, by the clock that everything else goes by), also
///   when a new life begins.
/// * Tokens are replaced and lowered in the second in which they were taken, whatever the time is: as long as that counts, it matters.
/// * A new life takes with it the epoch, the serials, the counters and all reservations, also those without needs; it leaves the freeze, the
///   key's own time, the minute's requests and tokens, and the leases.
/// * Lists of counters come in no particular order.
pub trait CounterStore: Send + Sync {
    /// Takes every need and each rate, or nothing. What is looked at, in this order: whether the id is known, the epoch (with needs), the freeze,
    /// `not_after`, the periods; expired reservations are charged; then the counters (missing ones first, then all that are short) and the rates.
    /// A need of another key's counter is a missing one.
    ///
    /// Time never goes back for a key: it is the later of the store's clock and that of the latest question that got as far as `not_after`. An
    /// open id is answered again with how things stand now, and that changes nothing; but, if it has needs, only to whoever names its epoch, and
    /// before anything else is looked at. An asker in another epoch would settle it where the ledger does not look for it.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`]: ask again with the same id, or settle as cancelled, unless it was surely not asked. Whoever is refused after
    /// that cancels as well: the question without an answer may have been admitted, or may still arrive.
    fn reserve(&self, reserve: Reserve<'_>) -> impl Future<Output = Result<Verdict, CounterError>> + Send;

    /// Replaces a reservation's hold, or the full charge of an expired one, by what it cost. `epoch` is that of the reservation, 0 if it had no
    /// needs; 0 finds any id.
    ///
    /// What the reservation took of the minute's tokens is replaced as well. In any case, also when the settlement is refused, the request no longer
    /// runs: its lease ends.
    ///
    /// # Errors
    /// [`CounterError::Epoch`] when the books are of another epoch, and `epoch` is not 0.
    fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> impl Future<Output = Result<Settled, CounterError>> + Send;

    /// Lowers an open reservation's hold on spend counters to `bound`, and on the minute's tokens to `tokens`; never raises them. Answers whether
    /// any amount of the reservation was lowered.
    ///
    /// # Errors
    /// [`CounterError::Epoch`] when the books are of another epoch, and `epoch` is not 0.
    fn shrink(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
        tokens: Option<u64>,
    ) -> impl Future<Output = Result<bool, CounterError>> + Send;

    /// Lets reservations count as running for another `lease` from now, in the concurrency of their key; one that was forgotten counts again. An id
    /// that is over and remembered is left out: a renewal that arrives after the settlement must not let the request run again.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn renew(
        &self,
        key: KeyId,
        ids: &[ReservationId],
        lease: Duration,
    ) -> impl Future<Output = Result<(), CounterError>> + Send;

    /// Applies an answer of the ledger. It opens the epoch of a life that has none yet, also when it grants nothing. Each counter takes the latest
    /// answer about it: `granted` and `elsewhere` are set if the serial is above that of the counter and above that of the latest claw-back. The
    /// books remember the highest serial they were shown. Then counters that hold nothing, and ended 24 hours before the key's own time or
    /// earlier, are dropped: nobody can ask for those again.
    ///
    /// # Errors
    /// Nothing was applied: [`CounterError::ForeignCounter`]; then [`CounterError::Life`] when the books are of another life; then
    /// [`CounterError::Epoch`] when their life has another number, or the number given is 0.
    fn grant(&self, key: KeyId, grants: &GrantSet) -> impl Future<Output = Result<(), CounterError>> + Send;

    /// Lowers every ceiling of the key to what is used or held, so that the ledger can take back the rest, and makes every earlier answer of the
    /// ledger void; `None` without an epoch.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`]: the ceilings may have been lowered. Claw back again; the answer is then complete.
    fn claw_back(&self, key: KeyId) -> impl Future<Output = Result<Option<ClawBack>, CounterError>> + Send;

    /// Ends the life of the key's books if it is `life`, and lets a new one begin. Answers the life of the books afterwards; books that were never
    /// asked for begin theirs now.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn vacate(&self, key: KeyId, life: LifeId) -> impl Future<Output = Result<LifeId, CounterError>> + Send;

    /// Refuses new reservations of the key, over all lives, until [`Self::unfreeze`]. Open ones can be settled. Of several freezes the one of the
    /// latest revision counts.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn freeze(&self, key: KeyId, freeze: Freeze) -> impl Future<Output = Result<(), CounterError>> + Send;

    /// Undoes a [`Self::freeze`] of an earlier revision than `revision`, at which the key is known to work. Answers whether there was one.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn unfreeze(&self, key: KeyId, revision: u64) -> impl Future<Output = Result<bool, CounterError>> + Send;

    /// The life of the key's books; `None` without an epoch. A node that is a member of another one has nothing to do there any more.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn life(&self, key: KeyId) -> impl Future<Output = Result<Option<LifeId>, CounterError>> + Send;

    /// The key's counters in this store; empty without an epoch.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn books(&self, key: KeyId) -> impl Future<Output = Result<Vec<CounterState>, CounterError>> + Send;
}
