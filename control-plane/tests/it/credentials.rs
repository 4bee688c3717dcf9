//! Credentials over gRPC: their secrets go in, and only sealed ones come out.

use keyforge_proto::admin::v1 as admin;
use keyforge_shared::audit::admin::AdminOutcome;
use prost_types::FieldMask;
use tonic::Code;

use crate::plane::{CANARY, Plane};
use crate::stores;

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

#[tokio::test]
async fn credential_is_added_with_defaults_changed_rotated_and_removed() {
    let plane = Plane::start().await;
    let mut credentials = plane.credentials();
    let added = plane.add_credential(CANARY).await;
    assert_eq!((added.pool.as_str(), added.base_url.as_str()), ("default", "https://api.openai.com/v1"));
    assert_eq!((&added.limit_group, added.enabled, added.secret_version), (&added.id, true, 1));

    let update = admin::UpdateCredentialRequest {
        id: added.id.clone(),
        base_url: "http://127.0.0.1:9000/v1/".to_owned(),
        pool: "ignored".to_owned(),
        update_mask: mask(&["enabled", "base_url"]),
        ..Default::default()
    };
    let updated = credentials.update_credential(update).await.unwrap().into_inner();
    assert_eq!(
        (updated.enabled, updated.base_url.as_str(), updated.pool.as_str()),
        (false, "http://127.0.0.1:9000/v1", "default")
    );

    let rotate = admin::RotateCredentialRequest { id: added.id.clone(), secret: b"sk-the-second-secret".to_vec() };
    assert_eq!(credentials.rotate_credential(rotate).await.unwrap().into_inner().secret_version, 2);
    let listed = credentials.list_credentials(admin::ListCredentialsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.credentials.len(), 1);

    let remove = admin::RemoveCredentialRequest { id: added.id.clone() };
    credentials.remove_credential(remove.clone()).await.unwrap();
    assert_eq!(credentials.remove_credential(remove).await.unwrap_err().code(), Code::NotFound);
    plane.stop().await;
}

#[tokio::test]
async fn every_wrong_field_is_named_and_no_secret_is_repeated() {
    let plane = Plane::start().await;
    let request = |provider: &str, secret: &str, base_url: &str| admin::AddCredentialRequest {
        provider: provider.to_owned(),
        secret: secret.as_bytes().to_vec(),
        base_url: base_url.to_owned(),
        ..Default::default()
    };
    let spaced = format!("{CANARY} {CANARY}");
    let cases = [
        (request("nobody", CANARY, "https://example.com"), "provider: "),
        (request("openai", "short", ""), "secret: "),
        (request("openai", &spaced, ""), "secret: "),
        (request("openai", CANARY, "http://example.com"), "base_url: must be https"),
        (request("openai", CANARY, "https://user:sk-canary@example.com"), "base_url: must not hold a user"),
        (admin::AddCredentialRequest { pool: "a b".to_owned(), ..request("openai", CANARY, "") }, "pool: "),
        (
            admin::AddCredentialRequest { limit_group: "a b".to_owned(), ..request("openai", CANARY, "") },
            "limit_group: ",
        ),
    ];
    for (request, expected) in cases {
        let status = plane.credentials().add_credential(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected) && !status.message().contains("canary"), "{}", status.message());
        let entry = plane.last_entry().await;
        assert_eq!((entry.method.as_str(), entry.outcome), ("credentials/Add", AdminOutcome::Failed));
        assert!(!entry.detail.contains("canary"), "{}", entry.detail);
    }
    let added = plane.add_credential(CANARY).await;
    for (paths, expected) in [(&["secret"][..], "`secret`"), (&[], "update_mask: empty")] {
        let update =
            admin::UpdateCredentialRequest { id: added.id.clone(), update_mask: mask(paths), ..Default::default() };
        let status = plane.credentials().update_credential(update).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{status}");
    }
    // A secret where an id is meant.
    let remove = admin::RemoveCredentialRequest { id: CANARY.to_owned() };
    let status = plane.credentials().remove_credential(remove).await.unwrap_err();
    let entry = plane.last_entry().await;
    assert!(status.message().starts_with("id: ") && !status.message().contains("canary"), "{status}");
    assert!(!entry.detail.contains("canary") && !entry.target.contains("canary"), "{entry:?}");
    plane.stop().await;
}

#[tokio::test]
async fn i_21_neither_provider_keys_nor_tokens_are_readable_in_the_data_directory() {
    let plane = Plane::start().await;
    plane.add_credential(CANARY).await;
    let removed = plane.add_credential("sk-canary-of-a-removed-credential").await;
    plane.credentials().remove_credential(admin::RemoveCredentialRequest { id: removed.id }).await.unwrap();
    let (_, token) = plane.make_key("agent").await;
    let (operator_token, directory) = (plane.operator_token.clone(), plane.stop().await);
    let mut files = 0;
    for entry in std::fs::read_dir(directory.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let contains = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        for secret in [CANARY, "sk-canary", token.as_str()] {
            assert!(!contains(secret), "{}", path.display());
        }
        assert_eq!(contains(&operator_token), path.ends_with("operator.token"), "{}", path.display());
        files += 1;
    }
    assert!(files >= if stores::on_postgres() { 4 } else { 5 }, "{files}");
    for row in stores::rows_as_text(directory.path()).await {
        for secret in [CANARY, "sk-canary", token.as_str(), operator_token.as_str()] {
            assert!(!row.contains(secret) && !row.contains(&hex::encode(secret)), "{row}");
        }
    }
}
