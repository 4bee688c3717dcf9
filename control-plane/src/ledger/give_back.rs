//! What a life no longer allows goes back to everybody.

use keyforge_shared::id::{BootId, KeyId, LifeId};
use keyforge_shared::limit::CounterId;

use super::{Ledger, LedgerError};
use crate::store::ledger::{self, Books};
use crate::store::locks::{self, Hold};
use crate::store::{StoreError, boots, epochs};

/// A life's new ceilings. Its books must have lowered their own before this is said, and must never apply an answer up to `serial` afterwards.
/// Whoever could lower them may say so: it need not be a member of the epoch.
#[derive(Clone, Debug)]
pub struct GiveBack {
    /// Who says so.
    pub boot: BootId,
    /// The life.
    pub life: LifeId,
    /// The key.
    pub key: KeyId,
    /// The life's epoch.
    pub epoch: u32,
    /// Serial of the newest answer that the books have applied.
    pub serial: u64,
    /// Counters with what they may spend from now on, cumulative.
    pub holdings: Vec<(CounterId, u64)>,
}

impl Ledger {
    /// Lowers what an open epoch was granted to the ceilings given, but never below what it has settled, and never raises it. Doing so again
    /// changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::Overtaken`] when grants were told since, which the ceilings do not know; [`LedgerError::Over`],
    /// [`LedgerError::WrongEpoch`], [`LedgerError::BootOver`], [`LedgerError::Store`]. Nothing was changed then.
    pub async fn give_back(&self, given: &GiveBack) -> Result<(), LedgerError> {
        let GiveBack { key, life, epoch, .. } = *given;
        let mut tx = self.store.write().await?;
        locks::life(&mut tx, given.boot, Hold::Shared).await?;
        locks::books(&mut tx, &[key]).await?;
        if boots::is_over(&mut tx, given.boot).await? {
            return Err(LedgerError::BootOver(given.boot));
        }
        let known = epochs::of_life(&mut tx, key, life).await?.filter(|known| known.epoch == epoch);
        if !known.ok_or(LedgerError::WrongEpoch { key, life, epoch })?.open {
            return Err(LedgerError::Over(life));
        }
        if !epochs::take_return(&mut tx, key, epoch, given.serial).await? {
            return Err(LedgerError::Overtaken(key));
        }
        for (counter, ceiling) in &given.holdings {
            let Some(books) = ledger::books(&mut tx, counter, epoch).await? else { continue };
            // The life counts from nothing, the books from what was settled before them.
            let granted = books.granted.min(books.settled.max(books.before.saturating_add(*ceiling)));
            ledger::set_books(&mut tx, counter, epoch, Books { granted, ..books }).await?;
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(())
    }
}
