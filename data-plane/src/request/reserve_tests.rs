//! Admission: joining, granting, refusing truthfully, and what is asked of whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use keyforge_counters::CounterStore;
use keyforge_shared::clock::{Clock, ManualClock};
use keyforge_shared::limit::Scope;
use keyforge_shared::period::ZoneName;
use keyforge_shared::policy::{Policy, Raise, RequestLimit};
use keyforge_shared::state::Resource;

use super::super::fixture::{admit, admitted, body, books, commit, permit_for, refused, wanted};
use super::super::settle::{Charge, Ending};
use super::*;
use crate::fixture::{FakeLedger, Node, Parts, START, cap, key, key_id, model, quota, spend, workspace};
use crate::grants::raises::RaiseEnds;
use crate::grants::returns::Returns;
use crate::memberships::leaving::Leaving;

const OWN_QUOTA: (Scope, Dimension, Window) = (Scope::Key, Dimension::Requests, Window::Day);
const OWN_CAP: (Scope, Dimension, Window) = (Scope::Key, Dimension::Spend, Window::Day);
const SHARED_QUOTA: (Scope, Dimension, Window) = (Scope::Workspace, Dimension::Requests, Window::Day);

/// A ledger with these limits, served, that grants slices of `slice`.
async fn ledger(limits: &[((Scope, Dimension, Window), u64)], slice: u64) -> (Arc<FakeLedger>, String) {
    let ledger = Arc::new(FakeLedger::default());
    {
        let mut state = ledger.0.lock();
        state.limits = BTreeMap::from_iter(limits.iter().copied());
        state.slice = slice;
    }
    let url = ledger.serve().await;
    (ledger, url)
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START))
}

fn one_key(policy: Policy) -> Vec<Resource> {
    vec![workspace(Vec::new(), Vec::new()), key(1, policy), model()]
}

fn leaving(node: &Node) -> Leaving {
    Leaving {
        memberships: node.plane.memberships.clone(),
        grants: node.plane.grants.clone(),
        counters: Arc::clone(&node.plane.counters),
        ledger: node.ledger.clone(),
        spool: node.plane.spool.clone(),
    }
}

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

fn headers(rejection: &Rejection) -> HeaderMap {
    let mut headers = HeaderMap::new();
    rejection.write_headers(&mut headers);
    headers
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
async fn a_life_whose_epoch_is_closed_ends_and_a_new_one_begins() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 1).await;
    let node = Parts::in_memory(url, &clock(), one_key(quota(100))).build();
    drop(admitted(&node, 1, &body(5)).await);
    for epoch in ledger.0.lock().epochs.values_mut() {
        epoch.closed = true;
    }
    // What was granted is spent first, then the ledger is asked.
    for _ in 0..3 {
        commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    let lives: Vec<_> = ledger.0.lock().epochs.values().map(|epoch| (epoch.number, epoch.closed)).collect();
    assert_eq!(lives.len(), 2, "{lives:?}");
    assert!(lives.contains(&(1, true)) && lives.contains(&(2, false)));
}

#[tokio::test]
async fn an_idle_life_is_left_once_its_records_are_chained_and_not_before() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let clock = clock();
    let node = Parts::in_memory(url, &clock, one_key(quota(100))).build();
    let running = commit(&node, 1, &body(5)).await;
    clock.advance(Duration::from_secs(3_000));
    leaving(&node).sweep().await;
    assert_eq!(ledger.memberships(node.boot), 1, "an attempt runs");
    running.settle(Ending::new(Charge::NotBilled, 400));
    leaving(&node).sweep().await;
    assert_eq!(ledger.memberships(node.boot), 1, "it was used when it ended");
    clock.advance(Duration::from_secs(601));
    let leaving = leaving(&node);
    let mut round = std::pin::pin!(leaving.sweep());
    let waits = tokio::time::timeout(Duration::from_millis(300), round.as_mut()).await;
    assert!(waits.is_err(), "the record is not chained");
    ledger.0.lock().chained = 1;
    round.await;
    assert_eq!(ledger.memberships(node.boot), 0);
    commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    assert_eq!(ledger.memberships(node.boot), 1, "it joins again, in a new life");
}

#[tokio::test]
async fn a_join_whose_answer_is_lost_is_not_forgotten() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let clock = clock();
    let node = Parts::in_memory(url, &clock, one_key(quota(100))).build();
    ledger.0.lock().lose = 1;
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::EnforcementUnavailable);
    assert_eq!(ledger.memberships(node.boot), 1, "the ledger counts it as a member");
    clock.advance(Duration::from_secs(601));
    leaving(&node).sweep().await;
    assert_eq!(ledger.memberships(node.boot), 0);
}

#[tokio::test]
async fn what_is_sure_is_left_while_the_ledger_does_not_say_what_is_not() {
    let (ledger, url) = ledger(&[(OWN_QUOTA, 100)], 10).await;
    let clock = clock();
    let state = vec![workspace(Vec::new(), Vec::new()), key(1, quota(100)), key(2, quota(100)), model()];
    let node = Parts::in_memory(url, &clock, state).build();
    ledger.0.lock().lose = 1;
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::EnforcementUnavailable);
    drop(admitted(&node, 2, &body(5)).await);
    assert_eq!(ledger.memberships(node.boot), 2);
    clock.advance(Duration::from_secs(601));
    ledger.0.lock().slow = Duration::from_secs(60);
    let leaving = leaving(&node);
    let waits = tokio::time::timeout(Duration::from_secs(1), leaving.sweep()).await;
    assert!(waits.is_err(), "one is not sure yet");
    assert_eq!(ledger.memberships(node.boot), 1, "the other one is left");
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
async fn the_tightest_of_key_and_workspace_is_the_budget() {
    let shared = (Scope::Workspace, Dimension::Spend, Window::Day);
    let (_ledger, url) = ledger(&[(OWN_CAP, 500_000_000), (shared, 300_000_000)], 0).await;
    let state = vec![workspace(Vec::new(), vec![spend(300_000_000)]), key(1, cap(500_000_000)), model()];
    let node = Parts::in_memory(url, &clock(), state).build();
    let terms = admitted(&node, 1, &body(5)).await.terms();
    assert_eq!(terms.budget_after(NanoUsd::new(100)), Some(NanoUsd::new(299_999_900)));
}

#[tokio::test]
async fn rates_are_told_on_success_and_on_refusal() {
    let (_ledger, url) = ledger(&[], 1).await;
    let policy = Policy { requests_per_minute: Some(2), ..Policy::default() };
    let clock = clock();
    let node = Parts::in_memory(url, &clock, one_key(policy)).build();
    let mut told = HeaderMap::new();
    admitted(&node, 1, &body(5)).await.terms().rate_headers.write(&mut told);
    assert_eq!(told["x-ratelimit-limit-requests"], "2");
    assert_eq!(told["x-ratelimit-remaining-requests"], "1");
    assert_eq!(told["x-ratelimit-reset-requests"], "1m0s");
    clock.advance(Duration::from_millis(20_500));
    drop(admitted(&node, 1, &body(5)).await);
    let rejection = refused(&node, 1, &body(5)).await;
    let told = headers(&rejection);
    assert_eq!((&told["retry-after"], &told["retry-after-ms"]), (&"40".parse().unwrap(), &"39500".parse().unwrap()));
    assert_eq!(told["x-ratelimit-remaining-requests"], "0");
    clock.advance(Duration::from_millis(39_500));
    drop(admitted(&node, 1, &body(5)).await);
}

#[tokio::test]
async fn tokens_count_at_their_bound_until_the_truth_is_known() {
    let (_ledger, url) = ledger(&[], 1).await;
    let policy = Policy { tokens_per_minute: Some(1_500), ..Policy::default() };
    let node = Parts::in_memory(url, &clock(), one_key(policy)).build();
    let first = commit(&node, 1, &body(100)).await;
    let Rejection::RateLimited(limited) = refused(&node, 1, &body(100)).await else { panic!("not limited") };
    assert_eq!((limited.rate, limited.limit), (Rate::Tokens, 1_500));
    let usage = keyforge_shared::usage::Usage { input: 10, output: 5, ..Default::default() };
    first.settle(Ending::new(Charge::Known(usage), 200));
    let second = admitted(&node, 1, &body(100)).await;
    let terms = second.terms();
    let mut told = HeaderMap::new();
    terms.rate_headers.write(&mut told);
    assert_eq!(told["x-ratelimit-limit-tokens"], "1500");
    let left: u64 = told["x-ratelimit-remaining-tokens"].to_str().unwrap().parse().unwrap();
    assert_eq!(left, 1_500 - 15 - second.bound().tokens().unwrap());
}

#[tokio::test]
async fn a_request_of_more_than_a_minutes_tokens_is_cut_or_told_that_waiting_does_not_help() {
    let (_ledger, url) = ledger(&[], 1).await;
    let policy = Policy { tokens_per_minute: Some(1_500), ..Policy::default() };
    let node = Parts::in_memory(url, &clock(), one_key(policy)).build();
    let reservation = admitted(&node, 1, &body(1_000)).await;
    assert!(reservation.bound().tokens().unwrap() <= 1_500 && reservation.bound().clamped);
    drop(reservation);
    let mut long = body(1_000);
    long["messages"][0]["content"] = "word ".repeat(500).into();
    let rejection = refused(&node, 1, &long).await;
    assert!(matches!(rejection, Rejection::TooManyTokens { limit: 1_500, .. }), "{rejection:?}");
    assert_eq!((rejection.status().as_u16(), rejection.code()), (429, "rate_limit_exceeded"));
    assert_eq!(headers(&rejection)["x-should-retry"], "false");
    let said = rejection.body(keyforge_providers::dialect::Dialect::ChatCompletions);
    assert!(String::from_utf8_lossy(&said).contains("tokens_per_minute"), "{said:?}");
}

#[tokio::test]
async fn a_place_among_the_running_is_free_as_soon_as_one_ends() {
    let (_ledger, url) = ledger(&[], 1).await;
    let policy = Policy { concurrent_requests: Some(2), ..Policy::default() };
    let node = Parts::in_memory(url, &clock(), one_key(policy)).build();
    let (first, _second) = (commit(&node, 1, &body(5)).await, commit(&node, 1, &body(5)).await);
    let rejection = refused(&node, 1, &body(5)).await;
    let Rejection::RateLimited(limited) = &rejection else { panic!("{rejection:?}") };
    assert_eq!((limited.rate, limited.limit), (Rate::Concurrency, 2));
    assert_eq!(headers(&rejection)["retry-after"], "1");
    drop(first);
    drop(admitted(&node, 1, &body(5)).await);
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
