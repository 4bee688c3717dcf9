//! Tells the ledger which epochs this node no longer uses.
//!
//! What is left was recorded before: the last number of the spool is read after the memberships were given up, and the ledger waits until it has
//! every record up to there. A call whose answer is lost is made again; saying it twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use keyforge_counters::{CounterStore, Counters};
use keyforge_runtime::backoff::Backoff;
use keyforge_shared::id::{KeyId, LifeId};
use tokio::time::Instant;

use super::Memberships;
use crate::audit::Spool;
use crate::grants::Grants;
use crate::ledger::{Leave, Ledger, LedgerError};

/// How often there is a round.
const ROUND: Duration = Duration::from_secs(1);
/// How often idle lives are looked for, over all of them.
const SWEEP: Duration = Duration::from_secs(30);
/// Memberships that are asked about at the same time.
const CONFIRMS: usize = 8;
/// Most memberships in one call.
const MOST: usize = 500;
/// How soon a ledger that lacks records is told again. They are shipped at least every 50 milliseconds while the control plane takes them.
const AGAIN: Duration = Duration::from_millis(200);

/// Leaves what is over.
pub struct Leaving {
    /// What is left.
    pub memberships: Memberships,
    /// Who asks about what is not sure.
    pub grants: Grants,
    /// Where the books are.
    pub counters: Arc<Counters>,
    /// Who is told.
    pub ledger: Ledger,
    /// Where the last record is.
    pub spool: Spool,
}

impl Leaving {
    /// Leaves until the process ends; what is not left then is left when the boot is closed.
    pub async fn run(self) {
        let mut swept = Instant::now();
        loop {
            // Woken early when a life was replaced; a wake-up that comes in between is kept.
            drop(tokio::time::timeout(ROUND, self.memberships.0.left.notified()).await);
            if swept.elapsed() >= SWEEP {
                self.memberships.leave_idle();
                swept = Instant::now();
            }
            self.round().await;
        }
    }

    /// Leaves what nobody has used for a while, and everything else there is to leave.
    #[cfg(test)]
    pub(crate) async fn sweep(&self) {
        self.memberships.leave_idle();
        self.round().await;
    }

    async fn round(&self) {
        join_all(self.memberships.due_for_a_look().into_iter().map(|(key, life)| self.look(key, life))).await;
        self.leave_all().await;
        // These wait for the ledger, one by one, and nothing that is sure waits for them.
        let doubts = stream::iter(self.memberships.doubts());
        doubts.for_each_concurrent(CONFIRMS, |(key, life)| self.grants.confirm(key, life)).await;
        self.leave_all().await;
    }

    async fn leave_all(&self) {
        loop {
            let left = self.memberships.take_left(MOST);
            if left.is_empty() {
                return;
            }
            self.leave(&left).await;
        }
    }

    /// Looks whether the books of a key are still of this life. Nobody else would: this node is not asked for the key.
    async fn look(&self, key: KeyId, life: LifeId) {
        match self.counters.life(key).await {
            Ok(Some(present)) if present == life => {}
            Ok(_) => self.memberships.ended(key, life),
            Err(error) => tracing::trace!(%key, %error, "books cannot be looked at"),
        }
    }

    async fn leave(&self, left: &[Leave]) {
        let last_seq = self.spool.status().next_seq - 1;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            match self.ledger.leave(last_seq, left).await {
                Ok(()) => return tracing::debug!(epochs = left.len(), last_seq, "epochs were left"),
                Err(LedgerError::NotYet(_)) => tokio::time::sleep(AGAIN).await,
                Err(LedgerError::Lost(_) | LedgerError::Away) => tokio::time::sleep(backoff.next_delay()).await,
                Err(error @ (LedgerError::Over | LedgerError::Refused(_))) => {
                    tracing::warn!(%error, epochs = left.len(), "epochs could not be left; they are left when this boot ends");
                    return;
                }
            }
        }
    }
}
