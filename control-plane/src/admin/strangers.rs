//! How often the calls of strangers are recorded one by one: entries are for ever, so nobody without a token may write as many as they like.
//!
//! Up to [`PER_MINUTE`] refused calls a minute have an entry each; the rest are counted, and the next entry says how many there were.

use std::sync::{Mutex, PoisonError};

use keyforge_shared::clock::Timestamp;

/// Refused calls per minute that have an entry of their own.
const PER_MINUTE: u32 = 60;
const MINUTE_SECONDS: i64 = 60;

/// Counts the refused calls of strangers.
#[derive(Default)]
pub(super) struct Strangers(Mutex<Tally>);

#[derive(Default)]
struct Tally {
    minute: i64,
    recorded: u32,
    unrecorded: u64,
}

impl Strangers {
    /// Whether a call refused at `now` has an entry of its own; if so, how many before it had none.
    pub(super) fn admit(&self, now: Timestamp) -> Option<u64> {
        let minute = now.seconds().div_euclid(MINUTE_SECONDS);
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tally.minute != minute {
            (tally.minute, tally.recorded) = (minute, 0);
        }
        if tally.recorded == PER_MINUTE {
            tally.unrecorded = tally.unrecorded.saturating_add(1);
            return None;
        }
        tally.recorded += 1;
        Some(std::mem::take(&mut tally.unrecorded))
    }

    /// Counts refused calls that have no entry of their own, or whose entry could not be written: the next one tells of them.
    pub(super) fn pass_over(&self, calls: u64) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tally.unrecorded = tally.unrecorded.saturating_add(calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_next_minute_tells_how_large_it_was() {
        let strangers = Strangers::default();
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        for _ in 0..PER_MINUTE {
            assert_eq!(strangers.admit(at(600)), Some(0));
        }
        for _ in 0..1_000 {
            assert_eq!(strangers.admit(at(659)), None);
        }
        assert_eq!(strangers.admit(at(660)), Some(1_000));
        strangers.pass_over(1);
        assert_eq!(strangers.admit(at(660)), Some(1));
    }
}
