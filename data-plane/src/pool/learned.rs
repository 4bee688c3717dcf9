//! The rate of a provider that states no limits, learned from its refusals: lowered to seven tenths with each cooldown, raised by two hundredths a second.
//!
//! Nothing is limited before the first refusal, and again when none has come for so long that the rate has risen far above the one that was refused.
//! A refusal of what was sent more slowly than the least rate that is ever set says nothing about one: it is a cooldown, and no more.
//!
//! Pure: time is given.

use std::time::Duration;

use super::moment::Moment;

/// What a refusal leaves of the rate.
const LOWERED: f64 = 0.7;
/// What a second makes of it.
const RAISED: f64 = 1.02;
/// Never less: a slower provider is known by its refusals.
const FLOOR: f64 = 1.0;
/// The rate is forgotten when it is so many times the one that was refused.
const FORGOTTEN: f64 = 8.0;
/// Over how long the rate is measured that a refusal lowers, in seconds.
const MEASURED: usize = 10;
/// So many seconds' worth may be sent at once.
const BURST: f64 = 2.0;

/// What refusals have taught.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    limit: Option<Limit>,
    /// Requests sent in each of the last seconds, by the second.
    sent: [(u64, u32); MEASURED],
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Requests a second, at `at`.
    rate: f64,
    /// What was sent a second when it was refused.
    refused: f64,
    /// Requests that may be sent at once, at `at`.
    level: f64,
    at: Moment,
}

impl Limit {
    fn grown(self, now: Moment) -> Self {
        let seconds = now.since(self.at).as_secs_f64();
        // Beyond that it is forgotten anyway.
        let rate = self.rate * RAISED.powf(seconds.min(3_600.0));
        Self { rate, level: (self.level + rate * seconds).min(burst(rate)), at: now, ..self }
    }

    fn is_forgotten(&self) -> bool {
        self.rate > self.refused.max(FLOOR) * FORGOTTEN
    }
}

impl Learned {
    /// Whether a request can be sent now.
    ///
    /// # Errors
    /// When to look again.
    pub fn fits(&self, now: Moment) -> Result<(), Moment> {
        let Some(limit) = self.limit(now) else { return Ok(()) };
        if limit.level >= 1.0 {
            return Ok(());
        }
        Err(now.plus(Duration::try_from_secs_f64((1.0 - limit.level) / limit.rate).unwrap_or(Duration::MAX)))
    }

    /// The part of a burst that is left; 1 when nothing is limited.
    #[must_use]
    pub fn ratio(&self, now: Moment) -> f64 {
        self.limit(now).map_or(1.0, |limit| limit.level / burst(limit.rate))
    }

    /// Requests a second, by now; `None` when nothing is limited.
    #[must_use]
    pub fn per_second(&self, now: Moment) -> Option<f64> {
        self.limit(now).map(|limit| limit.rate)
    }

    /// A request is sent.
    pub fn take(&mut self, now: Moment) {
        self.limit = self.limit(now).map(|limit| Limit { level: (limit.level - 1.0).max(0.0), ..limit });
        let second = second(now);
        let slot = &mut self.sent[slot(second)];
        *slot = if slot.0 == second { (second, slot.1.saturating_add(1)) } else { (second, 1) };
    }

    /// A cooldown began.
    pub fn refused(&mut self, now: Moment) {
        if self.measured(now) < FLOOR {
            return;
        }
        let rate = self.limit(now).map_or_else(|| self.measured(now), |limit| limit.rate);
        self.limit = Some(Limit { rate: (rate * LOWERED).max(FLOOR), refused: rate, level: 0.0, at: now });
    }

    fn limit(&self, now: Moment) -> Option<Limit> {
        self.limit.map(|limit| limit.grown(now)).filter(|limit| !limit.is_forgotten())
    }

    /// Requests a second over the last seconds.
    fn measured(&self, now: Moment) -> f64 {
        let first = second(now).saturating_sub(MEASURED as u64 - 1);
        let recent = self.sent.iter().filter(|(second, _)| *second >= first).map(|(_, count)| f64::from(*count));
        recent.sum::<f64>() / MEASURED as f64
    }
}

fn burst(rate: f64) -> f64 {
    (rate * BURST).max(1.0)
}

/// Seconds from 1 on, so that an unused slot is none.
fn second(now: Moment) -> u64 {
    now.since(Moment::default()).as_secs() + 1
}

fn slot(second: u64) -> usize {
    usize::try_from(second % MEASURED as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::default().plus(Duration::from_millis(millis))
    }

    /// Ten requests a second until ten seconds.
    fn busy() -> Learned {
        let mut learned = Learned::default();
        for tenth in 0..100 {
            assert_eq!(learned.fits(at(tenth * 100)), Ok(()));
            learned.take(at(tenth * 100));
        }
        learned
    }

    #[test]
    fn a_refusal_lowers_the_rate_that_was_sent_to_seven_tenths() {
        let mut learned = busy();
        assert_eq!(learned.per_second(at(9_999)), None);
        learned.refused(at(9_999));
        assert!((learned.per_second(at(9_999)).unwrap() - 7.0).abs() < 1e-9, "{learned:?}");
        let wait = learned.fits(at(9_999)).unwrap_err().since(at(9_999));
        assert!((wait.as_secs_f64() - 1.0 / 7.0).abs() < 1e-6, "{wait:?}");
        learned.refused(at(9_999));
        assert!((learned.per_second(at(9_999)).unwrap() - 4.9).abs() < 1e-9, "{learned:?}");
    }

    #[test]
    fn it_rises_by_two_hundredths_a_second_and_is_forgotten_in_the_end() {
        let mut learned = busy();
        learned.refused(at(9_999));
        assert!((learned.per_second(at(10_999)).unwrap() - 7.14).abs() < 1e-9);
        assert!(learned.limit(at(9_999 + 120_000)).is_some());
        assert!(learned.limit(at(9_999 + 130_000)).is_none(), "eight times as much as was refused");
        assert_eq!((learned.fits(at(200_000)), learned.per_second(at(200_000))), (Ok(()), None));
    }

    #[test]
    fn a_second_always_lets_one_through() {
        let mut learned = busy();
        for _ in 0..100 {
            learned.refused(at(9_999));
        }
        let wait = learned.fits(at(9_999)).unwrap_err().since(at(9_999));
        assert_eq!(wait, Duration::from_secs(1));
    }

    #[test]
    fn a_refusal_of_what_is_hardly_used_teaches_no_rate() {
        let mut learned = Learned::default();
        for second in 0..5 {
            learned.take(at(second * 1_000));
            learned.refused(at(second * 1_000));
        }
        assert_eq!((learned.fits(at(5_000)), learned.per_second(at(5_000))), (Ok(()), None));
        let mut learned = busy();
        learned.refused(at(9_999));
        let known = learned.per_second(at(60_000));
        learned.take(at(60_000));
        learned.refused(at(60_000));
        assert_eq!(learned.per_second(at(60_000)), known, "one request after a silence was not too fast");
    }

    proptest! {
        #[test]
        fn whoever_waits_as_told_is_let_through(refusals in 1..20_usize, gap in 0..60_000_u64) {
            let mut learned = busy();
            for _ in 0..refusals {
                learned.refused(at(9_999));
            }
            let now = at(9_999 + gap);
            if let Err(ready) = learned.fits(now) {
                prop_assert!(ready > now);
                prop_assert_eq!(learned.fits(ready.plus(Duration::from_millis(1))), Ok(()));
            }
        }
    }
}
