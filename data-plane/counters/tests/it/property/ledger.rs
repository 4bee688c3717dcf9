//! A small ledger: it grants only what is neither settled in a closed epoch nor granted in an open one.

use std::collections::BTreeMap;

use keyforge_counters::{ClawBack, Grant, GrantSet, Need};
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::Window;

/// One limit of every key, or of the workspace that they all belong to.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub scope: Scope,
    pub dimension: Dimension,
    pub window: Window,
    pub amount: u64,
}

/// A process of a node; no number is used twice.
pub type Boot = u64;

/// One life of a key's books, as the ledger knows it.
#[derive(Debug)]
pub struct Epoch {
    pub life: LifeId,
    pub open: bool,
    serial: u64,
    /// Each member with the serial of its latest answer.
    members: BTreeMap<Boot, u64>,
    /// What it may spend while it is open; what it spent when it is closed.
    amounts: BTreeMap<CounterId, u64>,
}

/// The epochs of all keys, numbered from 1.
#[derive(Debug, Default)]
pub struct Ledger {
    keys: BTreeMap<KeyId, Vec<Epoch>>,
}

/// That epoch is closed: its life must be given up.
#[derive(Debug)]
pub struct Over;

/// Whether two counters count against one limit.
pub fn share(one: &CounterId, other: &CounterId) -> bool {
    CounterId { key: other.key, ..*one } == *other && (one.scope == Scope::Workspace || one.key == other.key)
}

fn at(epoch: u32) -> usize {
    usize::try_from(epoch - 1).unwrap()
}

impl Ledger {
    /// The number of a life, if it has one.
    pub fn number(&self, key: KeyId, life: LifeId) -> Option<u32> {
        let index = self.keys.get(&key)?.iter().position(|epoch| epoch.life == life)?;
        Some(u32::try_from(index + 1).unwrap())
    }

    /// What counts against a counter's limit: settled and granted, in all epochs.
    pub fn total(&self, counter: &CounterId) -> u64 {
        let amounts = self.keys.values().flatten().flat_map(|epoch| &epoch.amounts);
        amounts.filter(|(other, _)| share(counter, other)).map(|(_, amount)| amount).sum()
    }

    pub fn granted(&self, key: KeyId, epoch: u32, counter: &CounterId) -> u64 {
        self.keys[&key][at(epoch)].amounts.get(counter).copied().unwrap_or(0)
    }

    /// Lets a process join the epoch of a life, and grants more of what it wants.
    pub fn acquire(&mut self, boot: Boot, key: KeyId, life: LifeId, wants: &[Need]) -> Result<GrantSet, Over> {
        let epochs = self.keys.entry(key).or_default();
        if !epochs.iter().any(|epoch| epoch.life == life) {
            let (members, amounts) = (BTreeMap::new(), BTreeMap::new());
            epochs.push(Epoch { life, open: true, serial: 0, members, amounts });
        }
        let epoch = self.number(key, life).unwrap();
        let row = &mut self.keys.get_mut(&key).unwrap()[at(epoch)];
        if !row.open {
            return Err(Over);
        }
        row.serial += 1;
        row.members.insert(boot, row.serial);
        let serial = row.serial;
        let grants = wants.iter().map(|want| self.grant(key, epoch, want)).collect();
        Ok(GrantSet { life, epoch, serial, grants })
    }

    fn grant(&mut self, key: KeyId, epoch: u32, want: &Need) -> Grant {
        let (counter, period) = (want.counter, want.period);
        let total = self.total(&counter);
        let rest = want.limit.saturating_sub(total);
        let granted = self.keys.get_mut(&key).unwrap()[at(epoch)].amounts.entry(counter).or_default();
        let elsewhere = total - *granted;
        *granted += rest.min((want.amount * 4).max(rest / 8));
        Grant { counter, period, granted: *granted, elsewhere }
    }

    /// Takes back what books gave up, unless the ledger has answered anything since.
    pub fn take_back(&mut self, key: KeyId, claw: &ClawBack, compare_serials: bool) {
        let row = &mut self.keys.get_mut(&key).unwrap()[at(claw.epoch)];
        if row.open && (row.serial == claw.serial || !compare_serials) {
            row.serial += 1;
            for (counter, holding) in &claw.holdings {
                if let Some(granted) = row.amounts.get_mut(counter) {
                    *granted = (*granted).min(*holding);
                }
            }
        }
    }

    /// Lets a process leave an epoch, unless it has joined again since.
    pub fn leave(&mut self, boot: Boot, key: KeyId, epoch: u32, serial: u64) {
        let row = &mut self.keys.get_mut(&key).unwrap()[at(epoch)];
        if row.members.get(&boot) == Some(&serial) {
            row.members.remove(&boot);
        }
    }

    /// Lets a process leave everything.
    pub fn close_boot(&mut self, boot: Boot) {
        for epoch in self.keys.values_mut().flatten() {
            epoch.members.remove(&boot);
        }
    }

    /// Closes epochs without members: what they spent is what `spent` says.
    ///
    /// # Errors
    /// When an epoch spent more than it was granted.
    pub fn close_left(&mut self, spent: impl Fn(KeyId, u32, &CounterId) -> u64) -> Result<(), String> {
        for (key, epochs) in &mut self.keys {
            for (number, epoch) in (1..).zip(epochs).filter(|(_, epoch)| epoch.open && epoch.members.is_empty()) {
                epoch.open = false;
                for (counter, amount) in &mut epoch.amounts {
                    let settled = spent(*key, number, counter);
                    if settled > *amount {
                        return Err(format!("I-4: epoch {number} of {key} spent {settled} of {amount} on {counter:?}"));
                    }
                    *amount = settled;
                }
            }
        }
        Ok(())
    }

    /// What each closed epoch spent.
    pub fn closed(&self) -> Vec<(KeyId, u32, CounterId, u64)> {
        let mut closed = Vec::new();
        for (key, epochs) in &self.keys {
            for (number, epoch) in (1..).zip(epochs).filter(|(_, epoch)| !epoch.open) {
                closed.extend(epoch.amounts.iter().map(|(counter, settled)| (*key, number, *counter, *settled)));
            }
        }
        closed
    }

    /// Whether the epoch of a life is not closed, or the life is unknown.
    pub fn is_open(&self, key: KeyId, life: LifeId) -> bool {
        self.number(key, life).is_none_or(|epoch| self.keys[&key][at(epoch)].open)
    }

    /// What a ledger must never do: count what it granted to other lives of a key as if it came back with them.
    pub fn forget_all_but(&mut self, key: KeyId, life: LifeId) {
        for epoch in self.keys.entry(key).or_default().iter_mut().filter(|epoch| epoch.life != life) {
            epoch.amounts.clear();
        }
    }

    /// All counters that it knows.
    pub fn counters(&self) -> Vec<CounterId> {
        self.keys.values().flatten().flat_map(|epoch| epoch.amounts.keys().copied()).collect()
    }
}
