//! How many keys end soon, for whoever should do something about it before their agents are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;

use crate::store::{Store, StoreError, keys};

/// A key that ends within this time ends soon.
pub const SOON: Duration = Duration::from_hours(7 * 24);
/// How often they are counted.
const EVERY: Duration = Duration::from_secs(60);

/// Keys that are not revoked and end soon, as they were last counted. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ExpiringKeys(Arc<AtomicU64>);

impl ExpiringKeys {
    /// Counts them now and every minute, until the process stops.
    #[must_use]
    pub fn watch(store: Store, clock: Arc<dyn Clock>, shutdown: &Shutdown) -> Self {
        let watched = Self::default();
        let counted = watched.clone();
        // The store is in use until the last task has let go of it.
        let counting = async move { counted.keep_counting(&store, clock.as_ref()).await };
        drop(shutdown.spawn("expiring_keys", shutdown.until_drain(counting)));
        watched
    }

    async fn keep_counting(&self, store: &Store, clock: &dyn Clock) {
        loop {
            match count(store, clock).await {
                Ok(number) => self.0.store(number, Ordering::Relaxed),
                Err(error) => tracing::debug!(%error, "keys that end soon could not be counted"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// How many.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

async fn count(store: &Store, clock: &dyn Clock) -> Result<u64, StoreError> {
    let now = clock.now();
    keys::count_expiring(&mut *store.read().await?, now, now.saturating_add(SOON)).await
}
