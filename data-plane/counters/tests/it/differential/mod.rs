//! The same random operations on the in-process store and on the scripts: every answer and all books must be equal after each step.
//!
//! The operations know nothing of what would be sensible. They name lives that are over, epochs that never were, serials in any order and ids that
//! are long settled, on a clock that goes both ways. `KEYFORGE_SEEDS=5000` looks at so many histories, `KEYFORGE_SEED=17` at that one alone.

mod operations;

use std::collections::BTreeMap;
use std::sync::Arc;

use keyforge_counters::{ClawBack, CounterError, CounterStore, MemoryCounters, Settled, Verdict};
use keyforge_shared::clock::{Clock, ManualClock};
use keyforge_shared::id::{KeyId, LifeId};

use self::operations::{Action, Generator, Operation};
use crate::conformance::{Harness, START};
use crate::random::{Random, seeds};
use crate::scripts::{Scripts, Sources};

/// How many steps each seed takes.
const STEPS: usize = 400;

/// What an operation answered.
#[derive(Debug)]
enum Answer {
    Verdict(Verdict),
    Settled(Settled),
    Lowered(bool),
    ClawBack(Option<ClawBack>),
    Life(LifeId),
    Done,
    Error(CounterError),
}

impl Answer {
    /// Its kind, in a word.
    fn kind(&self) -> String {
        let text = match self {
            Self::Verdict(Verdict::RateLimited(limited)) => {
                return format!("{:?} {}", limited.rate, limited.retry_after.is_some());
            }
            Self::Verdict(verdict) => format!("{verdict:?}"),
            Self::Settled(settled) => return format!("{settled:?}"),
            Self::Lowered(lowered) => return format!("Lowered {lowered}"),
            Self::ClawBack(claw) => return format!("ClawBack {}", claw.is_some()),
            Self::Error(error) => format!("Error{error:?}"),
            other => format!("{other:?}"),
        };
        text.split(['(', ' ', '{']).next().unwrap().to_owned()
    }
}

/// How often each kind of answer was given.
pub type Tally = BTreeMap<String, u64>;

/// Kinds of answers that no run of many seeds may lack.
const KINDS: [&str; 26] = [
    "Admitted",
    "NotJoined",
    "NoBooks",
    "Short",
    "Requests true",
    "Tokens true",
    "Tokens false",
    "Concurrency false",
    "Frozen",
    "Duplicate",
    "Late",
    "OutsidePeriod",
    "Done { over_bound: false }",
    "Done { over_bound: true }",
    "AfterExpiry { over_bound: false }",
    "AfterExpiry { over_bound: true }",
    "Unknown",
    "Lowered true",
    "Lowered false",
    "ClawBack true",
    "ClawBack false",
    "Life",
    "Done",
    "ErrorEpoch",
    "ErrorLife",
    "ErrorForeignCounter",
];

/// The scripts and the store that they are compared with.
struct Pair<'a> {
    scripts: &'a Scripts,
    clock: Arc<ManualClock>,
    /// A store for each key: one can be lost alone.
    stores: BTreeMap<KeyId, MemoryCounters>,
    /// The scripts' life for each life of the in-process store.
    lives: BTreeMap<LifeId, LifeId>,
    tally: Tally,
}

impl<'a> Pair<'a> {
    fn new(scripts: &'a Scripts, keys: &[KeyId]) -> Self {
        scripts.flush();
        let clock = Arc::new(ManualClock::at(START));
        scripts.set_clock(START);
        let mut pair = Self { scripts, clock, stores: BTreeMap::new(), lives: BTreeMap::new(), tally: Tally::new() };
        keys.iter().for_each(|key| pair.lose(*key));
        pair
    }

    fn lose(&mut self, key: KeyId) {
        self.stores.insert(key, MemoryCounters::new(Arc::clone(&self.clock) as Arc<dyn Clock>));
    }

    /// Whether two lives are the same one, as far as can be known: a life that was not seen before is the same as another such.
    fn same_life(&mut self, ours: LifeId, theirs: LifeId) -> bool {
        match self.lives.get(&ours) {
            Some(known) => *known == theirs,
            None if self.lives.values().any(|known| *known == theirs) => false,
            None => {
                self.lives.insert(ours, theirs);
                true
            }
        }
    }

    /// The life that the scripts know by another name.
    fn translated(&self, life: LifeId) -> LifeId {
        self.lives.get(&life).copied().unwrap_or(life)
    }

    async fn apply(&mut self, operation: &Operation) -> Result<(Vec<LifeId>, bool), String> {
        let key = operation.key;
        match &operation.action {
            Action::Clock(now) => {
                self.clock.set(*now);
                self.scripts.set_clock(*now);
            }
            Action::Restart => {
                self.scripts.restart();
                for (key, store) in &self.stores {
                    let life = store.vacate(*key, LifeId::from_bytes([0; 16])).await.unwrap();
                    store.vacate(*key, life).await.unwrap();
                }
            }
            Action::Flush => {
                self.scripts.flush();
                for key in self.stores.keys().copied().collect::<Vec<_>>() {
                    self.lose(key);
                }
            }
            Action::Lose => {
                self.scripts.lose(key);
                self.lose(key);
            }
            _ => {
                let ours = operation.put(&self.stores[&key], |life| life).await;
                let theirs = operation.put(self.scripts, |life| self.translated(life)).await;
                *self.tally.entry(ours.kind()).or_default() += 1;
                let admitted = matches!(ours, Answer::Verdict(Verdict::Admitted(_)));
                return self.compare(&ours, &theirs).map(|lives| (lives, admitted));
            }
        }
        Ok((Vec::new(), false))
    }

    /// The lives that the answers name, or what is wrong with them.
    fn compare(&mut self, ours: &Answer, theirs: &Answer) -> Result<Vec<LifeId>, String> {
        let (equal, life) = match (ours, theirs) {
            (Answer::Verdict(Verdict::NotJoined(one)), Answer::Verdict(Verdict::NotJoined(other)))
            | (Answer::Life(one), Answer::Life(other))
            | (
                Answer::Error(CounterError::Life { current: one, .. }),
                Answer::Error(CounterError::Life { current: other, .. }),
            ) => (self.same_life(*one, *other), Some(*one)),
            (Answer::ClawBack(Some(one)), Answer::ClawBack(Some(other))) => {
                let sorted = |claw: &ClawBack| {
                    let mut holdings = claw.holdings.clone();
                    holdings.sort_unstable();
                    (claw.epoch, claw.serial, holdings)
                };
                (self.same_life(one.life, other.life) && sorted(one) == sorted(other), Some(one.life))
            }
            _ => (format!("{ours:?}") == format!("{theirs:?}"), None),
        };
        if equal {
            Ok(life.into_iter().collect())
        } else {
            Err(format!("in process: {ours:?}\nscripts:    {theirs:?}"))
        }
    }

    async fn compare_books(&self) -> Result<(), String> {
        for (key, store) in &self.stores {
            let (mut ours, mut theirs) = (store.books(*key).await.unwrap(), self.scripts.books(*key).await.unwrap());
            ours.sort_by_key(|books| books.counter);
            theirs.sort_by_key(|books| books.counter);
            if ours != theirs {
                return Err(format!("books of {key}\nin process: {ours:#?}\nscripts:    {theirs:#?}"));
            }
        }
        Ok(())
    }
}

/// Compares one random history; an error says where it parted.
pub async fn run(scripts: &Scripts, seed: u64) -> Result<Tally, String> {
    let mut generator = Generator::new(Random::seeded(seed));
    let mut pair = Pair::new(scripts, &generator.keys());
    for step in 0..STEPS {
        let operation = generator.next();
        let compared = match pair.apply(&operation).await {
            Ok((lives, admitted)) => {
                generator.learn(&operation, &lives, admitted);
                pair.compare_books().await
            }
            Err(difference) => Err(difference),
        };
        compared.map_err(|difference| format!("seed {seed}, step {step}: {operation:?}\n{difference}"))?;
    }
    Ok(pair.tally)
}

#[tokio::test]
async fn the_scripts_and_the_in_process_store_answer_alike() {
    let scripts = Scripts::start(&Sources::read());
    let mut tally = Tally::new();
    for seed in seeds(120) {
        for (kind, count) in run(&scripts, seed).await.unwrap_or_else(|difference| panic!("{difference}")) {
            *tally.entry(kind).or_default() += count;
        }
    }
    println!("{tally:#?}");
    if seeds(120).count() >= 100 {
        let missing: Vec<_> = KINDS.iter().filter(|kind| !tally.contains_key(**kind)).collect();
        assert!(missing.is_empty(), "never answered: {missing:?}");
    }
}
