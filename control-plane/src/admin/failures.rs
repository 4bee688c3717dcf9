//! How many failed sign-ins one address may make: after [`PER_MINUTE`] within a minute it is told to wait for a minute, and its calls are no longer
//! recorded one by one.
//!
//! Only calls without a working token are counted and refused here: a right token passes from every address. So nobody locks an operator out by guessing, not
//! even from the operator's own address. The table is bounded; addresses that do not fit share one place.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use keyforge_shared::clock::Timestamp;
use keyforge_shared::network;

/// Failed calls of one address in a minute that are answered as what they are.
const PER_MINUTE: u32 = 10;
/// Addresses that have a place of their own.
const PLACES: usize = 4_096;
const MINUTE_NANOS: i64 = 60_000_000_000;

/// Counts failed sign-ins by address.
#[derive(Default)]
pub(super) struct Failures {
    places: Mutex<HashMap<Option<IpAddr>, Tally>>,
    refused: AtomicU64,
    limited: AtomicU64,
}

#[derive(Clone, Copy)]
struct Tally {
    since: Timestamp,
    failures: u32,
}

impl Failures {
    /// Takes note of a failure of `peer`, an address with its port. False when there were too many of that address.
    pub(super) fn admit(&self, peer: &str, now: Timestamp) -> bool {
        let admitted = self.count(place(peer), now);
        let counter = if admitted { &self.refused } else { &self.limited };
        counter.fetch_add(1, Ordering::Relaxed);
        admitted
    }

    /// What was noted as a failure of `peer` was none.
    pub(super) fn take_back(&self, peer: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let address = place(peer);
        let address = if places.contains_key(&address) { address } else { None };
        if let Some(tally) = places.get_mut(&address) {
            tally.failures = tally.failures.saturating_sub(1);
        }
        self.refused.fetch_sub(1, Ordering::Relaxed);
    }

    fn count(&self, address: Option<IpAddr>, now: Timestamp) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= PLACES && !places.contains_key(&address) {
            places.retain(|_, tally| !tally.is_over(now));
        }
        let address = if places.len() >= PLACES && !places.contains_key(&address) { None } else { address };
        let tally = places.entry(address).or_insert(Tally { since: now, failures: 0 });
        if tally.is_over(now) {
            *tally = Tally { since: now, failures: 0 };
        }
        if tally.failures == PER_MINUTE {
            // The minute of waiting begins with the first failure too many.
            tally.since = now;
        }
        tally.failures = tally.failures.saturating_add(1);
        tally.failures <= PER_MINUTE
    }

    /// Failed calls so far: those that were answered as what they are, and those that were too many.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.refused.load(Ordering::Relaxed), self.limited.load(Ordering::Relaxed))
    }
}

impl Tally {
    const fn is_over(&self, now: Timestamp) -> bool {
        let passed = now.nanos().saturating_sub(self.since.nanos());
        // A clock that was set back must keep nobody waiting.
        passed >= MINUTE_NANOS || passed < 0
    }
}

/// The place of an address with its port.
fn place(peer: &str) -> Option<IpAddr> {
    Some(network::place(peer.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn the_eleventh_failure_in_a_minute_waits_for_a_minute_and_others_do_not() {
        let failures = Failures::default();
        for port in 0..10 {
            assert!(failures.admit(&format!("192.0.2.1:{port}"), at(100)));
        }
        assert!(!failures.admit("192.0.2.1:99", at(130)));
        assert!(!failures.admit("192.0.2.1:99", at(189)), "asking again does not prolong it");
        assert!(failures.admit("192.0.2.2:99", at(130)));
        assert!(failures.admit("192.0.2.1:99", at(190)));
        assert_eq!(failures.totals(), (12, 2));
    }

    #[test]
    fn what_is_taken_back_was_no_failure() {
        let failures = Failures::default();
        for port in 0..100 {
            assert!(failures.admit(&format!("192.0.2.1:{port}"), at(100)));
            failures.take_back("192.0.2.1:99");
        }
        assert_eq!(failures.totals(), (0, 0));
    }

    #[test]
    fn failures_that_are_a_minute_apart_never_add_up() {
        let failures = Failures::default();
        assert!((0..100).all(|minute| failures.admit("192.0.2.1:1", at(minute * 60))));
    }

    #[test]
    fn a_network_of_ipv6_and_a_mapped_address_count_as_one() {
        assert_eq!(place("[2001:db8:0:1::1]:5"), place("[2001:db8:0:1:ffff::2]:6"));
        assert_ne!(place("[2001:db8:0:1::1]:5"), place("[2001:db8:0:2::1]:5"));
        assert_eq!(place("[::ffff:192.0.2.1]:5"), place("192.0.2.1:7"));
        assert_eq!(place("unknown"), None);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_is_over_first() {
        let failures = Failures::default();
        let address = |number: u32| format!("{}:1", std::net::Ipv4Addr::from_bits(number));
        for number in 0..10_000 {
            failures.admit(&address(number), at(0));
        }
        let size = || failures.places.lock().unwrap().len();
        assert_eq!(size(), PLACES + 1, "and the place that the others share");
        assert!(!failures.admit(&address(20_000), at(1)), "which is full");
        assert!(failures.admit(&address(20_000), at(90)));
        assert_eq!(size(), 1, "the others are over");
    }
}
