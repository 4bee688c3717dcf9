//! Starts: the first, later ones, and those that must be refused.

use keyforge_control_plane::admin::deployment::OpenError;
use keyforge_control_plane::app::StartError;
use keyforge_control_plane::store::{MigrationError, StoreError};
use keyforge_control_plane::vault::{KekError, VaultError};
use keyforge_proto::admin::v1 as admin;
use std::os::unix::fs::PermissionsExt as _;
use tokio_stream::StreamExt as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::plane::{CANARY, Plane, database, start_in};
use crate::stores;

#[tokio::test]
async fn restart_keeps_keys_tokens_secrets_and_the_revision() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("agent").await;
    plane.add_credential(CANARY).await;
    let (revision, operator, fleet) = (plane.revision().await, plane.operator_token.clone(), plane.fleet_token.clone());
    let plane = Plane::start_again(plane.stop().await).await;
    assert_eq!((plane.revision().await, &plane.operator_token, &plane.fleet_token), (revision, &operator, &fleet));
    assert_eq!(plane.keys().get_key(admin::GetKeyRequest { id: key.id.clone() }).await.unwrap().into_inner(), key);
    let (next, _) = plane.make_key("next").await;
    assert_eq!(next.revision, revision + 1);
    plane.stop().await;
}

#[tokio::test]
async fn everything_in_the_data_directory_is_its_owners_alone() {
    let plane = Plane::start().await;
    let data = plane.directory.path().join("data");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
    assert_eq!(mode(&data), 0);
    for file in ["vault.key", "operator.token", "fleet.token", "control-plane.lock"] {
        assert_eq!(mode(&data.join(file)), 0, "{file}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn second_control_plane_on_the_same_directory_is_refused() {
    let plane = Plane::start().await;
    let error = start_in(plane.directory.path()).await.err().unwrap();
    assert!(matches!(error, StartError::Store(StoreError::Locked(_))), "{error}");
    assert!(error.to_string().contains("stop that one"), "{error}");
    plane.stop().await;
}

#[tokio::test]
async fn wrong_vault_key_is_told_at_start_and_the_right_one_works_again() {
    let directory = Plane::start().await.stop().await;
    let path = directory.path().join("data/vault.key");
    let right = std::fs::read(&path).unwrap();
    std::fs::write(&path, "ab".repeat(32)).unwrap();
    let error = start_in(directory.path()).await.err().unwrap();
    assert!(matches!(error, StartError::Deployment(OpenError::Vault(VaultError::WrongKey { .. }))), "{error}");
    let expected = format!("the vault key in {} does not belong to this data directory", path.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    std::fs::write(&path, right).unwrap();
    Plane::start_again(directory).await.stop().await;
}

#[tokio::test]
async fn missing_vault_key_is_never_replaced_by_a_new_one() {
    let directory = Plane::start().await.stop().await;
    let path = directory.path().join("data/vault.key");
    std::fs::remove_file(&path).unwrap();
    let error = start_in(directory.path()).await.err().unwrap();
    let StartError::Deployment(OpenError::Kek(refused)) = &error else { panic!("{error}") };
    let (is_told, advice) = if stores::on_postgres() {
        (matches!(refused, KekError::NotCopied(_)), "copy the file from the data directory of another control plane")
    } else {
        (matches!(refused, KekError::Missing(_)), "restore the file from where you keep its copy")
    };
    assert!(is_told && error.to_string().contains(advice), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn database_with_another_history_is_refused() {
    let directory = Plane::start().await.stop().await;
    let mut database = database(directory.path()).await;
    stores::tamper(&mut database, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
    drop(database);
    let error = start_in(directory.path()).await.err().unwrap();
    let first = if stores::on_postgres() { 4 } else { 1 };
    let changed = |error: &StartError| matches!(error, StartError::Store(StoreError::Migration(MigrationError::Changed(step))) if *step == first);
    assert!(changed(&error), "{error}");
}

#[tokio::test]
async fn health_is_told_without_a_token_and_a_drained_plane_can_be_started_again() {
    let plane = Plane::start().await;
    let (channel, _) = plane.with(None);
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status, 1, "serving");
    Plane::start_again(plane.stop().await).await.stop().await;
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let plane = Plane::start().await;
    let (channel, _) = plane.with(None);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let listed: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for (package, services) in [
        (
            "keyforge.admin.v1",
            &["KeyService", "CredentialService", "ModelService", "AuditService", "UsageService", "VaultService"][..],
        ),
        ("keyforge.fleet.v1", &["StateService", "GrantService", "AuditIntakeService"]),
        ("grpc.health.v1", &["Health"]),
    ] {
        for service in services {
            assert!(listed.contains(&format!("{package}.{service}")), "{service} in {listed:?}");
        }
    }
    plane.stop().await;
}
