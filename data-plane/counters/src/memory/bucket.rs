//! One counter of a key's books: its ceiling, and what is charged and held under it.
//!
//! `used + held` stays within the ceiling; only a cost above its own bound can break that, and whoever books it is told.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::limit::CounterId;
use keyforge_shared::period::Period;

use super::reservation::ORPHAN_MEMORY;
use crate::grant::Grant;
use crate::reserve::Standing;
use crate::store::CounterState;

/// One counter, in requests or nano-dollars.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) counter: CounterId,
    period: Period,
    granted: u64,
    elsewhere: u64,
    /// Of the latest answer of the ledger about this counter.
    serial: u64,
    used: u64,
    held: u64,
    /// The part of `used` that stands for expired reservations without a settlement, whether or not one can still come.
    orphaned: u64,
}

impl Bucket {
    pub(super) fn new(grant: &Grant, serial: u64) -> Self {
        let Grant { counter, period, granted, elsewhere } = *grant;
        Self { counter, period, granted, elsewhere, serial, used: 0, held: 0, orphaned: 0 }
    }

    /// Takes the ledger's word, unless a later one was heard.
    pub(super) fn set(&mut self, grant: &Grant, serial: u64) {
        if serial > self.serial {
            (self.granted, self.elsewhere, self.serial) = (grant.granted, grant.elsewhere, serial);
        }
    }

    /// What can still be taken when the policy's limit is `limit`.
    pub(super) fn free(&self, limit: u64) -> u64 {
        self.granted.min(limit.saturating_sub(self.elsewhere)).saturating_sub(self.charged())
    }

    pub(super) fn standing(&self, limit: u64) -> Standing {
        let Self { used, held, orphaned, elsewhere, .. } = *self;
        Standing { free: self.free(limit), used, held, orphaned, elsewhere }
    }

    fn charged(&self) -> u64 {
        self.used.saturating_add(self.held)
    }

    pub(super) fn hold(&mut self, amount: u64) {
        self.held = self.held.saturating_add(amount);
    }

    pub(super) fn release(&mut self, amount: u64) {
        self.held = self.held.saturating_sub(amount);
    }

    /// Charges a hold in full: nobody said what it cost.
    pub(super) fn expire(&mut self, amount: u64) {
        self.held = self.held.saturating_sub(amount);
        self.used = self.used.saturating_add(amount);
        self.orphaned = self.orphaned.saturating_add(amount);
    }

    /// Replaces what was reserved by `actual`.
    pub(super) fn settle(&mut self, reserved: u64, actual: u64, was_orphan: bool) {
        if was_orphan {
            self.orphaned = self.orphaned.saturating_sub(reserved);
            self.used = self.used.saturating_sub(reserved);
        } else {
            self.held = self.held.saturating_sub(reserved);
        }
        self.used = self.used.saturating_add(actual);
    }

    /// Gives up what is neither used nor held, and answers what stays.
    pub(super) fn claw_back(&mut self) -> u64 {
        self.granted = self.granted.min(self.charged());
        self.granted
    }

    /// Long over, with nothing held: nobody can ask for it any more.
    pub(super) fn is_past(&self, now: Timestamp) -> bool {
        self.held == 0 && self.period.end != Timestamp::MAX && self.period.end.saturating_add(ORPHAN_MEMORY) <= now
    }

    pub(super) fn report(&self) -> CounterState {
        let Self { counter, granted, used, held, orphaned, elsewhere, .. } = *self;
        CounterState { counter, granted, used, held, orphaned, elsewhere }
    }

    /// I-2, as far as it can be seen without counting all reservations again.
    pub(super) fn debug_check(&self) {
        debug_assert!(self.orphaned <= self.used, "orphaned is part of used: {self:?}");
    }

    /// (held, orphaned), to be compared with the reservations.
    #[cfg(test)]
    pub(super) fn pending(&self) -> (u64, u64) {
        (self.held, self.orphaned)
    }
}
