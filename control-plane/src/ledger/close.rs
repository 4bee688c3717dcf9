//! The end of a counter store: what it did not use is free again, once every record of it is chained.

use keyforge_shared::id::{BootId, CounterStoreId};

use super::{Ledger, LedgerError};
use crate::store::{StoreError, boots, ledger};

impl Ledger {
    /// Closes every open epoch of `store`, whose boot wrote `last_seq` records. Closing again changes nothing. Returns how many it closed:
    /// none when records of the boot were declared lost, because then nobody knows what was spent, and its grants stay written off.
    ///
    /// # Errors
    /// [`LedgerError::NotShipped`] until the boot's watermark has reached `last_seq`; [`LedgerError::Foreign`]; [`LedgerError::Store`].
    pub async fn close_store(&self, store: CounterStoreId, boot: BootId, last_seq: u64) -> Result<u64, LedgerError> {
        let mut tx = self.store.write().await?;
        if ledger::store_facts(&mut tx, store, boot).await?.foreign {
            return Err(LedgerError::Foreign { store, boot });
        }
        let known = boots::get(&mut tx, boot).await?;
        if known.is_some_and(|known| known.closed_at.is_some()) {
            tracing::warn!(%store, %boot, "records of this boot are lost, so what it was granted stays written off");
            return Ok(0);
        }
        let watermark = known.map_or(0, |known| known.watermark);
        if watermark < last_seq {
            return Err(LedgerError::NotShipped { last_seq, watermark });
        }
        let closed = ledger::close_epochs(&mut tx, store, self.clock.now()).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(closed)
    }
}
