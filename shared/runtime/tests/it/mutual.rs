//! TLS between processes: who is admitted, by which certificate, and what the server learns of those that are not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::rt::TokioExecutor;
use keyforge_runtime::accept::{self, AcceptOptions, PerPeer, Transport};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::tls::mutual::{self, ClientIdentity};
use keyforge_runtime::tls::peer::{Fingerprint, NamedCertificate};
use keyforge_runtime::tls::reload;
use keyforge_shared::clock::{Clock as _, ManualClock, SystemClock, Timestamp};
use keyforge_shared::id::{DeploymentId, NodeId};
use keyforge_shared::identity::{Identity, Role};
use rcgen::{Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::server::{any_port, text};

const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 16]);

const IN_2031: Timestamp = Timestamp::from_millis(1_925_000_000_000);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn print(&self) -> Fingerprint {
        Fingerprint::of(self.certificate.der())
    }

    fn issue(&self, role: Role) -> ClientIdentity {
        let (certificate, key) = self.issue_until(role, 2100);
        ClientIdentity { certificate: certificate.into(), key: PrivateKeyDer::from(key) }
    }

    fn issue_until(&self, role: Role, year: i32) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let name = Identity { deployment: DEPLOYMENT, role }.to_string();
        params.subject_alt_names = vec![SanType::URI(name.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![match role {
            Role::ControlPlane => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Node(_) => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

struct Server {
    address: SocketAddr,
    refused: mpsc::UnboundedReceiver<String>,
    clock: Arc<ManualClock>,
    _files: tempfile::TempDir,
    _shutdown: Shutdown,
}

/// Answers with the name in the client's certificate.
fn serve(authority: &Authority, role: Role) -> Server {
    serve_with(authority, role, AcceptOptions::default())
}

fn serve_with(authority: &Authority, role: Role, limits: AcceptOptions) -> Server {
    let (presented, own_key) = authority.issue_until(role, 2100);
    let files = tempfile::tempdir().unwrap();
    let (certificates, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
    std::fs::write(&certificates, presented.pem() + &authority.certificate.pem()).unwrap();
    std::fs::write(&key, own_key.serialize_pem()).unwrap();
    let resolver = reload::ReloadingCertificate::load(&certificates, &key).unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let config = mutual::server(authority.certificate.der(), resolver, clock.clone()).unwrap();
    let (told, refused) = mpsc::unbounded_channel();
    let options = AcceptOptions {
        tls: Some(TlsAcceptor::from(config)),
        on_refused_certificate: Some(Arc::new(move |_, error| drop(told.send(error.to_string())))),
        ..limits
    };
    let shutdown = Shutdown::new();
    let listener = accept::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    let make = |peer: &accept::Peer| {
        let name = match &peer.transport {
            Transport::Cleartext => "in the clear".to_owned(),
            Transport::Tls { certificate: None } => "nobody".to_owned(),
            Transport::Tls { certificate: Some(shown) } => NamedCertificate::parse(shown).unwrap().identity.to_string(),
        };
        service_fn(move |_request| {
            let name = name.clone();
            async move { Ok::<_, Infallible>(text(name)) }
        })
    };
    drop(shutdown.spawn("listener", accept::serve_with(listener, options, make, shutdown.clone())));
    Server { address, refused, clock, _files: files, _shutdown: shutdown }
}

async fn ask(server: &Server, pin: Fingerprint, identity: Option<ClientIdentity>) -> Result<String, String> {
    ask_over(&client(pin, identity), server).await
}

/// Holds its connection for as long as it lives.
fn client(
    pin: Fingerprint,
    identity: Option<ClientIdentity>,
) -> Client<impl Connect + Clone + Send + Sync + 'static, Full<Bytes>> {
    let config = mutual::client(pin, Some(DEPLOYMENT), identity).unwrap();
    Client::builder(TokioExecutor::new()).http2_only(true).build(mutual::connector(config))
}

async fn ask_over(
    client: &Client<impl Connect + Clone + Send + Sync + 'static, Full<Bytes>>,
    server: &Server,
) -> Result<String, String> {
    let request = Request::get(format!("https://{}/", server.address)).body(Full::<Bytes>::default()).unwrap();
    let answer = client.request(request).await.map_err(|error| format!("{error:?}"))?;
    let body = answer.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_and_one_without_is_told_apart() {
    let authority = Authority::new();
    let server = serve(&authority, Role::ControlPlane);
    let node = Role::Node(NodeId::from_bytes([7; 16]));
    let name = Identity { deployment: DEPLOYMENT, role: node }.to_string();
    assert_eq!(ask(&server, authority.print(), Some(authority.issue(node))).await, Ok(name));
    assert_eq!(ask(&server, authority.print(), None).await, Ok("nobody".to_owned()));
}

#[tokio::test]
async fn connections_that_showed_a_certificate_do_not_count_against_their_address() {
    let authority = Authority::new();
    let per_peer = Some(PerPeer { of_address: 1, of_certificate: 2, on_refused: Arc::new(|| ()) });
    let server = serve_with(&authority, Role::ControlPlane, AcceptOptions { per_peer, ..AcceptOptions::default() });
    let node_of = |number| Role::Node(NodeId::from_bytes([number; 16]));
    let nodes: Vec<_> =
        (0..5).map(|number| client(authority.print(), Some(authority.issue(node_of(number))))).collect();
    for node in &nodes {
        assert!(ask_over(node, &server).await.is_ok());
    }
    let stranger = client(authority.print(), None);
    assert_eq!(ask_over(&stranger, &server).await, Ok("nobody".to_owned()));
    assert!(ask(&server, authority.print(), None).await.is_err(), "the one that strangers may hold is held");
    for node in &nodes {
        assert!(ask_over(node, &server).await.is_ok(), "they go on");
    }
}

#[tokio::test]
async fn one_certificate_holds_no_more_connections_than_it_may_and_takes_none_of_another() {
    let authority = Authority::new();
    let refused = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&refused);
    let on_refused = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let per_peer = Some(PerPeer { of_address: 1, of_certificate: 2, on_refused });
    let server = serve_with(&authority, Role::ControlPlane, AcceptOptions { per_peer, ..AcceptOptions::default() });
    let node = Role::Node(NodeId::from_bytes([7; 16]));
    let ClientIdentity { certificate, key } = authority.issue(node);
    let identity = || Some(ClientIdentity { certificate: certificate.clone(), key: key.clone_key() });
    let held: Vec<_> = (0..2).map(|_| client(authority.print(), identity())).collect();
    for held in &held {
        assert!(ask_over(held, &server).await.is_ok());
    }
    assert!(ask(&server, authority.print(), identity()).await.is_err());
    let renewed = authority.issue(node);
    assert!(ask(&server, authority.print(), Some(renewed)).await.is_err(), "it is one node's, however often renewed");
    assert_eq!(refused.load(Ordering::Relaxed), 2);
    let other = Role::Node(NodeId::from_bytes([8; 16]));
    assert!(ask(&server, authority.print(), Some(authority.issue(other))).await.is_ok());
    assert_eq!(ask(&server, authority.print(), None).await, Ok("nobody".to_owned()));
    for held in &held {
        assert!(ask_over(held, &server).await.is_ok(), "they go on");
    }
}

#[tokio::test]
async fn forged_expired_and_misused_certificates_are_refused_in_the_handshake_and_told() {
    let authority = Authority::new();
    let mut server = serve(&authority, Role::ControlPlane);
    let node = Role::Node(NodeId::from_bytes([7; 16]));
    let forged = Authority::new().issue(node);
    assert!(ask(&server, authority.print(), Some(forged)).await.is_err());
    assert!(server.refused.recv().await.unwrap().contains("invalid peer certificate"));
    let of_a_server = authority.issue(Role::ControlPlane);
    assert!(ask(&server, authority.print(), Some(of_a_server)).await.is_err());
    assert!(server.refused.recv().await.unwrap().contains("invalid peer certificate"));
    let (certificate, key) = authority.issue_until(node, 2030);
    let until_2030 = || ClientIdentity {
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    };
    assert!(ask(&server, authority.print(), Some(until_2030())).await.is_ok());
    server.clock.set(IN_2031);
    assert!(ask(&server, authority.print(), Some(until_2030())).await.is_err());
    assert!(server.refused.recv().await.unwrap().to_lowercase().contains("expired"));
}

#[tokio::test]
async fn a_server_is_refused_unless_its_authority_is_the_pinned_one_and_it_is_a_control_plane() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = serve(&authority, Role::ControlPlane);
    assert!(ask(&server, other.print(), None).await.unwrap_err().contains("UnknownIssuer"));
    let a_node = serve(&authority, Role::Node(NodeId::from_bytes([7; 16])));
    assert!(ask(&a_node, authority.print(), None).await.is_err(), "a node cannot pass for the control plane");
}
