//! An operator who is bound to a workspace: what belongs to another one is answered as what does not exist.

use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::audit_service_client::AuditServiceClient;
use keyforge_proto::admin::v1::chain_selector::Chain;
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_proto::admin::v1::usage_service_client::UsageServiceClient;
use keyforge_proto::admin::v1::workspace_service_client::WorkspaceServiceClient;
use keyforge_shared::audit::admin::AdminOutcome;
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::plane::{Authorized, Plane};

const UNKNOWN_KEY: &str = "vk_000000000000";

/// What an operator of the workspace `ours` calls with.
struct Bound {
    keys: KeyServiceClient<Authorized>,
    workspaces: WorkspaceServiceClient<Authorized>,
    usage: UsageServiceClient<Authorized>,
    audit: AuditServiceClient<Authorized>,
}

impl Bound {
    async fn new(plane: &Plane) -> Self {
        let (_, token) = plane.make_operator("lead", admin::Role::Admin, "ours").await;
        let (channel, bearer) = plane.with(Some(&token));
        Self {
            keys: KeyServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            workspaces: WorkspaceServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            usage: UsageServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            audit: AuditServiceClient::with_interceptor(channel, bearer),
        }
    }

    /// What is said to each call that names a key by its id.
    async fn about_key(&mut self, id: &str) -> Vec<Status> {
        let id = id.to_owned();
        let update_mask = Some(FieldMask { paths: vec!["name".to_owned()] });
        let update =
            admin::UpdateKeyRequest { id: id.clone(), name: "n".to_owned(), update_mask, ..Default::default() };
        let chain = Some(admin::ChainSelector { chain: Some(Chain::KeyId(id.clone())) });
        let list = admin::ListEntriesRequest { chain: chain.clone(), ..Default::default() };
        vec![
            self.keys.get_key(admin::GetKeyRequest { id: id.clone() }).await.unwrap_err(),
            self.keys.update_key(update).await.unwrap_err(),
            self.keys.revoke_key(admin::RevokeKeyRequest { id: id.clone(), wait_ms: None }).await.unwrap_err(),
            self.keys.pause_key(admin::PauseKeyRequest { id: id.clone(), wait_ms: None }).await.unwrap_err(),
            self.keys.resume_key(admin::ResumeKeyRequest { id: id.clone(), wait_ms: None }).await.unwrap_err(),
            self.keys.zero_key(admin::ZeroKeyRequest { id: id.clone(), wait_ms: None }).await.unwrap_err(),
            self.keys.rotate_key(admin::RotateKeyRequest { id: id.clone(), grace_ms: 0 }).await.unwrap_err(),
            self.keys.raise_key(admin::RaiseKeyRequest { id: id.clone(), raises: Vec::new() }).await.unwrap_err(),
            self.keys.explain_key(admin::ExplainKeyRequest { id: id.clone(), ..Default::default() }).await.unwrap_err(),
            self.usage.get_balance(admin::GetBalanceRequest { key_id: id.clone() }).await.unwrap_err(),
            self.audit.list_entries(list).await.unwrap_err(),
            self.audit.verify_chains(admin::VerifyChainsRequest { chain }).await.map(drop).unwrap_err(),
        ]
    }

    /// What is said to each call that names a workspace by its id or name.
    async fn about_workspace(&mut self, text: &str) -> Vec<Status> {
        let workspace = text.to_owned();
        let update_mask = Some(FieldMask { paths: vec!["spend_limits".to_owned()] });
        let limits = admin::UpdateWorkspaceRequest { workspace: workspace.clone(), update_mask, ..Default::default() };
        let update_mask = Some(FieldMask { paths: vec!["plan".to_owned()] });
        let plan = admin::UpdateWorkspaceRequest { plan: 1, update_mask, ..limits.clone() };
        let balance = admin::GetWorkspaceBalanceRequest { workspace: workspace.clone() };
        let key = admin::CreateKeyRequest { name: "k".to_owned(), workspace: workspace.clone(), ..Default::default() };
        vec![
            self.workspaces.get_workspace(admin::GetWorkspaceRequest { workspace }).await.unwrap_err(),
            self.workspaces.update_workspace(limits).await.unwrap_err(),
            self.workspaces.update_workspace(plan).await.unwrap_err(),
            self.usage.get_workspace_balance(balance).await.unwrap_err(),
            self.keys.create_key(key).await.unwrap_err(),
        ]
    }
}

/// A control plane with the workspaces `ours` and `theirs`, and a key in each.
async fn two() -> (Plane, admin::Key, admin::Key) {
    let plane = Plane::start().await;
    plane.make_workspace("ours").await;
    plane.make_workspace("theirs").await;
    let (ours, theirs) = (plane.make_key_in("ours", "our key").await, plane.make_key_in("theirs", "their key").await);
    (plane, ours, theirs)
}

/// What an answer consists of, but for the id that was asked for.
fn said(status: &Status, asked: &str) -> (Code, String, usize) {
    (status.code(), status.message().replace(asked, "ID"), status.details().len())
}

#[tokio::test]
async fn another_workspaces_key_is_answered_as_one_that_does_not_exist_and_the_attempt_is_recorded() {
    let (plane, ours, theirs) = two().await;
    let mut bound = Bound::new(&plane).await;
    let unknown = bound.about_key(UNKNOWN_KEY).await;
    let before = plane.admin_entries().await.len();
    let hidden = bound.about_key(&theirs.id).await;
    for (hidden, unknown) in hidden.iter().zip(&unknown) {
        assert_eq!(said(hidden, &theirs.id), said(unknown, UNKNOWN_KEY));
        assert_eq!(hidden.code(), Code::NotFound);
    }
    let entries = plane.admin_entries().await;
    assert_eq!(entries.len(), before + hidden.len());
    for entry in &entries[before..] {
        assert_eq!((entry.outcome, entry.target.as_str()), (AdminOutcome::Failed, theirs.id.as_str()));
    }
    let unchanged = plane.keys().get_key(admin::GetKeyRequest { id: theirs.id.clone() }).await.unwrap();
    assert_eq!(unchanged.into_inner(), theirs);
    // The same calls about their own.
    bound.keys.get_key(admin::GetKeyRequest { id: ours.id.clone() }).await.unwrap();
    bound.usage.get_balance(admin::GetBalanceRequest { key_id: ours.id.clone() }).await.unwrap();
    bound.keys.revoke_key(admin::RevokeKeyRequest { id: ours.id, wait_ms: None }).await.unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn another_workspace_is_answered_as_one_that_does_not_exist() {
    let (plane, _, theirs) = two().await;
    let mut bound = Bound::new(&plane).await;
    let by_name = bound.about_workspace("nobody").await;
    let by_id = bound.about_workspace(&format!("ws_{}", "0".repeat(32))).await;
    for (asked, unknown) in [("theirs", &by_name), ("default", &by_name), (theirs.workspace_id.as_str(), &by_id)] {
        let hidden = bound.about_workspace(asked).await;
        for (hidden, unknown) in hidden.iter().zip(unknown) {
            assert_eq!(said(hidden, asked), said(unknown, "nobody"));
        }
    }
    plane.stop().await;
}

#[tokio::test]
async fn lists_usage_and_verification_hold_their_own_workspace_alone() {
    let (plane, ours, theirs) = two().await;
    let mut bound = Bound::new(&plane).await;
    let made = admin::CreateKeyRequest { name: "another".to_owned(), ..Default::default() };
    let made = bound.keys.create_key(made).await.unwrap().into_inner().key.unwrap();
    assert_eq!(made.workspace_name, "ours", "theirs when none is named");
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = bound
            .keys
            .list_keys(admin::ListKeysRequest { page_size: 1, page_token, ..Default::default() })
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.keys.into_iter().map(|key| key.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [made.id.clone(), ours.id.clone()]);
    let workspaces = bound.workspaces.list_workspaces(admin::ListWorkspacesRequest::default()).await.unwrap();
    let names: Vec<_> = workspaces.into_inner().workspaces.into_iter().map(|workspace| workspace.name).collect();
    assert_eq!(names, ["ours"]);

    let mut verdicts = bound.audit.verify_chains(admin::VerifyChainsRequest::default()).await.unwrap().into_inner();
    let mut verified = Vec::new();
    while let Some(verdict) = verdicts.message().await.unwrap() {
        assert_eq!((verdict.first_bad_seq, verdict.fault.as_str()), (None, ""));
        verified.push(verdict.key_id);
    }
    verified.sort();
    let mut own = [made.id, ours.id.clone()];
    own.sort();
    assert_eq!(verified, own);
    let admins = Some(admin::ChainSelector { chain: Some(Chain::Admin(true)) });
    let request = admin::ListEntriesRequest { chain: admins, ..Default::default() };
    assert_eq!(bound.audit.list_entries(request).await.unwrap_err().code(), Code::PermissionDenied);

    let mut database = crate::plane::database(plane.directory.path()).await;
    for key in [&ours, &theirs] {
        let insert = "INSERT INTO usage_by_day VALUES ($1, 20000, 'gpt-4o', 1, 0, 1, 0, 0, 1, 0, 1)";
        sql::query(insert).bind(key.id.trim_start_matches("vk_")).execute(&mut database).await.unwrap();
    }
    for (key, expected) in [(None, 1), (Some(ours.id.clone()), 1), (Some(theirs.id), 0), (Some(UNKNOWN_KEY.into()), 0)]
    {
        for group_by in 0..=3 {
            let request = admin::QueryUsageRequest { key_id: key.clone(), group_by, ..Default::default() };
            let rows = bound.usage.query_usage(request).await.unwrap().into_inner().rows;
            assert_eq!(rows.iter().map(|row| row.requests).sum::<u64>(), expected, "{key:?} by {group_by}: {rows:?}");
        }
    }
    plane.stop().await;
}

#[tokio::test]
async fn a_workspace_stays_while_operators_are_bound_to_it() {
    let plane = Plane::start().await;
    plane.make_workspace("ours").await;
    let (operator, _) = plane.make_operator("lead", admin::Role::Viewer, "ours").await;
    assert_eq!(operator.workspace_name, "ours");
    let delete = admin::DeleteWorkspaceRequest { workspace: "ours".to_owned() };
    let refused = plane.workspaces().delete_workspace(delete.clone()).await.unwrap_err();
    assert!(refused.message().contains("1 operators are bound to the workspace"), "{refused}");
    plane.operators().revoke_operator(admin::RevokeOperatorRequest { operator: operator.id }).await.unwrap();
    plane.workspaces().delete_workspace(delete).await.unwrap();
    plane.stop().await;
}
