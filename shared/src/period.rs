//! Periods: explicit half-open windows in time that limits are counted in.
//!
//! One pure function computes them, in UTC. A period's start is part of every counter's name, so a "reset" is a new counter, never a job.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How long a limit's period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first of a month to the first of the next.
    Month,
    /// The key's whole life: one period that never ends.
    Total,
}

/// A half-open stretch of time: it contains `start` and not `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period {
    /// First moment inside.
    pub start: Timestamp,
    /// First moment after; [`Timestamp::MAX`] when the period never ends.
    pub end: Timestamp,
}

impl Period {
    /// Whether `moment` lies inside.
    #[must_use]
    pub fn contains(&self, moment: Timestamp) -> bool {
        self.start <= moment && moment < self.end
    }
}

impl Window {
    /// All windows, shortest first.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Total];

    /// The period that `moment` lies in, in UTC. Moments outside of what the calendar can express fall into an endless period.
    #[must_use]
    pub fn period_at(self, moment: Timestamp) -> Period {
        self.bounds(moment).unwrap_or(Period { start: Timestamp::default(), end: Timestamp::MAX })
    }

    fn bounds(self, moment: Timestamp) -> Option<Period> {
        let date = utc(moment)?.date();
        let (first, next) = match self {
            Self::Day => (date, date.checked_add(1.day()).ok()?),
            Self::Week => {
                let monday = date.checked_sub(i64::from(date.weekday().since(Weekday::Monday)).days()).ok()?;
                (monday, monday.checked_add(1.week()).ok()?)
            }
            Self::Month => (date.first_of_month(), date.first_of_month().checked_add(1.month()).ok()?),
            Self::Total => return None,
        };
        Some(Period { start: midnight(first)?, end: midnight(next)? })
    }

    /// The word used in policies, on the command line and in error bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

fn utc(moment: Timestamp) -> Option<Zoned> {
    Some(jiff::Timestamp::from_second(moment.seconds()).ok()?.to_zoned(TimeZone::UTC))
}

fn midnight(date: Date) -> Option<Timestamp> {
    let seconds = date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    Some(Timestamp::from_millis(seconds.checked_mul(1_000)?))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a window.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a period: use day, week, month or total")]
pub struct WindowError(String);

impl FromStr for Window {
    type Err = WindowError;
    fn from_str(text: &str) -> Result<Self, WindowError> {
        Self::ALL
            .into_iter()
            .find(|window| window.as_str() == text)
            .ok_or_else(|| WindowError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn windows_start_and_end_where_a_calendar_says() {
        let moment = at("2028-02-29T23:59:59.999Z");
        let cases = [
            (Window::Day, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Window::Week, "2028-02-28T00:00:00Z", "2028-03-06T00:00:00Z"),
            (Window::Month, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ];
        for (window, start, end) in cases {
            assert_eq!(window.period_at(moment), Period { start: at(start), end: at(end) }, "{window}");
        }
        assert_eq!(Window::Total.period_at(moment), Window::Total.period_at(at("1999-01-01T00:00:00Z")));
    }

    proptest! {
        #[test]
        fn every_moment_is_in_exactly_one_period_and_periods_touch(millis in 0i64..7_000_000_000_000) {
            let moment = Timestamp::from_millis(millis);
            for window in Window::ALL {
                let period = window.period_at(moment);
                prop_assert!(period.contains(moment));
                if window != Window::Total {
                    prop_assert_eq!(window.period_at(period.end).start, period.end);
                    prop_assert_eq!(window.period_at(period.start), period);
                }
            }
        }
    }
}
