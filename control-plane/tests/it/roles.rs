//! Which operator may make which call: every call of the API, by every role, over the wire.

use keyforge_control_plane::admin::roles::{RULES, Reach};
use keyforge_proto::DESCRIPTORS;
use keyforge_proto::admin::v1 as admin;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::role::Role;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::plane::Plane;

const PACKAGE: &str = "keyforge.admin.v1";

/// Every call of the API, as `Service/Method`.
fn calls() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let services = files.into_iter().filter(|file| file.package() == PACKAGE).flat_map(|file| file.service);
    let name = |service: &str, method: &str| format!("{service}/{method}");
    services.flat_map(|it| it.method.iter().map(|method| name(it.name(), method.name())).collect::<Vec<_>>()).collect()
}

/// Makes a call with an empty request, and reads its first answer.
async fn call(plane: &Plane, token: &str, rpc: &str) -> Result<(), Status> {
    let (channel, bearer) = plane.with(Some(token));
    let mut client = Grpc::new(tonic::service::interceptor::InterceptedService::new(channel, bearer));
    client.ready().await.unwrap();
    let path: PathAndQuery = format!("/{PACKAGE}.{rpc}").parse().unwrap();
    let answer = client.server_streaming(Request::new(()), path, ProstCodec::<(), ()>::default()).await?;
    answer.into_inner().message().await.map(drop)
}

#[test]
fn every_call_of_the_api_has_a_row_and_every_row_is_a_call() {
    let mut rows: Vec<_> = RULES.iter().map(|rule| rule.rpc.to_owned()).collect();
    let mut calls = calls();
    rows.sort();
    calls.sort();
    assert_eq!(rows, calls, "left: the table in admin/roles.rs, right: what the API has");
}

#[tokio::test]
async fn every_call_is_refused_to_lesser_roles_by_the_name_of_the_role_it_asks_for_and_recorded() {
    let plane = Plane::start().await;
    plane.make_workspace("team").await;
    let mut callers = vec![(Role::Owner, false, plane.operator_token.clone(), String::new())];
    for (role, wire, bound) in [
        (Role::Viewer, admin::Role::Viewer, false),
        (Role::Auditor, admin::Role::Auditor, false),
        (Role::Admin, admin::Role::Admin, false),
        (Role::Viewer, admin::Role::Viewer, true),
        (Role::Admin, admin::Role::Admin, true),
    ] {
        let name = format!("{role} {}", if bound { "of the team" } else { "of all" });
        let (operator, token) = plane.make_operator(&name, wire, if bound { "team" } else { "" }).await;
        callers.push((role, bound, token, operator.id));
    }
    for rule in RULES {
        for (role, bound, token, id) in &callers {
            let allowed = *role >= rule.least && !(*bound && rule.reach == Reach::Deployment);
            let outcome = call(&plane, token, rule.rpc).await;
            let what = format!("{} as {role}, bound: {bound}: {outcome:?}", rule.rpc);
            let entry = plane.last_entry().await;
            assert_eq!(entry.method, rule.method, "{what}");
            if allowed {
                // An empty request may make no sense, but it is refused for that alone.
                assert!(!outcome.is_err_and(|status| status.code() == Code::PermissionDenied), "{what}");
                continue;
            }
            let status = outcome.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{what}");
            assert!(status.message().contains(rule.least.as_str()), "{what}");
            assert_eq!((entry.outcome, &entry.operator.to_string()), (AdminOutcome::Denied, id), "{what}");
            assert_eq!(entry.detail, status.message());
        }
    }
    plane.stop().await;
}
