//! Periods: explicit half-open windows in time that limits are counted in.
//!
//! A period is named by its first calendar day and is that day's window in the calendar of one key, so a "reset" is a new counter and never a
//! job. Names depend on the calendar date alone; only the instants at which a period begins and ends depend on a time zone.

use std::fmt;
use std::str::FromStr;

use jiff::ToSpan;
use jiff::civil::{Date, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
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

/// A calendar date, as the number of days since 1970-01-01. Dates before that are day 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CivilDay(u32);

const EPOCH: Date = Date::constant(1970, 1, 1);
/// The day of 9999-12-31, the last that a calendar can name.
const LAST_DAY: u32 = 2_932_896;

impl CivilDay {
    /// From its number; numbers beyond the year 9999 are its last day.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(if number < LAST_DAY { number } else { LAST_DAY })
    }

    /// Days since 1970-01-01.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    fn of(date: Date) -> Self {
        let days = date.duration_since(EPOCH).as_hours() / 24;
        Self::from_number(u32::try_from(days).unwrap_or(0))
    }

    fn date(self) -> Date {
        // Within the calendar's range by construction.
        EPOCH.checked_add(i64::from(self.0).days()).unwrap_or(Date::MAX)
    }
}

impl fmt::Display for CivilDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.date())
    }
}

/// Why a text is not a calendar day.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a day: write YYYY-MM-DD, from 1970-01-01")]
pub struct DayError(String);

impl FromStr for CivilDay {
    type Err = DayError;
    fn from_str(text: &str) -> Result<Self, DayError> {
        let day = text.parse::<Date>().ok().map(Self::of);
        day.filter(|day| day.to_string() == text).ok_or_else(|| DayError(text.chars().take(40).collect()))
    }
}

impl Window {
    /// All windows, shortest first.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Total];

    /// The first day of the period that `day` belongs to, which names it.
    #[must_use]
    pub fn first_day(self, day: CivilDay) -> CivilDay {
        let date = day.date();
        match self {
            Self::Day => day,
            Self::Week => {
                CivilDay(day.0.saturating_sub(u32::from(date.weekday().since(Weekday::Monday).unsigned_abs())))
            }
            Self::Month => CivilDay::of(date.first_of_month()),
            Self::Total => CivilDay(0),
        }
    }

    /// The first day of the period after the one that `day` belongs to; `None` when there is none.
    fn next(self, day: CivilDay) -> Option<Date> {
        let first = self.first_day(day).date();
        match self {
            Self::Day => first.checked_add(1.day()).ok(),
            // The week of 1970-01-01 began in 1969, and is named by the first day that has a number.
            Self::Week if day.0 < 4 => Some(Date::constant(1970, 1, 5)),
            Self::Week => first.checked_add(1.week()).ok(),
            Self::Month => first.checked_add(1.month()).ok(),
            Self::Total => None,
        }
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

/// The name of a time zone of the IANA database, such as `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneName(String);

/// Why a text is not the name of a time zone.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a time zone: use a name of the IANA database such as Europe/Berlin")]
pub struct ZoneError(String);

impl ZoneName {
    /// The zone of that name, in the database's own spelling.
    ///
    /// # Errors
    /// [`ZoneError`] when the built-in database has none.
    pub fn new(name: &str) -> Result<Self, ZoneError> {
        let zone = TimeZoneDatabase::bundled().get(name).ok();
        let spelling = zone.as_ref().and_then(TimeZone::iana_name).map(|name| Self(name.to_owned()));
        spelling.ok_or_else(|| ZoneError(name.chars().take(40).collect()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ZoneName {
    type Err = ZoneError;
    fn from_str(text: &str) -> Result<Self, ZoneError> {
        Self::new(text)
    }
}

impl TryFrom<String> for ZoneName {
    type Error = ZoneError;
    fn try_from(text: String) -> Result<Self, ZoneError> {
        Self::new(&text)
    }
}

impl From<ZoneName> for String {
    fn from(zone: ZoneName) -> Self {
        zone.0
    }
}

/// The calendar of a key: when its days begin.
#[derive(Clone, Debug)]
pub struct Calendar(TimeZone);

impl Calendar {
    /// The calendar of UTC.
    #[must_use]
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The calendar of a time zone, of UTC without one. Rules come from the database in this program, so that every process of one release
    /// knows the same.
    #[must_use]
    pub fn of(zone: Option<&ZoneName>) -> Self {
        // A name was looked up when it was made, so the second look-up finds it as well.
        zone.and_then(|zone| TimeZoneDatabase::bundled().get(zone.as_str()).ok()).map_or(Self::utc(), Self)
    }

    /// The date at `moment`.
    #[must_use]
    pub fn day_at(&self, moment: Timestamp) -> CivilDay {
        let moment = jiff::Timestamp::from_second(moment.seconds());
        moment.map_or(CivilDay(0), |moment| CivilDay::of(moment.to_zoned(self.0.clone()).date()))
    }

    /// The period of `window` that `day` belongs to. The first one begins with time itself, so that every moment lies in one.
    #[must_use]
    pub fn period(&self, window: Window, day: CivilDay) -> Period {
        let first = window.first_day(day);
        let start = if first == CivilDay(0) { Some(Timestamp::default()) } else { self.midnight(first.date()) };
        Period {
            start: start.unwrap_or_default(),
            end: window.next(day).and_then(|next| self.midnight(next)).unwrap_or(Timestamp::MAX),
        }
    }

    /// The first moment of a date, also where the clocks are set at midnight.
    fn midnight(&self, date: Date) -> Option<Timestamp> {
        let start = date.to_zoned(self.0.clone()).ok()?;
        Some(Timestamp::from_millis(start.timestamp().as_second().checked_mul(1_000)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn calendar(zone: &str) -> Calendar {
        Calendar::of(Some(&ZoneName::new(zone).unwrap()))
    }

    #[test]
    fn windows_start_and_end_where_a_calendar_says() {
        let calendar = Calendar::utc();
        let day = calendar.day_at(at("2028-02-29T23:59:59.999Z"));
        let cases = [
            (Window::Day, "2028-02-29", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Window::Week, "2028-02-28", "2028-02-28T00:00:00Z", "2028-03-06T00:00:00Z"),
            (Window::Month, "2028-02-01", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ];
        for (window, first, start, end) in cases {
            assert_eq!(window.first_day(day).to_string(), first);
            assert_eq!(calendar.period(window, day), Period { start: at(start), end: at(end) }, "{window}");
        }
        let total = Period { start: Timestamp::default(), end: Timestamp::MAX };
        assert_eq!(calendar.period(Window::Total, day), total);
    }

    #[test]
    fn i_11_days_are_as_long_as_the_clocks_of_their_zone_make_them() {
        let berlin = calendar("Europe/Berlin");
        let spring = "2026-03-29".parse().unwrap();
        let period = berlin.period(Window::Day, spring);
        assert_eq!(period, Period { start: at("2026-03-28T23:00:00Z"), end: at("2026-03-29T22:00:00Z") });
        let autumn = berlin.period(Window::Day, "2026-10-25".parse().unwrap());
        assert_eq!(autumn.end.since(autumn.start).as_secs(), 25 * 3_600);
        // Where the clocks went from 24:00 to 01:00, the day began at 01:00.
        let sao_paulo = calendar("America/Sao_Paulo");
        let day = sao_paulo.period(Window::Day, "2018-11-04".parse().unwrap());
        assert_eq!(day, Period { start: at("2018-11-04T03:00:00Z"), end: at("2018-11-05T02:00:00Z") });
    }

    #[test]
    fn the_first_week_is_short_and_named_by_its_first_day() {
        let utc = Calendar::utc();
        for number in 0..4 {
            let day = CivilDay::from_number(number);
            assert_eq!(Window::Week.first_day(day), CivilDay(0));
            assert_eq!(utc.period(Window::Week, day).end, at("1970-01-05T00:00:00Z"));
        }
        assert_eq!(Window::Week.first_day(CivilDay(4)), CivilDay(4));
    }

    #[test]
    fn days_are_written_and_read() {
        for (number, text) in
            [(0, "1970-01-01"), (20_779, "2026-11-22"), (11_016, "2000-02-29"), (LAST_DAY, "9999-12-31")]
        {
            assert_eq!(CivilDay(number).to_string(), text);
            assert_eq!(text.parse(), Ok(CivilDay(number)));
        }
        for bad in ["", "2026-11-31", "2026-1-2", "1969-12-31", "20261122", "2026-11-22T00:00:00"] {
            assert!(bad.parse::<CivilDay>().is_err(), "{bad}");
        }
        assert_eq!(CivilDay::from_number(u32::MAX), CivilDay(LAST_DAY));
    }

    #[test]
    fn zones_are_named_as_the_database_names_them() {
        assert_eq!(ZoneName::new("europe/berlin").unwrap().as_str(), "Europe/Berlin");
        for bad in ["", "Berlin", "Europe/Atlantis", "UTC+1"] {
            assert_eq!(ZoneName::new(bad), Err(ZoneError(bad.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn i_11_every_moment_is_in_exactly_one_period_and_periods_touch(millis in 0i64..7_000_000_000_000, zone in 0usize..6) {
            let zones = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Tokyo", "Pacific/Apia", "America/Havana"];
            let calendar = calendar(zones[zone]);
            let moment = Timestamp::from_millis(millis);
            let day = calendar.day_at(moment);
            for window in Window::ALL {
                let period = calendar.period(window, day);
                prop_assert!(period.contains(moment), "{window} {period:?}");
                prop_assert_eq!(window.first_day(window.first_day(day)), window.first_day(day));
                if window != Window::Total {
                    let next = calendar.day_at(period.end);
                    prop_assert!(window.first_day(next) > window.first_day(day));
                    prop_assert_eq!(calendar.period(window, next).start, period.end);
                }
            }
        }
    }
}
