//! Who may call: operators and nodes with their tokens, and nobody else.

use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::audit_service_client::AuditServiceClient;
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_proto::admin::v1::usage_service_client::UsageServiceClient;
use keyforge_proto::admin::v1::workspace_service_client::WorkspaceServiceClient;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::audit_intake_service_client::AuditIntakeServiceClient;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::id::OperatorId;
use keyforge_shared::token::{self, NewToken, TokenKind};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::body::Body;
use tower_service::Service as _;

use crate::plane::{Plane, database};

#[tokio::test]
async fn call_without_a_known_operator_token_is_refused_with_what_to_do_and_recorded() {
    let plane = Plane::start().await;
    let unknown = token::generate(TokenKind::Operator).unwrap();
    let virtual_key = NewToken::generate().unwrap();
    let cases = [
        (None, "authorization: Bearer kfo_"),
        (Some(unknown.as_str()), "not known here"),
        (Some(virtual_key.expose()), "starts with kfo_"),
        (Some(plane.fleet_token.as_str()), "starts with kfo_"),
        (Some(&plane.operator_token[..40]), "cut short"),
    ];
    for (token, expected) in cases {
        let (channel, bearer) = plane.with(token);
        let mut keys = KeyServiceClient::with_interceptor(channel, bearer);
        let status = keys.list_keys(admin::ListKeysRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains(expected), "{}", status.message());
        let entry = plane.last_entry().await;
        assert_eq!((entry.method.as_str(), entry.outcome), ("keys/List", AdminOutcome::Denied));
        assert_eq!(entry.operator, OperatorId::from_bytes([0; 16]));
        assert!(entry.peer.starts_with("127.0.0.1:"), "{}", entry.peer);
        assert!(token.is_none_or(|token| !entry.detail.contains(token)));
    }
    plane.stop().await;
}

#[tokio::test]
async fn every_call_is_an_entry_reads_and_refusals_included() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("one").await;
    plane.keys().list_keys(admin::ListKeysRequest::default()).await.unwrap();
    plane.keys().get_key(admin::GetKeyRequest { id: key.id.clone() }).await.unwrap();
    plane.keys().get_key(admin::GetKeyRequest { id: "nonsense".to_owned() }).await.unwrap_err();
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: None }).await.unwrap();
    let entries = plane.admin_entries().await;
    let seen: Vec<_> =
        entries.iter().map(|entry| (entry.method.as_str(), entry.outcome, entry.target.as_str())).collect();
    let (done, failed) = (AdminOutcome::Done, AdminOutcome::Failed);
    let id = key.id.as_str();
    assert_eq!(seen[0].0, "deployment/Create");
    assert_eq!(
        seen[1..],
        [
            ("keys/Create", done, id),
            ("keys/List", done, ""),
            ("keys/Get", done, id),
            ("keys/Get", failed, ""),
            ("keys/Revoke", done, id),
            ("keys/Receipt", done, id),
        ]
    );
    assert!(entries[5].detail.contains("\"before\"") && entries[5].detail.contains("revoked"), "{}", entries[5].detail);
    plane.stop().await;
}

/// The answer to a call that sends this first part of its body and never ends it.
async fn unended(plane: &Plane, path: &'static str, token: Option<&str>, begin: &'static [u8]) -> http::HeaderMap {
    unended_for(Duration::from_secs(10), plane, path, token, begin).await
}

async fn unended_for(
    patience: Duration,
    plane: &Plane,
    path: &'static str,
    token: Option<&str>,
    begin: &'static [u8],
) -> http::HeaderMap {
    let (mut channel, _) = plane.with(None);
    let first = Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(begin)));
    let body = StreamBody::new(tokio_stream::once(first).chain(tokio_stream::pending()));
    let mut request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answering = channel.call(request.body(Body::new(body)).unwrap());
    let answer = tokio::time::timeout(patience, answering).await.expect("it waits for the end");
    answer.unwrap().into_parts().0.headers
}

#[tokio::test]
async fn strangers_are_refused_before_anything_of_what_they_send_is_read() {
    let plane = Plane::start().await;
    // The frame says that four megabytes will follow.
    let begin = &[0, 0, 0x3f, 0xff, 0xf0, 1, 2, 3];
    for path in ["/keyforge.admin.v1.KeyService/CreateKey", "/keyforge.fleet.v1.AuditIntakeService/ShipRecords"] {
        let refused = unended(&plane, path, None, begin).await;
        assert_eq!(refused["grpc-status"], "16", "{path}: {refused:?}");
    }
    for path in ["/keyforge.fleet.v1.EnrollmentService/Join", "/grpc.health.v1.Health/Check"] {
        let refused = unended(&plane, path, None, begin).await;
        assert_eq!(refused["grpc-status"], "11", "{path}: {refused:?}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn calls_of_strangers_that_are_never_sent_to_their_end_end_themselves() {
    let plane = Plane::start().await;
    // The frame says that 32 bytes will follow.
    let begin = &[0, 0, 0, 0, 32, 1, 2, 3];
    let (here, patience) = (&plane, Duration::from_secs(30));
    let ended = |path| async move { (path, unended_for(patience, here, path, None, begin).await) };
    let calls =
        ["/keyforge.fleet.v1.EnrollmentService/Join", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
    for (path, refused) in futures_util::future::join_all(calls.map(ended)).await {
        assert_eq!(refused["grpc-status"], "4", "{path}: {refused:?}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn a_call_whose_message_cannot_be_read_is_an_entry_like_any_other() {
    let plane = Plane::start().await;
    let garbage = &[0, 0, 0, 0, 2, 0xff, 0xff];
    let path = "/keyforge.admin.v1.KeyService/CreateKey";
    let refused = unended(&plane, path, Some(&plane.operator_token), garbage).await;
    assert_ne!(refused["grpc-status"], "0");
    let entry = plane.last_entry().await;
    assert_eq!((entry.method.as_str(), entry.outcome), ("keys/Create", AdminOutcome::Failed));
    assert!(entry.detail.contains("cannot be read"), "{entry:?}");
    plane.stop().await;
}

#[tokio::test]
async fn calls_that_an_operator_never_says_to_their_end_take_nothing_from_others_and_hide_no_refusal() {
    const MOST: usize = 64;
    let plane = Plane::start().await;
    let (_, viewer) = plane.make_operator("look", admin::Role::Viewer, "").await;
    let path = "/keyforge.admin.v1.KeyService/ListKeys";
    let begin = &[0, 0, 0, 0, 32, 1, 2, 3];
    // Calls that are never said to their end take all that one operator may have.
    let (here, token) = (&plane, viewer.as_str());
    let held = async || unended_for(Duration::from_secs(60), here, path, Some(token), begin).await;
    let mut held: futures_util::stream::FuturesUnordered<_> = (0..MOST + 6).map(|_| held()).collect();
    for _ in 0..6 {
        let refused = held.next().await.unwrap();
        assert_eq!(refused["grpc-status"], "8", "{refused:?}");
    }
    let before = plane.admin_entries().await.len();
    let denied = "/keyforge.admin.v1.VaultService/RotateVault";
    let refused = unended(&plane, denied, Some(&viewer), &[0, 0, 0, 0, 0]).await;
    assert_eq!(refused["grpc-status"], "7", "{refused:?}");
    assert_eq!(plane.last_entry().await.outcome, AdminOutcome::Denied);
    plane.make_key("others go on").await;
    assert_eq!(plane.admin_entries().await.len(), before + 2, "what was not begun is no entry");

    // Those that hung up are recorded, and there is room again.
    drop(held);
    let patience = Duration::from_secs(20);
    let recorded = async {
        while plane.admin_entries().await.len() < before + 2 + MOST {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, recorded).await.expect("calls are not recorded");
    let (channel, bearer) = plane.with(Some(&viewer));
    KeyServiceClient::with_interceptor(channel, bearer).list_keys(admin::ListKeysRequest::default()).await.unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn who_hangs_up_is_recorded_and_told_of_all_the_same() {
    let plane = Plane::start().await;
    let (_, viewer) = plane.make_operator("look", admin::Role::Viewer, "").await;
    let before = plane.admin_entries().await.len();
    // Nothing can be written, so that every call waits with its entry.
    let mut database = database(plane.directory.path()).await;
    for statement in ["BEGIN", "UPDATE chains SET head_seq = head_seq"] {
        sql::query(statement).execute(&mut database).await.unwrap();
    }
    let begin = &[0, 0, 0, 0, 0];
    for token in [Some(viewer.as_str()), None] {
        let call = unended(&plane, "/keyforge.admin.v1.VaultService/RotateVault", token, begin);
        tokio::time::timeout(Duration::from_secs(1), call).await.expect_err("nothing can be written");
    }
    sql::query("ROLLBACK").execute(&mut database).await.unwrap();
    let entries = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let entries = plane.admin_entries().await;
            if entries.len() >= before + 2 {
                break entries;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let entries = entries.await.expect("no entry came");
    let mut seen: Vec<_> = entries[before..].iter().map(|entry| (entry.method.as_str(), entry.outcome)).collect();
    seen.dedup();
    assert_eq!(seen, [("vault/Rotate", AdminOutcome::Denied)]);
    assert!(entries[before..].iter().any(|entry| entry.operator != OperatorId::from_bytes([0; 16])));
    plane.stop().await;
}

#[tokio::test]
async fn calls_that_an_operator_may_not_make_take_few_places_and_none_of_those_that_they_may() {
    const RECORDED: usize = 8;
    let plane = Plane::start().await;
    let (_, viewer) = plane.make_operator("look", admin::Role::Viewer, "").await;
    let mut database = database(plane.directory.path()).await;
    for statement in ["BEGIN", "UPDATE chains SET head_seq = head_seq"] {
        sql::query(statement).execute(&mut database).await.unwrap();
    }
    let (here, token) = (&plane, viewer.as_str());
    let denied = async || unended(here, "/keyforge.admin.v1.VaultService/RotateVault", Some(token), &[0; 5]).await;
    let mut answers: futures_util::stream::FuturesUnordered<_> = (0..RECORDED + 4).map(|_| denied()).collect();
    for _ in 0..4 {
        let refused = answers.next().await.unwrap();
        assert_eq!(refused["grpc-status"], "8", "no more are recorded at a time: {refused:?}");
    }
    let metrics = plane.telemetry.prometheus_text();
    assert!(metrics.contains("keyforge_admin_calls_refused_total{keyforge_reason=\"refused\"} 4"), "{metrics}");
    sql::query("ROLLBACK").execute(&mut database).await.unwrap();
    while let Some(refused) = answers.next().await {
        assert_eq!(refused["grpc-status"], "7", "{refused:?}");
    }
    drop(answers);
    let entries = plane.admin_entries().await.into_iter().filter(|entry| entry.method == "vault/Rotate");
    assert_eq!(entries.count(), RECORDED);
    plane.stop().await;
}

#[tokio::test]
async fn state_stream_is_for_nodes_only() {
    let plane = Plane::start().await;
    for token in [None, Some(plane.operator_token.as_str()), Some(&plane.fleet_token[..50])] {
        let (channel, bearer) = plane.with(token);
        let mut state = StateServiceClient::with_interceptor(channel, bearer);
        let status = state.subscribe(tokio_stream::empty()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("fleet.token"), "{}", status.message());
    }
    plane.stop().await;
}

#[tokio::test]
async fn every_service_asks_for_the_token_of_its_own_kind() {
    let plane = Plane::start().await;
    let (channel, node) = plane.with(Some(&plane.fleet_token));
    let (_, operator) = plane.with(Some(&plane.operator_token));
    let mut audit = AuditServiceClient::with_interceptor(channel.clone(), node.clone());
    let mut usage = UsageServiceClient::with_interceptor(channel.clone(), node.clone());
    let mut workspaces = WorkspaceServiceClient::with_interceptor(channel.clone(), node);
    let mut grants = GrantServiceClient::with_interceptor(channel.clone(), operator.clone());
    let mut intake = AuditIntakeServiceClient::with_interceptor(channel, operator);
    let codes = [
        audit.list_entries(admin::ListEntriesRequest::default()).await.unwrap_err().code(),
        audit.verify_chains(admin::VerifyChainsRequest::default()).await.unwrap_err().code(),
        usage.query_usage(admin::QueryUsageRequest::default()).await.unwrap_err().code(),
        usage.get_balance(admin::GetBalanceRequest::default()).await.unwrap_err().code(),
        workspaces.create_workspace(admin::CreateWorkspaceRequest::default()).await.unwrap_err().code(),
        workspaces.get_workspace(admin::GetWorkspaceRequest::default()).await.unwrap_err().code(),
        workspaces.list_workspaces(admin::ListWorkspacesRequest::default()).await.unwrap_err().code(),
        workspaces.update_workspace(admin::UpdateWorkspaceRequest::default()).await.unwrap_err().code(),
        grants.acquire_grants(fleet::AcquireGrantsRequest::default()).await.unwrap_err().code(),
        grants.return_grants(fleet::ReturnGrantsRequest::default()).await.unwrap_err().code(),
        grants.leave_epochs(fleet::LeaveEpochsRequest::default()).await.unwrap_err().code(),
        grants.close_boot(fleet::CloseBootRequest::default()).await.unwrap_err().code(),
        intake.ship_records(fleet::ShipRecordsRequest::default()).await.unwrap_err().code(),
        intake.report_gap(fleet::ReportGapRequest::default()).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::Unauthenticated; 14]);
    plane.stop().await;
}

#[tokio::test]
async fn an_address_with_too_many_failures_waits_and_a_right_token_passes_at_once() {
    let plane = Plane::start().await;
    let (channel, bearer) = plane.with(None);
    let mut keys = KeyServiceClient::with_interceptor(channel, bearer);
    let before = plane.admin_entries().await.len();
    let mut codes = Vec::new();
    for _ in 0..15 {
        let status = keys.list_keys(admin::ListKeysRequest::default()).await.unwrap_err();
        assert!(status.code() != Code::ResourceExhausted || status.message().contains("wait for a minute"), "{status}");
        codes.push(status.code());
    }
    assert_eq!(codes[..10], [Code::Unauthenticated; 10]);
    assert_eq!(codes[10..], [Code::ResourceExhausted; 5]);
    plane.keys().list_keys(admin::ListKeysRequest::default()).await.unwrap();
    assert_eq!(plane.admin_entries().await.len(), before + 10 + 1, "ten refusals and the list");
    assert_eq!(plane.running.admin().failed_sign_ins(), (10, 5));
    plane.stop().await;
}

#[tokio::test]
async fn administration_verifies_as_an_unbroken_chain() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("one").await;
    plane.keys().get_key(admin::GetKeyRequest { id: "nonsense".to_owned() }).await.unwrap_err();
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: None }).await.unwrap();
    let (channel, bearer) = plane.with(Some(&plane.operator_token));
    let mut audit = AuditServiceClient::with_interceptor(channel, bearer);
    let mut verdicts = audit.verify_chains(admin::VerifyChainsRequest::default()).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(verdict) = verdicts.message().await.unwrap() {
        assert_eq!((verdict.first_bad_seq, verdict.fault.as_str()), (None, ""));
        seen.push(verdict.key_id);
    }
    seen.sort();
    assert_eq!(seen, [String::new(), key.id]);
    plane.stop().await;
}
