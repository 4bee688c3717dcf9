//! One key's books: its counters, its reservations, its rate, and the decisions about them.
//!
//! Pure and synchronous: the time is passed in and never goes back, the caller holds the lock. A decision looks at everything before it changes
//! anything. In every counter `used + held` stays within the granted ceiling; only a cost above its own bound can break that, and it is reported.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Period;

use super::rate::SlidingLog;
use super::reservation::{Closed, ORPHAN_MEMORY, Reservations, Seen, Take};
use super::{
    Admission, Books, ClawBack, CounterError, Grant, Need, ReservationId, Reserve, Settled, Settlement, Shortage,
    Verdict,
};

/// How many expired reservations, orphans and markers one decision moves on, each. It adds at most one of each, so this keeps up.
const SWEEP: usize = 8;

/// One counter.
#[derive(Debug)]
struct Bucket {
    counter: CounterId,
    period: Period,
    granted: u64,
    elsewhere: u64,
    used: u64,
    held: u64,
    /// The part of `used` that a late settlement can still replace.
    orphaned: u64,
    /// By how much costs were above their bounds.
    overrun: u64,
}

impl Bucket {
    fn new(grant: &Grant) -> Self {
        let Grant { counter, period, granted, elsewhere } = *grant;
        Self { counter, period, granted, elsewhere, used: 0, held: 0, orphaned: 0, overrun: 0 }
    }

    /// What can still be taken when the policy's limit is `limit`.
    fn free(&self, limit: u64) -> u64 {
        self.granted.min(limit.saturating_sub(self.elsewhere)).saturating_sub(self.charged())
    }

    fn charged(&self) -> u64 {
        self.used.saturating_add(self.held)
    }

    fn expire(&mut self, amount: u64) {
        self.held = self.held.saturating_sub(amount);
        self.used = self.used.saturating_add(amount);
        self.orphaned = self.orphaned.saturating_add(amount);
    }

    /// Replaces what was reserved by `actual`; answers whether that is more.
    fn settle(&mut self, reserved: u64, actual: u64, was_orphan: bool) -> bool {
        if was_orphan {
            self.orphaned = self.orphaned.saturating_sub(reserved);
            self.used = self.used.saturating_sub(reserved);
        } else {
            self.held = self.held.saturating_sub(reserved);
        }
        self.used = self.used.saturating_add(actual);
        self.overrun = self.overrun.saturating_add(actual.saturating_sub(reserved));
        actual > reserved
    }

    /// Long over, with nothing held: nobody can ask for it any more.
    fn is_past(&self, now: Timestamp) -> bool {
        self.held == 0 && self.period.end.saturating_add(ORPHAN_MEMORY) <= now && self.period.end != Timestamp::MAX
    }
}

/// The books of one key.
#[derive(Debug)]
pub(super) struct KeyBooks {
    key: KeyId,
    /// 0 until the first grant.
    epoch: u32,
    frozen: bool,
    /// At most one per limit and period; a handful.
    buckets: Vec<Bucket>,
    reservations: Reservations,
    rate: SlidingLog,
}

impl KeyBooks {
    /// Books without counters.
    pub(super) fn new(key: KeyId) -> Self {
        Self {
            key,
            epoch: 0,
            frozen: false,
            buckets: Vec::new(),
            reservations: Reservations::default(),
            rate: SlidingLog::default(),
        }
    }

    pub(super) fn grant(&mut self, epoch: u32, grants: &[Grant], now: Timestamp) -> Result<(), CounterError> {
        if epoch == 0 || epoch < self.epoch {
            return Err(self.other_epoch(epoch));
        }
        if let Some(foreign) = grants.iter().find(|grant| grant.counter.key != self.key) {
            return Err(CounterError::ForeignCounter { key: self.key, owner: foreign.counter.key });
        }
        if self.epoch != 0 && epoch > self.epoch {
            // Old amounts must not meet new books. What was reserved under the old epoch stays written off in the ledger.
            self.buckets.clear();
            self.reservations = Reservations::default();
        }
        self.epoch = epoch;
        for grant in grants {
            match self.bucket(&grant.counter) {
                Some(bucket) if grant.granted >= bucket.granted => {
                    bucket.granted = grant.granted;
                    bucket.elsewhere = grant.elsewhere;
                }
                Some(_) => {}
                None => self.buckets.push(Bucket::new(grant)),
            }
        }
        self.buckets.retain(|bucket| !bucket.is_past(now));
        self.debug_check();
        Ok(())
    }

    pub(super) fn reserve(&mut self, ask: &Reserve<'_>, now: Timestamp) -> Verdict {
        match self.reservations.seen(&ask.id) {
            Seen::Open => return Verdict::Admitted(self.admission(ask, now)),
            Seen::Over => return Verdict::Duplicate,
            Seen::Never => {}
        }
        if self.frozen {
            return Verdict::Frozen;
        }
        if ask.not_after.is_some_and(|last| now > last) {
            return Verdict::Late;
        }
        if ask.needs.iter().any(|need| !need.period.contains(now)) {
            return Verdict::OutsidePeriod;
        }
        self.sweep(now, SWEEP);
        if let Some(refusal) = self.refusal(ask, now) {
            self.debug_check();
            return refusal;
        }
        self.take(ask, now);
        self.debug_check();
        Verdict::Admitted(self.admission(ask, now))
    }

    /// Settles, or cancels with a settlement at nothing.
    pub(super) fn settle(
        &mut self,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<Settled, CounterError> {
        self.same_epoch(epoch)?;
        let settled = match self.reservations.close(id, now) {
            Closed::Held(takes) => Settled::Done { over_bound: self.book(&takes, settlement, false) },
            Closed::Charged(takes) => Settled::Late { over_bound: self.book(&takes, settlement, true) },
            Closed::Over => Settled::Duplicate,
            Closed::Unknown => Settled::Unknown,
        };
        self.debug_check();
        Ok(settled)
    }

    pub(super) fn shrink(&mut self, epoch: u32, id: ReservationId, bound: NanoUsd) -> Result<bool, CounterError> {
        self.same_epoch(epoch)?;
        let Self { buckets, reservations, .. } = self;
        let mut lowered = false;
        reservations.adjust_open(&id, |take| {
            let surplus = take.amount.saturating_sub(bound.nanos());
            if take.counter.dimension != Dimension::Spend || surplus == 0 {
                return;
            }
            take.amount = bound.nanos();
            lowered = true;
            if let Some(bucket) = find(buckets, &take.counter) {
                bucket.held = bucket.held.saturating_sub(surplus);
            }
        });
        self.debug_check();
        Ok(lowered)
    }

    pub(super) fn claw_back(&mut self) -> Option<ClawBack> {
        if self.epoch == 0 {
            return None;
        }
        for bucket in &mut self.buckets {
            bucket.granted = bucket.granted.min(bucket.charged());
        }
        self.debug_check();
        let holdings = self.buckets.iter().map(|bucket| (bucket.counter, bucket.granted)).collect();
        Some(ClawBack { epoch: self.epoch, holdings })
    }

    pub(super) fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    pub(super) fn report(&self) -> Vec<Books> {
        let report = |bucket: &Bucket| Books {
            counter: bucket.counter,
            granted: bucket.granted,
            used: bucket.used,
            held: bucket.held,
            orphaned: bucket.orphaned,
            elsewhere: bucket.elsewhere,
        };
        self.buckets.iter().map(report).collect()
    }

    /// Moves everything on that is due; answers whether nothing is left that anyone could miss.
    pub(super) fn retire(&mut self, now: Timestamp) -> bool {
        self.sweep(now, usize::MAX);
        self.buckets.retain(|bucket| !bucket.is_past(now));
        !self.frozen && self.buckets.is_empty() && self.reservations.is_empty() && self.rate.is_idle(now)
    }

    /// Why `ask` cannot be admitted. All counters are looked at, so that one round to the control plane is enough.
    fn refusal(&mut self, ask: &Reserve<'_>, now: Timestamp) -> Option<Verdict> {
        let mut missing = Vec::new();
        let mut short = Vec::new();
        for (index, need) in ask.needs.iter().enumerate() {
            match self.bucket(&need.counter).map(|bucket| bucket.free(need.limit)) {
                None => missing.push(index),
                Some(free) if free < wanted(ask.needs, index) => short.push((index, free)),
                Some(_) => {}
            }
        }
        if !missing.is_empty() {
            return Some(Verdict::NoBooks(missing));
        }
        if !short.is_empty() {
            return Some(Verdict::Short(Shortage { needs: short }));
        }
        let wait = self.rate.free(ask.requests_per_minute?, now).err()?;
        Some(Verdict::RateLimited { retry_after: wait })
    }

    /// Takes what [`Self::refusal`] found free.
    fn take(&mut self, ask: &Reserve<'_>, now: Timestamp) {
        for need in ask.needs {
            if let Some(bucket) = self.bucket(&need.counter) {
                bucket.held = bucket.held.saturating_add(need.amount);
            }
        }
        let takes = ask.needs.iter().map(|need| Take { counter: need.counter, amount: need.amount }).collect();
        self.reservations.open(ask.id, takes, now.saturating_add(ask.expires_after));
        if ask.requests_per_minute.is_some() {
            self.rate.admit(now);
        }
    }

    fn admission(&mut self, ask: &Reserve<'_>, now: Timestamp) -> Admission {
        let free = |need: &Need| Some((need.counter, self.bucket(&need.counter)?.free(need.limit)));
        let remaining = ask.needs.iter().filter_map(free).collect();
        let rate_remaining = ask.requests_per_minute.map(|limit| self.rate.free(limit, now).unwrap_or(0));
        Admission { epoch: if ask.needs.is_empty() { 0 } else { self.epoch }, remaining, rate_remaining }
    }

    /// Replaces what was taken by what it cost; answers whether money was spent beyond its bound.
    fn book(&mut self, takes: &[Take], settlement: Settlement, was_orphan: bool) -> bool {
        let mut over_bound = false;
        for take in takes {
            let (actual, bounded) = match take.counter.dimension {
                Dimension::Requests => (u64::from(settlement.counted), false),
                Dimension::Spend => (settlement.cost.nanos(), true),
            };
            over_bound |= bounded && actual > take.amount;
            if let Some(bucket) = self.bucket(&take.counter) {
                bucket.settle(take.amount, actual, was_orphan);
            }
        }
        over_bound
    }

    /// Charges expired reservations in full and forgets what is old, at most `most` of each.
    fn sweep(&mut self, now: Timestamp, most: usize) {
        let Self { buckets, reservations, .. } = self;
        for _ in 0..most {
            let Some(takes) = reservations.expire_one(now) else { break };
            for take in takes {
                if let Some(bucket) = find(buckets, &take.counter) {
                    bucket.expire(take.amount);
                }
            }
        }
        for _ in 0..most {
            let Some(takes) = reservations.forget_orphan(now) else { break };
            for take in &takes {
                if let Some(bucket) = find(buckets, &take.counter) {
                    bucket.orphaned = bucket.orphaned.saturating_sub(take.amount);
                }
            }
        }
        for _ in 0..most {
            if !reservations.forget_marker(now) {
                break;
            }
        }
    }

    fn bucket(&mut self, counter: &CounterId) -> Option<&mut Bucket> {
        find(&mut self.buckets, counter)
    }

    fn same_epoch(&self, epoch: u32) -> Result<(), CounterError> {
        if epoch == 0 || epoch == self.epoch { Ok(()) } else { Err(self.other_epoch(epoch)) }
    }

    fn other_epoch(&self, given: u32) -> CounterError {
        CounterError::Epoch { key: self.key, given, current: self.epoch }
    }

    /// I-2, as far as it can be seen without counting all reservations again.
    fn debug_check(&self) {
        for bucket in &self.buckets {
            debug_assert!(bucket.orphaned <= bucket.used, "orphaned is part of used: {bucket:?}");
            debug_assert!(bucket.charged() <= bucket.granted.saturating_add(bucket.overrun), "ceiling: {bucket:?}");
        }
    }
}

fn find<'a>(buckets: &'a mut [Bucket], counter: &CounterId) -> Option<&'a mut Bucket> {
    buckets.iter_mut().find(|bucket| bucket.counter == *counter)
}

/// What the needs up to `index` want from its counter together.
fn wanted(needs: &[Need], index: usize) -> u64 {
    let of = |need: &&Need| need.counter == needs[index].counter;
    needs[..=index].iter().filter(of).fold(0, |sum, need| need.amount.saturating_add(sum))
}

#[cfg(test)]
impl KeyBooks {
    /// I-2 in full: what is held is what open reservations hold, what is orphaned is what expired ones were charged.
    pub(super) fn recount(&self) {
        for bucket in &self.buckets {
            let (held, orphaned) = self.reservations.sums(&bucket.counter);
            assert_eq!((bucket.held, bucket.orphaned), (held, orphaned), "{bucket:?}");
        }
        self.debug_check();
    }

    /// How many reservations, open or over, take up memory.
    pub(super) fn remembered(&self) -> usize {
        self.reservations.len()
    }
}
