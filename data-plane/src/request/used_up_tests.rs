//! Nothing is left of a limit: what is collected before anyone is refused, and who is told that it is used up and who that it is still settling.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::Clock;
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;
use keyforge_shared::policy::{Policy, Raise, RequestLimit};

use super::super::fixture::{OWN_CAP, OWN_QUOTA, admitted, body, clock, commit, headers, ledger, one_key, refused};
use super::super::settle::{Charge, Ending};
use crate::fixture::{Parts, START, cap, key, key_id, model, quota, workspace};
use crate::grants::raises::RaiseEnds;
use crate::grants::returns::Returns;
use crate::rejection::Rejection;

const SHARED_QUOTA: (Scope, Dimension, Window) = (Scope::Workspace, Dimension::Requests, Window::Day);

#[tokio::test]
async fn i_8_a_limit_that_is_used_up_is_exhausted_and_its_answer_adds_up() {
    let (_ledger, url) = ledger(&[(OWN_QUOTA, 3)], 1).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(3))).build();
    for _ in 0..3 {
        commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    let Rejection::Exhausted(exhausted) = refused(&node, 1, &body(5)).await else { panic!("not exhausted") };
    assert_eq!((exhausted.limit, exhausted.spent, exhausted.held, exhausted.needed), (3, 3, 0, 1));
    assert_eq!(exhausted.resets_at.unwrap().rfc3339(), "2026-11-23T00:00:00Z");
}

#[tokio::test]
async fn i_8_what_only_running_requests_hold_is_settling_and_not_exhausted() {
    let (_ledger, url) = ledger(&[(OWN_QUOTA, 3)], 1).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(3))).build();
    commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    let running = [admitted(&node, 1, &body(5)).await, admitted(&node, 1, &body(5)).await];
    let rejection = refused(&node, 1, &body(5)).await;
    let Rejection::Settling(settling) = &rejection else { panic!("{rejection:?}") };
    assert_eq!((settling.limit, settling.spent, settling.held, settling.needed), (3, 1, 2, 1));
    assert_eq!((rejection.status().as_u16(), &headers(&rejection)["retry-after"]), (429, &"2".parse().unwrap()));
    drop(running);
    drop(admitted(&node, 1, &body(5)).await);
}

#[tokio::test]
async fn i_8_what_another_life_may_give_back_is_settling_and_not_exhausted() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 5)], 5).await;
    let clock = clock();
    let [first, second] = [(); 2].map(|()| Parts::in_memory(url.clone(), &clock, one_key(quota(5))).build());
    commit(&first, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    let rejection = refused(&second, 1, &body(5)).await;
    let Rejection::Settling(settling) = &rejection else { panic!("{rejection:?}") };
    assert_eq!((settling.spent, settling.held, settling.limit), (0, 5, 5));
    let said = rejection.body(keyforge_providers::dialect::Dialect::ChatCompletions);
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("or was granted elsewhere, and may come back"), "{said}");
    let told = headers(&rejection);
    assert_eq!((told["retry-after"].as_bytes(), told["retry-after-ms"].as_bytes()), (&b"2"[..], &b"2000"[..]));
    assert!(!told.contains_key("x-should-retry"));
    // The other node's epoch closes: what it did not settle was all of it, in this ledger.
    for epoch in ledger.0.lock().epochs.values_mut() {
        epoch.closed |= epoch.members.contains_key(&first.boot);
    }
    clock.advance(Duration::from_secs(1));
    assert!(matches!(refused(&second, 1, &body(5)).await, Rejection::Exhausted(_)));
}

#[tokio::test]
async fn i_9_books_that_hold_charges_nobody_proved_are_given_up_before_anyone_is_told_that_a_limit_is_used_up() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 2)], 1).await;
    let clock = clock();
    let node = Parts::in_memory(url, &clock, one_key(quota(2))).build();
    commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    // A node that died between its question and its dispatch: no record will ever tell of it.
    std::mem::forget(admitted(&node, 1, &body(5)).await);
    let Rejection::Settling(running) = refused(&node, 1, &body(5)).await else { panic!("it may still be running") };
    assert_eq!((running.spent, running.held), (1, 1));
    clock.advance(Duration::from_secs(2 * 3_600));
    let rejection = refused(&node, 1, &body(5)).await;
    let Rejection::Settling(settling) = &rejection else { panic!("{rejection:?}") };
    assert_eq!((settling.limit, settling.spent), (2, 2));
    drop(refused(&node, 1, &body(5)).await);
    assert_eq!(ledger.0.lock().epochs.len(), 2, "the books began a new life");
}

#[tokio::test]
async fn spend_is_cut_to_what_is_left_and_the_budget_is_told_without_asking_again() {
    let (_ledger, url) = ledger(&[(OWN_CAP, 5_000_000)], 0).await;
    let node = Parts::in_memory(url, &clock(), one_key(cap(5_000_000))).build();
    let reservation = admitted(&node, 1, &body(1_000)).await;
    let (bound, terms) = (reservation.bound().amount, reservation.terms());
    assert!(reservation.bound().clamped && bound <= NanoUsd::new(5_000_000), "{bound}");
    assert!(terms.output_limit.is_some_and(|limit| limit < 1_000));
    assert_eq!(terms.budget_after(bound), Some(NanoUsd::new(5_000_000).saturating_sub(bound)));
    assert_eq!(terms.budget_after(NanoUsd::new(1)), Some(NanoUsd::new(4_999_999)));
    let Rejection::Settling(settling) = refused(&node, 1, &body(1_000)).await else { panic!("not settling") };
    assert_eq!((settling.held, settling.spent), (bound.nanos(), 0));
    drop(reservation);
    commit(&node, 1, &body(1_000)).await.settle(Ending::new(Charge::Unknown, 502));
    let Rejection::Exhausted(exhausted) = refused(&node, 1, &body(1_000)).await else { panic!("not exhausted") };
    assert_eq!((exhausted.held, exhausted.spent), (0, bound.nanos()));
}

#[tokio::test]
async fn what_another_key_holds_of_a_workspaces_limit_is_collected_before_anyone_is_refused() {
    let (ledger, url) = ledger(&[(SHARED_QUOTA, 10)], 10).await;
    let shared = RequestLimit { requests: 10, window: Window::Day };
    let state =
        vec![workspace(vec![shared], Vec::new()), key(1, Policy::default()), key(2, Policy::default()), model()];
    let node = Parts::in_memory(url, &clock(), state).build();
    let _held = admitted(&node, 1, &body(5)).await;
    for _ in 0..9 {
        commit(&node, 2, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    assert!(ledger.0.lock().returned.contains(&key_id(1)), "it kept one of ten and gave back nine");
    // One is held by the first key, nine are used by the second: nobody can have an eleventh.
    let rejection = refused(&node, 2, &body(5)).await;
    let Rejection::Settling(settling) = &rejection else { panic!("{rejection:?}") };
    assert_eq!((settling.scope, settling.spent, settling.held), (Scope::Workspace, 9, 1));
}

#[tokio::test]
async fn a_grant_that_was_the_last_one_and_sufficed_keeps_nobody_from_asking_again() {
    let (_ledger, url) = ledger(&[(SHARED_QUOTA, 10)], 5).await;
    let shared = RequestLimit { requests: 10, window: Window::Day };
    let state =
        vec![workspace(vec![shared], Vec::new()), key(1, Policy::default()), key(2, Policy::default()), model()];
    let node = Parts::in_memory(url, &clock(), state).build();
    commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    // The clock stands still: five are granted at once, the other four are collected from the first key.
    for _ in 0..9 {
        commit(&node, 2, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    assert!(matches!(refused(&node, 1, &body(5)).await, Rejection::Settling(_) | Rejection::Exhausted(_)));
}

#[tokio::test]
async fn a_limit_that_is_spent_is_not_asked_for_again_until_it_is_raised_or_seconds_went_by() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 1)], 1).await;
    let clock = clock();
    let node = Parts::in_memory(url, &clock, one_key(quota(1))).build();
    commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    assert!(matches!(refused(&node, 1, &body(5)).await, Rejection::Exhausted(_)));
    let asked = ledger.0.lock().acquired;
    clock.advance(Duration::from_millis(1_900));
    assert!(matches!(refused(&node, 1, &body(5)).await, Rejection::Exhausted(_)));
    assert_eq!(ledger.0.lock().acquired, asked, "nobody can give anything back");
    node.plane.grants.forget(key_id(1));
    drop(refused(&node, 1, &body(5)).await);
    assert_eq!(ledger.0.lock().acquired, asked + 1, "its limit changed");
    clock.advance(Duration::from_secs(2));
    drop(refused(&node, 1, &body(5)).await);
    assert_eq!(ledger.0.lock().acquired, asked + 2);
}

#[tokio::test]
async fn a_raised_limit_ends_by_the_clock_of_the_node_and_what_was_granted_above_it_goes_back() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 5)], 5).await;
    let clock = clock();
    let until = START.saturating_add(Duration::from_secs(600));
    let raise = |amount| Raise { dimension: Dimension::Requests, window: Window::Day, amount, until };
    let policy = Policy { raises: [raise(1), raise(2)].into(), ..quota(2) };
    let node = Parts::in_memory(url, &clock, one_key(policy)).build();
    for _ in 0..3 {
        commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    let (returns, time): (_, Arc<dyn Clock>) = (Returns::start(node.plane.grants.clone()), clock.clone());
    let ends = RaiseEnds::new(&node.plane.replica, &node.plane.memberships, &returns, &time);
    let looked = ends.look(START);
    clock.set(until);
    let Rejection::Exhausted(exhausted) = refused(&node, 1, &body(5)).await else { panic!("not exhausted") };
    assert_eq!((exhausted.limit, exhausted.spent), (2, 3));
    assert!(ledger.0.lock().returned.is_empty());
    let looked = ends.look(looked);
    let returned = async {
        while ledger.0.lock().returned.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), returned).await.unwrap();
    assert_eq!(looked, until);
}
