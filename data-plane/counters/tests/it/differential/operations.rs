//! Random operations: near enough to sense that they meet, far enough from it to meet in any order.

use std::time::Duration;

use keyforge_counters::{
    Concurrency, CounterStore, Grant, GrantSet, Need, Rates, ReservationId, Reserve, Settlement, TokenRate,
};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, CivilDay, Period, Window};

use super::Answer;
use crate::conformance::{LATER, ONCE, START, reservation};
use crate::random::Random;

const DAY_MS: u64 = 24 * 3_600 * 1_000;

fn any_name(random: &mut Random) -> (Scope, Dimension, Window) {
    let scope = Scope::ALL[usize::from(random.percent(30))];
    let dimension = Dimension::ALL[usize::from(random.percent(60))];
    (scope, dimension, Window::ALL[random.weighted(&[40, 10, 25, 25])])
}

/// One step.
#[derive(Debug)]
pub struct Operation {
    pub key: KeyId,
    pub action: Action,
}

#[derive(Debug)]
pub enum Action {
    Reserve {
        id: ReservationId,
        epoch: u32,
        needs: Vec<Need>,
        rates: Rates,
        life: Duration,
        not_after: Option<Timestamp>,
    },
    Settle {
        id: ReservationId,
        epoch: u32,
        settlement: Settlement,
    },
    Shrink {
        id: ReservationId,
        epoch: u32,
        bound: u64,
        tokens: Option<u64>,
    },
    Renew {
        ids: Vec<ReservationId>,
        lease: Duration,
    },
    Grant(GrantSet),
    ClawBack,
    Vacate(LifeId),
    Freeze(bool),
    Clock(Timestamp),
    /// The server starts again with its data.
    Restart,
    /// Everything is lost.
    Flush,
    /// Everything of this key is lost.
    Lose,
}

impl Operation {
    /// Does it in a store that knows lives by other names.
    pub(super) async fn put(&self, store: &impl CounterStore, life: impl Fn(LifeId) -> LifeId) -> Answer {
        let key = self.key;
        let answer = match &self.action {
            Action::Reserve { id, epoch, needs, rates, life, not_after } => {
                let (id, epoch, rates, not_after) = (*id, *epoch, *rates, *not_after);
                let ask = Reserve { id, key, epoch, needs, rates, expires_after: *life, not_after };
                store.reserve(ask).await.map(Answer::Verdict)
            }
            Action::Settle { id, epoch, settlement } => {
                store.settle(key, *epoch, *id, *settlement).await.map(Answer::Settled)
            }
            Action::Shrink { id, epoch, bound, tokens } => {
                store.shrink(key, *epoch, *id, NanoUsd::new(*bound), *tokens).await.map(Answer::Lowered)
            }
            Action::Renew { ids, lease } => store.renew(key, ids, *lease).await.map(|()| Answer::Done),
            Action::Grant(set) => {
                store.grant(key, &GrantSet { life: life(set.life), ..set.clone() }).await.map(|()| Answer::Done)
            }
            Action::ClawBack => store.claw_back(key).await.map(Answer::ClawBack),
            Action::Vacate(given) => store.vacate(key, life(*given)).await.map(Answer::Life),
            Action::Freeze(true) => store.freeze(key, ONCE).await.map(|()| Answer::Done),
            Action::Freeze(false) => store.unfreeze(key, LATER).await.map(|_| Answer::Done),
            Action::Clock(_) | Action::Restart | Action::Flush | Action::Lose => Ok(Answer::Done),
        };
        answer.unwrap_or_else(Answer::Error)
    }
}

/// What is known of a key by whoever makes operations up.
#[derive(Clone, Debug)]
struct Known {
    key: KeyId,
    /// All lives that were ever named, the latest last.
    lives: Vec<LifeId>,
    serial: u64,
    /// Ids that were used, and with which needs.
    asked: Vec<(ReservationId, Vec<Need>, u32)>,
    /// Those of them that were admitted.
    admitted: Vec<(ReservationId, Vec<Need>, u32)>,
    limits: Rates,
    /// The limits that the key has, for the most part.
    names: Vec<(Scope, Dimension, Window)>,
}

impl Known {
    /// The number of the latest life; lives are numbered from 1.
    fn epoch(&self) -> u32 {
        u32::try_from(self.lives.len()).unwrap()
    }
}

pub struct Generator {
    random: Random,
    keys: Vec<Known>,
    now: Timestamp,
    next: u32,
}

impl Generator {
    pub fn new(mut random: Random) -> Self {
        let mut key = |name: u8| Known {
            key: KeyId::from_ascii(&[name; 12]).unwrap(),
            lives: Vec::new(),
            serial: 0,
            asked: Vec::new(),
            admitted: Vec::new(),
            limits: Rates::default(),
            names: (0..3).map(|_| any_name(&mut random)).collect(),
        };
        let keys = vec![key(b'a'), key(b'b')];
        Self { random, keys, now: START, next: 0 }
    }

    pub fn keys(&self) -> Vec<KeyId> {
        self.keys.iter().map(|known| known.key).collect()
    }

    /// Hears which lives an answer named, and whether it was an admission.
    pub fn learn(&mut self, operation: &Operation, lives: &[LifeId], admitted: bool) {
        let known = self.keys.iter_mut().find(|known| known.key == operation.key).unwrap();
        if admitted {
            known.admitted.extend(known.asked.last().cloned());
        }
        for life in lives {
            if !known.lives.contains(life) {
                known.lives.push(*life);
                known.serial = 0;
            }
        }
    }

    pub fn next(&mut self) -> Operation {
        let index = usize::from(self.random.percent(25));
        let action = match self.random.weighted(&[40, 22, 7, 4, 14, 2, 1, 2, 12, 1, 1, 1]) {
            0 => self.reserve(index),
            1 => self.settle(index),
            2 => self.shrink(index),
            3 => self.renew(index),
            4 => self.grant(index),
            5 => Action::ClawBack,
            6 => Action::Vacate(self.life(index, 40)),
            7 => Action::Freeze(self.random.percent(30)),
            8 => self.clock(index),
            // What loses everything ends a history, so it is rare.
            9 if self.random.percent(30) => Action::Restart,
            10 if self.random.percent(20) => Action::Flush,
            11 if self.random.percent(20) => Action::Lose,
            _ => Action::Freeze(false),
        };
        Operation { key: self.keys[index].key, action }
    }

    fn reserve(&mut self, index: usize) -> Action {
        if self.random.percent(25) {
            let limits = Rates {
                requests_per_minute: self.some(60, 1..=6).map(|limit| u32::try_from(limit).unwrap()),
                tokens: self.some(60, 20..=200).map(|per_minute| TokenRate { per_minute, amount: 0 }),
                concurrency: self
                    .some(50, 1..=5)
                    .map(|limit| Concurrency { limit: u32::try_from(limit).unwrap(), lease: Duration::ZERO }),
            };
            self.keys[index].limits = limits;
        }
        let again = self.random.percent(20);
        let old = if again { self.random.pick(&self.keys[index].asked).cloned() } else { None };
        let epoch = self.epoch(index);
        let (id, needs, epoch) = match old {
            Some((id, needs, epoch)) if self.random.percent(70) => (id, needs, epoch),
            Some((id, ..)) => (id, self.needs(index), epoch),
            None => (self.new_id(), self.needs(index), epoch),
        };
        self.keys[index].asked.push((id, needs.clone(), epoch));
        let lease = self.random.within(1..=120_000);
        let amount = self.random.within(0..=70);
        let limits = self.keys[index].limits;
        let rates = Rates {
            requests_per_minute: limits.requests_per_minute,
            tokens: limits.tokens.map(|tokens| TokenRate { amount, ..tokens }),
            concurrency: limits
                .concurrency
                .map(|concurrency| Concurrency { lease: Duration::from_millis(lease), ..concurrency }),
        };
        let not_after = self.some(15, 0..=2_000).map(|ahead| self.at(ahead).saturating_add(Duration::ZERO));
        let not_after = not_after.map(|at| Timestamp::from_millis(at.millis() - 1_000));
        let life = match self.random.weighted(&[60, 20, 20]) {
            0 => self.random.within(1..=100_000),
            1 => self.random.within(0..=3) * 1_000,
            _ => self.random.within(1..=10) * 60_000,
        };
        Action::Reserve { id, epoch, needs, rates, life: Duration::from_millis(life), not_after }
    }

    fn settle(&mut self, index: usize) -> Action {
        let (id, _, epoch) = self.some_id(index);
        let epoch = match self.random.weighted(&[70, 20, 10]) {
            0 => epoch,
            1 => 0,
            _ => self.epoch(index),
        };
        let settlement = match self.random.weighted(&[25, 75]) {
            0 => Settlement::CANCELLED,
            _ => Settlement {
                cost: NanoUsd::new(self.random.within(0..=70)),
                counted: self.random.percent(80),
                tokens: self.some(60, 0..=100),
            },
        };
        Action::Settle { id, epoch, settlement }
    }

    fn shrink(&mut self, index: usize) -> Action {
        let (id, _, epoch) = self.some_id(index);
        let epoch = if self.random.percent(20) { 0 } else { epoch };
        Action::Shrink { id, epoch, bound: self.random.within(0..=60), tokens: self.some(50, 0..=70) }
    }

    fn renew(&mut self, index: usize) -> Action {
        let ids = (0..self.random.within(0..=3)).map(|_| self.some_id(index).0).collect();
        Action::Renew { ids, lease: Duration::from_millis(self.random.within(1..=120_000)) }
    }

    fn grant(&mut self, index: usize) -> Action {
        let life = self.life(index, 90);
        let right = self.keys[index].lives.iter().position(|known| *known == life);
        let right = right.map_or(1, |at| u32::try_from(at + 1).unwrap());
        let epoch = if self.random.percent(95) { right } else { self.epoch(index) };
        let newest = self.keys[index].serial;
        let serial =
            if self.random.percent(75) { newest + 1 } else { newest.saturating_sub(self.random.within(0..=5)) };
        self.keys[index].serial = newest.max(serial);
        let mut grants: Vec<_> = (0..self.random.within(0..=6)).map(|_| self.granted(index)).collect();
        if self.random.percent(2) {
            grants.push(self.granted(1 - index));
        }
        Action::Grant(GrantSet { life, epoch, serial, grants })
    }

    fn granted(&mut self, index: usize) -> Grant {
        let (counter, period) = self.counter(index);
        let most = if counter.dimension == Dimension::Requests { 15 } else { 400 };
        Grant {
            counter,
            period,
            granted: self.random.within(most / 5..=most),
            elsewhere: self.some(30, 0..=300).unwrap_or(0),
        }
    }

    fn clock(&mut self, index: usize) -> Action {
        let today = Calendar::utc().day_at(self.now);
        let window = Window::ALL[self.random.index(3)];
        let end = Calendar::utc().period(window, today).end;
        let ahead = match self.random.weighted(&[40, 15, 10, 8, 6, 4, 2, 10, 5]) {
            0 => self.random.within(1..=2_500),
            1 => self.random.within(1..=40) * 1_000,
            2 => 59_998 + self.random.within(0..=4),
            3 => 60_998 + self.random.within(0..=4),
            4 => 600_000 + self.random.within(0..=4),
            5 => DAY_MS - 2 + self.random.within(0..=4),
            6 => 2 * DAY_MS,
            7 => {
                self.now =
                    Timestamp::from_millis(self.now.millis() - i64::try_from(self.random.within(1..=150_000)).unwrap());
                return Action::Clock(self.now);
            }
            _ => {
                self.now = Timestamp::from_millis(end.millis() + i64::try_from(self.random.within(0..=3)).unwrap() - 2);
                return Action::Clock(self.now);
            }
        };
        let _same_for_all_keys = index;
        self.now = self.at(ahead);
        Action::Clock(self.now)
    }

    fn needs(&mut self, index: usize) -> Vec<Need> {
        let mut needs: Vec<Need> = Vec::new();
        for _ in 0..self.random.within(0..=4) {
            let foreign = self.random.percent(1);
            let (counter, period) = self.counter(if foreign { 1 - index } else { index });
            if needs.iter().any(|need| need.counter == counter) {
                continue;
            }
            let amount = match counter.dimension {
                Dimension::Requests => 1,
                Dimension::Spend => self.random.within(0..=60),
            };
            let limit = self.some(40, 0..=500).unwrap_or(9_000_000_000_000_000);
            needs.push(Need { counter, period, limit, amount });
        }
        needs
    }

    fn counter(&mut self, index: usize) -> (CounterId, Period) {
        let own = self.random.percent(92);
        let known = self.random.pick(&self.keys[index].names).copied();
        let (scope, dimension, window) = known.filter(|_| own).unwrap_or_else(|| any_name(&mut self.random));
        let day = Calendar::utc().day_at(self.now).number();
        let day = CivilDay::from_number(match self.random.weighted(&[90, 5, 5]) {
            0 => day,
            1 => day - 1,
            _ => day + 1,
        });
        let counter =
            CounterId { key: self.keys[index].key, scope, dimension, window, first_day: window.first_day(day) };
        (counter, Calendar::utc().period(window, day))
    }

    /// The life that is probably present, in so many of a hundred cases.
    fn life(&mut self, index: usize, percent: u64) -> LifeId {
        let latest = self.keys[index].lives.last().copied();
        let right = self.random.percent(percent);
        let other = self.random.index(2);
        let any = self.random.pick(&self.keys[other].lives).copied();
        latest.filter(|_| right).or(any).unwrap_or(LifeId::from_bytes([9; 16]))
    }

    fn epoch(&mut self, index: usize) -> u32 {
        let epoch = self.keys[index].epoch();
        match self.random.weighted(&[85, 10, 5]) {
            0 => epoch,
            1 => 0,
            _ => epoch.saturating_sub(1),
        }
    }

    fn some_id(&mut self, index: usize) -> (ReservationId, Vec<Need>, u32) {
        let known = &self.keys[index];
        let ids = if self.random.percent(75) { &known.admitted } else { &known.asked };
        // Mostly what was asked lately.
        let recent = ids.len().saturating_sub(12);
        let from = if self.random.percent(80) { recent } else { 0 };
        match self.random.pick(&ids[from..]).cloned() {
            Some(known) if self.random.percent(95) => known,
            _ => {
                let id = self.new_id();
                let known = (id, self.needs(index), self.epoch(index));
                self.keys[index].asked.push(known.clone());
                known
            }
        }
    }

    fn new_id(&mut self) -> ReservationId {
        self.next += 1;
        // Not in the order of time, and some are further attempts at the same request.
        let number = self.next.wrapping_mul(2_654_435_761) >> 8;
        let attempt = if self.random.percent(20) { 2 } else { 1 };
        ReservationId { attempt, ..reservation(number) }
    }

    fn some(&mut self, percent: u64, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let number = self.random.within(range);
        self.random.percent(percent).then_some(number)
    }

    fn at(&self, ahead_millis: u64) -> Timestamp {
        self.now.saturating_add(Duration::from_millis(ahead_millis))
    }
}
