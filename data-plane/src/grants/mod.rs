//! Carries grants from the control plane's ledger to the node's counter store.
//!
//! A store spends only what the ledger has written off for it. When a counter runs short, one call per key asks for more while the others of that key
//! wait for its answer; a ledger that has nothing left is not asked again for a moment, so that an exhausted key cannot load it. A workspace's
//! limit that is exhausted is looked for where it lies unspent: in the books of other keys of the workspace, which give it back.
//!
//! * [`returns`]: gives back what changed limits no longer allow; [`raises`]: also when a raised limit ends

pub mod raises;
pub mod returns;

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, join_all};
use hashbrown::HashMap;
use keyforge_counters::{CounterError, CounterStore, Counters};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::CounterId;
use parking_lot::Mutex;

use crate::ledger::{Acquired, Holder, Ledger, LedgerError, Said, Want};
use crate::memberships::Memberships;

/// How long an exhausted ledger is not asked again while others may give something back.
const REMEMBER_EXHAUSTED: Duration = Duration::from_millis(200);
/// How long if nobody has anything to give back. Raising a limit, or giving back, takes effect at once all the same, because both forget this; and
/// the next period is another counter.
const REMEMBER_SPENT: Duration = Duration::from_secs(2);
/// More remembered counters than this are swept.
const MOST_REMEMBERED: usize = 10_000;

/// Why nothing could be granted. Nothing may be admitted then.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrantError {
    /// The ledger cannot be reached or cannot decide.
    #[error("the ledger cannot be reached")]
    Ledger,
    /// The ledger does not do this, however often it is asked.
    #[error("the ledger refuses")]
    Refused,
    /// The counter store cannot take what was granted.
    #[error("the counter store cannot be reached")]
    Store,
}

/// What a call brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// An answer of the ledger, which the store has, unless its books are of another life by now.
    Answer,
    /// The life was over, and the books began a new one.
    NewLife,
}

type Call = Shared<BoxFuture<'static, Result<Brought, GrantError>>>;

/// A moment in the order in which answers of the ledger came to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsOf(u64);

/// What the ledger has left for a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has to be asked.
    Unknown,
    /// Nothing; others may give back so much of what they were granted, in requests or nano-dollars.
    Nothing {
        /// What they have not settled.
        unsettled: u64,
    },
    /// Nothing, but the store was asked before it had the last grant: look there again.
    NothingSince,
}

#[derive(Clone, Copy)]
struct Exhausted {
    until: Timestamp,
    unsettled: u64,
    since: AsOf,
}

#[derive(Default)]
struct Book {
    calls: HashMap<KeyId, Call>,
    exhausted: HashMap<CounterId, Exhausted>,
    /// Answers that came to the store.
    answers: u64,
}

struct Inner {
    ledger: Ledger,
    counters: Arc<Counters>,
    memberships: Memberships,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    book: Mutex<Book>,
}

/// Carries grants. Clones share it.
#[derive(Clone)]
pub struct Grants(Arc<Inner>);

impl Grants {
    /// A carrier from `ledger` into `counters`.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        counters: Arc<Counters>,
        memberships: Memberships,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Inner { ledger, counters, memberships, clock, shutdown, book: Mutex::default() }))
    }

    /// Now, for [`Self::left`]: taken before the store is asked.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        AsOf(self.0.book.lock().answers)
    }

    /// What the ledger has left for a counter, as far as it said so a moment ago, to whoever asked the store at `asked`.
    #[must_use]
    pub fn left(&self, counter: &CounterId, asked: AsOf) -> Left {
        let now = self.0.clock.now();
        let exhausted = self.0.book.lock().exhausted.get(counter).copied();
        match exhausted.filter(|exhausted| exhausted.until > now) {
            Some(Exhausted { since, .. }) if since > asked => Left::NothingSince,
            Some(Exhausted { unsettled, .. }) => Left::Nothing { unsettled },
            None => Left::Unknown,
        }
    }

    /// Forgets what the ledger said about the key: its limits changed.
    pub fn forget(&self, key: KeyId) {
        self.0.book.lock().exhausted.retain(|counter, _| counter.key != key);
    }

    /// Joins the epoch of this life and asks the ledger for more, or joins a call of the same key that is under way. Afterwards there may be more
    /// in the store, or the ledger has nothing [`Self::left`], or others of the same key took what came, or the books are of another life: the
    /// caller looks again.
    ///
    /// # Errors
    /// [`GrantError`]: fail closed.
    pub async fn acquire(&self, key: KeyId, life: LifeId, wants: &[Want]) -> Result<Brought, GrantError> {
        let carrier = self.clone();
        let wants = wants.to_vec();
        let (call, _) = self.enter(key, || async move { carrier.call(key, life, &wants).await }.boxed());
        call.await
    }

    /// Ends the life of the key's books if it is `life`. Once its members have left it, the ledger knows from their records what it really spent.
    ///
    /// # Errors
    /// [`GrantError::Store`].
    pub async fn give_up(&self, key: KeyId, life: LifeId) -> Result<(), GrantError> {
        let carrier = self.clone();
        let (call, _) = self.enter(key, || async move { carrier.begin_a_new_life(key, life).await }.boxed());
        call.await.map(drop)
    }

    /// Finds out whether this node is a member of a life that nobody uses any more, so that it can be left.
    pub async fn confirm(&self, key: KeyId, life: LifeId) {
        let carrier = self.clone();
        let (call, is_new) = self.enter(key, || async move { carrier.confirm_now(key, life).await }.boxed());
        if is_new && let Err(error) = call.await {
            tracing::debug!(%key, %error, "a membership is not sure yet");
        }
    }

    /// The call of `key` that is under way, or a new one, and whether it is new. Only inside of one is the ledger asked about a key, so that its
    /// answers are taken in the order in which they were given. A task of its own brings a new one to its end, so that a caller who is gone
    /// leaves nothing behind.
    fn enter(&self, key: KeyId, new: impl FnOnce() -> BoxFuture<'static, Result<Brought, GrantError>>) -> (Call, bool) {
        let mut book = self.0.book.lock();
        if let Some(call) = book.calls.get(&key) {
            return (call.clone(), false);
        }
        let (carrier, work) = (self.clone(), new());
        let call = async move {
            // A call that panics is over like any other: those who wait for it hear so, and the next one begins anew.
            let result = AssertUnwindSafe(work).catch_unwind().await;
            // Before anyone sees the result: whoever then finds too little must be able to begin a new call.
            carrier.0.book.lock().calls.remove(&key);
            result.unwrap_or_else(|_panic| {
                tracing::error!(%key, "a call for grants panicked; please report it");
                Err(GrantError::Ledger)
            })
        };
        let call = call.boxed().shared();
        book.calls.insert(key, call.clone());
        let driven = call.clone();
        drop(self.0.shutdown.spawn_background("grants", async move {
            if let Err(error) = driven.await {
                tracing::debug!(%key, %error, "a call for grants failed");
            }
        }));
        (call, true)
    }

    async fn confirm_now(&self, key: KeyId, life: LifeId) -> Result<Brought, GrantError> {
        let memberships = &self.0.memberships;
        match self.0.ledger.acquire(key, life, &[]).await {
            Ok(joined) => memberships.confirmed(key, life, joined.set.epoch, joined.set.serial),
            Err(LedgerError::Lost(_) | LedgerError::Away) => return Err(GrantError::Ledger),
            Err(LedgerError::Over | LedgerError::NotYet(_) | LedgerError::Refused(_)) => memberships.over(key, life),
        }
        Ok(Brought::Answer)
    }

    async fn call(&self, key: KeyId, life: LifeId, wants: &[Want]) -> Result<Brought, GrantError> {
        let mut answer = match self.ask(key, life, wants).await {
            Ok(answer) => answer,
            Err(LedgerError::Over) => return self.begin_a_new_life(key, life).await,
            Err(error) => {
                // Also when the key or its policy changed a moment ago: the next request will see that.
                tracing::debug!(%key, %error, "nothing was granted");
                return Err(GrantError::Ledger);
            }
        };
        if self.collect(key, &answer).await
            && let Ok(second) = self.ask(key, life, wants).await
        {
            answer = second;
        }
        self.apply(key, &answer).await?;
        self.remember(wants, &answer.said);
        Ok(Brought::Answer)
    }

    /// Asks the ledger, and notes what that means for the memberships.
    async fn ask(&self, key: KeyId, life: LifeId, wants: &[Want]) -> Result<Acquired, LedgerError> {
        let memberships = &self.0.memberships;
        let answer = self.0.ledger.acquire(key, life, wants).await;
        match &answer {
            Ok(answer) => memberships.joined(key, life, answer.set.epoch, answer.set.serial),
            Err(LedgerError::Over) => memberships.over(key, life),
            Err(LedgerError::Lost(_)) => memberships.lost(key, life),
            Err(LedgerError::NotYet(_) | LedgerError::Refused(_) | LedgerError::Away) => {}
        }
        answer
    }

    async fn begin_a_new_life(&self, key: KeyId, life: LifeId) -> Result<Brought, GrantError> {
        tracing::debug!(%key, %life, "the books begin a new life");
        self.0.counters.vacate(key, life).await.map_err(|_| GrantError::Store)?;
        Ok(Brought::NewLife)
    }

    /// Takes an answer to the store. Books of another life do not want it, and their reader will see that.
    async fn apply(&self, key: KeyId, answer: &Acquired) -> Result<(), GrantError> {
        match self.0.counters.grant(key, &answer.set).await {
            Ok(()) | Err(CounterError::Life { .. }) => Ok(()),
            Err(CounterError::Unavailable(_)) => Err(GrantError::Store),
            Err(error @ (CounterError::Epoch { .. } | CounterError::ForeignCounter { .. })) => {
                tracing::error!(%key, %error, "the ledger's answer does not fit the books");
                Err(GrantError::Ledger)
            }
        }
    }

    /// Remembers which wants the ledger could not cover.
    fn remember(&self, wants: &[Want], said: &[Said]) {
        let now = self.0.clock.now();
        let mut book = self.0.book.lock();
        book.answers += 1;
        let since = AsOf(book.answers);
        if book.exhausted.len() > MOST_REMEMBERED {
            book.exhausted.retain(|_, exhausted| exhausted.until > now);
        }
        for want in wants {
            match said.iter().find(|said| said.counter == want.counter && said.leaves_short(want)) {
                Some(Said { unsettled, .. }) => {
                    let time = if *unsettled == 0 { REMEMBER_SPENT } else { REMEMBER_EXHAUSTED };
                    let until = now.saturating_add(time);
                    book.exhausted.insert(want.counter, Exhausted { until, unsettled: *unsettled, since });
                }
                None => {
                    book.exhausted.remove(&want.counter);
                }
            }
        }
    }

    /// Lets the books of other keys give back what they do not use of a workspace's limit that could not cover a want; answers whether any did.
    async fn collect(&self, key: KeyId, answer: &Acquired) -> bool {
        let others = answer.holders.iter().filter(|holder| holder.key != key);
        let given_back = join_all(others.map(|holder| self.collect_from(*holder))).await;
        given_back.contains(&true)
    }

    async fn collect_from(&self, holder: Holder) -> bool {
        // Books of another life, or in another store, have nothing of what was meant.
        let Ok(Some(lowered)) = self.0.counters.claw_back(holder.key).await else { return false };
        // What it had may be had again, from whoever has it then.
        self.forget(holder.key);
        if lowered.life != holder.life {
            tracing::debug!(key = %holder.key, "the books of a holder are of another life");
        }
        match self.0.ledger.give_back(holder.key, &lowered).await {
            Ok(()) => true,
            Err(error) => {
                // Its next request gets back what the ledger still counts as granted.
                tracing::debug!(key = %holder.key, %error, "a holder could not give back");
                false
            }
        }
    }
}
