//! Following what other control planes commit to the same database: their changes are published here in the order of revisions, each under its seal,
//! and operators are who they are there.
//!
//! A mutation follows up to the stored revision while it holds that, so that it decides on what is the case and not on what was. A call of an
//! operator does so as it begins, and a task does so whenever the database says that there is something, so that nodes are told soon, and whenever
//! a node wants to know whether it knows everything. What does not hold under its seal is never published: then this control plane ends, and says so.

use std::sync::Arc;
use std::time::Duration;

use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::state::{Change, Delta, SetHash};
use keyforge_shared::state_seal::SealSum;
use prost::Message as _;

use super::Admin;
use super::roster::Roster;
use crate::publish::horizon::Horizon;
use crate::registry::Registry;
use crate::store::sql::Conn;
use crate::store::state_changes::{self, StateChange};
use crate::store::{StoreError, deployment, operators};

/// A database that does not answer for so long is away.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Looks that only nodes wait for are this far apart.
const LOOK_APART: Duration = Duration::from_millis(100);

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
        let stored = deployment::position(&mut read).await?;
        if stored == Some(self.position()) {
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
        let committed = state_changes::after(conn, parts.hub.revision()).await?;
        let roster = self.roster_after(conn, &committed).await?;
        let position = deployment::position(conn).await?;
        // From here on nothing waits: who gave up in between would leave a state that is ahead of its operators, as if somebody had changed it.
        let mut operators = *self.roster().digest();
        for change in committed {
            let changes = decode(&change)?;
            operators = operators_digest(&change).unwrap_or(operators);
            let after = parts.hub.with_state(|state| parts.seal.sum_after(*sum, state, &changes));
            let is_next = change.revision == parts.hub.revision() + 1;
            if !is_next || !parts.seal.holds(change.revision, after, &operators, &change.state_seal) {
                tracing::error!(
                    revision = change.revision,
                    "a change of the state is missing or was tampered with; nothing of it is served"
                );
                return Err(StoreError::Corrupt("state_changes"));
            }
            parts.hub.commit(changes);
            *sum = after;
        }
        // A database that was put back, or whose seal was changed alone, has nothing to follow to.
        let stored = position.filter(|(revision, seal)| {
            *revision == parts.hub.revision() && parts.seal.holds(*revision, *sum, &operators, seal)
        });
        let Some(stored) = stored else {
            tracing::error!(
                revision = parts.hub.revision(),
                "the database does not hold the state that was published: it was put back to an earlier one, or tampered with"
            );
            return Err(StoreError::Corrupt("deployment"));
        };
        if let Some(roster) = roster {
            self.replace_roster(Arc::new(roster));
        }
        // Last, because whoever finds it where the database is looks no further.
        self.set_position(stored);
        Ok(())
    }

    /// The operators after these changes, when others changed them. `conn` sees them as of the last change.
    async fn roster_after(&self, conn: &mut Conn, committed: &[StateChange]) -> Result<Option<Roster>, StoreError> {
        let last = committed.iter().rev().find_map(operators_digest);
        let Some(digest) = last.filter(|digest| digest != self.roster().digest()) else { return Ok(None) };
        let roster = Roster::new(operators::all(conn).await?);
        if *roster.digest() == digest { Ok(Some(roster)) } else { Err(StoreError::Corrupt("operators")) }
    }

    /// Follows until what is stored cannot be trusted, and says to `horizon` how far, which it does only as one of `registry`. A database that refuses
    /// for any other reason is away until it does no longer. Ends at once when nobody else writes to the database.
    pub async fn follow(self, horizon: Horizon, registry: Registry) {
        let Some(mut listener) = self.inner.store.listener() else { return };
        let mut is_away = false;
        loop {
            let began = horizon.now();
            match self.look_at_others(&registry).await {
                Ok(None) => {
                    horizon.looked(began);
                    if std::mem::take(&mut is_away) {
                        tracing::info!("the database is back");
                    }
                }
                Ok(Some(why)) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(
                            why,
                            "the database cannot be used; until it can, calls are refused, and nodes do not learn that their state is fresh"
                        );
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the state that others committed cannot be followed");
                    return;
                }
            }
            tokio::select! {
                () = listener.next() => {}
                // The nodes' beats of a while are answered with one look.
                () = async { tokio::join!(horizon.wanted(), tokio::time::sleep(LOOK_APART)); } => {}
            }
        }
    }

    /// Follows once; says why the database could not be used, if it could not.
    async fn look_at_others(&self, registry: &Registry) -> Result<Option<String>, StoreError> {
        let look = async {
            // In this order: whoever reads the registry after a change that this look misses finds this control plane there.
            registry.stand().await?;
            self.refresh().await
        };
        match tokio::time::timeout(LOOK_TIMEOUT, look).await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(error)) if error.is_of_the_stored() => Err(error),
            Ok(Err(error)) => Ok(Some(error.to_string())),
            Err(_) => Ok(Some(format!("no answer within {} s", LOOK_TIMEOUT.as_secs()))),
        }
    }
}

/// The row of the changes that lead from `held` to the next revision.
pub(super) fn row(
    held: u64,
    changes: &[Change],
    seal: &[u8; 32],
    operators: &[u8; 32],
) -> Result<StateChange, StoreError> {
    let set_hash = SetHash::from_slice(&[0; 32]).ok_or(StoreError::Range("the hash"))?;
    let delta = Delta { from: held, to: held + 1, changes: changes.to_vec(), set_hash };
    Ok(StateChange {
        revision: held + 1,
        changes: proto::Delta::from(&delta).encode_to_vec(),
        state_seal: seal.to_vec(),
        operators_digest: operators.to_vec(),
    })
}

fn operators_digest(change: &StateChange) -> Option<[u8; 32]> {
    change.operators_digest.as_slice().try_into().ok()
}

fn decode(change: &StateChange) -> Result<Vec<Change>, StoreError> {
    let corrupt = StoreError::Corrupt("state_changes");
    let Ok(delta) = proto::Delta::decode(change.changes.as_slice()) else { return Err(corrupt) };
    Delta::try_from(delta).map(|delta| delta.changes).map_err(|_| corrupt)
}
