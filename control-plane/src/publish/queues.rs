//! A fan-out: whoever joins it has a queue of its own with a bound, into which goes whatever is given from then on.
//!
//! One that falls behind loses its queue and is told to begin anew; it costs the others nothing, and nobody waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

/// Items that may wait in one queue.
pub(super) const QUEUE: usize = 1_024;

/// A member fell so far behind that items were lost to it: it must begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

/// Hands each item to all members.
pub(super) struct FanOut<T> {
    queues: Vec<Weak<Queue<T>>>,
}

/// What waits for one member. Dropping it ends the membership.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    wake: Notify,
}

struct Waiting<T> {
    items: VecDeque<T>,
    overflowed: bool,
}

impl<T> Default for FanOut<T> {
    fn default() -> Self {
        Self { queues: Vec::new() }
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), overflowed: false }
    }
}

impl<T: Clone> FanOut<T> {
    /// A further member, which gets what is given from now on.
    pub fn join(&mut self) -> Arc<Queue<T>> {
        let queue = Arc::new(Queue { waiting: Mutex::default(), wake: Notify::new() });
        self.queues.push(Arc::downgrade(&queue));
        queue
    }

    /// Puts an item into each member's queue, and forgets who has left.
    pub fn give(&mut self, item: &T) {
        self.queues.retain(|queue| match queue.upgrade() {
            Some(queue) => {
                queue.push(item.clone());
                true
            }
            None => false,
        });
    }

    /// How many are there.
    pub fn members(&self) -> usize {
        self.queues.iter().filter(|queue| queue.strong_count() > 0).count()
    }
}

impl<T> Queue<T> {
    fn push(&self, item: T) {
        let mut waiting = self.waiting();
        if waiting.overflowed {
            return;
        }
        if waiting.items.len() == QUEUE {
            *waiting = Waiting { items: VecDeque::new(), overflowed: true };
        } else {
            waiting.items.push_back(item);
        }
        self.wake.notify_one();
    }

    /// Waits for the next item. Safe to drop while waiting: nothing is lost.
    ///
    /// # Errors
    /// [`Overrun`], until [`Self::begin_anew`].
    pub async fn next(&self) -> Result<T, Overrun> {
        loop {
            let woken = self.wake.notified();
            match self.take()? {
                Some(item) => return Ok(item),
                None => woken.await,
            }
        }
    }

    /// The next item, if there is one already.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn take(&self) -> Result<Option<T>, Overrun> {
        let mut waiting = self.waiting();
        if waiting.overflowed { Err(Overrun) } else { Ok(waiting.items.pop_front()) }
    }

    /// Empties the queue, and lets it be filled again if it overflowed.
    pub fn begin_anew(&self) {
        *self.waiting() = Waiting::default();
    }

    /// A panic while the lock was held cannot leave the queue half changed, so that a poisoned lock is still good.
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn i_15_a_queue_that_overflowed_holds_nothing_until_it_begins_anew_and_the_others_lose_nothing() {
        let mut fan_out = FanOut::default();
        let (slow, quick) = (fan_out.join(), fan_out.join());
        for number in 0..=QUEUE {
            fan_out.give(&number);
            assert_eq!(quick.next().await, Ok(number));
        }
        assert_eq!(slow.next().await, Err(Overrun));
        assert_eq!(slow.waiting().items.len(), 0);
        fan_out.give(&0);
        assert_eq!(slow.take(), Err(Overrun));
        slow.begin_anew();
        fan_out.give(&7);
        assert_eq!(slow.next().await, Ok(7));
    }

    #[test]
    fn who_left_is_forgotten_with_the_next_item() {
        let mut fan_out = FanOut::default();
        let (stays, leaves) = (fan_out.join(), fan_out.join());
        drop(leaves);
        assert_eq!(fan_out.members(), 1);
        fan_out.give(&1);
        assert_eq!((fan_out.members(), fan_out.queues.len(), stays.take()), (1, 1, Ok(Some(1))));
    }
}
