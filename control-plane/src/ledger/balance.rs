//! Balances: a key's limits in their current periods, for people.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, touched};

use super::{Ledger, LedgerError};
use crate::store::{keys, ledger};

/// One limit in its current period. Amounts are requests, or nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// What is limited, and in which period.
    pub counter: CounterId,
    /// First moment after the period; [`Timestamp::MAX`] when it never ends.
    pub period_end: Timestamp,
    /// The policy's limit.
    pub limit: u64,
    /// Proven by chained entries.
    pub settled: u64,
    /// Handed to counter stores, and not yet settled or returned.
    pub outstanding: u64,
}

impl Ledger {
    /// The balances of a key now, requests before spend.
    ///
    /// # Errors
    /// [`LedgerError::UnknownKey`], [`LedgerError::Store`].
    pub async fn balance(&self, key: KeyId) -> Result<Vec<Balance>, LedgerError> {
        let mut tx = self.store.read().await?;
        let policy = keys::get(&mut tx, key).await?.ok_or(LedgerError::UnknownKey(key))?.record.policy;
        let mut balances = Vec::new();
        for touched in touched(key, &policy, self.clock.now()) {
            let sums = ledger::sums(&mut tx, &touched.counter, 0).await?;
            balances.push(Balance {
                counter: touched.counter,
                period_end: touched.period.end,
                limit: touched.limit,
                settled: sums.settled,
                outstanding: sums.outstanding,
            });
        }
        Ok(balances)
    }
}
