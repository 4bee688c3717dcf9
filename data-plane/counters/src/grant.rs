//! What the ledger lets a key's books spend, and what they give back.

use keyforge_shared::id::LifeId;
use keyforge_shared::limit::CounterId;
use keyforge_shared::period::Period;

/// One answer of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantSet {
    /// The life of the books that it is for.
    pub life: LifeId,
    /// The number that the ledger gave this life; from 1.
    pub epoch: u32,
    /// Rises with each change that the ledger makes to this epoch's grants: of two answers the later one is right.
    pub serial: u64,
    /// What it says of each counter that it is about.
    pub grants: Vec<Grant>,
}

/// A slice of a limit that the ledger has written off for a key's books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which counter.
    pub counter: CounterId,
    /// The period it counts.
    pub period: Period,
    /// Requests or nano-dollars, cumulative in this epoch.
    pub granted: u64,
    /// What counts against the limit and is not in these books, in requests or nano-dollars.
    pub elsewhere: u64,
}

/// What books keep of their grants after every ceiling was lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClawBack {
    /// The life of the books.
    pub life: LifeId,
    /// Its epoch.
    pub epoch: u32,
    /// Serial of the latest answer that was applied. Answers up to it are refused from now on.
    pub serial: u64,
    /// Each counter's new ceiling: what is used or held.
    pub holdings: Vec<(CounterId, u64)>,
}
