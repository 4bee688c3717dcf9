//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them, in cleartext or over TLS.
//!
//! Everything that a stranger can make us hold is bounded: connections, also those of one peer, header bytes, streams per connection, and the
//! time a connection may take to say what it wants or to take what it is sent. A drain stops accepting and lets requests that run finish.
//! A panic in a service becomes a 500; it never ends the process.

mod activity;
mod connection;
mod places;
mod shield;
mod write_timeout;

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::backoff::Backoff;
use crate::shutdown::Shutdown;
use connection::Connection;
pub use places::{OnRefusedPeer, PerPeer};
use places::{Place, Places};

/// Any error that can leave a thread.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Connections that the kernel holds for us while we are at the limit.
const BACKLOG: u32 = 1024;
const ACCEPT_RETRY_BASE: Duration = Duration::from_millis(10);
const ACCEPT_RETRY_CAP: Duration = Duration::from_secs(1);

/// Who is at the other end of a connection, as far as the connection itself says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its network address.
    pub address: SocketAddr,
    /// How the connection is protected.
    pub transport: Transport,
}

/// How a connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Not at all.
    Cleartext,
    /// By TLS.
    Tls {
        /// The certificate that the client proved to hold, if it was asked for one and has one. Its chain was verified in the handshake.
        certificate: Option<CertificateDer<'static>>,
    },
}

/// Hears of clients whose certificates were refused in the handshake: where from, and why.
pub type OnRefusedCertificate = Arc<dyn Fn(SocketAddr, &rustls::Error) + Send + Sync>;

/// Limits and transport of one listener.
#[derive(Clone)]
pub struct AcceptOptions {
    /// TLS with ALPN; `None` is cleartext, where HTTP/2 is spoken to clients that know it in advance.
    pub tls: Option<TlsAcceptor>,
    /// Hears of clients' certificates that were refused. It is called on the connection's task and must not wait.
    pub on_refused_certificate: Option<OnRefusedCertificate>,
    /// How long a TLS handshake, the first request's head, and each later HTTP/1.1 head may take. Since HTTP/1.1 does
    /// not tell waiting from idling, an idle HTTP/1.1 connection is closed after this time, too.
    pub header_read_timeout: Duration,
    /// HTTP/2: how long a connection that shows no certificate may go on without any request; `None`: for as long as the peer answers the keep-alive
    /// question.
    pub idle_timeout: Option<Duration>,
    /// How long a peer may take nothing of what is sent to it before its connection is cut and its response bodies are
    /// dropped. One byte of progress starts the time anew.
    ///
    /// It watches the connection as a whole. An HTTP/2 peer that reads on, but grants one stream no window, is not
    /// stalled in this sense: that stream, its body and its share of `max_concurrent_streams` last as long as the peer
    /// answers the keep-alive question. What is buffered for each such stream is bounded.
    pub write_timeout: Duration,
    /// The most bytes a request head may have; at least 8 KiB.
    pub max_header_bytes: usize,
    /// Connections served at the same time; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// How many of them one address or one certificate may hold; `None`: all. Further ones are closed at once.
    pub per_peer: Option<PerPeer>,
    /// Requests at the same time on one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// HTTP/2: how often a silent peer is asked whether it lives, and TCP: the idle time before the kernel asks.
    pub keep_alive_interval: Duration,
    /// HTTP/2: how long a peer may take to answer that question.
    pub keep_alive_timeout: Duration,
}

impl Default for AcceptOptions {
    fn default() -> Self {
        Self {
            tls: None,
            on_refused_certificate: None,
            header_read_timeout: Duration::from_secs(30),
            idle_timeout: None,
            write_timeout: Duration::from_secs(60),
            max_header_bytes: 64 * 1024,
            max_connections: 10_000,
            per_peer: None,
            max_concurrent_streams: 256,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process, or another listener of this one, has the port.
    #[error("{0} is in use by another listener: stop that one, or configure another port")]
    InUse(SocketAddr),
    /// The address belongs to no interface of this host.
    #[error("{0} is not an address of this host: use one of its own, or 0.0.0.0 for all")]
    NotLocal(SocketAddr),
    /// The port needs a privilege.
    #[error("not permitted to listen on {0}: use a port of 1024 or above, or grant CAP_NET_BIND_SERVICE")]
    NotPermitted(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}: {cause}")]
    Io {
        /// The address asked for.
        address: SocketAddr,
        /// The operating system's answer.
        cause: io::Error,
    },
}

/// Listens on an address. Call it inside the runtime.
///
/// # Errors
/// The address cannot be listened on; the message says what to do about it.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for connections of the former process to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal(address),
        io::ErrorKind::PermissionDenied => BindError::NotPermitted(address),
        _ => BindError::Io { address, cause },
    })
}

/// Serves clones of one service until the drain; see [`serve_with`].
pub async fn serve<S, B>(listener: TcpListener, options: AcceptOptions, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    serve_with(listener, options, move |_peer: &Peer| service.clone(), shutdown).await;
}

/// Serves connections until the drain, each with a service made for its peer once the TLS handshake, if any, has said who that is.
///
/// Returns when it stops accepting; connections then still finish as tasks of `shutdown`, which
/// [`Shutdown::drained`] waits for. On the force they are cut.
pub async fn serve_with<M, S, B>(listener: TcpListener, options: AcceptOptions, make_service: M, shutdown: Shutdown)
where
    M: Fn(&Peer) -> S + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (options, make_service) = (Arc::new(options), Arc::new(make_service));
    let places = options.per_peer.clone().map(Places::new);
    let slots = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut retry = Backoff::new(ACCEPT_RETRY_BASE, ACCEPT_RETRY_CAP);
    let mut drain = pin!(shutdown.drain_started());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut drain => return,
            accepted = next_connection(&listener, &slots, &mut retry) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { return };
        let Ok(place) = place_for(peer, places.as_ref()) else { continue };
        let connection = Connection::new(Arc::clone(&options), place, shutdown.clone());
        let make_service = Arc::clone(&make_service);
        drop(shutdown.spawn("connection", async move {
            prepare(&stream, connection.options());
            connection.serve(stream, peer, &*make_service).await;
            drop(slot);
        }));
    }
}

/// The share of what its address may hold, where that is limited.
///
/// # Errors
/// The address holds all of it.
fn place_for(peer: SocketAddr, places: Option<&Arc<Places>>) -> Result<Option<Place>, ()> {
    places.map(|places| places.take(peer).ok_or(())).transpose()
}

/// The next connection and the slot that it takes; `None` never happens while the semaphore lives.
async fn next_connection(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    retry: &mut Backoff,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // The slot comes first: at the limit connections wait in the kernel, where they cost us nothing.
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                retry.reset();
                return Some((stream, peer, slot));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: asking again at once would spin until somebody else lets go.
                tracing::warn!(%error, "cannot accept a connection; waiting before the next try");
                tokio::time::sleep(retry.next_delay().max(ACCEPT_RETRY_BASE)).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// A connection without these options still works, so that a refusal is only noted.
fn prepare(stream: &TcpStream, options: &AcceptOptions) {
    // Streamed responses are many small writes, which must not wait for each other's acknowledgement.
    let keep_alive = TcpKeepalive::new().with_time(options.keep_alive_interval);
    if let Err(error) = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keep_alive)) {
        tracing::debug!(%error, "cannot set the options of a connection");
    }
}
