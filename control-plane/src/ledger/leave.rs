//! Boots leave epochs; the last one to leave closes an epoch, and what it did not use is free again.
//!
//! Nobody leaves before all its records are chained. So when an epoch has no member left, everything that was spent of it is settled.

use keyforge_shared::id::{BootId, KeyId};

use super::{Ledger, LedgerError};
use crate::store::locks::{self, Hold};
use crate::store::sql::Conn;
use crate::store::{StoreError, boots, epochs};

/// A boot's place in an epoch, as the boot knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The key.
    pub key: KeyId,
    /// Its epoch.
    pub epoch: u32,
    /// Serial of the newest answer that the boot got for it.
    pub serial: u64,
}

impl Ledger {
    /// Ends memberships of a boot whose records up to `last_seq` say everything that it spent there. A membership that was renewed since the
    /// answer named stays, and so does every one of a boot whose records are lost: nobody knows what it spent. Leaving again changes nothing.
    /// Returns how many epochs were closed.
    ///
    /// # Errors
    /// [`LedgerError::NotShipped`] until the boot's watermark has reached `last_seq`; [`LedgerError::Store`].
    pub async fn leave(&self, boot: BootId, last_seq: u64, memberships: &[Membership]) -> Result<u64, LedgerError> {
        let now = self.clock.now();
        let mut tx = self.store.write().await?;
        if !may_leave(&mut tx, boot, last_seq).await? {
            return Ok(0);
        }
        let keys: Vec<KeyId> = memberships.iter().map(|membership| membership.key).collect();
        locks::books(&mut tx, &keys).await?;
        let mut closed = 0;
        for Membership { key, epoch, serial } in memberships {
            if epochs::leave(&mut tx, *key, *epoch, boot, *serial).await? {
                closed += u64::from(epochs::close_if_left(&mut tx, *key, *epoch, now).await?);
            }
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(closed)
    }

    /// Ends all memberships of a boot that wrote `last_seq` records, and its right to any other. Closing again changes nothing. Returns how many
    /// epochs were closed: none when records of the boot are lost, because then nobody knows what was spent.
    ///
    /// # Errors
    /// As [`Ledger::leave`].
    pub async fn close_boot(&self, boot: BootId, last_seq: u64) -> Result<u64, LedgerError> {
        let now = self.clock.now();
        let mut tx = self.store.write().await?;
        locks::life(&mut tx, boot, Hold::Alone).await?;
        if !may_leave(&mut tx, boot, last_seq).await? {
            return Ok(0);
        }
        let memberships = epochs::of_boot(&mut tx, boot).await?;
        let keys: Vec<KeyId> = memberships.iter().map(|(key, _)| *key).collect();
        locks::books(&mut tx, &keys).await?;
        let mut closed = 0;
        for (key, epoch) in memberships {
            epochs::leave(&mut tx, key, epoch, boot, u64::MAX).await?;
            closed += u64::from(epochs::close_if_left(&mut tx, key, epoch, now).await?);
        }
        boots::close(&mut tx, boot, now).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(closed)
    }
}

/// Whether everything that the boot spent is known. False when it never will be.
async fn may_leave(conn: &mut Conn, boot: BootId, last_seq: u64) -> Result<bool, LedgerError> {
    let known = boots::get(conn, boot).await?;
    if known.is_some_and(|known| known.lost_at.is_some()) {
        tracing::warn!(%boot, "records of this boot are lost, so what its epochs were granted stays written off");
        return Ok(false);
    }
    let watermark = known.map_or(0, |known| known.watermark);
    if watermark < last_seq {
        return Err(LedgerError::NotShipped { last_seq, watermark });
    }
    Ok(true)
}
