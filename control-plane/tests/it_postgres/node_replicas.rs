//! Nodes of several control planes on one database: one that is removed at any of them is cut at every other.

use std::time::Duration;

use keyforge_proto::admin::v1 as admin;
use keyforge_shared::fleet_seal::BootKey;
use tokio::time::Instant;
use tonic::Code;

use crate::beside::directory_beside;
use crate::nodes::{Secure, ending, hello, subscribe};

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
