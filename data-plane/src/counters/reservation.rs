//! What one key's reservations are: open, expired and charged, or over and remembered for a while.
//!
//! It says of any id which of these it is, in which order open ones expire, and what each took. It never changes a counter: whoever moves a
//! reservation on gets to know what it took, and books that.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use hashbrown::HashMap;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::limit::CounterId;

use super::ReservationId;

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

#[derive(Debug)]
enum Record {
    Open { expires: Timestamp, takes: Box<[Take]> },
    Orphan { takes: Box<[Take]> },
    Over,
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
    Held(Box<[Take]>),
    /// Expired; this was charged.
    Charged(Box<[Take]>),
    /// Closed before.
    Over,
    /// Never heard of.
    Unknown,
}

/// All reservations of one key in one epoch.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    records: HashMap<ReservationId, Record>,
    /// Each open reservation once, in the order in which they expire.
    expiry: BTreeSet<(Timestamp, ReservationId)>,
    /// When each orphan was charged, oldest first. A settled one stays until its turn.
    orphans: VecDeque<(Timestamp, ReservationId)>,
    /// When each marker was written, oldest first.
    markers: VecDeque<(Timestamp, ReservationId)>,
}

impl Reservations {
    pub(super) fn seen(&self, id: &ReservationId) -> Seen {
        match self.records.get(id) {
            None => Seen::Never,
            Some(Record::Open { .. }) => Seen::Open,
            Some(Record::Orphan { .. } | Record::Over) => Seen::Over,
        }
    }

    /// Opens a reservation that was never seen.
    pub(super) fn open(&mut self, id: ReservationId, takes: Box<[Take]>, expires: Timestamp) {
        self.records.insert(id, Record::Open { expires, takes });
        self.expiry.insert((expires, id));
    }

    /// Closes an id, whatever it was; from here on it is over, so that a delayed reserve cannot open it.
    pub(super) fn close(&mut self, id: ReservationId, now: Timestamp) -> Closed {
        let closed = match self.records.insert(id, Record::Over) {
            Some(Record::Over) => return Closed::Over,
            Some(Record::Open { expires, takes }) => {
                self.expiry.remove(&(expires, id));
                Closed::Held(takes)
            }
            Some(Record::Orphan { takes }) => Closed::Charged(takes),
            None => Closed::Unknown,
        };
        self.markers.push_back((now, id));
        closed
    }

    /// Turns the open reservation that expired first into an orphan, if one has expired, and gives what it took.
    pub(super) fn expire_one(&mut self, now: Timestamp) -> Option<&[Take]> {
        if self.expiry.first()?.0 > now {
            return None;
        }
        let (_, id) = self.expiry.pop_first()?;
        let record = self.records.get_mut(&id)?;
        if let Record::Open { takes, .. } = record {
            *record = Record::Orphan { takes: std::mem::take(takes) };
        }
        self.orphans.push_back((now, id));
        match record {
            Record::Orphan { takes } => Some(takes),
            Record::Open { .. } | Record::Over => None,
        }
    }

    /// Forgets the oldest orphan if it is old enough, and gives what it was charged: nothing if it was settled.
    pub(super) fn forget_orphan(&mut self, now: Timestamp) -> Option<Box<[Take]>> {
        let id = pop_older(&mut self.orphans, now, ORPHAN_MEMORY)?;
        match self.records.get(&id) {
            Some(Record::Orphan { .. }) => match self.records.remove(&id) {
                Some(Record::Orphan { takes }) => Some(takes),
                _ => None,
            },
            _ => Some(Box::default()),
        }
    }

    /// Forgets the oldest marker if it is old enough. Answers whether it was.
    pub(super) fn forget_marker(&mut self, now: Timestamp) -> bool {
        let Some(id) = pop_older(&mut self.markers, now, MARKER_MEMORY) else { return false };
        self.records.remove(&id);
        if self.records.capacity() > 1_024 && self.records.len() < self.records.capacity() / 8 {
            self.records.shrink_to(self.records.len().saturating_mul(2));
        }
        true
    }

    /// Hands each amount that an open reservation holds to `lower`. Does nothing for ids that are not open.
    pub(super) fn adjust_open(&mut self, id: &ReservationId, mut lower: impl FnMut(&mut Take)) {
        if let Some(Record::Open { takes, .. }) = self.records.get_mut(id) {
            takes.iter_mut().for_each(&mut lower);
        }
    }

    /// Whether nothing is open and nothing needs to be remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// What all open reservations hold and all orphans were charged: (held, orphaned).
    #[cfg(test)]
    pub(super) fn sums(&self, counter: &CounterId) -> (u64, u64) {
        let of =
            |takes: &[Take]| takes.iter().filter(|take| take.counter == *counter).map(|take| take.amount).sum::<u64>();
        self.records.values().fold((0, 0), |(held, orphaned), record| match record {
            Record::Open { takes, .. } => (held + of(takes), orphaned),
            Record::Orphan { takes } => (held, orphaned + of(takes)),
            Record::Over => (held, orphaned),
        })
    }
}

/// Takes the front of a queue once it is older than `memory`, or at once when the queue is too long.
fn pop_older(
    queue: &mut VecDeque<(Timestamp, ReservationId)>,
    now: Timestamp,
    memory: Duration,
) -> Option<ReservationId> {
    let (since, id) = *queue.front()?;
    if queue.len() <= MEMORY_LIMIT && now.since(since) < memory {
        return None;
    }
    queue.pop_front();
    if queue.capacity() > 1_024 && queue.len() < queue.capacity() / 8 {
        queue.shrink_to(queue.len().saturating_mul(2));
    }
    Some(id)
}
