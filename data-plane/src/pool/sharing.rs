//! What nodes tell each other about cooldowns: at once what is new, and all of it some times a second.
//!
//! Asking is what is relied on: each node asks for everything every [`ASK_EVERY`], in one round trip. One that is told nothing, because the store is away,
//! goes on with what it knows itself.

use std::time::Duration;

use keyforge_counters::CooldownStore;

use super::Pools;

/// A node knows of another's cooldown after at most this, and an answer.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Where nobody else is to be asked. Without news, too: a dead credential that was rotated or removed is to be shown as dead no longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Pools {
    /// Tells and asks until the process ends.
    pub(super) async fn share(&self) {
        loop {
            let pause = if self.0.store.is_shared() { ASK_EVERY } else { LOOK_EVERY };
            drop(tokio::time::timeout(pause, self.0.news.notified()).await);
            if !self.exchange().await {
                // What is new waits, and every request may say so once more.
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }

    /// Tells the store what is new here, and takes in what it knows. Whether it answered.
    pub(super) async fn exchange(&self) -> bool {
        let (news, changes) = {
            let now = self.now();
            let mut registry = self.registry();
            let news = registry.news(now);
            let changes = registry.changes(&news);
            (news, changes)
        };
        let answer = self.0.store.exchange(&changes).await;
        match &answer {
            Ok(standing) => {
                let now = self.now();
                self.registry().take_in(&news, standing, now);
            }
            // The counter store says itself, once, that it is away.
            Err(error) => tracing::debug!(%error, "cooldowns are not shared"),
        }
        self.show_dead();
        answer.is_ok()
    }
}
