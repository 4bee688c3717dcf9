//! The rate of one key: an exact sliding log of its admissions.
//!
//! It promises that no 60 seconds of the store's clock contain more admissions than the limit asked for. Entries go by age alone and not by the
//! limit, so that lowering a limit and raising it again forgets nothing.

use std::collections::VecDeque;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;

/// How long an admission counts.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Admissions of the last 60 seconds, oldest first. Never longer than the highest limit of the last 60 seconds.
#[derive(Debug, Default)]
pub(super) struct SlidingLog {
    admissions: VecDeque<Timestamp>,
}

impl SlidingLog {
    /// How many more admissions `limit` allows at `now`.
    ///
    /// # Errors
    /// How long until there is one.
    pub(super) fn free(&mut self, limit: u32, now: Timestamp) -> Result<u32, Duration> {
        self.forget(now);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let free = limit.saturating_sub(self.admissions.len());
        if free > 0 {
            return Ok(u32::try_from(free).unwrap_or(u32::MAX));
        }
        // The newest admission that must have left before there is room for one more.
        let blocking = self.admissions.len().checked_sub(limit).and_then(|index| self.admissions.get(index));
        Err(blocking.map_or(WINDOW, |admission| admission.saturating_add(WINDOW).since(now)))
    }

    /// Logs an admission. `now` is never before an earlier one.
    pub(super) fn admit(&mut self, now: Timestamp) {
        self.admissions.push_back(now);
    }

    /// Whether no admission counts any more.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.admissions.back().is_none_or(|newest| now.since(*newest) >= WINDOW)
    }

    fn forget(&mut self, now: Timestamp) {
        while self.admissions.front().is_some_and(|oldest| now.since(*oldest) >= WINDOW) {
            self.admissions.pop_front();
        }
        // A burst long ago must not keep its memory.
        if self.admissions.capacity() > 64 && self.admissions.len() < self.admissions.capacity() / 8 {
            self.admissions.shrink_to(self.admissions.len().saturating_mul(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn i_10_an_admission_counts_for_exactly_60_seconds() {
        let mut log = SlidingLog::default();
        for millis in [0, 10] {
            assert!(log.free(2, at(millis)).is_ok());
            log.admit(at(millis));
        }
        assert_eq!(log.free(2, at(10)), Err(Duration::from_millis(59_990)));
        assert_eq!(log.free(2, at(59_999)), Err(Duration::from_millis(1)));
        assert_eq!(log.free(2, at(60_000)), Ok(1));
        assert_eq!(log.free(2, at(60_010)), Ok(2));
    }

    #[test]
    fn i_10_a_limit_lowered_and_raised_again_forgets_no_admission() {
        let mut log = SlidingLog::default();
        for millis in 0..10 {
            log.admit(at(millis));
        }
        // With a limit of 3, seven must leave before the wait ends with the eighth.
        assert_eq!(log.free(3, at(100)), Err(Duration::from_millis(60_007 - 100)));
        assert_eq!(log.free(10, at(100)), Err(Duration::from_millis(60_000 - 100)));
        assert_eq!(log.free(11, at(100)), Ok(1));
    }

    #[test]
    fn a_limit_of_zero_admits_nothing() {
        assert_eq!(SlidingLog::default().free(0, at(5)), Err(WINDOW));
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut log = SlidingLog::default();
        (0..10_000).for_each(|_| log.admit(at(0)));
        assert!(log.free(10_000, at(60_000)).is_ok());
        assert!(log.admissions.capacity() <= 64, "{}", log.admissions.capacity());
        assert!(log.is_idle(at(60_000)));
    }
}
