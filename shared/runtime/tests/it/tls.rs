//! TLS on the accept loop, with a certificate made for the test.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use keyforge_runtime::accept::AcceptOptions;
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::tls;
use keyforge_runtime::tls::reload::ReloadingCertificate;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::server::{LONG, send_and_read_to_end, start, text};

pub struct Identity {
    directory: tempfile::TempDir,
}

impl Identity {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Self { directory };
        identity.renew();
        identity
    }

    /// Puts another certificate and its key in place of what is there. Gives the certificate.
    pub fn renew(&self) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(self.directory.path().join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(self.directory.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    }

    fn load(&self) -> Arc<ReloadingCertificate> {
        let path = self.directory.path();
        ReloadingCertificate::load(&path.join("cert.pem"), &path.join("key.pem")).unwrap()
    }

    pub fn options(&self) -> AcceptOptions {
        self.options_with(self.load())
    }

    fn options_with(&self, certificate: Arc<ReloadingCertificate>) -> AcceptOptions {
        AcceptOptions {
            tls: Some(TlsAcceptor::from(tls::server_config(certificate).unwrap())),
            header_read_timeout: Duration::from_secs(1),
            ..AcceptOptions::default()
        }
    }

    /// A client's configuration that trusts this identity and speaks of no HTTP version.
    pub fn client(&self) -> ClientConfig {
        tls::client_config(Some(&self.directory.path().join("cert.pem"))).unwrap()
    }
}

#[tokio::test]
async fn extra_ca_is_trusted_and_alpn_chooses_the_version() {
    let identity = Identity::new();
    let shutdown = Shutdown::new();
    let address = start(identity.options(), &shutdown, |_request| async { text("over tls") });
    for (h2, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let connector = HttpsConnectorBuilder::new().with_tls_config(identity.client()).https_only();
        let connector = if h2 { connector.enable_http2().build() } else { connector.enable_http1().build() };
        let client = Client::builder(TokioExecutor::new()).http2_only(h2).build::<_, Full<Bytes>>(connector);
        let uri = format!("https://localhost:{}/", address.port());
        let response = client.request(Request::get(uri).body(Full::default()).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
    }
}

#[tokio::test]
async fn unknown_certificate_is_refused_by_the_client() {
    let identity = Identity::new();
    let shutdown = Shutdown::new();
    let address = start(identity.options(), &shutdown, |_request| async { text("over tls") });
    let config = tls::client_config(None).unwrap();
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let uri = format!("https://localhost:{}/", address.port());
    assert!(client.request(Request::get(uri).body(Full::default()).unwrap()).await.is_err());
}

#[tokio::test]
async fn handshake_that_never_comes_is_cut() {
    let identity = Identity::new();
    let shutdown = Shutdown::new();
    let address = start(identity.options(), &shutdown, |_request| async { text("over tls") });
    assert_eq!(send_and_read_to_end(address, b"").await, "");
}

#[tokio::test]
async fn drain_does_not_wait_for_a_handshake() {
    let identity = Identity::new();
    let shutdown = Shutdown::new();
    let options = AcceptOptions { header_read_timeout: LONG * 10, ..identity.options() };
    let address = start(options, &shutdown, |_request| async { text("over tls") });
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    while shutdown.running_tasks() < 2 {
        tokio::task::yield_now().await;
    }
    shutdown.trigger();
    assert_eq!(shutdown.drained(LONG).await, Drained::Clean);
}

#[test]
fn key_of_another_certificate_is_refused_at_start() {
    let (one, other) = (Identity::new(), Identity::new());
    let error =
        ReloadingCertificate::load(&one.directory.path().join("cert.pem"), &other.directory.path().join("key.pem"));
    assert!(error.unwrap_err().to_string().starts_with("cannot use "));
}

/// The certificate that a new connection is shown, whether trusted or not.
async fn shown(address: SocketAddr, trusting: ClientConfig) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(trusting)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn changed_files_are_presented_and_unusable_ones_leave_the_old_certificate() {
    let identity = Identity::new();
    let shutdown = Shutdown::new();
    let certificate = identity.load();
    let (told, mut heard) = mpsc::unbounded_channel();
    certificate.watch(Duration::from_millis(20), move |ended| told.send(ended).unwrap(), &shutdown);
    let address = start(identity.options_with(certificate), &shutdown, |_request| async { text("over tls") });
    let first = shown(address, identity.client()).await;

    let renewed = identity.renew();
    while heard.recv().await.unwrap().is_err() {}
    assert_ne!(renewed, first);
    assert_eq!(shown(address, identity.client()).await, renewed);

    let trusting = identity.client();
    fs::write(identity.directory.path().join("cert.pem"), "half of a fi").unwrap();
    assert_eq!(heard.recv().await, Some(Err(())), "told once");
    assert_eq!(shown(address, trusting).await, renewed, "the last good one stays");
    fs::remove_file(identity.directory.path().join("key.pem")).unwrap();
    let again = identity.renew();
    while heard.recv().await.unwrap().is_err() {}
    assert_eq!(shown(address, identity.client()).await, again);
}
