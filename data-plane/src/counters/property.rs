//! Random histories against the in-process store, judged from outside of it.
//!
//! Three things are kept beside the store: the *truth* (what each attempt that may have been dispatched cost, or can cost at most, over all epochs
//! and all stores), a small *ledger* that grants only what is neither settled in a closed epoch nor granted in an open one, and a *mirror* that
//! derives the books from the list of reservations each time. Replies get lost, messages come twice and late, nodes crash, clocks jump.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::{Clock, ManualClock, Timestamp};
use keyforge_shared::id::{CounterStoreId, KeyId};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Period, Window};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::conformance::{START, counter_at, key, reservation};
use super::{
    Admission, CounterError, CounterStore, Grant, MemoryCounters, Need, ReservationId, Reserve, Settled, Settlement,
    Shortage, Verdict,
};

const LIMITS: [(Dimension, Window, u64); 4] = [
    (Dimension::Requests, Window::Day, 25),
    (Dimension::Spend, Window::Day, 2_000),
    (Dimension::Spend, Window::Week, 6_000),
    (Dimension::Spend, Window::Total, 9_000),
];
const RATE: u32 = 6;
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

#[derive(Clone, Debug)]
enum Op {
    /// A new attempt: its bound, its life in seconds, whether the reply is lost, whether it arrives late.
    Ask {
        spend: u64,
        life: u64,
        lost: bool,
        late: bool,
    },
    /// An attempt of a key without limits.
    AskUnlimited,
    /// The caller of a lost reply asks again.
    Retry(usize),
    /// The network delivers a reserve again.
    Repeat(usize),
    /// A dispatched attempt ends with this percentage of its bound.
    Settle {
        which: usize,
        percent: u64,
        counted: bool,
    },
    /// The network delivers a settlement again.
    SettleAgain {
        which: usize,
        cost: u64,
    },
    /// The caller of a lost reply gives up.
    Cancel {
        which: usize,
        knows_epoch: bool,
    },
    /// A cancellation overtakes its reserve.
    CancelFirst,
    Shrink {
        which: usize,
        percent: u64,
    },
    /// The store asks the ledger for more.
    Acquire {
        requests: u64,
        spend: u64,
        lost: bool,
    },
    /// The network delivers a grant again.
    GrantAgain(usize),
    ClawBack {
        reply_lost: bool,
        return_lost: bool,
    },
    EpochBump,
    Crash,
    /// All that an old epoch did is known.
    CloseEpoch,
    Forward(i64),
    Backward(i64),
    Limits(u64),
    Freeze(bool),
}

fn op(faults: bool) -> impl Strategy<Value = Op> {
    let forward = prop_oneof![6 => 1..2_000_i64, 3 => 2_000..2 * MINUTE, 1 => 2 * MINUTE..DAY + MINUTE];
    // What makes a store forget is left out where everything must drain.
    let loss = move |op| Just(if faults { op } else { Op::Forward(1) });
    prop_oneof![
        24 => (1..500_u64, 1..400_u64, prop::bool::weighted(0.2), prop::bool::weighted(0.03))
            .prop_map(|(spend, life, lost, late)| Op::Ask { spend, life, lost, late }),
        2 => Just(Op::AskUnlimited),
        4 => any::<usize>().prop_map(Op::Retry),
        5 => any::<usize>().prop_map(Op::Repeat),
        14 => (any::<usize>(), 0..=100_u64, prop::bool::weighted(0.9))
            .prop_map(|(which, percent, counted)| Op::Settle { which, percent, counted }),
        4 => (any::<usize>(), 0..500_u64).prop_map(|(which, cost)| Op::SettleAgain { which, cost }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, knows_epoch)| Op::Cancel { which, knows_epoch }),
        2 => Just(Op::CancelFirst),
        4 => (any::<usize>(), 0..150_u64).prop_map(|(which, percent)| Op::Shrink { which, percent }),
        8 => (0..6_u64, 0..900_u64, prop::bool::weighted(0.2))
            .prop_map(|(requests, spend, lost)| Op::Acquire { requests, spend, lost }),
        3 => any::<usize>().prop_map(Op::GrantAgain),
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(reply_lost, return_lost)| Op::ClawBack { reply_lost, return_lost }),
        1 => loss(Op::EpochBump),
        1 => loss(Op::Crash),
        2 => loss(Op::CloseEpoch),
        8 => forward.prop_map(Op::Forward),
        2 => (1..3 * MINUTE).prop_map(Op::Backward),
        1 => (20..=130_u64).prop_map(Op::Limits),
        1 => any::<bool>().prop_map(Op::Freeze),
    ]
}

/// What an attempt is, as far as its caller and the provider know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Asked, and the reply was lost: not dispatched.
    Asked,
    Dispatched {
        epoch: u32,
    },
    /// Ended at this cost; counted or not.
    Ended {
        epoch: u32,
        cost: u64,
        counted: bool,
    },
    /// Refused, cancelled, or lost with its node before it was dispatched.
    Gone,
}

#[derive(Clone, Debug)]
struct Attempt {
    id: ReservationId,
    needs: Vec<Need>,
    /// Most that the provider can bill.
    bound: u64,
    phase: Phase,
}

impl Attempt {
    /// What it costs at most on a counter, if it may ever cost.
    fn truth(&self, counter: &CounterId) -> u64 {
        if !self.needs.iter().any(|need| need.counter == *counter) {
            return 0;
        }
        match (self.phase, counter.dimension) {
            (Phase::Dispatched { .. }, Dimension::Requests) => 1,
            (Phase::Dispatched { .. }, Dimension::Spend) => self.bound,
            (Phase::Ended { counted, .. }, Dimension::Requests) => u64::from(counted),
            (Phase::Ended { cost, .. }, Dimension::Spend) => cost,
            (Phase::Asked | Phase::Gone, _) => 0,
        }
    }

    fn epoch(&self) -> Option<u32> {
        match self.phase {
            Phase::Dispatched { epoch } | Phase::Ended { epoch, .. } => Some(epoch),
            Phase::Asked | Phase::Gone => None,
        }
    }
}

/// The control plane's side: grants only what nobody else may still spend.
#[derive(Debug, Default)]
struct Ledger {
    epoch: u32,
    /// Of closed epochs.
    settled: BTreeMap<CounterId, u64>,
    /// Of open epochs.
    granted: BTreeMap<(u32, CounterId), u64>,
}

impl Ledger {
    fn elsewhere(&self, counter: &CounterId) -> u64 {
        let open = self.granted.iter().filter(|((epoch, of), _)| *epoch != self.epoch && of == counter);
        self.settled.get(counter).unwrap_or(&0) + open.map(|(_, granted)| granted).sum::<u64>()
    }

    fn grant(&mut self, counter: CounterId, period: Period, limit: u64, want: u64) -> Grant {
        let elsewhere = self.elsewhere(&counter);
        let granted = self.granted.entry((self.epoch, counter)).or_default();
        *granted += want.min(limit.saturating_sub(elsewhere + *granted));
        Grant { counter, period, granted: *granted, elsewhere }
    }

    fn give_back(&mut self, epoch: u32, holdings: &[(CounterId, u64)]) {
        for (counter, holding) in holdings {
            if let Some(granted) = self.granted.get_mut(&(epoch, *counter)) {
                *granted = (*granted).min(*holding);
            }
        }
    }
}

/// A reservation as the store must know it.
#[derive(Clone, Debug)]
struct Entry {
    takes: Vec<(CounterId, u64)>,
    /// When it expires, while it is neither settled nor cancelled.
    expires: Option<i64>,
    /// When it was settled or cancelled.
    over: i64,
}

/// The books, derived anew from the list of reservations.
#[derive(Debug, Default)]
struct Mirror {
    epoch: u32,
    frozen: bool,
    /// The store's clock in milliseconds.
    now: i64,
    grants: BTreeMap<CounterId, Grant>,
    entries: BTreeMap<ReservationId, Entry>,
    admissions: Vec<i64>,
}

impl Mirror {
    fn charge(&self, counter: &CounterId) -> u64 {
        let takes = self.entries.values().flat_map(|entry| &entry.takes);
        takes.filter(|(of, _)| of == counter).map(|(_, amount)| amount).sum()
    }

    fn free(&self, need: &Need) -> Option<u64> {
        let grant = self.grants.get(&need.counter)?;
        let ceiling = grant.granted.min(need.limit.saturating_sub(grant.elsewhere));
        Some(ceiling.saturating_sub(self.charge(&need.counter)))
    }

    fn in_window(&self) -> Vec<i64> {
        self.admissions.iter().copied().filter(|at| *at > self.now - MINUTE).collect()
    }

    fn admission(&self, ask: &Reserve<'_>) -> Verdict {
        let remaining = ask.needs.iter().filter_map(|need| Some((need.counter, self.free(need)?))).collect();
        let used = u32::try_from(self.in_window().len()).unwrap();
        let rate_remaining = ask.requests_per_minute.map(|rate| rate - used);
        Verdict::Admitted(Admission {
            epoch: if ask.needs.is_empty() { 0 } else { self.epoch },
            remaining,
            rate_remaining,
        })
    }

    /// Every verdict that is right now; takes what the first one takes.
    fn reserve(&mut self, ask: &Reserve<'_>) -> Vec<Verdict> {
        if let Some(entry) = self.entries.get(&ask.id) {
            return match entry.expires {
                Some(expires) if expires > self.now => vec![self.admission(ask)],
                // Whether it was swept already is the store's business.
                Some(_) => vec![Verdict::Duplicate, self.admission(ask)],
                None => vec![Verdict::Duplicate],
            };
        }
        if self.frozen {
            return vec![Verdict::Frozen];
        }
        let now = Timestamp::from_millis(self.now);
        if ask.not_after.is_some_and(|last| last < now) {
            return vec![Verdict::Late];
        }
        if ask.needs.iter().any(|need| now < need.period.start || now >= need.period.end) {
            return vec![Verdict::OutsidePeriod];
        }
        let free: Vec<_> = ask.needs.iter().map(|need| self.free(need)).collect();
        let missing: Vec<_> = (0..free.len()).filter(|index| free[*index].is_none()).collect();
        if !missing.is_empty() {
            return vec![Verdict::NoBooks(missing)];
        }
        let short = free.iter().enumerate().filter_map(|(index, free)| Some((index, (*free)?)));
        let needs: Vec<_> = short.filter(|(index, free)| *free < ask.needs[*index].amount).collect();
        if !needs.is_empty() {
            return vec![Verdict::Short(Shortage { needs })];
        }
        let window = self.in_window();
        if let Some(rate) = ask.requests_per_minute {
            let rate = usize::try_from(rate).unwrap();
            if window.len() >= rate {
                let wait = window[window.len() - rate] + MINUTE - self.now;
                return vec![Verdict::RateLimited { retry_after: Duration::from_millis(u64::try_from(wait).unwrap()) }];
            }
            self.admissions.push(self.now);
        }
        let takes = ask.needs.iter().map(|need| (need.counter, need.amount)).collect();
        let life = i64::try_from(ask.expires_after.as_millis()).unwrap();
        self.entries.insert(ask.id, Entry { takes, expires: Some(self.now + life), over: 0 });
        vec![self.admission(ask)]
    }

    /// What the store may answer to a settlement.
    fn settle(&mut self, id: ReservationId, cost: u64, counted: bool, answer: Settled) -> Result<(), TestCaseError> {
        let now = self.now;
        let Some(entry) = self.entries.get_mut(&id) else {
            prop_assert_eq!(answer, Settled::Unknown);
            self.entries.insert(id, Entry { takes: Vec::new(), expires: None, over: now });
            return Ok(());
        };
        let (done, late) = (Settled::Done { over_bound: false }, Settled::Late { over_bound: false });
        let allowed = match entry.expires {
            None => vec![Settled::Duplicate],
            Some(expires) if expires > now => vec![done],
            Some(expires) if expires + DAY > now => vec![done, late],
            Some(_) => vec![done, late, Settled::Unknown],
        };
        prop_assert!(allowed.contains(&answer), "{answer:?} is not one of {allowed:?}");
        if answer == done || answer == late {
            for (counter, amount) in &mut entry.takes {
                *amount = if counter.dimension == Dimension::Requests { u64::from(counted) } else { cost };
            }
        }
        if entry.expires.take().is_some() {
            entry.over = now;
        }
        Ok(())
    }
}

/// Everything: the store, and what is known beside it.
struct World {
    clock: Arc<ManualClock>,
    store: MemoryCounters,
    key: KeyId,
    limits: Vec<(Dimension, Window, u64)>,
    ledger: Ledger,
    mirror: Mirror,
    attempts: Vec<Attempt>,
    /// Grants that the network may deliver again.
    sent: Vec<(u32, Vec<Grant>)>,
    next: u32,
    /// Whether every attempt is reported within a day of its expiry, which is as long as a store waits for the truth.
    prompt: bool,
}

impl World {
    fn new(prompt: bool) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        Self {
            store: new_store(&clock),
            clock,
            key: key(0),
            limits: LIMITS.to_vec(),
            ledger: Ledger { epoch: 1, ..Ledger::default() },
            mirror: Mirror::default(),
            attempts: Vec::new(),
            sent: Vec::new(),
            next: 0,
            prompt,
        }
    }

    /// The store looks at the clock: time passes for it, but never back.
    async fn tick(&mut self) {
        self.store.shrink(self.key, 0, reservation(0), NanoUsd::ZERO).await.unwrap();
        self.mirror.now = self.mirror.now.max(self.clock.now().millis());
    }

    fn needs(&self, spend: u64) -> Vec<Need> {
        let now = self.clock.now();
        let need = |(dimension, window, limit): &(Dimension, Window, u64)| {
            let (counter, period) = counter_at(self.key, (*dimension, *window), now);
            Need { counter, period, limit: *limit, amount: if *dimension == Dimension::Spend { spend } else { 1 } }
        };
        self.limits.iter().map(need).collect()
    }

    async fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        self.tick().await;
        match op {
            Op::Ask { spend, life, lost, late } => self.ask(spend, life, lost, late).await?,
            Op::AskUnlimited => self.ask_unlimited().await?,
            Op::Retry(which) => {
                let waits = |attempt: &Attempt| attempt.phase == Phase::Asked && !self.is_forgotten(attempt);
                if let Some(index) = self.pick(which, waits) {
                    self.put(index, 300, false, false).await?;
                }
            }
            Op::Repeat(which) => self.repeat(which).await?,
            Op::Settle { which, percent, counted } => {
                if let Some(index) = self.pick(which, |attempt| matches!(attempt.phase, Phase::Dispatched { .. })) {
                    self.settle(index, percent, counted).await?;
                }
            }
            Op::SettleAgain { which, cost } => self.settle_again(which, cost).await?,
            Op::Cancel { which, knows_epoch } => {
                if let Some(index) = self.pick(which, |attempt| attempt.phase == Phase::Asked) {
                    let epoch = if knows_epoch { self.mirror.epoch } else { 0 };
                    self.cancel(index, epoch).await?;
                }
            }
            Op::CancelFirst => {
                let index = self.attempt(10);
                self.cancel(index, 0).await?;
                self.put(index, 300, false, false).await?;
            }
            Op::Shrink { which, percent } => self.shrink(which, percent).await?,
            Op::Acquire { requests, spend, lost } => self.acquire(requests, spend, lost).await?,
            Op::GrantAgain(which) => {
                if !self.sent.is_empty() {
                    let (epoch, grants) = self.sent[which % self.sent.len()].clone();
                    self.deliver(epoch, &grants).await?;
                }
            }
            Op::ClawBack { reply_lost, return_lost } => self.claw_back(reply_lost, return_lost).await?,
            Op::EpochBump => self.ledger.epoch += 1,
            Op::Crash => self.crash(),
            Op::CloseEpoch => self.close_epoch(),
            Op::Forward(millis) => {
                self.report_before(self.mirror.now + millis).await?;
                self.clock.advance(Duration::from_millis(u64::try_from(millis).unwrap()));
            }
            Op::Backward(millis) => self.clock.set(Timestamp::from_millis(self.clock.now().millis() - millis)),
            Op::Limits(percent) => {
                self.limits =
                    LIMITS.map(|(dimension, window, limit)| (dimension, window, limit * percent / 100)).to_vec();
            }
            Op::Freeze(frozen) => {
                self.mirror.frozen = frozen;
                if frozen {
                    self.store.freeze(self.key).await.unwrap()
                } else {
                    self.store.unfreeze(self.key).await.unwrap()
                }
            }
        }
        self.check().await
    }

    /// Whether the store may have forgotten an expired reservation: nobody asks again after that long.
    fn is_forgotten(&self, attempt: &Attempt) -> bool {
        let entry = self.mirror.entries.get(&attempt.id);
        entry.and_then(|entry| entry.expires).is_some_and(|expires| expires + DAY <= self.mirror.now)
    }

    fn pick(&self, which: usize, suits: impl Fn(&Attempt) -> bool) -> Option<usize> {
        let suited: Vec<_> = (0..self.attempts.len()).filter(|index| suits(&self.attempts[*index])).collect();
        (!suited.is_empty()).then(|| suited[which % suited.len()])
    }

    fn attempt(&mut self, spend: u64) -> usize {
        self.next += 1;
        let (id, needs) = (reservation(self.next), self.needs(spend));
        self.attempts.push(Attempt { id, needs, bound: spend, phase: Phase::Asked });
        self.attempts.len() - 1
    }

    async fn ask(&mut self, spend: u64, life: u64, lost: bool, late: bool) -> Result<(), TestCaseError> {
        let index = self.attempt(spend);
        let verdict = self.put(index, life, lost, late).await?;
        if matches!(verdict, Verdict::Short(_) | Verdict::NoBooks(_)) && !lost {
            self.acquire(2, spend.saturating_mul(2), false).await?;
            self.attempts[index].phase = Phase::Asked;
            self.put(index, life, false, late).await?;
        }
        Ok(())
    }

    /// Delivers the reserve of an attempt and does what its caller does with the answer.
    async fn put(&mut self, index: usize, life: u64, lost: bool, late: bool) -> Result<Verdict, TestCaseError> {
        let verdict = self.deliver_reserve(index, life, late).await?;
        if lost {
            return Ok(verdict);
        }
        match &verdict {
            Verdict::Admitted(admission) => {
                self.attempts[index].phase = Phase::Dispatched { epoch: admission.epoch };
            }
            // An earlier delivery may have been admitted, or may still be under way: whoever is refused cancels.
            _ => self.cancel(index, 0).await?,
        }
        Ok(verdict)
    }

    async fn deliver_reserve(&mut self, index: usize, life: u64, late: bool) -> Result<Verdict, TestCaseError> {
        let attempt = self.attempts[index].clone();
        let ask = Reserve {
            id: attempt.id,
            key: self.key,
            needs: &attempt.needs,
            requests_per_minute: Some(RATE),
            expires_after: Duration::from_secs(life),
            not_after: late.then(|| Timestamp::from_millis(self.mirror.now - 1)),
        };
        let known = self.mirror.entries.contains_key(&ask.id);
        let verdict = self.store.reserve(ask).await.unwrap();
        let right = self.mirror.reserve(&ask);
        prop_assert!(right.contains(&verdict), "reserve: {verdict:?} is not one of {right:?}");
        if matches!(verdict, Verdict::Admitted(_)) && !known {
            self.check_admission(&attempt)?;
        }
        Ok(verdict)
    }

    /// I-1 under the limits of this moment, counting what the store holds for replies that were lost; I-10; I-11.
    fn check_admission(&self, attempt: &Attempt) -> Result<(), TestCaseError> {
        for need in &attempt.needs {
            let others = self.attempts.iter().filter(|other| other.epoch() != Some(self.mirror.epoch));
            let before: u64 = others.map(|other| other.truth(&need.counter)).sum();
            let sum = before + self.mirror.charge(&need.counter);
            prop_assert!(sum <= need.limit, "I-1: {sum} of {} on {:?}", need.limit, need.counter);
            let now = Timestamp::from_millis(self.mirror.now);
            prop_assert!(need.period.contains(now), "I-11: admitted outside of its period");
        }
        let window = self.mirror.in_window().len();
        prop_assert!(window <= usize::try_from(RATE).unwrap(), "I-10: {window} admissions in 60 s");
        Ok(())
    }

    async fn ask_unlimited(&mut self) -> Result<(), TestCaseError> {
        self.next += 1;
        self.attempts.push(Attempt { id: reservation(self.next), needs: Vec::new(), bound: 0, phase: Phase::Asked });
        self.put(self.attempts.len() - 1, 200, false, false).await?;
        Ok(())
    }

    /// A delayed copy of a reserve arrives; nobody waits for its answer. Callers retry for 10 seconds, so copies are not older than a minute.
    async fn repeat(&mut self, which: usize) -> Result<(), TestCaseError> {
        let now = self.mirror.now;
        let entries = &self.mirror.entries;
        let young = |attempt: &Attempt| {
            entries.get(&attempt.id).is_some_and(|entry| match entry.expires {
                Some(expires) => expires + DAY - MINUTE > now,
                None => entry.over + 50_000 > now,
            })
        };
        if let Some(index) = self.pick(which, young) {
            self.deliver_reserve(index, 300, false).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, index: usize, percent: u64, counted: bool) -> Result<(), TestCaseError> {
        let attempt = self.attempts[index].clone();
        let Phase::Dispatched { epoch } = attempt.phase else { return Ok(()) };
        let cost = attempt.bound * percent / 100;
        self.attempts[index].phase = Phase::Ended { epoch, cost, counted };
        self.deliver_settlement(attempt.id, epoch, cost, counted).await
    }

    async fn settle_again(&mut self, which: usize, cost: u64) -> Result<(), TestCaseError> {
        let now = self.mirror.now;
        let entries = &self.mirror.entries;
        let over = |attempt: &Attempt| {
            entries.get(&attempt.id).is_some_and(|entry| entry.expires.is_none() && entry.over + 50_000 > now)
        };
        let Some(index) = self.pick(which, over) else { return Ok(()) };
        let epoch = self.attempts[index].epoch().unwrap_or(0);
        self.deliver_settlement(self.attempts[index].id, epoch, cost, true).await
    }

    async fn deliver_settlement(
        &mut self,
        id: ReservationId,
        epoch: u32,
        cost: u64,
        counted: bool,
    ) -> Result<(), TestCaseError> {
        let settlement = Settlement { cost: NanoUsd::new(cost), counted };
        match self.store.settle(self.key, epoch, id, settlement).await {
            Ok(answer) => {
                prop_assert!(epoch == 0 || epoch == self.mirror.epoch, "settled in another epoch");
                self.mirror.settle(id, cost, counted, answer)
            }
            Err(CounterError::Epoch { given, current, .. }) => {
                prop_assert_eq!((given, current), (epoch, self.mirror.epoch));
                prop_assert!(epoch != 0 && epoch != self.mirror.epoch);
                Ok(())
            }
            Err(other) => Err(TestCaseError::fail(other.to_string())),
        }
    }

    async fn cancel(&mut self, index: usize, epoch: u32) -> Result<(), TestCaseError> {
        self.attempts[index].phase = Phase::Gone;
        let id = self.attempts[index].id;
        let answer = self.store.cancel(self.key, epoch, id).await.unwrap();
        self.mirror.settle(id, 0, false, answer)
    }

    async fn shrink(&mut self, which: usize, percent: u64) -> Result<(), TestCaseError> {
        let here = self.mirror.epoch;
        let suits = |attempt: &Attempt| attempt.phase == Phase::Dispatched { epoch: here } && !attempt.needs.is_empty();
        let Some(index) = self.pick(which, suits) else { return Ok(()) };
        let (id, bound) = (self.attempts[index].id, self.attempts[index].bound * percent / 100);
        let lowered = self.store.shrink(self.key, here, id, NanoUsd::new(bound)).await.unwrap();
        prop_assert!(!lowered || bound < self.attempts[index].bound);
        let Some(entry) = self.mirror.entries.get_mut(&id) else { return Ok(()) };
        prop_assert!(
            lowered || bound >= self.attempts[index].bound || entry.expires.is_none_or(|at| at <= self.mirror.now)
        );
        if lowered {
            for (counter, amount) in &mut entry.takes {
                if counter.dimension == Dimension::Spend {
                    *amount = bound;
                }
            }
            self.attempts[index].bound = bound;
        }
        Ok(())
    }

    async fn acquire(&mut self, requests: u64, spend: u64, lost: bool) -> Result<(), TestCaseError> {
        let needs = self.needs(spend);
        let want = |need: &Need| if need.counter.dimension == Dimension::Spend { spend } else { requests };
        let ledger = &mut self.ledger;
        let grants: Vec<_> =
            needs.iter().map(|need| ledger.grant(need.counter, need.period, need.limit, want(need))).collect();
        let epoch = self.ledger.epoch;
        if lost {
            return Ok(());
        }
        self.sent.push((epoch, grants.clone()));
        self.deliver(epoch, &grants).await
    }

    async fn deliver(&mut self, epoch: u32, grants: &[Grant]) -> Result<(), TestCaseError> {
        let answer = self.store.grant(self.key, epoch, grants).await;
        if epoch < self.mirror.epoch {
            prop_assert!(matches!(answer, Err(CounterError::Epoch { .. })), "a lower epoch is refused");
            return Ok(());
        }
        prop_assert!(answer.is_ok());
        if self.mirror.epoch != 0 && epoch > self.mirror.epoch {
            self.mirror.grants.clear();
            self.mirror.entries.clear();
        }
        self.mirror.epoch = epoch;
        for grant in grants {
            let known = self.mirror.grants.entry(grant.counter).or_insert(*grant);
            if grant.granted >= known.granted {
                *known = *grant;
            }
        }
        Ok(())
    }

    /// The caller lets no grant of the key be under way, so none that was sent before arrives after.
    async fn claw_back(&mut self, reply_lost: bool, return_lost: bool) -> Result<(), TestCaseError> {
        self.sent.retain(|(epoch, _)| *epoch < self.mirror.epoch);
        let Some(claw) = self.store.claw_back(self.key).await.unwrap() else {
            prop_assert_eq!(self.mirror.epoch, 0);
            return Ok(());
        };
        prop_assert_eq!(claw.epoch, self.mirror.epoch);
        for (counter, holding) in &claw.holdings {
            let charge = self.mirror.charge(counter);
            if let Some(grant) = self.mirror.grants.get_mut(counter) {
                grant.granted = grant.granted.min(charge);
                prop_assert_eq!(*holding, grant.granted);
            }
        }
        if !reply_lost && !return_lost {
            self.ledger.give_back(claw.epoch, &claw.holdings);
        }
        Ok(())
    }

    /// The node and its memory are gone. Whoever had no answer yet never dispatched.
    fn crash(&mut self) {
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.phase == Phase::Asked) {
            attempt.phase = Phase::Gone;
        }
        self.store = new_store(&self.clock);
        self.mirror = Mirror::default();
        self.sent.clear();
        self.ledger.epoch += 1;
    }

    /// The oldest epoch that nobody can reserve in any more is settled from what its attempts cost, or can cost at most.
    fn close_epoch(&mut self) {
        let live = if self.mirror.epoch == 0 { self.ledger.epoch } else { self.mirror.epoch };
        let Some(epoch) = self.ledger.granted.keys().map(|(epoch, _)| *epoch).find(|epoch| *epoch < live) else {
            return;
        };
        let granted = self.ledger.granted.keys();
        let counters: BTreeSet<_> = granted.filter(|(of, _)| *of == epoch).map(|(_, counter)| *counter).collect();
        for counter in counters {
            let of_epoch = self.attempts.iter().filter(|attempt| attempt.epoch() == Some(epoch));
            let settled: u64 = of_epoch.map(|attempt| attempt.truth(&counter)).sum();
            self.ledger.granted.remove(&(epoch, counter));
            *self.ledger.settled.entry(counter).or_default() += settled;
        }
    }

    async fn check(&self) -> Result<(), TestCaseError> {
        self.store.recount(self.key);
        for books in self.store.books(self.key).await.unwrap() {
            let charge = self.mirror.charge(&books.counter);
            prop_assert_eq!(books.used + books.held, charge, "I-5: {:?}", books);
            prop_assert!(books.used + books.held <= books.granted, "I-2: {books:?}");
            prop_assert!(books.orphaned <= books.used, "I-2: {books:?}");
            prop_assert_eq!(Some(books.granted), self.mirror.grants.get(&books.counter).map(|grant| grant.granted));
            let written_off = self.ledger.granted.get(&(self.mirror.epoch, books.counter));
            prop_assert!(written_off >= Some(&books.granted), "I-4: more than was written off: {books:?}");
        }
        for counter in self.mirror.grants.keys() {
            let (_, _, base) = LIMITS.iter().find(|of| (of.0, of.1) == (counter.dimension, counter.window)).unwrap();
            let highest = base * 130 / 100;
            let truth: u64 = self.attempts.iter().map(|attempt| attempt.truth(counter)).sum();
            prop_assert!(truth <= highest, "I-1: {truth} of {highest} on {counter:?}");
        }
        Ok(())
    }

    /// If everybody is prompt, ends what would otherwise be forgotten at `moment`.
    async fn report_before(&mut self, moment: i64) -> Result<(), TestCaseError> {
        for index in 0..self.attempts.len() {
            let expires = self.mirror.entries.get(&self.attempts[index].id).and_then(|entry| entry.expires);
            if self.prompt && expires.is_some_and(|expires| expires + DAY <= moment) {
                self.report(index).await?;
            }
        }
        Ok(())
    }

    async fn report(&mut self, index: usize) -> Result<(), TestCaseError> {
        match self.attempts[index].phase {
            Phase::Asked => self.cancel(index, 0).await,
            Phase::Dispatched { .. } => self.settle(index, u64::try_from(index % 101).unwrap(), true).await,
            Phase::Ended { .. } | Phase::Gone => Ok(()),
        }
    }

    /// Everybody reports: all dispatched attempts end, all unanswered ones are cancelled.
    async fn drain(&mut self) -> Result<(), TestCaseError> {
        for index in 0..self.attempts.len() {
            self.report(index).await?;
        }
        self.check().await
    }

    /// I-9: nothing is held, nothing waits for its truth, and what is used is what it cost, counted in one period each (I-11).
    async fn check_drained(&self) -> Result<(), TestCaseError> {
        let here = |attempt: &&Attempt| attempt.epoch() == Some(self.mirror.epoch);
        for books in self.store.books(self.key).await.unwrap() {
            let truth: u64 = self.attempts.iter().filter(here).map(|attempt| attempt.truth(&books.counter)).sum();
            prop_assert_eq!((books.held, books.orphaned), (0, 0), "I-9: {:?}", books);
            prop_assert_eq!(books.used, truth, "I-9: {:?}", books);
        }
        Ok(())
    }
}

fn new_store(clock: &Arc<ManualClock>) -> MemoryCounters {
    MemoryCounters::new(CounterStoreId::generate().unwrap(), Arc::clone(clock) as Arc<dyn Clock>)
}

fn run(ops: Vec<Op>, drained: bool) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(drained);
        for op in ops {
            world.step(op).await?;
        }
        if drained {
            world.drain().await?;
            world.check_drained().await?;
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(Config { cases: Config::default().cases.max(256), failure_persistence: None, ..Config::default() })]

    #[test]
    fn i_1_i_2_i_5_i_10_i_11_hold_after_every_step_whatever_is_lost(ops in vec(op(true), 1..160)) {
        run(ops, false)?;
    }

    #[test]
    fn i_9_all_drains_to_the_true_cost(ops in vec(op(false), 1..160)) {
        run(ops, true)?;
    }
}
