//! Endings: what is charged, what is frozen, and what is kept when it cannot be recorded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::catalog::{Model, ProviderName};
use keyforge_shared::clock::ManualClock;
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::period::Window;
use keyforge_shared::policy::Policy;
use keyforge_shared::state::Resource;

use keyforge_providers::fault::{Fault, FaultKind};

use super::super::fixture::{admitted, body, books, clock, commit, leaving, refused};
use super::super::outcome::{Failed, Stood, charge_for};
use super::*;
use crate::fixture::{FakeLedger, Node, Parts, cap, key, key_id, model, workspace};

const CAP: u64 = 1_000_000_000;

async fn node(policy: Policy, clock: &Arc<ManualClock>) -> (Arc<FakeLedger>, Node) {
    let ledger = Arc::new(FakeLedger::default());
    ledger.0.lock().limits = BTreeMap::from([((Scope::Key, Dimension::Spend, Window::Day), CAP)]);
    let url = ledger.serve().await;
    let mut state = vec![workspace(Vec::new(), Vec::new()), key(1, policy), model()];
    if let Resource::Model(known) = model() {
        let early =
            Model { name: "early".to_owned(), provider: ProviderName("deepseek".to_owned()), ..(*known).clone() };
        state.push(Resource::Model(Arc::new(early)));
    }
    (ledger, Parts::in_memory(url, clock, state).build())
}

fn used(input: u64, output: u64) -> Charge {
    Charge::Known(Usage { input, output, ..Usage::default() })
}

#[tokio::test]
async fn the_store_is_told_the_truth_at_once_and_only_once() {
    let (_ledger, node) = node(cap(CAP), &clock()).await;
    let cost = commit(&node, 1, &body(100)).await.settle(Ending::new(used(10, 5), 200));
    assert_eq!(cost, NanoUsd::new(10 * 1_000 + 5 * 10_000));
    let spent = books(&node, 1, Dimension::Spend).await;
    assert_eq!((spent.used, spent.held), (cost.nanos(), 0));
    assert_eq!(node.plane.spool.status().next_seq, 2);
}

#[tokio::test]
async fn what_was_committed_and_dropped_is_charged_at_its_bound() {
    let (_ledger, node) = node(cap(CAP), &clock()).await;
    let reservation = admitted(&node, 1, &body(100)).await;
    let bound = reservation.bound().amount;
    drop(reservation);
    drop(commit(&node, 1, &body(100)).await);
    let spent = books(&node, 1, Dimension::Spend).await;
    assert_eq!((spent.used, spent.held), (bound.nanos(), 0));
    assert_eq!(node.plane.spool.status().open, 0, "and recorded");
}

#[tokio::test]
async fn i_3_a_cost_above_its_bound_stops_the_key_at_once_until_an_operator_looks() {
    let (_ledger, node) = node(cap(CAP), &clock()).await;
    let running = commit(&node, 1, &body(5)).await;
    let cost = running.settle(Ending::new(used(10, 5_000), 200));
    assert_eq!(cost, NanoUsd::new(50_010_000), "the truth is booked");
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::KeyPaused);
    assert!(!node.plane.settlements.is_frozen(key_id(1)), "the store has taken it over");
    node.plane.settlements.unfreeze(key_id(1), 2);
    tokio::task::yield_now().await;
    drop(admitted(&node, 1, &body(5)).await);
}

#[tokio::test]
async fn input_that_is_known_early_lets_go_of_what_was_held_beyond_it() {
    let policy = Policy { tokens_per_minute: Some(10_000), ..cap(CAP) };
    let (_ledger, node) = node(policy, &clock()).await;
    let mut request = body(100);
    request["model"] = "early".into();
    let mut running = commit(&node, 1, &request).await;
    let before = books(&node, 1, Dimension::Spend).await.held;
    running.input_known(&Usage { input: 3, ..Usage::default() });
    let held = books(&node, 1, Dimension::Spend).await.held;
    assert!(held < before, "{held} {before}");
    assert_eq!(held, 3 * 1_000 + 100 * 10_000);
    drop(running);
    assert_eq!(books(&node, 1, Dimension::Spend).await.used, held, "the bound is what is still possible");
}

#[tokio::test]
async fn an_error_in_place_of_the_first_word_is_charged_if_anything_was_made_before() {
    for stood in [Stood::BeforeAnything, Stood::Elsewhere] {
        let (_ledger, node) = node(cap(CAP), &clock()).await;
        let bound = admitted(&node, 1, &body(100)).await.bound().amount;
        let fault = Fault {
            kind: FaultKind::Overloaded,
            status: None,
            code: None,
            error_type: None,
            param: None,
            message: String::new(),
            retry_after: None,
            in_answer: true,
            usage: None,
        };
        let failed = Failed {
            commitment: commit(&node, 1, &body(100)).await,
            ending: Ending::new(charge_for(&fault, stood), 502),
            rejection: Rejection::UpstreamBroken,
            fault: Some(Box::new(fault)),
        };
        let charged = failed.make_way().await;
        let spent = books(&node, 1, Dimension::Spend).await;
        assert_eq!(charged, if stood == Stood::Elsewhere { bound } else { NanoUsd::ZERO });
        assert_eq!((spent.used, spent.held), (charged.nanos(), 0));
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_keeps_its_epoch_open() {
    let clock = clock();
    let (ledger, node) = node(cap(CAP), &clock).await;
    let mut ending = Ending::new(used(10, 5), 200);
    // More than any frame holds.
    ending.answered_model = Some("m".repeat(1 << 25));
    commit(&node, 1, &body(5)).await.settle(ending);
    assert_eq!(node.plane.spool.status().open, 1, "it was too long, so its intent stands");
    clock.advance(Duration::from_secs(3_600));
    ledger.0.lock().chained = u64::MAX;
    leaving(&node).sweep().await;
    assert_eq!(ledger.memberships(node.boot), 1, "its record may come when this boot has ended");
}
