//! Operators over gRPC: made, given roles and new tokens, revoked, and never all locked out.

use keyforge_control_plane::audit::completeness::NOTHING_CHANGED;
use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::audit_service_client::AuditServiceClient;
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::{Clock as _, SystemClock};
use tonic::{Code, Status};

use crate::plane::{Plane, database};

/// Reads with this token.
async fn list(plane: &Plane, token: &str) -> Result<(), Status> {
    let (channel, bearer) = plane.with(Some(token));
    let mut keys = KeyServiceClient::with_interceptor(channel, bearer);
    keys.list_keys(admin::ListKeysRequest::default()).await.map(drop)
}

/// Changes with this token.
async fn create(plane: &Plane, token: &str) -> Result<(), Status> {
    let (channel, bearer) = plane.with(Some(token));
    let mut keys = KeyServiceClient::with_interceptor(channel, bearer);
    keys.create_key(admin::CreateKeyRequest { name: "k".to_owned(), ..Default::default() }).await.map(drop)
}

fn new(name: &str, role: admin::Role) -> admin::CreateOperatorRequest {
    admin::CreateOperatorRequest { name: name.to_owned(), role: role.into(), ..Default::default() }
}

async fn set_role(plane: &Plane, operator: &str, role: admin::Role) -> Result<admin::Operator, Status> {
    let request = admin::SetOperatorRoleRequest { operator: operator.to_owned(), role: role.into() };
    plane.operators().set_operator_role(request).await.map(tonic::Response::into_inner)
}

async fn rotate(
    plane: &Plane,
    operator: &str,
    expires_at_ms: Option<i64>,
) -> Result<(admin::Operator, String), Status> {
    let request = admin::RotateOperatorRequest { operator: operator.to_owned(), expires_at_ms };
    let answer = plane.operators().rotate_operator(request).await?.into_inner();
    Ok((answer.operator.unwrap(), answer.token))
}

async fn revoke(plane: &Plane, operator: &str) -> Result<admin::Operator, Status> {
    let request = admin::RevokeOperatorRequest { operator: operator.to_owned() };
    plane.operators().revoke_operator(request).await.map(tonic::Response::into_inner)
}

async fn all(plane: &Plane) -> Vec<admin::Operator> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = admin::ListOperatorsRequest { page_size: 2, page_token };
        let page = plane.operators().list_operators(request).await.unwrap().into_inner();
        found.extend(page.operators);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

async fn run(directory: &tempfile::TempDir, statements: &[&'static str]) {
    let mut database = database(directory.path()).await;
    for statement in statements {
        sql::query(*statement).execute(&mut database).await.unwrap();
    }
}

pub async fn faults(plane: &Plane) -> Vec<String> {
    let (channel, bearer) = plane.with(Some(&plane.operator_token));
    let mut audit = AuditServiceClient::with_interceptor(channel, bearer);
    let mut verdicts = audit.verify_chains(admin::VerifyChainsRequest::default()).await.unwrap().into_inner();
    let mut faults = Vec::new();
    while let Some(verdict) = verdicts.message().await.unwrap() {
        faults.extend((!verdict.fault.is_empty()).then_some(verdict.fault));
    }
    faults
}

#[tokio::test]
async fn operator_is_made_given_a_role_and_a_token_and_revoked_and_each_works_at_once() {
    let plane = Plane::start().await;
    let (made, token) = plane.make_operator("ada", admin::Role::Viewer, "").await;
    assert_eq!((made.role(), made.workspace_id.as_str(), made.expires_at_ms), (admin::Role::Viewer, "", None));
    list(&plane, &token).await.unwrap();
    assert_eq!(create(&plane, &token).await.unwrap_err().code(), Code::PermissionDenied);

    let raised = set_role(&plane, "ada", admin::Role::Admin).await.unwrap();
    assert_eq!(raised, admin::Operator { role: admin::Role::Admin.into(), ..made.clone() });
    create(&plane, &token).await.unwrap();
    assert_eq!(plane.last_entry().await.operator.to_string(), made.id);

    let (_, second) = rotate(&plane, &made.id, None).await.unwrap();
    let old = list(&plane, &token).await.unwrap_err();
    assert!(old.code() == Code::Unauthenticated && old.message().contains("replaced by a new one"), "{old}");
    create(&plane, &second).await.unwrap();

    let gone = revoke(&plane, "ada").await.unwrap();
    assert!(gone.revoked_at_ms.is_some());
    let refused = list(&plane, &second).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "this operator was revoked"));
    let entry = plane.last_entry().await;
    assert_eq!((entry.outcome, entry.operator.to_string()), (AdminOutcome::Denied, made.id.clone()));
    assert_eq!(revoke(&plane, "ada").await.unwrap(), gone, "a second time changes nothing");
    assert_eq!(plane.last_entry().await.detail, NOTHING_CHANGED);
    for refused in [set_role(&plane, "ada", admin::Role::Owner).await.err(), rotate(&plane, "ada", None).await.err()] {
        assert!(refused.is_some_and(|status| status.message().contains("revoked for ever")));
    }

    let names: Vec<_> = all(&plane).await.into_iter().map(|operator| operator.name).collect();
    assert_eq!(names, ["ada", "owner"]);
    assert_eq!(faults(&plane).await, [""; 0]);
    let plane = Plane::start_again(plane.stop().await).await;
    assert_eq!(all(&plane).await[0], gone);
    assert!(list(&plane, &second).await.is_err());
    plane.stop().await;
}

#[tokio::test]
async fn entries_say_who_changed_what_before_and_after_and_hold_no_token() {
    let plane = Plane::start().await;
    let (made, token) = plane.make_operator("ada", admin::Role::Viewer, "").await;
    set_role(&plane, "ada", admin::Role::Auditor).await.unwrap();
    let (_, second) = rotate(&plane, "ada", None).await.unwrap();
    revoke(&plane, "ada").await.unwrap();
    let entries: Vec<_> =
        plane.admin_entries().await.into_iter().filter(|entry| entry.method.starts_with("operators/")).collect();
    let seen: Vec<_> = entries.iter().map(|entry| (entry.method.as_str(), entry.target == made.id)).collect();
    let expected = ["Create", "SetRole", "Rotate", "Revoke"].map(|method| format!("operators/{method}"));
    assert_eq!(seen, expected.each_ref().map(|method| (method.as_str(), true)));
    let detail = |index: usize| serde_json::from_str::<serde_json::Value>(&entries[index].detail).unwrap();
    assert_eq!(detail(0)["after"]["role"], "viewer");
    assert_eq!((&detail(1)["before"]["role"], &detail(1)["after"]["role"]), (&"viewer".into(), &"auditor".into()));
    assert_eq!(detail(2)["token"], "replaced");
    assert!(detail(3)["before"]["revoked_at"].is_null() && detail(3)["after"]["revoked_at"].is_string());
    let directory = plane.stop().await;
    for file in std::fs::read_dir(directory.path().join("data")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for secret in [&token, &second] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
}

#[tokio::test]
async fn the_last_owner_for_good_is_neither_revoked_nor_demoted_nor_given_an_end() {
    let plane = Plane::start().await;
    let later = SystemClock.now().millis() + 3_600_000;
    // Neither of these would be there for good.
    let ending = admin::CreateOperatorRequest { expires_at_ms: Some(later), ..new("deputy", admin::Role::Owner) };
    let deputy = plane.operators().create_operator(ending).await.unwrap().into_inner().token;
    plane.make_operator("admin", admin::Role::Admin, "").await;
    for refused in [
        revoke(&plane, "owner").await.err(),
        set_role(&plane, "owner", admin::Role::Admin).await.err(),
        rotate(&plane, "owner", Some(later)).await.err(),
    ] {
        let status = refused.unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("the last owner"), "{status}");
    }
    list(&plane, &plane.operator_token).await.unwrap();
    rotate(&plane, "deputy", Some(0)).await.unwrap();
    assert!(list(&plane, &deputy).await.is_err(), "the deputy has a new token");
    revoke(&plane, "owner").await.unwrap();
    assert_eq!(list(&plane, &plane.operator_token).await.unwrap_err().code(), Code::Unauthenticated);
    plane.stop().await;
}

#[tokio::test]
async fn token_ends_at_its_moment_and_a_rotation_gives_a_new_end() {
    let plane = Plane::start().await;
    let soon = SystemClock.now().millis() + 300;
    let request = admin::CreateOperatorRequest { expires_at_ms: Some(soon), ..new("contractor", admin::Role::Auditor) };
    let made = plane.operators().create_operator(request).await.unwrap().into_inner();
    assert_eq!(made.operator.unwrap().expires_at_ms, Some(soon));
    let refused = loop {
        if let Err(status) = list(&plane, &made.token).await {
            break status;
        }
    };
    assert!(SystemClock.now().millis() >= soon);
    assert!(refused.code() == Code::Unauthenticated && refused.message().contains("has expired"), "{refused}");
    let kept = rotate(&plane, "contractor", None).await.unwrap_err();
    assert!(kept.code() == Code::InvalidArgument && kept.message().starts_with("expires_at_ms: "), "{kept}");
    let (rotated, token) = rotate(&plane, "contractor", Some(soon + 3_600_000)).await.unwrap();
    assert_eq!(rotated.expires_at_ms, Some(soon + 3_600_000));
    list(&plane, &token).await.unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn every_wrong_field_of_an_operator_is_named_and_nothing_is_repeated() {
    let plane = Plane::start().await;
    plane.make_workspace("team").await;
    let bound = |role| admin::CreateOperatorRequest { workspace: "team".to_owned(), ..new("n", role) };
    let cases = [
        (new("", admin::Role::Viewer), Code::InvalidArgument, "name: 1 to 100"),
        (new("op_me", admin::Role::Viewer), Code::InvalidArgument, "name: must not begin with op_"),
        (new("owner", admin::Role::Viewer), Code::AlreadyExists, "name: there is an operator of this name"),
        (new("\u{43e}wner", admin::Role::Viewer), Code::AlreadyExists, "name: looks like `owner`"),
        (new("n", admin::Role::Unspecified), Code::InvalidArgument, "role: unspecified"),
        (bound(admin::Role::Owner), Code::InvalidArgument, "workspace: an owner is of the whole deployment"),
        (
            admin::CreateOperatorRequest { workspace: "sk-topsecret".to_owned(), ..new("n", admin::Role::Viewer) },
            Code::NotFound,
            "there is no workspace of this id or name",
        ),
        (
            admin::CreateOperatorRequest { expires_at_ms: Some(1), ..new("n", admin::Role::Viewer) },
            Code::InvalidArgument,
            "expires_at_ms: lies in the past",
        ),
        (
            admin::CreateOperatorRequest { expires_at_ms: Some(-1), ..new("n", admin::Role::Viewer) },
            Code::InvalidArgument,
            "expires_at_ms: ",
        ),
    ];
    for (request, code, expected) in cases {
        let status = plane.operators().create_operator(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{expected} in {}", status.message());
        let entry = plane.last_entry().await;
        assert_eq!((entry.method.as_str(), entry.outcome), ("operators/Create", AdminOutcome::Failed));
    }
    let status = revoke(&plane, "sk-topsecret").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no operator of this id or name"));
    let entries = format!("{:?}", plane.admin_entries().await);
    assert!(!entries.contains("topsecret"), "{entries}");
    assert_eq!(all(&plane).await.len(), 1);
    plane.stop().await;
}

#[tokio::test]
async fn i_18_operators_that_were_replaced_by_older_ones_with_their_seal_are_found() {
    let plane = Plane::start().await;
    plane.make_operator("ada", admin::Role::Admin, "").await;
    let directory = plane.stop().await;
    run(&directory, &["CREATE TABLE old AS SELECT * FROM operators", "CREATE TABLE kept AS SELECT * FROM deployment"])
        .await;
    let plane = Plane::start_again(directory).await;
    revoke(&plane, "ada").await.unwrap();
    let directory = plane.stop().await;
    let restored = [
        "DELETE FROM operators",
        "INSERT INTO operators SELECT * FROM old",
        "DELETE FROM deployment",
        "INSERT INTO deployment SELECT * FROM kept",
    ];
    run(&directory, &restored).await;
    let plane = Plane::start_again(directory).await;
    let found = faults(&plane).await;
    assert!(matches!(found.as_slice(), [fault] if fault.contains("the changes of this chain lead to")), "{found:?}");
    plane.stop().await;
}
