//! The vault over gRPC: rotation to another key, its interruption in the middle, what cannot be opened, and how often a key may seal.

use std::path::Path;

use keyforge_control_plane::store::sql;
use keyforge_control_plane::vault::MOST_WRAPS;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::RotationState;
use keyforge_shared::audit::admin::AdminOutcome;
use tempfile::TempDir;
use tonic::Code;

use crate::plane::{CANARY, CONFIG, Plane, database, start_in};
use crate::stores;

/// Records of the tests: more than three transactions of a rotation.
const MANY: usize = 100;
pub const OLD: &str = "data/vault.key";
pub const NEW: &str = "vault-2.key";

/// Names the vault keys, by their files in the directory, in the configuration.
pub fn configure(directory: &Path, key: &str, previous: &[&str]) {
    let reference = |file: &&str| format!("\"file:{}\"", directory.join(file).display());
    let previous: Vec<_> = previous.iter().map(reference).collect();
    let text = format!(
        "data_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n[vault]\nkey = {}\nprevious = [{}]\n",
        directory.join("data").display(),
        reference(&key),
        previous.join(", ")
    );
    std::fs::write(directory.join(CONFIG), text).unwrap();
}

pub fn write_key(path: &Path, digits: &str) {
    keyforge_runtime::private_file::replace(path, digits.repeat(32).as_bytes()).unwrap();
}

/// A control plane whose configuration names its first key.
pub async fn start() -> Plane {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path(), OLD, &[]);
    Plane::start_again(directory).await
}

/// Makes another key and names it in the configuration, the first one after it.
pub fn replace_key(directory: &TempDir) {
    write_key(&directory.path().join(NEW), "c7");
    configure(directory.path(), NEW, &[OLD]);
}

pub async fn add(plane: &Plane, count: usize) {
    for number in 0..count {
        plane.add_credential(&format!("{CANARY}-{number}")).await;
    }
}

/// Rotates, and gives what was said to the end.
pub async fn rotate(plane: &Plane) -> Vec<admin::RotationProgress> {
    let mut stream = plane.vault().rotate_vault(admin::RotateVaultRequest {}).await.unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(progress) = stream.message().await.unwrap() {
        said.push(progress);
    }
    said
}

pub async fn status(plane: &Plane) -> admin::VaultStatus {
    plane.vault().get_vault_status(admin::GetVaultStatusRequest {}).await.unwrap().into_inner()
}

pub async fn terms(directory: &Path) -> Vec<(i64, i64)> {
    let mut database = database(directory).await;
    let select = "SELECT kek_term, count(*) FROM vault_records GROUP BY kek_term ORDER BY kek_term";
    let rows = sql::query(select).fetch_all(&mut database).await.unwrap();
    rows.iter().map(|row| (row.try_get(0).unwrap(), row.try_get(1).unwrap())).collect()
}

async fn execute(directory: &Path, sql: &'static str) {
    let mut database = database(directory).await;
    let touched = sql::query(sql).execute(&mut database).await.unwrap();
    assert!(touched > 0 || !sql.starts_with("UPDATE"), "{sql}");
}

#[tokio::test]
async fn rotation_seals_everything_anew_and_the_old_key_is_then_needed_for_nothing() {
    let plane = start().await;
    add(&plane, MANY).await;
    let before = status(&plane).await;
    assert_eq!((before.keys.len(), before.keys[0].secrets, before.keys[0].audit_root), (1, 100, true));
    assert_eq!(
        before.keys[0].wraps, 103,
        "each secret once, the audit root key, the check, and the key of the nodes' authority"
    );
    replace_key(&plane.directory);
    let said = rotate(&plane).await;
    let end = said.last().unwrap();
    assert_eq!((end.state(), end.total, end.rewrapped, end.unreadable), (RotationState::Done, 100, 100, 0));
    assert!(said.iter().any(|progress| progress.state() == RotationState::Running), "{said:?}");
    assert_eq!(end.retired, [format!("file:{}", plane.directory.path().join(OLD).display())]);
    assert_eq!(terms(plane.directory.path()).await, [(2, 100)]);

    let after = status(&plane).await;
    let [old, new] = &after.keys[..] else { panic!("{after:?}") };
    assert_eq!(
        (old.secrets, old.audit_root, old.node_authority, old.current, old.wraps),
        (0, false, false, false, 103)
    );
    assert_eq!((new.secrets, new.audit_root, new.node_authority, new.current, new.wraps), (100, true, true, true, 103));
    assert!(after.unreadable.is_empty() && end.key_id == new.id && old.id == before.keys[0].id, "{after:?}");
    let entries = plane.admin_entries().await;
    let acts: Vec<_> = entries.iter().filter(|entry| entry.method.starts_with("vault/Rot")).collect();
    let [begun, ended] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!((begun.method.as_str(), ended.method.as_str()), ("vault/Rotate", "vault/RotationEnded"));
    assert!(begun.operator == ended.operator && begun.target == new.id && ended.target == new.id, "{acts:?}");
    assert!(begun.detail.contains("\"secrets\":100") && ended.detail.contains("\"unreadable\":0"), "{acts:?}");

    // Again, there is nothing to do, and that is an entry, too.
    let again = rotate(&plane).await;
    assert_eq!((again.len(), again[0].state(), again[0].total), (1, RotationState::Done, 0));
    let entry = plane.last_entry().await;
    assert_eq!((entry.method.as_str(), entry.detail.as_str()), ("vault/Rotate", "nothing changed"));
    let directory = plane.stop().await;
    std::fs::remove_file(directory.path().join(OLD)).unwrap();
    configure(directory.path(), NEW, &[]);
    let plane = Plane::start_again(directory).await;
    let listed = plane.credentials().list_credentials(admin::ListCredentialsRequest::default()).await.unwrap();
    assert!(listed.into_inner().credentials.iter().all(|credential| credential.unreadable.is_empty()));
    let after = status(&plane).await;
    assert!(after.keys[0].source.is_empty() && after.unreadable.is_empty(), "{after:?}");
    plane.stop().await;
}

#[tokio::test]
async fn a_rotation_that_is_interrupted_in_the_middle_goes_on_at_the_next_start() {
    let plane = start().await;
    add(&plane, MANY).await;
    // The database refuses to go on when a part of the records is under the new key.
    stores::fill_up_vault_records(&mut database(plane.directory.path()).await, 40).await;
    replace_key(&plane.directory);
    let said = rotate(&plane).await;
    let end = said.last().unwrap();
    assert_eq!((end.state(), end.rewrapped), (RotationState::Interrupted, 32), "{end:?}");
    assert!(end.reason.contains("disk is full") && end.retired.is_empty(), "{end:?}");
    assert_eq!(terms(plane.directory.path()).await, [(1, 68), (2, 32)]);
    // Meanwhile everything can be opened, new secrets are sealed under the new key, and the old key is not given up.
    let added = plane.add_credential("sk-added-in-between").await;
    let between = status(&plane).await;
    assert!(between.unreadable.is_empty() && between.keys[0].audit_root, "{between:?}");
    assert_eq!((between.keys[0].secrets, between.keys[1].secrets), (68, 33));
    plane.credentials().remove_credential(admin::RemoveCredentialRequest { id: added.id }).await.unwrap();

    let directory = plane.stop().await;
    // A start needs both: the old key opens the audit root key, the new one seals.
    for (key, needed) in [(NEW, &between.keys[0].id), (OLD, &between.keys[1].id)] {
        configure(directory.path(), key, &[]);
        let error = start_in(directory.path()).await.err().unwrap().to_string();
        assert!(error.contains(needed) && error.contains("vault.previous"), "{error}");
    }
    stores::make_room_for_vault_records(&mut database(directory.path()).await).await;
    configure(directory.path(), NEW, &[OLD]);
    let plane = Plane::start_again(directory).await;
    let watched = rotate(&plane).await;
    let end = watched.last().unwrap();
    assert_eq!((end.state(), end.total, end.rewrapped), (RotationState::Done, 100, 100), "{watched:?}");
    assert_eq!(terms(plane.directory.path()).await, [(2, 100)]);
    let ends = plane.admin_entries().await.into_iter().filter(|entry| entry.method == "vault/RotationEnded");
    assert_eq!(ends.count(), 1);
    plane.stop().await;
}

#[tokio::test]
async fn a_control_plane_that_is_stopped_during_a_rotation_finishes_it_after_its_next_start() {
    let plane = start().await;
    add(&plane, MANY).await;
    replace_key(&plane.directory);
    let mut stream = plane.vault().rotate_vault(admin::RotateVaultRequest {}).await.unwrap().into_inner();
    while stream.message().await.unwrap().unwrap().rewrapped == 0 {}
    drop(stream);
    let directory = plane.stop().await;
    assert!(terms(directory.path()).await.iter().any(|(term, _)| *term == 2));
    let plane = Plane::start_again(directory).await;
    let end = rotate(&plane).await.pop().unwrap();
    assert_eq!(end.state(), RotationState::Done);
    assert_eq!(terms(plane.directory.path()).await, [(2, 100)]);
    assert!(status(&plane).await.unreadable.is_empty());
    plane.stop().await;
}

#[tokio::test]
async fn keys_that_cannot_be_taken_up_are_refused_and_recorded_and_nothing_changes() {
    let plane = start().await;
    plane.add_credential(CANARY).await;
    let refused = async |plane: &Plane, expected: &str| {
        let status = plane.vault().rotate_vault(admin::RotateVaultRequest {}).await.err().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(expected), "{status}");
        let entry = plane.last_entry().await;
        assert_eq!((entry.method.as_str(), entry.outcome), ("vault/Rotate", AdminOutcome::Failed));
        assert!(entry.detail.contains(expected), "{entry:?}");
    };
    configure(plane.directory.path(), NEW, &[OLD]);
    refused(&plane, "is missing").await;
    std::fs::write(plane.directory.path().join(NEW), "c7".repeat(32)).unwrap();
    refused(&plane, "chmod 600").await;
    write_key(&plane.directory.path().join(NEW), "no");
    refused(&plane, "is not 64 hexadecimal digits").await;
    write_key(&plane.directory.path().join(NEW), "c7");
    configure(plane.directory.path(), NEW, &[]);
    refused(&plane, "does not belong to this data directory").await;
    let after = status(&plane).await;
    assert_eq!((after.keys.len(), after.keys[0].current, after.keys[0].secrets), (1, true, 1));
    plane.add_credential(CANARY).await;
    plane.stop().await;
}

#[tokio::test]
async fn i_25_swapped_and_restored_ciphertexts_are_refused_and_named() {
    let plane = start().await;
    let names = [plane.add_credential(CANARY).await.id, plane.add_credential("sk-another-secret").await.id];
    let restored = plane.add_credential("sk-the-first-version").await.id;
    let sound = plane.add_credential("sk-left-alone").await.id;
    let mut database = database(plane.directory.path()).await;
    let select = "SELECT credential_id, sealed_key, sealed_secret FROM vault_records";
    let rows = sql::query(select).fetch_all(&mut database).await.unwrap();
    let rows: Vec<[Vec<u8>; 3]> = rows.iter().map(|row| [0, 1, 2].map(|at| row.try_get(at).unwrap())).collect();
    let row = |name: &str| rows.iter().find(|row| name.ends_with(&hex::encode(&row[0]))).unwrap();
    let mut put = async |[_, key, secret]: &[Vec<u8>; 3], into: &[Vec<u8>; 3]| {
        let update =
            "UPDATE vault_records SET secret_version = 1, sealed_key = $1, sealed_secret = $2 WHERE credential_id = $3";
        let query = sql::query(update).bind(key.as_slice()).bind(secret.as_slice()).bind(into[0].as_slice());
        assert_eq!(query.execute(&mut database).await.unwrap(), 1);
    };
    for (from, to) in [(0, 1), (1, 0)] {
        put(row(&names[from]), row(&names[to])).await;
    }
    let rotation = admin::RotateCredentialRequest { id: restored.clone(), secret: b"sk-the-second-version".to_vec() };
    plane.credentials().rotate_credential(rotation).await.unwrap();
    put(row(&restored), row(&restored)).await;

    let found = status(&plane).await;
    let mut unreadable: Vec<_> = found.unreadable.iter().map(|found| found.credential_id.clone()).collect();
    let mut expected = vec![names[0].clone(), names[1].clone(), restored.clone()];
    unreadable.sort();
    expected.sort();
    assert_eq!(unreadable, expected);
    assert_eq!((found.secrets, found.keys[0].secrets, found.keys[0].unreadable), (4, 4, 3));
    let reasons = |id: &str| found.unreadable.iter().find(|found| found.credential_id == id).unwrap().reason.clone();
    assert!(reasons(&names[0]).contains("does not belong here"), "{found:?}");
    assert!(reasons(&restored).contains("version 1 of the secret is there, and 2 should be"), "{found:?}");
    let listed = plane.credentials().list_credentials(admin::ListCredentialsRequest::default()).await.unwrap();
    for credential in listed.into_inner().credentials {
        assert_eq!(credential.unreadable.is_empty(), credential.id == sound, "{credential:?}");
    }
    let metrics = plane.telemetry.prometheus_text();
    assert!(metrics.contains("keyforge_vault_unreadable_secrets 3"), "{metrics}");

    // A rotation leaves them as they are and names them; a new version heals.
    replace_key(&plane.directory);
    let end = rotate(&plane).await.pop().unwrap();
    assert_eq!((end.state(), end.total, end.rewrapped, end.unreadable), (RotationState::Done, 4, 2, 2), "{end:?}");
    assert!(end.retired.is_empty(), "the old key is still needed for what was not moved");
    let ended = plane.admin_entries().await.into_iter().find(|entry| entry.method == "vault/RotationEnded").unwrap();
    assert!(names.iter().all(|name| ended.detail.contains(name)), "{ended:?}");
    for id in expected {
        let rotation = admin::RotateCredentialRequest { id, secret: b"sk-typed-in-anew".to_vec() };
        plane.credentials().rotate_credential(rotation).await.unwrap();
    }
    assert!(status(&plane).await.unreadable.is_empty());
    plane.stop().await;
}

#[tokio::test]
async fn a_key_that_has_sealed_as_much_as_one_may_seals_no_more_and_another_goes_on() {
    assert_eq!(MOST_WRAPS, 2_147_483_648, "the next statement says the same");
    let plane = start().await;
    let kept = plane.add_credential(CANARY).await;
    execute(plane.directory.path(), "UPDATE vault_keys SET wraps = 2147483647").await;
    plane.add_credential("sk-the-last-one").await;
    let request = |secret: &str| admin::AddCredentialRequest {
        provider: "openai".to_owned(),
        secret: secret.as_bytes().to_vec(),
        ..Default::default()
    };
    let refused = plane.credentials().add_credential(request("sk-one-too-many")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("keyforge vault rotate"), "{refused}");
    let rotation = admin::RotateCredentialRequest { id: kept.id, secret: b"sk-the-second-secret".to_vec() };
    assert!(plane.credentials().rotate_credential(rotation.clone()).await.is_err());
    let before = status(&plane).await;
    assert_eq!((before.secrets, before.keys[0].wraps, before.unreadable.len()), (2, MOST_WRAPS, 0));
    assert_eq!(before.keys[0].most_wraps, MOST_WRAPS);

    let plane = Plane::start_again(plane.stop().await).await;
    assert!(
        plane.credentials().add_credential(request("sk-one-too-many")).await.is_err(),
        "the count outlives a start"
    );
    replace_key(&plane.directory);
    assert_eq!(rotate(&plane).await.pop().unwrap().state(), RotationState::Done);
    plane.credentials().add_credential(request("sk-one-more")).await.unwrap();
    plane.credentials().rotate_credential(rotation).await.unwrap();
    assert_eq!(
        status(&plane).await.keys[1].wraps,
        7,
        "two that moved, two that are new, and the deployment's own three"
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_deployment_from_before_keys_had_ids_is_taken_over_also_by_a_start_that_brings_a_new_key() {
    for bring_new in [false, true] {
        let plane = start().await;
        add(&plane, 3).await;
        let first = status(&plane).await.keys[0].id.clone();
        let directory = plane.stop().await;
        execute(directory.path(), "DELETE FROM vault_keys").await;
        if bring_new {
            replace_key(&directory);
        }
        let plane = Plane::start_again(directory).await;
        let found = status(&plane).await;
        assert_eq!((found.keys.len(), &found.keys[0].id), (1 + usize::from(bring_new), &first));
        assert_eq!((found.keys[0].secrets, found.keys[0].wraps, found.unreadable.len()), (3, 6, 0));
        let last = found.keys.last().unwrap();
        assert_eq!((last.term, last.wanted), (1 + u32::from(bring_new), true));
        assert!(found.keys[0].current, "another key seals from a rotation on, not from a start on");
        plane.stop().await;
    }
}

#[tokio::test]
async fn strangers_learn_nothing_about_the_vault_and_rotate_nothing() {
    use keyforge_proto::admin::v1::vault_service_client::VaultServiceClient;
    let plane = start().await;
    for token in [None, Some(plane.fleet_token.as_str())] {
        let (channel, bearer) = plane.with(token);
        let mut vault = VaultServiceClient::with_interceptor(channel, bearer);
        let status = vault.get_vault_status(admin::GetVaultStatusRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let status = vault.rotate_vault(admin::RotateVaultRequest {}).await.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    assert_eq!(plane.last_entry().await.outcome, AdminOutcome::Denied);
    plane.stop().await;
}
