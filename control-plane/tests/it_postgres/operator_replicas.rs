//! Operators of several control planes on one database: who is let in at one is let in at all, and who is not is let in at none.

use futures_util::future::join_all;
use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_shared::token::{self, TokenKind};
use tonic::{Code, Status};

use crate::beside::plane_beside;
use crate::plane::{Plane, database};
use crate::stream::Node;

async fn list(plane: &Plane, token: &str) -> Result<usize, Status> {
    let (channel, bearer) = plane.with(Some(token));
    let mut keys = KeyServiceClient::with_interceptor(channel, bearer);
    keys.list_keys(admin::ListKeysRequest::default()).await.map(|answer| answer.into_inner().keys.len())
}

async fn create(plane: &Plane, token: &str) -> Result<(), Status> {
    let (channel, bearer) = plane.with(Some(token));
    let mut keys = KeyServiceClient::with_interceptor(channel, bearer);
    keys.create_key(admin::CreateKeyRequest { name: "k".to_owned(), ..Default::default() }).await.map(drop)
}

#[tokio::test]
async fn operator_revoked_at_one_control_plane_is_refused_at_all_at_once() {
    let (here, mut tokens) = (Plane::start().await, Vec::new());
    let there = plane_beside(&here).await;
    // Fewer refused calls than an address may make in a minute.
    for round in 0..4 {
        let (one, other) = if round % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let name = format!("operator {round}");
        let (made, first) = one.make_operator(&name, admin::Role::Viewer, "").await;
        list(other, &first).await.unwrap();
        assert_eq!(create(other, &first).await.unwrap_err().code(), Code::PermissionDenied);
        let raise = admin::SetOperatorRoleRequest { operator: name.clone(), role: admin::Role::Admin.into() };
        one.operators().set_operator_role(raise).await.unwrap();
        create(other, &first).await.unwrap();
        let rotation = admin::RotateOperatorRequest { operator: made.id, expires_at_ms: None };
        let second = other.operators().rotate_operator(rotation).await.unwrap().into_inner().token;
        assert_eq!(list(one, &first).await.unwrap_err().code(), Code::Unauthenticated);
        create(one, &second).await.unwrap();
        one.operators().revoke_operator(admin::RevokeOperatorRequest { operator: name }).await.unwrap();
        let refused = list(other, &second).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "this operator was revoked"));
        tokens.push(second);
    }
    // What was changed so is sealed: a later start holds it, and refuses them all as well.
    there.stop().await;
    let here = Plane::start_again(here.stop().await).await;
    for token in tokens {
        assert_eq!(list(&here, &token).await.unwrap_err().code(), Code::Unauthenticated);
    }
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_and_keys_that_all_control_planes_change_at_the_same_time_make_one_state() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let mut node = Node::connect(&there, 1, 1, keyforge_shared::state::State::default()).await;
    let first = here.revision().await;
    let make = |number: usize| {
        let plane = if number.is_multiple_of(2) { &here } else { &there };
        async move {
            let (_, token) = plane.make_operator(&format!("operator {number}"), admin::Role::Admin, "").await;
            create(plane, &token).await.unwrap();
            token
        }
    };
    let tokens = join_all((0..16).map(make)).await;
    assert_eq!(here.revision().await, first + 32, "each change is a revision");
    node.follow_to(first + 32).await;
    for token in &tokens {
        assert_eq!((list(&here, token).await.unwrap(), list(&there, token).await.unwrap()), (16, 16));
    }
    drop(node);
    let faults = crate::operators::faults(&there).await;
    assert_eq!(faults, [""; 0]);
    there.stop().await;
    Plane::start_again(here.stop().await).await.stop().await;
}

#[tokio::test]
async fn i_18_operator_whom_somebody_wrote_into_the_database_is_let_in_at_no_control_plane_that_runs() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let token = token::generate(TokenKind::Operator).unwrap();
    let mut database = database(here.directory.path()).await;
    let insert =
        "INSERT INTO operators (operator_id, name, token_digest, created_at) VALUES (zeroblob(16), 'me, too', $1, 0)";
    let insert = sql::query(insert).bind(token::digest(token.as_bytes()).0.to_vec());
    insert.execute(&mut database).await.unwrap();
    for plane in [&here, &there] {
        assert_eq!(list(plane, &token).await.unwrap_err().code(), Code::Unauthenticated);
        // Nor does a change of operators take the row over.
        let request = admin::CreateOperatorRequest {
            name: "ada".to_owned(),
            role: admin::Role::Viewer.into(),
            ..Default::default()
        };
        assert_eq!(plane.operators().create_operator(request).await.unwrap_err().code(), Code::Internal);
        create(plane, &plane.operator_token).await.unwrap();
        assert_eq!(list(plane, &token).await.unwrap_err().code(), Code::Unauthenticated);
    }
    there.stop().await;
    here.stop().await;
}
