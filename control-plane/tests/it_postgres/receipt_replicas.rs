//! Receipts of control planes that share a database: they count the nodes of all, and say of whom they cannot know.

use std::sync::Arc;
use std::time::Duration;

use keyforge_control_plane::admin::deployment;
use keyforge_control_plane::config::Config;
use keyforge_control_plane::instance::Instance;
use keyforge_control_plane::store::control_planes::{self, Gone, KnownPlane};
use keyforge_control_plane::store::{Store, sql};
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1::watch_response::Message;
use keyforge_shared::clock::{Clock as _, SystemClock, Timestamp};
use keyforge_shared::id::NodeId;
use keyforge_shared::row_seal::RowSealKey;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::beside::{directory_beside, plane_beside};
use crate::plane::{Plane, database};
use crate::receipts::{Watcher, revoke};
use crate::stores;

const LONG: u32 = 10_000;
/// Revocations in a row.
const ROUNDS: usize = 7;
/// Well below the second after which a control plane looks that nobody tells anything.
const TOLD: Duration = Duration::from_millis(500);
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

/// Writes rows of the registry as a control plane does.
struct Writer {
    store: Store,
    key: RowSealKey,
    _directory: TempDir,
}

impl Writer {
    async fn beside(plane: &Plane) -> Self {
        let directory = directory_beside(plane.directory.path());
        let (data, clock) = (directory.path().join("data"), Arc::new(SystemClock));
        let database = stores::database_of(directory.path());
        let store = Store::open_configured(&data, database.as_ref(), clock.clone()).await.unwrap();
        let (instance, config) =
            (Instance::new(&data).unwrap(), Config::local(data.clone(), "127.0.0.1:0".parse().unwrap()));
        let opened = deployment::open(&store, &data, &config.vault, &instance, clock).await.unwrap();
        Self { store, key: opened.audit.row_seal_key(), _directory: directory }
    }

    /// One that was last seen and went so many seconds ago.
    async fn write(&self, name: &str, (seen, gone): (u64, Option<u64>)) {
        let mut tx = self.store.write().await.unwrap();
        let now = control_planes::now(&mut tx).await.unwrap();
        let ago = |seconds: u64| Timestamp::from_nanos(now.nanos() - i64::try_from(seconds).unwrap() * 1_000_000_000);
        let mut id = [0; 16];
        id[..name.len()].copy_from_slice(name.as_bytes());
        let gone = gone.map(|gone| Gone { at: ago(gone), left: None });
        let (known_since, max_staleness) = (ago(3_600), Duration::from_secs(30));
        let row = KnownPlane { id, name: name.to_owned(), known_since, max_staleness, seen_at: ago(seen), gone };
        let seal = self.key.seal("control_planes", &row.canonical());
        control_planes::put(&mut tx, &row, &seal).await.unwrap();
        tx.commit().await.unwrap();
    }
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
    let left = "SELECT (SELECT count(*) FROM receipt_questions) + (SELECT count(*) FROM receipt_answers)";
    while sql::query(left).fetch_value::<i64>(&mut database).await.unwrap() != Some(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop((one, other, database));
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_the_database_tells_another_control_plane_of_a_revocation_well_before_it_would_look() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let mut keys = Vec::new();
    for number in 0..ROUNDS {
        keys.push(here.make_key(&format!("agent {number}")).await.0);
    }
    // It asks for no look, because it sends no beats. Each order but the first comes just after a look.
    let mut watcher = Watcher::connect(&there, 1, there.revision().await).await;
    let mut took = Vec::new();
    for key in &keys {
        let called = Instant::now();
        let hearing = async {
            let order = watcher.order().await;
            assert_eq!(order.key_id, key.id);
            watcher.applied(order.revision, 0).await;
            called.elapsed()
        };
        let ((receipt, _), heard) = tokio::join!(receipt(&here, key, LONG), hearing);
        assert!(is_certain(&receipt), "{receipt:?}");
        took.push((heard, Duration::from_micros(receipt.took_us)));
    }
    // A host that is busy may be late a few times, but not most of the time.
    let median = |of: fn(&(Duration, Duration)) -> Duration| {
        let mut all: Vec<_> = took.iter().map(of).collect();
        all.sort_unstable();
        all[ROUNDS / 2]
    };
    assert!(median(|took| took.0) < TOLD && median(|took| took.1) < TOLD, "{took:?}");
    drop(watcher);
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
    let registry = Writer::beside(&here).await;
    registry.write("stopped:/a", (0, None)).await;
    let (waited, took) = receipt(&here, &key, 400).await;
    assert_eq!(waited.control_planes_pending, ["stopped:/a"]);
    assert!(took >= Duration::from_millis(400) && (25_000..=30_000).contains(&ahead(&waited)), "{waited:?}");
    assert!(here.last_entry().await.detail.contains(r#""control_planes_pending":["stopped:/a"]"#));

    // Once it is gone, its nodes count from then on; ten seconds are added for what clocks hide.
    registry.write("stopped:/a", (0, Some(20))).await;
    let (gone, _) = receipt(&here, &key, LONG).await;
    assert_eq!(gone.control_planes_pending, ["stopped:/a"]);
    assert!((15_000..=20_000).contains(&ahead(&gone)), "{gone:?}");
    registry.write("stopped:/a", (0, Some(41))).await;
    let (over, _) = receipt(&here, &key, LONG).await;
    assert!(is_certain(&over), "{over:?}");

    // One that has missed its turns is not waited for, and named all the same.
    registry.write("stopped:/b", (60, None)).await;
    let (unwaited, took) = receipt(&here, &key, LONG).await;
    assert_eq!(unwaited.control_planes_pending, ["stopped:/b"]);
    assert!(took < Duration::from_secs(5) && ahead(&unwaited) >= 25_000, "{unwaited:?} after {took:?}");
    registry.write("stopped:/b", (60, Some(41))).await;

    // A longer bound of the key reaches further back.
    let policy = Some(admin::Policy { max_staleness_seconds: Some(300), ..Default::default() });
    let request = admin::CreateKeyRequest { name: "patient".to_owned(), policy, ..Default::default() };
    let patient = here.keys().create_key(request).await.unwrap().into_inner().key.unwrap();
    let (patient, _) = receipt(&here, &patient, LONG).await;
    assert_eq!(patient.control_planes_pending, ["stopped:/a", "stopped:/b"]);
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
async fn i_13_a_control_plane_that_drains_tells_how_far_its_nodes_are_for_as_long_as_it_takes() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let mut node = Watcher::connect(&there, 1, there.revision().await).await;
    node.beat(1).await;
    assert!(matches!(node.receive().await, Message::Echo(echo) if echo.number == 1));
    // A call that runs for a while.
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    drop(there.shutdown.spawn("call", finished));
    there.shutdown.trigger();
    while there.running.fleet().nodes().iter().any(|(_, seen)| seen.watches > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 0..3 {
        let (key, _) = here.make_key(&format!("agent {number}")).await;
        let (receipt, _) = receipt(&here, &key, 1_000).await;
        assert_eq!((receipt.nodes_acked, receipt.nodes_total), (0, 1), "{receipt:?}");
        assert!(receipt.control_planes_pending.is_empty(), "it is there: {receipt:?}");
        assert!((15_000..=30_000).contains(&ahead(&receipt)), "{receipt:?}");
    }
    finish.send(()).unwrap();
    there.stop().await;
    let (key, _) = here.make_key("doomed").await;
    let (left, _) = receipt(&here, &key, 0).await;
    assert!(left.nodes_total == 1 && left.control_planes_pending.is_empty(), "{left:?}");
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

#[tokio::test]
async fn i_13_an_answer_or_a_row_that_somebody_else_wrote_makes_no_acknowledgement() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let mut other = Watcher::connect(&there, 2, there.revision().await).await;
    // It says in the database that all is done as soon as anything is answered; and it says so again and again.
    let forged = "CREATE FUNCTION forge() RETURNS trigger AS $$ BEGIN NEW.is_settled := 1; NEW.acked := NEW.acked || NEW.pending; \
                  NEW.pending := ''; RETURN NEW; END $$ LANGUAGE plpgsql";
    write(&here, forged.to_owned()).await;
    let trigger =
        "CREATE TRIGGER forge BEFORE INSERT OR UPDATE ON receipt_answers FOR EACH ROW EXECUTE FUNCTION forge()";
    write(&here, trigger.to_owned()).await;
    let hearing = async { other.order().await.revision };
    let ((forged, _), revision) = tokio::join!(receipt(&here, &key, 1_000), hearing);
    assert_eq!((forged.nodes_acked, forged.control_planes_pending.len()), (0, 1), "{forged:?}");
    assert!(ahead(&forged) >= 25_000, "{forged:?}");
    write(&here, "DROP TRIGGER forge ON receipt_answers".to_owned()).await;
    other.applied(revision, 0).await;
    let (all, _) = receipt(&here, &key, LONG).await;
    assert!(is_certain(&all) && all.nodes_acked == 1, "{all:?}");

    // As if it had gone long ago: it is missed, and says at its next look that it is there.
    let silenced = format!("UPDATE control_planes SET gone_at = 1 WHERE name LIKE '%{}'", name(&there));
    let keep =
        "CREATE FUNCTION keep() RETURNS trigger AS $$ BEGIN NEW.gone_at := 1; RETURN NEW; END $$ LANGUAGE plpgsql";
    write(&here, keep.to_owned()).await;
    let when = format!("WHEN (NEW.name LIKE '%{}')", name(&there));
    let trigger =
        format!("CREATE TRIGGER keep BEFORE UPDATE ON control_planes FOR EACH ROW {when} EXECUTE FUNCTION keep()");
    write(&here, trigger).await;
    assert_eq!(write(&here, silenced).await, 1);
    let (missed, _) = receipt(&here, &key, 0).await;
    assert_eq!(missed.control_planes_pending.len(), 1, "{missed:?}");
    assert!(missed.control_planes_pending[0].ends_with(&name(&there)) && ahead(&missed) >= 25_000, "{missed:?}");
    write(&here, "DROP TRIGGER keep ON control_planes".to_owned()).await;
    drop(other);
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_copy_of_a_node_at_another_control_plane_does_not_acknowledge_for_the_one_that_is_cut_off() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    let original = Watcher::connect_as(&here, (1, 1), key.revision).await;
    let mut copy = Watcher::connect_as(&there, (1, 2), there.revision().await).await;
    // The one that is to be cut off was there after its copy came.
    let mut original = original;
    original.beat(1).await;
    assert!(matches!(original.receive().await, Message::Echo(_)));
    drop(original);
    for asked in [&here, &there] {
        let (key, _) = asked.make_key("doomed").await;
        let hearing = async {
            let order = copy.order().await;
            copy.applied(order.revision, 1).await;
        };
        let ((receipt, _), ()) = tokio::join!(receipt(asked, &key, 1_500), hearing);
        assert_eq!((receipt.nodes_acked, receipt.nodes_total, receipt.streams_cut), (0, 1, 1), "{receipt:?}");
        assert!(receipt.control_planes_pending.is_empty() && ahead(&receipt) >= 20_000, "{receipt:?}");
    }
    drop(copy);
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn i_13_a_node_that_was_started_again_and_came_to_another_control_plane_is_not_waited_for_where_it_was() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("doomed").await;
    drop(Watcher::connect_as(&here, (1, 1), key.revision).await);
    // Parts tell ages, and a start takes longer than an answer.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut again = Watcher::connect_as(&there, (1, 2), there.revision().await).await;
    for asked in [&here, &there] {
        let (key, _) = asked.make_key("doomed").await;
        let hearing = async {
            let order = again.order().await;
            again.applied(order.revision, 0).await;
        };
        let ((receipt, took), ()) = tokio::join!(receipt(asked, &key, LONG), hearing);
        assert_eq!((receipt.nodes_acked, receipt.nodes_total), (1, 1), "{receipt:?}");
        assert!(is_certain(&receipt) && took < Duration::from_secs(5), "{receipt:?} after {took:?}");
    }
    drop(again);
    there.stop().await;
    here.stop().await;
}
