//! What a control plane that shares its database tells nodes of how fresh their state is, and when it cannot know.

use std::time::Duration;

use keyforge_control_plane::store::sql;
use keyforge_loadtest::postgres::Server;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1::watch_response::Message;

use crate::beside::{plane_beside, use_database};
use crate::plane::Plane;
use crate::receipts::Watcher;
use crate::stores;

/// Longer than a look at a database that is there takes.
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn i_13_a_beat_is_answered_after_every_order_that_another_control_plane_gave_before_it() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let mut watcher = Watcher::connect(&there, 1, 0).await;
    for number in 1..=20 {
        let (key, _) = here.make_key(&format!("agent {number}")).await;
        let revoke = admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: Some(0) };
        here.keys().revoke_key(revoke).await.unwrap();
        watcher.beat(number).await;
        let mut told = false;
        loop {
            match watcher.receive().await {
                Message::Order(order) => told |= order.key_id == key.id,
                Message::Echo(echo) if echo.number == number => break,
                Message::Echo(_) | Message::Footing(_) => {}
            }
        }
        assert!(told, "assured without having been told that key {number} is revoked");
    }
    drop(watcher);
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_control_plane_that_has_lost_its_database_assures_nobody_until_it_is_back() {
    let mut server = Server::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    use_database(directory.path(), &server.create("keyforge").unwrap());
    let plane = Plane::start_again(directory).await;
    let mut watcher = Watcher::connect(&plane, 1, 0).await;
    watcher.beat(1).await;
    assert!(matches!(watcher.receive().await, Message::Echo(echo) if echo.number == 1));
    server.kill().unwrap();
    watcher.beat(2).await;
    assert!(tokio::time::timeout(A_WHILE, watcher.receive()).await.is_err(), "it cannot know what others committed");
    server.run().unwrap();
    assert!(matches!(watcher.receive().await, Message::Echo(echo) if echo.number == 2));
    drop(watcher);
    plane.stop().await;
}

#[tokio::test]
async fn i_18_a_database_that_was_put_back_under_a_running_control_plane_ends_it() {
    let plane = Plane::start().await;
    let mut past = stores::connect(plane.directory.path()).await;
    let select = "SELECT state_seal FROM deployment";
    let seal: Vec<u8> = sql::query(select).fetch_value(&mut past).await.unwrap().unwrap();
    plane.make_key("agent").await;
    let mut ended = std::pin::pin!(plane.shutdown.drain_started());
    assert!(tokio::time::timeout(Duration::ZERO, &mut ended).await.is_err());
    let update = sql::query("UPDATE deployment SET revision = revision - 1, state_seal = $1").bind(seal.as_slice());
    update.execute(&mut past).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it goes on with a state that is not there");
}
