//! Balances: the limits that a key is under, in their current periods, for people.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, WorkspaceId};
use keyforge_shared::limit::{CounterId, Touched, shared, touched};
use keyforge_shared::period::Calendar;
use keyforge_shared::state::{KeyRecord, WorkspaceRecord};

use super::signs::expected_since;
use super::{Ledger, LedgerError, limited};
use crate::store::sql::Conn;
use crate::store::{StoreError, keys, ledger, workspaces};

/// Stands for the keys of a workspace that has none: no key has this id, so there is nothing in its books.
const NOBODY: &[u8] = b"000000000000";

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
        let now = self.clock.now();
        let mut tx = self.store.read().await?;
        let (key, workspace) = limited(&mut tx, key).await?;
        let mut balances = Vec::new();
        for touched in touched(&key, &workspace, now) {
            balances.push(balance(&mut tx, &touched, now).await?);
        }
        Ok(balances)
    }

    /// The balances of a workspace now, requests before spend, in the current periods of its keys. Keys of different time zones may be in different
    /// ones; each is there once, and ends when it has ended for the last of them.
    ///
    /// # Errors
    /// [`LedgerError::Store`], also when there is no such workspace.
    pub async fn workspace_balance(&self, workspace: WorkspaceId) -> Result<Vec<Balance>, LedgerError> {
        let now = self.clock.now();
        let mut tx = self.store.read().await?;
        let found = workspaces::get(&mut tx, workspace).await?;
        let workspace = found.ok_or(StoreError::Corrupt("workspace_id"))?.record;
        let keys = keys::one_per_time_zone(&mut tx, workspace.id).await?;
        let mut balances: Vec<Balance> = Vec::new();
        for touched in Self::shared_limits(&keys, &workspace, now) {
            let same = |known: &&mut Balance| known.counter == CounterId { key: known.counter.key, ..touched.counter };
            match balances.iter_mut().find(same) {
                Some(known) => known.period_end = known.period_end.max(touched.period.end),
                None => balances.push(balance(&mut tx, &touched, now).await?),
            }
        }
        balances.sort_by_key(|it| (it.counter.dimension, it.counter.window, it.counter.first_day));
        Ok(balances)
    }

    /// What requests of these keys touch now of their workspace's limits; without any, what one in UTC would.
    fn shared_limits(keys: &[KeyRecord], workspace: &WorkspaceRecord, now: Timestamp) -> Vec<Touched> {
        let nobody = KeyId::from_ascii(NOBODY).ok().filter(|_| keys.is_empty());
        let calendars = keys.iter().map(|key| (key.id, key.policy.calendar()));
        let all = calendars.chain(nobody.map(|key| (key, Calendar::utc())));
        all.flat_map(|(key, calendar)| shared(key, &calendar, workspace, now)).collect()
    }
}

/// Sums over all keys of the limit.
async fn balance(conn: &mut Conn, touched: &Touched, now: Timestamp) -> Result<Balance, LedgerError> {
    let sums = ledger::sums(conn, &touched.counter, None, expected_since(now)).await?;
    Ok(Balance {
        counter: touched.counter,
        period_end: touched.period.end,
        limit: touched.limit,
        settled: sums.settled,
        outstanding: sums.outstanding,
    })
}
