//! A control plane that serves nodes over TLS, and machines that join it: what the tests of nodes and of their certificates stand on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyforge_control_plane::app::{self, ControlPlane};
use keyforge_control_plane::config::{Config, DEFAULT_CERTIFICATE_LIFE, TlsListener};
use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::node_service_client::NodeServiceClient as AdminNodes;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::enrollment_service_client::EnrollmentServiceClient;
use keyforge_proto::fleet::v1::node_message::Message as FromNode;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::telemetry::{Telemetry, TelemetryConfig};
use keyforge_runtime::tls::mutual::{self, ClientIdentity};
use keyforge_runtime::tls::peer::NamedCertificate;
use keyforge_shared::audit::admin::{AdminOutcome, AdminRecord};
use keyforge_shared::clock::{Clock as _, ManualClock, SystemClock};
use keyforge_shared::fleet_seal::BootKey;
use keyforge_shared::id::NodeId;
use keyforge_shared::identity::Role;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::plane::{Bearer, database};
use crate::stores;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Secure {
    pub directory: TempDir,
    pub running: ControlPlane,
    shutdown: Shutdown,
    pub clock: Arc<ManualClock>,
    pub telemetry: Telemetry,
    pub operator: String,
}

/// A machine that joined.
pub struct Machine {
    pub id: NodeId,
    pub certificate: CertificateDer<'static>,
    pub key: KeyPair,
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

pub fn signing_request(key: &KeyPair) -> Vec<u8> {
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

    pub async fn in_the_clear(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.running.addr())).unwrap().connect().await.unwrap()
    }

    pub fn with_token(channel: Channel, token: &str) -> InterceptedService<Channel, Bearer> {
        InterceptedService::new(channel, Bearer(Some(MetadataValue::try_from(format!("Bearer {token}")).unwrap())))
    }

    pub async fn operators(&self) -> InterceptedService<Channel, Bearer> {
        Self::with_token(self.channel(None).await, &self.operator)
    }

    pub async fn admin(&self) -> AdminNodes<InterceptedService<Channel, Bearer>> {
        AdminNodes::new(self.operators().await)
    }

    pub async fn token(&self, ttl_seconds: u64) -> String {
        self.token_for(ttl_seconds, &[]).await
    }

    pub async fn token_for(&self, ttl_seconds: u64, providers: &[&str]) -> String {
        let providers = providers.iter().map(|name| (*name).to_owned()).collect();
        let request = admin::CreateJoinTokenRequest { name: "edge".to_owned(), ttl_seconds, providers };
        self.admin().await.create_join_token(request).await.unwrap().into_inner().token
    }

    pub async fn try_join(&self, token: &str, wanted: Option<NodeId>) -> Result<Machine, Status> {
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

    pub async fn entries(&self) -> Vec<AdminRecord> {
        let mut database = database(self.directory.path()).await;
        let select = "SELECT record FROM entries JOIN deployment ON chain_id = admin_chain_id ORDER BY seq";
        let rows = sql::query(select).fetch_all(&mut database).await.unwrap();
        let record = |row: &sql::Row| row.try_get::<Vec<u8>, _>("record").unwrap();
        rows.iter().map(|row| AdminRecord::decode(&record(row)).unwrap()).collect()
    }

    /// The newest entry of a refusal, once it is there.
    pub async fn refused(&self, method: &str) -> AdminRecord {
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
