//! Carries grants from the control plane's ledger to the node's counter store.
//!
//! A store spends only what the ledger has written off for it. When a counter runs short, one call per key asks for more while the others of that key
//! wait for its answer; a ledger that has nothing left is not asked again for a moment, so that an exhausted key cannot load it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hashbrown::HashMap;
use keyforge_proto::convert;
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{BootId, KeyId};
use keyforge_shared::limit::CounterId;
use parking_lot::Mutex;

use crate::control::ControlChannel;
use crate::counters::{ClawBack, CounterStore, Counters, Grant};

/// How long an exhausted ledger is not asked again. Raising a limit takes effect at once all the same, because the policy's change forgets this.
const REMEMBER_EXHAUSTED: Duration = Duration::from_millis(200);
/// More remembered counters than this are swept.
const MOST_REMEMBERED: usize = 10_000;
/// Attempts at returning grants.
const RETURNS: usize = 3;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(2);

/// Why nothing could be granted.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrantError {
    /// The ledger cannot be reached or cannot decide: nothing may be admitted.
    #[error("the ledger cannot be reached")]
    Unavailable,
}

/// What is wanted of one counter: this much beyond what is free in the store.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// Which counter.
    pub counter: CounterId,
    /// How much.
    pub amount: u64,
}

type Call = Shared<BoxFuture<'static, Result<(), GrantError>>>;

#[derive(Default)]
struct Book {
    calls: HashMap<KeyId, Call>,
    serials: HashMap<KeyId, u64>,
    exhausted: HashMap<CounterId, Timestamp>,
}

struct Inner {
    client: GrantServiceClient<ControlChannel>,
    boot: BootId,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    book: Mutex<Book>,
}

/// Carries grants. Clones share it.
#[derive(Clone)]
pub struct Grants(Arc<Inner>);

impl Grants {
    /// A carrier into `counters`.
    #[must_use]
    pub fn new(
        channel: ControlChannel,
        boot: BootId,
        counters: Arc<Counters>,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
    ) -> Self {
        let client = GrantServiceClient::new(channel);
        Self(Arc::new(Inner { client, boot, counters, clock, shutdown, book: Mutex::default() }))
    }

    /// Whether the ledger said a moment ago that it has nothing left for this counter.
    #[must_use]
    pub fn is_exhausted(&self, counter: &CounterId) -> bool {
        let now = self.0.clock.now();
        self.0.book.lock().exhausted.get(counter).is_some_and(|until| *until > now)
    }

    /// Asks the ledger for more, or joins a call of the same key that is under way. Afterwards there may be more in the store, or the counter
    /// [`Self::is_exhausted`], or others of the same key took what came: the caller looks again.
    ///
    /// # Errors
    /// [`GrantError`] when the ledger cannot be reached: fail closed.
    pub async fn acquire(&self, key: KeyId, wants: &[Want]) -> Result<(), GrantError> {
        let carrier = self.clone();
        let wants = wants.to_vec();
        let (call, _) = self.enter(key, || async move { carrier.call(key, wants).await }.boxed());
        call.await
    }

    /// The call of `key` that is under way, or a new one, and whether it is new. A task of its own brings a new one to its end, so that a caller who is
    /// gone leaves nothing behind.
    fn enter(&self, key: KeyId, new: impl FnOnce() -> BoxFuture<'static, Result<(), GrantError>>) -> (Call, bool) {
        let mut book = self.0.book.lock();
        if let Some(call) = book.calls.get(&key) {
            return (call.clone(), false);
        }
        let (carrier, work) = (self.clone(), new());
        let call = async move {
            let result = work.await;
            // Before anyone sees the result: whoever then finds too little must be able to begin a new call.
            carrier.0.book.lock().calls.remove(&key);
            result
        };
        let call = call.boxed().shared();
        book.calls.insert(key, call.clone());
        let driven = call.clone();
        drop(self.0.shutdown.spawn_background("grants", async move {
            if let Err(error) = driven.await {
                tracing::debug!(%key, %error, "a call to the ledger failed");
            }
        }));
        (call, true)
    }

    async fn call(&self, key: KeyId, wants: Vec<Want>) -> Result<(), GrantError> {
        let inner = &self.0;
        let request = proto::AcquireGrantsRequest {
            boot_id: inner.boot.as_bytes().to_vec(),
            store_id: inner.counters.id().as_bytes().to_vec(),
            key_id: key.to_string(),
            wants: wants
                .iter()
                .map(|want| proto::Want { counter: Some(want.counter.into()), amount: want.amount })
                .collect(),
        };
        let mut client = inner.client.clone();
        let answer = match tokio::time::timeout(CALL, client.acquire_grants(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                // Also when the key or its policy changed a moment ago: the next request will see that.
                tracing::debug!(%key, code = ?status.code(), reason = status.message(), "nothing was granted");
                return Err(GrantError::Unavailable);
            }
            Err(_) => return Err(GrantError::Unavailable),
        };
        let mut granted = Vec::with_capacity(answer.grants.len());
        for grant in &answer.grants {
            let counter = grant.counter.and_then(|counter| convert::counter_id(key, &counter).ok());
            let counter = counter.ok_or(GrantError::Unavailable)?;
            let period = counter.window.period_at(counter.period_start);
            granted.push(Grant { counter, period, granted: grant.granted, elsewhere: grant.elsewhere });
        }
        let applied = inner.counters.grant(key, answer.epoch, &granted).await;
        applied.map_err(|_| GrantError::Unavailable)?;
        let mut book = inner.book.lock();
        book.serials.insert(key, answer.serial);
        let now = inner.clock.now();
        if book.exhausted.len() > MOST_REMEMBERED {
            book.exhausted.retain(|_, until| *until > now);
        }
        let until = now.saturating_add(REMEMBER_EXHAUSTED);
        for (grant, carried) in answer.grants.iter().zip(&granted) {
            if grant.available == 0 {
                book.exhausted.insert(carried.counter, until);
            } else {
                book.exhausted.remove(&carried.counter);
            }
        }
        Ok(())
    }

    /// Gives back what the key's counters do not use or hold, after its limits changed: the store lowers its ceilings first, then the ledger learns of
    /// it. The next request asks anew, under the new limits.
    pub async fn give_back(&self, key: KeyId) {
        // No grant may be under way while ceilings are lowered: its older, higher ceiling would undo that.
        loop {
            let carrier = self.clone();
            let (call, is_new) = self.enter(key, || {
                async move {
                    carrier.return_unused(key).await;
                    Ok(())
                }
                .boxed()
            });
            if call.await.is_ok() && is_new {
                return;
            }
        }
    }

    async fn return_unused(&self, key: KeyId) {
        let inner = &self.0;
        inner.book.lock().exhausted.retain(|counter, _| counter.key != key);
        for _ in 0..RETURNS {
            let Some(serial) = inner.book.lock().serials.get(&key).copied() else { return };
            let Ok(Some(ClawBack { epoch, holdings })) = inner.counters.claw_back(key).await else { return };
            let counters: Vec<_> = holdings.iter().map(|(counter, _)| *counter).collect();
            if counters.is_empty() {
                return;
            }
            let request = proto::ReturnGrantsRequest {
                boot_id: inner.boot.as_bytes().to_vec(),
                store_id: inner.counters.id().as_bytes().to_vec(),
                key_id: key.to_string(),
                epoch,
                serial,
                holdings: holdings
                    .into_iter()
                    .map(|(counter, granted)| proto::Holding { counter: Some(counter.into()), granted })
                    .collect(),
            };
            let mut client = inner.client.clone();
            match tokio::time::timeout(CALL, client.return_grants(request)).await {
                Ok(Ok(_)) => return,
                // An answer was lost on the way, so the ledger knows of changes that this store does not: learn them, then return again.
                Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                    let wants = counters.into_iter().map(|counter| Want { counter, amount: 0 }).collect();
                    if self.call(key, wants).await.is_err() {
                        return;
                    }
                }
                // What is not returned stays written off until this store's life ends; a return that arrives late is refused by its serial.
                Ok(Err(status)) => {
                    return tracing::warn!(%key, reason = status.message(), "grants could not be returned");
                }
                Err(_) => return tracing::warn!(%key, reason = "no answer in time", "grants could not be returned"),
            }
        }
    }
}
