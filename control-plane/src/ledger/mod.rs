//! The ledger: who may still spend how much, and what was spent, per counter of a key.
//!
//! Money is written off before it is spent. An *epoch* is one life of one counter store as one key sees it; it is granted slices of a
//! counter's limit, and chained entries settle what it really used. For every counter, at every instant,
//!
//! ```text
//! sum of settled (closed epochs) + sum of granted (open epochs) <= limit
//! ```
//!
//! so no failure of a store, a node or the network can spend more than the limit. What is unknown stays written off: an epoch gives its unspent
//! rest back only when every record of its boot is chained, and never when records of that boot are lost. Two events can put the sum above the
//! limit, and then nothing is granted until the period ends: the limit is lowered, or an entry arrives for an epoch that is closed already. Books
//! say the truth even then.
//!
//! A limit that a key gets in mid-life counts what its epochs used before in the period, as a lowered limit would. Entries prove that when the
//! first store asks for it. An open epoch keeps it apart, because its store begins to count only then: `granted` contains `before`, the store is
//! told `granted - before`, and `before` is told as spent elsewhere.
//!
//! The boundary: an attempt that was admitted before a limit existed is in no store's counter of it, so the limit does not hold it back. What
//! it cost counts against the limit once it is chained (for an epoch that had used nothing yet: once its store asks). The limit is then exceeded
//! by at most what such attempts cost, never by attempts that were admitted under it.
//!
//! * [`acquire`], [`give_back`], [`close`]: what nodes ask for
//! * [`settle`]: what entries settle; [`evidence`]: what entries say, and whether the books agree
//! * [`balance`]: for people

pub mod acquire;
pub mod balance;
pub mod close;
pub mod evidence;
pub mod give_back;
pub mod settle;

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{BootId, CounterStoreId, KeyId};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::policy::Policy;
use keyforge_shared::state::{KeyRecord, KeyStatus};

use crate::store::{Store, StoreError};

pub use acquire::{Acquire, Grant, Granted, Want};
pub use balance::Balance;
pub use evidence::Mismatch;
pub use give_back::GiveBack;

/// How long before its period begins, or after it ended, a counter can be granted: nodes stage the next period, and clocks differ.
pub const STAGING: Duration = Duration::from_mins(10);

/// Why the ledger did not do what it was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such key.
    #[error("there is no virtual key {0}")]
    UnknownKey(KeyId),
    /// The key is frozen, revoked or expired.
    #[error("{0} is frozen, revoked or expired, so nothing is granted to it")]
    NotActive(KeyId),
    /// A return names older grants than the store was given since.
    #[error("grants of {0} were given to this store after the ones that it returns: apply those first")]
    Overtaken(KeyId),
    /// The key's policy does not limit this, so there is nothing to grant.
    #[error("{} has no limit of {} per {}: apply its present policy", .0.key, .0.dimension.as_str(), .0.window)]
    NoSuchLimit(CounterId),
    /// The period is neither the present one nor within ten minutes of it.
    #[error("{} is not the start of a present {}: check the node's clock", .0.period_start.rfc3339(), .0.window)]
    WrongPeriod(CounterId),
    /// The counter store's life is over, or records of its boot were declared lost: it is granted nothing and gives nothing back.
    #[error("the life of {0} is over, and its id is never used again: begin a new one")]
    Over(CounterStoreId),
    /// The store, or the epoch, is not that boot's.
    #[error("{store} is not a store of {boot} in the epoch given")]
    Foreign {
        /// The store.
        store: CounterStoreId,
        /// Who claimed it.
        boot: BootId,
    },
    /// Records of the boot are still missing.
    #[error("only {watermark} of {last_seq} records of the boot are chained: ship the rest, then close again")]
    NotShipped {
        /// The last record of the boot, as the node says.
        last_seq: u64,
        /// The last one that is chained.
        watermark: u64,
    },
}

/// The ledger.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Ledger {
    /// The ledger kept in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }
}

/// What `policy` allows on `counter` in one period; `None` when it does not limit that.
fn limit_of(policy: &Policy, counter: &CounterId) -> Option<u64> {
    let window = counter.window;
    match counter.dimension {
        Dimension::Requests => {
            policy.request_limits.iter().find(|limit| limit.window == window).map(|limit| limit.requests)
        }
        Dimension::Spend => {
            policy.spend_limits.iter().find(|limit| limit.window == window).map(|limit| limit.amount.nanos())
        }
    }
}

/// Whether a key may be granted anything now.
fn is_active(record: &KeyRecord, now: Timestamp) -> bool {
    record.status == KeyStatus::Active && record.policy.expires_at.is_none_or(|at| now < at)
}
