//! TLS between the processes of one deployment: 1.3 only, under the deployment's own authority.
//!
//! Names in these certificates say which process it is, not at which address it is reached, so that a server is verified by its authority's
//! fingerprint and its role, wherever it is. A server admits clients without a certificate and tells its services so: joining needs none.

use std::fmt;
use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::DeploymentId;
use keyforge_shared::identity::Role;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::peer::{Fingerprint, NamedCertificate};
use super::{TlsError, provider};

/// Connects over TLS.
pub type Connector = HttpsConnector<HttpConnector>;

/// A certificate and its key, for a client.
pub struct ClientIdentity {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// A server under `authority` that presents what `certificate` resolves, and verifies the certificates of clients that have one.
///
/// Sessions are never resumed: each connection proves anew that its certificate holds at the time that `clock` shows.
///
/// # Errors
/// The authority's certificate cannot be one.
pub fn server(
    authority: &CertificateDer<'static>,
    certificate: Arc<dyn ResolvesServerCert>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let roots = Arc::new(roots(authority)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Provider(Error::General(error.to_string())))?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client of the control plane whose authority has this fingerprint; of `deployment`, when that is known already.
///
/// # Errors
/// Certificate and key of the client do not belong together.
pub fn client(
    authority: Fingerprint,
    deployment: Option<DeploymentId>,
    identity: Option<ClientIdentity>,
) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ControlPlaneVerifier { authority, deployment }));
    match identity {
        Some(ClientIdentity { certificate, key }) => {
            config.with_client_auth_cert(vec![certificate], key).map_err(TlsError::Provider)
        }
        None => Ok(config.with_no_client_auth()),
    }
}

/// Connects with a configuration of [`client`], and speaks HTTP/2.
#[must_use]
pub fn connector(config: ClientConfig) -> Connector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http2().wrap_connector(tcp)
}

fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(TlsError::Provider)?;
    Ok(roots)
}

/// Shows rustls the time that everything else goes by.
struct ClockTime(Arc<dyn Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Admits the control plane whose authority has the pinned fingerprint, and nobody else whom that authority has certified.
#[derive(Debug)]
struct ControlPlaneVerifier {
    authority: Fingerprint,
    deployment: Option<DeploymentId>,
}

impl ServerCertVerifier for ControlPlaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == self.authority);
        let pinned = pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], now, algorithms.all)?;
        let named = NamedCertificate::parse(end_entity).ok().map(|named| named.identity);
        let expected = named.is_some_and(|identity| {
            identity.role == Role::ControlPlane && self.deployment.is_none_or(|known| known == identity.deployment)
        });
        if expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
