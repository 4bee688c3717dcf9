//! Grants: slices of limits, written off for one counter store before it may spend them.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, CounterStoreId, KeyId};
use keyforge_shared::limit::CounterId;
use keyforge_shared::period::Period;
use sqlx::SqliteConnection;

use super::{Ledger, LedgerError, STAGING, evidence, is_active, limit_of};
use crate::store::ledger::{self, Books, Epoch};
use crate::store::{StoreError, boots, keys};

/// A grant is at least this many times what is needed now, so that a burst does not ask for each request.
const NEEDS_PER_GRANT: u64 = 4;
/// A grant is at least this part of what is left, so that a large budget is not handed out in crumbs, and at most that part is lost to a crash.
const SHARES: u64 = 8;

/// A counter store's question for more.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Whose process the store lives in.
    pub boot: BootId,
    /// The store.
    pub store: CounterStoreId,
    /// The key.
    pub key: KeyId,
    /// Counters of that key, at least one.
    pub wants: Vec<Want>,
}

/// What a store needs of one counter.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The counter.
    pub counter: CounterId,
    /// Needed now, beyond what is free in the store: requests or nano-dollars.
    pub amount: u64,
}

/// What a store may spend.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The store's epoch of this key.
    pub epoch: u32,
    /// One for each want, in the same order.
    pub grants: Vec<Grant>,
    /// Serial of this answer among all changes of the store's grants of this key.
    pub serial: u64,
}

/// What a store may spend of one counter. Amounts are requests, or nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The counter.
    pub counter: CounterId,
    /// First moment after its period.
    pub period_end: Timestamp,
    /// Cumulative in this epoch: asking again never takes anything away.
    pub granted: u64,
    /// The policy's limit.
    pub limit: u64,
    /// What could still be granted to anyone.
    pub available: u64,
    /// What counts against the limit and is not in the store's own counter: what other epochs have settled or were granted, and what this
    /// one settled before the limit existed. The store may spend at most `limit - elsewhere`, whatever it was granted.
    pub elsewhere: u64,
}

struct Due {
    want: Want,
    period: Period,
    limit: u64,
}

impl Ledger {
    /// Grants what can be granted of each want, down to nothing, in one transaction. Opens the store's epoch of this key if there is none.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing was granted then.
    pub async fn acquire(&self, ask: &Acquire) -> Result<Granted, LedgerError> {
        let now = self.clock.now();
        let mut tx = self.store.write().await?;
        let key = keys::get(&mut tx, ask.key).await?.ok_or(LedgerError::UnknownKey(ask.key))?.record;
        if !is_active(&key, now) {
            return Err(LedgerError::NotActive(ask.key));
        }
        let due = ask.wants.iter().map(|want| {
            let limit = limit_of(&key.policy, &want.counter).ok_or(LedgerError::NoSuchLimit(want.counter))?;
            let period = present_period(&want.counter, now).ok_or(LedgerError::WrongPeriod(want.counter))?;
            Ok(Due { want: *want, period, limit })
        });
        let due = due.collect::<Result<Vec<_>, LedgerError>>()?;

        let (epoch, is_new) = self.epoch(&mut tx, ask, now).await?;
        let mut grants = Vec::with_capacity(due.len());
        for due in &due {
            let books = match ledger::books(&mut tx, &due.want.counter, epoch.epoch).await? {
                Some(books) => books,
                None => evidence::begin_books(&mut tx, key.chain, &epoch, is_new, &due.want.counter).await?,
            };
            grants.push(grant(&mut tx, &epoch, due, books).await?);
        }
        let serial = ledger::raise_serial(&mut tx, ask.key, epoch.epoch, None).await?.unwrap_or_default();
        tx.commit().await.map_err(StoreError::from)?;
        Ok(Granted { epoch: epoch.epoch, grants, serial })
    }

    async fn epoch(
        &self,
        conn: &mut SqliteConnection,
        ask: &Acquire,
        now: Timestamp,
    ) -> Result<(Epoch, bool), LedgerError> {
        let facts = ledger::store_facts(conn, ask.store, ask.boot).await?;
        let lost = boots::get(conn, ask.boot).await?.is_some_and(|boot| boot.closed_at.is_some());
        if facts.foreign {
            return Err(LedgerError::Foreign { store: ask.store, boot: ask.boot });
        }
        if facts.closed || lost {
            return Err(LedgerError::Over(ask.store));
        }
        match ledger::epoch(conn, ask.key, ask.store).await? {
            Some(epoch) => Ok((epoch, false)),
            None => Ok((ledger::open_epoch(conn, ask.key, ask.store, ask.boot, now).await?, true)),
        }
    }
}

/// The period that the counter names, if it is the present one or close to it.
fn present_period(counter: &CounterId, now: Timestamp) -> Option<Period> {
    let staging = i64::try_from(STAGING.as_nanos()).unwrap_or(i64::MAX);
    [0, -staging, staging]
        .map(|offset| counter.window.period_at(Timestamp::from_nanos(now.nanos().saturating_add(offset))))
        .into_iter()
        .find(|period| period.start == counter.period_start)
}

async fn grant(conn: &mut SqliteConnection, epoch: &Epoch, due: &Due, mut books: Books) -> Result<Grant, LedgerError> {
    let Due { want: Want { counter, amount }, period, limit } = due;
    let elsewhere = ledger::sums(conn, counter, epoch.epoch).await?.written_off();
    // More may be settled than was granted: an attempt that was admitted before the limit, or one that cost more than its bound.
    let here = books.granted.max(books.settled);
    let spendable = limit.saturating_sub(elsewhere).saturating_sub(here);
    let slice = spendable.min(amount.saturating_mul(NEEDS_PER_GRANT).max(spendable / SHARES));
    books.granted = books.granted.saturating_add(slice);
    ledger::set_books(conn, counter, epoch.epoch, books).await?;
    Ok(Grant {
        counter: *counter,
        period_end: period.end,
        granted: books.granted.saturating_sub(books.before),
        limit: *limit,
        available: spendable - slice,
        elsewhere: elsewhere.saturating_add(books.before),
    })
}
