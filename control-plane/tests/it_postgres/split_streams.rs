//! Receipts of nodes whose state comes from one control plane and whose orders from another.

use std::time::Duration;

use keyforge_proto::admin::v1 as admin;
use keyforge_shared::clock::{Clock as _, SystemClock};
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
