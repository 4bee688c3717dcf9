//! Gives back what changed limits no longer allow: the store lowers its ceilings first, then the ledger learns of it. The next request asks anew,
//! under the new limits.
//!
//! A change that concerns many keys, such as a workspace's, is worked off by a few workers; a key waits at most once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hashbrown::HashSet;
use keyforge_counters::CounterStore;
use keyforge_shared::id::KeyId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Brought, GrantError, Grants};
use crate::ledger::LedgerError;

/// Keys that give back at the same time.
const WORKERS: usize = 8;
/// Attempts at returning one key's grants.
const ATTEMPTS: usize = 3;
/// How long a worker waits for a store or a ledger that cannot be reached.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Waiting {
    order: VecDeque<KeyId>,
    keys: HashSet<KeyId>,
}

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    more: Notify,
}

/// Keys that have to give back. Clones share it.
#[derive(Clone)]
pub struct Returns {
    grants: Grants,
    inner: Arc<Inner>,
}

impl Returns {
    /// Starts the workers.
    #[must_use]
    pub fn start(grants: Grants) -> Self {
        let returns = Self { grants, inner: Arc::default() };
        for _ in 0..WORKERS {
            let worker = returns.clone();
            drop(returns.grants.0.shutdown.spawn_background("returns", async move { worker.work().await }));
        }
        returns
    }

    /// Lets the key give back, soon, and forgets what the ledger said about it before.
    pub fn add(&self, key: KeyId) {
        self.grants.forget(key);
        let mut waiting = self.inner.waiting.lock();
        if waiting.keys.insert(key) {
            waiting.order.push_back(key);
            self.inner.more.notify_one();
        }
    }

    async fn work(&self) {
        loop {
            let Some(key) = self.next() else {
                self.inner.more.notified().await;
                continue;
            };
            match self.grants.give_back(key).await {
                Ok(()) => {}
                // What is not returned stays written off until this life ends; a return that arrives late is refused by its serial.
                Err(error @ GrantError::Refused) => tracing::warn!(%key, %error, "grants could not be returned"),
                Err(error @ (GrantError::Store | GrantError::Ledger)) => {
                    tracing::debug!(%key, %error, "grants are returned later");
                    self.add(key);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn next(&self) -> Option<KeyId> {
        let mut waiting = self.inner.waiting.lock();
        let key = waiting.order.pop_front()?;
        // A change that comes from here on lets it give back once more.
        waiting.keys.remove(&key);
        if !waiting.order.is_empty() {
            self.inner.more.notify_one();
        }
        Some(key)
    }
}

impl Grants {
    /// Lets the key's books give back what they do not use or hold.
    ///
    /// # Errors
    /// [`GrantError`]: the ledger may not have it back.
    pub(super) async fn give_back(&self, key: KeyId) -> Result<(), GrantError> {
        loop {
            let carrier = self.clone();
            let (call, is_new) = self.enter(key, || async move { carrier.give_back_now(key).await }.boxed());
            let done = call.await;
            if is_new {
                return done.map(drop);
            }
        }
    }

    async fn give_back_now(&self, key: KeyId) -> Result<Brought, GrantError> {
        let inner = &self.0;
        let done = Ok(Brought::Answer);
        for _ in 0..ATTEMPTS {
            let lowered = inner.counters.claw_back(key).await.map_err(|_| GrantError::Store)?;
            let Some(lowered) = lowered.filter(|lowered| !lowered.holdings.is_empty()) else { return done };
            let missing = match inner.ledger.give_back(key, &lowered).await {
                Ok(()) => return done,
                Err(error) => error,
            };
            // Answers that grant something have not come to these books. The serial of a new one, which asks for nothing, lies behind theirs: with
            // it the books can be lowered below all of them.
            let behind = match missing {
                LedgerError::NotYet(_) => self.ask(key, lowered.life, &[]).await,
                error => Err(error),
            };
            match behind {
                Ok(behind) => self.apply(key, &behind).await?,
                // The life is over, and with it what was granted to it.
                Err(LedgerError::Over) => return done,
                Err(error @ (LedgerError::Lost(_) | LedgerError::Away)) => {
                    tracing::debug!(%key, %error, "the ledger did not answer");
                    return Err(GrantError::Ledger);
                }
                Err(LedgerError::NotYet(reason) | LedgerError::Refused(reason)) => {
                    tracing::debug!(%key, reason, "the ledger refused");
                    return Err(GrantError::Refused);
                }
            }
        }
        // Others are granted something each time.
        Err(GrantError::Ledger)
    }
}
