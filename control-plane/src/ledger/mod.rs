//! The ledger: who may still spend how much, and what was spent, per counter of a key.
//!
//! Money is written off before it is spent. An *epoch* is one life of one key's books in a counter store; it is granted slices of the limits that
//! the key is under, its own and its workspace's, and chained entries settle what it really used. For every limit, in every period, at every
//! instant, over all epochs of its key, or of all keys of its workspace,
//!
//! ```text
//! sum of settled (closed epochs) + sum of granted (open epochs) <= limit
//! ```
//!
//! so no failure of a store, a node or the network can spend more than a limit. What is unknown stays written off: an epoch's *members* are the
//! boots that use its life. It is closed, and its unspent rest free again, in the transaction in which the last of them leaves, and nobody leaves
//! before its records are chained. A boot whose records are lost never leaves, so what its epochs hold stays written off, but for what a member
//! that can still ask the books gives back. Two events can put the sum above the limit, and then nothing is granted until the period ends: the
//! limit is lowered, or an entry arrives for an epoch that is closed already. Books say the truth even then.
//!
//! Periods are runs of days in the key's own calendar, and have the first one's number in their counters' names. The periods of a workspace's limit
//! follow each key's calendar as well: what is shared is the limit for that date.
//!
//! A key's limit that is raised for a while is lowered by the clock when that ends, and whoever was granted more gives it back like after any
//! other lowering.
//!
//! Answers of an epoch are numbered. Books apply grants in the order of these serials and never one from before a return; a return that does not
//! know the newest grants is refused; and who leaves names the newest answer it has, so that a leave that comes late does not end a membership
//! that was renewed.
//!
//! A counter is unknown until somebody asks for it. Then all entries of its period are settled at once, over all epochs and for a workspace's limit
//! over all keys, and from then on with every entry that is chained. So a limit that comes in mid-life counts what was used before in the period,
//! as a lowered limit would. An open epoch keeps that apart, because the life begins to count only then: `granted` contains `before`, the life is
//! told `granted - before`, and `before` is told as spent elsewhere. What no epoch can spend any more, because it was closed or the entry names
//! none, is kept for epoch 0.
//!
//! A limit that takes the place of another one, as one in total that of one per day, holds back from its first moment on what was granted under that
//! one and is not settled ([`former`]). Entries name the limits that their attempts were admitted under; what an entry settles of another one is added
//! to `before` as it is chained.
//!
//! The boundary: where there was no limit of this kind, or where another one stays beside it, an attempt that was admitted before a limit existed is in
//! no life's counter of it, so the limit does not hold it back. What it cost counts against the limit once it is chained. The limit is then exceeded by
//! at most what such attempts cost, never by attempts that were admitted under it.
//!
//! * [`acquire`], [`give_back`], [`leave`]: what nodes ask for
//! * [`settle`]: what entries settle; [`history`]: what they say about the time before a limit; [`former`]: what limits that are gone have outstanding
//! * [`evidence`]: what entries say, and whether the books agree
//! * [`signs`]: which members are still there
//! * [`balance`]: for people

pub mod acquire;
pub mod balance;
pub mod evidence;
mod former;
pub mod give_back;
pub mod history;
pub mod leave;
pub mod settle;
pub mod signs;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{BootId, KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::state::{KeyRecord, KeyStatus, WorkspaceRecord};

use self::history::Histories;
use crate::store::sql::Conn;
use crate::store::{Store, StoreError, keys, workspaces};

pub use acquire::{Acquire, Grant, Granted, Want};
pub use balance::Balance;
pub use evidence::Mismatch;
pub use give_back::GiveBack;
pub use history::Reading;
pub use leave::Membership;

pub use crate::store::ledger::Holder;

/// How long before its period begins, or after it ended, a counter can be granted: nodes stage the next period, and clocks differ.
pub const STAGING: Duration = Duration::from_mins(10);

/// Why the ledger did not do what it was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was used before a limit was there could not be read.
    #[error("what was used before this limit cannot be told: {0}")]
    History(Arc<StoreError>),
    /// There is no such key.
    #[error("there is no virtual key {0}")]
    UnknownKey(KeyId),
    /// The key is paused, revoked or expired.
    #[error("{0} is paused, revoked or expired, so nothing is granted to it")]
    NotActive(KeyId),
    /// A return does not know all grants that its life was told.
    #[error("grants of {0} were told after the ones that are returned: apply those first")]
    Overtaken(KeyId),
    /// Neither the key nor its workspace limits this, so there is nothing to grant.
    #[error(
        "{} has no limit of {} per {} of its {}: apply its present policy and workspace",
        .0.key, .0.dimension.as_str(), .0.window, .0.scope.as_str()
    )]
    NoSuchLimit(CounterId),
    /// The period is neither the present one nor within ten minutes of it.
    #[error(
        "{} is not the first day of a present {} in the calendar of {}: check the node's clock",
        .0.first_day, .0.window, .0.key
    )]
    WrongPeriod(CounterId),
    /// The epoch of this life is closed.
    #[error("{0} is over, and its id is never used again: begin a new life")]
    Over(LifeId),
    /// The key has no such epoch, or it is another life's.
    #[error("{life} is not the life of epoch {epoch} of {key}")]
    WrongEpoch {
        /// The key.
        key: KeyId,
        /// The life that was named.
        life: LifeId,
        /// The epoch that was named.
        epoch: u32,
    },
    /// The boot was closed, or records of it were declared lost: it is granted nothing and gives nothing back.
    #[error("the life of {0} is over: only a process with a boot id of its own is served")]
    BootOver(BootId),
    /// Records of the boot are still missing.
    #[error("only {watermark} of {last_seq} records of the boot are chained: ship the rest, then ask again")]
    NotShipped {
        /// The last record that matters, as the node says.
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
    histories: Histories,
}

impl Ledger {
    /// The ledger kept in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self::with_reading(store, clock, Reading::default())
    }

    /// The same, when histories are to be read in other portions.
    #[must_use]
    pub fn with_reading(store: Store, clock: Arc<dyn Clock>, reading: Reading) -> Self {
        let histories = Histories::new(store.clone(), reading);
        Self { store, clock, histories }
    }
}

/// A key and its workspace: everything that limits it.
async fn limited(conn: &mut Conn, key: KeyId) -> Result<(KeyRecord, WorkspaceRecord), LedgerError> {
    let key = keys::record(conn, key).await?.ok_or(LedgerError::UnknownKey(key))?;
    let workspace = workspaces::get(conn, key.workspace).await?.ok_or(StoreError::Corrupt("workspace_id"))?.record;
    Ok((key, workspace))
}

/// The limit that `counter` counts against at `now`, with what it is raised by; `None` when there is none.
fn limit_at(key: &KeyRecord, workspace: &WorkspaceRecord, counter: &CounterId, now: Timestamp) -> Option<u64> {
    let raised = match counter.scope {
        Scope::Key => key.policy.raised(counter.dimension, counter.window, now),
        Scope::Workspace => 0,
    };
    limit_of(key, workspace, counter).map(|limit| limit.saturating_add(raised))
}

/// The limit that `counter` counts against when it is not raised; `None` when there is none.
fn limit_of(key: &KeyRecord, workspace: &WorkspaceRecord, counter: &CounterId) -> Option<u64> {
    let (requests, spend) = match counter.scope {
        Scope::Key => (Cow::Borrowed(&key.policy.request_limits[..]), &key.policy.spend_limits),
        Scope::Workspace => (workspace.request_limits_in_effect(), &workspace.spend_limits),
    };
    let window = counter.window;
    match counter.dimension {
        Dimension::Requests => requests.iter().find(|limit| limit.window == window).map(|limit| limit.requests),
        Dimension::Spend => spend.iter().find(|limit| limit.window == window).map(|limit| limit.amount.nanos()),
    }
}

/// Whether a key may be granted anything now.
fn is_active(record: &KeyRecord, now: Timestamp) -> bool {
    record.status == KeyStatus::Active && record.policy.expires_at.is_none_or(|at| now < at)
}
