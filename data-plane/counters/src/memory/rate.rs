//! The requests of one key's last minute: an exact sliding log of its admissions.
//!
//! It promises that no 60 seconds of the store's clock contain more admissions than the limit asked for. Entries go by age alone and not by the
//! limit, so that lowering a limit and raising it again forgets nothing.

use std::collections::VecDeque;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;

/// How long an admission counts.
const WINDOW: Duration = Duration::from_secs(60);

/// Admissions of the last 60 seconds, oldest first. Never longer than the highest limit of the last 60 seconds.
#[derive(Debug, Default)]
pub(super) struct SlidingLog {
    admissions: VecDeque<Timestamp>,
}

impl SlidingLog {
    /// How many admissions count now.
    pub(super) fn count(&self, now: Timestamp) -> usize {
        self.admissions.len() - self.admissions.partition_point(|admission| now.since(*admission) >= WINDOW)
    }

    /// How long until `limit` allows one more; `None` if it never does.
    pub(super) fn wait(&self, limit: u32, now: Timestamp) -> Option<Duration> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if limit == 0 {
            return None;
        }
        // The newest admission that must have left before there is room for one more.
        let blocking = self.admissions.len().checked_sub(limit).and_then(|index| self.admissions.get(index));
        Some(blocking.map_or(Duration::ZERO, |admission| admission.saturating_add(WINDOW).since(now)))
    }

    /// How long until nothing counts any more.
    pub(super) fn reset(&self, now: Timestamp) -> Duration {
        self.admissions.back().map_or(Duration::ZERO, |newest| newest.saturating_add(WINDOW).since(now))
    }

    /// Logs an admission, and forgets those that count no more. `now` is never before an earlier one.
    pub(super) fn admit(&mut self, now: Timestamp) {
        while self.admissions.front().is_some_and(|oldest| now.since(*oldest) >= WINDOW) {
            self.admissions.pop_front();
        }
        // A burst long ago must not keep its memory.
        if self.admissions.capacity() > 64 && self.admissions.len() < self.admissions.capacity() / 8 {
            self.admissions.shrink_to(self.admissions.len().saturating_mul(2));
        }
        self.admissions.push_back(now);
    }

    /// Whether no admission counts any more.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.reset(now) == Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn wait(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn i_10_an_admission_counts_for_exactly_60_seconds() {
        let mut log = SlidingLog::default();
        for millis in [0, 10] {
            assert_eq!(log.wait(2, at(millis)), wait(0));
            log.admit(at(millis));
        }
        assert_eq!(log.wait(2, at(10)), wait(59_990));
        assert_eq!(log.wait(2, at(59_999)), wait(1));
        assert_eq!((log.wait(2, at(60_000)), log.count(at(60_000))), (wait(0), 1));
        assert_eq!((log.count(at(60_010)), log.count(at(10))), (0, 2), "looking ahead forgets nothing");
    }

    #[test]
    fn i_10_a_limit_lowered_and_raised_again_forgets_no_admission() {
        let mut log = SlidingLog::default();
        for millis in 0..10 {
            log.admit(at(millis));
        }
        // With a limit of 3, seven must leave before the wait ends with the eighth.
        assert_eq!(log.wait(3, at(100)), wait(60_007 - 100));
        assert_eq!(log.wait(10, at(100)), wait(60_000 - 100));
        assert_eq!((log.wait(11, at(100)), log.count(at(100))), (wait(0), 10));
        assert_eq!(log.reset(at(100)), Duration::from_millis(60_009 - 100));
    }

    #[test]
    fn a_limit_of_zero_never_admits() {
        assert_eq!(SlidingLog::default().wait(0, at(5)), None);
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut log = SlidingLog::default();
        (0..10_000).for_each(|_| log.admit(at(0)));
        log.admit(at(60_000));
        assert!(log.admissions.capacity() <= 64, "{}", log.admissions.capacity());
        assert!(log.is_idle(at(120_000)));
    }
}
