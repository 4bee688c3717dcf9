//! What a store no longer allows goes back to everybody.

use keyforge_shared::id::{BootId, CounterStoreId, KeyId};
use keyforge_shared::limit::CounterId;

use super::{Ledger, LedgerError};
use crate::store::StoreError;
use crate::store::ledger::{self, Books};

/// A store's new ceilings. It must have lowered its own before it says so, and must not ask for more before this is answered.
#[derive(Clone, Debug)]
pub struct GiveBack {
    /// Whose process the store lives in.
    pub boot: BootId,
    /// The store.
    pub store: CounterStoreId,
    /// The key.
    pub key: KeyId,
    /// The store's epoch of that key.
    pub epoch: u32,
    /// Serial of the newest grants that the store has applied.
    pub serial: u64,
    /// Counters with what they may spend from now on, cumulative.
    pub holdings: Vec<(CounterId, u64)>,
}

impl Ledger {
    /// Lowers what an open epoch was granted to the ceilings given, but never below what it has settled, and never raises it.
    ///
    /// # Errors
    /// [`LedgerError::Overtaken`] when the store was granted something since, which the ceilings do not know; [`LedgerError::Over`],
    /// [`LedgerError::Foreign`], [`LedgerError::Store`]. Nothing was changed then.
    pub async fn give_back(&self, given: &GiveBack) -> Result<(), LedgerError> {
        let mut tx = self.store.write().await?;
        let epoch = ledger::epoch(&mut tx, given.key, given.store).await?;
        let epoch = epoch.filter(|epoch| epoch.epoch == given.epoch && epoch.boot == given.boot);
        let epoch = epoch.ok_or(LedgerError::Foreign { store: given.store, boot: given.boot })?;
        if !epoch.open {
            return Err(LedgerError::Over(given.store));
        }
        if ledger::raise_serial(&mut tx, given.key, epoch.epoch, Some(given.serial)).await?.is_none() {
            return Err(LedgerError::Overtaken(given.key));
        }
        for (counter, ceiling) in &given.holdings {
            let Some(books) = ledger::books(&mut tx, counter, epoch.epoch).await? else { continue };
            // The store counts from nothing, the books from what the epoch had settled before them.
            let granted = books.granted.min(books.settled.max(books.before.saturating_add(*ceiling)));
            ledger::set_books(&mut tx, counter, epoch.epoch, Books { granted, ..books }).await?;
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(())
    }
}
