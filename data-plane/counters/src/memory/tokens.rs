//! The tokens of one key's last minute, counted by the second.
//!
//! It promises that no 60 seconds of the store's clock contain more tokens than the limit asked for. A second counts until 60 more have passed,
//! so the window is 61 seconds long: never over the limit, and under it by a sixtieth at most.

use std::collections::VecDeque;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;

/// How many seconds count after the one in which tokens were taken.
const COUNTED_AFTER: i64 = 60;

/// Tokens by second, oldest first.
#[derive(Debug, Default)]
pub(super) struct TokenRing {
    seconds: VecDeque<(i64, u64)>,
}

impl TokenRing {
    /// Tokens that count now.
    pub(super) fn sum(&self, now: Timestamp) -> u64 {
        self.counted(now).fold(0, |sum, (_, tokens)| sum.saturating_add(tokens))
    }

    /// How long until `amount` fits beside what counts now; `None` if it never does.
    pub(super) fn wait(&self, per_minute: u64, amount: u64, now: Timestamp) -> Option<Duration> {
        let room = per_minute.checked_sub(amount)?;
        let mut sum = self.sum(now);
        for (second, tokens) in self.counted(now) {
            if sum <= room {
                break;
            }
            sum = sum.saturating_sub(tokens);
            if sum <= room {
                return Some(left_at(second).since(now));
            }
        }
        Some(Duration::ZERO)
    }

    /// How long until nothing counts any more.
    pub(super) fn reset(&self, now: Timestamp) -> Duration {
        let newest = self.seconds.iter().rev().find(|(_, tokens)| *tokens > 0);
        newest.map_or(Duration::ZERO, |(second, _)| left_at(*second).since(now))
    }

    /// Takes tokens in this second, and forgets those that count no more. `now` is never before an earlier one.
    pub(super) fn take(&mut self, amount: u64, now: Timestamp) {
        while self.seconds.front().is_some_and(|(second, _)| left_at(*second) <= now) {
            self.seconds.pop_front();
        }
        match self.seconds.back_mut() {
            Some((second, tokens)) if *second == now.seconds() => *tokens = tokens.saturating_add(amount),
            _ => self.seconds.push_back((now.seconds(), amount)),
        }
    }

    /// Makes `amount` taken in `second` another amount, if that second is still known.
    pub(super) fn replace(&mut self, second: i64, amount: u64, actual: u64) {
        let known = self.seconds.binary_search_by_key(&second, |(second, _)| *second);
        if let Some((_, tokens)) = known.ok().and_then(|index| self.seconds.get_mut(index)) {
            *tokens = tokens.saturating_sub(amount).saturating_add(actual);
        }
    }

    /// Whether nothing counts any more.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.reset(now) == Duration::ZERO
    }

    fn counted(&self, now: Timestamp) -> impl Iterator<Item = (i64, u64)> {
        self.seconds.iter().copied().filter(move |(second, _)| left_at(*second) > now)
    }
}

/// The first moment at which a second counts no more.
fn left_at(second: i64) -> Timestamp {
    Timestamp::from_millis(second.saturating_add(COUNTED_AFTER).saturating_add(1).saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn i_10_tokens_count_in_their_second_and_the_60_after_it() {
        let mut ring = TokenRing::default();
        ring.take(70, at(10_999));
        ring.take(30, at(11_000));
        assert_eq!(ring.sum(at(70_999)), 100);
        assert_eq!(ring.sum(at(71_000)), 30);
        assert_eq!(ring.sum(at(72_000)), 0);
        assert_eq!(ring.wait(100, 1, at(11_000)), Some(Duration::from_millis(60_000)));
        assert_eq!(ring.wait(100, 71, at(11_000)), Some(Duration::from_millis(61_000)));
        assert_eq!(ring.wait(100, 70, at(71_000)), Some(Duration::ZERO));
        assert_eq!(ring.wait(100, 101, at(200_000)), None, "it never fits");
        assert_eq!(ring.reset(at(11_500)), Duration::from_millis(60_500));
        assert_eq!(ring.reset(at(72_000)), Duration::ZERO);
    }

    #[test]
    fn what_was_taken_is_replaced_in_its_own_second() {
        let mut ring = TokenRing::default();
        ring.take(70, at(10_000));
        ring.take(30, at(11_000));
        ring.replace(10, 50, 5);
        assert_eq!(ring.sum(at(11_000)), 55);
        ring.replace(9, 50, 5);
        assert_eq!(ring.sum(at(11_000)), 55, "a second that nobody knows");
        ring.replace(11, 30, 0);
        assert_eq!(ring.reset(at(11_000)), Duration::from_secs(60), "only what is not zero counts");
    }

    #[test]
    fn looking_ahead_forgets_nothing() {
        let mut ring = TokenRing::default();
        ring.take(70, at(0));
        assert_eq!((ring.sum(at(61_000)), ring.wait(70, 1, at(61_000))), (0, Some(Duration::ZERO)));
        assert_eq!(ring.sum(at(1)), 70);
        ring.take(1, at(61_000));
        assert_eq!(ring.seconds.len(), 1);
    }
}
