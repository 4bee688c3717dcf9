//! Hearing that another control plane moved the replicated state: told by the database at once, and looked for every second in case a word was lost.

use std::time::Duration;

use sqlx::postgres::PgListener;

use super::{Database, Store};

/// How long at most until a change is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// A place to hear from. It connects by itself, again and again.
pub struct Listener {
    store: Store,
    heard: Option<PgListener>,
}

impl Store {
    /// A place to hear from; `None` when nobody else writes to this database.
    #[must_use]
    pub fn listener(&self) -> Option<Listener> {
        self.is_shared().then(|| Listener { store: self.clone(), heard: None })
    }
}

impl Listener {
    /// Waits until somebody may have moved the state, a second at most.
    pub async fn next(&mut self) {
        let Database::Postgres(database) = &self.store.inner.database else { return };
        let told = async {
            if self.heard.is_none() {
                self.heard = Some(database.listen().await.ok()?);
            }
            // An error or an end: the connection is gone, and with it perhaps a word.
            match self.heard.as_mut()?.try_recv().await {
                Ok(Some(_)) => Some(()),
                Ok(None) | Err(_) => {
                    self.heard = None;
                    None
                }
            }
        };
        let within = tokio::time::timeout(LOOK, told).await;
        if matches!(within, Ok(None)) {
            // The server may be away: not faster than it can come back.
            tokio::time::sleep(LOOK).await;
        }
    }
}
