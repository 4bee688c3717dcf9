//! What every counter store does, as a suite that each implementation runs against itself.
//!
//! Each case starts with an empty store on a clock that stands still. Names of cases that prove an invariant begin with its number.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::{Clock, ManualClock, Timestamp};
use keyforge_shared::id::{KeyId, RequestId};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Period, Window};

use super::{
    Admission, Books, ClawBack, CounterError, CounterStore, Grant, Need, ReservationId, Reserve, Settled, Settlement,
    Shortage, Verdict,
};

/// A Monday, ten seconds after noon.
pub(super) const START: Timestamp = Timestamp::from_millis(1_778_500_810_000);
pub(super) const TTL: Duration = Duration::from_secs(600);

const REQUESTS: (Dimension, Window) = (Dimension::Requests, Window::Day);
const SPEND: (Dimension, Window) = (Dimension::Spend, Window::Month);

pub(super) fn key(name: u8) -> KeyId {
    KeyId::from_ascii(&[b'a' + name; 12]).unwrap()
}

pub(super) fn reservation(number: u32) -> ReservationId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    ReservationId { request: RequestId::from_bytes(bytes), attempt: 0 }
}

pub(super) fn counter_at(
    key: KeyId,
    (dimension, window): (Dimension, Window),
    moment: Timestamp,
) -> (CounterId, Period) {
    let period = window.period_at(moment);
    (CounterId { key, dimension, window, period_start: period.start }, period)
}

pub(super) fn settlement(cost: u64) -> Settlement {
    Settlement { cost: NanoUsd::new(cost), counted: true }
}

/// Runs every case against stores that `make` builds on the given clock.
pub async fn suite<S: CounterStore>(make: impl Fn(Arc<ManualClock>) -> S) {
    let bench = || Bench::new(&make);
    i_1_the_grant_is_admitted_and_not_one_more(bench()).await;
    i_1_an_expired_reservation_stays_charged_until_its_truth_arrives(bench()).await;
    i_1_a_lowered_limit_holds_at_once(bench()).await;
    i_2_a_refusal_takes_from_no_counter_and_no_rate(bench()).await;
    i_2_one_counter_named_twice_is_taken_twice_or_not_at_all(bench()).await;
    i_3_a_cost_above_its_bound_is_booked_and_reported(bench()).await;
    i_5_a_reservation_asked_again_takes_once(bench()).await;
    i_5_what_is_over_is_never_admitted_again(bench()).await;
    i_5_a_settlement_counts_once(bench()).await;
    i_5_an_unknown_settlement_keeps_its_reservation_out(bench()).await;
    i_6_a_counter_without_books_is_refused(bench()).await;
    i_9_cancelling_and_settling_leave_no_hold(bench()).await;
    i_10_the_rate_counts_any_60_seconds_exactly(bench()).await;
    i_10_the_rate_outlives_epochs_cancellations_and_a_clock_set_back(bench()).await;
    i_11_a_request_is_charged_to_the_period_of_its_reservation(bench()).await;
    i_12_keys_do_not_touch_each_other(bench()).await;
    shrinking_lowers_the_hold_and_never_raises_it(bench()).await;
    a_higher_epoch_replaces_the_books_and_a_lower_one_is_refused(bench()).await;
    a_settlement_of_another_epoch_is_refused(bench()).await;
    a_reservation_whose_epoch_was_never_learned_is_found_by_its_id(bench()).await;
    grants_are_cumulative_and_only_for_their_key(bench()).await;
    delayed_and_misplaced_questions_are_refused(bench()).await;
    a_frozen_key_reserves_nothing_and_still_settles(bench()).await;
    clawing_back_leaves_what_is_used_or_held(bench()).await;
    a_key_without_limits_needs_no_books(bench()).await;
    a_clock_set_back_changes_no_decision(bench()).await;
}

struct Bench<S> {
    store: Arc<S>,
    clock: Arc<ManualClock>,
    key: KeyId,
}

/// A question that holds its needs.
#[derive(Clone)]
struct Ask {
    id: ReservationId,
    needs: Vec<Need>,
    rate: Option<u32>,
}

impl<S: CounterStore> Bench<S> {
    fn new(make: impl Fn(Arc<ManualClock>) -> S) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        Self { store: Arc::new(make(Arc::clone(&clock))), clock, key: key(0) }
    }

    fn counter(&self, name: (Dimension, Window)) -> CounterId {
        counter_at(self.key, name, START).0
    }

    fn slice(&self, name: (Dimension, Window), granted: u64) -> Grant {
        let (counter, period) = counter_at(self.key, name, START);
        Grant { counter, period, granted, elsewhere: 0 }
    }

    /// Grants the two counters of the key in `epoch`.
    async fn grant(&self, epoch: u32, requests: u64, spend: u64) {
        let grants = [self.slice(REQUESTS, requests), self.slice(SPEND, spend)];
        self.store.grant(self.key, epoch, &grants).await.unwrap();
    }

    /// One request and `spend` nano-dollars, without limits beyond the grants.
    fn ask(&self, number: u32, spend: u64) -> Ask {
        let need = |name, amount| {
            let (counter, period) = counter_at(self.key, name, START);
            Need { counter, period, limit: u64::MAX, amount }
        };
        Ask { id: reservation(number), needs: vec![need(REQUESTS, 1), need(SPEND, spend)], rate: None }
    }

    async fn put(&self, ask: &Ask) -> Verdict {
        self.store.reserve(self.question(ask)).await.unwrap()
    }

    fn question<'a>(&self, ask: &'a Ask) -> Reserve<'a> {
        Reserve {
            id: ask.id,
            key: self.key,
            needs: &ask.needs,
            requests_per_minute: ask.rate,
            expires_after: TTL,
            not_after: None,
        }
    }

    async fn admit(&self, ask: &Ask) -> Admission {
        match self.put(ask).await {
            Verdict::Admitted(admission) => admission,
            other => panic!("not admitted: {other:?}"),
        }
    }

    async fn settle(&self, epoch: u32, number: u32, cost: u64) -> Settled {
        self.store.settle(self.key, epoch, reservation(number), settlement(cost)).await.unwrap()
    }

    async fn cancel(&self, epoch: u32, number: u32) -> Settled {
        self.store.cancel(self.key, epoch, reservation(number)).await.unwrap()
    }

    async fn books(&self, name: (Dimension, Window)) -> Books {
        let counter = self.counter(name);
        let books = self.store.books(self.key).await.unwrap();
        books.into_iter().find(|books| books.counter == counter).unwrap()
    }

    /// (used, held, orphaned) of requests and of spend.
    async fn sums(&self) -> [(u64, u64, u64); 2] {
        let (requests, spend) = (self.books(REQUESTS).await, self.books(SPEND).await);
        [requests, spend].map(|books| (books.used, books.held, books.orphaned))
    }

    /// Lets everything that has expired be charged: stores look at it when they are asked something new.
    async fn sweep(&self) {
        let id = ReservationId { request: RequestId::generate_at(START).unwrap(), attempt: 0 };
        self.put(&Ask { id, needs: Vec::new(), rate: None }).await;
        self.store.cancel(self.key, 0, id).await.unwrap();
    }
}

fn short(needs: &[(usize, u64)]) -> Verdict {
    Verdict::Short(Shortage { needs: needs.to_vec() })
}

async fn i_1_the_grant_is_admitted_and_not_one_more<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 3, 100).await;
    let admission = bench.admit(&bench.ask(1, 60)).await;
    assert_eq!(admission.epoch, 1);
    assert_eq!(admission.remaining, [(bench.counter(REQUESTS), 2), (bench.counter(SPEND), 40)]);
    assert_eq!(bench.put(&bench.ask(2, 41)).await, short(&[(1, 40)]));
    bench.admit(&bench.ask(3, 40)).await;
    bench.admit(&bench.ask(4, 0)).await;
    assert_eq!(bench.put(&bench.ask(5, 1)).await, short(&[(0, 0), (1, 0)]), "all that is short is named");
}

async fn i_1_an_expired_reservation_stays_charged_until_its_truth_arrives<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    for (number, spend) in [(1, 60), (2, 20), (3, 20)] {
        bench.admit(&bench.ask(number, spend)).await;
    }
    bench.clock.advance(TTL - Duration::from_millis(1));
    bench.sweep().await;
    assert_eq!(bench.sums().await, [(0, 3, 0), (0, 100, 0)], "not a millisecond early");
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.put(&bench.ask(4, 1)).await, short(&[(1, 0)]), "expiry frees nothing");
    assert_eq!(bench.sums().await, [(3, 0, 3), (100, 0, 100)]);
    assert_eq!(bench.settle(1, 1, 25).await, Settled::Late { over_bound: false });
    assert_eq!(bench.settle(1, 2, 21).await, Settled::Late { over_bound: true });
    assert_eq!(bench.cancel(1, 3).await, Settled::Late { over_bound: false });
    assert_eq!(bench.sums().await, [(2, 0, 0), (46, 0, 0)]);
    assert_eq!(bench.settle(1, 1, 25).await, Settled::Duplicate);
}

async fn i_1_a_lowered_limit_holds_at_once<S: CounterStore>(bench: Bench<S>) {
    let elsewhere = Grant { elsewhere: 30, ..bench.slice(SPEND, 100) };
    bench.store.grant(bench.key, 1, &[bench.slice(REQUESTS, 10), elsewhere]).await.unwrap();
    bench.admit(&bench.ask(1, 20)).await;
    let mut lowered = bench.ask(2, 21);
    lowered.needs[1].limit = 70;
    assert_eq!(bench.put(&lowered).await, short(&[(1, 20)]), "70 less 30 elsewhere less 20 held");
    lowered.needs[1].limit = 10;
    assert_eq!(bench.put(&lowered).await, short(&[(1, 0)]), "below what is elsewhere");
    lowered.needs[1].limit = 71;
    assert_eq!(bench.admit(&lowered).await.remaining[1].1, 0);
}

async fn i_2_a_refusal_takes_from_no_counter_and_no_rate<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    let rated = |number, spend| Ask { rate: Some(1), ..bench.ask(number, spend) };
    assert_eq!(bench.put(&rated(1, 101)).await, short(&[(1, 100)]));
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
    bench.admit(&rated(2, 10)).await;
    assert!(matches!(bench.put(&rated(3, 10)).await, Verdict::RateLimited { .. }));
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 10, 0)]);
    bench.admit(&bench.ask(1, 90)).await;
}

async fn i_2_one_counter_named_twice_is_taken_twice_or_not_at_all<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    let mut twice = bench.ask(1, 51);
    twice.needs.push(twice.needs[1]);
    assert_eq!(bench.put(&twice).await, short(&[(2, 100)]));
    twice.needs[2].amount = 49;
    bench.admit(&twice).await;
    assert_eq!(bench.sums().await[1], (0, 100, 0));
}

async fn i_3_a_cost_above_its_bound_is_booked_and_reported<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    bench.admit(&bench.ask(1, 50)).await;
    assert_eq!(bench.settle(1, 1, 50).await, Settled::Done { over_bound: false });
    bench.admit(&bench.ask(2, 50)).await;
    assert_eq!(bench.settle(1, 2, 70).await, Settled::Done { over_bound: true });
    assert_eq!(bench.sums().await[1], (120, 0, 0));
    assert_eq!(bench.put(&bench.ask(3, 1)).await, short(&[(1, 0)]));
}

async fn i_5_a_reservation_asked_again_takes_once<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    let ask = Ask { rate: Some(2), ..bench.ask(1, 60) };
    let first = bench.admit(&ask).await;
    for _ in 0..3 {
        assert_eq!(bench.admit(&ask).await, first, "the same answer");
    }
    assert_eq!(first.rate_remaining, Some(1));
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 60, 0)]);
    let second_attempt = ReservationId { attempt: 1, ..ask.id };
    bench.admit(&Ask { id: second_attempt, ..bench.ask(1, 40) }).await;
    assert_eq!(bench.sums().await, [(0, 2, 0), (0, 100, 0)], "another attempt is another reservation");
}

async fn i_5_what_is_over_is_never_admitted_again<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    for number in 1..=3 {
        bench.admit(&bench.ask(number, 10)).await;
    }
    bench.settle(1, 1, 4).await;
    bench.cancel(1, 2).await;
    bench.clock.advance(Duration::from_secs(59));
    for number in 1..=2 {
        assert_eq!(bench.put(&bench.ask(number, 10)).await, Verdict::Duplicate);
    }
    bench.clock.advance(TTL);
    bench.sweep().await;
    assert_eq!(bench.put(&bench.ask(3, 10)).await, Verdict::Duplicate, "expired and charged");
    bench.settle(1, 3, 9).await;
    assert_eq!(bench.put(&bench.ask(3, 10)).await, Verdict::Duplicate, "expired and settled");
    assert_eq!(bench.sums().await, [(2, 0, 0), (13, 0, 0)]);
}

async fn i_5_a_settlement_counts_once<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    bench.admit(&bench.ask(1, 60)).await;
    assert_eq!(bench.settle(1, 1, 40).await, Settled::Done { over_bound: false });
    assert_eq!(bench.settle(1, 1, 40).await, Settled::Duplicate);
    assert_eq!(bench.cancel(1, 1).await, Settled::Duplicate);
    assert_eq!(bench.sums().await, [(1, 0, 0), (40, 0, 0)]);
}

async fn i_5_an_unknown_settlement_keeps_its_reservation_out<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    assert_eq!(bench.cancel(1, 1).await, Settled::Unknown);
    assert_eq!(bench.settle(1, 2, 50).await, Settled::Unknown);
    assert_eq!(bench.settle(1, 2, 50).await, Settled::Duplicate);
    for number in 1..=2 {
        assert_eq!(bench.put(&bench.ask(number, 10)).await, Verdict::Duplicate);
    }
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}

async fn i_6_a_counter_without_books_is_refused<S: CounterStore>(bench: Bench<S>) {
    assert_eq!(bench.put(&bench.ask(1, 0)).await, Verdict::NoBooks(vec![0, 1]));
    bench.store.grant(bench.key, 1, &[bench.slice(REQUESTS, 5)]).await.unwrap();
    assert_eq!(bench.put(&bench.ask(1, 0)).await, Verdict::NoBooks(vec![1]));
    assert_eq!(bench.books(REQUESTS).await.held, 0);
    assert!(bench.store.books(key(1)).await.unwrap().is_empty());
}

async fn i_9_cancelling_and_settling_leave_no_hold<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 100, 10_000).await;
    for number in 0..30 {
        bench.admit(&bench.ask(number, 100)).await;
        if number % 7 == 0 {
            bench.clock.advance(TTL);
        }
    }
    bench.sweep().await;
    let mut actual = (0, 0);
    for number in 0..30 {
        let uncounted = Settlement { cost: NanoUsd::new(5), counted: false };
        match number % 3 {
            0 => {
                bench.cancel(1, number).await;
            }
            1 => {
                bench.store.settle(bench.key, 1, reservation(number), uncounted).await.unwrap();
                actual.1 += 5;
            }
            _ => {
                bench.settle(1, number, u64::from(number)).await;
                actual = (actual.0 + 1, actual.1 + u64::from(number));
            }
        }
    }
    assert_eq!(bench.sums().await, [(actual.0, 0, 0), (actual.1, 0, 0)]);
}

async fn i_10_the_rate_counts_any_60_seconds_exactly<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 100, 100).await;
    let rated = |number| Ask { rate: Some(2), ..bench.ask(number, 1) };
    assert_eq!(bench.admit(&rated(1)).await.rate_remaining, Some(1));
    bench.clock.advance(Duration::from_millis(400));
    assert_eq!(bench.admit(&rated(2)).await.rate_remaining, Some(0));
    let limited = |millis| Verdict::RateLimited { retry_after: Duration::from_millis(millis) };
    assert_eq!(bench.put(&rated(3)).await, limited(59_600));
    bench.clock.advance(Duration::from_millis(59_599));
    assert_eq!(bench.put(&rated(3)).await, limited(1));
    bench.clock.advance(Duration::from_millis(1));
    bench.admit(&rated(3)).await;
    assert_eq!(bench.put(&rated(4)).await, limited(400), "the second admission is the oldest now");
    bench.admit(&Ask { rate: Some(3), ..rated(4) }).await;
}

async fn i_10_the_rate_outlives_epochs_cancellations_and_a_clock_set_back<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 100, 100).await;
    let rated = |number| Ask { rate: Some(2), ..bench.ask(number, 1) };
    bench.admit(&rated(1)).await;
    bench.cancel(1, 1).await;
    bench.grant(2, 100, 100).await;
    bench.admit(&rated(2)).await;
    bench.clock.set(Timestamp::from_millis(START.millis() - 120_000));
    let limited = Verdict::RateLimited { retry_after: Duration::from_secs(60) };
    assert_eq!(bench.put(&rated(3)).await, limited);
    bench.clock.advance(Duration::from_secs(120));
    assert_eq!(bench.put(&rated(3)).await, limited, "two minutes of the past are no time");
}

async fn i_11_a_request_is_charged_to_the_period_of_its_reservation<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.admit(&bench.ask(2, 10)).await;
    let tomorrow = START.saturating_add(Duration::from_secs(24 * 3_600));
    bench.clock.set(tomorrow);
    assert_eq!(bench.put(&bench.ask(3, 10)).await, Verdict::OutsidePeriod);
    let (counter, period) = counter_at(bench.key, REQUESTS, tomorrow);
    assert_eq!(period.start, Window::Day.period_at(START).end);
    bench.store.grant(bench.key, 1, &[Grant { counter, period, granted: 10, elsewhere: 0 }]).await.unwrap();
    let mut ask = bench.ask(3, 10);
    ask.needs[0] = Need { counter, period, limit: u64::MAX, amount: 1 };
    bench.admit(&ask).await;
    for number in 1..=3 {
        bench.settle(1, number, 10).await;
    }
    let books = bench.store.books(bench.key).await.unwrap();
    let used = |counter| books.iter().find(|books| books.counter == counter).unwrap().used;
    assert_eq!((used(bench.counter(REQUESTS)), used(counter), used(bench.counter(SPEND))), (2, 1, 30));
}

async fn i_12_keys_do_not_touch_each_other<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    let other = Bench { store: Arc::clone(&bench.store), clock: Arc::clone(&bench.clock), key: key(1) };
    assert_eq!(other.put(&other.ask(1, 1)).await, Verdict::NoBooks(vec![0, 1]));
    other.grant(7, 5, 50).await;
    let rated = Ask { rate: Some(1), ..other.ask(1, 50) };
    other.admit(&rated).await;
    bench.admit(&Ask { rate: Some(1), ..bench.ask(1, 100) }).await;
    bench.store.freeze(bench.key).await.unwrap();
    assert_eq!(other.settle(7, 1, 30).await, Settled::Done { over_bound: false });
    other.admit(&other.ask(2, 20)).await;
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 100, 0)]);
    assert_eq!(other.sums().await, [(1, 1, 0), (30, 20, 0)]);
    let stolen = Ask { needs: bench.ask(3, 1).needs, ..other.ask(3, 1) };
    assert_eq!(other.put(&stolen).await, Verdict::NoBooks(vec![0, 1]), "another key's counters are not in its books");
}

async fn shrinking_lowers_the_hold_and_never_raises_it<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    bench.admit(&bench.ask(1, 80)).await;
    let shrink = |bound| bench.store.shrink(bench.key, 1, reservation(1), NanoUsd::new(bound));
    assert!(shrink(30).await.unwrap());
    assert!(!shrink(50).await.unwrap());
    assert!(!shrink(30).await.unwrap());
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 30, 0)]);
    bench.admit(&bench.ask(2, 70)).await;
    assert_eq!(bench.settle(1, 1, 31).await, Settled::Done { over_bound: true }, "the lowered bound counts");
    assert!(!shrink(1).await.unwrap(), "it is over");
    assert_eq!(bench.sums().await, [(1, 1, 0), (31, 70, 0)]);
}

async fn a_higher_epoch_replaces_the_books_and_a_lower_one_is_refused<S: CounterStore>(bench: Bench<S>) {
    bench.grant(3, 10, 100).await;
    for number in 1..=3 {
        bench.admit(&bench.ask(number, 10)).await;
    }
    bench.settle(3, 2, 5).await;
    bench.clock.advance(TTL);
    bench.sweep().await;
    bench.admit(&bench.ask(4, 10)).await;
    assert_eq!(bench.sums().await, [(3, 1, 2), (25, 10, 20)], "one settled, two expired, one open");
    bench.grant(4, 2, 20).await;
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
    assert_eq!(bench.books(SPEND).await.granted, 20);
    for epoch in [0, 3] {
        let refused = bench.store.grant(bench.key, epoch, &[bench.slice(SPEND, 1_000)]).await;
        assert!(matches!(refused, Err(CounterError::Epoch { given, current: 4, .. }) if given == epoch), "{refused:?}");
    }
    assert_eq!(bench.books(SPEND).await.granted, 20);
    bench.clock.advance(TTL);
    bench.sweep().await;
    assert_eq!(bench.sums().await, [(0, 0, 0); 2], "nothing of the old epoch expires into the new books");
}

async fn a_settlement_of_another_epoch_is_refused<S: CounterStore>(bench: Bench<S>) {
    let settle = |epoch| bench.store.settle(bench.key, epoch, reservation(1), settlement(5));
    assert!(matches!(settle(1).await, Err(CounterError::Epoch { given: 1, current: 0, .. })));
    bench.grant(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.grant(2, 10, 100).await;
    bench.admit(&bench.ask(2, 10)).await;
    assert!(matches!(settle(1).await, Err(CounterError::Epoch { given: 1, current: 2, .. })));
    let cancelled = bench.store.cancel(bench.key, 3, reservation(2)).await;
    assert!(matches!(cancelled, Err(CounterError::Epoch { given: 3, current: 2, .. })));
    let shrunk = bench.store.shrink(bench.key, 1, reservation(2), NanoUsd::ZERO).await;
    assert!(matches!(shrunk, Err(CounterError::Epoch { .. })));
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 10, 0)]);
}

async fn a_reservation_whose_epoch_was_never_learned_is_found_by_its_id<S: CounterStore>(bench: Bench<S>) {
    bench.grant(6, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    assert_eq!(bench.cancel(0, 1).await, Settled::Done { over_bound: false });
    assert_eq!(bench.cancel(0, 2).await, Settled::Unknown);
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::Duplicate);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}

async fn grants_are_cumulative_and_only_for_their_key<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    bench.grant(1, 5, 150).await;
    bench.grant(1, 10, 150).await;
    bench.grant(1, 9, 149).await;
    assert_eq!((bench.books(REQUESTS).await.granted, bench.books(SPEND).await.granted), (10, 150));
    let elsewhere = Grant { elsewhere: 7, ..bench.slice(SPEND, 150) };
    bench.store.grant(bench.key, 1, &[elsewhere]).await.unwrap();
    bench.grant(1, 10, 149).await;
    assert_eq!(bench.books(SPEND).await.elsewhere, 7, "an older grant does not know better");
    let foreign = bench.store.grant(key(1), 1, &[bench.slice(SPEND, 5)]).await;
    assert!(matches!(foreign, Err(CounterError::ForeignCounter { .. })), "{foreign:?}");
    assert!(bench.store.books(key(1)).await.unwrap().is_empty());
}

async fn delayed_and_misplaced_questions_are_refused<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    let ask = bench.ask(1, 10);
    let on_time = bench.ask(9, 0);
    let question = Reserve { not_after: Some(START), ..bench.question(&on_time) };
    assert!(matches!(bench.store.reserve(question).await.unwrap(), Verdict::Admitted(_)));
    bench.cancel(1, 9).await;
    let question = Reserve { not_after: Some(START), ..bench.question(&ask) };
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.store.reserve(question).await.unwrap(), Verdict::Late);
    bench.clock.set(Window::Month.period_at(START).end);
    assert_eq!(bench.put(&ask).await, Verdict::OutsidePeriod);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);

    let early = Bench { key: key(1), ..bench };
    early.grant(1, 10, 100).await;
    let mut next = early.ask(2, 10);
    let (counter, period) =
        counter_at(early.key, REQUESTS, early.clock.now().saturating_add(Duration::from_secs(90_000)));
    next.needs = vec![Need { counter, period, limit: 9, amount: 1 }];
    assert_eq!(early.put(&next).await, Verdict::OutsidePeriod, "a period that has not begun");
}

async fn a_frozen_key_reserves_nothing_and_still_settles<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.store.freeze(bench.key).await.unwrap();
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::Frozen);
    assert_eq!(bench.settle(1, 1, 10).await, Settled::Done { over_bound: false });
    bench.grant(2, 10, 100).await;
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::Frozen, "a grant does not thaw");
    bench.store.unfreeze(bench.key).await.unwrap();
    bench.store.unfreeze(key(1)).await.unwrap();
    bench.admit(&bench.ask(2, 10)).await;
}

async fn clawing_back_leaves_what_is_used_or_held<S: CounterStore>(bench: Bench<S>) {
    assert_eq!(bench.store.claw_back(bench.key).await.unwrap(), None);
    bench.grant(5, 10, 100).await;
    bench.admit(&bench.ask(1, 30)).await;
    bench.admit(&bench.ask(2, 20)).await;
    bench.settle(5, 1, 10).await;
    let holdings = vec![(bench.counter(REQUESTS), 2), (bench.counter(SPEND), 30)];
    let expected = Some(ClawBack { epoch: 5, holdings });
    for _ in 0..2 {
        assert_eq!(bench.store.claw_back(bench.key).await.unwrap(), expected, "asked again, the same");
    }
    assert_eq!(bench.put(&bench.ask(3, 1)).await, short(&[(0, 0), (1, 0)]));
    bench.settle(5, 2, 5).await;
    assert_eq!(bench.put(&bench.ask(3, 16)).await, short(&[(0, 0), (1, 15)]), "what was held stays granted");
    bench.grant(5, 3, 31).await;
    bench.admit(&bench.ask(3, 16)).await;
}

async fn a_key_without_limits_needs_no_books<S: CounterStore>(bench: Bench<S>) {
    let ask = |number| Ask { id: reservation(number), needs: Vec::new(), rate: Some(1) };
    let admission = Admission { epoch: 0, remaining: Vec::new(), rate_remaining: Some(0) };
    assert_eq!(bench.admit(&ask(1)).await, admission);
    assert_eq!(bench.admit(&ask(1)).await, admission, "asked again");
    assert!(matches!(bench.put(&ask(2)).await, Verdict::RateLimited { .. }));
    assert_eq!(bench.settle(0, 1, 10).await, Settled::Done { over_bound: false });
    assert_eq!(bench.settle(0, 1, 10).await, Settled::Duplicate);
    assert_eq!(bench.put(&ask(1)).await, Verdict::Duplicate);
    assert!(bench.store.books(bench.key).await.unwrap().is_empty());
    bench.clock.advance(Duration::from_secs(60));
    bench.admit(&ask(3)).await;
    bench.grant(1, 1, 1).await;
    assert_eq!(bench.settle(0, 3, 10).await, Settled::Done { over_bound: false }, "a first limit forgets no request");
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}

async fn a_clock_set_back_changes_no_decision<S: CounterStore>(bench: Bench<S>) {
    bench.grant(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    let tomorrow = Window::Day.period_at(START).end;
    bench.clock.set(tomorrow);
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::OutsidePeriod);
    bench.clock.set(START);
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::OutsidePeriod, "yesterday does not come back");
    let ask = bench.ask(3, 10);
    let monthly = Ask { needs: vec![ask.needs[1]], ..ask };
    bench.admit(&monthly).await;
    bench.clock.set(tomorrow.saturating_add(TTL));
    bench.sweep().await;
    assert_eq!(bench.sums().await[1], (20, 0, 20), "both expired on the clock that never goes back");
}
