//! Giving back after limits changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::CounterStore;
use keyforge_shared::clock::ManualClock;
use keyforge_shared::limit::{Dimension, Touched};
use keyforge_shared::period::Window;
use keyforge_shared::policy::{Policy, RequestLimit};
use keyforge_shared::state::{KeyStatus, Resource, WorkspaceRecord};

use super::returns::Returns;
use crate::fixture::{FakeLedger, Node, Parts, START, key, key_id, model, quota, workspace};
use crate::ledger::Want;
use crate::replica::differences::{Changes, KeyChange};
use crate::replica::key_followers::KeyFollowers;

use keyforge_shared::limit::Scope;

use super::*;

async fn node(keys: u8) -> (Arc<FakeLedger>, Node) {
    let ledger = Arc::new(FakeLedger::default());
    {
        let mut state = ledger.0.lock();
        state.limits = BTreeMap::from([((Scope::Key, Dimension::Requests, Window::Day), 1_000)]);
        state.slice = 100;
    }
    let url = ledger.serve().await;
    let mut state = vec![workspace(Vec::new(), Vec::new()), model()];
    state.extend((0..keys).map(|number| key(number, quota(1_000))));
    (ledger, Parts::in_memory(url, &Arc::new(ManualClock::at(START)), state).build())
}

/// Lets the key's books have 100 requests.
async fn granted(node: &Node, number: u8) -> Touched {
    let key = node.plane.replica.key(key_id(number)).unwrap();
    let workspace = node.plane.replica.workspace(key.workspace).unwrap();
    let touched = keyforge_shared::limit::touched(&key, &workspace, START).next().unwrap();
    // A store that is asked to end another life says which one it has.
    let life = node.plane.counters.vacate(key.id, LifeId::from_bytes([0; 16])).await.unwrap();
    let wants = [Want { counter: touched.counter, amount: 1, ceiling: 1, limit: touched.limit }];
    assert_eq!(node.plane.grants.acquire(key.id, life, &wants).await, Ok(Brought::Answer));
    touched
}

fn followers(node: &Node) -> KeyFollowers {
    let plane = &node.plane;
    let returns = Returns::start(plane.grants.clone());
    KeyFollowers::new(Arc::clone(&plane.replica), plane.memberships.clone(), returns, plane.settlements.clone())
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let all = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), all).await.is_ok(), "not in time: {what}");
}

fn changed(resource: Resource, now: Resource) -> KeyChange {
    match (resource, now) {
        (Resource::Key(before), Resource::Key(now)) => KeyChange { before: Some(before), now: Some(now) },
        _ => panic!("no keys"),
    }
}

#[tokio::test]
async fn a_changed_limit_gives_back_what_is_not_used_and_a_changed_name_does_not() {
    let (ledger, node) = node(3).await;
    for number in 0..2 {
        granted(&node, number).await;
    }
    let policy = Policy { requests_per_minute: Some(7), ..quota(1_000) };
    let followers = followers(&node);
    let keys = vec![
        changed(key(0, quota(1_000)), key(0, policy)),
        changed(key(1, quota(1_000)), key(1, quota(10))),
        // This node was granted nothing for it.
        changed(key(2, quota(1_000)), key(2, quota(10))),
    ];
    followers.changed(&Changes { keys, workspaces: Vec::new() });
    eventually("the grant comes back", || !ledger.0.lock().returned.is_empty()).await;
    assert_eq!(ledger.0.lock().returned, [key_id(1)]);
    assert_eq!(node.plane.counters.books(key_id(1)).await.unwrap()[0].granted, 0);
    assert_eq!(node.plane.counters.books(key_id(0)).await.unwrap()[0].granted, 100);
}

#[tokio::test]
async fn a_changed_workspace_lets_its_keys_give_back_each_once() {
    let (ledger, node) = node(40).await;
    for number in 0..40 {
        granted(&node, number).await;
    }
    let Resource::Workspace(record) = workspace(vec![RequestLimit { requests: 5, window: Window::Day }], Vec::new())
    else {
        panic!("no workspace")
    };
    let changes = Changes { keys: Vec::new(), workspaces: vec![WorkspaceRecord::clone(&record).id] };
    let followers = followers(&node);
    followers.changed(&changes);
    eventually("all give back", || ledger.0.lock().returned.len() >= 40).await;
    assert_eq!(ledger.0.lock().returned.len(), 40);
}

#[tokio::test]
async fn books_that_lack_an_answer_learn_it_before_they_give_back() {
    let (ledger, node) = node(1).await;
    let touched = granted(&node, 0).await;
    ledger.0.lock().lose = 1;
    let life = node.plane.counters.vacate(key_id(0), LifeId::from_bytes([0; 16])).await.unwrap();
    let wants = [Want { counter: touched.counter, amount: 1, ceiling: 1, limit: touched.limit }];
    assert_eq!(node.plane.grants.acquire(key_id(0), life, &wants).await, Err(GrantError::Ledger));
    let returns = Returns::start(node.plane.grants.clone());
    returns.add(key_id(0));
    eventually("the grant comes back", || !ledger.0.lock().returned.is_empty()).await;
    assert_eq!(node.plane.counters.books(key_id(0)).await.unwrap()[0].granted, 0);
}

#[tokio::test]
async fn what_is_given_back_although_an_answer_was_lost_costs_no_grant_and_needs_no_limit() {
    let (ledger, node) = node(1).await;
    let touched = granted(&node, 0).await;
    ledger.0.lock().lose = 1;
    let life = node.plane.counters.vacate(key_id(0), LifeId::from_bytes([0; 16])).await.unwrap();
    let wants = [Want { counter: touched.counter, amount: 1, ceiling: 1, limit: touched.limit }];
    assert_eq!(node.plane.grants.acquire(key_id(0), life, &wants).await, Err(GrantError::Ledger));
    // The limit is gone: the ledger refuses any want of its counter.
    ledger.0.lock().limits.clear();
    assert_eq!(node.plane.grants.give_back(key_id(0)).await, Ok(()));
    let state = ledger.0.lock();
    assert_eq!(state.granted.values().sum::<u64>(), 0);
    assert_eq!(state.returned, [key_id(0)]);
}

#[tokio::test]
async fn what_the_ledger_did_not_take_back_is_no_success_and_is_tried_again() {
    let (ledger, node) = node(1).await;
    granted(&node, 0).await;
    ledger.0.lock().down = true;
    assert_eq!(node.plane.grants.give_back(key_id(0)).await, Err(GrantError::Ledger));
    let returns = Returns::start(node.plane.grants.clone());
    returns.add(key_id(0));
    ledger.0.lock().down = false;
    eventually("the grant comes back", || !ledger.0.lock().returned.is_empty()).await;
}

#[tokio::test]
async fn a_call_that_panics_is_over_for_those_who_wait_and_for_those_who_come() {
    let (_ledger, node) = node(1).await;
    let grants = &node.plane.grants;
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let panics = || {
        async move {
            released.await.unwrap();
            panic!("a call may")
        }
        .boxed()
    };
    let (first, is_new) = grants.enter(key_id(0), panics);
    assert!(is_new);
    let (second, is_new) = grants.enter(key_id(0), || panic!("one is under way"));
    assert!(!is_new);
    release.send(()).unwrap();
    let waits = async { (first.await, second.await) };
    let heard = tokio::time::timeout(Duration::from_secs(10), waits).await.unwrap();
    assert_eq!(heard, (Err(GrantError::Ledger), Err(GrantError::Ledger)));
    granted(&node, 0).await;
}

/// The key's record since a revision.
fn since(status: KeyStatus, status_revision: u64) -> Resource {
    let Resource::Key(record) = key(0, quota(1_000)) else { panic!("no key") };
    Resource::Key(Arc::new(keyforge_shared::state::KeyRecord { status, status_revision, ..(*record).clone() }))
}

#[tokio::test]
async fn an_unfrozen_key_works_again() {
    let (_ledger, node) = node(1).await;
    node.plane.settlements.freeze(key_id(0), 1);
    // Its stop was missed: all that is seen of it is that the key has been resumed since.
    let keys = vec![changed(since(KeyStatus::Active, 0), since(KeyStatus::Active, 3))];
    followers(&node).changed(&Changes { keys, workspaces: Vec::new() });
    assert!(!node.plane.settlements.is_frozen(key_id(0)));
}

#[tokio::test]
async fn a_key_whose_stop_is_of_a_past_that_was_undone_works_again() {
    let (_ledger, node) = node(1).await;
    let settlements = &node.plane.settlements;
    settlements.freeze(key_id(0), 9);
    eventually("the store knows", || !settlements.is_frozen(key_id(0))).await;
    assert!(!settlements.thaw(key_id(0), 3).await.unwrap(), "it is later than what the restored state says");
    let keys = vec![changed(since(KeyStatus::Paused, 9), since(KeyStatus::Active, 3))];
    followers(&node).changed(&Changes { keys, workspaces: Vec::new() });
    assert!(!settlements.thaw(key_id(0), 100).await.unwrap(), "there is nothing left to lift");
}
