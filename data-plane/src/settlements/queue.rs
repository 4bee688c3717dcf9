//! Messages that wait for the counter store, without time, locks or network.
//!
//! One whose store could not be reached steps aside until its time comes, so that others, whose part of the store is well, are not kept from
//! theirs. There are never more than a fixed number; what is too much falls out, first of all what a store could not be told before.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long a message waits for a store that could not be reached.
const AGAIN: Duration = Duration::from_millis(500);

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// Tell this. [`Queue::told`] or [`Queue::put_back`] follows.
    Tell(T),
    /// Nothing before this moment.
    WaitUntil(Instant),
    /// Nothing.
    Nothing,
}

/// Messages in the order in which they are told.
#[derive(Debug)]
pub(super) struct Queue<T> {
    new: VecDeque<T>,
    /// Those that could not be told, each with the moment from which it may be; soonest first, because all wait equally long.
    later: VecDeque<(Instant, T)>,
    /// Messages on their way.
    out: usize,
    most: usize,
}

impl<T> Queue<T> {
    /// Room for `most` messages.
    pub const fn new(most: usize) -> Self {
        Self { new: VecDeque::new(), later: VecDeque::new(), out: 0, most }
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.new.len() + self.later.len()
    }

    /// Whether everything was told.
    pub fn is_done(&self) -> bool {
        self.out == 0 && self.len() == 0
    }

    /// A new message. Answers the one that fell out, if there were too many.
    #[must_use]
    pub fn push(&mut self, message: T) -> Option<T> {
        self.new.push_back(message);
        self.fallen_out()
    }

    /// The next message to tell: one whose time has come, or else the oldest new one.
    pub fn next(&mut self, now: Instant) -> Next<T> {
        let due = self.later.pop_front_if(|(at, _)| *at <= now).map(|(_, message)| message);
        match due.or_else(|| self.new.pop_front()) {
            Some(message) => {
                self.out += 1;
                Next::Tell(message)
            }
            None => self.later.front().map_or(Next::Nothing, |(at, _)| Next::WaitUntil(*at)),
        }
    }

    /// A message on its way was told, or given up.
    pub const fn told(&mut self) {
        self.out = self.out.saturating_sub(1);
    }

    /// A message on its way could not be told. Answers the one that fell out, if there are too many.
    #[must_use]
    pub fn put_back(&mut self, message: T, now: Instant) -> Option<T> {
        self.told();
        self.later.push_back((now + AGAIN, message));
        self.fallen_out()
    }

    fn fallen_out(&mut self) -> Option<T> {
        if self.len() <= self.most {
            return None;
        }
        self.later.pop_front().map(|(_, message)| message).or_else(|| self.new.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_makes_way_for_what_can() {
        let (mut queue, now) = (Queue::new(9), Instant::now());
        for message in 0..3 {
            assert_eq!(queue.push(message), None);
        }
        assert_eq!(queue.next(now), Next::Tell(0));
        assert_eq!(queue.put_back(0, now), None);
        assert_eq!([queue.next(now), queue.next(now)], [Next::Tell(1), Next::Tell(2)]);
        assert_eq!(queue.next(now), Next::WaitUntil(now + AGAIN));
        let later = now + AGAIN;
        assert_eq!(queue.push(3), None);
        assert_eq!([queue.next(later), queue.next(later)], [Next::Tell(0), Next::Tell(3)]);
        assert_eq!(queue.next(later), Next::Nothing);
    }

    #[test]
    fn it_is_done_when_nothing_waits_and_nothing_is_on_its_way() {
        let (mut queue, now) = (Queue::new(9), Instant::now());
        assert!(queue.is_done() && queue.push(0).is_none() && !queue.is_done());
        assert_eq!(queue.next(now), Next::Tell(0));
        assert!(!queue.is_done(), "it is on its way");
        assert_eq!(queue.put_back(0, now), None);
        assert!(!queue.is_done(), "it waits again");
        assert_eq!(queue.next(now + AGAIN), Next::Tell(0));
        queue.told();
        assert!(queue.is_done());
    }

    #[test]
    fn what_comes_back_does_not_overfill_it() {
        let (mut queue, now) = (Queue::new(2), Instant::now());
        assert_eq!(queue.push(0), None);
        assert_eq!(queue.next(now), Next::Tell(0));
        assert_eq!((queue.push(1), queue.push(2)), (None, None));
        assert_eq!(queue.put_back(0, now), Some(0));
        assert_eq!(queue.push(3), Some(1), "the oldest");
        assert_eq!(queue.len(), 2);
    }
}
