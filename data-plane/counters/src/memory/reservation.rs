//! What one key's reservations are: open, expired and charged, or over and remembered for a while.
//!
//! It says of any id which of these it is, in which order open ones expire, and what each took. It never changes a counter: whoever moves a
//! reservation on gets to know what it took, and books that.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use hashbrown::HashMap;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::limit::CounterId;

use crate::reserve::ReservationId;

/// How long a settled or cancelled id is refused; longer than any retry of the same id goes on.
const MARKER_MEMORY: Duration = Duration::from_secs(60);
/// How long a settlement can replace the full charge of an expired reservation. After that the ledger alone learns the truth.
pub(super) const ORPHAN_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
/// Most markers, and most orphans, of one key. Forgetting one early can charge a delayed duplicate a second time, but admits no spending
/// beyond the counters.
const MEMORY_LIMIT: usize = 65_536;

/// What a reservation took from one counter, in requests or nano-dollars.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take {
    pub(super) counter: CounterId,
    pub(super) amount: u64,
}

/// What a reservation took of the minute's tokens, and in which second since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenHold {
    pub(super) second: i64,
    pub(super) amount: u64,
}

/// All that a reservation took and a settlement replaces.
#[derive(Debug, Default)]
pub(super) struct Hold {
    pub(super) takes: Box<[Take]>,
    pub(super) tokens: Option<TokenHold>,
}

#[derive(Debug)]
enum Record {
    Open { expires: Timestamp, hold: Hold },
    Orphan { charged: Timestamp, hold: Hold },
    Over { since: Timestamp },
}

/// What is known of an id before it is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing.
    Never,
    /// It is open.
    Open,
    /// It was settled, cancelled, or expired and charged.
    Over,
}

/// What an id was before it was closed.
#[derive(Debug)]
pub(super) enum Closed {
    /// Open; this was held.
    Held(Hold),
    /// Expired; this was charged.
    Charged(Hold),
    /// Closed before.
    Over,
    /// Never heard of, or not for long.
    Unknown,
}

/// All reservations of one key in one life of its books.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    records: HashMap<ReservationId, Record>,
    /// Each open reservation once, in the order in which they expire.
    expiry: BTreeSet<(Timestamp, ReservationId)>,
    /// Each orphan once, in the order in which they were charged.
    orphans: BTreeSet<(Timestamp, ReservationId)>,
    /// When each marker was written, oldest first. One that was overtaken stays until its turn.
    markers: VecDeque<(Timestamp, ReservationId)>,
}

impl Reservations {
    pub(super) fn seen(&self, id: &ReservationId, now: Timestamp) -> Seen {
        match self.records.get(id) {
            Some(Record::Over { since }) if now.since(*since) < MARKER_MEMORY => Seen::Over,
            None | Some(Record::Over { .. }) => Seen::Never,
            Some(Record::Open { .. }) => Seen::Open,
            Some(Record::Orphan { .. }) => Seen::Over,
        }
    }

    /// Whether it was settled or cancelled a short time ago. An expired one may still run.
    pub(super) fn is_remembered(&self, id: &ReservationId, now: Timestamp) -> bool {
        matches!(self.records.get(id), Some(Record::Over { since }) if now.since(*since) < MARKER_MEMORY)
    }

    /// Opens a reservation that was never seen.
    pub(super) fn open(&mut self, id: ReservationId, hold: Hold, expires: Timestamp) {
        self.records.insert(id, Record::Open { expires, hold });
        self.expiry.insert((expires, id));
    }

    /// Closes an id, whatever it was; from here on it is over, so that a delayed reserve cannot open it.
    pub(super) fn close(&mut self, id: ReservationId, now: Timestamp) -> Closed {
        if self.is_remembered(&id, now) {
            return Closed::Over;
        }
        let before = self.records.insert(id, Record::Over { since: now });
        self.markers.push_back((now, id));
        match before {
            Some(Record::Open { expires, hold }) => {
                self.expiry.remove(&(expires, id));
                Closed::Held(hold)
            }
            Some(Record::Orphan { charged, hold }) => {
                self.orphans.remove(&(charged, id));
                Closed::Charged(hold)
            }
            None | Some(Record::Over { .. }) => Closed::Unknown,
        }
    }

    /// Turns the open reservation that expired first into an orphan, if one has expired, and gives what it took.
    pub(super) fn expire_one(&mut self, now: Timestamp) -> Option<&[Take]> {
        if self.expiry.first()?.0 > now {
            return None;
        }
        let (_, id) = self.expiry.pop_first()?;
        let record = self.records.get_mut(&id)?;
        if let Record::Open { hold, .. } = record {
            *record = Record::Orphan { charged: now, hold: std::mem::take(hold) };
            self.orphans.insert((now, id));
        }
        match record {
            Record::Orphan { hold, .. } => Some(&hold.takes),
            Record::Open { .. } | Record::Over { .. } => None,
        }
    }

    /// Forgets the oldest orphan if it is old enough: its charge stays as it is. Answers whether it was.
    pub(super) fn forget_orphan(&mut self, now: Timestamp) -> bool {
        let Some((charged, id)) = self.orphans.first().copied() else { return false };
        if self.orphans.len() <= MEMORY_LIMIT && now.since(charged) < ORPHAN_MEMORY {
            return false;
        }
        self.orphans.pop_first();
        self.records.remove(&id);
        true
    }

    /// Forgets the oldest marker if it is old enough. Answers whether it was.
    pub(super) fn forget_marker(&mut self, now: Timestamp) -> bool {
        let Some((since, id)) = self.markers.front().copied() else { return false };
        if self.markers.len() <= MEMORY_LIMIT && now.since(since) < MARKER_MEMORY {
            return false;
        }
        self.markers.pop_front();
        if matches!(self.records.get(&id), Some(Record::Over { since: written }) if *written == since) {
            self.records.remove(&id);
        }
        if self.markers.capacity() > 1_024 && self.markers.len() < self.markers.capacity() / 8 {
            self.markers.shrink_to(self.markers.len().saturating_mul(2));
        }
        if self.records.capacity() > 1_024 && self.records.len() < self.records.capacity() / 8 {
            self.records.shrink_to(self.records.len().saturating_mul(2));
        }
        true
    }

    /// What an open reservation holds; `None` for ids that are not open.
    pub(super) fn open_hold(&mut self, id: &ReservationId) -> Option<&mut Hold> {
        match self.records.get_mut(id) {
            Some(Record::Open { hold, .. }) => Some(hold),
            _ => None,
        }
    }

    /// Forgets everything that was reserved, and not what is over: a delayed duplicate must stay out.
    pub(super) fn clear(&mut self) {
        self.records.retain(|_, record| matches!(record, Record::Over { .. }));
        self.expiry.clear();
        self.orphans.clear();
    }

    /// Whether nothing is open and nothing needs to be remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// What all open reservations hold and all remembered orphans were charged: (held, orphaned).
    #[cfg(test)]
    pub(super) fn sums(&self, counter: &CounterId) -> (u64, u64) {
        let of = |hold: &Hold| {
            hold.takes.iter().filter(|take| take.counter == *counter).map(|take| take.amount).sum::<u64>()
        };
        self.records.values().fold((0, 0), |(held, orphaned), record| match record {
            Record::Open { hold, .. } => (held + of(hold), orphaned),
            Record::Orphan { hold, .. } => (held, orphaned + of(hold)),
            Record::Over { .. } => (held, orphaned),
        })
    }
}
