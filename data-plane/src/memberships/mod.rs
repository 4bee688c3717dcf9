//! Which epochs this node is a member of, and the passes under which it reserves in them.
//!
//! The ledger keeps an epoch open, and what was granted to it written off, as long as a member may still record something in it. So a node enters
//! a life with a [`Pass`] before it reserves, holds it until the attempt is recorded, and leaves a life only when no pass is out and everything
//! that names it is in the spool. A membership that is renewed while the leaving is on its way has a later serial and stays.
//!
//! * `roster`: what is entered, left and not sure; [`leaving`]: tells the ledger

pub mod leaving;
mod roster;

#[cfg(test)]
mod property;

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::Clock;
use keyforge_shared::id::{KeyId, LifeId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::roster::{Joined, Roster};
use crate::ledger::Leave;

/// A life that nobody has used for so long is left.
pub(crate) const IDLE: Duration = Duration::from_secs(600);
/// How often the books of a life that nobody uses are looked at: they may have begun another one, and then this node keeps what the old one was
/// granted from everybody.
const LOOK: Duration = Duration::from_secs(1);
/// A call to the ledger is over by then, whether it was answered or not.
const CALL_IS_OVER: Duration = Duration::from_secs(5);
/// Most lives that are looked at in one round.
const MOST_LOOKS: usize = 1_000;

struct Inner {
    roster: Mutex<Roster>,
    clock: Arc<dyn Clock>,
    /// There is something to leave.
    left: Notify,
}

/// The memberships of a node. Clones share them.
#[derive(Clone)]
pub struct Memberships(Arc<Inner>);

impl Memberships {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { roster: Mutex::default(), clock, left: Notify::new() }))
    }

    /// A pass of the life that the key's books had when this node last joined one; `None` when it has joined none.
    #[must_use]
    pub fn enter(&self, key: KeyId) -> Option<Pass> {
        let now = self.now();
        let (life, epoch) = self.0.roster.lock().enter(key, now)?;
        Some(Pass { memberships: self.clone(), key, life, epoch, pinned: false })
    }

    /// The ledger counts this node as a member of `epoch`, which is this life, since the answer `serial`.
    pub fn joined(&self, key: KeyId, life: LifeId, epoch: u32, serial: u64) {
        let now = self.now();
        let more = self.0.roster.lock().joined(key, life, Joined { epoch, serial }, now);
        self.wake(more);
    }

    /// A call to join this life got no answer: the ledger may count this node as a member, under a serial that it does not know.
    pub fn lost(&self, key: KeyId, life: LifeId) {
        let now = self.now();
        self.0.roster.lock().lost(key, life, now);
    }

    /// The epoch of this life is closed.
    pub fn over(&self, key: KeyId, life: LifeId) {
        let more = self.0.roster.lock().over(key, life);
        self.wake(more);
    }

    /// As [`Self::joined`], for a life that is only asked for to be left.
    pub fn confirmed(&self, key: KeyId, life: LifeId, epoch: u32, serial: u64) {
        self.0.roster.lock().confirmed(key, life, Joined { epoch, serial });
        self.wake(true);
    }

    /// The keys that this node is a member for.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyId> {
        self.0.roster.lock().keys()
    }

    /// Lets go of lives that nobody has used for a while.
    fn leave_idle(&self) {
        if let Some(since) = self.ago(IDLE) {
            self.0.roster.lock().leave_idle(since);
        }
    }

    /// Lives that the ledger must be asked about before they can be left.
    fn doubts(&self) -> Vec<(KeyId, LifeId)> {
        let Some(settled) = self.ago(CALL_IS_OVER) else { return Vec::new() };
        self.0.roster.lock().doubts(settled, self.ago(IDLE).unwrap_or(0))
    }

    /// Lives that nobody uses and whose books were not looked at for a while.
    fn due_for_a_look(&self) -> Vec<(KeyId, LifeId)> {
        let Some(since) = self.ago(LOOK) else { return Vec::new() };
        self.0.roster.lock().due_for_a_look(since, self.now(), MOST_LOOKS)
    }

    /// The books of the key are of another life than this one.
    fn ended(&self, key: KeyId, life: LifeId) {
        self.0.roster.lock().ended(key, life);
    }

    fn ago(&self, time: Duration) -> Option<u64> {
        self.now().checked_sub(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    fn take_left(&self, most: usize) -> Vec<Leave> {
        self.0.roster.lock().take_left(most)
    }

    fn wake(&self, more: bool) {
        if more {
            self.0.left.notify_one();
        }
    }

    fn now(&self) -> u64 {
        self.0.clock.monotonic_nanos()
    }
}

/// Leave to reserve in one life. Held until the attempt is recorded, so that the life is not left before.
pub struct Pass {
    memberships: Memberships,
    key: KeyId,
    life: LifeId,
    epoch: u32,
    pinned: bool,
}

impl Pass {
    /// The epoch to reserve in.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The life that this epoch is.
    #[must_use]
    pub const fn life(&self) -> LifeId {
        self.life
    }

    /// Holds the membership until the boot ends: the attempt could not be recorded, and may yet be.
    pub fn keep(mut self) {
        self.pinned = true;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let now = self.memberships.now();
        let mut roster = self.memberships.0.roster.lock();
        if self.pinned {
            roster.pin(self.key, self.life);
        }
        let more = roster.exit(self.key, self.life, now);
        drop(roster);
        self.memberships.wake(more);
    }
}
