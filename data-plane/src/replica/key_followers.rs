//! What follows when keys and workspaces change: changed limits give grants back, and a key that an operator unfroze works again.

use std::sync::Arc;

use hashbrown::HashSet;
use keyforge_shared::id::WorkspaceId;
use keyforge_shared::state::KeyStatus;

use super::Replica;
use super::differences::{Changes, KeyChange};
use crate::grants::returns::Returns;
use crate::memberships::Memberships;
use crate::settlements::Settlements;

/// Lets counters follow the keys.
pub struct KeyFollowers {
    replica: Arc<Replica>,
    memberships: Memberships,
    returns: Returns,
    settlements: Settlements,
}

impl KeyFollowers {
    /// Lets what is counted for the keys of `replica` follow.
    #[must_use]
    pub const fn new(
        replica: Arc<Replica>,
        memberships: Memberships,
        returns: Returns,
        settlements: Settlements,
    ) -> Self {
        Self { replica, memberships, returns, settlements }
    }

    /// The state changed; the replica already shows it.
    pub fn changed(&self, changes: &Changes) {
        let mut concerned: HashSet<_> = changes.keys.iter().filter_map(|change| self.key_changed(change)).collect();
        let workspaces: HashSet<WorkspaceId> = changes.workspaces.iter().copied().collect();
        if concerned.is_empty() && workspaces.is_empty() {
            return;
        }
        let members = self.memberships.keys();
        if !workspaces.is_empty() {
            let of_changed = |key| self.replica.key(key).is_some_and(|key| workspaces.contains(&key.workspace));
            concerned.extend(members.iter().copied().filter(|key| of_changed(*key)));
        }
        // Whoever was granted nothing through this node has nothing to give back here.
        for key in members.into_iter().filter(|key| concerned.contains(key)) {
            self.returns.add(key);
        }
    }

    /// The key, if its grants are void.
    fn key_changed(&self, change: &KeyChange) -> Option<keyforge_shared::id::KeyId> {
        let (before, now) = (change.before.as_ref()?, change.now.as_ref()?);
        match now.status {
            // Its stop may have been missed here, and not in the store.
            KeyStatus::Active if before.status_revision < now.status_revision => {
                self.settlements.unfreeze(now.id, now.status_revision);
            }
            // Its stop is of a past that was undone, and the store was told of it.
            KeyStatus::Active if before.status_revision > now.status_revision => {
                self.settlements.unfreeze(now.id, before.status_revision.saturating_add(1));
            }
            KeyStatus::Paused | KeyStatus::Revoked if before.status != now.status => {
                self.settlements.stop(now.id, now.status_revision);
            }
            KeyStatus::Active | KeyStatus::Paused | KeyStatus::Revoked => {}
        }
        let limits_changed = before.policy.request_limits != now.policy.request_limits
            || before.policy.spend_limits != now.policy.spend_limits
            || before.policy.raises != now.policy.raises;
        (limits_changed || now.status != before.status).then_some(now.id)
    }
}
