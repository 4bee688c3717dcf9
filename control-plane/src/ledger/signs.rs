//! Signs of life: which members of epochs are still there.
//!
//! What a silent boot was granted stays written off, since it may have spent it. But it is not expected back: who asks for more is told that it is
//! spent, instead of being told to wait for a node that may never return. When the node does return, its records settle what it used, and the rest
//! is free again.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::BootId;

use super::{Ledger, LedgerError};
use crate::store::{StoreError, boot_signs, nodes};

/// How long nothing is heard of a boot before it is not expected back: more than a restart of a machine takes.
pub const SILENCE: Duration = Duration::from_mins(15);

/// Boots that are noted in one transaction: who asks for grants waits for no more of them.
const AT_ONCE: usize = 100;

/// The moment since when a boot must have been heard of at `now` to be expected back.
pub(super) fn expected_since(now: Timestamp) -> Timestamp {
    let silence = i64::try_from(SILENCE.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(now.nanos().saturating_sub(silence))
}

impl Ledger {
    /// These boots are there now. Those that were silent for long and are members of nothing are forgotten, and notes of whose boots are whose as far as
    /// nobody needs them.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub async fn hear_of(&self, boots: &[BootId]) -> Result<(), LedgerError> {
        let now = self.clock.now();
        let mut boots = boots.to_vec();
        // In one order, so that control planes that hear of the same boots do not wait for each other.
        boots.sort_unstable();
        boots.dedup();
        for boots in boots.chunks(AT_ONCE) {
            let mut tx = self.store.write().await?;
            boot_signs::note(&mut tx, boots, now).await?;
            tx.commit().await.map_err(StoreError::from)?;
        }
        let mut tx = self.store.write().await?;
        boot_signs::forget(&mut tx, expected_since(now)).await?;
        nodes::forget_boots(&mut tx).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(())
    }
}
