//! Request limits of the provider, by key: fixed windows that start with the first request in them.
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

/// The state of a key's window after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Whether the request fits.
    pub admitted: bool,
    /// Requests of a whole window.
    pub limit: u64,
    /// Requests left in this one.
    pub remaining: u64,
    /// Milliseconds until it ends, at least 1.
    pub reset_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Limiter {
    windows: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Limiter {
    /// Counts one request of this key at this moment.
    pub(crate) fn take(&self, credential: &str, limit: RateLimit, now: Instant) -> Window {
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_KEYS && !windows.contains_key(credential) {
            windows.clear();
        }
        let length = Duration::from_millis(limit.window_ms.max(1));
        let (started, used) = windows.entry(credential.to_owned()).or_insert((now, 0));
        if now.saturating_duration_since(*started) >= length {
            (*started, *used) = (now, 0);
        }
        let admitted = *used < limit.requests;
        *used += u64::from(admitted);
        let left = length.saturating_sub(now.saturating_duration_since(*started));
        let reset_ms = u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        Window { admitted, limit: limit.requests, remaining: limit.requests.saturating_sub(*used), reset_ms }
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
    fn a_window_admits_its_requests_and_starts_anew_when_it_ends() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let limit = RateLimit { requests: 2, window_ms: 100 };
        let at = |ms: u64| limiter.take("k", limit, start + Duration::from_millis(ms));
        assert_eq!((at(0).admitted, at(10).remaining), (true, 0));
        assert_eq!(at(40), Window { admitted: false, limit: 2, remaining: 0, reset_ms: 60 });
        assert!(limiter.take("other", limit, start).admitted);
        assert_eq!(at(100), Window { admitted: true, limit: 2, remaining: 1, reset_ms: 100 });
    }

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        let texts = [0, 12, 1500, 60_000, 150_000].map(duration_text);
        assert_eq!(texts, ["0s", "12ms", "1.5s", "1m0s", "2m30s"]);
    }
}
