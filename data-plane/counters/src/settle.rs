//! How an attempt ended, and what became of its reservation.

use keyforge_shared::money::NanoUsd;

/// How a dispatched attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What it cost, charged to every spend counter it reserved.
    pub cost: NanoUsd,
    /// Whether it counts as a request.
    pub counted: bool,
    /// Tokens that it took, in place of what it reserved of the minute; `None` leaves that as it is.
    pub tokens: Option<u64>,
}

impl Settlement {
    /// The end of an attempt that was not dispatched. Its admission stays in the minute's requests.
    pub const CANCELLED: Self = Self { cost: NanoUsd::ZERO, counted: false, tokens: Some(0) };
}

/// What a settlement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The hold became this charge.
    Done {
        /// The cost was higher than the bound that was reserved. The truth is booked; the key must be frozen.
        over_bound: bool,
    },
    /// The reservation had expired; this charge replaced the full one.
    AfterExpiry {
        /// As above.
        over_bound: bool,
    },
    /// It was settled or cancelled before; nothing changed.
    Duplicate,
    /// The store does not know the reservation. For a minute it refuses a delayed [`Reserve`](crate::Reserve) of that id.
    Unknown,
}
