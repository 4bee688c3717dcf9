//! Admission: what is asked of whom, what a reservation holds, of which period, and what becomes of requests while the ledger is slow or away.

use std::sync::Arc;

use keyforge_counters::CounterStore;
use keyforge_shared::limit::Scope;
use keyforge_shared::period::ZoneName;
use keyforge_shared::policy::Policy;

use super::super::fixture::{
    OWN_CAP, OWN_QUOTA, admit, admitted, body, books, clock, commit, ledger, one_key, permit_for, refused, wanted,
};
use super::super::settle::{Charge, Ending};
use super::*;
use crate::fixture::{Parts, START, cap, key, key_id, model, quota, spend, workspace};

fn head() -> Head {
    let (parts, ()) = http::Request::new(()).into_parts();
    Head {
        parts,
        peer: "127.0.0.1:1".parse().unwrap(),
        id: keyforge_shared::id::RequestId::generate().unwrap(),
        started: 0,
        dialect: keyforge_providers::dialect::Dialect::ChatCompletions,
    }
}

#[tokio::test]
async fn a_key_without_limits_asks_neither_ledger_nor_store() {
    let (ledger, url) = ledger(&[], 1).await;
    let node = Parts::in_memory(url, &clock(), one_key(Policy::default())).build();
    drop(admitted(&node, 1, &body(5)).await);
    assert_eq!(ledger.0.lock().acquired, 0);
    assert!(node.plane.memberships.keys().is_empty());
}

#[tokio::test]
async fn the_first_request_joins_and_the_next_ones_spend_what_was_granted() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(100))).build();
    for _ in 0..10 {
        commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    assert_eq!(ledger.0.lock().acquired, 1);
    assert_eq!(ledger.memberships(node.boot), 1);
    commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    assert_eq!(ledger.0.lock().acquired, 2, "only when it runs short");
    assert_eq!(books(&node, 1, Dimension::Requests).await.used, 11);
}

#[tokio::test]
async fn a_request_that_never_gets_what_it_needs_is_refused_in_time_and_not_as_exhausted() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(100))).build();
    {
        let mut state = ledger.0.lock();
        (state.teasing, state.slow) = (true, Duration::from_millis(50));
    }
    let permit = permit_for(&node, 1, "m").unwrap();
    let parsed = wanted(&body(5));
    let bound = super::super::bound::bound(&permit, &parsed).unwrap();
    let (patience, head) = (Duration::from_millis(300), head());
    let asked = reserve_within(patience, &node.plane, &permit, &head, bound);
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
    assert_eq!(answer.err(), Some(Rejection::EnforcementUnavailable));
}

#[tokio::test]
async fn an_id_that_is_over_is_our_own_fault() {
    let (_ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(100))).build();
    let permit = permit_for(&node, 1, "m").unwrap();
    let parsed = wanted(&body(5));
    let head = head();
    let ask = || reserve(&node.plane, &permit, &head, super::super::bound::bound(&permit, &parsed).unwrap());
    drop(ask().await.ok().unwrap());
    assert_eq!(ask().await.err(), Some(Rejection::Internal));
}

#[tokio::test]
async fn nothing_is_admitted_while_the_ledger_cannot_be_asked() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(100))).build();
    ledger.0.lock().down = true;
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::EnforcementUnavailable);
    ledger.0.lock().down = false;
    drop(admitted(&node, 1, &body(5)).await);
    ledger.0.lock().down = true;
    drop(admitted(&node, 1, &body(5)).await);
}

#[tokio::test]
async fn a_key_whose_workspace_is_not_known_is_refused() {
    let (_ledger, url) = ledger(&[], 1).await;
    let node = Parts::in_memory(url, &clock(), vec![key(1, Policy::default()), model()]).build();
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::EnforcementUnavailable);
}

#[tokio::test]
async fn a_reservation_that_is_dropped_gives_everything_back() {
    let (_ledger, url) = ledger(&[(OWN_CAP, 1_000_000_000)], 0).await;
    let policy = Policy { concurrent_requests: Some(1), tokens_per_minute: Some(10_000), ..cap(1_000_000_000) };
    let node = Parts::in_memory(url, &clock(), one_key(policy)).build();
    let reservation = admitted(&node, 1, &body(5)).await;
    assert_eq!(books(&node, 1, Dimension::Spend).await.held, reservation.bound().amount.nanos());
    assert_eq!(node.plane.leases.count(), 1);
    drop(reservation);
    let spent = books(&node, 1, Dimension::Spend).await;
    assert_eq!((spent.held, spent.used, node.plane.leases.count()), (0, 0, 0));
    drop(admitted(&node, 1, &body(5)).await);
}

#[tokio::test]
async fn the_tightest_of_key_and_workspace_is_the_budget() {
    let shared = (Scope::Workspace, Dimension::Spend, Window::Day);
    let (_ledger, url) = ledger(&[(OWN_CAP, 500_000_000), (shared, 300_000_000)], 0).await;
    let state = vec![workspace(Vec::new(), vec![spend(300_000_000)]), key(1, cap(500_000_000)), model()];
    let node = Parts::in_memory(url, &clock(), state).build();
    let terms = admitted(&node, 1, &body(5)).await.terms();
    assert_eq!(terms.budget_after(NanoUsd::new(100)), Some(NanoUsd::new(299_999_900)));
}

#[tokio::test]
async fn i_11_a_request_belongs_to_the_day_of_its_keys_calendar_in_which_it_is_admitted() {
    let (_ledger, url) = ledger(&[], 1).await;
    let clock = clock();
    let policy = Policy { time_zone: Some(ZoneName::new("Pacific/Kiritimati").unwrap()), ..Policy::default() };
    let node = Parts::in_memory(url.clone(), &clock, one_key(policy)).build();
    // 10:00 in UTC is midnight, fourteen hours ahead.
    assert_eq!(permit_for(&node, 1, "m").unwrap().day().to_string(), "2026-11-23");
    clock.set(START.saturating_add(Duration::ZERO));
    let before = keyforge_shared::clock::Timestamp::from_millis(START.millis() - 1);
    clock.set(before);
    assert_eq!(permit_for(&node, 1, "m").unwrap().day().to_string(), "2026-11-22");
}

#[tokio::test]
async fn i_11_a_period_that_ended_since_the_permit_was_made_is_not_charged() {
    let (_ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let clock = clock();
    let node = Parts::in_memory(url, &clock, one_key(quota(100))).build();
    let permit = permit_for(&node, 1, "m").unwrap();
    clock.advance(Duration::from_secs(20 * 3_600));
    let parsed = wanted(&body(5));
    let bound = super::super::bound::bound(&permit, &parsed).unwrap();
    let Ok(reservation) = reserve(&node.plane, &permit, &head(), bound).await else { panic!("refused") };
    assert_eq!(reservation.permit().day().to_string(), "2026-11-23");
    let books = node.plane.counters.books(key_id(1)).await.unwrap();
    let held = books.iter().filter(|book| book.held > 0).map(|book| book.counter.first_day.to_string());
    assert_eq!(held.collect::<Vec<_>>(), ["2026-11-23"]);
}

#[tokio::test]
async fn i_1_of_64_concurrent_requests_a_quota_of_20_admits_exactly_20() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 20)], 3).await;
    let node = Arc::new(Parts::in_memory(url, &clock(), one_key(quota(20))).build());
    let request = body(5);
    let asked = (0..64).map(|_| admit(&node, 1, &request));
    let answers = futures_util::future::join_all(asked).await;
    let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
    let settling = answers.iter().filter(|answer| matches!(answer, Err(Rejection::Settling(_)))).count();
    assert_eq!((admitted, settling), (20, 44));
    let asked = ledger.0.lock().acquired;
    assert!(asked <= 10, "one call at a time, {asked} in all");
    assert!(node.plane.clock.now() == START);
}

#[tokio::test]
async fn a_ledger_that_hangs_is_remembered_and_asked_again_as_soon_as_it_answers() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let mut state = one_key(quota(100));
    state.push(key(2, quota(100)));
    let node = Parts::in_memory(url, &clock(), state).build();
    ledger.0.lock().hangs = true;
    let first = tokio::time::timeout(Duration::from_millis(1_950), refused(&node, 1, &body(5))).await;
    assert_eq!(first.unwrap(), Rejection::EnforcementUnavailable, "sooner than one call may take");
    let (asked, since) = (ledger.0.lock().calls, tokio::time::Instant::now());
    for number in [1, 2].repeat(20) {
        assert_eq!(refused(&node, number, &body(5)).await, Rejection::EnforcementUnavailable);
    }
    // 40 of them together are far from the time that one would wait.
    assert!(since.elapsed() < Duration::from_millis(400), "{:?}", since.elapsed());
    assert!(ledger.0.lock().calls <= asked + 1, "nobody asks it but the probe");
    ledger.0.lock().hangs = false;
    let back = async {
        while admit(&node, 2, &body(5)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), back).await.unwrap();
}

#[tokio::test]
async fn a_call_that_takes_long_makes_nobody_believe_that_the_ledger_is_away() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(100))).build();
    ledger.0.lock().slow = Duration::from_millis(1_700);
    drop(admitted(&node, 1, &body(5)).await);
    assert_eq!(ledger.0.lock().calls, 2, "the call and one probe");
}
