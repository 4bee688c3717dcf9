//! Time as an input: wall-clock timestamps and the clock that gives them.
//!
//! No other file reads the operating system's clock, so every rule that depends on time can be tested at any moment in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment: nanoseconds since 1970-01-01T00:00:00Z, good until the year 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest moment there is; stands for "never" in windows without an end.
    pub const MAX: Self = Self(i64::MAX);

    /// From nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the Unix epoch; moments beyond the range become its ends.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// This moment and `duration` more, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC with seconds, such as `2026-11-22T06:00:00Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_second(self.seconds()).map_or_else(|_| self.0.to_string(), |t| t.to_string())
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. May step when the machine's time is set.
    fn now(&self) -> Timestamp;
    /// Nanoseconds on a clock that never steps, from an arbitrary start.
    fn monotonic_nanos(&self) -> u64;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one home of the wall clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the one home of the monotonic clock")]
    fn monotonic_nanos(&self) -> u64 {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The wall clock as it was at the beginning, and from there on the monotonic one: how long ago one of its moments was is right also when the machine's
/// time was set in between.
pub struct SteadyClock {
    clock: Arc<dyn Clock>,
    began: Timestamp,
    began_nanos: u64,
}

impl SteadyClock {
    /// One that begins now.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (began, began_nanos) = (clock.now(), clock.monotonic_nanos());
        Self { clock, began, began_nanos }
    }

    /// What the wall clock shows at the `moment` of this one, if it is not set again.
    #[must_use]
    pub fn as_wall(&self, moment: Timestamp) -> Timestamp {
        let ahead = self.clock.now().0.saturating_sub(self.now().0);
        Timestamp(moment.0.saturating_add(ahead))
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let passed = self.clock.monotonic_nanos().saturating_sub(self.began_nanos);
        self.began.saturating_add(Duration::from_nanos(passed))
    }

    fn monotonic_nanos(&self) -> u64 {
        self.clock.monotonic_nanos()
    }
}

/// A clock that stands still until it is moved, for tests.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.nanos()))
    }

    /// Shows `now` from here on, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.nanos(), Ordering::SeqCst);
    }

    /// Moves forward.
    pub fn advance(&self, by: Duration) {
        self.set(Timestamp(self.0.load(Ordering::SeqCst)).saturating_add(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn monotonic_nanos(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::SeqCst)).unwrap_or(0)
    }
}
