//! How old the node's knowledge of its keys can be, and whether a key may still be served with it.
//!
//! The node knows its state to be as new as the moment at which it *sent* a beat that the control plane has answered: an answer never overtakes an
//! order that was given before. So no clocks of two machines are compared, and a message that lay in a buffer while a process was stopped makes nothing
//! look newer than it is. Both of the node's clocks are asked and the greater age counts: one stands still while a machine sleeps, the other is set.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::policy::{DEFAULT_STALENESS_SECONDS, Policy};
use tokio::sync::watch;

const NEVER: u64 = u64::MAX;

/// A moment by both clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic_nanos: u64,
    wall: Timestamp,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        Self { monotonic_nanos: clock.monotonic_nanos(), wall: clock.now() }
    }
}

/// How old the node's knowledge can be.
pub struct Freshness {
    monotonic_nanos: AtomicU64,
    wall_nanos: AtomicI64,
    bound_millis: AtomicU64,
    known: watch::Sender<bool>,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            monotonic_nanos: AtomicU64::new(NEVER),
            wall_nanos: AtomicI64::new(0),
            bound_millis: AtomicU64::new(u64::from(DEFAULT_STALENESS_SECONDS) * 1_000),
            known: watch::Sender::new(false),
        }
    }
}

impl Freshness {
    /// The node knew at `moment` all that the control plane had decided.
    pub fn confirm(&self, moment: Moment) {
        let later = |known: u64| (known == NEVER || known < moment.monotonic_nanos).then_some(moment.monotonic_nanos);
        if self.monotonic_nanos.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).is_ok() {
            self.wall_nanos.store(moment.wall.nanos(), Ordering::Release);
            self.known.send_if_modified(|known| !std::mem::replace(known, true));
        }
    }

    /// Whether any moment was ever confirmed.
    pub fn known(&self) -> watch::Receiver<bool> {
        self.known.subscribe()
    }

    /// How long a key may be served without the control plane, unless its policy says otherwise.
    pub fn set_bound(&self, bound: Duration) {
        self.bound_millis.store(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// How old the node's knowledge can be; the longest there is before it knows anything.
    #[must_use]
    pub fn age(&self, clock: &dyn Clock) -> Duration {
        let known = self.monotonic_nanos.load(Ordering::Acquire);
        if known == NEVER {
            return Duration::MAX;
        }
        let passed = Duration::from_nanos(clock.monotonic_nanos().saturating_sub(known));
        let by_the_wall = clock.now().since(Timestamp::from_nanos(self.wall_nanos.load(Ordering::Acquire)));
        passed.max(by_the_wall)
    }

    /// Whether a key with this policy may be served.
    #[must_use]
    pub fn covers(&self, policy: &Policy, clock: &dyn Clock) -> bool {
        let own = policy.max_staleness_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let bound = own.unwrap_or_else(|| Duration::from_millis(self.bound_millis.load(Ordering::Acquire)));
        self.age(clock) <= bound
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::ManualClock;

    use super::*;

    #[test]
    fn i_13_a_key_is_served_until_its_bound_after_the_last_confirmed_moment_and_no_longer() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
        let freshness = Freshness::default();
        let (plain, patient) = (Policy::default(), Policy { max_staleness_seconds: Some(300), ..Policy::default() });
        assert!(!freshness.covers(&patient, &clock), "nothing is known yet");
        let sent = Moment::now(&clock);
        clock.advance(Duration::from_secs(20));
        // What was sent earlier and answered later confirms the moment at which it was sent.
        freshness.confirm(sent);
        assert_eq!(freshness.age(&clock), Duration::from_secs(20));
        clock.advance(Duration::from_secs(10));
        assert!(freshness.covers(&plain, &clock));
        clock.advance(Duration::from_millis(1));
        assert!(!freshness.covers(&plain, &clock) && freshness.covers(&patient, &clock));
        freshness.confirm(Moment::now(&clock));
        freshness.confirm(sent);
        assert_eq!(freshness.age(&clock), Duration::ZERO, "an answer that comes late takes nothing back");
        freshness.set_bound(Duration::from_secs(1));
        clock.advance(Duration::from_secs(2));
        assert!(!freshness.covers(&plain, &clock) && freshness.covers(&patient, &clock));
    }
}
