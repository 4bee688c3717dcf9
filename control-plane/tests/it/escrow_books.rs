//! The books of a key in a store that is simulated, by the rules of a store: the newest answer of the ledger counts, and what was clawed back stays
//! clawed back, whatever arrives late.

use std::collections::BTreeMap;

use keyforge_control_plane::ledger::Granted;
use keyforge_shared::id::LifeId;
use keyforge_shared::limit::CounterId;

/// What a store has of one counter.
#[derive(Clone, Copy, Default)]
pub struct Shelf {
    pub ceiling: u64,
    pub most: u64,
    pub used: u64,
    pub held: u64,
    pub serial: u64,
}

/// The books of one key in one store, as the store's rules keep them.
#[derive(Clone)]
pub struct Books {
    pub life: LifeId,
    pub epoch: u32,
    pub floor: u64,
    pub serial: u64,
    pub shelves: BTreeMap<CounterId, Shelf>,
}

impl Books {
    pub fn apply(&mut self, life: LifeId, granted: &Granted) {
        if self.life != life {
            return;
        }
        self.epoch = granted.epoch;
        self.serial = self.serial.max(granted.serial);
        for grant in &granted.grants {
            let shelf = self.shelves.entry(grant.counter).or_default();
            if granted.serial > self.floor && granted.serial > shelf.serial {
                shelf.serial = granted.serial;
                shelf.ceiling = grant.granted;
                shelf.most = grant.limit.saturating_sub(grant.elsewhere);
            }
        }
    }

    pub fn claw_back(&mut self) -> Vec<(CounterId, u64)> {
        self.floor = self.serial;
        for shelf in self.shelves.values_mut() {
            shelf.ceiling = shelf.ceiling.min(shelf.used + shelf.held);
        }
        self.shelves.iter().map(|(counter, shelf)| (*counter, shelf.ceiling)).collect()
    }
}
