//! The ledger: durable, one of it, and the only one who may say how much of the cap is spoken for.

use super::bugs::{Bug, Rules};
use super::world::{Boot, EpochNumber, Life, Serial, Units};

/// The ledger's tables for one key and one counter.
#[derive(Clone, Debug, Hash)]
pub struct Ledger {
    /// The limit.
    pub cap: Units,
    /// Epoch n stands at n - 1.
    pub epochs: Vec<Epoch>,
    /// By boot id.
    pub boots: Vec<BootRow>,
}

/// One life of the key's books.
#[derive(Clone, Debug, Hash)]
pub struct Epoch {
    pub life: Life,
    pub open: bool,
    /// Rises with each change of `granted` and of the members.
    pub serial: Serial,
    /// Written off for this life, cumulative.
    pub granted: Units,
    /// Proven by chained records.
    pub settled: Units,
    /// Who may spend under it, and the serial of their last join.
    pub members: Vec<(Boot, Serial)>,
}

impl Epoch {
    /// What of the cap nobody else may have.
    fn written_off(&self) -> Units {
        if self.open { self.granted.max(self.settled) } else { self.settled }
    }
}

/// What the ledger knows of one start of one node.
#[derive(Clone, Debug, Default, Hash)]
pub struct BootRow {
    /// How many of its records are chained.
    pub watermark: u8,
    /// It is over: it may join nothing.
    pub closed: bool,
}

/// The answer to a join.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    pub epoch: EpochNumber,
    pub serial: Serial,
    pub granted: Units,
}

impl Ledger {
    /// What could still be granted to anyone.
    pub fn ungranted(&self) -> Units {
        self.cap - self.epochs.iter().map(Epoch::written_off).sum::<Units>()
    }

    /// The epoch of that number.
    pub fn epoch(&self, number: EpochNumber) -> Option<&Epoch> {
        self.epochs.get(usize::from(number).checked_sub(1)?)
    }

    fn epoch_mut(&mut self, number: EpochNumber) -> Option<&mut Epoch> {
        self.epochs.get_mut(usize::from(number).checked_sub(1)?)
    }

    /// Joins `boot` to the epoch of `life`, opening it if it is new, and grants up to `want` more. `None`: that epoch or boot is over.
    pub fn acquire(&mut self, rules: Rules, boot: Boot, life: Life, want: Units) -> Option<Joined> {
        if self.boots[usize::from(boot)].closed {
            return None;
        }
        let at = self.epochs.iter().position(|epoch| epoch.life == life).unwrap_or_else(|| {
            let new = Epoch { life, open: true, serial: 0, granted: 0, settled: 0, members: Vec::new() };
            self.epochs.push(new);
            self.epochs.len() - 1
        });
        if !self.epochs[at].open {
            return None;
        }
        let spendable = if rules.has(Bug::OldLifeForgotten) {
            let others = self.epochs.iter().enumerate().filter(|(other, _)| *other != at);
            self.cap - others.map(|(_, epoch)| epoch.settled).sum::<Units>() - self.epochs[at].written_off()
        } else {
            self.ungranted()
        };
        let epoch = &mut self.epochs[at];
        epoch.granted += spendable.clamp(0, want);
        epoch.serial += 1;
        epoch.members.retain(|(member, _)| *member != boot);
        epoch.members.push((boot, epoch.serial));
        epoch.members.sort_unstable();
        let (serial, granted) = (epoch.serial, epoch.granted);
        Some(Joined { epoch: u8::try_from(at + 1).unwrap_or(u8::MAX), serial, granted })
    }

    /// Takes back what the store no longer allows, if the store had applied everything that was ever granted.
    pub fn give_back(&mut self, number: EpochNumber, serial: Serial, ceiling: Units) {
        if let Some(epoch) = self.epoch_mut(number).filter(|epoch| epoch.open && epoch.serial == serial) {
            epoch.granted = epoch.granted.min(epoch.settled.max(ceiling));
            epoch.serial += 1;
        }
    }

    /// Chains the next record of a boot.
    pub fn chain(&mut self, boot: Boot, number: EpochNumber, cost: Units) {
        self.boots[usize::from(boot)].watermark += 1;
        if let Some(epoch) = self.epoch_mut(number) {
            epoch.settled += cost;
        }
    }

    /// Whether everything up to the boot's record `last` is chained.
    fn has_chained(&self, rules: Rules, boot: Boot, last: u8) -> bool {
        rules.has(Bug::ClosedUnchained) || self.boots[usize::from(boot)].watermark >= last
    }

    /// Ends a membership, unless it was renewed since. Answers whether it was taken note of.
    pub fn leave(&mut self, rules: Rules, boot: Boot, last: u8, number: EpochNumber, serial: Serial) -> bool {
        if !self.has_chained(rules, boot, last) {
            return false;
        }
        if let Some(epoch) = self.epoch_mut(number).filter(|epoch| epoch.open) {
            epoch
                .members
                .retain(|(member, joined)| *member != boot || (*joined > serial && !rules.has(Bug::NoMemberSerial)));
            epoch.open = !epoch.members.is_empty();
        }
        true
    }

    /// Ends a boot and all its memberships. Answers whether it was taken note of.
    pub fn close_boot(&mut self, rules: Rules, boot: Boot, last: u8) -> bool {
        if !self.has_chained(rules, boot, last) {
            return false;
        }
        self.boots[usize::from(boot)].closed = true;
        for epoch in self.epochs.iter_mut().filter(|epoch| epoch.open) {
            epoch.members.retain(|(member, _)| *member != boot);
            epoch.open = !epoch.members.is_empty();
        }
        true
    }
}
