//! How long to wait before trying again: exponential, capped, with full jitter.
//!
//! The n-th delay is uniform in `0 ..= min(cap, base * 2^n)`, so that many nodes that lost the same peer do not come
//! back in step. This module never sleeps: the caller decides what else may end the wait.

use std::time::Duration;

/// Where jitter comes from; a test hands in a closure.
pub trait Jitter: Send {
    /// A number in `0 ..= bound`.
    fn up_to(&mut self, bound: u64) -> u64;
}

impl<F: FnMut(u64) -> u64 + Send> Jitter for F {
    fn up_to(&mut self, bound: u64) -> u64 {
        self(bound).min(bound)
    }
}

/// Jitter from the operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemJitter;

impl Jitter for SystemJitter {
    fn up_to(&mut self, bound: u64) -> u64 {
        // Without randomness the longest wait is the safe one.
        let Ok(random) = getrandom::u64() else { return bound };
        let scaled = (u128::from(random) * (u128::from(bound) + 1)) >> 64;
        u64::try_from(scaled).unwrap_or(bound)
    }
}

/// A sequence of growing delays. It has no end: the caller owns the decision to give up.
#[derive(Clone, Debug)]
pub struct Backoff<J = SystemJitter> {
    base_micros: u64,
    cap_micros: u64,
    ceiling_micros: u64,
    jitter: J,
}

impl Backoff {
    /// Delays that start in `0 ..= base` and double up to `0 ..= cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self::with_jitter(base, cap, SystemJitter)
    }
}

impl<J: Jitter> Backoff<J> {
    /// As [`Backoff::new`], with a chosen source of jitter.
    #[must_use]
    pub fn with_jitter(base: Duration, cap: Duration, jitter: J) -> Self {
        let cap_micros = micros(cap);
        let base_micros = micros(base).clamp(1, cap_micros.max(1));
        Self { base_micros, cap_micros, ceiling_micros: base_micros, jitter }
    }

    /// The next delay; each one may be twice as long as the one before, up to the cap.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling_micros.min(self.cap_micros);
        self.ceiling_micros = self.ceiling_micros.saturating_mul(2).min(self.cap_micros.max(1));
        Duration::from_micros(self.jitter.up_to(ceiling))
    }

    /// Begins again at the base: call it once the peer has proved healthy.
    pub fn reset(&mut self) {
        self.ceiling_micros = self.base_micros;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_cap_and_begin_again_after_reset() {
        let mut backoff = Backoff::with_jitter(BASE, CAP, |bound| bound);
        let millis: Vec<u128> = (0..6).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), BASE);
    }

    #[test]
    fn jitter_is_full_and_never_exceeds_the_ceiling() {
        let mut backoff = Backoff::with_jitter(BASE, CAP, |_| 0);
        assert_eq!(backoff.next_delay(), Duration::ZERO);
        let mut greedy = Backoff::with_jitter(BASE, CAP, |_| u64::MAX);
        assert_eq!(greedy.next_delay(), BASE);
    }

    #[test]
    fn system_jitter_stays_in_bounds_and_is_not_constant() {
        let mut jitter = SystemJitter;
        let drawn: Vec<u64> = (0..200).map(|_| jitter.up_to(10)).collect();
        assert!(drawn.iter().all(|value| *value <= 10));
        assert!(drawn.iter().any(|value| *value != drawn[0]));
        assert!(jitter.up_to(u64::MAX) > 0);
        assert_eq!(jitter.up_to(0), 0);
    }

    #[test]
    fn ten_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::with_jitter(Duration::MAX, Duration::MAX, |bound| bound);
        for _ in 0..10_000 {
            assert!(backoff.next_delay() > Duration::ZERO);
        }
    }

    #[test]
    fn cap_below_base_wins() {
        let mut backoff = Backoff::with_jitter(CAP, BASE, |bound| bound);
        assert_eq!(backoff.next_delay(), BASE);
        assert_eq!(backoff.next_delay(), BASE);
    }
}
