//! What somebody who can write to the database, and has no key, can do to what it should say: nothing that stays unnoticed.
//!
//! Changed workspaces, keys, models, credentials and operators are refused at the next start; records and keys that are gone are told by verification.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use keyforge_control_plane::admin::deployment::OpenError;
use keyforge_control_plane::app::StartError;
use keyforge_control_plane::ledger::{Acquire, Want};
use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::audit_service_client::AuditServiceClient;
use keyforge_shared::id::{LifeId, RequestId};
use keyforge_shared::limit::Dimension;
use keyforge_shared::period::Window;
use keyforge_shared::token::{self, TokenKind};
use prost_types::FieldMask;
use tempfile::TempDir;
use tonic::Code;

use crate::plane::{CANARY, Plane, database, start_in};
use crate::rig::{ADMIN_CHAIN, Key, NODE, Rig, boot, spend_per};
use crate::stores;

fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![path.to_owned()] })
}

/// A closed control plane with everything in it that could be changed.
async fn lived() -> TempDir {
    let plane = Plane::start().await;
    let limits = vec![admin::SpendLimit { nano_usd: 1_000, window: admin::Window::Day.into() }];
    let zone = Some("Europe/Berlin".to_owned());
    let team = admin::CreateWorkspaceRequest {
        name: "team".to_owned(),
        request_limits: vec![admin::RequestLimit { requests: 5, window: admin::Window::Month.into() }],
        spend_limits: limits.clone(),
        ..Default::default()
    };
    plane.workspaces().create_workspace(team).await.unwrap();
    let policy = Some(admin::Policy { spend_limits: limits, time_zone: zone, ..Default::default() });
    let capped = admin::CreateKeyRequest {
        name: "capped".to_owned(),
        policy,
        workspace: "team".to_owned(),
        ..Default::default()
    };
    plane.keys().create_key(capped).await.unwrap();
    plane.make_key("free").await;
    let (dead, _) = plane.make_key("dead").await;
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: dead.id, wait_ms: None }).await.unwrap();
    plane.add_credential(CANARY).await;
    plane.stop().await
}

fn copy(from: &TempDir) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(to.path().join("data")).unwrap();
    for entry in std::fs::read_dir(from.path().join("data")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join("data").join(entry.file_name())).unwrap();
    }
    stores::copy_database(from, to.path());
    to
}

async fn tamper(directory: &Path, sql: &'static str) -> u64 {
    let mut database = database(directory).await;
    stores::tamper(&mut database, sql).await
}

async fn assert_refused(directory: &Path, what: &str) {
    let started = start_in(directory).await;
    assert!(started.is_err(), "it started after: {what}");
    let error = started.err().unwrap();
    assert!(matches!(error, StartError::Deployment(OpenError::StateChanged)), "{what}: {error}");
    for words in
        ["workspaces, keys, models, credentials or operators", "restore the database from a backup", "chain says"]
    {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn changed_workspaces_keys_models_credentials_and_operators_are_refused_at_start() {
    let original = lived().await;
    for sql in [
        "UPDATE credentials SET base_url = 'https://attacker.example/v1'",
        "UPDATE credentials SET provider = 'anthropic'",
        "UPDATE credentials SET pool = 'other'",
        "UPDATE credentials SET limit_group = 'other'",
        "UPDATE credentials SET enabled = 0",
        "UPDATE credentials SET secret_version = 2",
        "DELETE FROM credentials",
        "INSERT INTO credentials SELECT zeroblob(16), provider, pool, base_url, limit_group, 1, 1, 0, 1 FROM credentials",
        "UPDATE credentials SET weight = 9",
        "UPDATE workspaces SET request_limits = '[]' WHERE name = 'team'",
        "UPDATE workspaces SET spend_limits = '[]' WHERE name = 'team'",
        "UPDATE workspaces SET spend_limits = json_set(spend_limits, '$[0].amount', 9000000) WHERE name = 'team'",
        "UPDATE workspaces SET name = 'renamed' WHERE name = 'team'",
        "UPDATE workspaces SET workspace_id = zeroblob(16) WHERE name = 'team'",
        "DELETE FROM workspaces WHERE name = 'default'",
        "INSERT INTO workspaces VALUES (zeroblob(16), 'another', '[]', '[]', 0, 1, 'unlimited')",
        "UPDATE virtual_keys SET workspace_id = (SELECT workspace_id FROM workspaces WHERE name = 'default') WHERE name = 'capped'",
        "UPDATE virtual_keys SET policy = json_set(policy, '$.time_zone', 'Asia/Tokyo') WHERE name = 'capped'",
        "UPDATE virtual_keys SET policy = json_set(policy, '$.tokens_per_minute', 1) WHERE name = 'capped'",
        "UPDATE virtual_keys SET policy = json_set(policy, '$.concurrent_requests', 1) WHERE name = 'capped'",
        "UPDATE virtual_keys SET policy = (SELECT policy FROM virtual_keys WHERE name = 'free') WHERE name = 'capped'",
        "UPDATE virtual_keys SET status = 'active', revoked_at = NULL WHERE name = 'dead'",
        "UPDATE virtual_keys SET status_revision = 1000 WHERE name = 'capped'",
        "UPDATE virtual_keys SET token_digest = zeroblob(32) WHERE name = 'capped'",
        "UPDATE virtual_keys SET former_digest = zeroblob(32) WHERE name = 'capped'",
        "UPDATE virtual_keys SET policy = replace(policy, '\"networks\":[]', '\"networks\":[\"::/0\"]') WHERE name = 'capped'",
        "UPDATE virtual_keys SET policy = replace(policy, '\"endpoints\":[]', '\"endpoints\":[\"chat\"]') WHERE name = 'capped'",
        "UPDATE virtual_keys SET chain_id = zeroblob(16) WHERE name = 'capped'",
        "UPDATE virtual_keys SET name = 'renamed' WHERE name = 'capped'",
        "DELETE FROM virtual_keys WHERE name = 'dead'",
        "INSERT INTO virtual_keys SELECT 'abcdefghijkl', zeroblob(32), name, status, policy, zeroblob(16), workspace_id, 0, NULL, 1, 0, NULL, NULL, NULL \
         FROM virtual_keys \
         WHERE name = 'free'",
        "UPDATE models SET model = json_set(model, '$.prices.standard.input', 0) WHERE name = 'gpt-5-mini'",
        "UPDATE models SET model = json_set(model, '$.max_output_tokens', 1) WHERE name = 'gpt-5-mini'",
        "DELETE FROM models WHERE name = 'gpt-5-mini'",
        "DELETE FROM models",
        "INSERT INTO models SELECT 'x', json_set(model, '$.name', 'x') FROM models WHERE name = 'gpt-5-mini'",
        "INSERT INTO operators (operator_id, name, token_digest, created_at) VALUES (zeroblob(16), 'me, too', zeroblob(32), 0)",
        "UPDATE operators SET role = 'viewer'",
        "UPDATE operators SET workspace_id = zeroblob(16)",
        "UPDATE operators SET expires_at = 9000000000000000000",
        "UPDATE operators SET revoked_at = 0",
        "UPDATE workspaces SET plan = 'free' WHERE name = 'team'",
        "UPDATE operators SET token_digest = zeroblob(32)",
        "UPDATE operators SET operator_id = zeroblob(16)",
        "DELETE FROM operators",
        "UPDATE deployment SET revision = revision + 1",
        "UPDATE deployment SET state_seal = zeroblob(32)",
        "UPDATE deployment SET state_seal = x''",
    ] {
        let directory = copy(&original);
        assert!(tamper(directory.path(), sql).await > 0, "{sql}");
        assert_refused(directory.path(), sql).await;
        stores::forget(directory.path());
    }
    Plane::start_again(copy(&original)).await.stop().await;
}

#[tokio::test]
async fn seal_of_an_earlier_revision_does_not_hold_for_a_later_state() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("agent").await;
    let keep = "CREATE TABLE kept AS SELECT state_seal, revision FROM deployment";
    tamper(plane.directory.path(), keep).await;
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: key.id, wait_ms: None }).await.unwrap();
    let directory = plane.stop().await;
    tamper(directory.path(), "UPDATE deployment SET (state_seal, revision) = (SELECT * FROM kept)").await;
    assert_refused(directory.path(), "an older seal").await;
}

#[tokio::test]
async fn seal_stays_right_through_every_kind_of_change_and_every_restart() {
    let mut plane = Plane::start().await;
    for round in 0..3 {
        let (key, _) = plane.make_key("agent").await;
        for number in 0..20 {
            let id = key.id.clone();
            let (name, update_mask) = (format!("agent {round} {number}"), mask("name"));
            let rename = admin::UpdateKeyRequest { id, name, update_mask, ..Default::default() };
            plane.keys().update_key(rename).await.unwrap();
        }
        let limit = admin::RequestLimit { requests: 5, window: admin::Window::Week.into() };
        let policy = admin::Policy {
            models: vec!["gpt-*".to_owned()],
            request_limits: vec![limit],
            requests_per_minute: Some(7),
            expires_at_ms: Some(4_000_000_000_001),
            tokens_per_minute: Some(70_000),
            concurrent_requests: Some(3),
            ..Default::default()
        };
        let id = key.id.clone();
        let update = admin::UpdateKeyRequest {
            id: id.clone(),
            policy: Some(policy),
            paused: true,
            update_mask: Some(FieldMask { paths: vec!["policy".to_owned(), "paused".to_owned()] }),
            ..Default::default()
        };
        plane.keys().update_key(update).await.unwrap();
        plane = Plane::start_again(plane.stop().await).await;
        plane.keys().revoke_key(admin::RevokeKeyRequest { id, wait_ms: None }).await.unwrap();
        change_workspaces(&plane, round).await;
        change_credentials(&plane).await;
        change_models(&plane).await;
        plane = Plane::start_again(plane.stop().await).await;
    }
    assert_eq!(faults(&plane).await, []);
    plane.stop().await;
}

async fn change_workspaces(plane: &Plane, round: u64) {
    let name = format!("team {round}");
    let team = admin::CreateWorkspaceRequest { name: name.clone(), ..Default::default() };
    plane.workspaces().create_workspace(team).await.unwrap();
    let spend_limits = vec![admin::SpendLimit { nano_usd: round, window: admin::Window::Total.into() }];
    for workspace in [name, "default".to_owned()] {
        let update = admin::UpdateWorkspaceRequest {
            workspace,
            spend_limits: spend_limits.clone(),
            update_mask: mask("spend_limits"),
            ..Default::default()
        };
        plane.workspaces().update_workspace(update).await.unwrap();
    }
}

async fn change_credentials(plane: &Plane) {
    let (kept, removed) = (plane.add_credential(CANARY).await, plane.add_credential(CANARY).await);
    let (id, base_url) = (kept.id.clone(), "https://proxy.example/v1".to_owned());
    let update = admin::UpdateCredentialRequest { id, base_url, update_mask: mask("base_url"), ..Default::default() };
    plane.credentials().update_credential(update).await.unwrap();
    let rotate = admin::RotateCredentialRequest { id: kept.id, secret: CANARY.as_bytes().to_vec() };
    plane.credentials().rotate_credential(rotate).await.unwrap();
    plane.credentials().remove_credential(admin::RemoveCredentialRequest { id: removed.id }).await.unwrap();
}

async fn change_models(plane: &Plane) {
    let model = admin::Model {
        name: "local".to_owned(),
        provider: "sandbox".to_owned(),
        upstream_name: "local".to_owned(),
        operation: admin::Operation::Chat.into(),
        context_tokens: Some(1_000),
        prices: Some(admin::Prices { standard: Some(admin::Rates::default()), ..Default::default() }),
        source: format!("revision {}", plane.revision().await),
        as_of: "2026-11-22".to_owned(),
        ..Default::default()
    };
    for name in ["local", "gone"] {
        let model = Some(admin::Model { name: name.to_owned(), ..model.clone() });
        plane.models().set_model(admin::SetModelRequest { model }).await.unwrap();
    }
    plane.models().remove_model(admin::RemoveModelRequest { name: "gone".to_owned() }).await.unwrap();
}

#[tokio::test]
async fn what_was_changed_under_a_running_control_plane_is_neither_served_nor_sealed() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("agent").await;
    let credential = plane.add_credential(CANARY).await;
    tamper(plane.directory.path(), "UPDATE virtual_keys SET policy = json_set(policy, '$.max_output_tokens', 1)").await;
    tamper(plane.directory.path(), "UPDATE credentials SET base_url = 'https://attacker.example/v1'").await;
    let rename =
        admin::UpdateKeyRequest { id: key.id, name: "new".to_owned(), update_mask: mask("name"), ..Default::default() };
    let status = plane.keys().update_key(rename).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    let rotate = admin::RotateCredentialRequest { id: credential.id, secret: CANARY.as_bytes().to_vec() };
    assert!(plane.credentials().rotate_credential(rotate).await.is_err());
    let limit = r#"UPDATE workspaces SET request_limits = '[{"requests": 1, "window": "day"}]'"#;
    assert_eq!(tamper(plane.directory.path(), limit).await, 1);
    let (workspace, update_mask) = ("default".to_owned(), mask("spend_limits"));
    let update = admin::UpdateWorkspaceRequest { workspace, update_mask, ..Default::default() };
    assert_eq!(plane.workspaces().update_workspace(update).await.unwrap_err().code(), Code::Internal);
    // A change of something else goes through, and its seal does not cover what the other program wrote.
    plane.make_key("other").await;
    let directory = plane.stop().await;
    assert_refused(directory.path(), "changed while running").await;
}

#[tokio::test]
async fn operator_who_was_inserted_under_a_running_control_plane_is_a_stranger() {
    let plane = Plane::start().await;
    let token = token::generate(TokenKind::Operator).unwrap();
    let mut database = database(plane.directory.path()).await;
    let insert =
        "INSERT INTO operators (operator_id, name, token_digest, created_at) VALUES (zeroblob(16), 'me, too', $1, 0)";
    let insert = sql::query(insert);
    insert.bind(token::digest(token.as_bytes()).0.to_vec()).execute(&mut database).await.unwrap();
    drop(database);
    let (channel, bearer) = plane.with(Some(&token));
    let mut audit = AuditServiceClient::with_interceptor(channel, bearer);
    let status = audit.list_entries(admin::ListEntriesRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    drop(audit);
    let directory = plane.stop().await;
    assert_refused(directory.path(), "an operator").await;
}

#[tokio::test]
async fn i_18_a_state_that_was_replaced_by_an_older_one_with_its_seal_is_found() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("agent").await;
    for sql in ["CREATE TABLE old_keys AS SELECT * FROM virtual_keys", "CREATE TABLE kept AS SELECT * FROM deployment"]
    {
        tamper(plane.directory.path(), sql).await;
    }
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: None }).await.unwrap();
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: key.id, wait_ms: None }).await.unwrap();
    assert_eq!(faults(&plane).await, [], "what was done again and changed nothing does not count");
    let directory = plane.stop().await;
    for sql in [
        "DELETE FROM virtual_keys",
        "INSERT INTO virtual_keys SELECT * FROM old_keys",
        "DELETE FROM deployment",
        "INSERT INTO deployment SELECT * FROM kept",
    ] {
        tamper(directory.path(), sql).await;
    }
    let plane = Plane::start_again(directory).await;
    let found = faults(&plane).await;
    let [(of, seq, fault)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((of.as_str(), *seq), ("", None));
    assert!(fault.contains("revision 2, but the changes of this chain lead to 3"), "{fault}");
    plane.stop().await;
}

/// What is wrong according to `audit verify --all`: key, first bad entry, fault.
async fn faults(plane: &Plane) -> Vec<(String, Option<u64>, String)> {
    let (channel, bearer) = plane.with(Some(&plane.operator_token));
    let mut audit = AuditServiceClient::with_interceptor(channel, bearer);
    let mut stream = audit.verify_chains(admin::VerifyChainsRequest { chain: None }).await.unwrap().into_inner();
    let mut faults = Vec::new();
    while let Some(verdict) = stream.message().await.unwrap() {
        if !verdict.fault.is_empty() {
            faults.push((verdict.key_id, verdict.first_bad_seq, verdict.fault));
        }
    }
    faults
}

#[tokio::test]
async fn i_18_a_key_that_was_deleted_with_all_its_rows_is_missed_by_name() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("gone").await;
    plane.make_key("stays").await;
    assert_eq!(faults(&plane).await, []);
    tamper(
        plane.directory.path(),
        "DELETE FROM chains WHERE key_id = (SELECT key_id FROM virtual_keys WHERE name = 'gone')",
    )
    .await;
    tamper(plane.directory.path(), "DELETE FROM virtual_keys WHERE name = 'gone'").await;
    let found = faults(&plane).await;
    let [(of, seq, fault)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((of.as_str(), *seq), ("", None), "told of the administrators' chain, and of no entry");
    assert!(fault.contains(&key.id) && fault.contains("deleted"), "{fault}");
    let directory = plane.stop().await;
    assert_refused(directory.path(), "a deleted key").await;
}

/// Two keys with grants of one life of a node.
async fn two_keys(rig: &Rig) -> [(Key, u32); 2] {
    let mut keys = Vec::new();
    for n in [1, 2] {
        let key = rig.key(n, spend_per(Window::Day, 1_000_000)).await;
        let wants = vec![Want { counter: rig.counter(key, Dimension::Spend, Window::Day), amount: 100 }];
        let life = LifeId::from_bytes([n; 16]);
        let granted = rig.ledger.acquire(&Acquire { boot: boot(1), life, key: key.id, wants }).await.unwrap();
        keys.push((key, granted.epoch));
    }
    [keys[0], keys[1]]
}

async fn ship(rig: &Rig, (key, epoch): (Key, u32), seqs: std::ops::RangeInclusive<u64>) {
    let records: Vec<_> = seqs.map(|seq| rig.record(key, boot(1), seq, epoch, 10)).collect();
    rig.ship(boot(1), &records).await.unwrap();
}

/// Copies of the first key's rows, as from a backup.
async fn back_up(rig: &Rig) {
    for sql in [
        "CREATE TABLE old_chains AS SELECT * FROM chains WHERE key_id = 'key000000001'",
        "CREATE TABLE old_entries AS SELECT * FROM entries WHERE chain_id = x'01010101010101010101010101010101'",
        "CREATE TABLE old_grants AS SELECT * FROM grants WHERE key_id = 'key000000001'",
        "CREATE TABLE old_epochs AS SELECT * FROM epochs WHERE key_id = 'key000000001'",
        "CREATE TABLE old_members AS SELECT * FROM epoch_members WHERE key_id = 'key000000001'",
        "CREATE TABLE old_usage_by_day AS SELECT * FROM usage_by_day WHERE key_id = 'key000000001'",
    ] {
        rig.tamper(sql).await;
    }
}

async fn roll_back(rig: &Rig) {
    for sql in [
        "DELETE FROM chains WHERE key_id = 'key000000001'",
        "DELETE FROM entries WHERE chain_id = x'01010101010101010101010101010101'",
        "DELETE FROM grants WHERE key_id = 'key000000001'",
        "DELETE FROM epoch_members WHERE key_id = 'key000000001'",
        "DELETE FROM epochs WHERE key_id = 'key000000001'",
        "DELETE FROM usage_by_day WHERE key_id = 'key000000001'",
        "INSERT INTO chains SELECT * FROM old_chains",
        "INSERT INTO entries SELECT * FROM old_entries",
        "INSERT INTO epochs SELECT * FROM old_epochs",
        "INSERT INTO epoch_members SELECT * FROM old_members",
        "INSERT INTO grants SELECT * FROM old_grants",
        "INSERT INTO usage_by_day SELECT * FROM old_usage_by_day",
    ] {
        rig.tamper(sql).await;
    }
}

/// The one fault that there is, which names no key and no entry.
async fn only_fault(rig: &Rig) -> String {
    let faults = rig.faults().await;
    assert_eq!(faults.len(), 1, "{faults:?}");
    let verdict = &faults[0];
    assert_eq!((verdict.chain.as_str(), verdict.key.as_str()), (ADMIN_CHAIN.to_string().as_str(), ""));
    assert_eq!(verdict.first_bad_seq, None);
    verdict.fault.clone()
}

#[tokio::test]
async fn i_18_a_key_whose_books_were_replaced_by_older_ones_is_found_by_the_records_it_lost() {
    let rig = Rig::new().await;
    let [first, second] = two_keys(&rig).await;
    ship(&rig, first, 1..=2).await;
    ship(&rig, second, 3..=3).await;
    back_up(&rig).await;
    ship(&rig, first, 4..=5).await;
    assert_eq!(rig.faults().await, []);
    roll_back(&rig).await;
    let fault = only_fault(&rig).await;
    let words = format!("{} has shipped 5 records, but only 3 are chained", boot(1));
    assert!(fault.starts_with(&words), "{fault}");

    let rig = Rig::new().await;
    let [first, second] = two_keys(&rig).await;
    ship(&rig, first, 1..=2).await;
    back_up(&rig).await;
    ship(&rig, first, 3..=5).await;
    ship(&rig, second, 6..=6).await;
    roll_back(&rig).await;
    assert!(only_fault(&rig).await.contains("number 3 is not chained"));
    // A lower watermark does not hide it, as long as anything after it is there.
    rig.tamper("UPDATE boots SET watermark = 3").await;
    assert!(only_fault(&rig).await.contains("number 3 is not chained"));
}

#[tokio::test]
async fn i_18_a_life_that_was_forgotten_or_set_back_is_found() {
    let rig = Rig::new().await;
    let [first, _] = two_keys(&rig).await;
    ship(&rig, first, 1..=4).await;
    rig.tamper("UPDATE boots SET watermark = 3").await;
    assert!(only_fault(&rig).await.contains("its row was replaced"));
    rig.tamper("DELETE FROM boots").await;
    assert!(only_fault(&rig).await.contains("its row was deleted"));
}

#[tokio::test]
async fn a_declared_gap_leaves_every_shipped_record_accounted_for() {
    let rig = Rig::new().await;
    let [first, _] = two_keys(&rig).await;
    ship(&rig, first, 1..=4).await;
    let lost = [RequestId::from_bytes([0x77; 16])];
    rig.audit.report_gap(&rig.store, NODE, boot(1), &lost).await.unwrap();
    rig.audit.report_gap(&rig.store, NODE, boot(9), &[]).await.unwrap();
    assert_eq!(rig.faults().await, []);
    rig.tamper("DELETE FROM entries WHERE boot_id IS NOT NULL").await;
    let faults = rig.faults().await;
    assert!(faults.iter().any(|verdict| verdict.fault.contains("only 0 are chained")), "{faults:?}");
}
