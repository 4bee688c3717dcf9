//! Request limits of the provider, by key: fixed windows that start with the first request in them, or buckets that fill evenly.
//!
//! Gives the figures that OpenAI puts in `x-ratelimit-*` and `retry-after*` headers; resets are durations such as
//! `12ms`, `1.5s` or `2m30s`.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::script::RateLimit;

/// The most keys whose windows are held; when more come, all windows start anew.
const MAX_KEYS: usize = 65_536;

/// The state of a key's limit after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Whether the request fits.
    pub admitted: bool,
    /// Requests of a whole window.
    pub limit: u64,
    /// Requests left.
    pub remaining: u64,
    /// Milliseconds until all are there again, at least 1.
    pub reset_ms: u64,
    /// Milliseconds until one is there again, at least 1.
    pub retry_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Limiter {
    windows: Mutex<HashMap<String, Used>>,
}

/// What a key has used.
#[derive(Clone, Copy, Debug)]
struct Used {
    since: Instant,
    /// Requests of this window.
    requests: u64,
    /// What is missing in the bucket, in milliseconds of its filling.
    missing: f64,
}

impl Limiter {
    /// Counts one request of this key at this moment.
    pub(crate) fn take(&self, credential: &str, limit: RateLimit, now: Instant) -> Window {
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_KEYS && !windows.contains_key(credential) {
            windows.clear();
        }
        let used = windows.entry(credential.to_owned()).or_insert(Used { since: now, requests: 0, missing: 0.0 });
        if limit.even { used.take_from_bucket(limit, now) } else { used.take_from_window(limit, now) }
    }
}

impl Used {
    fn take_from_window(&mut self, limit: RateLimit, now: Instant) -> Window {
        let length = Duration::from_millis(limit.window_ms.max(1));
        if now.saturating_duration_since(self.since) >= length {
            (self.since, self.requests) = (now, 0);
        }
        let admitted = self.requests < limit.requests;
        self.requests += u64::from(admitted);
        let left = length.saturating_sub(now.saturating_duration_since(self.since));
        let reset_ms = u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        let remaining = limit.requests.saturating_sub(self.requests);
        Window { admitted, limit: limit.requests, remaining, reset_ms, retry_ms: reset_ms }
    }

    fn take_from_bucket(&mut self, limit: RateLimit, now: Instant) -> Window {
        let window = limit.window_ms.max(1) as f64;
        let one = window / limit.requests.max(1) as f64;
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64() * 1000.0;
        self.missing = (self.missing - elapsed).max(0.0);
        self.since = now;
        // Sums of thirds are not exact.
        let lacks = (self.missing + one - window).max(0.0);
        let admitted = limit.requests > 0 && lacks < 1e-6;
        if admitted {
            self.missing += one;
        }
        let whole = |ms: f64| (ms.ceil() as u64).max(1);
        let remaining = ((window - self.missing) / one + 1e-6).max(0.0) as u64;
        Window { admitted, limit: limit.requests, remaining, reset_ms: whole(self.missing), retry_ms: whole(lacks) }
    }
}

/// A duration in the form of OpenAI's reset headers.
pub(crate) fn duration_text(ms: u64) -> String {
    let seconds = |ms: u64| match ms % 1000 {
        0 => format!("{}s", ms / 1000),
        rest => format!("{}.{}s", ms / 1000, format!("{rest:03}").trim_end_matches('0')),
    };
    match ms {
        0 => String::from("0s"),
        1..1000 => format!("{ms}ms"),
        1000..60_000 => seconds(ms),
        _ => format!("{}m{}", ms / 60_000, seconds(ms % 60_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_evenly_and_says_when_one_fits_again() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let at = |ms: u64| limiter.take("k", RateLimit::bucket(4, 100), start + Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(0)].map(|window| window.remaining), [3, 2, 1]);
        let last = Window { admitted: true, limit: 4, remaining: 0, reset_ms: 100, retry_ms: 1 };
        assert_eq!(at(0), last);
        assert_eq!(at(10), Window { admitted: false, reset_ms: 90, retry_ms: 15, ..last });
        assert_eq!((at(25).admitted, at(49).admitted, at(50).admitted), (true, false, true));
        assert_eq!((0..10).filter(|_| at(1_000).admitted).count(), 4);
    }

    #[test]
    fn a_window_admits_its_requests_and_starts_anew_when_it_ends() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let limit = RateLimit { requests: 2, window_ms: 100, even: false };
        let at = |ms: u64| limiter.take("k", limit, start + Duration::from_millis(ms));
        assert_eq!((at(0).admitted, at(10).remaining), (true, 0));
        assert_eq!(at(40), Window { admitted: false, limit: 2, remaining: 0, reset_ms: 60, retry_ms: 60 });
        assert!(limiter.take("other", limit, start).admitted);
        assert_eq!(at(100), Window { admitted: true, limit: 2, remaining: 1, reset_ms: 100, retry_ms: 100 });
    }

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        let texts = [0, 12, 1500, 60_000, 150_000].map(duration_text);
        assert_eq!(texts, ["0s", "12ms", "1.5s", "1m0s", "2m30s"]);
    }
}
