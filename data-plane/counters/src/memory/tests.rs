//! What the shared suite cannot see of the in-process store: many threads, and what takes up memory.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyforge_shared::clock::{ManualClock, SystemClock};
use keyforge_shared::id::RequestId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::{Calendar, Period, Window};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::grant::Grant;
use crate::reserve::{Need, Rates};

/// A Monday, ten seconds after noon.
const START: Timestamp = Timestamp::from_millis(1_778_500_810_000);
const TTL: Duration = Duration::from_secs(600);

fn store(clock: Arc<dyn Clock>) -> MemoryCounters {
    MemoryCounters::new(clock)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn named(number: u32) -> KeyId {
    KeyId::from_ascii(format!("{number:012}").as_bytes()).unwrap()
}

fn reservation(number: u32) -> ReservationId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    ReservationId { request: RequestId::from_bytes(bytes), attempt: 1 }
}

fn settlement(cost: u64) -> Settlement {
    Settlement { cost: NanoUsd::new(cost), counted: true, tokens: None }
}

fn counter(key: KeyId, dimension: Dimension, window: Window, moment: Timestamp) -> (CounterId, Period) {
    let today = Calendar::utc().day_at(moment);
    let counter = CounterId { key, scope: Scope::Key, dimension, window, first_day: window.first_day(today) };
    (counter, Calendar::utc().period(window, today))
}

fn ask<'a>(key: KeyId, number: u32, needs: &'a [Need], rate: Option<u32>) -> Reserve<'a> {
    Reserve {
        id: reservation(number),
        key,
        epoch: 1,
        needs,
        rates: Rates { requests_per_minute: rate, ..Rates::default() },
        expires_after: TTL,
        not_after: None,
    }
}

/// Joins epoch 1 of a key and grants it one counter, of which each request needs `amount`.
async fn granted(store: &MemoryCounters, counter: (CounterId, Period), granted: u64, amount: u64) -> Need {
    let (counter, period) = counter;
    let need = Need { counter, period, limit: granted, amount };
    let Verdict::NotJoined(life) =
        store.reserve(Reserve { epoch: 0, ..ask(counter.key, 0, &[need], None) }).await.unwrap()
    else {
        panic!("a new key is in no epoch");
    };
    let grants = vec![Grant { counter, period, granted, elsewhere: 0 }];
    store.grant(counter.key, &GrantSet { life, epoch: 1, serial: 1, grants }).await.unwrap();
    need
}

/// Lets 64 threads reserve at once, `rounds` times each, and gives how many were admitted.
fn stampede(store: &MemoryCounters, needs: &[Need], rate: Option<u32>, rounds: u32) -> u64 {
    let (admitted, start) = (AtomicU64::new(0), Barrier::new(64));
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let (admitted, start) = (&admitted, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..rounds {
                    let ask = ask(named(0), thread * rounds + round, needs, rate);
                    if let Verdict::Admitted(_) = runtime().block_on(store.reserve(ask)).unwrap() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    admitted.into_inner()
}

#[test]
fn i_1_64_threads_get_exactly_the_quota_of_20() {
    for _ in 0..10 {
        let store = store(Arc::new(ManualClock::at(START)));
        let name = counter(named(0), Dimension::Requests, Window::Day, START);
        let need = runtime().block_on(granted(&store, name, 20, 1));
        assert_eq!(stampede(&store, &[need], None, 1), 20);
        store.recount(named(0));
    }
}

#[test]
fn i_1_64_threads_spend_exactly_what_fits_under_a_cap() {
    for _ in 0..10 {
        let store = store(Arc::new(ManualClock::at(START)));
        let name = counter(named(0), Dimension::Spend, Window::Day, START);
        let need = runtime().block_on(granted(&store, name, 1_000_000_006, 7_000_000));
        assert_eq!(stampede(&store, &[need], None, 4), 142);
        let books = runtime().block_on(store.books(named(0))).unwrap();
        assert_eq!(books[0].held, 994_000_000);
        store.recount(named(0));
    }
}

#[test]
fn i_10_64_threads_get_exactly_the_rate() {
    let store = store(Arc::new(ManualClock::at(START)));
    assert_eq!(stampede(&store, &[], Some(50), 2), 50);
}

#[tokio::test]
async fn idle_keys_are_forgotten_and_keys_in_use_are_not() {
    let clock = Arc::new(ManualClock::at(START));
    let store = store(Arc::clone(&clock) as Arc<dyn Clock>);
    for number in 0..2_000 {
        let name = named(number);
        let window = if number < 50 { Window::Total } else { Window::Day };
        let need = granted(&store, counter(name, Dimension::Requests, window, START), 1, 1).await;
        assert!(matches!(store.reserve(ask(name, number, &[need], Some(5))).await.unwrap(), Verdict::Admitted(_)));
        if (50..100).contains(&number) {
            store.freeze(name, Freeze { revision: 1, lasting: true }).await.unwrap();
        }
    }
    // A day to charge what nobody settled, one more to forget it, and new keys each day.
    for day in 1..=3 {
        clock.advance(Duration::from_secs(24 * 3_600));
        for number in day * 20_000..(day + 1) * 20_000 {
            store.settle(named(number), 0, reservation(number), Settlement::CANCELLED).await.unwrap();
        }
    }
    for number in 0..2_000 {
        assert_eq!(store.knows(named(number)), number < 100, "{number}");
    }
    for number in 0..50 {
        assert_eq!(store.books(named(number)).await.unwrap()[0].used, 1, "expired, charged, and counted for ever");
    }
    assert_eq!(store.reserve(ask(named(50), u32::MAX, &[], None)).await.unwrap(), Verdict::Frozen);
}

/// A clock on the wall that can be set, and time that really passes.
struct TwoClocks {
    wall: ManualClock,
    passed: AtomicU64,
}

impl TwoClocks {
    fn pass(&self, time: Duration) {
        self.wall.advance(time);
        self.passed.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TwoClocks {
    fn now(&self) -> Timestamp {
        self.wall.now()
    }

    fn monotonic_nanos(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn i_10_a_clock_that_jumps_ahead_makes_no_key_idle() {
    let clock = Arc::new(TwoClocks { wall: ManualClock::at(START), passed: AtomicU64::new(0) });
    let store = store(Arc::clone(&clock) as Arc<dyn Clock>);
    let key = named(0);
    let crowd = |numbers: std::ops::Range<u32>| numbers.for_each(|number| drop(store.open(named(number)).unwrap()));
    clock.pass(Duration::from_secs(3_600));
    assert!(matches!(store.reserve(ask(key, 1, &[], Some(1))).await.unwrap(), Verdict::Admitted(_)));
    store.settle(key, 0, reservation(1), settlement(1)).await.unwrap();
    let before = clock.now();
    clock.wall.advance(Duration::from_secs(3_600));
    crowd(1..20_000);
    assert!(!store.knows(named(1)), "others were looked at");
    clock.wall.set(before);
    let verdict = store.reserve(ask(key, 2, &[], Some(1))).await.unwrap();
    assert!(matches!(verdict, Verdict::RateLimited(_)), "the minute is not over: {verdict:?}");

    clock.pass(Duration::from_secs(59));
    crowd(20_000..60_000);
    assert!(store.knows(key));
    clock.pass(Duration::from_secs(1));
    crowd(60_000..140_000);
    assert!(!store.knows(key), "a minute has really passed");
}

#[tokio::test]
async fn books_that_are_being_decided_about_are_not_dropped() {
    let store = store(Arc::new(ManualClock::at(START)));
    let (deciding, idle) = (named(0), named(1));
    let books = store.open(deciding).unwrap();
    drop(store.open(idle).unwrap());
    for number in 2..20_000 {
        drop(store.open(named(number)).unwrap());
    }
    assert!(!store.knows(idle), "others were looked at");
    assert!(Arc::ptr_eq(&books, &store.open(deciding).unwrap()), "what is decided now would be lost");
}

#[tokio::test]
async fn i_6_a_forgotten_key_begins_another_life() {
    let clock = Arc::new(ManualClock::at(START));
    let lives = AtomicU64::new(0);
    let store = MemoryCounters::with_lives(Arc::clone(&clock) as Arc<dyn Clock>, move || {
        Ok(LifeId::from_bytes(u128::from(lives.fetch_add(1, Ordering::SeqCst)).to_be_bytes()))
    });
    let first = LifeId::from_bytes([0; 16]);
    let need = granted(&store, counter(named(0), Dimension::Requests, Window::Day, START), 1, 1).await;
    clock.advance(Duration::from_secs(48 * 3_600));
    for number in 1..20_000 {
        drop(store.open(named(number)).unwrap());
    }
    assert!(!store.knows(named(0)));
    let Verdict::NotJoined(second) = store.reserve(ask(named(0), 1, &[need], None)).await.unwrap() else { panic!() };
    assert_ne!(second, first);
    let stale = GrantSet { life: first, epoch: 1, serial: 2, grants: Vec::new() };
    let refused = store.grant(named(0), &stale).await;
    assert!(matches!(refused, Err(CounterError::Life { current, .. }) if current == second), "{refused:?}");
}

#[tokio::test]
async fn markers_are_kept_for_60_seconds_and_bounded() {
    let clock = Arc::new(ManualClock::at(START));
    let store = store(Arc::clone(&clock) as Arc<dyn Clock>);
    let key = named(0);
    for number in 0..100_000 {
        store.reserve(ask(key, number, &[], None)).await.unwrap();
        store.settle(key, 0, reservation(number), settlement(1)).await.unwrap();
    }
    let count = || store.known(key, |books, _| books.remembered()).unwrap();
    assert!(count() <= 65_540, "{}", count());
    assert_eq!(store.reserve(ask(key, 99_999, &[], None)).await.unwrap(), Verdict::Duplicate);
    clock.advance(Duration::from_secs(60));
    for number in 200_000..210_000 {
        store.reserve(ask(key, number, &[], None)).await.unwrap();
        store.settle(key, 0, reservation(number), settlement(1)).await.unwrap();
    }
    assert_eq!(count(), 10_000);
}

#[tokio::test]
async fn orphans_are_bounded_and_their_charge_stays_orphaned() {
    let clock = Arc::new(ManualClock::at(START));
    let store = store(Arc::clone(&clock) as Arc<dyn Clock>);
    let key = named(0);
    let need = granted(&store, counter(key, Dimension::Requests, Window::Total, START), u64::MAX, 1).await;
    let needs = [need];
    for number in 0..70_000 {
        // It has expired already, and the next question finds it.
        let ask = Reserve { expires_after: Duration::ZERO, ..ask(key, number, &needs, None) };
        assert!(matches!(store.reserve(ask).await.unwrap(), Verdict::Admitted(_)));
    }
    let count = || store.known(key, |books, _| books.remembered()).unwrap();
    assert!(count() <= 65_540, "{}", count());
    let sums = async || store.books(key).await.map(|books| (books[0].used, books[0].held, books[0].orphaned)).unwrap();
    assert_eq!(sums().await, (69_999, 1, 69_999), "also of those that were forgotten early");
    store.recount(key);

    clock.advance(Duration::from_secs(24 * 3_600));
    for number in 70_000..80_000 {
        store.reserve(ask(key, number, &[], None)).await.unwrap();
        store.settle(key, 0, reservation(number), settlement(1)).await.unwrap();
    }
    assert_eq!(count(), 10_001, "one was charged a moment ago, and all before it are forgotten");
    assert_eq!(sums().await, (70_000, 0, 70_000));
    store.recount(key);
}

/// Not a promise but a look: run with `--release --run-ignored all --no-capture`.
#[test]
#[ignore = "measures, in release builds"]
fn a_reserve_and_settle_pair_takes_less_than_a_microsecond() {
    let store = store(Arc::new(SystemClock));
    let now = SystemClock.now();
    let pairs = 1_000_000_u32;
    let took = runtime().block_on(async {
        let mut needs = Vec::new();
        for (dimension, window) in [(Dimension::Requests, Window::Day), (Dimension::Spend, Window::Month)] {
            let (counter, period) = counter(named(0), dimension, window, now);
            needs.push(Need { counter, period, limit: u64::MAX, amount: 1 });
        }
        let Verdict::NotJoined(life) = store.reserve(ask(named(0), 0, &needs, None)).await.unwrap() else { panic!() };
        let grants = needs
            .iter()
            .map(|need| Grant { counter: need.counter, period: need.period, granted: u64::MAX, elsewhere: 0 })
            .collect();
        store.grant(named(0), &GrantSet { life, epoch: 1, serial: 1, grants }).await.unwrap();
        let start = SystemClock.monotonic_nanos();
        for number in 0..pairs {
            assert!(matches!(store.reserve(ask(named(0), number, &needs, None)).await.unwrap(), Verdict::Admitted(_)));
            store.settle(named(0), 1, reservation(number), settlement(1)).await.unwrap();
        }
        SystemClock.monotonic_nanos() - start
    });
    let each = took / u64::from(pairs);
    println!("{each} ns for a pair");
    assert!(each < 1_000, "{each} ns");
}
