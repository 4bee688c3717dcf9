//! Memberships against a ledger of a few lines, over a network that delays, loses and reorders.
//!
//! After each step: whatever a pass is out for is open at the ledger with this node as a member, and when an epoch closes every record that names
//! it is chained. In the end, when everybody has gone home, the ledger counts this node as a member of nothing.

use std::collections::BTreeMap;

use keyforge_shared::id::{KeyId, LifeId};
use proptest::prelude::*;

use super::roster::{Joined, Roster};
use crate::ledger::Leave;

/// How long a life is idle before it is left, in steps of the clock.
const IDLE: u64 = 3;
const KEYS: u8 = 2;

#[derive(Debug, Default)]
struct Epoch {
    number: u32,
    closed: bool,
    serial: u64,
    /// This node's membership, with the serial of its newest answer.
    member: Option<u64>,
    /// Another node is a member as well.
    shared: bool,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Joined { epoch: u32, serial: u64 },
    Over,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    key: KeyId,
    life: LifeId,
    /// Asked only to be left.
    confirms: bool,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter(u8),
    /// An attempt ends: it is recorded, then its pass comes back.
    Exit(usize),
    Acquire(u8),
    /// A call arrives at the ledger; its answer may be lost.
    Arrive {
        call: usize,
        lost: bool,
    },
    /// A call is lost on its way.
    Vanish(usize),
    /// An answer arrives at the node.
    Hear(usize),
    /// The store lost the books of a key.
    NewLife(u8),
    /// Another node joins or leaves.
    Other {
        key: u8,
        joins: bool,
    },
    /// Time goes by, and what is idle is let go.
    Sweep,
    /// The next leaving is sent.
    Leave,
    /// It arrives; its answer may be lost, and then it is sent again.
    Left {
        lost: bool,
    },
    Ship,
}

#[derive(Default)]
struct World {
    roster: Roster,
    now: u64,
    store: BTreeMap<KeyId, u8>,
    ledger: BTreeMap<(KeyId, LifeId), Epoch>,
    epochs: BTreeMap<KeyId, u32>,
    passes: Vec<(KeyId, LifeId, u32)>,
    calls: Vec<Call>,
    leaving: Option<(usize, Vec<Leave>)>,
    records: Vec<(KeyId, u32)>,
    chained: usize,
}

fn key(number: u8) -> KeyId {
    KeyId::from_ascii(format!("key{:09}", number % KEYS).as_bytes()).unwrap()
}

impl World {
    fn life(&mut self, key: KeyId) -> LifeId {
        LifeId::from_bytes([*self.store.entry(key).or_default(); 16])
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Enter(number) => {
                let key = key(number);
                if let Some((life, epoch)) = self.roster.enter(key, self.now) {
                    self.passes.push((key, life, epoch));
                }
            }
            Step::Exit(index) if !self.passes.is_empty() => {
                let (key, life, epoch) = self.passes.swap_remove(index % self.passes.len());
                self.records.push((key, epoch));
                self.roster.exit(key, life, self.now);
            }
            Step::Acquire(number) => {
                let (key, confirms) = (key(number), false);
                let life = self.life(key);
                self.call(key, life, confirms);
            }
            Step::Arrive { call, lost } => self.arrive(call, lost),
            Step::Vanish(index) => {
                let unheard: Vec<usize> = (0..self.calls.len()).filter(|at| self.calls[*at].answer.is_none()).collect();
                if let Some(at) = unheard.get(index % unheard.len().max(1)) {
                    self.calls[*at].answer = Some(Answer::Lost);
                }
            }
            Step::Hear(index) => self.hear(index),
            Step::NewLife(number) => *self.store.entry(key(number)).or_default() += 1,
            Step::Other { key: number, joins } => {
                let key = key(number);
                let life = self.life(key);
                if let Some(epoch) = self.ledger.get_mut(&(key, life)).filter(|epoch| !epoch.closed) {
                    epoch.shared = joins;
                }
                self.close_if_left(key, life);
            }
            Step::Sweep => {
                self.now += 1;
                if let Some(since) = self.now.checked_sub(IDLE) {
                    self.roster.leave_idle(since);
                    for (key, life) in self.roster.doubts(since, since) {
                        self.call(key, life, true);
                    }
                }
            }
            Step::Leave if self.leaving.is_none() => {
                let left = self.roster.take_left(2);
                if !left.is_empty() {
                    self.leaving = Some((self.records.len(), left));
                }
            }
            Step::Left { lost } => self.left(lost),
            Step::Ship => self.chained = self.records.len(),
            Step::Exit(_) | Step::Leave => {}
        }
        self.check();
    }

    /// One call per key at a time.
    fn call(&mut self, key: KeyId, life: LifeId, confirms: bool) {
        if self.calls.iter().all(|call| call.key != key) {
            self.calls.push(Call { key, life, confirms, answer: None });
        }
    }

    fn arrive(&mut self, index: usize, lost: bool) {
        let unheard: Vec<usize> = (0..self.calls.len()).filter(|at| self.calls[*at].answer.is_none()).collect();
        let Some(at) = unheard.get(index % unheard.len().max(1)) else { return };
        let Call { key, life, .. } = self.calls[*at];
        let next = self.epochs.entry(key).or_default();
        let epoch = self.ledger.entry((key, life)).or_insert_with(|| {
            *next += 1;
            Epoch { number: *next, ..Epoch::default() }
        });
        let answer = if epoch.closed {
            Answer::Over
        } else {
            epoch.serial += 1;
            epoch.member = Some(epoch.serial);
            Answer::Joined { epoch: epoch.number, serial: epoch.serial }
        };
        self.calls[*at].answer = Some(if lost { Answer::Lost } else { answer });
    }

    fn hear(&mut self, index: usize) {
        let heard: Vec<usize> = (0..self.calls.len()).filter(|at| self.calls[*at].answer.is_some()).collect();
        let Some(at) = heard.get(index % heard.len().max(1)) else { return };
        let Call { key, life, confirms, answer } = self.calls.swap_remove(*at);
        match answer {
            Some(Answer::Joined { epoch, serial }) if confirms => {
                self.roster.confirmed(key, life, Joined { epoch, serial })
            }
            Some(Answer::Joined { epoch, serial }) => {
                self.roster.joined(key, life, Joined { epoch, serial }, self.now);
            }
            Some(Answer::Over) => {
                self.roster.over(key, life);
                // The node vacates the life.
                if self.life(key) == life {
                    *self.store.entry(key).or_default() += 1;
                }
            }
            Some(Answer::Lost) if !confirms => self.roster.lost(key, life, self.now),
            Some(Answer::Lost) | None => {}
        }
    }

    fn left(&mut self, lost: bool) {
        let Some((last_seq, left)) = &self.leaving else { return };
        if self.chained < *last_seq {
            return;
        }
        for Leave { key, epoch, serial } in left.clone() {
            let of_epoch = |((of, _), known): &(&(KeyId, LifeId), &mut Epoch)| *of == key && known.number == epoch;
            let Some((&(key, life), known)) = self.ledger.iter_mut().find(of_epoch) else { continue };
            if known.member.is_some_and(|member| member <= serial) {
                known.member = None;
            }
            self.close_if_left(key, life);
        }
        if !lost {
            self.leaving = None;
        }
    }

    fn close_if_left(&mut self, key: KeyId, life: LifeId) {
        let Some(epoch) = self.ledger.get_mut(&(key, life)) else { return };
        if epoch.member.is_none() && !epoch.shared && !epoch.closed {
            epoch.closed = true;
            let unchained = &self.records[self.chained..];
            assert!(!unchained.contains(&(key, epoch.number)), "epoch {} was closed too early", epoch.number);
        }
    }

    fn check(&self) {
        for (key, life, epoch) in &self.passes {
            let known = &self.ledger[&(*key, *life)];
            assert!(
                !known.closed && known.member.is_some() && known.number == *epoch,
                "{epoch} was left in use: {known:?}"
            );
        }
    }

    /// Everybody goes home, and the network works again.
    fn rest(&mut self) {
        while !self.passes.is_empty() {
            self.step(Step::Exit(0));
        }
        for _ in 0..40 {
            self.step(Step::Arrive { call: 0, lost: false });
            self.step(Step::Hear(0));
            self.step(Step::Ship);
            self.step(Step::Leave);
            self.step(Step::Left { lost: false });
            self.step(Step::Sweep);
        }
        let members: Vec<_> = self.ledger.iter().filter(|(_, epoch)| epoch.member.is_some()).collect();
        assert!(members.is_empty(), "forgotten: {members:?}");
        assert!(self.roster.keys().is_empty() && self.roster.doubts(u64::MAX, u64::MAX).is_empty());
    }
}

fn step() -> impl Strategy<Value = Step> {
    let lost = prop::bool::weighted(0.2);
    prop_oneof![
        4 => (0..KEYS).prop_map(Step::Enter),
        3 => (0..8usize).prop_map(Step::Exit),
        3 => (0..KEYS).prop_map(Step::Acquire),
        4 => (0..4usize, lost).prop_map(|(call, lost)| Step::Arrive { call, lost }),
        1 => (0..4usize).prop_map(Step::Vanish),
        4 => (0..4usize).prop_map(Step::Hear),
        1 => (0..KEYS).prop_map(Step::NewLife),
        1 => (0..KEYS, any::<bool>()).prop_map(|(key, joins)| Step::Other { key, joins }),
        3 => Just(Step::Sweep),
        2 => Just(Step::Leave),
        3 => lost.prop_map(|lost| Step::Left { lost }),
        2 => Just(Step::Ship),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn i_4_no_epoch_is_left_in_use_and_none_is_forgotten(steps in proptest::collection::vec(step(), 0..120)) {
        let mut world = World::default();
        for step in steps {
            world.step(step);
        }
        world.rest();
    }
}

#[test]
fn a_rejoin_that_overtakes_a_late_leaving_stays() {
    let (mut roster, key, life) = (Roster::default(), key(0), LifeId::from_bytes([1; 16]));
    roster.joined(key, life, Joined { epoch: 1, serial: 5 }, 0);
    roster.leave_idle(0);
    let late = roster.take_left(9);
    assert_eq!(late, [Leave { key, epoch: 1, serial: 5 }]);
    assert_eq!(roster.enter(key, 1), None, "what is being left is not entered");
    roster.joined(key, life, Joined { epoch: 1, serial: 6 }, 1);
    assert_eq!(roster.enter(key, 1), Some((life, 1)), "the ledger keeps it, because 6 is later than 5");
}

#[test]
fn a_life_that_was_replaced_is_left_when_its_last_pass_comes_back() {
    let (mut roster, key) = (Roster::default(), key(0));
    let [old, new] = [1, 2].map(|number| LifeId::from_bytes([number; 16]));
    roster.joined(key, old, Joined { epoch: 1, serial: 1 }, 0);
    roster.enter(key, 0).unwrap();
    roster.enter(key, 0).unwrap();
    assert!(!roster.joined(key, new, Joined { epoch: 2, serial: 1 }, 0));
    assert_eq!(roster.enter(key, 0), Some((new, 2)));
    assert!(!roster.exit(key, old, 0));
    assert!(roster.take_left(9).is_empty());
    assert!(roster.exit(key, old, 0));
    assert_eq!(roster.take_left(9), [Leave { key, epoch: 1, serial: 1 }]);
}

#[test]
fn what_may_yet_be_recorded_is_never_left() {
    let (mut roster, key) = (Roster::default(), key(0));
    let [old, new] = [1, 2].map(|number| LifeId::from_bytes([number; 16]));
    roster.joined(key, old, Joined { epoch: 1, serial: 1 }, 0);
    roster.enter(key, 0).unwrap();
    roster.pin(key, old);
    roster.exit(key, old, 0);
    roster.leave_idle(9);
    roster.joined(key, new, Joined { epoch: 2, serial: 1 }, 9);
    roster.leave_idle(99);
    assert_eq!(roster.take_left(9), [Leave { key, epoch: 2, serial: 1 }]);
}
