//! Evidence: what the chained entries of a key say was used, and whether the ledger's books agree.
//!
//! Quota and audit check each other: for every counter and epoch, `settled` is the sum over entries. Either one changed alone breaks that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::request::{RequestRecord, start_of_day};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, KeyId};
use keyforge_shared::limit::{CounterId, Dimension};
use sqlx::SqliteConnection;

use super::{Ledger, LedgerError, STAGING};
use crate::store::ledger::{self, Books, Epoch};
use crate::store::{StoreError, chains, entries};

const PAGE: u32 = 1_000;

/// What was used of both dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    requests: u64,
    spend: u64,
}

impl Used {
    /// Requests, or nano-dollars.
    #[must_use]
    pub const fn of(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Requests => self.requests,
            Dimension::Spend => self.spend,
        }
    }
}

/// What records of one key used, by epoch and day.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<(u32, u32), Used>);

impl Tally {
    /// Adds a record. One that touched no limit adds nothing.
    pub fn add(&mut self, record: &RequestRecord) {
        if record.quota_epoch == 0 {
            return;
        }
        let used = self.0.entry((record.quota_epoch, record.period)).or_default();
        used.requests = used.requests.saturating_add(u64::from(record.takes_from_request_quota()));
        used.spend = used.spend.saturating_add(record.cost.nanos());
    }

    /// Epoch, day and use.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, Used)> {
        self.0.iter().map(|((epoch, day), used)| (*epoch, *day, *used))
    }

    /// Every epoch that used something, once, in order.
    fn epochs(&self) -> impl Iterator<Item = u32> {
        self.0.keys().map(|(epoch, _)| *epoch).collect::<BTreeSet<_>>().into_iter()
    }

    /// What `counter` used in `epoch`, as far as the database can hold it.
    #[must_use]
    pub fn of(&self, counter: &CounterId, epoch: u32) -> u64 {
        let days = self.0.range((epoch, 0)..=(epoch, u32::MAX));
        let inside =
            days.filter(|((_, day), _)| counter.window.period_at(start_of_day(*day)).start == counter.period_start);
        let sum = inside.fold(0u64, |sum, (_, used)| sum.saturating_add(used.of(counter.dimension)));
        sum.min(i64::MAX.unsigned_abs())
    }

    /// Everything in which the books differ from this.
    #[must_use]
    pub fn mismatches(&self, books: &[(CounterId, u32, Books)]) -> Vec<Mismatch> {
        let amounts = books.iter().filter_map(|(counter, epoch, books)| {
            let (settled, chained) = (books.settled, self.of(counter, *epoch));
            (settled != chained).then_some(Mismatch::Amount { counter: *counter, epoch: *epoch, settled, chained })
        });
        let without = self.epochs().filter(|epoch| books.iter().all(|(_, of, _)| of != epoch));
        amounts.chain(without.map(|epoch| Mismatch::NoBooks { epoch })).collect()
    }
}

/// One way in which ledger and chain contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The books of a counter are not the sum of its entries.
    Amount {
        /// The counter.
        counter: CounterId,
        /// The epoch.
        epoch: u32,
        /// What the ledger says; requests or nano-dollars.
        settled: u64,
        /// What the entries say.
        chained: u64,
    },
    /// Entries name an epoch that has no books.
    NoBooks {
        /// The epoch.
        epoch: u32,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount { counter, epoch, settled, chained } => write!(
                f,
                "{} per {} from {} in epoch {epoch}: the ledger settled {settled}, the entries say {chained}",
                counter.dimension.as_str(),
                counter.window,
                counter.period_start.rfc3339(),
            ),
            Self::NoBooks { epoch } => write!(f, "entries name epoch {epoch}, of which the ledger has no books"),
        }
    }
}

impl Ledger {
    /// Compares a key's books with its chained entries. Empty when they agree. Does not verify the chain.
    ///
    /// # Errors
    /// [`LedgerError::UnknownKey`], [`LedgerError::Store`].
    pub async fn reconcile(&self, key: KeyId) -> Result<Vec<Mismatch>, LedgerError> {
        let mut tx = self.store.read().await?;
        let chain = chains::chain_of_key(&mut tx, key).await?.ok_or(LedgerError::UnknownKey(key))?;
        let (mut tally, mut at) = (Tally::default(), (0, i64::MAX));
        loop {
            let rows = entries::after(&mut tx, chain.as_bytes(), at, PAGE).await?;
            for row in &rows {
                if let Record::Request(record) = decode(&row.record)? {
                    tally.add(&record);
                }
            }
            match rows.last() {
                Some(last) => at = (last.seq, last.entry_id),
                None => break,
            }
        }
        Ok(tally.mismatches(&ledger::all_books(&mut tx, key).await?))
    }
}

/// Begins a counter's books in an epoch that has none, with what chained entries say it used before. When nobody has books of the counter, its
/// limit may be younger than other epochs as well: those that used something of it get books, too, so that it counts for everybody at once.
pub(super) async fn begin_books(
    conn: &mut SqliteConnection,
    chain: ChainId,
    epoch: &Epoch,
    is_new: bool,
    counter: &CounterId,
) -> Result<Books, StoreError> {
    let is_only = is_new && epoch.epoch == 1;
    let others = !is_only && !ledger::has_books(conn, counter).await?;
    if is_new && !others {
        return Ok(Books::default());
    }
    // Nothing of an epoch was chained before it was opened.
    let opened = if others { Timestamp::from_nanos(i64::MIN) } else { epoch.opened_at };
    let tally = chained_since(conn, chain, counter, opened).await?;
    if others {
        for other in tally.epochs().filter(|other| *other != epoch.epoch) {
            match tally.of(counter, other) {
                0 => {}
                used => ledger::set_books(conn, counter, other, Books::after(used)).await?,
            }
        }
    }
    Ok(Books::after(tally.of(counter, epoch.epoch)))
}

/// The chained entries of a counter's period since `opened`.
async fn chained_since(
    conn: &mut SqliteConnection,
    chain: ChainId,
    counter: &CounterId,
    opened: Timestamp,
) -> Result<Tally, StoreError> {
    // Nothing of a period was chained before the period was staged.
    let staging = i64::try_from(STAGING.as_nanos()).unwrap_or(i64::MAX);
    let since = Timestamp::from_nanos(counter.period_start.nanos().saturating_sub(staging)).max(opened);
    let (mut tally, mut before) = (Tally::default(), i64::MAX);
    loop {
        let rows = entries::before(conn, chain, before, PAGE).await?;
        for row in &rows {
            if Timestamp::from_nanos(row.t_cp) < since {
                return Ok(tally);
            }
            if let Record::Request(record) = decode(&row.record)? {
                tally.add(&record);
            }
        }
        match rows.last() {
            Some(last) => before = last.seq,
            None => return Ok(tally),
        }
    }
}

fn decode(record: &[u8]) -> Result<Record, StoreError> {
    Record::decode(record).map_err(|_| StoreError::Corrupt("record"))
}
