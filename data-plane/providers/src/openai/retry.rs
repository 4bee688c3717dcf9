//! How long a host of this dialect asks to wait, wherever it says so.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use keyforge_shared::clock::Timestamp;

/// Longer waits are cut to this: the longest period that hosts meter by.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// The wait asked for, by the first of: `retry-after-ms`, `retry-after` (seconds or a date), "try again in …" in the
/// message, `x-ratelimit-reset-*`, `x-ratelimit-reset` (a moment). Zero counts as nothing said: some hosts send it with every refusal.
pub(super) fn after(headers: &HeaderMap, message: &str, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let from_millis = || text("retry-after-ms").and_then(|millis| seconds(millis.parse::<f64>().ok()? / 1000.0));
    let from_header = || text("retry-after").and_then(|value| delay(value, now));
    from_millis()
        .or_else(from_header)
        .or_else(|| in_message(message))
        .or_else(|| reset(headers))
        .or_else(|| reset_at(headers, now))
}

fn delay(value: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(count) = value.parse::<f64>() {
        return seconds(count);
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let now = Duration::from_nanos(u64::try_from(now.nanos()).ok()?);
    date.checked_sub(now).filter(|wait| !wait.is_zero()).map(|wait| wait.min(LONGEST))
}

/// "Please try again in 1m2.5s."
fn in_message(message: &str) -> Option<Duration> {
    let (_, after) = message.split_once("try again in ")?;
    let word = after.split_whitespace().next()?;
    duration(word.trim_end_matches(['.', ',']))
}

/// The time until the limits are whole again: of those that are used up, or else of all, the longest.
fn reset(headers: &HeaderMap) -> Option<Duration> {
    let mut resets = Vec::new();
    for (name, value) in headers {
        let Some(dimension) = name.as_str().strip_prefix("x-ratelimit-reset-") else { continue };
        let Some(wait) = value.to_str().ok().and_then(|text| duration(text.trim())) else { continue };
        let remaining = headers.get(format!("x-ratelimit-remaining-{dimension}"));
        resets.push((remaining.is_some_and(|count| count == "0"), wait));
    }
    resets.into_iter().max().map(|(_, wait)| wait)
}

/// The moment at which the one limit that is told without a name is whole again, in milliseconds or seconds of Unix time, as OpenRouter does for those of
/// a minute and of a day.
fn reset_at(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    const MILLIS_FROM: i64 = 1_000_000_000_000;
    const SECONDS_FROM: i64 = 1_000_000_000;
    let at: i64 = headers.get("x-ratelimit-reset")?.to_str().ok()?.trim().parse().ok()?;
    let millis = match at {
        MILLIS_FROM.. => at,
        SECONDS_FROM.. => at.checked_mul(1_000)?,
        _ => return None,
    };
    Some(Timestamp::from_millis(millis).since(now)).filter(|wait| !wait.is_zero()).map(|wait| wait.min(LONGEST))
}

/// "12ms", "1.5s", "2m30s", "1h", or a bare number of seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if let Ok(count) = text.parse::<f64>() {
        return seconds(count);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += count.parse::<f64>().ok()? * scale;
        rest = after;
    }
    seconds(total)
}

fn seconds(count: f64) -> Option<Duration> {
    // Neither a negative count nor NaN is greater than zero.
    let wait = (count > 0.0).then(|| Duration::try_from_secs_f64(count).unwrap_or(LONGEST))?;
    (!wait.is_zero()).then_some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(headers: &[(&'static str, &'static str)], message: &str) -> Option<f64> {
        let headers = headers.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        // 2026-11-22T06:00:00Z
        after(&headers, message, Timestamp::from_millis(1_795_327_200_000)).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn the_most_exact_statement_wins() {
        assert_eq!(wait(&[("retry-after-ms", "1500"), ("retry-after", "2")], ""), Some(1.5));
        assert_eq!(wait(&[("retry-after-ms", "0"), ("retry-after", "2")], ""), Some(2.0));
        assert_eq!(wait(&[("retry-after", "0.25")], "try again in 9s"), Some(0.25));
        assert_eq!(wait(&[("x-ratelimit-reset-tokens", "5s")], "Please try again in 1m2.5s. Visit"), Some(62.5));
        assert_eq!(wait(&[], "try again in 20ms."), Some(0.02));
    }

    #[test]
    fn a_date_is_measured_from_now() {
        assert_eq!(wait(&[("retry-after", "Sun, 22 Nov 2026 06:00:30 GMT")], ""), Some(30.0));
        assert_eq!(wait(&[("retry-after", "Sun, 22 Nov 2026 05:00:30 GMT")], ""), None);
    }

    #[test]
    fn resets_of_used_up_limits_come_first() {
        let headers = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1.2s"),
            ("x-ratelimit-remaining-tokens", "10"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        assert_eq!(wait(&headers, ""), Some(1.2));
        assert_eq!(wait(&headers[3..], ""), Some(360.0));
        assert_eq!(wait(&[("x-ratelimit-reset-tokens", "7")], ""), Some(7.0));
    }

    #[test]
    fn a_limit_without_a_name_is_whole_again_at_a_moment() {
        assert_eq!(wait(&[("x-ratelimit-reset", "1795330800000")], ""), Some(3_600.0));
        assert_eq!(wait(&[("x-ratelimit-reset", "1795330800")], ""), Some(3_600.0));
        for nothing in ["1795320000000", "60", "0", "-1", "99999999999999999999", "soon"] {
            assert_eq!(wait(&[("x-ratelimit-reset", nothing)], ""), None, "{nothing}");
        }
        assert_eq!(wait(&[("retry-after", "5"), ("x-ratelimit-reset", "1795330800000")], ""), Some(5.0));
    }

    #[test]
    fn nonsense_says_nothing() {
        for nonsense in ["", "-1", "NaN", "soon", "0", "s", "1x", "1.2.3s", "ms12"] {
            assert_eq!(
                wait(&[("retry-after", nonsense), ("x-ratelimit-reset-tokens", nonsense)], ""),
                None,
                "{nonsense}"
            );
        }
        assert_eq!(wait(&[("retry-after", "inf")], ""), Some(LONGEST.as_secs_f64()));
        assert_eq!(wait(&[("retry-after", "1e300")], ""), Some(LONGEST.as_secs_f64()));
        assert_eq!(wait(&[], "try again in "), None);
    }
}
