//! The state of the memberships, without time, locks or network: what may be entered, what is left, and what is not sure.
//!
//! It promises that nothing is left while a pass of it is out, and that whatever the ledger may count as a membership of this node is
//! remembered until it was left: a membership that was forgotten would keep its epoch open, and its grants written off, as long as the node lives.

use std::collections::VecDeque;

use hashbrown::HashMap;
use keyforge_shared::id::{KeyId, LifeId};

use crate::ledger::Leave;

/// A life of a key's books that this node is a member of.
#[derive(Clone, Debug)]
struct Member {
    life: LifeId,
    epoch: u32,
    serial: u64,
    /// Passes that are out.
    open: u64,
    /// A record that names it may come at any time: it is left with the boot.
    pinned: bool,
    /// In nanoseconds of the monotonic clock.
    last_used: u64,
    /// When its books were looked at, or when it was made; names its one valid place in the queue of looks.
    looked: u64,
}

impl Member {
    const fn in_use(&self) -> bool {
        self.open > 0 || self.pinned
    }
}

/// What the ledger said when it counted this node as a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    /// The number of the life.
    pub epoch: u32,
    /// The number of the answer.
    pub serial: u64,
}

#[derive(Debug, Default)]
struct OfKey {
    /// The life that reservations are made in.
    current: Option<Member>,
    /// Lives that were replaced, and whose passes are still out.
    replaced: Vec<Member>,
}

/// All memberships of a node.
#[derive(Debug, Default)]
pub(super) struct Roster {
    keys: HashMap<KeyId, OfKey>,
    left: Vec<(LifeId, Leave)>,
    /// Present lives and those that were, each with the moment from which it is to be looked at, soonest first.
    looks: VecDeque<(u64, KeyId, LifeId)>,
    /// Lives that a call without an answer may have joined anew, and since when, in nanoseconds of the monotonic clock.
    unsure: HashMap<(KeyId, LifeId), u64>,
}

impl Roster {
    /// Takes a pass of the key's present life.
    pub fn enter(&mut self, key: KeyId, now: u64) -> Option<(LifeId, u32)> {
        let member = self.keys.get_mut(&key)?.current.as_mut()?;
        member.open += 1;
        member.last_used = now;
        Some((member.life, member.epoch))
    }

    /// A pass came back. Answers whether there is something to leave now.
    pub fn exit(&mut self, key: KeyId, life: LifeId, now: u64) -> bool {
        let Some(member) = self.member(key, life) else { return false };
        member.last_used = now;
        member.open = member.open.saturating_sub(1);
        self.let_go(key)
    }

    /// A pass that never comes back: what names its life may yet be recorded.
    pub fn pin(&mut self, key: KeyId, life: LifeId) {
        if let Some(member) = self.member(key, life) {
            member.pinned = true;
        }
    }

    /// The ledger counts this node as a member. Answers whether there is something to leave now: the life that this one replaced.
    pub fn joined(&mut self, key: KeyId, life: LifeId, joined: Joined, now: u64) -> bool {
        let Joined { epoch, serial } = joined;
        self.unsure.remove(&(key, life));
        // What was about to be left would only find a later serial.
        self.left.retain(|(left, leave)| !(*left == life && leave.key == key));
        let of_key = self.keys.entry(key).or_default();
        if let Some(member) = of_key.current.as_mut().filter(|member| member.life == life) {
            member.serial = member.serial.max(serial);
            member.last_used = now;
            return false;
        }
        // A store that went back to an older life makes it the present one again.
        let known = of_key.replaced.iter().position(|member| member.life == life);
        let known = known.map(|index| of_key.replaced.swap_remove(index));
        let (open, pinned) = known.as_ref().map_or((0, false), |member| (member.open, member.pinned));
        let serial = known.map_or(serial, |member| member.serial.max(serial));
        let member = Member { life, epoch, serial, open, pinned, last_used: now, looked: now };
        of_key.replaced.extend(of_key.current.replace(member));
        self.looks.push_back((now, key, life));
        self.let_go(key)
    }

    /// A call to join this life has no answer.
    pub fn lost(&mut self, key: KeyId, life: LifeId, now: u64) {
        self.unsure.insert((key, life), now);
    }

    /// The ledger has no membership of this life: its epoch is closed.
    pub fn over(&mut self, key: KeyId, life: LifeId) -> bool {
        self.unsure.remove(&(key, life));
        let Some(of_key) = self.keys.get_mut(&key) else { return false };
        if let Some(over) = of_key.current.take_if(|member| member.life == life) {
            // Where it is over the leaving changes nothing, and where it is not it must be left.
            of_key.replaced.push(over);
        }
        self.let_go(key)
    }

    /// What became of a life that was not sure: the ledger counts this node as a member, which does not want to be one.
    pub fn confirmed(&mut self, key: KeyId, life: LifeId, Joined { epoch, serial }: Joined) {
        self.unsure.remove(&(key, life));
        match self.member(key, life) {
            Some(member) => member.serial = member.serial.max(serial),
            None => self.left.push((life, Leave { key, epoch, serial })),
        }
    }

    /// Lives whose membership must be asked for: a call about them was lost, and either they are not the present ones and the call was made
    /// before `settled`, so that it is over, or nobody has used them after `idle`.
    pub fn doubts(&self, settled: u64, idle: u64) -> Vec<(KeyId, LifeId)> {
        let due = |key: KeyId, life: LifeId, lost: u64| {
            let current = self.keys.get(&key).and_then(|of_key| of_key.current.as_ref());
            match current.filter(|member| member.life == life) {
                Some(member) => lost <= idle && !member.in_use() && member.last_used <= idle,
                None => lost <= settled,
            }
        };
        let old = self.unsure.iter().filter(|((key, life), lost)| due(*key, *life, **lost));
        old.map(|(doubt, _)| *doubt).collect()
    }

    /// At most `most` present lives that nobody uses and that were not looked at after `since`. Whether they are still the lives of their books
    /// is for the caller to find out.
    pub fn due_for_a_look(&mut self, since: u64, now: u64, most: usize) -> Vec<(KeyId, LifeId)> {
        let mut due = Vec::new();
        for _ in 0..self.looks.len() {
            if due.len() >= most || self.looks.front().is_none_or(|(looked, ..)| *looked > since) {
                break;
            }
            let Some((looked, key, life)) = self.looks.pop_front() else { break };
            let current = self.keys.get_mut(&key).and_then(|of_key| of_key.current.as_mut());
            let this = |member: &&mut Member| member.life == life && member.looked == looked;
            let Some(member) = current.filter(this) else { continue };
            member.looked = now;
            if !member.in_use() {
                due.push((key, life));
            }
            self.looks.push_back((now, key, life));
        }
        due
    }

    /// The books are of another life than this one. It is left unless somebody has begun to use it: they will see for themselves.
    pub fn ended(&mut self, key: KeyId, life: LifeId) -> bool {
        let Some(of_key) = self.keys.get_mut(&key) else { return false };
        of_key.replaced.extend(of_key.current.take_if(|member| member.life == life && !member.in_use()));
        self.let_go(key)
    }

    /// Leaves the lives that nobody has used after `since`.
    pub fn leave_idle(&mut self, since: u64) {
        let Self { keys, left, unsure, .. } = self;
        keys.retain(|key, of_key| {
            let idle = |member: &mut Member| {
                let sure = !unsure.contains_key(&(*key, member.life));
                sure && !member.in_use() && member.last_used <= since
            };
            left.extend(of_key.current.take_if(idle).map(|member| leave(*key, &member)));
            of_key.current.is_some() || !of_key.replaced.is_empty()
        });
    }

    /// At most `most` memberships to leave now. They are no longer remembered: a later join has a later serial.
    pub fn take_left(&mut self, most: usize) -> Vec<Leave> {
        let from = self.left.len().saturating_sub(most);
        self.left.split_off(from).into_iter().map(|(_, leave)| leave).collect()
    }

    /// The keys that this node is a member for.
    pub fn keys(&self) -> Vec<KeyId> {
        self.keys.keys().copied().collect()
    }

    fn member(&mut self, key: KeyId, life: LifeId) -> Option<&mut Member> {
        let of_key = self.keys.get_mut(&key)?;
        let OfKey { current, replaced } = of_key;
        current.iter_mut().chain(replaced).find(|member| member.life == life)
    }

    /// Leaves the replaced lives of a key that are no longer used; answers whether there are any.
    fn let_go(&mut self, key: KeyId) -> bool {
        let Self { keys, left, unsure, .. } = self;
        let Some(of_key) = keys.get_mut(&key) else { return false };
        let before = left.len();
        let done = of_key.replaced.extract_if(.., |member| !member.in_use());
        for member in done {
            // One that is not sure is asked for first, and left with the serial that it has now.
            if !unsure.contains_key(&(key, member.life)) {
                left.push(leave(key, &member));
            }
        }
        if of_key.current.is_none() && of_key.replaced.is_empty() {
            keys.remove(&key);
        }
        left.len() > before
    }
}

fn leave(key: KeyId, member: &Member) -> (LifeId, Leave) {
    (member.life, Leave { key, epoch: member.epoch, serial: member.serial })
}
