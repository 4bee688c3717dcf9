//! One key's books: their life, its counters, reservations and pace, and the decisions about them.
//!
//! Pure and synchronous: the clock's time is passed in, the caller holds the lock. A decision looks at everything before it changes anything.
//! In every counter `used + held` stays within the granted ceiling; only a cost above its own bound can break that, and it is reported.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::money::NanoUsd;

use super::bucket::Bucket;
use super::pace::Pace;
use super::reservation::{Closed, Hold, Reservations, Seen, Take};
use crate::grant::{ClawBack, GrantSet};
use crate::reserve::{Admission, Need, ReservationId, Reserve, Standing, Verdict};
use crate::settle::{Settled, Settlement};
use crate::store::{CounterError, CounterState};

/// How many expired reservations, orphans and markers one decision moves on, each. It adds at most one of each, so this keeps up.
const SWEEP: usize = 8;
/// The time of a key about which nothing was decided.
const NEVER: Timestamp = Timestamp::from_nanos(i64::MIN);

/// The books of one key.
#[derive(Debug)]
pub(super) struct KeyBooks {
    key: KeyId,
    life: LifeId,
    /// 0 until the first answer of the ledger in this life.
    epoch: u32,
    /// The highest serial of all answers of the ledger in this life.
    serial: u64,
    /// Answers of the ledger up to this serial are void.
    floor: u64,
    /// The revision that the freeze comes from.
    frozen: Option<u64>,
    /// The key's own time: that of the latest decision.
    latest: Timestamp,
    /// The monotonic clock at that decision, in nanoseconds.
    latest_passed: u64,
    /// At most one per limit and period; a handful.
    buckets: Vec<Bucket>,
    reservations: Reservations,
    pace: Pace,
}

impl KeyBooks {
    /// Books without counters.
    pub(super) fn new(key: KeyId, life: LifeId) -> Self {
        Self {
            key,
            life,
            epoch: 0,
            serial: 0,
            floor: 0,
            frozen: None,
            latest: NEVER,
            latest_passed: 0,
            buckets: Vec::new(),
            reservations: Reservations::default(),
            pace: Pace::default(),
        }
    }

    /// `passed` is the monotonic clock in nanoseconds.
    pub(super) fn reserve(&mut self, ask: &Reserve<'_>, clock: Timestamp, passed: u64) -> Verdict {
        let now = self.now(clock);
        let seen = self.reservations.seen(&ask.id, now);
        if seen == Seen::Over {
            return Verdict::Duplicate;
        }
        // Also if it is open: whoever is told of it in another epoch would have its cost looked for there.
        if !ask.needs.is_empty() && (self.epoch == 0 || ask.epoch != self.epoch) {
            return Verdict::NotJoined(self.life);
        }
        if seen == Seen::Open {
            return Verdict::Admitted(self.admission(ask, now));
        }
        if self.frozen.is_some() {
            return Verdict::Frozen;
        }
        (self.latest, self.latest_passed) = (now, passed);
        if ask.not_after.is_some_and(|last| now > last) {
            return Verdict::Late;
        }
        if ask.needs.iter().any(|need| !need.period.contains(now)) {
            return Verdict::OutsidePeriod { now };
        }
        self.sweep(now, SWEEP);
        let verdict = match self.refusal(ask, now) {
            Some(refusal) => refusal,
            None => {
                self.take(ask, now);
                Verdict::Admitted(self.admission(ask, now))
            }
        };
        self.debug_check();
        verdict
    }

    /// Settles, or cancels with a settlement at nothing.
    pub(super) fn settle(
        &mut self,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
        clock: Timestamp,
    ) -> Result<Settled, CounterError> {
        self.pace.end(&id);
        self.same_epoch(epoch)?;
        let settled = match self.reservations.close(id, self.now(clock)) {
            Closed::Held(hold) => Settled::Done { over_bound: self.book(&hold, settlement, false) },
            Closed::Charged(hold) => Settled::AfterExpiry { over_bound: self.book(&hold, settlement, true) },
            Closed::Over => Settled::Duplicate,
            Closed::Unknown => Settled::Unknown,
        };
        self.debug_check();
        Ok(settled)
    }

    pub(super) fn shrink(
        &mut self,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
        tokens: Option<u64>,
    ) -> Result<bool, CounterError> {
        self.same_epoch(epoch)?;
        let Self { buckets, reservations, pace, .. } = self;
        let Some(hold) = reservations.open_hold(&id) else { return Ok(false) };
        let mut lowered = false;
        for take in hold.takes.iter_mut().filter(|take| take.counter.dimension == Dimension::Spend) {
            let surplus = take.amount.saturating_sub(bound.nanos());
            take.amount -= surplus;
            lowered |= surplus > 0;
            if let Some(bucket) = find(buckets, &take.counter) {
                bucket.release(surplus);
            }
        }
        if let (Some(held), Some(tokens)) = (&mut hold.tokens, tokens)
            && tokens < held.amount
        {
            pace.replace_tokens(*held, tokens);
            held.amount = tokens;
            lowered = true;
        }
        self.debug_check();
        Ok(lowered)
    }

    pub(super) fn renew(&mut self, ids: &[ReservationId], lease: Duration, clock: Timestamp) {
        let now = self.now(clock);
        for id in ids.iter().filter(|id| !self.reservations.is_remembered(id, now)) {
            self.pace.renew(*id, whole_millis(lease), now);
        }
    }

    pub(super) fn grant(&mut self, set: &GrantSet) -> Result<(), CounterError> {
        if let Some(foreign) = set.grants.iter().find(|grant| grant.counter.key != self.key) {
            return Err(CounterError::ForeignCounter { key: self.key, owner: foreign.counter.key });
        }
        if set.life != self.life {
            return Err(CounterError::Life { key: self.key, current: self.life });
        }
        if set.epoch == 0 || self.epoch != 0 && self.epoch != set.epoch {
            return Err(self.other_epoch(set.epoch));
        }
        self.epoch = set.epoch;
        self.serial = self.serial.max(set.serial);
        if set.serial > self.floor {
            for grant in &set.grants {
                match find(&mut self.buckets, &grant.counter) {
                    Some(bucket) => bucket.set(grant, set.serial),
                    None => self.buckets.push(Bucket::new(grant, set.serial)),
                }
            }
        }
        // By time that cannot go back: a counter that is forgotten and asked for again would begin at zero.
        self.buckets.retain(|bucket| !bucket.is_past(self.latest));
        self.debug_check();
        Ok(())
    }

    pub(super) fn claw_back(&mut self) -> Option<ClawBack> {
        if self.epoch == 0 {
            return None;
        }
        self.floor = self.serial;
        let holdings = self.buckets.iter_mut().map(|bucket| (bucket.counter, bucket.claw_back())).collect();
        Some(ClawBack { life: self.life, epoch: self.epoch, serial: self.serial, holdings })
    }

    pub(super) fn life(&self) -> LifeId {
        self.life
    }

    /// Begins a new life. Pace, freeze and time go on.
    pub(super) fn begin(&mut self, life: LifeId) {
        (self.life, self.epoch, self.serial, self.floor) = (life, 0, 0, 0);
        self.buckets.clear();
        self.reservations.clear();
    }

    pub(super) fn freeze(&mut self, revision: u64) {
        self.frozen = self.frozen.max(Some(revision));
    }

    pub(super) fn unfreeze(&mut self, revision: u64) -> bool {
        self.frozen.take_if(|frozen| *frozen < revision).is_some()
    }

    /// The life, once the ledger has numbered it.
    pub(super) fn numbered_life(&self) -> Option<LifeId> {
        (self.epoch != 0).then_some(self.life)
    }

    pub(super) fn report(&self) -> Vec<CounterState> {
        self.buckets.iter().map(Bucket::report).collect()
    }

    /// Moves everything on that is due; answers whether nothing is left that anyone could miss.
    ///
    /// Counters are dropped all together or not at all: whoever asks again then finds a new life, and never an old one with a counter at zero.
    ///
    /// Nobody decides here, so a clock that has jumped ahead may still come back: the key's own time moves on by no more than has really passed
    /// (`passed` is the monotonic clock in nanoseconds). A key without decisions has no window to lose.
    pub(super) fn retire(&mut self, clock: Timestamp, passed: u64) -> bool {
        let since = Duration::from_nanos(passed.saturating_sub(self.latest_passed));
        let at_most = if self.latest == NEVER { Timestamp::MAX } else { self.latest.saturating_add(since) };
        let now = self.now(clock.min(at_most));
        self.sweep(now, usize::MAX);
        self.frozen.is_none()
            && self.buckets.iter().all(|bucket| bucket.is_past(now))
            && self.reservations.is_empty()
            && self.pace.is_idle(now)
    }

    /// In whole milliseconds, and never before the latest decision.
    fn now(&self, clock: Timestamp) -> Timestamp {
        Timestamp::from_millis(clock.millis()).max(self.latest)
    }

    /// Why `ask` cannot be admitted. All counters are looked at, so that one round to the control plane is enough.
    fn refusal(&mut self, ask: &Reserve<'_>, now: Timestamp) -> Option<Verdict> {
        let mut missing = Vec::new();
        let mut short = Vec::new();
        for (index, need) in ask.needs.iter().enumerate() {
            match find(&mut self.buckets, &need.counter) {
                None => missing.push(index),
                Some(bucket) if bucket.free(need.limit) < need.amount => {
                    short.push((index, bucket.standing(need.limit)));
                }
                Some(_) => {}
            }
        }
        if !missing.is_empty() {
            return Some(Verdict::NoBooks(missing));
        }
        if !short.is_empty() {
            return Some(Verdict::Short(short));
        }
        self.pace.refusal(&ask.rates, now).map(Verdict::RateLimited)
    }

    /// Takes what [`Self::refusal`] found free.
    fn take(&mut self, ask: &Reserve<'_>, now: Timestamp) {
        for need in ask.needs {
            if let Some(bucket) = find(&mut self.buckets, &need.counter) {
                bucket.hold(need.amount);
            }
        }
        let takes = ask.needs.iter().map(|need| Take { counter: need.counter, amount: need.amount }).collect();
        let hold = Hold { takes, tokens: self.pace.take(ask.id, &ask.rates, now) };
        self.reservations.open(ask.id, hold, now.saturating_add(whole_millis(ask.expires_after)));
    }

    fn admission(&mut self, ask: &Reserve<'_>, now: Timestamp) -> Admission {
        let standing = |need: &Need| {
            find(&mut self.buckets, &need.counter).map_or_else(Standing::default, |bucket| bucket.standing(need.limit))
        };
        let counters = ask.needs.iter().map(standing).collect();
        Admission { counters, rates: self.pace.left(&ask.rates, now) }
    }

    /// Replaces what was taken by what it cost; answers whether money was spent beyond its bound.
    fn book(&mut self, hold: &Hold, settlement: Settlement, was_orphan: bool) -> bool {
        let mut over_bound = false;
        for take in &hold.takes {
            let (actual, bounded) = match take.counter.dimension {
                Dimension::Requests => (u64::from(settlement.counted), false),
                Dimension::Spend => (settlement.cost.nanos(), true),
            };
            over_bound |= bounded && actual > take.amount;
            if let Some(bucket) = find(&mut self.buckets, &take.counter) {
                bucket.settle(take.amount, actual, was_orphan);
            }
        }
        if let (Some(held), Some(actual)) = (hold.tokens, settlement.tokens) {
            self.pace.replace_tokens(held, actual);
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
            if !reservations.forget_orphan(now) {
                break;
            }
        }
        for _ in 0..most {
            if !reservations.forget_marker(now) {
                break;
            }
        }
    }

    fn same_epoch(&self, epoch: u32) -> Result<(), CounterError> {
        if epoch == 0 || epoch == self.epoch { Ok(()) } else { Err(self.other_epoch(epoch)) }
    }

    fn other_epoch(&self, given: u32) -> CounterError {
        CounterError::Epoch { key: self.key, given, current: self.epoch }
    }

    fn debug_check(&self) {
        self.buckets.iter().for_each(Bucket::debug_check);
    }
}

fn find<'a>(buckets: &'a mut [Bucket], counter: &CounterId) -> Option<&'a mut Bucket> {
    buckets.iter_mut().find(|bucket| bucket.counter == *counter)
}

/// Stores count in whole milliseconds.
fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
impl KeyBooks {
    /// I-2 in full: what is held is what open reservations hold, what is orphaned is what expired ones were charged, also forgotten ones.
    pub(super) fn recount(&self) {
        for bucket in &self.buckets {
            let (held, remembered) = self.reservations.sums(&bucket.counter);
            assert_eq!(bucket.pending().0, held, "{bucket:?}");
            assert!(bucket.pending().1 >= remembered, "{remembered} are remembered: {bucket:?}");
        }
        self.debug_check();
    }

    /// How many reservations, open or over, take up memory.
    pub(super) fn remembered(&self) -> usize {
        self.reservations.len()
    }
}
