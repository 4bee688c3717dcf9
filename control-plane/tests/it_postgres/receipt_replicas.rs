//! Receipts of control planes that share a database: they count the nodes of all, and say of whom they cannot know.

use std::time::Duration;

use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1::watch_response::Message;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::id::NodeId;
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use crate::beside::plane_beside;
use crate::plane::{Plane, database};
use crate::receipts::{Watcher, revoke};

const LONG: u32 = 10_000;
/// The database server's clock in nanoseconds.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000";

/// What a receipt says, and how long the call took.
async fn receipt(plane: &Plane, key: &admin::Key, wait_ms: u32) -> (admin::Receipt, Duration) {
    let called = Instant::now();
    let answer = plane.keys().revoke_key(revoke(key, wait_ms)).await.unwrap().into_inner();
    (answer.receipt.unwrap(), called.elapsed())
}

/// How long after now the receipt holds, in milliseconds.
fn ahead(receipt: &admin::Receipt) -> i64 {
    receipt.effective_by_ms - SystemClock.now().millis()
}

fn is_certain(receipt: &admin::Receipt) -> bool {
    receipt.nodes_pending.is_empty() && receipt.control_planes_pending.is_empty() && ahead(receipt) <= 0
}

async fn write(plane: &Plane, statement: String) -> u64 {
    let mut database = database(plane.directory.path()).await;
    sql::query(AssertSqlSafe(statement)).execute(&mut database).await.unwrap()
}

/// A control plane that was stopped a moment ago: it stands in the registry and follows nothing.
async fn one_that_is_stopped(plane: &Plane, name: &str) {
    let row = format!(
        "INSERT INTO control_planes VALUES (substring(sha256('{name}') FOR 16), '{name}', 0, 30000000000, \
         {NOW}, NULL, NULL)"
    );
    assert_eq!(write(plane, row).await, 1);
}

/// The name of a control plane in the registry.
fn name(plane: &Plane) -> String {
    plane.directory.path().join("data").display().to_string()
}

#[tokio::test]
async fn i_13_a_receipt_counts_the_nodes_of_every_control_plane() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let mut one = Watcher::connect(&here, 1, key.revision).await;
    let mut other = Watcher::connect(&there, 2, there.revision().await).await;
    let hearing = async {
        let order = one.order().await;
        one.applied(order.revision, 1).await;
        let order = other.order().await;
        assert_eq!(order.key_id, key.id);
        other.applied(order.revision, 2).await;
    };
    let ((receipt, took), ()) = tokio::join!(receipt(&here, &key, LONG), hearing);
    assert_eq!((receipt.nodes_acked, receipt.nodes_total, receipt.streams_cut), (2, 2, 3), "{receipt:?}");
    assert!(is_certain(&receipt) && took < Duration::from_secs(5), "{receipt:?} after {took:?}");
    assert!(u128::from(receipt.took_us) <= took.as_micros() && receipt.took_us > 0, "{receipt:?}");
    let entry = here.last_entry().await;
    assert!(entry.detail.contains(r#""nodes_total":2"#) && entry.detail.contains(r#""control_planes_pending":[]"#));
    let mut database = database(here.directory.path()).await;
    let left = "SELECT (SELECT count(*) FROM receipt_questions) + (SELECT count(*) FROM receipt_parts)";
    while sql::query(left).fetch_value::<i64>(&mut database).await.unwrap() != Some(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop((one, other, database));
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_node_of_another_control_plane_that_does_not_answer_is_named_and_bounds_the_receipt() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let mut one = Watcher::connect(&here, 1, key.revision).await;
    let mut other = Watcher::connect(&there, 2, there.revision().await).await;
    let before = SystemClock.now().millis();
    let hearing = async {
        let order = one.order().await;
        one.applied(order.revision, 0).await;
        other.order().await.revision
    };
    let ((some, took), revision) = tokio::join!(receipt(&here, &key, 1_000), hearing);
    assert_eq!((some.nodes_acked, some.nodes_total), (1, 2), "{some:?}");
    assert_eq!(some.nodes_pending, [NodeId::from_bytes([2; 16]).to_string()]);
    assert!(some.control_planes_pending.is_empty(), "it has answered: {some:?}");
    assert!((25_000..=31_000).contains(&(some.effective_by_ms - before)), "{some:?}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    // Asked again once it has, also at the other one, all is told anew.
    other.applied(revision, 0).await;
    for plane in [&here, &there] {
        let (all, took) = receipt(plane, &key, LONG).await;
        assert_eq!((all.nodes_acked, all.nodes_total, all.revision), (2, 2, revision), "{all:?}");
        assert!(is_certain(&all) && took < Duration::from_secs(5), "{all:?} after {took:?}");
    }
    drop((one, other));
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_node_that_went_to_another_control_plane_counts_once_and_is_not_waited_for_where_it_was() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    for (asked, had) in [(&here, &there), (&there, &here)] {
        drop(Watcher::connect(had, 1, key.revision).await);
        let (key, _) = asked.make_key("doomed").await;
        let mut node = Watcher::connect(asked, 1, key.revision).await;
        let hearing = async {
            let order = node.order().await;
            node.applied(order.revision, 1).await;
        };
        let ((receipt, took), ()) = tokio::join!(receipt(asked, &key, LONG), hearing);
        assert_eq!((receipt.nodes_acked, receipt.nodes_total, receipt.streams_cut), (1, 1, 1), "{receipt:?}");
        assert!(is_certain(&receipt) && took < Duration::from_secs(5), "{receipt:?} after {took:?}");
    }
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_control_plane_that_is_stopped_is_named_and_its_nodes_are_taken_to_serve_until_the_bound() {
    let here = Plane::start().await;
    let (key, _) = here.make_key("doomed").await;
    one_that_is_stopped(&here, "stopped:/a").await;
    let (waited, took) = receipt(&here, &key, 400).await;
    assert_eq!(waited.control_planes_pending, ["stopped:/a"]);
    assert!(took >= Duration::from_millis(400) && (25_000..=30_000).contains(&ahead(&waited)), "{waited:?}");
    assert!(here.last_entry().await.detail.contains(r#""control_planes_pending":["stopped:/a"]"#));

    // One that has missed its turns is not waited for, and named all the same.
    write(&here, format!("UPDATE control_planes SET seen_at = {NOW} - 60000000000 WHERE name LIKE 'stopped%'")).await;
    let (unwaited, took) = receipt(&here, &key, LONG).await;
    assert_eq!(unwaited.control_planes_pending, ["stopped:/a"]);
    assert!(took < Duration::from_secs(5) && ahead(&unwaited) >= 25_000, "{unwaited:?} after {took:?}");

    // Once it is gone, its nodes count from then on; ten seconds are added for what clocks hide.
    write(&here, format!("UPDATE control_planes SET gone_at = {NOW} - 20000000000 WHERE name LIKE 'stopped%'")).await;
    let (gone, _) = receipt(&here, &key, LONG).await;
    assert_eq!(gone.control_planes_pending, ["stopped:/a"]);
    assert!((15_000..=20_000).contains(&ahead(&gone)), "{gone:?}");
    write(&here, format!("UPDATE control_planes SET gone_at = {NOW} - 41000000000 WHERE name LIKE 'stopped%'")).await;
    let (over, _) = receipt(&here, &key, LONG).await;
    assert!(is_certain(&over), "{over:?}");

    // A longer bound of the key reaches further back.
    let policy = Some(admin::Policy { max_staleness_seconds: Some(300), ..Default::default() });
    let request = admin::CreateKeyRequest { name: "patient".to_owned(), policy, ..Default::default() };
    let patient = here.keys().create_key(request).await.unwrap().into_inner().key.unwrap();
    let (patient, _) = receipt(&here, &patient, LONG).await;
    assert_eq!(patient.control_planes_pending, ["stopped:/a"]);
    assert!((240_000..=270_000).contains(&ahead(&patient)), "{patient:?}");
    here.stop().await;
}

#[tokio::test]
async fn i_13_the_nodes_of_a_control_plane_that_left_count_until_they_are_heard_elsewhere() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let node = Watcher::connect(&there, 1, there.revision().await).await;
    drop(node);
    there.stop().await;
    let (lost, _) = receipt(&here, &key, 0).await;
    assert_eq!((lost.nodes_acked, lost.nodes_total), (0, 1), "{lost:?}");
    assert_eq!(lost.nodes_pending, [NodeId::from_bytes([1; 16]).to_string()]);
    assert!(lost.control_planes_pending.is_empty() && (20_000..=30_000).contains(&ahead(&lost)), "{lost:?}");
    let mut node = Watcher::connect(&here, 1, key.revision).await;
    let order = node.order().await;
    node.applied(order.revision, 0).await;
    let (found, took) = receipt(&here, &key, LONG).await;
    assert_eq!((found.nodes_acked, found.nodes_total), (1, 1), "{found:?}");
    assert!(is_certain(&found) && took < Duration::from_secs(5), "{found:?} after {took:?}");
    drop(node);
    here.stop().await;
}

#[tokio::test]
async fn i_13_after_a_restart_of_all_nobody_knows_which_nodes_there_were() {
    let here = Plane::start().await;
    let (key, _) = here.make_key("doomed").await;
    let here = Plane::start_again(here.stop().await).await;
    let (alone, _) = receipt(&here, &key, LONG).await;
    assert!(alone.control_planes_pending.is_empty() && (25_000..=30_000).contains(&ahead(&alone)), "{alone:?}");
    // One that joins knows no more than the one that is there.
    let there = plane_beside(&here).await;
    let (joined, _) = receipt(&there, &key, LONG).await;
    assert!((20_000..=30_000).contains(&ahead(&joined)), "{joined:?}");
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_one_that_was_taken_for_gone_assures_nobody_before_it_is_in_the_registry_again() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let mut node = Watcher::connect(&there, 1, there.revision().await).await;
    node.beat(1).await;
    assert!(matches!(node.receive().await, Message::Echo(echo) if echo.number == 1));
    let gone = format!("UPDATE control_planes SET gone_at = {NOW} WHERE name LIKE '%{}'", name(&there));
    assert_eq!(write(&here, gone).await, 1);
    node.beat(2).await;
    assert!(matches!(node.receive().await, Message::Echo(echo) if echo.number == 2));
    let mut database = database(here.directory.path()).await;
    let there_again = "SELECT count(*) FROM control_planes WHERE gone_at IS NULL";
    assert_eq!(sql::query(there_again).fetch_value::<i64>(&mut database).await.unwrap(), Some(2));
    let hearing = async {
        let order = node.order().await;
        node.applied(order.revision, 0).await;
    };
    let ((receipt, _), ()) = tokio::join!(receipt(&here, &key, LONG), hearing);
    assert_eq!((receipt.nodes_acked, receipt.nodes_total), (1, 1), "{receipt:?}");
    assert!(is_certain(&receipt), "{receipt:?}");
    drop((node, database));
    there.stop().await;
    here.stop().await;
}
