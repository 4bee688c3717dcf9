//! The counter store that a node was configured with.

use std::time::Duration;

use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::money::NanoUsd;

use crate::grant::{ClawBack, GrantSet};
use crate::memory::MemoryCounters;
use crate::redis::RedisCounters;
use crate::reserve::{ReservationId, Reserve, Verdict};
use crate::settle::{Settled, Settlement};
use crate::store::{CounterError, CounterState, CounterStore, Freeze};

/// One of the stores, chosen by configuration.
#[derive(Debug)]
pub enum Counters {
    /// In this process, for one node.
    Memory(MemoryCounters),
    /// In Redis, for as many nodes as share it.
    Redis(RedisCounters),
}

/// Asks whichever store it is.
macro_rules! ask {
    ($store:expr, $question:ident($($argument:expr),*)) => {
        match $store {
            Self::Memory(store) => store.$question($($argument),*).await,
            Self::Redis(store) => store.$question($($argument),*).await,
        }
    };
}

impl CounterStore for Counters {
    async fn reserve(&self, reserve: Reserve<'_>) -> Result<Verdict, CounterError> {
        ask!(self, reserve(reserve))
    }

    async fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> Result<Settled, CounterError> {
        ask!(self, settle(key, epoch, id, settlement))
    }

    async fn shrink(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
        tokens: Option<u64>,
    ) -> Result<bool, CounterError> {
        ask!(self, shrink(key, epoch, id, bound, tokens))
    }

    async fn renew(&self, key: KeyId, ids: &[ReservationId], lease: Duration) -> Result<(), CounterError> {
        ask!(self, renew(key, ids, lease))
    }

    async fn grant(&self, key: KeyId, grants: &GrantSet) -> Result<(), CounterError> {
        ask!(self, grant(key, grants))
    }

    async fn claw_back(&self, key: KeyId) -> Result<Option<ClawBack>, CounterError> {
        ask!(self, claw_back(key))
    }

    async fn vacate(&self, key: KeyId, life: LifeId) -> Result<LifeId, CounterError> {
        ask!(self, vacate(key, life))
    }

    async fn freeze(&self, key: KeyId, freeze: Freeze) -> Result<(), CounterError> {
        ask!(self, freeze(key, freeze))
    }

    async fn unfreeze(&self, key: KeyId, revision: u64) -> Result<bool, CounterError> {
        ask!(self, unfreeze(key, revision))
    }

    async fn life(&self, key: KeyId) -> Result<Option<LifeId>, CounterError> {
        ask!(self, life(key))
    }

    async fn books(&self, key: KeyId) -> Result<Vec<CounterState>, CounterError> {
        ask!(self, books(key))
    }
}
