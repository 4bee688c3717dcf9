//! Nodes of several control planes on one database: one that is removed at any of them is cut at every other.

use std::time::Duration;

use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_shared::fleet_seal::BootKey;
use keyforge_shared::state::State;
use tokio::time::Instant;
use tonic::Code;

use crate::beside::{directory_beside, plane_beside};
use crate::plane::{Plane, database};
use crate::secure::{Secure, ending, hello, subscribe};
use crate::stream::Node;

#[tokio::test]
async fn a_node_that_another_control_plane_has_removed_is_cut_within_a_second() {
    let here = Secure::start().await;
    let there = Secure::start_in(directory_beside(here.directory.path())).await;
    let machine = here.join().await;
    let key = BootKey::generate().unwrap();
    let channel = here.channel(Some(machine.identity())).await;
    let (_open, stream) = subscribe(channel.clone(), hello(machine.id, 1, &key)).await.unwrap();
    let mut nodes = there.admin().await;
    let since = Instant::now();
    nodes.remove_node(admin::RemoveNodeRequest { id: machine.id.to_string() }).await.unwrap();
    let cut = ending(stream).await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let again = subscribe(channel, hello(machine.id, 1, &key)).await.err().unwrap();
    for status in [cut, again] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert_eq!(status.metadata().get("keyforge-node").unwrap(), "removed");
    }
    drop((nodes, _open));
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn a_node_is_listed_as_connected_wherever_it_is_and_only_as_its_control_plane_says() {
    let here = Secure::start().await;
    let there = Secure::start_in(directory_beside(here.directory.path())).await;
    let machine = here.join().await;
    let key = BootKey::generate().unwrap();
    let channel = here.channel(Some(machine.identity())).await;
    let (open, stream) = subscribe(channel, hello(machine.id, 1, &key)).await.unwrap();
    let mut nodes = there.admin().await;
    let mut listed = async || nodes.list_nodes(admin::ListNodesRequest {}).await.unwrap().into_inner().nodes.remove(0);
    let place = here.directory.path().join("data").display().to_string();
    let since = Instant::now();
    let node = loop {
        let node = listed().await;
        if node.connected {
            break node;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{node:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(node.control_plane.ends_with(&place) && node.last_seen_ms > 0 && node.joined_at_ms > 0, "{node:?}");
    let at_home = here.admin().await.list_nodes(admin::ListNodesRequest {}).await.unwrap().into_inner().nodes.remove(0);
    assert!(at_home.connected && at_home.control_plane.is_empty(), "{at_home:?}");
    // What somebody else writes there is not shown.
    here.tamper("UPDATE connected_nodes SET written_at = written_at + 1").await;
    assert!(!listed().await.connected);
    drop((open, stream));
    let since = Instant::now();
    let written = "SELECT count(*) FROM connected_nodes WHERE nodes = decode('4b46434e00000000', 'hex')";
    let mut database = database(here.directory.path()).await;
    while sql::query(written).fetch_value::<i64>(&mut database).await.unwrap() != Some(2) {
        assert!(since.elapsed() < Duration::from_secs(10), "it is not said that it has left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!listed().await.connected);
    drop(database);
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn a_copy_of_a_node_at_another_control_plane_is_counted_at_both_and_one_that_moved_is_not() {
    const DOUBLED: &str = "keyforge_fleet_nodes_doubled";
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let doubled = |plane: &Plane| {
        let metrics = plane.telemetry.prometheus_text();
        metrics.lines().find_map(|line| line.strip_prefix(DOUBLED)?.trim().parse::<u64>().ok()).unwrap()
    };
    let mut node = Node::connect(&here, 1, 1, State::default()).await;
    let mut copy = Node::connect(&there, 1, 2, State::default()).await;
    // The connection of its former life is open still, and nothing comes of it any more.
    let _former = Node::connect(&here, 2, 3, State::default()).await;
    let mut moved = Node::connect(&there, 2, 4, State::default()).await;
    let since = Instant::now();
    while [&here, &there].iter().any(|plane| doubled(plane) == 0) {
        assert!(since.elapsed() < Duration::from_secs(60), "{} {}", doubled(&here), doubled(&there));
        for node in [&mut node, &mut copy, &mut moved] {
            node.begin().await;
            node.acknowledge().await;
        }
    }
    assert_eq!((doubled(&here), doubled(&there)), (1, 1));
    drop(node);
    while [&here, &there].iter().any(|plane| doubled(plane) > 0) {
        assert!(since.elapsed() < Duration::from_secs(90), "{} {}", doubled(&here), doubled(&there));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    there.stop().await;
    here.stop().await;
}
