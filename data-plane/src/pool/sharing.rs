//! What nodes tell each other about cooldowns: at once what is new, and all of it some times a second.
//!
//! Asking is what is relied on: each node asks for everything every [`ASK_EVERY`], in one round trip. One that is told nothing, because the store is away,
//! goes on with what it knows itself.

use std::time::Duration;

use keyforge_counters::CooldownStore;

use super::Pools;

/// A node knows of another's cooldown after at most this, and an answer.
const ASK_EVERY: Duration = Duration::from_millis(100);

impl Pools {
    /// Tells and asks until the process ends.
    pub(super) async fn share(&self) {
        loop {
            if self.0.store.is_shared() {
                drop(tokio::time::timeout(ASK_EVERY, self.0.news.notified()).await);
            } else {
                self.0.news.notified().await;
            }
            self.exchange().await;
        }
    }

    /// Tells the store what is new here, and takes in what it knows.
    pub(super) async fn exchange(&self) {
        let (news, changes) = {
            let now = self.now();
            let mut registry = self.registry();
            let news = registry.news(now);
            let changes = registry.changes(&news);
            (news, changes)
        };
        match self.0.store.exchange(&changes).await {
            Ok(standing) => {
                let now = self.now();
                self.registry().take_in(&news, &standing, now);
            }
            // The counter store says itself, once, that it is away.
            Err(error) => tracing::debug!(%error, "cooldowns are not shared"),
        }
        self.show_dead();
    }
}
