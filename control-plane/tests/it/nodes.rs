//! Nodes over TLS: who joins and by what, what a node is given, for whom it can speak, and that a removed one never comes back.

use std::net::SocketAddr;
use std::time::Duration;

use keyforge_control_plane::config::DEFAULT_CERTIFICATE_LIFE;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use keyforge_proto::admin::v1::node_service_client::NodeServiceClient as AdminNodes;
use keyforge_proto::admin::v1::operator_service_client::OperatorServiceClient;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::audit_intake_service_client::AuditIntakeServiceClient;
use keyforge_proto::fleet::v1::control_message::Message;
use keyforge_proto::fleet::v1::enrollment_service_client::EnrollmentServiceClient;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_proto::fleet::v1::node_service_client::NodeServiceClient;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_runtime::tls::peer::NamedCertificate;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::fleet_seal::{Binding, BootKey};
use keyforge_shared::id::{BootId, CredentialId, DeploymentId, NodeId};
use keyforge_shared::identity::{Identity, Role};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tonic::{Code, Request, Streaming};

use crate::plane::CANARY;
use crate::secure::{PATIENCE, Secure, ending, hello, signing_request, subscribe};

#[tokio::test]
async fn a_machine_joins_once_and_is_served_over_tls_with_secrets_that_only_its_boot_can_open() {
    let plane = Secure::start().await;
    let mut credentials = CredentialServiceClient::new(plane.operators().await);
    let add = admin::AddCredentialRequest {
        provider: "openai".to_owned(),
        secret: CANARY.as_bytes().to_vec(),
        ..Default::default()
    };
    credentials.add_credential(add).await.unwrap();
    let token = plane.token(60).await;
    let machine = plane.try_join(&token, None).await.unwrap();
    let joined = plane.entries().await.pop().unwrap();
    assert_eq!((joined.method.as_str(), joined.target), ("nodes/Join", machine.id.to_string()));
    assert!(!joined.detail.contains(&token) && joined.peer.starts_with("127.0.0.1:"), "{}", joined.detail);

    let key = BootKey::generate().unwrap();
    let channel = plane.channel(Some(machine.identity())).await;
    let (_open, mut stream) = subscribe(channel, hello(machine.id, 1, &key)).await.unwrap();
    let secret = loop {
        let message = stream.message().await.unwrap().unwrap().message.unwrap();
        if let Message::Secret(secret) = message {
            break secret;
        }
    };
    let binding = Binding {
        node: machine.id,
        boot: BootId::from_bytes([1; 16]),
        credential: CredentialId::from_slice(&secret.credential_id).unwrap(),
        secret_version: secret.secret_version,
    };
    assert!(key.open(&binding, None, &secret.sealed).ok().unwrap().expose() == CANARY.as_bytes());
    assert!(BootKey::generate().unwrap().open(&binding, None, &secret.sealed).is_err());

    let listed = plane.admin().await.list_nodes(admin::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!((listed.len(), listed[0].id.as_str()), (1, machine.id.to_string().as_str()));
    assert!(listed[0].connected && listed[0].name == "edge");
    let expires = plane.clock.now().saturating_add(DEFAULT_CERTIFICATE_LIFE).seconds();
    assert_eq!(listed[0].certificate_expires_at_ms / 1_000, expires);

    let replayed = plane.try_join(&token, None).await.err().unwrap();
    assert_eq!(replayed.code(), Code::Unauthenticated);
    assert_eq!(plane.refused("nodes/Join").await.detail, "the join token was used before");
    drop((_open, stream));
    plane.stop().await;
}

/// Credentials whose secrets come before the next message of another kind than `until` describes.
async fn secrets_until(
    stream: &mut Streaming<fleet::ControlMessage>,
    until: impl Fn(&Message) -> bool,
) -> Vec<CredentialId> {
    let mut secrets = Vec::new();
    let reading = async {
        loop {
            match stream.message().await.unwrap().unwrap().message.unwrap() {
                Message::Secret(secret) => secrets.push(CredentialId::from_slice(&secret.credential_id).unwrap()),
                message if until(&message) => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    secrets
}

#[tokio::test]
async fn a_node_is_given_the_secrets_of_the_providers_that_its_token_names_and_of_no_others() {
    let plane = Secure::start().await;
    let mut credentials = CredentialServiceClient::new(plane.operators().await);
    let mut add = async |provider: &str| {
        let (provider, secret) = (provider.to_owned(), CANARY.as_bytes().to_vec());
        let add = admin::AddCredentialRequest { provider, secret, ..Default::default() };
        let added = credentials.add_credential(add).await.unwrap().into_inner();
        added.id.parse::<CredentialId>().unwrap()
    };
    let (openai, _) = (add("openai").await, add("anthropic").await);
    let token = plane.token_for(60, &["openai"]).await;
    let created = plane.entries().await.pop().unwrap();
    assert!(created.detail.contains(r#""providers":["openai"]"#), "{}", created.detail);
    let machine = plane.try_join(&token, None).await.unwrap();
    let channel = plane.channel(Some(machine.identity())).await;
    let key = BootKey::generate().unwrap();
    let (_open, mut stream) = subscribe(channel, hello(machine.id, 1, &key)).await.unwrap();
    let at_start = secrets_until(&mut stream, |message| matches!(message, Message::SnapshotEnd(_))).await;
    assert_eq!(at_start, [openai]);
    add("anthropic").await;
    let later = secrets_until(&mut stream, |message| matches!(message, Message::Delta(_))).await;
    assert_eq!(later, [], "it learns that there is one");
    let another = add("openai").await;
    let later = secrets_until(&mut stream, |message| matches!(message, Message::Delta(_))).await;
    assert_eq!(later, [another]);
    let listed = plane.admin().await.list_nodes(admin::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(listed[0].providers, ["openai"]);

    let misspelt = admin::CreateJoinTokenRequest { providers: vec!["opneai".to_owned()], ..Default::default() };
    let status = plane.admin().await.create_join_token(misspelt).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("providers[0]"), "{status}");
    let entry = plane.entries().await.pop().unwrap();
    assert!(!format!("{entry:?}").contains("opneai"), "it may have been a secret: {entry:?}");
    drop((_open, stream));
    // What a database says that the control plane did not write gives a node nothing.
    plane.tamper("UPDATE nodes SET providers = ''").await;
    let channel = plane.channel(Some(machine.identity())).await;
    assert!(subscribe(channel, hello(machine.id, 1, &key)).await.is_err());
    let listed = plane.admin().await.list_nodes(admin::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    let shown: Vec<_> = listed.iter().map(|node| (node.id.clone(), node.tampered, node.joined_at_ms)).collect();
    assert_eq!(shown, [(machine.id.to_string(), true, 0)], "it is shown as what it is, and what its row says is not");
    plane.stop().await;
}

#[tokio::test]
async fn tokens_that_do_not_admit_are_told_apart_in_the_chain_and_nowhere_else() {
    let plane = Secure::start().await;
    let used = plane.token(0).await;
    let machine = plane.try_join(&used, None).await.unwrap();
    let late = plane.token(60).await;
    plane.clock.advance(Duration::from_secs(60));
    let unknown = keyforge_shared::token::generate(keyforge_shared::token::TokenKind::Join).unwrap();
    let mut told = Vec::new();
    for (token, why) in [
        (used.as_str(), "used before"),
        (late.as_str(), "has expired"),
        (unknown.as_str(), "not known here"),
        (plane.operator.as_str(), "no join token"),
        ("", "no join token"),
    ] {
        told.push(plane.try_join(token, None).await.err().unwrap());
        let entry = plane.refused("nodes/Join").await;
        assert!(entry.detail.contains(why) && (token.is_empty() || !entry.detail.contains(token)), "{}", entry.detail);
    }
    let good = plane.token(0).await;
    told.push(plane.try_join(&good, Some(machine.id)).await.err().unwrap());
    assert!(plane.refused("nodes/Join").await.detail.contains("still good"), "nobody takes a living node's place");
    assert!(told.iter().all(|status| (status.code(), status.message()) == (told[0].code(), told[0].message())));
    assert!(plane.try_join(&good, None).await.is_ok(), "what was refused has not used it up");
    let request = fleet::JoinRequest { token: plane.token(0).await, ..Default::default() };
    let status = EnrollmentServiceClient::new(plane.channel(None).await).join(request.clone()).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("signing_request"), "{status}");
    let status = EnrollmentServiceClient::new(plane.in_the_clear().await).join(request).await.unwrap_err();
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("TLS"), "{status}");
    plane.stop().await;
}

#[tokio::test]
async fn a_join_token_is_worth_nothing_once_its_maker_may_not_make_one() {
    let plane = Secure::start().await;
    let mut operators = OperatorServiceClient::new(plane.operators().await);
    let mut tokens = Vec::new();
    let ends = plane.clock.now().saturating_add(Duration::from_secs(60)).millis();
    for (name, ends) in [("leaver", None), ("demoted", None), ("robbed", None), ("guest", Some(ends))] {
        let role = admin::Role::Admin.into();
        let name = name.to_owned();
        let request = admin::CreateOperatorRequest { name, role, expires_at_ms: ends, ..Default::default() };
        let bearer = operators.create_operator(request).await.unwrap().into_inner().token;
        let mut nodes = AdminNodes::new(Secure::with_token(plane.channel(None).await, &bearer));
        let request = admin::CreateJoinTokenRequest { name: "edge".to_owned(), ..Default::default() };
        let made = nodes.create_join_token(request.clone()).await.unwrap().into_inner().token;
        assert!(plane.try_join(&made, None).await.is_ok());
        tokens.push(nodes.create_join_token(request).await.unwrap().into_inner().token);
    }
    operators.revoke_operator(admin::RevokeOperatorRequest { operator: "leaver".to_owned() }).await.unwrap();
    let viewer = admin::SetOperatorRoleRequest { operator: "demoted".to_owned(), role: admin::Role::Viewer.into() };
    operators.set_operator_role(viewer).await.unwrap();
    // Being an admin again brings nothing back.
    let again = admin::SetOperatorRoleRequest { operator: "demoted".to_owned(), role: admin::Role::Admin.into() };
    operators.set_operator_role(again).await.unwrap();
    let rotate = admin::RotateOperatorRequest { operator: "robbed".to_owned(), ..Default::default() };
    operators.rotate_operator(rotate).await.unwrap();
    plane.clock.advance(Duration::from_secs(60));
    for token in tokens {
        assert!(plane.try_join(&token, None).await.is_err());
        plane.refused("nodes/Join").await;
    }
    assert!(plane.refused("nodes/Join").await.detail.contains("may not make one any more"), "the guest's time is over");
    plane.stop().await;
}

#[tokio::test]
async fn a_join_token_or_a_node_that_was_written_into_the_database_admits_nobody() {
    let plane = Secure::start().await;
    let token = plane.token(1).await;
    plane.clock.advance(Duration::from_secs(60));
    plane.tamper("UPDATE node_join_tokens SET expires_at = expires_at + 86400000000000 WHERE used_at IS NULL").await;
    let status = plane.try_join(&token, None).await.err().unwrap();
    assert!(status.code() == Code::Internal && status.message().contains("node_join_tokens"), "{status}");
    let used = plane.token(0).await;
    let other = plane.try_join(&used, None).await.unwrap();
    plane.tamper("UPDATE node_join_tokens SET used_at = NULL WHERE used_at IS NOT NULL").await;
    let status = plane.try_join(&used, None).await.err().unwrap();
    assert!(status.code() == Code::Internal && status.message().contains("node_join_tokens"), "{status}");
    let good = plane.token(0).await;
    plane.tamper("UPDATE nodes SET certificate_expires_at = 1").await;
    let status = plane.try_join(&good, Some(other.id)).await.err().unwrap();
    assert!(status.code() == Code::Internal && status.message().contains("nodes"), "nobody's place is free: {status}");
    plane.stop().await;

    let plane = Secure::start().await;
    let machine = plane.join().await;
    plane.admin().await.remove_node(admin::RemoveNodeRequest { id: machine.id.to_string() }).await.unwrap();
    plane.tamper("UPDATE nodes SET removed_at = NULL").await;
    let channel = plane.channel(Some(machine.identity())).await;
    let status = subscribe(channel, hello(machine.id, 1, &BootKey::generate().unwrap())).await.err().unwrap();
    assert_eq!(status.code(), Code::Internal, "{status}");
    plane.stop().await;
}

#[tokio::test]
async fn while_one_address_holds_all_it_may_nodes_and_operators_from_others_get_in() {
    const MOST: usize = 1_000;
    let plane = Secure::start().await;
    let address = plane.running.tls_addr().unwrap();
    let connect = || async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
        socket.connect(address).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..MOST {
        held.push(connect().await);
    }
    let mut further = connect().await;
    let closed = tokio::time::timeout(PATIENCE, further.read(&mut [0])).await.expect("it is held");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    let counted = r#"keyforge_listener_connections_refused_total{keyforge_listener="grpc_tls"} 1"#;
    assert!(plane.telemetry.prometheus_text().contains(counted), "{}", plane.telemetry.prometheus_text());

    let machine = plane.join().await;
    let channel = plane.channel(Some(machine.identity())).await;
    let first = hello(machine.id, 1, &BootKey::generate().unwrap());
    let (_open, _stream) = subscribe(channel, first).await.unwrap();
    plane.admin().await.list_nodes(admin::ListNodesRequest::default()).await.unwrap();
    drop(held);
    plane.stop().await;
}

#[tokio::test]
async fn a_node_cannot_speak_for_another_node_or_for_its_boots() {
    let plane = Secure::start().await;
    let (one, other) = (plane.join().await, plane.join().await);
    let key = BootKey::generate().unwrap();
    let own = plane.channel(Some(one.identity())).await;
    let (_open, mut stream) = subscribe(own.clone(), hello(one.id, 1, &key)).await.unwrap();
    stream.message().await.unwrap();

    let foreign = plane.channel(Some(other.identity())).await;
    let (_open_too, stream) = subscribe(foreign.clone(), hello(one.id, 2, &key)).await.unwrap();
    let mut statuses = vec![ending(stream).await];
    let (_open_as_well, stream) = subscribe(foreign.clone(), hello(other.id, 1, &key)).await.unwrap();
    statuses.push(ending(stream).await);
    let (node_id, boot_id) = (one.id.as_bytes().to_vec(), vec![1; 16]);
    let mut intake = AuditIntakeServiceClient::new(foreign.clone());
    let ship = fleet::ShipRecordsRequest { node_id: node_id.clone(), boot_id: boot_id.clone(), ..Default::default() };
    statuses.push(intake.ship_records(ship).await.unwrap_err());
    let gap = fleet::ReportGapRequest { node_id: node_id.clone(), boot_id: boot_id.clone(), ..Default::default() };
    statuses.push(intake.report_gap(gap).await.unwrap_err());
    let mut grants = GrantServiceClient::new(foreign.clone());
    let close = fleet::CloseBootRequest { boot_id: boot_id.clone(), last_seq: 0 };
    statuses.push(grants.close_boot(close.clone()).await.unwrap_err());
    let leave = fleet::LeaveEpochsRequest { boot_id: boot_id.clone(), ..Default::default() };
    statuses.push(grants.leave_epochs(leave).await.unwrap_err());
    let report = fleet::ReportCredentialsRequest { node_id, ..Default::default() };
    statuses.push(StateServiceClient::new(foreign.clone()).report_credentials(report.clone()).await.unwrap_err());
    let own_id = other.id.as_bytes().to_vec();
    let others_boot = fleet::ReportCredentialsRequest { node_id: own_id, boot_id: vec![1; 16], ..report.clone() };
    statuses.push(StateServiceClient::new(foreign).report_credentials(others_boot).await.unwrap_err());
    for status in &statuses {
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, statuses[0].message()));
        assert!(!status.message().contains(&one.id.to_string()), "{status}");
    }
    let entries = plane.entries().await;
    let denied = entries.iter().filter(|entry| entry.outcome == AdminOutcome::Denied);
    assert_eq!(denied.count(), statuses.len());
    assert!(GrantServiceClient::new(own.clone()).close_boot(close).await.is_ok(), "its own node may");
    assert!(StateServiceClient::new(own).report_credentials(report.clone()).await.is_ok());

    let fleet_token = std::fs::read_to_string(plane.running.fleet_token_path()).unwrap();
    let by_token = Secure::with_token(plane.in_the_clear().await, fleet_token.trim());
    let mut state = StateServiceClient::new(by_token);
    let status = state.report_credentials(report.clone()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, statuses[0].message()));
    let unknown = fleet::ReportCredentialsRequest { node_id: vec![9; 16], ..report };
    assert!(state.report_credentials(unknown).await.is_ok(), "a node that never joined");
    plane.stop().await;
}

#[tokio::test]
async fn a_removed_node_is_cut_within_a_second_and_never_comes_back() {
    let plane = Secure::start().await;
    let (gone, stays) = (plane.join().await, plane.join().await);
    let key = BootKey::generate().unwrap();
    let channel = plane.channel(Some(gone.identity())).await;
    let (_open, stream) = subscribe(channel.clone(), hello(gone.id, 1, &key)).await.unwrap();
    let (_stays_open, mut other) =
        subscribe(plane.channel(Some(stays.identity())).await, hello(stays.id, 2, &key)).await.unwrap();
    let mut admin_nodes = plane.admin().await;
    let since = SystemClock.monotonic_nanos();
    admin_nodes.remove_node(admin::RemoveNodeRequest { id: gone.id.to_string() }).await.unwrap();
    let status = ending(stream).await;
    let took = Duration::from_nanos(SystemClock.monotonic_nanos() - since);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.metadata().get("keyforge-node").unwrap(), "removed");
    let removal = plane.entries().await.into_iter().rfind(|entry| entry.method == "nodes/Remove").unwrap();
    assert_eq!((removal.target, removal.outcome), (gone.id.to_string(), AdminOutcome::Done));

    let status = subscribe(channel.clone(), hello(gone.id, 1, &key)).await.err().unwrap();
    assert_eq!(status.metadata().get("keyforge-node").unwrap(), "removed", "on the same connection");
    let again = plane.channel(Some(gone.identity())).await;
    let renew = fleet::RenewCertificateRequest { signing_request: signing_request(&gone.key) };
    let status = NodeServiceClient::new(again).renew_certificate(renew).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(plane.refused("nodes/RenewCertificate").await.target, gone.id.to_string());
    let token = plane.token(0).await;
    assert!(plane.try_join(&token, Some(gone.id)).await.is_err());
    assert!(plane.refused("nodes/Join").await.detail.contains("was removed"));
    assert!(other.message().await.unwrap().is_some(), "the other one goes on");
    let missing = admin::RemoveNodeRequest { id: NodeId::from_bytes([9; 16]).to_string() };
    assert_eq!(admin_nodes.remove_node(missing).await.unwrap_err().code(), Code::NotFound);
    drop((_stays_open, other));
    plane.stop().await;
}

#[tokio::test]
async fn over_tls_no_token_stands_in_for_a_certificate_and_no_certificate_for_an_operator() {
    let plane = Secure::start().await;
    let fleet_token = std::fs::read_to_string(plane.running.fleet_token_path()).unwrap();
    let anonymous = Secure::with_token(plane.channel(None).await, fleet_token.trim());
    let report = fleet::ReportCredentialsRequest { node_id: vec![9; 16], ..Default::default() };
    let status = StateServiceClient::new(anonymous).report_credentials(report).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(plane.refused("fleet/ReportCredentials").await.detail, "no certificate of a node");
    let machine = plane.join().await;
    let mut by_node = AdminNodes::new(plane.channel(Some(machine.identity())).await);
    let status = by_node.list_nodes(Request::new(admin::ListNodesRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let other_deployment = Identity { deployment: DeploymentId::from_bytes([9; 16]), role: Role::Node(machine.id) };
    assert_ne!(NamedCertificate::parse(&machine.certificate).unwrap().identity, other_deployment);
    plane.stop().await;
}
