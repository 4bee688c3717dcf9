//! How many calls of an operator are carried out at the same time: one token, stolen or in a script, leaves room for everybody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyforge_shared::id::OperatorId;

/// The calls that are under way, by operator. Clones share it.
#[derive(Clone)]
pub(super) struct InFlight {
    most: usize,
    /// An operator is in it while they have any.
    calls: Arc<Mutex<HashMap<OperatorId, usize>>>,
}

/// A call that is under way. It ends with it.
pub(super) struct CallInFlight {
    of: InFlight,
    operator: OperatorId,
}

impl InFlight {
    /// At most so many of one operator.
    pub(super) fn new(most: usize) -> Self {
        Self { most, calls: Arc::default() }
    }

    /// A call begins; `None` when the operator has as many as they may.
    pub(super) fn begin(&self, operator: OperatorId) -> Option<CallInFlight> {
        let mut calls = self.lock();
        let under_way = calls.get(&operator).copied().unwrap_or(0);
        if under_way >= self.most {
            return None;
        }
        calls.insert(operator, under_way + 1);
        drop(calls);
        Some(CallInFlight { of: self.clone(), operator })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OperatorId, usize>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CallInFlight {
    fn drop(&mut self) {
        let mut calls = self.of.lock();
        match calls.get_mut(&self.operator) {
            Some(under_way) if *under_way > 1 => *under_way -= 1,
            _ => drop(calls.remove(&self.operator)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_with_as_many_calls_as_they_may_have_takes_nothing_from_another_and_goes_on_when_one_ends() {
        let calls = InFlight::new(2);
        let [ada, bob] = [1, 2].map(|number| OperatorId::from_bytes([number; 16]));
        let (first, second) = (calls.begin(ada), calls.begin(ada));
        assert!(first.is_some() && second.is_some() && calls.begin(ada).is_none());
        assert!(calls.begin(bob).is_some());
        drop(first);
        let third = calls.begin(ada);
        assert!(third.is_some() && calls.begin(ada).is_none());
        drop((second, third));
        assert!(calls.lock().is_empty());
    }
}
