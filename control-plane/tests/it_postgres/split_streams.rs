//! Receipts of nodes whose state comes from one control plane and whose orders from another, and of nodes that have moved.

use std::time::Duration;

use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1::watch_response::Message;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::id::NodeId;
use keyforge_shared::state::State;
use tokio::time::Instant;

use crate::beside::plane_beside;
use crate::plane::Plane;
use crate::receipts::{Watcher, revoke};
use crate::stream::Node;

/// Longer than a receipt takes that has nothing to wait for.
const WAIT: u32 = 2_000;

fn is_certain(receipt: &admin::Receipt, nodes: u32) -> bool {
    (receipt.nodes_acked, receipt.nodes_total) == (nodes, nodes)
        && receipt.control_planes_pending.is_empty()
        && receipt.effective_by_ms <= SystemClock.now().millis()
}

async fn revoked(plane: &Plane, key: &admin::Key) -> (admin::Receipt, Duration) {
    let called = Instant::now();
    let answer = plane.keys().revoke_key(revoke(key, WAIT)).await.unwrap().into_inner();
    (answer.receipt.unwrap(), called.elapsed())
}

#[tokio::test]
async fn i_13_a_node_counts_once_whose_state_is_at_one_control_plane_and_whose_orders_are_at_another() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let mut state = Node::connect(&here, 1, 1, State::default()).await;
    for plane in [&here, &there] {
        let (key, _) = here.make_key(&format!("agent of {}", plane.running.addr())).await;
        state.follow_to(key.revision).await;
        let mut orders = Watcher::connect(&there, 1, key.revision).await;
        let hearing = async {
            let order = orders.order().await;
            orders.applied(order.revision, 1).await;
            state.follow_to(order.revision).await;
        };
        let ((receipt, took), ()) = tokio::join!(revoked(plane, &key), hearing);
        assert!(is_certain(&receipt, 1) && took < Duration::from_secs(1), "{receipt:?} after {took:?}");
        assert_eq!(receipt.streams_cut, 1, "{receipt:?}");
    }
    drop(state);
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_revocation_is_found_made_when_the_orders_have_gone_to_a_control_plane_that_gave_none() {
    let here = Plane::start().await;
    let (there, third) = (plane_beside(&here).await, plane_beside(&here).await);
    let (key, _) = here.make_key("doomed").await;
    let mut state = Node::connect(&here, 1, 1, State::default()).await;
    state.follow_to(key.revision).await;
    let mut orders = Watcher::connect(&there, 1, key.revision).await;
    let hearing = async {
        let order = orders.order().await;
        orders.applied(order.revision, 0).await;
        state.follow_to(order.revision).await;
        order.revision
    };
    let ((receipt, _), revision) = tokio::join!(revoked(&here, &key), hearing);
    assert!(is_certain(&receipt, 1), "{receipt:?}");
    drop(orders);
    let orders = Watcher::connect(&third, 1, revision).await;
    for plane in [&here, &there, &third] {
        let (again, took) = revoked(plane, &key).await;
        assert!(is_certain(&again, 1) && took < Duration::from_secs(1), "{again:?} after {took:?}");
    }
    drop((state, orders));
    third.stop().await;
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_key_that_already_works_is_resumed_with_a_receipt_at_once() {
    let plane = Plane::start().await;
    let mut state = Node::connect(&plane, 1, 1, State::default()).await;
    let orders = Watcher::connect(&plane, 1, plane.revision().await).await;
    let (key, _) = plane.make_key("agent").await;
    state.follow_to(key.revision).await;
    let called = Instant::now();
    let resume = admin::ResumeKeyRequest { id: key.id.clone(), wait_ms: Some(WAIT) };
    let receipt = plane.keys().resume_key(resume).await.unwrap().into_inner().receipt.unwrap();
    assert!(is_certain(&receipt, 1) && called.elapsed() < Duration::from_secs(1), "{receipt:?} {:?}", called.elapsed());
    drop((state, orders));
    plane.stop().await;
}

#[tokio::test]
async fn i_13_a_node_that_moved_and_has_done_it_is_not_pending_because_another_one_hangs_where_it_was() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let mut hangs = Watcher::connect(&here, 1, key.revision).await;
    drop(Watcher::connect(&here, 2, key.revision).await);
    let mut moved = Watcher::connect(&there, 2, there.revision().await).await;
    let hearing = async {
        let order = moved.order().await;
        moved.applied(order.revision, 0).await;
        hangs.order().await;
    };
    let ((receipt, _), ()) = tokio::join!(revoked(&here, &key), hearing);
    assert_eq!((receipt.nodes_acked, receipt.nodes_total), (1, 2), "{receipt:?}");
    assert_eq!(receipt.nodes_pending, [NodeId::from_bytes([1; 16]).to_string()], "{receipt:?}");
    drop((hangs, moved));
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_copy_of_a_node_at_another_control_plane_takes_nothing_from_what_the_node_owes() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let mut node = Watcher::connect(&here, 1, key.revision).await;
    let mut copy = Watcher::connect_as(&there, (1, 2), there.revision().await).await;
    // It runs beside its copy, and then is cut off.
    node.beat(1).await;
    assert!(matches!(node.receive().await, Message::Echo(echo) if echo.number == 1));
    drop(node);
    let hearing = async {
        let order = copy.order().await;
        copy.applied(order.revision, 0).await;
    };
    let ((receipt, _), ()) = tokio::join!(revoked(&here, &key), hearing);
    assert_eq!((receipt.nodes_acked, receipt.nodes_total), (0, 1), "the node may serve: {receipt:?}");
    assert!(receipt.effective_by_ms > SystemClock.now().millis() + 20_000, "{receipt:?}");
    drop(copy);
    there.stop().await;
    here.stop().await;
}
