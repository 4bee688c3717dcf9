//! The ends of raised limits: what was granted above a limit that is what it was goes back.
//!
//! Requests do not wait for this: each is decided by the limit that holds at its own moment. It lets others of the same key have what this node does
//! not use any more.

use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock, Timestamp};

use super::returns::Returns;
use crate::memberships::Memberships;
use crate::replica::Replica;

/// How often it is looked for raises that ended.
const EVERY: Duration = Duration::from_secs(5);

/// Lets keys give back when a raise of theirs ends.
pub struct RaiseEnds {
    replica: Arc<Replica>,
    memberships: Memberships,
    returns: Returns,
    clock: Arc<dyn Clock>,
}

impl RaiseEnds {
    /// Lets keys of `replica` that were granted anything through this node, as `memberships` knows, give back to `returns`.
    #[must_use]
    pub fn new(replica: &Arc<Replica>, memberships: &Memberships, returns: &Returns, clock: &Arc<dyn Clock>) -> Self {
        let (replica, clock) = (Arc::clone(replica), Arc::clone(clock));
        Self { replica, memberships: memberships.clone(), returns: returns.clone(), clock }
    }

    /// Looks again and again, for as long as the process runs.
    pub fn start(self, shutdown: &Shutdown) {
        drop(shutdown.spawn_background("raise_ends", self.run()));
    }

    async fn run(self) {
        let mut looked = self.clock.now();
        loop {
            tokio::time::sleep(EVERY).await;
            looked = self.look(looked);
        }
    }

    /// Lets those give back that had a raise which ended since `looked`, and answers when that was.
    pub fn look(&self, looked: Timestamp) -> Timestamp {
        let now = self.clock.now();
        for key in self.memberships.keys() {
            let Some(record) = self.replica.key(key) else { continue };
            if record.policy.raises.iter().any(|raise| looked < raise.until && raise.until <= now) {
                self.returns.add(key);
            }
        }
        now
    }
}
