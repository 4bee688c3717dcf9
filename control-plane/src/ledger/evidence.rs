//! Evidence: what the chained entries of a key say was used, and whether the ledger's books agree.
//!
//! Quota and audit check each other: for every known counter, what its books have settled is the sum over entries, each epoch's own while it is
//! open and all others' together. Either one changed alone breaks that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::period::CivilDay;

use super::{Ledger, LedgerError};
use crate::store::ledger::{self, Books};
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

    pub(super) const fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.spend = self.spend.saturating_add(other.spend);
    }
}

impl From<&RequestRecord> for Used {
    fn from(record: &RequestRecord) -> Self {
        Self { requests: u64::from(record.takes_from_request_quota()), spend: record.cost.nanos() }
    }
}

/// What records of one key used, by epoch and day in the key's calendar. Those that touched no limit name epoch 0.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<(u32, CivilDay), Used>);

impl Tally {
    /// Adds a record.
    pub fn add(&mut self, record: &RequestRecord) {
        let day = CivilDay::from_number(record.period);
        self.0.entry((record.quota_epoch, day)).or_default().add(record.into());
    }

    /// Epoch, day and use.
    pub fn iter(&self) -> impl Iterator<Item = (u32, CivilDay, Used)> {
        self.0.iter().map(|((epoch, day), used)| (*epoch, *day, *used))
    }

    /// Every epoch that records name, once, in order.
    pub(super) fn epochs(&self) -> BTreeSet<u32> {
        self.0.keys().map(|(epoch, _)| *epoch).collect()
    }

    /// What `counter` used in the epochs that `which` names, as far as the database can hold it.
    pub(super) fn of(&self, counter: &CounterId, which: impl Fn(u32) -> bool) -> u64 {
        let inside =
            self.iter().filter(|(epoch, day, _)| which(*epoch) && counter.window.first_day(*day) == counter.first_day);
        let sum = inside.fold(0u64, |sum, (_, _, used)| sum.saturating_add(used.of(counter.dimension)));
        sum.min(i64::MAX.unsigned_abs())
    }

    /// Everything in which the books differ from this. `books` are all of the key, with their epochs.
    #[must_use]
    pub fn mismatches(&self, books: &[(CounterId, u32, Books)]) -> Vec<Mismatch> {
        let mut counters: BTreeMap<CounterId, BTreeMap<u32, u64>> = BTreeMap::new();
        for (counter, epoch, books) in books {
            counters.entry(*counter).or_default().insert(*epoch, books.settled);
        }
        let mut found = Vec::new();
        for (counter, settled_by) in &counters {
            let own = settled_by.iter().filter(|(epoch, _)| **epoch > 0);
            let own = own.map(|(epoch, settled)| (*epoch, *settled, self.of(counter, |of| of == *epoch)));
            // What has no books of its own counts in those of epoch 0.
            let rest = self.of(counter, |of| of == 0 || !settled_by.contains_key(&of));
            let all = own.chain([(0, settled_by.get(&0).copied().unwrap_or(0), rest)]);
            found.extend(
                all.filter(|(_, settled, chained)| settled != chained)
                    .map(|(epoch, settled, chained)| Mismatch::Amount { counter: *counter, epoch, settled, chained }),
            );
        }
        let has_books = |epoch: u32| books.iter().any(|(_, of, _)| *of == 0 || *of == epoch);
        let without = self.epochs().into_iter().filter(|epoch| *epoch > 0 && !has_books(*epoch));
        found.extend(without.map(|epoch| Mismatch::NoBooks { epoch }));
        found
    }
}

/// One way in which ledger and chain contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The books of a counter are not the sum of its entries.
    Amount {
        /// The counter.
        counter: CounterId,
        /// The epoch; 0 for all that have no books of their own.
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
        let (counter, epoch, settled, chained) = match self {
            Self::Amount { counter, epoch, settled, chained } => (counter, epoch, settled, chained),
            Self::NoBooks { epoch } => {
                return write!(f, "entries name epoch {epoch}, of which the ledger has no books");
            }
        };
        let (whose, what) = (counter.scope.as_str(), counter.dimension.as_str());
        write!(f, "{what} per {} from {} under the limit of the {whose}, ", counter.window, counter.first_day)?;
        match epoch {
            0 => f.write_str("outside of open epochs")?,
            epoch => write!(f, "in epoch {epoch}")?,
        }
        write!(f, ": the ledger settled {settled}, the entries say {chained}")
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

/// Reads a stored record.
pub(super) fn decode(record: &[u8]) -> Result<Record, StoreError> {
    Record::decode(record).map_err(|_| StoreError::Corrupt("record"))
}
