//! What follows when a key changes: changed limits give grants back, and a key that an operator unfroze works again on this node.

use std::sync::Arc;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::state::KeyStatus;

use super::KeyChange;
use crate::counters::{CounterStore, Counters};
use crate::grants::Grants;

/// Lets counters follow the keys.
pub struct KeyFollowers {
    counters: Arc<Counters>,
    grants: Grants,
    shutdown: Shutdown,
}

impl KeyFollowers {
    /// Lets `counters` follow, with `grants` to give back.
    #[must_use]
    pub fn new(counters: Arc<Counters>, grants: Grants, shutdown: Shutdown) -> Self {
        Self { counters, grants, shutdown }
    }

    /// Keys changed; the replica already shows it.
    pub fn keys_changed(&self, changes: &[KeyChange]) {
        for change in changes {
            let (Some(before), Some(now)) = (&change.before, &change.now) else { continue };
            let limits_changed = before.policy.request_limits != now.policy.request_limits
                || before.policy.spend_limits != now.policy.spend_limits;
            let unfrozen = before.status == KeyStatus::Frozen && now.status == KeyStatus::Active;
            if !limits_changed && !unfrozen && now.status == before.status {
                continue;
            }
            let (key, grants, counters) = (now.id, self.grants.clone(), Arc::clone(&self.counters));
            drop(self.shutdown.spawn_background("follow_key", async move {
                if unfrozen && counters.unfreeze(key).await.is_err() {
                    tracing::error!(%key, "the key could not be unfrozen on this node");
                }
                grants.give_back(key).await;
            }));
        }
    }
}
