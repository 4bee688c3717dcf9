//! What happens to all: time, losses, changed limits, and freezes.

use std::time::Duration;

use keyforge_counters::{CounterStore, Settlement};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;

use super::super::mirror::{DAY, Mirror};
use super::super::subject::{Kept, Loss, Subject};
use super::{CHANGES, LIMITS, Phase, World, millis};
use crate::conformance::{LATER, ONCE};

impl<S: Subject> World<S> {
    pub(super) async fn forward(&mut self) -> Result<(), String> {
        let midnight = DAY - millis(self.clock).rem_euclid(DAY);
        let ahead = match self.random.weighted(&[45, 18, 8, 15, 5, 6, 3]) {
            0 => self.random.within(1..=3_000),
            1 => self.random.within(3_000..=30_000),
            2 => self.random.within(50_000..=70_000),
            // To where a minute ends, if something was admitted just now.
            3 => [59_999, 60_000, 60_999, 61_000][self.random.index(4)],
            4 => self.random.within(100_000..=4_000_000),
            5 => u64::try_from(midnight).unwrap() + self.random.within(0..=1),
            _ => u64::try_from(DAY).unwrap() - 2_000 + self.random.within(0..=4_000_000),
        };
        let then = self.clock.saturating_add(Duration::from_millis(ahead));
        self.report_before(millis(then)).await?;
        self.set_clock(then);
        Ok(())
    }

    /// Time never goes back by as much as an id is remembered: nobody could tell what is late then.
    pub(super) fn backward(&mut self) {
        let back = i64::try_from(self.random.within(1..=45_000)).unwrap();
        self.set_clock(Timestamp::from_millis(millis(self.clock) - back));
    }

    pub(super) fn set_clock(&mut self, now: Timestamp) {
        self.clock = now;
        self.subject.set_clock(now);
    }

    /// Nobody waits for a day with what the store would then have forgotten.
    pub(super) async fn report_before(&mut self, moment: i64) -> Result<(), String> {
        for index in 0..self.attempts.len() {
            let attempt = &self.attempts[index];
            let entry = self.mirrors[&attempt.key].entries.get(&attempt.id);
            if !attempt.abandoned && entry.and_then(|entry| entry.expires).is_some_and(|at| at + DAY <= moment) {
                self.report(index).await?;
            }
        }
        Ok(())
    }

    /// The attempt ends, if it has not, and the store hears of it.
    pub(super) async fn report(&mut self, index: usize) -> Result<(), String> {
        if self.attempts[index].phase == Phase::Asked {
            self.refuse(index).await?;
        }
        self.end_one(index);
        let node = self.attempts[index].node;
        let mine = |entry: &(usize, u32, Settlement)| entry.0 == index;
        while let Some(place) = self.nodes[node].outbox.iter().position(mine) {
            let (index, epoch, settlement) = self.nodes[node].outbox.remove(place);
            self.put_settlement(index, epoch, settlement).await?;
        }
        Ok(())
    }

    pub(super) fn lose(&mut self, key: KeyId) {
        let loss = match self.random.weighted(&[20, 20, 10, 15, 15, 120]) {
            0 => Loss::Restart,
            1 => Loss::RollBack,
            2 => Loss::Flush,
            3 => Loss::Key(key),
            4 => Loss::Books(key),
            _ => return,
        };
        let kept = self.subject.lose(loss);
        for (name, mirror) in &mut self.mirrors {
            if matches!(loss, Loss::Key(lost) | Loss::Books(lost) if lost != *name) {
                continue;
            }
            mirror.begin();
            if kept != Kept::Everything {
                let before = if kept == Kept::Snapshot { self.snapshot[name].clone() } else { Mirror::new() };
                (mirror.frozen, mirror.latest) = (before.frozen, before.latest);
                // Whoever has lost the time may count by another one.
                mirror.forget_pace(kept != Kept::Nothing);
            }
        }
    }

    pub(super) fn change_limits(&mut self) {
        for (index, (.., amount)) in LIMITS.iter().enumerate() {
            self.limits[index].amount = amount * self.random.within(CHANGES.0..=CHANGES.1) / 100;
            self.highest[index] = self.highest[index].max(self.limits[index].amount);
        }
    }

    pub(super) async fn freeze(&mut self, key: KeyId) -> Result<(), String> {
        let frozen = self.random.percent(20);
        self.mirror(key).frozen = frozen;
        let store = self.subject.store(key);
        let done = if frozen { store.freeze(key, ONCE).await } else { store.unfreeze(key, LATER).await.map(drop) };
        done.map_err(|error| error.to_string())
    }
}
