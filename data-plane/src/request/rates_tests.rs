//! Rates per minute and places among the running: what they admit, when they let go, and how they are told.

use std::time::Duration;

use http::HeaderMap;
use keyforge_counters::Rate;
use keyforge_shared::policy::Policy;

use super::super::fixture::{admitted, body, clock, commit, headers, ledger, one_key, refused};
use super::super::settle::{Charge, Ending};
use crate::fixture::Parts;
use crate::rejection::Rejection;

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
