//! What every counter store does, as a list of checks that each store runs against itself.
//!
//! Each check has a key of its own, and begins at [`START`] on a clock that stands still until it is set. Names of checks that prove an invariant
//! begin with its number.

mod lives;
mod money;
mod order;
mod rates;

use std::cell::Cell;
use std::time::Duration;

use keyforge_counters::{
    Admission, CounterState, CounterStore, Freeze, Grant, GrantSet, Need, Rates, ReservationId, Reserve, Settled,
    Settlement, Standing, Verdict,
};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId, RequestId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, Period, Window};

/// A Monday, ten seconds after noon.
pub const START: Timestamp = Timestamp::from_millis(1_778_500_810_000);
/// After how long the reservations of these checks expire.
pub const TTL: Duration = Duration::from_secs(600);

/// A freeze, and a revision after it.
pub const ONCE: Freeze = Freeze { revision: 7, lasting: true };
pub const LATER: u64 = 8;

/// A counter store whose clock the test holds.
pub trait Harness {
    /// What is looked at.
    type Store: CounterStore;

    /// The store; in the course of one suite always the same.
    fn store(&self) -> &Self::Store;

    /// Lets the store's clock show `now`, forwards or backwards. All that the store does by time goes by this clock, also how long it remembers
    /// an id.
    fn set_clock(&self, now: Timestamp);
}

macro_rules! suite {
    ($($group:ident { $($check:ident,)+ })+) => {
        /// Runs every check, and says which one it is at.
        pub async fn suite<H: Harness>(harness: &H) {
            let mut number = 0;
            $($(
                println!("{}::{}", stringify!($group), stringify!($check));
                number += 1;
                $group::$check(&Bench::new(harness, number)).await;
            )+)+
        }
    };
}

suite! {
    money {
        i_1_the_grant_is_admitted_and_not_one_more,
        i_1_an_expired_reservation_stays_charged_until_its_truth_arrives,
        i_1_a_lowered_limit_holds_at_once,
        i_1_a_slice_of_the_workspace_limits_its_key,
        i_2_a_refusal_takes_from_no_counter_and_no_rate,
        i_3_a_cost_above_its_bound_is_booked_and_reported,
        i_5_a_reservation_asked_again_takes_once,
        i_5_what_is_over_is_never_admitted_again,
        i_5_a_settlement_counts_once,
        i_5_an_unknown_settlement_keeps_its_reservation_out,
        i_6_a_counter_without_books_is_refused,
        i_9_cancelling_and_settling_leave_no_hold,
        i_12_keys_do_not_touch_each_other,
        shrinking_lowers_the_hold_and_never_raises_it,
        large_amounts_are_exact,
        no_limit_at_all_is_a_limit,
    }
    lives {
        i_6_books_without_an_epoch_name_their_life,
        i_6_a_new_life_has_nothing_of_the_old_one,
        i_6_grants_are_for_one_life_and_one_epoch,
        i_6_an_open_reservation_is_answered_again_in_its_epoch_alone,
        a_life_is_given_up_once,
        a_settlement_of_another_epoch_is_refused,
        a_reservation_is_found_by_its_id_alone,
        the_latest_answer_of_the_ledger_counts,
        joining_needs_no_grants,
        a_grant_for_another_key_is_refused,
        clawing_back_leaves_what_is_used_or_held,
        clawing_back_makes_earlier_answers_void,
        a_frozen_key_reserves_nothing_and_still_settles,
        a_freeze_is_lifted_by_a_later_revision_alone,
        a_key_without_limits_needs_no_epoch,
    }
    rates {
        i_10_the_rate_counts_any_60_seconds_exactly,
        i_10_the_rate_outlives_lives_and_cancellations,
        i_10_the_rate_forgets_nothing_when_its_limit_is_lowered_and_raised,
        i_10_tokens_count_61_seconds,
        i_10_a_clock_that_jumps_ahead_and_comes_back_clears_no_window,
        a_settlement_replaces_the_tokens_in_their_own_second,
        tokens_are_shrunk_with_the_bound,
        what_never_fits_is_told_no_time,
        a_refusal_says_what_is_left_of_each_rate,
        concurrency_counts_what_runs,
        a_lease_ends_however_its_request_ended,
        a_lease_is_renewed_and_found_again,
        a_renewal_that_comes_after_the_settlement_revives_nothing,
        of_rates_that_are_full_the_longest_wait_is_told,
        whoever_waits_as_long_as_told_is_admitted,
    }
    order {
        i_11_a_request_is_charged_to_the_period_of_its_reservation,
        delayed_and_misplaced_questions_are_refused,
        questions_are_answered_in_the_order_of_their_checks,
        a_clock_set_back_changes_no_decision,
        only_decisions_move_the_time_of_a_key,
        eight_expired_reservations_are_charged_at_a_time,
        the_first_to_expire_is_charged_first,
        what_was_charged_is_forgotten_after_a_day,
        what_is_orphaned_ends_with_the_life_of_the_books,
        an_id_is_remembered_for_a_minute,
        long_past_counters_are_dropped_with_a_grant,
        a_past_counter_that_still_holds_is_kept,
        durations_are_cut_to_milliseconds,
    }
}

/// A counter's dimension and window.
pub type Name = (Dimension, Window);

const REQUESTS: Name = (Dimension::Requests, Window::Day);
const SPEND: Name = (Dimension::Spend, Window::Month);

/// The reservation of that number.
pub fn reservation(number: u32) -> ReservationId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    ReservationId { request: RequestId::from_bytes(bytes), attempt: 1 }
}

/// A counter of a key, in the period of `moment` in UTC.
pub fn counter_at(key: KeyId, scope: Scope, (dimension, window): Name, moment: Timestamp) -> (CounterId, Period) {
    let today = Calendar::utc().day_at(moment);
    let counter = CounterId { key, scope, dimension, window, first_day: window.first_day(today) };
    (counter, Calendar::utc().period(window, today))
}

fn settlement(cost: u64) -> Settlement {
    Settlement { cost: NanoUsd::new(cost), counted: true, tokens: None }
}

/// One check's key, in the epoch that it joined last.
struct Bench<'a, H> {
    harness: &'a H,
    key: KeyId,
    now: Cell<Timestamp>,
    epoch: Cell<u32>,
    sweeps: Cell<u32>,
}

/// A question that holds its needs.
#[derive(Clone)]
struct Ask {
    id: ReservationId,
    epoch: u32,
    needs: Vec<Need>,
    rates: Rates,
    life: Duration,
}

impl<'a, H: Harness> Bench<'a, H> {
    fn new(harness: &'a H, check: u32) -> Self {
        let key = KeyId::from_ascii(format!("check{check:07}").as_bytes()).unwrap();
        Self::of(harness, key)
    }

    fn of(harness: &'a H, key: KeyId) -> Self {
        harness.set_clock(START);
        Self { harness, key, now: Cell::new(START), epoch: Cell::new(0), sweeps: Cell::new(0) }
    }

    /// Another key in the same store.
    fn other(&self) -> Self {
        Self::of(self.harness, KeyId::from_ascii(self.key.as_str().replace("check", "other").as_bytes()).unwrap())
    }

    fn store(&self) -> &H::Store {
        self.harness.store()
    }

    fn set(&self, now: Timestamp) {
        self.now.set(now);
        self.harness.set_clock(now);
    }

    fn advance(&self, by: Duration) {
        self.set(self.now.get().saturating_add(by));
    }

    fn advance_millis(&self, by: u64) {
        self.advance(Duration::from_millis(by));
    }

    fn counter(&self, name: Name) -> CounterId {
        counter_at(self.key, Scope::Key, name, START).0
    }

    fn slice(&self, name: Name, granted: u64) -> Grant {
        let (counter, period) = counter_at(self.key, Scope::Key, name, START);
        Grant { counter, period, granted, elsewhere: 0 }
    }

    fn need(&self, name: Name, amount: u64) -> Need {
        let (counter, period) = counter_at(self.key, Scope::Key, name, START);
        Need { counter, period, limit: u64::MAX, amount }
    }

    /// The life of the key's books, as long as this check has not joined it.
    async fn life(&self) -> LifeId {
        let ask = Ask { id: reservation(u32::MAX), epoch: 0, ..self.ask(0, 0) };
        match self.put(&ask).await {
            Verdict::NotJoined(life) => life,
            other => panic!("no epoch was named, and the answer is {other:?}"),
        }
    }

    /// Joins the present life of the books as `epoch`, and grants the two counters in its answer number 1.
    async fn join(&self, epoch: u32, requests: u64, spend: u64) -> LifeId {
        let life = self.life().await;
        let grants = vec![self.slice(REQUESTS, requests), self.slice(SPEND, spend)];
        self.store().grant(self.key, &GrantSet { life, epoch, serial: 1, grants }).await.unwrap();
        self.epoch.set(epoch);
        life
    }

    /// One request and `spend` nano-dollars, without limits beyond the grants.
    fn ask(&self, number: u32, spend: u64) -> Ask {
        let needs = vec![self.need(REQUESTS, 1), self.need(SPEND, spend)];
        Ask { id: reservation(number), epoch: self.epoch.get(), needs, rates: Rates::default(), life: TTL }
    }

    /// A question about rates alone.
    fn ask_rates(&self, number: u32, rates: Rates) -> Ask {
        Ask { epoch: 0, needs: Vec::new(), rates, ..self.ask(number, 0) }
    }

    fn question<'q>(&self, ask: &'q Ask) -> Reserve<'q> {
        Reserve {
            id: ask.id,
            key: self.key,
            epoch: ask.epoch,
            needs: &ask.needs,
            rates: ask.rates,
            expires_after: ask.life,
            not_after: None,
        }
    }

    async fn put(&self, ask: &Ask) -> Verdict {
        self.store().reserve(self.question(ask)).await.unwrap()
    }

    async fn admit(&self, ask: &Ask) -> Admission {
        match self.put(ask).await {
            Verdict::Admitted(admission) => admission,
            other => panic!("not admitted: {other:?}"),
        }
    }

    async fn settle(&self, number: u32, cost: u64) -> Settled {
        self.store().settle(self.key, self.epoch.get(), reservation(number), settlement(cost)).await.unwrap()
    }

    async fn cancel(&self, number: u32) -> Settled {
        self.store().settle(self.key, self.epoch.get(), reservation(number), Settlement::CANCELLED).await.unwrap()
    }

    async fn report(&self) -> Vec<CounterState> {
        let mut books = self.store().books(self.key).await.unwrap();
        books.sort_by_key(|books| books.counter);
        books
    }

    async fn books(&self, name: Name) -> CounterState {
        let counter = self.counter(name);
        self.report().await.into_iter().find(|books| books.counter == counter).unwrap()
    }

    /// (used, held, orphaned) of requests and of spend.
    async fn sums(&self) -> [(u64, u64, u64); 2] {
        let (requests, spend) = (self.books(REQUESTS).await, self.books(SPEND).await);
        [requests, spend].map(|books| (books.used, books.held, books.orphaned))
    }

    /// Lets what has expired be charged: stores look at it when they are asked something new.
    async fn sweep(&self) {
        self.sweeps.set(self.sweeps.get() + 1);
        let number = 1_000_000 + self.sweeps.get();
        self.admit(&self.ask_rates(number, Rates::default())).await;
        self.store().settle(self.key, 0, reservation(number), Settlement::CANCELLED).await.unwrap();
    }
}

/// The free amounts of the needs that were short.
fn short(verdict: Verdict) -> Vec<(usize, u64)> {
    match verdict {
        Verdict::Short(needs) => needs.into_iter().map(|(index, standing)| (index, standing.free)).collect(),
        other => panic!("not short: {other:?}"),
    }
}

fn free(admission: &Admission) -> Vec<u64> {
    admission.counters.iter().map(|standing| standing.free).collect()
}

fn standing(free: u64, used: u64, held: u64) -> Standing {
    Standing { free, used, held, orphaned: 0, elsewhere: 0 }
}
