//! The two ways in: gRPC in the clear, for this host, and gRPC over TLS under the deployment's own authority, for everybody else.
//!
//! Both lead to the same services. Each request carries how its connection is protected and whose certificate it showed, and the services decide.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use keyforge_runtime::accept::{self, AcceptOptions, Peer, PerPeer, Transport};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::tls::mutual;
use keyforge_shared::clock::Clock;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;

use crate::app::StartError;
use crate::config::TlsListener;
use crate::grpc::node_gate::NodeGate;
use crate::metrics::LabelledCounter;
use crate::nodes::authority::Authority;
use crate::nodes::server_certificate::ServerCertificate;

/// Refused certificates that may wait to be recorded; of more, which are a flood, there is only the count.
const REFUSED: usize = 64;

/// Connections without a certificate that one address may hold at each listener, of all that there are: so that nobody keeps everybody else out.
const MOST_OF_ONE_ADDRESS: usize = 1_000;
/// Connections that showed the same certificate, of a node that has a few, and may have been removed since it got it.
const MOST_OF_ONE_CERTIFICATE: usize = 64;
/// How long such a connection may go on without any call. Clients open another one when they need it.
const IDLE: Duration = Duration::from_secs(60);

/// What is served at both, and who hears of connections that are not.
#[derive(Clone)]
pub struct Services {
    /// The services.
    pub routes: Routes,
    /// Counts connections that were closed for their address, by the name of the listener.
    pub refused: LabelledCounter,
}

/// Serves gRPC in the clear, and says where.
///
/// # Errors
/// [`StartError`] when the address cannot be listened on.
pub fn in_the_clear(listen: SocketAddr, services: Services, shutdown: &Shutdown) -> Result<SocketAddr, StartError> {
    serve("grpc", listen, AcceptOptions::default(), services, shutdown)
}

/// Serves gRPC over TLS, and says where. Certificates that are refused in the handshake are recorded by `gate`.
///
/// # Errors
/// [`StartError`] when there is no certificate, or the address cannot be listened on.
pub fn over_tls(
    config: &TlsListener,
    authority: Arc<Authority>,
    (services, gate): (Services, NodeGate),
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Result<SocketAddr, StartError> {
    let certificate = ServerCertificate::new(Arc::clone(&authority), config.certificate_life)?;
    certificate.rotate(Arc::clone(&clock), shutdown);
    let tls = mutual::server(authority.certificate(), certificate, clock)?;
    let (told, mut heard) = mpsc::channel::<(SocketAddr, String)>(REFUSED);
    let counting = gate.clone();
    let recording = async move {
        while let Some((peer, reason)) = heard.recv().await {
            gate.refused_certificate(&peer.to_string(), &reason).await;
        }
    };
    drop(shutdown.spawn("refused_certificates", shutdown.until_drain(recording)));
    let on_refused = move |peer: SocketAddr, reason: String| {
        counting.count_refused_certificate();
        if told.try_send((peer, reason)).is_err() {
            counting.pass_over_refused_certificate();
        }
    };
    let options = AcceptOptions {
        tls: Some(tls.into()),
        on_refused_certificate: Some(Arc::new(move |peer, error| on_refused(peer, error.to_string()))),
        ..AcceptOptions::default()
    };
    serve("grpc_tls", config.listen, options, services, shutdown)
}

fn serve(
    name: &'static str,
    listen: SocketAddr,
    options: AcceptOptions,
    Services { routes, refused }: Services,
    shutdown: &Shutdown,
) -> Result<SocketAddr, StartError> {
    let listener = accept::bind(listen)?;
    let local = listener.local_addr().map_err(StartError::Address)?;
    let on_refused = Arc::new(move || refused.count(name));
    let per_peer =
        Some(PerPeer { of_address: MOST_OF_ONE_ADDRESS, of_certificate: MOST_OF_ONE_CERTIFICATE, on_refused });
    let options = AcceptOptions { per_peer, idle_timeout: Some(IDLE), ..options };
    let routes = TowerToHyperService::new(routes);
    let service = move |peer: &Peer| WithPeer { routes: routes.clone(), local, peer: peer.clone() };
    drop(shutdown.spawn_critical(name, accept::serve_with(listener, options, service, shutdown.clone())));
    Ok(local)
}

/// Tells the services whose connection a request came on.
struct WithPeer {
    routes: TowerToHyperService<Routes>,
    local: SocketAddr,
    peer: Peer,
}

impl Service<Request<Incoming>> for WithPeer {
    type Response = <TowerToHyperService<Routes> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Routes> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Routes> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let info = TcpConnectInfo { local_addr: Some(self.local), remote_addr: Some(self.peer.address) };
        request.extensions_mut().insert(info);
        request.extensions_mut().insert::<Transport>(self.peer.transport.clone());
        self.routes.call(request)
    }
}
