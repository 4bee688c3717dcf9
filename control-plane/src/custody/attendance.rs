//! Attending to the other control planes: each is told which keys this one holds, and which key seals is looked up again and again.

use std::sync::PoisonError;

use super::Custodian;
use super::holders::{self, ATTEND_EVERY};
use super::keys::Keys;
use crate::admin::AdminError;
use crate::admin::deployment::OpenError;
use crate::store::sql::Conn;
use crate::store::{StoreError, locks, vault_keys};
use crate::vault::{Absence, HeldKey};

impl Custodian {
    /// Refuses to let a key seal that another control plane does not hold.
    pub(super) async fn unless_lacking(&self, conn: &mut Conn, to: &HeldKey) -> Result<(), AdminError> {
        let lacking = holders::lacking(conn, &self.configured.instance, to.term).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        Err(AdminError::Precondition(format!(
            "not every control plane holds the vault key {}: it is missing in {}. Name it there as vault.key, and the key before it in \
             vault.previous, as here; it is taken up within {} seconds without a restart. Then rotate again. Nothing was changed",
            to.id,
            lacking.join(", "),
            ATTEND_EVERY.as_secs()
        )))
    }

    /// Reads the keys that are configured now, and holds them from now on.
    pub(super) async fn reload_keys(&self) -> Result<(), AdminError> {
        let absence = Absence::beside_data(self.store.is_shared());
        let read = Keys::load(&self.configured.now()?, absence).await.map_err(refused)?;
        let (keyring, _) = read.open(&self.store, &self.configured.instance).await.map_err(refused)?;
        self.vault.take_up(keyring);
        self.taken_up.notify_one();
        Ok(())
    }

    /// Tells the other control planes again and again which keys this one holds, and follows what they do.
    pub async fn attend(self) {
        let mut often = tokio::time::interval(ATTEND_EVERY);
        loop {
            often.tick().await;
            if let Err(error) = self.look_around().await {
                tracing::warn!(%error, "the other control planes and this one do not agree on the vault keys");
            }
        }
    }

    /// Says once which keys this control plane holds, and looks which key seals now and whether there is one that is to be taken up.
    ///
    /// # Errors
    /// [`AdminError::Precondition`] when this control plane does not have the key that seals, so that it cannot seal anything.
    pub async fn look_around(&self) -> Result<(), AdminError> {
        let changed_at = self.configured.changed_at();
        let is_changed =
            changed_at.is_some() && *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) != changed_at;
        let known = vault_keys::all(&mut *self.store.read().await?).await?;
        let keys = self.vault.keys();
        if is_changed && known.iter().any(|key| keys.of_term(key.term).is_none()) {
            // Another control plane holds a key that this one does not. If this one was given it since, it is taken up; if not, a rotation to it is
            // refused there.
            self.reload_keys().await?;
            *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = changed_at;
        }
        let mut tx = self.store.write().await?;
        // Nobody lets another key seal between the look and what follows from it, here neither.
        locks::state(&mut tx).await?;
        holders::hold(&mut tx, &self.configured.instance, &self.vault.keys()).await?;
        let known = vault_keys::all(&mut tx).await?;
        let sealing = known.iter().find(|key| key.seals).ok_or(StoreError::Corrupt("vault_keys"))?;
        self.vault.seal_with(sealing.term)?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }

    /// Tells the other control planes that this one is gone.
    pub async fn leave(&self) {
        if !self.store.is_shared() {
            return;
        }
        if let Err(error) = holders::leave(&self.store, &self.configured.instance).await {
            tracing::warn!(%error, "the other control planes could not be told that this one stops");
        }
    }
}

/// Keys that cannot be taken up are the operator's to mend; the database's failures are not.
fn refused(error: OpenError) -> AdminError {
    match error {
        OpenError::Store(error) => error.into(),
        other => AdminError::Precondition(other.to_string()),
    }
}
