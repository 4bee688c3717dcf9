//! Which requests of one key run now, for all that the store knows.
//!
//! Each holds a lease that it has to renew: one whose node died stops counting by itself. Nothing here is money, so forgetting is safe.

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashMap;
use keyforge_shared::clock::Timestamp;

use crate::reserve::ReservationId;

/// Leases of one key.
#[derive(Debug, Default)]
pub(super) struct Leases {
    until: HashMap<ReservationId, Timestamp>,
    expiry: BTreeSet<(Timestamp, ReservationId)>,
}

impl Leases {
    /// Drops what has ended and counts the rest. `now` is never before an earlier one.
    pub(super) fn running(&mut self, now: Timestamp) -> usize {
        while let Some((until, id)) = self.expiry.first().copied().filter(|(until, _)| *until <= now) {
            self.expiry.remove(&(until, id));
            self.until.remove(&id);
        }
        if self.until.capacity() > 64 && self.until.len() < self.until.capacity() / 8 {
            self.until.shrink_to(self.until.len().saturating_mul(2));
        }
        self.until.len()
    }

    /// Lets a request run until `lease` from now, whatever it had.
    pub(super) fn renew(&mut self, id: ReservationId, lease: Duration, now: Timestamp) {
        let until = now.saturating_add(lease);
        if let Some(before) = self.until.insert(id, until) {
            self.expiry.remove(&(before, id));
        }
        self.expiry.insert((until, id));
    }

    pub(super) fn end(&mut self, id: &ReservationId) {
        if let Some(until) = self.until.remove(id) {
            self.expiry.remove(&(until, *id));
        }
    }

    /// Whether nothing runs any more.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.expiry.last().is_none_or(|(until, _)| *until <= now)
    }
}
