//! Plans over gRPC: the key and the request too many, and who may choose a plan.

use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::usage_service_client::UsageServiceClient;
use keyforge_proto::admin::v1::workspace_service_client::WorkspaceServiceClient;
use keyforge_shared::audit::admin::AdminOutcome;
use prost_types::FieldMask;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::plane::Plane;

fn update(paths: &[&str]) -> admin::UpdateWorkspaceRequest {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    admin::UpdateWorkspaceRequest { workspace: "team".to_owned(), update_mask, ..Default::default() }
}

async fn choose(plane: &Plane, plan: admin::Plan) -> Result<admin::Workspace, Status> {
    let request = admin::UpdateWorkspaceRequest { plan: plan.into(), ..update(&["plan"]) };
    plane.workspaces().update_workspace(request).await.map(tonic::Response::into_inner)
}

async fn requests_a_month(plane: &Plane) -> Vec<u64> {
    let (channel, bearer) = plane.with(Some(&plane.operator_token));
    let mut usage = UsageServiceClient::with_interceptor(channel, bearer);
    let request = admin::GetWorkspaceBalanceRequest { workspace: "team".to_owned() };
    let balances = usage.get_workspace_balance(request).await.unwrap().into_inner().balances;
    balances.iter().filter(|it| it.window() == admin::Window::Month).map(|it| it.limit).collect()
}

fn key() -> admin::CreateKeyRequest {
    admin::CreateKeyRequest { name: "k".to_owned(), workspace: "team".to_owned(), ..Default::default() }
}

#[tokio::test]
async fn the_fourth_key_of_a_free_workspace_is_refused_by_the_plans_name_until_one_is_revoked() {
    let plane = Plane::start().await;
    plane.make_workspace("team").await;
    assert_eq!(choose(&plane, admin::Plan::Free).await.unwrap().plan(), admin::Plan::Free);
    let first = plane.make_key_in("team", "one").await;
    plane.make_key_in("team", "two").await;
    plane.make_key_in("team", "three").await;
    let refused = plane.keys().create_key(key()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("the plan free of the workspace allows 3 virtual keys"), "{refused}");
    assert_eq!(plane.last_entry().await.outcome, AdminOutcome::Failed);
    // A paused key has its place; a revoked one does not.
    let pause = admin::UpdateKeyRequest {
        id: first.id.clone(),
        paused: true,
        update_mask: Some(FieldMask { paths: vec!["paused".to_owned()] }),
        ..Default::default()
    };
    plane.keys().update_key(pause).await.unwrap();
    assert!(plane.keys().create_key(key()).await.is_err());
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: first.id, wait_ms: None }).await.unwrap();
    plane.keys().create_key(key()).await.unwrap();
    plane.make_key("of another workspace").await;
    let plane = Plane::start_again(plane.stop().await).await;
    assert!(plane.keys().create_key(key()).await.is_err(), "also after a restart");
    choose(&plane, admin::Plan::Unlimited).await.unwrap();
    plane.keys().create_key(key()).await.unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn concurrent_creations_do_not_pass_the_plan() {
    let plane = Plane::start().await;
    plane.make_workspace("team").await;
    choose(&plane, admin::Plan::Free).await.unwrap();
    let mut creating = JoinSet::new();
    for _ in 0..16 {
        let mut keys = plane.keys();
        creating.spawn(async move { keys.create_key(key()).await.map(drop).map_err(|status| status.code()) });
    }
    let outcomes = creating.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| outcome.is_ok() || *outcome == Err(Code::ResourceExhausted)));
    plane.stop().await;
}

#[tokio::test]
async fn plan_with_room_for_fewer_keys_than_there_are_is_refused() {
    let plane = Plane::start().await;
    plane.make_workspace("team").await;
    for name in ["one", "two", "three", "four"] {
        plane.make_key_in("team", name).await;
    }
    let refused = choose(&plane, admin::Plan::Free).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("the workspace has 4: revoke 1 first"), "{refused}");
    let unspecified = choose(&plane, admin::Plan::Unspecified).await.unwrap_err();
    assert_eq!((unspecified.code(), unspecified.message()), (Code::InvalidArgument, "plan: unspecified"));
    plane.stop().await;
}

#[tokio::test]
async fn of_plan_and_own_limit_the_lower_one_holds_and_no_operator_of_the_workspace_raises_the_plans() {
    let plane = Plane::start().await;
    plane.make_workspace("team").await;
    assert_eq!(requests_a_month(&plane).await, [0; 0]);
    choose(&plane, admin::Plan::Free).await.unwrap();
    assert_eq!(requests_a_month(&plane).await, [1_000]);
    let entry = plane.admin_entries().await.into_iter().rfind(|entry| entry.method == "workspaces/Update").unwrap();
    let detail: serde_json::Value = serde_json::from_str(&entry.detail).unwrap();
    assert_eq!((&detail["before"]["plan"], &detail["after"]["plan"]), (&"unlimited".into(), &"free".into()));

    let (_, token) = plane.make_operator("lead", admin::Role::Admin, "team").await;
    let (channel, bearer) = plane.with(Some(&token));
    let mut theirs = WorkspaceServiceClient::with_interceptor(channel, bearer);
    for (requests, expected) in [(20_000, 1_000), (7, 7)] {
        let request_limits = vec![admin::RequestLimit { requests, window: admin::Window::Month.into() }];
        let request = admin::UpdateWorkspaceRequest { request_limits, ..update(&["request_limits"]) };
        theirs.update_workspace(request).await.unwrap();
        assert_eq!(requests_a_month(&plane).await, [expected]);
    }
    for paths in [&["plan"][..], &["name"], &["request_limits", "plan"]] {
        let plan = admin::Plan::Unlimited.into();
        let request = admin::UpdateWorkspaceRequest { plan, name: "other".to_owned(), ..update(paths) };
        let refused = theirs.update_workspace(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(plane.last_entry().await.outcome, AdminOutcome::Denied);
    }
    assert_eq!(requests_a_month(&plane).await, [7]);
    plane.stop().await;
}
