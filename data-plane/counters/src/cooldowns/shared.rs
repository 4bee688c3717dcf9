//! The store of cooldowns that belongs to a node's counter store.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::Clock;

use super::{Cooldown, CooldownChange, CooldownStore, MemoryCooldowns};
use crate::configured::Counters;
use crate::store::CounterError;

/// Cooldowns beside the counters: in this process, or in the same Redis.
#[derive(Debug)]
pub enum Cooldowns {
    /// In this process.
    InProcess(MemoryCooldowns),
    /// Where the counters are.
    Beside(Arc<Counters>),
}

impl Cooldowns {
    /// Those of the nodes that share `counters`.
    #[must_use]
    pub fn beside(counters: &Arc<Counters>, clock: Arc<dyn Clock>) -> Self {
        match **counters {
            Counters::Memory(_) => Self::InProcess(MemoryCooldowns::new(clock)),
            Counters::Redis(_) => Self::Beside(Arc::clone(counters)),
        }
    }
}

impl CooldownStore for Cooldowns {
    fn is_shared(&self) -> bool {
        matches!(self, Self::Beside(_))
    }

    async fn exchange(&self, changes: &[CooldownChange]) -> Result<Vec<Cooldown>, CounterError> {
        match self {
            Self::InProcess(memory) => memory.exchange(changes).await,
            Self::Beside(counters) => match &**counters {
                Counters::Redis(redis) => redis.exchange(changes).await,
                // Counters in this process have theirs in this process.
                Counters::Memory(_) => Ok(Vec::new()),
            },
        }
    }

    async fn claim_probe(&self, gate: &str, by: &str, lease: Duration) -> Result<bool, CounterError> {
        match self {
            Self::InProcess(memory) => memory.claim_probe(gate, by, lease).await,
            Self::Beside(counters) => match &**counters {
                Counters::Redis(redis) => redis.claim_probe(gate, by, lease).await,
                Counters::Memory(_) => Ok(true),
            },
        }
    }
}
