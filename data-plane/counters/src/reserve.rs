//! The question whether an attempt may be dispatched, and the answers to it.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId, RequestId};
use keyforge_shared::limit::CounterId;
use keyforge_shared::period::Period;

/// A reservation's identity: one attempt at one request. It is never used for a second dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId {
    /// The request.
    pub request: RequestId,
    /// Which attempt at it, from 1.
    pub attempt: u16,
}

/// What a reservation takes from one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which counter.
    pub counter: CounterId,
    /// The period it counts; the reservation must be made inside.
    pub period: Period,
    /// The present limit, in requests or nano-dollars. It bounds even what was granted under a higher one.
    pub limit: u64,
    /// Requests (one), or the request's bound in nano-dollars.
    pub amount: u64,
}

/// Most tokens in any 60 seconds, and what the request takes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRate {
    /// The limit.
    pub per_minute: u64,
    /// The most that the request can take; more than the limit is never admitted.
    pub amount: u64,
}

/// Most requests at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// The limit.
    pub limit: u32,
    /// A request that is not renewed for this long runs no more.
    pub lease: Duration,
}

/// What limits a key's pace. An absent rate does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Most admissions in any 60 seconds.
    pub requests_per_minute: Option<u32>,
    /// Most tokens in any 60 seconds.
    pub tokens: Option<TokenRate>,
    /// Most requests at the same time.
    pub concurrency: Option<Concurrency>,
}

/// A question to the store: may this attempt be dispatched?
#[derive(Clone, Copy, Debug)]
pub struct Reserve<'a> {
    /// The attempt. Asking again with the same id never takes twice.
    pub id: ReservationId,
    /// Whose request.
    pub key: KeyId,
    /// The epoch that the asking node has joined; 0 for none. Without needs it does not matter.
    pub epoch: u32,
    /// The counters it touches, each once; empty for a key without limits.
    pub needs: &'a [Need],
    /// The rates it is subject to.
    pub rates: Rates,
    /// After this long without a settlement the reservation is charged in full.
    pub expires_after: Duration,
    /// The store refuses when its clock is past this moment: the question was delayed and its asker is gone.
    pub not_after: Option<Timestamp>,
}

/// The store's answer to a [`Reserve`]. Everything but `Admitted` took nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every need is held. The same answer is given again to the same id while the reservation is open.
    Admitted(Admission),
    /// The key's books are of this life, and the epoch named is not its epoch: the ledger must be asked to join it.
    NotJoined(LifeId),
    /// The needs with these indexes have no counter in the books and need a grant first.
    NoBooks(Vec<usize>),
    /// The granted slices of the needs with these indexes are too small. The ledger may have more; if not, the limit is exhausted.
    Short(Vec<(usize, Standing)>),
    /// A rate is at its limit.
    RateLimited(RateLimited),
    /// The key was frozen.
    Frozen,
    /// This attempt was settled, cancelled, or expired and charged. It must not be dispatched.
    Duplicate,
    /// The store's clock is past `not_after`.
    Late,
    /// The store's clock is outside the period of a need: compute the needs again for this moment.
    OutsidePeriod {
        /// What the store's clock says.
        now: Timestamp,
    },
}

/// An admitted reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// How each need's counter stands after this reservation, in the order of the needs. One that the books no longer have stands at zero.
    pub counters: Vec<Standing>,
    /// What is left of the rates after it.
    pub rates: RatesLeft,
}

/// How a counter stands, in requests or nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What can still be taken here.
    pub free: u64,
    /// Charged here.
    pub used: u64,
    /// Held here by open reservations.
    pub held: u64,
    /// The part of `used` that stands for expired reservations whose settlement these books never saw.
    pub orphaned: u64,
    /// What counts against the limit and is not in these books.
    pub elsewhere: u64,
}

/// What is left of a key's rates, for each that it has and that can be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RatesLeft {
    /// Of requests per minute.
    pub requests: Option<RateLeft>,
    /// Of tokens per minute.
    pub tokens: Option<RateLeft>,
}

/// What is left of a rate: an admission counts while less than 60 seconds have passed since, tokens count in the second in which they were taken
/// and the 60 seconds after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLeft {
    /// Requests or tokens that fit now.
    pub remaining: u64,
    /// Until nothing counts any more, if nothing is admitted meanwhile; zero when nothing counts now.
    pub reset: Duration,
}

/// Which rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests at the same time.
    Concurrency,
}

/// A request that came too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimited {
    /// Of the rates that it does not fit in, the one that has to be waited for longest: first what it never fits in, and last
    /// [`Rate::Concurrency`], which has no time; of two with the same wait the first in the order of [`Rate`].
    pub rate: Rate,
    /// When it fits in every rate that has a time, if nobody else is admitted. `None` when waiting is not enough: for [`Rate::Concurrency`], which
    /// ends when others end, and for what would not fit if nothing else counted.
    pub retry_after: Option<Duration>,
    /// What is left of the rates now.
    pub left: RatesLeft,
}
