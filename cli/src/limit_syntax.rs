//! Limits and moments as people write them on a command line: `20000/month`, `$0.01/day`, `2026-12-04`, `12h`.
//!
//! A text is read exactly or refused with an example of what is right; nothing is rounded or guessed. Dates on which something ends are in UTC.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, CivilDay, Window};
use keyforge_shared::policy::{RequestLimit, SpendLimit};

const MINUTE_MS: i64 = 60_000;
/// The last whole second that a [`Timestamp`] holds: 2262-04-11T23:47:15Z.
const LATEST_MS: i64 = (Timestamp::MAX.seconds() - 1) * 1_000;
const DATE_LEN: usize = "2026-12-04".len();

/// When something ends: at a moment, or so long from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// At this moment, in Unix milliseconds.
    At(i64),
    /// So many milliseconds from now.
    In(i64),
}

impl Expiry {
    /// The moment, in Unix milliseconds.
    ///
    /// # Errors
    /// A message that names `option` when it lies in the past, or later than any moment that can be kept.
    pub fn millis(self, now: Timestamp, option: &str) -> Result<i64, String> {
        let millis = match self {
            Self::At(millis) => millis,
            Self::In(millis) => now.millis().saturating_add(millis),
        };
        if millis > LATEST_MS {
            let latest = Timestamp::from_millis(LATEST_MS).rfc3339();
            return Err(format!("{option}: at most {latest}"));
        }
        let at = Timestamp::from_millis(millis);
        if at > now { Ok(millis) } else { Err(format!("{option}: {} lies in the past", at.rfc3339())) }
    }
}

/// Reads a request quota: `20000/month`; a bare number is per month.
///
/// # Errors
/// A message with an example.
pub fn requests(text: &str) -> Result<RequestLimit, String> {
    let (amount, window) = split(text, "20000/month")?;
    let digits = !amount.is_empty() && amount.bytes().all(|byte| byte.is_ascii_digit());
    let requests = amount.parse().ok().filter(|_| digits);
    let requests = requests.ok_or("not a number of requests per period such as 20000/month or 500/day")?;
    Ok(RequestLimit { requests, window })
}

/// Reads a spend cap in dollars: `50/month`, `$0.01/day`; a bare number is per month.
///
/// # Errors
/// A message with an example.
pub fn spend(text: &str) -> Result<SpendLimit, String> {
    let (amount, window) = split(text, "50/month")?;
    let amount: NanoUsd = amount
        .parse()
        .map_err(|_| "not an amount in dollars per period such as 50/month or $0.01/day (at most nine decimals)")?;
    if amount > NanoUsd::MAX_LIMIT {
        return Err(format!("more than the largest spend limit, {} per period", NanoUsd::MAX_LIMIT));
    }
    Ok(SpendLimit { amount, window })
}

fn split<'a>(text: &'a str, example: &str) -> Result<(&'a str, Window), String> {
    let Some((amount, period)) = text.split_once('/') else { return Ok((text, Window::Month)) };
    let window = period.parse().map_err(|_| {
        format!("after the / goes a period: day, week (from Monday), month or total (the key's whole life), such as {example}")
    })?;
    Ok((amount, window))
}

/// Reads when a key ends: a date (its first moment, UTC), an RFC 3339 moment, or a time from now such as `12h` or `30d`.
///
/// # Errors
/// A message with examples.
pub fn expiry(text: &str) -> Result<Expiry, String> {
    if let Some(date) = date(text) {
        // The last days of the year 9999 are no moments; nor could any of that year be kept.
        return Ok(Expiry::At(
            date.to_zoned(TimeZone::UTC).map_or(i64::MAX, |zoned| zoned.timestamp().as_millisecond()),
        ));
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(Expiry::At(moment.as_millisecond()));
    }
    from_now(text).map(Expiry::In).ok_or_else(|| {
        "not a date such as 2026-12-04 (UTC), a moment such as 2026-12-04T18:00:00Z, \
         or a time from now such as 90m, 12h, 30d or 8w"
            .to_owned()
    })
}

/// Reads a time such as `30s`, `90m`, `24h` or `7d`.
///
/// # Errors
/// A message with examples.
pub fn span(text: &str) -> Result<Duration, String> {
    let millis = from_now(text).and_then(|millis| u64::try_from(millis).ok());
    millis.map(Duration::from_millis).ok_or_else(|| "not a time such as 30s, 90m, 24h, 7d or 2w".to_owned())
}

fn from_now(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let millis: i64 = match unit {
        's' => 1_000,
        'm' => MINUTE_MS,
        'h' => 60 * MINUTE_MS,
        'd' => 24 * 60 * MINUTE_MS,
        'w' => 7 * 24 * 60 * MINUTE_MS,
        _ => return None,
    };
    let number = text.strip_suffix(unit)?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return None;
    }
    let number: i64 = number.parse().unwrap_or(i64::MAX);
    if number == 0 {
        return None;
    }
    // What does not fit is too late, which is said later and better.
    Some(number.saturating_mul(millis))
}

/// Reads a day of the calendar, `YYYY-MM-DD` from 1970 on, and gives it back as it was written.
///
/// # Errors
/// A message with an example.
pub fn day(text: &str) -> Result<String, String> {
    text.parse().map(|day: CivilDay| day.to_string()).map_err(|_| "not a day such as 2026-12-04".to_owned())
}

fn date(text: &str) -> Option<Date> {
    (text.len() == DATE_LEN).then(|| text.parse().ok()).flatten()
}

/// The day that a moment lies in, in UTC, as `YYYY-MM-DD`.
#[must_use]
pub fn day_of(moment: Timestamp) -> String {
    Calendar::utc().day_at(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn quotas_have_a_period_and_a_bare_number_is_per_month() {
        let cases = [
            ("20000/month", 20_000, Window::Month),
            ("500", 500, Window::Month),
            ("3/day", 3, Window::Day),
            ("0/week", 0, Window::Week),
            ("100/total", 100, Window::Total),
        ];
        for (text, requests, window) in cases {
            assert_eq!(super::requests(text), Ok(RequestLimit { requests, window }), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quota_is_refused_with_an_example() {
        for wrong in [
            "",
            "/month",
            "20k/month",
            "-1/day",
            "+1/day",
            "1.5/day",
            "1 /day",
            "1/",
            "1/year",
            "1/Day",
            "1/day/day",
            "99999999999999999999",
        ] {
            let error = requests(wrong).unwrap_err();
            assert!(error.contains("20000/month"), "{wrong}: {error}");
        }
    }

    #[test]
    fn spend_caps_are_exact_dollars() {
        let cases = [
            ("50/month", 50_000_000_000, Window::Month),
            ("50", 50_000_000_000, Window::Month),
            ("$0.01/day", 10_000_000, Window::Day),
            ("0.000000001/total", 1, Window::Total),
        ];
        for (text, nanos, window) in cases {
            assert_eq!(spend(text), Ok(SpendLimit { amount: NanoUsd::new(nanos), window }), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_spend_cap_is_refused_with_an_example() {
        for wrong in
            ["", "$", "/day", "five/day", "-5/day", "1,50/day", "1e3", "5 USD/day", "5/hour", "0.0000000001/day"]
        {
            let error = spend(wrong).unwrap_err();
            assert!(error.contains("50/month"), "{wrong}: {error}");
        }
        assert!(spend("9000000").is_ok());
        assert!(spend("9000000.01").unwrap_err().contains("largest spend limit"));
    }

    #[test]
    fn keys_end_at_the_first_moment_of_a_date_at_a_moment_or_after_a_time() {
        let now = moment("2026-11-22T06:00:00Z");
        let cases = [
            ("2026-12-04", "2026-12-04T00:00:00Z"),
            ("2026-12-04T18:30:00Z", "2026-12-04T18:30:00Z"),
            ("2026-12-04T18:30:00+02:00", "2026-12-04T16:30:00Z"),
            ("90m", "2026-11-22T07:30:00Z"),
            ("12h", "2026-11-22T18:00:00Z"),
            ("30d", "2026-12-22T06:00:00Z"),
            ("8w", "2027-01-17T06:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(expiry(text).unwrap().millis(now, "--expires"), Ok(moment(expected).millis()), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_expiry_is_refused_with_examples() {
        for wrong in [
            "",
            "tomorrow",
            "2026-13-01",
            "2026-02-30",
            "04.12.2026",
            "2026-12-04T18:00",
            "20261204",
            "h",
            "0h",
            "-1h",
            "1y",
            "1.5h",
        ] {
            let error = expiry(wrong).unwrap_err();
            assert!(error.contains("2026-12-04") && error.contains("12h"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_key_cannot_be_made_to_end_in_the_past() {
        let now = moment("2026-11-22T06:00:00Z");
        assert!(expiry("2026-11-22").unwrap().millis(now, "--expires").unwrap_err().contains("--expires"));
        assert!(Expiry::At(now.millis()).millis(now, "--expires").is_err());
    }

    #[test]
    fn an_end_later_than_any_that_can_be_kept_is_refused_with_the_latest_one() {
        let now = moment("2026-11-22T06:00:00Z");
        for wrong in ["2262-04-12", "9999-12-31", "2262-04-11T23:47:16Z", "99999999w", "99999999999999999999d"] {
            let error = expiry(wrong).unwrap().millis(now, "--expires").unwrap_err();
            assert!(error.contains("--expires: at most 2262-04-11T23:47:15Z"), "{wrong}: {error}");
        }
        let latest = "2262-04-11T23:47:15Z";
        assert_eq!(expiry(latest).unwrap().millis(now, "--expires"), Ok(moment(latest).millis()));
    }

    #[test]
    fn times_have_a_number_and_a_unit() {
        assert_eq!(span("24h"), Ok(Duration::from_secs(24 * 3600)));
        assert_eq!(span("2w"), Ok(Duration::from_secs(14 * 24 * 3600)));
        assert_eq!((span("5s"), span("5m")), (Ok(Duration::from_secs(5)), Ok(Duration::from_secs(300))));
        for wrong in ["", "h", "7", "0d", "1.5h", "-1h", "7 d"] {
            assert!(span(wrong).unwrap_err().contains("24h"), "{wrong}");
        }
    }

    #[test]
    fn days_are_real_days_of_the_calendar() {
        assert_eq!(day("2028-02-29").as_deref(), Ok("2028-02-29"));
        for wrong in ["2027-02-29", "2027-2-9", "1969-12-31", "today", "", "2027-02-09T00:00:00Z"] {
            assert!(day(wrong).unwrap_err().contains("2026-12-04"), "{wrong}");
        }
        assert_eq!(day_of(moment("2026-11-22T23:59:59Z")), "2026-11-22");
    }
}
