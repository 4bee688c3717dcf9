//! Nodes over TLS: who joins, by what, and who is refused: with a forged, an expired, or another node's certificate, a token used twice, or removed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyforge_control_plane::app::{self, ControlPlane};
use keyforge_control_plane::config::{Config, DEFAULT_CERTIFICATE_LIFE, TlsListener};
use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use keyforge_proto::admin::v1::node_service_client::NodeServiceClient as AdminNodes;
use keyforge_proto::admin::v1::operator_service_client::OperatorServiceClient;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::audit_intake_service_client::AuditIntakeServiceClient;
use keyforge_proto::fleet::v1::control_message::Message;
use keyforge_proto::fleet::v1::enrollment_service_client::EnrollmentServiceClient;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_proto::fleet::v1::node_message::Message as FromNode;
use keyforge_proto::fleet::v1::node_service_client::NodeServiceClient;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::telemetry::{Telemetry, TelemetryConfig};
use keyforge_runtime::tls::mutual::{self, ClientIdentity};
use keyforge_runtime::tls::peer::NamedCertificate;
use keyforge_shared::audit::admin::{AdminOutcome, AdminRecord};
use keyforge_shared::clock::{Clock as _, ManualClock, SystemClock};
use keyforge_shared::fleet_seal::{Binding, BootKey};
use keyforge_shared::id::{BootId, CredentialId, DeploymentId, NodeId};
use keyforge_shared::identity::{Identity, Role};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::plane::{Bearer, CANARY, database};
use crate::stores;

const PATIENCE: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);

pub struct Secure {
    pub directory: TempDir,
    running: ControlPlane,
    shutdown: Shutdown,
    clock: Arc<ManualClock>,
    telemetry: Telemetry,
    operator: String,
}

/// A machine that joined.
pub struct Machine {
    pub id: NodeId,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Machine {
    pub fn identity(&self) -> ClientIdentity {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        ClientIdentity { certificate: self.certificate.clone(), key }
    }
}

fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    match NamedCertificate::parse(certificate).ok()?.identity.role {
        Role::Node(node) => Some(node),
        Role::ControlPlane => None,
    }
}

fn signing_request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

impl Secure {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(directory: TempDir) -> Self {
        let (telemetry, _) = Telemetry::prepare(TelemetryConfig::new("test")).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let tls = Some(TlsListener { listen: any, certificate_life: DEFAULT_CERTIFICATE_LIFE });
        let database = stores::database_of(directory.path());
        let config = Config { tls, database, ..Config::local(directory.path().join("data"), any) };
        let (shutdown, clock) = (Shutdown::new(), Arc::new(ManualClock::at(SystemClock.now())));
        let running = app::start(config, shutdown.clone(), &telemetry, clock.clone()).await.unwrap();
        let operator = std::fs::read_to_string(running.operator_token_path()).unwrap().trim_end().to_owned();
        Self { directory, running, shutdown, clock, telemetry, operator }
    }

    pub async fn stop(self) {
        self.shutdown.trigger();
        assert_eq!(self.shutdown.drained(PATIENCE).await, Drained::Clean);
        self.running.close().await;
        stores::forget(self.directory.path());
    }

    /// A channel over TLS. What the server refuses in the handshake is told by the first call.
    pub async fn channel(&self, identity: Option<ClientIdentity>) -> Channel {
        let tls = mutual::client(self.running.fingerprint(), None, identity).unwrap();
        let url = format!("https://{}", self.running.tls_addr().unwrap());
        let endpoint = Endpoint::from_shared(url).unwrap();
        endpoint.connect_with_connector(mutual::connector(tls)).await.unwrap()
    }

    async fn in_the_clear(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.running.addr())).unwrap().connect().await.unwrap()
    }

    fn with_token(channel: Channel, token: &str) -> InterceptedService<Channel, Bearer> {
        InterceptedService::new(channel, Bearer(Some(MetadataValue::try_from(format!("Bearer {token}")).unwrap())))
    }

    async fn operators(&self) -> InterceptedService<Channel, Bearer> {
        Self::with_token(self.channel(None).await, &self.operator)
    }

    pub async fn admin(&self) -> AdminNodes<InterceptedService<Channel, Bearer>> {
        AdminNodes::new(self.operators().await)
    }

    async fn token(&self, ttl_seconds: u64) -> String {
        self.token_for(ttl_seconds, &[]).await
    }

    async fn token_for(&self, ttl_seconds: u64, providers: &[&str]) -> String {
        let providers = providers.iter().map(|name| (*name).to_owned()).collect();
        let request = admin::CreateJoinTokenRequest { name: "edge".to_owned(), ttl_seconds, providers };
        self.admin().await.create_join_token(request).await.unwrap().into_inner().token
    }

    async fn try_join(&self, token: &str, wanted: Option<NodeId>) -> Result<Machine, Status> {
        let key = KeyPair::generate().unwrap();
        let request = fleet::JoinRequest {
            token: token.to_owned(),
            signing_request: signing_request(&key),
            node_id: wanted.map_or_else(Vec::new, |node| node.as_bytes().to_vec()),
        };
        let mut enrollment = EnrollmentServiceClient::new(self.channel(None).await);
        let answer = enrollment.join(request).await?.into_inner();
        let certificate = CertificateDer::from(answer.certificate);
        let id = node_of(&certificate).expect("the certificate names a node");
        Ok(Machine { id, certificate, key })
    }

    pub async fn join(&self) -> Machine {
        self.try_join(&self.token(0).await, None).await.unwrap()
    }

    async fn entries(&self) -> Vec<AdminRecord> {
        let mut database = database(self.directory.path()).await;
        let select = "SELECT record FROM entries JOIN deployment ON chain_id = admin_chain_id ORDER BY seq";
        let rows = sql::query(select).fetch_all(&mut database).await.unwrap();
        let record = |row: &sql::Row| row.try_get::<Vec<u8>, _>("record").unwrap();
        rows.iter().map(|row| AdminRecord::decode(&record(row)).unwrap()).collect()
    }

    /// The newest entry of a refusal, once it is there.
    async fn refused(&self, method: &str) -> AdminRecord {
        let found = async {
            loop {
                let found = self.entries().await.into_iter().rfind(|entry| entry.method == method);
                if let Some(found) = found.filter(|found| found.outcome == AdminOutcome::Denied) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap()
    }

    pub async fn tamper(&self, statement: &'static str) {
        let mut database = database(self.directory.path()).await;
        assert!(sql::query(statement).execute(&mut database).await.unwrap() > 0, "{statement}");
    }
}

pub fn hello(node: NodeId, boot: u8, key: &BootKey) -> fleet::NodeMessage {
    let hello = fleet::Hello {
        node_id: node.as_bytes().to_vec(),
        boot_id: vec![boot; 16],
        seal_key: key.public().to_bytes(),
        ..Default::default()
    };
    fleet::NodeMessage { message: Some(FromNode::Hello(hello)) }
}

pub type Stream = (mpsc::Sender<fleet::NodeMessage>, Streaming<fleet::ControlMessage>);

pub async fn subscribe(channel: Channel, first: fleet::NodeMessage) -> Result<Stream, Status> {
    let (outbound, receiver) = mpsc::channel(4);
    outbound.send(first).await.unwrap();
    let answer = StateServiceClient::new(channel).subscribe(ReceiverStream::new(receiver)).await?;
    Ok((outbound, answer.into_inner()))
}

/// Reads until the stream ends, and says how.
pub async fn ending(mut stream: Streaming<fleet::ControlMessage>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("the stream ended"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.unwrap()
}

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
async fn forged_and_expired_certificates_are_refused_in_the_handshake_and_recorded() {
    let plane = Secure::start().await;
    let machine = plane.join().await;
    let named = NamedCertificate::parse(&machine.certificate).unwrap().identity;
    let forged = forged_certificate(named);
    let channel = plane.channel(Some(forged)).await;
    let key = BootKey::generate().unwrap();
    let status = subscribe(channel, hello(machine.id, 1, &key)).await.err().unwrap();
    assert_eq!(status.code(), Code::Unknown, "the connection is gone: {status}");
    let entry = plane.refused("fleet/Connect").await;
    assert!(entry.detail.contains("invalid peer certificate") && entry.peer.starts_with("127.0.0.1:"), "{entry:?}");

    let channel = plane.channel(Some(machine.identity())).await;
    let (_open, stream) = subscribe(channel.clone(), hello(machine.id, 1, &key)).await.unwrap();
    plane.clock.advance(DAY + Duration::from_secs(1));
    let status = ending(stream).await;
    assert_eq!(status.code(), Code::Unauthenticated, "an open stream ends with its certificate: {status}");
    let status = subscribe(channel, hello(machine.id, 1, &key)).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "so does a connection: {status}");
    assert!(plane.refused("fleet/Subscribe").await.detail.contains("has expired"));
    let channel = plane.channel(Some(machine.identity())).await;
    assert!(subscribe(channel, hello(machine.id, 1, &key)).await.is_err());
    let expired = async {
        while !plane.refused("fleet/Connect").await.detail.to_lowercase().contains("expired") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, expired).await.unwrap();

    let narrow = plane.token_for(0, &["openai"]).await;
    assert!(plane.try_join(&narrow, Some(machine.id)).await.is_err());
    assert!(plane.refused("nodes/Join").await.detail.contains("serves other providers"));
    let token = plane.token(0).await;
    let again = plane.try_join(&token, Some(machine.id)).await.unwrap();
    assert_eq!(again.id, machine.id, "the node whose certificate has expired goes on under its id");
    plane.stop().await;
}

#[tokio::test]
async fn every_certificate_that_is_refused_in_the_handshake_is_counted_also_when_there_is_no_time_to_record_it() {
    const FLOOD: usize = 80;
    let plane = Secure::start().await;
    let machine = plane.join().await;
    // Nothing can be recorded for now.
    let mut database = stores::connect(plane.directory.path()).await;
    stores::keep_all_others_from_writing(&mut database).await;
    let key = BootKey::generate().unwrap();
    for _ in 0..FLOOD {
        let named = NamedCertificate::parse(&machine.certificate).unwrap().identity;
        let channel = plane.channel(Some(forged_certificate(named))).await;
        assert!(subscribe(channel, hello(machine.id, 1, &key)).await.is_err());
    }
    let counted = format!(r#"keyforge_nodes_refused_total{{keyforge_reason="handshake"}} {FLOOD}"#);
    let counting = async {
        while !plane.telemetry.prometheus_text().contains(&counted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_counted = tokio::time::timeout(PATIENCE, counting).await;
    is_counted.unwrap_or_else(|_| panic!("{counted} is not in {}", plane.telemetry.prometheus_text()));
    drop(database);
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

/// The right names and dates under an authority that somebody made at home.
fn forged_certificate(named: Identity) -> ClientIdentity {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(named.to_string().as_str().try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap().into();
    ClientIdentity { certificate, key: PrivateKeyDer::from(key) }
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
async fn of_two_who_hold_one_identity_only_the_one_who_renewed_first_renews_again_and_the_other_is_recorded() {
    let plane = Secure::start().await;
    let machine = plane.join().await;
    let renew = async |identity: ClientIdentity| {
        let key = KeyPair::generate().unwrap();
        let request = fleet::RenewCertificateRequest { signing_request: signing_request(&key) };
        let renewed = NodeServiceClient::new(plane.channel(Some(identity)).await).renew_certificate(request).await?;
        let certificate = renewed.into_inner().certificate.into();
        Ok::<_, Status>(Machine { id: machine.id, certificate, key })
    };
    renew(machine.identity()).await.unwrap();
    let renewed = renew(machine.identity()).await.expect("the first answer may have been lost");
    let (_open, stream) =
        subscribe(plane.channel(Some(renewed.identity())).await, hello(machine.id, 1, &BootKey::generate().unwrap()))
            .await
            .unwrap();
    let status = renew(machine.identity()).await.err().expect("a copy renews nothing");
    assert!(status.code() == Code::PermissionDenied && status.message().contains("was copied"), "{status}");
    let entry = plane.refused("nodes/RenewCertificate").await;
    assert!(entry.target == machine.id.to_string() && entry.detail.contains("holds a copy"), "{entry:?}");
    let again = renew(renewed.identity()).await.unwrap();
    let newest = renew(renewed.identity()).await.expect("nobody has used the newest one yet");
    let status = renew(again.identity()).await.err().expect("somebody had it who has lost the newest");
    assert!(status.message().contains("was copied"), "{status}");
    assert!(renew(newest.identity()).await.is_ok());
    drop((_open, stream));
    plane.stop().await;
}

#[tokio::test]
async fn a_node_renews_over_its_connection_for_a_key_of_its_own_choice() {
    let plane = Secure::start().await;
    let machine = plane.join().await;
    plane.clock.advance(DAY * 2 / 3);
    let key = KeyPair::generate().unwrap();
    let mut nodes = NodeServiceClient::new(plane.channel(Some(machine.identity())).await);
    let request = fleet::RenewCertificateRequest { signing_request: signing_request(&key) };
    let certificate = nodes.renew_certificate(request).await.unwrap().into_inner().certificate;
    let renewed = Machine { id: machine.id, certificate: certificate.into(), key };
    let named = NamedCertificate::parse(&renewed.certificate).unwrap();
    assert_eq!(named.identity.role, Role::Node(machine.id));
    let entry = plane.entries().await.pop().unwrap();
    assert_eq!((entry.method.as_str(), entry.target), ("nodes/RenewCertificate", machine.id.to_string()));
    assert!(entry.detail.contains(r#""instead_of":""#), "{}", entry.detail);
    plane.clock.advance(DAY * 2 / 3);
    let boot = BootKey::generate().unwrap();
    let old = plane.channel(Some(machine.identity())).await;
    assert!(subscribe(old, hello(machine.id, 1, &boot)).await.is_err(), "the old one has expired");
    let new = plane.channel(Some(renewed.identity())).await;
    let (_open, mut stream) = subscribe(new, hello(machine.id, 1, &boot)).await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    let garbage = fleet::RenewCertificateRequest { signing_request: vec![1; 9_000] };
    let mut nodes = NodeServiceClient::new(plane.channel(Some(renewed.identity())).await);
    assert_eq!(nodes.renew_certificate(garbage).await.unwrap_err().code(), Code::InvalidArgument);
    drop((_open, stream));
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
