//! Lives of a key's books begin with a request, end with their epoch, and are left when nobody uses them: none that was joined is forgotten.

use std::time::Duration;

use super::super::fixture::{OWN_QUOTA, admitted, body, clock, commit, leaving, ledger, one_key, refused};
use super::super::settle::{Charge, Ending};
use crate::fixture::{Parts, key, model, quota, workspace};
use crate::rejection::Rejection;

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
