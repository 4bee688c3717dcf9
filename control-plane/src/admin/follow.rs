//! Following what other control planes commit to the same database: their changes are published here in the order of revisions, each under its seal.
//!
//! A mutation follows up to the stored revision while it holds that, so that it decides on what is the case and not on what was. A call of an
//! operator does so as it begins, and a task does so whenever the database says that there is something, so that nodes are told soon.
//! What does not hold under its seal is never published: then this control plane ends, and says so.

use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::state::{Change, Delta, SetHash};
use keyforge_shared::state_seal::SealSum;
use prost::Message as _;

use super::Admin;
use crate::store::sql::Conn;
use crate::store::state_changes::{self, StateChange};
use crate::store::{StoreError, deployment};

impl Admin {
    /// Publishes what others have committed so far.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Corrupt`] when a change does not hold under its seal, or is not kept any more.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let parts = &self.inner;
        if !parts.store.is_shared() {
            return Ok(());
        }
        let mut read = parts.store.read().await?;
        let stored = deployment::revision(&mut read).await?.and_then(|revision| u64::try_from(revision).ok());
        if stored == Some(parts.hub.revision()) {
            return Ok(());
        }
        drop(read);
        // The turn before the connection, as everybody takes them.
        let mut turn = parts.turn.lock().await;
        let mut read = parts.store.read().await?;
        self.catch_up(&mut read, &mut turn).await
    }

    /// Publishes the changes after the published revision that `conn` sees. `sum` is that of the published state.
    pub(super) async fn catch_up(&self, conn: &mut Conn, sum: &mut SealSum) -> Result<(), StoreError> {
        let parts = &self.inner;
        if !parts.store.is_shared() {
            return Ok(());
        }
        for change in state_changes::after(conn, parts.hub.revision()).await? {
            let changes = decode(&change)?;
            let after = parts.hub.with_state(|state| parts.seal.sum_after(*sum, state, &changes));
            let is_next = change.revision == parts.hub.revision() + 1;
            if !is_next || !parts.seal.holds(change.revision, after, &change.state_seal) {
                tracing::error!(
                    revision = change.revision,
                    "a change of the state is missing or was tampered with; nothing of it is served"
                );
                return Err(StoreError::Corrupt("state_changes"));
            }
            parts.hub.commit(changes);
            *sum = after;
        }
        Ok(())
    }

    /// Follows until what is stored cannot be trusted. Ends at once when nobody else writes to the database.
    pub async fn follow(self) {
        let Some(mut listener) = self.inner.store.listener() else { return };
        let mut is_away = false;
        loop {
            match self.refresh().await {
                Ok(()) if is_away => {
                    is_away = false;
                    tracing::info!("the database is back");
                }
                Ok(()) => {}
                Err(error) if error.is_passing() => {
                    if !is_away {
                        tracing::warn!(%error, "the database cannot be reached; calls are refused until it can");
                    }
                    is_away = true;
                }
                Err(error) => {
                    tracing::error!(%error, "the state that others committed cannot be followed");
                    return;
                }
            }
            listener.next().await;
        }
    }
}

/// The row of the changes that lead from `held` to the next revision.
pub(super) fn row(held: u64, changes: &[Change], seal: &[u8; 32]) -> Result<StateChange, StoreError> {
    let set_hash = SetHash::from_slice(&[0; 32]).ok_or(StoreError::Range("the hash"))?;
    let delta = Delta { from: held, to: held + 1, changes: changes.to_vec(), set_hash };
    Ok(StateChange {
        revision: held + 1,
        changes: proto::Delta::from(&delta).encode_to_vec(),
        state_seal: seal.to_vec(),
    })
}

fn decode(change: &StateChange) -> Result<Vec<Change>, StoreError> {
    let corrupt = StoreError::Corrupt("state_changes");
    let Ok(delta) = proto::Delta::decode(change.changes.as_slice()) else { return Err(corrupt) };
    Delta::try_from(delta).map(|delta| delta.changes).map_err(|_| corrupt)
}
