//! What travels. Whoever sends a message may stop listening; the message then still arrives, late, or never, or twice, and nobody hears the answer.

use super::world::{Boot, EpochNumber, Life, RequestId, Serial, Units};

/// One message under way.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// Which node sent it, or is to hear it.
    pub node: u8,
    /// Under which boot.
    pub boot: Boot,
    /// Whether the node waits for what becomes of it. A node waits for one thing at a time.
    pub heard: bool,
    pub body: Body,
}

/// What it says.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub enum Body {
    /// To a store: may this be dispatched?
    Reserve { server: u8, id: RequestId, amount: Units, epoch: EpochNumber, fresh: Life },
    /// To a store: an answer of the ledger.
    Grant { server: u8, life: Life, epoch: EpochNumber, serial: Serial, granted: Option<Units> },
    /// To a store: lower the ceiling and say what is left.
    ClawBack { server: u8 },
    /// To a store: lower the ceiling (only a bug sends this: it should have been lowered before).
    Lower { server: u8 },
    /// To a store: this is what it cost.
    Settle { server: u8, id: RequestId, epoch: EpochNumber, cost: Units },
    /// To a store: end this life.
    Vacate { server: u8, life: Life },
    /// To the ledger: let me join this life, and grant it so much more. 0: only join.
    Acquire { life: Life, want: Units },
    /// To the ledger: this life's store allows no more than this from now on.
    Return { epoch: EpochNumber, serial: Serial, ceiling: Units },
    /// To the ledger: I will not spend under this epoch; my records up to `last` are all that I did.
    Leave { last: u8, epoch: EpochNumber, serial: Serial },
    /// To the ledger: this boot is over.
    CloseBoot { last: u8 },
    /// To a node: you have joined; this much is granted.
    Joined { life: Life, epoch: EpochNumber, serial: Serial, granted: Option<Units> },
}
