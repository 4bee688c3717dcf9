//! For how long nobody uses what was refused: what the provider asks for, or else what its kind of refusal is known to need.
//!
//! Pure. Each class has a wait for when nothing is asked, a cap for what doubling may make of it, and a cap for everything.

use std::time::Duration;

use keyforge_counters::CooldownClass;

/// At most so much is added to every wait, as a part of it, so that not all come back in the same moment.
pub const JITTER: f64 = 0.1;
/// Nor is it ever longer: what is closed until a date opens on that date.
const MOST_JITTER: Duration = Duration::from_secs(30);
/// What a provider asks for is believed: doubling makes at most so much of it.
const MOST_OF_ASKED: u32 = 4;

struct Rule {
    /// When nothing is asked.
    unasked: Duration,
    /// Doubling goes no further.
    doubled: Duration,
    /// No wait is longer, whoever asks.
    longest: Duration,
}

const HOUR: u64 = 3_600;

fn rule(class: CooldownClass) -> Rule {
    let rule = |unasked, doubled, longest| Rule {
        unasked: Duration::from_millis(unasked),
        doubled: Duration::from_secs(doubled),
        longest: Duration::from_secs(longest),
    };
    match class {
        CooldownClass::Throttled => rule(1_000, 60, 600),
        CooldownClass::Overloaded => rule(500, 30, 120),
        // A month, and a day for calendars that differ.
        CooldownClass::Closed => rule(1_000 * HOUR, 24 * HOUR, 32 * 24 * HOUR),
        CooldownClass::Dead => rule(300_000, HOUR, HOUR),
    }
}

/// The wait after a refusal that asks for `asked`. `before` is the wait that had just ended, if this refusal came while its end was tried: then it
/// doubles. `chance` is from 0 to 1.
#[must_use]
pub fn after(class: CooldownClass, asked: Option<Duration>, before: Option<Duration>, chance: f64) -> Duration {
    let Rule { unasked, doubled, longest } = rule(class);
    let twice = before.map(|before| before.saturating_mul(2));
    let wait = match (asked, twice) {
        (Some(asked), Some(twice)) => asked.max(twice.min(asked.saturating_mul(MOST_OF_ASKED))),
        (Some(asked), None) => asked,
        (None, Some(twice)) => twice.min(doubled).max(unasked),
        (None, None) => unasked,
    };
    let wait = wait.min(longest);
    wait.saturating_add(wait.mul_f64(JITTER * chance.clamp(0.0, 1.0)).min(MOST_JITTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THROTTLED: CooldownClass = CooldownClass::Throttled;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn what_is_asked_is_waited_and_a_little_more() {
        assert_eq!(after(THROTTLED, Some(seconds(20)), None, 0.0), seconds(20));
        assert_eq!(after(THROTTLED, Some(seconds(20)), None, 1.0), seconds(22));
        assert_eq!(after(THROTTLED, None, None, 0.0), seconds(1));
        assert_eq!(after(CooldownClass::Closed, Some(seconds(8 * 24 * HOUR)), None, 0.0), seconds(8 * 24 * HOUR));
        assert_eq!(after(CooldownClass::Closed, Some(seconds(8 * 24 * HOUR)), None, 1.0), seconds(8 * 24 * HOUR + 30));
    }

    #[test]
    fn a_refusal_at_the_end_of_a_wait_doubles_it_up_to_a_bound() {
        let mut wait = after(THROTTLED, None, None, 0.0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            wait = after(THROTTLED, None, Some(wait), 0.0);
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        let mut wait = Duration::from_millis(200);
        for _ in 0..8 {
            wait = after(THROTTLED, Some(Duration::from_millis(200)), Some(wait), 0.0);
        }
        assert_eq!(wait, Duration::from_millis(800), "who says exactly when is not left for minutes");
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_its_class_allows_or_shorter_than_asked(
            class in prop::sample::select(CooldownClass::ALL.to_vec()),
            asked in prop::option::of(0..10_000_000_u64),
            before in prop::option::of(0..10_000_000_u64),
            chance in 0.0..=1.0_f64,
        ) {
            let (asked, before) = (asked.map(Duration::from_millis), before.map(Duration::from_millis));
            let wait = after(class, asked, before, chance);
            let longest = rule(class).longest;
            prop_assert!(wait <= longest.mul_f64(1.0 + JITTER));
            prop_assert!(asked.is_none_or(|asked| wait >= asked.min(longest)));
        }
    }
}
