//! Balances: the limits that a key is under, in their current periods, for people.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, touched};

use super::{Ledger, LedgerError, limited};
use crate::store::ledger;

/// One limit in its current period. Amounts are requests, or nano-dollars; those of a workspace's limit are of all its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Whose limit, what is limited, and in which period.
    pub counter: CounterId,
    /// First moment after the period; [`Timestamp::MAX`] when it never ends.
    pub period_end: Timestamp,
    /// The limit.
    pub limit: u64,
    /// Proven by chained entries.
    pub settled: u64,
    /// Handed to counter stores, and not yet settled or returned.
    pub outstanding: u64,
}

impl Ledger {
    /// The balances of a key now, its own before its workspace's, requests before spend.
    ///
    /// # Errors
    /// [`LedgerError::UnknownKey`], [`LedgerError::Store`].
    pub async fn balance(&self, key: KeyId) -> Result<Vec<Balance>, LedgerError> {
        let mut tx = self.store.read().await?;
        let (key, workspace) = limited(&mut tx, key).await?;
        let mut balances = Vec::new();
        for touched in touched(&key, &workspace, self.clock.now()) {
            let sums = ledger::sums(&mut tx, &touched.counter, None).await?;
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
