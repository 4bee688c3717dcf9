//! What must hold after each step, and when everybody has reported.

use std::time::Duration;

use keyforge_counters::{CounterStore, Rates};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::CounterId;

use super::super::mirror::{Entry, hold};
use super::super::subject::Subject;
use super::{Attempt, LIMITS, Phase, World, millis};
use crate::conformance::{LATER, reservation};

impl<S: Subject> World<S> {
    pub(super) async fn check(&mut self) -> Result<(), String> {
        for counter in self.ledger.counters() {
            let name = (counter.scope, counter.dimension, counter.window);
            let index = LIMITS.iter().position(|limit| (limit.0, limit.1, limit.2) == name).unwrap();
            let highest = self.highest[index];
            let truth: u64 = self.attempts.iter().map(|attempt| attempt.truth(&counter)).sum();
            hold!(truth <= highest, "I-1: {truth} of {highest} on {counter:?}");
            let total = self.ledger.total(&counter);
            hold!(!self.rules.remember_outstanding || total <= highest, "I-4: {total} of {highest} on {counter:?}");
        }
        for (key, epoch, counter, settled) in self.ledger.closed() {
            let here = self.attempts.iter().filter(|attempt| attempt.key == key && attempt.epoch() == Some(epoch));
            let truth: u64 = here.map(|attempt| attempt.truth(&counter)).sum();
            hold!(truth <= settled, "I-4: epoch {epoch} of {key} was closed at {settled}: {truth} on {counter:?}");
        }
        for key in self.keys.clone() {
            let books = self.subject.store(key).books(key).await.map_err(|error| error.to_string())?;
            let clock = self.clock;
            self.mirror(key).check(&books, clock)?;
            for books in books {
                let written_off = self.ledger.granted(key, self.mirrors[&key].epoch, &books.counter);
                let is_over = self.mirrors[&key].life.is_some_and(|life| !self.ledger.is_open(key, life));
                hold!(is_over || books.granted <= written_off, "I-4: {written_off} were written off: {books:?}");
            }
        }
        Ok(())
    }

    /// I-9: everybody reports, and then nothing is held or waits for its truth; what is used is what it cost, in one period each (I-11). Only what
    /// nobody can report any more stays charged in full.
    pub async fn drain(&mut self) -> Result<(), String> {
        for index in 0..self.attempts.len() {
            if !self.attempts[index].abandoned {
                self.report(index).await?;
            }
        }
        self.check().await?;
        self.set_clock(Timestamp::from_millis(millis(self.clock) + 400_000));
        for key in self.keys.clone() {
            self.mirror(key).frozen = false;
            self.subject.store(key).unfreeze(key, LATER).await.map_err(|error| error.to_string())?;
            self.sweep(key).await?;
            self.check_drained(key).await?;
        }
        Ok(())
    }

    /// Lets the store charge all that has expired.
    pub(super) async fn sweep(&mut self, key: KeyId) -> Result<(), String> {
        let unsettled = self.mirrors[&key].entries.values().filter(|entry| entry.expires.is_some()).count();
        for _ in 0..=unsettled / 8 {
            self.attempts.push(Attempt {
                id: reservation(u32::try_from(self.attempts.len()).unwrap()),
                key,
                node: 0,
                needs: Vec::new(),
                rates: Rates::default(),
                life: Duration::from_secs(1_000),
                bound: 0,
                phase: Phase::Gone,
                named: 0,
                in_doubt: false,
                abandoned: true,
            });
            let not_after = Timestamp::from_millis(self.mirrors[&key].now(self.clock));
            self.put_reserve(self.attempts.len() - 1, 0, not_after).await?;
        }
        Ok(())
    }

    /// Reservations whose charge is not what their attempt cost.
    pub(super) fn unexplained(&self, key: KeyId, counter: &CounterId) -> Vec<(&Attempt, &Entry)> {
        let entries = &self.mirrors[&key].entries;
        let attempts = self.attempts.iter().filter(|attempt| attempt.key == key && !attempt.abandoned);
        let charged = attempts.filter_map(|attempt| Some((attempt, entries.get(&attempt.id)?)));
        let charge = |entry: &Entry| entry.takes.iter().find(|(of, _)| of == counter).map_or(0, |(_, amount)| *amount);
        charged.filter(|(attempt, entry)| charge(entry) != attempt.truth(counter)).collect()
    }

    pub(super) async fn check_drained(&mut self, key: KeyId) -> Result<(), String> {
        let epoch = self.mirrors[&key].epoch;
        let books = self.subject.store(key).books(key).await.map_err(|error| error.to_string())?;
        for books in books {
            let entries = &self.mirrors[&key].entries;
            let (mut used, mut orphaned) = (0, 0);
            for attempt in self.attempts.iter().filter(|attempt| attempt.key == key) {
                let taken = |(of, _): &&(CounterId, u64)| *of == books.counter;
                let entry = entries.get(&attempt.id);
                let charge = entry.and_then(|entry| entry.takes.iter().find(taken)).map_or(0, |(_, amount)| *amount);
                if attempt.abandoned {
                    used += charge;
                    orphaned += if entry.is_some_and(Entry::is_unsettled) { charge } else { 0 };
                } else if attempt.epoch() == Some(epoch) {
                    used += attempt.truth(&books.counter);
                }
            }
            hold!(books.held == 0, "I-9: still held: {books:?}");
            hold!(
                books.used == used,
                "I-9: {used} were spent: {books:?}\n{:#?}",
                self.unexplained(key, &books.counter)
            );
            hold!(books.orphaned == orphaned, "I-9: {orphaned} have no truth: {books:?}");
        }
        Ok(())
    }
}
