//! An installation moves from SQLite to PostgreSQL with everything that it knows, or not at all.

use std::fs;
use std::sync::Arc;

use keyforge_control_plane::config::DatabaseConfig;
use keyforge_control_plane::store::relocate::{RelocateError, Relocated, relocate};
use keyforge_control_plane::store::{MOVED_FILE, StoreError, sql};
use keyforge_loadtest::postgres::shared::shared;
use keyforge_proto::admin::v1 as admin;
use keyforge_shared::clock::SystemClock;
use keyforge_shared::state::State;
use tempfile::TempDir;

use crate::beside::use_database;
use crate::books::{ask, capped_key, clients, records, ship, verdicts};
use crate::plane::{CANARY, Plane, start_in};
use crate::stores::{self, SQLITE_FILE};
use crate::stream::Node;

const RECORDS: u64 = 2_500;

/// A directory whose control plane keeps to SQLite, and an empty database to move to.
fn prepared() -> (TempDir, DatabaseConfig) {
    let directory = tempfile::tempdir().unwrap();
    let url = shared().unwrap().database().unwrap();
    use_database(directory.path(), &url);
    fs::write(directory.path().join(SQLITE_FILE), "").unwrap();
    (directory, DatabaseConfig::local(&url).unwrap())
}

async fn moved(directory: &TempDir, database: &DatabaseConfig) -> Result<Relocated, RelocateError> {
    relocate(&directory.path().join("data"), database, Arc::new(SystemClock)).await
}

#[tokio::test]
async fn installation_goes_on_in_postgresql_where_it_stopped_in_sqlite() {
    let (directory, database) = prepared();
    let plane = Plane::start_again(directory).await;
    plane.add_credential(CANARY).await;
    let key = capped_key(&plane).await;
    let (dead, _) = plane.make_key("dead").await;
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: dead.id, wait_ms: None }).await.unwrap();
    let mut calls = clients(&plane, Some(&plane.fleet_token), Some(&plane.operator_token));
    calls.grants.acquire_grants(ask(&key, 1_000)).await.unwrap();
    for page in records(&plane, &key, 1, RECORDS).await.chunks(500) {
        let number = keyforge_shared::audit::request::RequestRecord::decode(&page[0]).unwrap().node_seq;
        let mut page = ship(page.to_vec());
        page.first_seq = number;
        calls.intake.ship_records(page).await.unwrap();
    }
    let balance = admin::GetBalanceRequest { key_id: key.clone() };
    let before = calls.usage.get_balance(balance.clone()).await.unwrap().into_inner();
    let revision = plane.revision().await;
    let running = moved(&plane.directory, &database).await.unwrap_err();
    assert!(matches!(running, RelocateError::Store(StoreError::Locked(_))), "{running}");
    drop(calls);
    let directory = plane.stop().await;

    let relocated = moved(&directory, &database).await.unwrap();
    assert_eq!(relocated.chains, 3);
    assert!(relocated.entries > RECORDS && relocated.rows > relocated.entries, "{relocated:?}");
    assert!(relocated.settled > 0 && relocated.books > 0, "{relocated:?}");
    // SQLite cannot be started again by mistake.
    let error = start_in(directory.path()).await.err().unwrap().to_string();
    assert!(error.contains("was moved to PostgreSQL"), "{error}");
    let again = moved(&directory, &database).await.unwrap_err();
    assert!(matches!(again, RelocateError::NoSource(_)), "{again}");

    fs::remove_file(directory.path().join(SQLITE_FILE)).unwrap();
    let plane = Plane::start_again(directory).await;
    assert_eq!(plane.revision().await, revision);
    let mut calls = clients(&plane, Some(&plane.fleet_token), Some(&plane.operator_token));
    assert_eq!(calls.usage.get_balance(balance).await.unwrap().into_inner(), before);
    let verdicts = verdicts(&mut calls.audit).await;
    assert!(verdicts.iter().all(|verdict| verdict.fault.is_empty()), "{verdicts:?}");
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(revision).await;
    // It is written to as before.
    plane.make_key("new").await;
    let mut next = ship(records(&plane, &key, 1, RECORDS + 1).await.split_off(usize::try_from(RECORDS).unwrap()));
    next.first_seq = RECORDS + 1;
    assert_eq!(calls.intake.ship_records(next).await.unwrap().into_inner().watermark, RECORDS + 1);
    drop((calls, node));
    plane.stop().await;
}

#[tokio::test]
async fn database_that_holds_anything_is_refused_and_left_alone() {
    let (first, database) = prepared();
    let first = Plane::start_again(first).await.stop().await;
    moved(&first, &database).await.unwrap();
    let (second, _) = prepared();
    let second = Plane::start_again(second).await.stop().await;
    let error = moved(&second, &database).await.unwrap_err();
    assert!(matches!(error, RelocateError::NotEmpty("deployment")), "{error}");
    assert!(second.path().join("data/control-plane.db").exists());
    Plane::start_again(second).await.stop().await;
    fs::remove_file(first.path().join(SQLITE_FILE)).unwrap();
    Plane::start_again(first).await.stop().await;
}

#[tokio::test]
async fn move_that_was_interrupted_after_its_commit_is_finished_by_moving_again() {
    let (directory, database) = prepared();
    let directory = Plane::start_again(directory).await.stop().await;
    moved(&directory, &database).await.unwrap();
    let data = directory.path().join("data");
    fs::rename(data.join(MOVED_FILE), data.join("control-plane.db")).unwrap();
    let relocated = moved(&directory, &database).await.unwrap();
    assert_eq!(relocated.chains, 1);
    // Once somebody has used it, it is another installation's.
    fs::rename(data.join(MOVED_FILE), data.join("control-plane.db")).unwrap();
    fs::remove_file(directory.path().join(SQLITE_FILE)).unwrap();
    let mut conn = stores::connect(directory.path()).await;
    stores::tamper(&mut conn, "UPDATE chains SET head_seq = head_seq + 1").await;
    let error = moved(&directory, &database).await.unwrap_err();
    assert!(matches!(error, RelocateError::NotEmpty(_)), "{error}");
}

#[tokio::test]
async fn installation_that_contradicts_itself_is_not_moved() {
    let (directory, database) = prepared();
    let directory = Plane::start_again(directory).await.stop().await;
    let mut conn = stores::connect(directory.path()).await;
    sql::query("DELETE FROM entries").execute(&mut conn).await.unwrap();
    drop(conn);
    let error = moved(&directory, &database).await.unwrap_err();
    assert!(matches!(error, RelocateError::Source(_)), "{error}");
    fs::remove_file(directory.path().join(SQLITE_FILE)).unwrap();
    let mut conn = stores::connect(directory.path()).await;
    let rows = sql::query("SELECT count(*) FROM deployment").fetch_value::<i64>(&mut conn).await.unwrap();
    assert_eq!(rows, Some(0), "nothing was left in the target");
}

#[tokio::test]
async fn no_other_installation_is_made_over_the_tokens_of_one_in_postgresql_by_forgetting_to_name_its_database() {
    let plane = Plane::start().await;
    let token = plane.operator_token.clone();
    let directory = plane.stop().await;
    fs::write(directory.path().join(SQLITE_FILE), "").unwrap();
    let error = start_in(directory.path()).await.err().expect("it is refused").to_string();
    assert!(error.contains("control-plane.elsewhere") && error.contains("[database]"), "{error}");
    fs::remove_file(directory.path().join(SQLITE_FILE)).unwrap();
    let again = Plane::start_again(directory).await;
    assert_eq!(again.operator_token, token);
    again.stop().await;
}
