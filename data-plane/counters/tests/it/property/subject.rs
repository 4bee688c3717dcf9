//! What the histories run on: a store that can lose what it knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyforge_counters::{CounterStore, MemoryCounters};
use keyforge_shared::clock::{Clock, ManualClock, Timestamp};
use keyforge_shared::id::KeyId;

use crate::conformance::START;
use crate::scripts::{Scripts, Snapshot};

/// How a store loses what it knows.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// The server stops being primary and is made primary again, with all its data.
    Restart,
    /// The server comes back with the data of the snapshot.
    RollBack,
    /// All data is deleted.
    Flush,
    /// All data of one key is deleted.
    Key(KeyId),
    /// Only the books of one key are deleted.
    Books(KeyId),
}

/// What a store still knows after a loss of what is not in the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The freeze, the key's own time, and the rates.
    Everything,
    /// The freeze and the key's own time, as they were in the snapshot.
    Snapshot,
    /// The rates.
    Rates,
    Nothing,
}

/// A store, and what can happen to it.
pub trait Subject {
    type Store: CounterStore;

    fn store(&self, key: KeyId) -> &Self::Store;
    fn set_clock(&self, now: Timestamp);
    fn take_snapshot(&mut self);
    fn lose(&mut self, loss: Loss) -> Kept;
}

/// The scripts, on a server that is demoted and promoted, forgets and is rolled back.
pub struct ScriptSubject<'a> {
    scripts: &'a Scripts,
    snapshot: Snapshot,
}

impl<'a> ScriptSubject<'a> {
    pub fn new(scripts: &'a Scripts) -> Self {
        scripts.flush();
        scripts.restart();
        Self { scripts, snapshot: scripts.snapshot() }
    }
}

impl Subject for ScriptSubject<'_> {
    type Store = Scripts;

    fn store(&self, _: KeyId) -> &Scripts {
        self.scripts
    }

    fn set_clock(&self, now: Timestamp) {
        crate::conformance::Harness::set_clock(self.scripts, now);
    }

    fn take_snapshot(&mut self) {
        self.snapshot = self.scripts.snapshot();
    }

    fn lose(&mut self, loss: Loss) -> Kept {
        match loss {
            Loss::Restart => self.scripts.restart(),
            Loss::RollBack => {
                self.scripts.roll_back(&self.snapshot);
                self.scripts.restart();
                return Kept::Snapshot;
            }
            Loss::Flush => self.scripts.flush(),
            Loss::Key(key) => self.scripts.lose(key),
            Loss::Books(key) => {
                self.scripts.lose_books(key);
                return Kept::Rates;
            }
        }
        if matches!(loss, Loss::Restart) { Kept::Everything } else { Kept::Nothing }
    }
}

/// In-process stores, one for each key, whose process ends.
pub struct MemorySubject {
    clock: Arc<ManualClock>,
    stores: BTreeMap<KeyId, MemoryCounters>,
}

impl MemorySubject {
    pub fn new(keys: &[KeyId]) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let mut subject = Self { clock, stores: BTreeMap::new() };
        keys.iter().for_each(|key| subject.forget(*key));
        subject
    }

    fn forget(&mut self, key: KeyId) {
        self.stores.insert(key, MemoryCounters::new(Arc::clone(&self.clock) as Arc<dyn Clock>));
    }
}

impl Subject for MemorySubject {
    type Store = MemoryCounters;

    fn store(&self, key: KeyId) -> &MemoryCounters {
        &self.stores[&key]
    }

    fn set_clock(&self, now: Timestamp) {
        self.clock.set(now);
    }

    fn take_snapshot(&mut self) {}

    fn lose(&mut self, loss: Loss) -> Kept {
        match loss {
            Loss::Key(key) | Loss::Books(key) => self.forget(key),
            Loss::Restart | Loss::RollBack | Loss::Flush => {
                self.stores.keys().copied().collect::<Vec<_>>().into_iter().for_each(|key| self.forget(key));
            }
        }
        Kept::Nothing
    }
}
