//! Cooldowns: until when nobody uses what a provider has refused, agreed on by all nodes that share a store.
//!
//! They are about providers, not about money: what is lost here costs one more refused attempt and nothing else, so a node whose store is away goes
//! on with what it knows. Every wait is measured by the store's own clock, so that nodes need not agree about the time.
//!
//! A *gate* is a name for what was refused: a credential, a limit that credentials share, a provider. The names are the callers' own.

mod memory;
mod shared;

use std::future::Future;
use std::time::Duration;

pub use self::memory::MemoryCooldowns;
pub use self::shared::Cooldowns;
use crate::store::CounterError;

/// Most gates that a store keeps; what comes when it is full is not shared.
pub const MOST_GATES: usize = 4_096;
/// For how long a cooldown is kept after its end while nobody lifts it.
pub const KEPT_AFTER: Duration = Duration::from_secs(600);

/// Why a gate is shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CooldownClass {
    /// The rate is used up for a moment.
    Throttled,
    /// The provider has no capacity for anybody.
    Overloaded,
    /// The account may not spend more until a date.
    Closed,
    /// The credential is refused as such.
    Dead,
}

impl CooldownClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Throttled, Self::Overloaded, Self::Closed, Self::Dead];

    /// The word used in the store, in reports and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Overloaded => "overloaded",
            Self::Closed => "closed",
            Self::Dead => "dead",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }
}

/// What a node tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CooldownChange {
    /// Nobody is to use the gate for so long from now on. If it is shut for longer already, that stands.
    Cool {
        /// Which gate.
        gate: String,
        /// Why.
        class: CooldownClass,
        /// For how long; cut to whole milliseconds.
        wait: Duration,
    },
    /// A probe passed: the cooldown with this stamp is over. One that was made longer since stands.
    Lift {
        /// Which gate.
        gate: String,
        /// Of the cooldown that was probed.
        stamp: u64,
    },
}

/// A gate that is shut, or whose wait is over and which nobody has probed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cooldown {
    /// Which gate.
    pub gate: String,
    /// Why.
    pub class: CooldownClass,
    /// How much of the wait is left; zero when it is over.
    pub left: Duration,
    /// The whole wait.
    pub wait: Duration,
    /// Names this cooldown of the gate. A later one of the same gate has a higher stamp.
    pub stamp: u64,
}

/// Where nodes agree on cooldowns.
pub trait CooldownStore: Send + Sync {
    /// Whether other nodes use it as well, so that what they tell has to be asked for.
    fn is_shared(&self) -> bool;

    /// Takes changes in, in their order, and gives every cooldown that then stands, in no particular order. One round trip, whatever their number.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`]: the changes may have been taken in. Taking them in again does no harm, beyond measuring a wait anew.
    fn exchange(&self, changes: &[CooldownChange]) -> impl Future<Output = Result<Vec<Cooldown>, CounterError>> + Send;

    /// Whether `by` may probe the gate: one of all who ask within `lease` may, and may again, for as long anew.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`].
    fn claim_probe(
        &self,
        gate: &str,
        by: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<bool, CounterError>> + Send;
}
