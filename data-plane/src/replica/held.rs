//! The state as it came, and the orders that are ahead of it: what a key is by both.

use std::sync::Arc;

use hashbrown::HashMap;
use keyforge_shared::id::KeyId;
use keyforge_shared::policy::Policy;
use keyforge_shared::state::{KeyRecord, Standing, State};

use super::differences::KeyChange;

/// Whether a key works, from a revision on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The revision.
    pub revision: u64,
    /// Which key.
    pub key: KeyId,
    /// Whether it works.
    pub standing: Standing,
}

/// Which of the sets it is that were held one after the other. Changes make no other set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetNumber(u64);

/// The state, and the orders that are ahead of it.
#[derive(Default)]
pub(super) struct Held {
    pub state: State,
    pub orders: HashMap<KeyId, Order>,
    number: SetNumber,
    /// Whether the control plane never had this set, so that its revision is of another past and every order is ahead of it.
    is_foreign: bool,
}

impl Held {
    /// The key with this id, as the orders have it that are ahead of the state.
    pub fn key(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.ordered(self.state.key(id))
    }

    /// The record as the orders have it that are ahead of the state.
    pub fn ordered(&self, key: Option<Arc<KeyRecord>>) -> Option<Arc<KeyRecord>> {
        let key = key?;
        if self.orders.is_empty() {
            return Some(key);
        }
        match self.orders.get(&key.id) {
            Some(order) => Some(under(order, key)),
            None => Some(key),
        }
    }

    /// The keys with an order, but those of `changes`: what becomes of each is what the other set says of it, which is what this one does.
    pub fn ordered_but_in(&self, changes: &[KeyChange]) -> Vec<KeyChange> {
        let is_new =
            |id: &&KeyId| !changes.iter().any(|change| change.before.as_ref().is_some_and(|key| key.id == **id));
        let change = |id: &KeyId| Some(KeyChange { before: Some(self.key(*id)?), now: self.state.key(*id) });
        self.orders.keys().filter(is_new).filter_map(change).collect()
    }

    /// Which set this is.
    pub fn number(&self) -> SetNumber {
        self.number
    }

    /// Whether the state tells everything up to `floor`.
    pub fn stands_on(&self, floor: u64) -> bool {
        !self.is_foreign && floor <= self.state.revision()
    }

    /// The control plane never had this set, if it is the one of this number. Says whether it is.
    pub fn disown(&mut self, number: SetNumber) -> bool {
        let is_held = self.number == number;
        if is_held && !std::mem::replace(&mut self.is_foreign, true) {
            self.orders.clear();
        }
        is_held
    }

    /// Takes an order that the state does not contain and that no later one has overtaken.
    pub fn take(&mut self, order: Order) -> Option<KeyChange> {
        let is_newer = self.orders.get(&order.key).is_none_or(|known| known.revision < order.revision);
        if !is_newer || self.stands_on(order.revision) {
            return None;
        }
        let before = self.key(order.key);
        self.orders.insert(order.key, order);
        Some(KeyChange { before, now: self.key(order.key) })
    }

    /// Takes another set, and gives the state it had.
    pub fn replace(&mut self, state: State) -> State {
        // One that goes back undoes its past, and with it the orders of then; those after a disowning are of the new one.
        if state.revision() < self.state.revision() && !self.is_foreign {
            self.orders.clear();
        }
        self.is_foreign = false;
        self.number.0 += 1;
        std::mem::replace(&mut self.state, state)
    }

    /// Forgets the orders that the state has caught up with.
    pub fn catch_up(&mut self) {
        let revision = self.state.revision();
        self.orders.retain(|_, order| order.revision > revision);
    }
}

fn under(order: &Order, mut key: Arc<KeyRecord>) -> Arc<KeyRecord> {
    if key.standing() == order.standing {
        return key;
    }
    let record = Arc::make_mut(&mut key);
    if record.status != order.standing.status {
        (record.status, record.status_revision) = (order.standing.status, order.revision);
    }
    if record.policy.has_nothing_left() != order.standing.spent {
        let limits = &mut Arc::make_mut(&mut record.policy).request_limits;
        limits.retain(|limit| limit.window != Policy::NOTHING_LEFT.window);
        if order.standing.spent {
            limits.push(Policy::NOTHING_LEFT);
        }
    }
    key
}
