//! Peers that stop reading a response that never ends, and peers that read slowly.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use keyforge_runtime::accept::AcceptOptions;
use keyforge_runtime::shutdown::Shutdown;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::server::{LONG, start};
use crate::tls::Identity;

/// Always has another chunk; says when it is dropped.
struct Endless {
    chunk: Bytes,
    dropped: Arc<Notify>,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.dropped.notify_one();
    }
}

/// A server that answers everything with an endless body, and the word of that body's drop.
fn start_endless(options: AcceptOptions, write_timeout: Duration, shutdown: &Shutdown) -> (SocketAddr, Arc<Notify>) {
    let dropped = Arc::new(Notify::new());
    let tell = Arc::clone(&dropped);
    let address = start(AcceptOptions { write_timeout, ..options }, shutdown, move |_request| {
        let body = Endless { chunk: Bytes::from_static(&[b'a'; 16 * 1024]), dropped: Arc::clone(&tell) };
        async move { Response::new(body) }
    });
    (address, dropped)
}

/// A connection with a receive buffer so small that what is not read soon stays with the server.
async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(address).await.unwrap()
}

async fn connect_tls(address: SocketAddr, identity: &Identity) -> impl AsyncRead + AsyncWrite + Unpin {
    let connector = TlsConnector::from(Arc::new(identity.client()));
    connector.connect("localhost".try_into().unwrap(), connect(address).await).await.unwrap()
}

async fn ask_and_read_the_status(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
}

async fn assert_silence_is_cut(mut stream: impl AsyncRead + AsyncWrite + Unpin, dropped: &Notify, shutdown: &Shutdown) {
    ask_and_read_the_status(&mut stream).await;
    timeout(LONG, dropped.notified()).await.expect("the body outlives a peer that stopped reading");
    while shutdown.running_tasks() > 1 {
        tokio::task::yield_now().await;
    }
    let mut rest = Vec::new();
    // A reset, or for TLS an end without a goodbye: both are errors, and neither leaves the client waiting.
    assert!(timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap().is_err());
}

async fn assert_steady_reading_is_not_cut(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    dropped: &Notify,
    until: Instant,
) {
    ask_and_read_the_status(&mut stream).await;
    let mut chunk = [0; 4 * 1024];
    while Instant::now() < until {
        stream.read_exact(&mut chunk).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    assert!(futures_util::poll!(pin!(dropped.notified())).is_pending());
}

#[tokio::test]
async fn peer_that_stops_reading_is_cut_and_its_body_is_dropped() {
    let shutdown = Shutdown::new();
    let (address, dropped) = start_endless(AcceptOptions::default(), Duration::from_millis(200), &shutdown);
    assert_silence_is_cut(connect(address).await, &dropped, &shutdown).await;
}

#[tokio::test]
async fn tls_peer_that_stops_reading_is_cut_and_its_body_is_dropped() {
    let (shutdown, identity) = (Shutdown::new(), Identity::new());
    let (address, dropped) = start_endless(identity.options(), Duration::from_millis(200), &shutdown);
    assert_silence_is_cut(connect_tls(address, &identity).await, &dropped, &shutdown).await;
}

#[tokio::test]
async fn http_2_peer_that_stops_reading_is_cut_whatever_window_it_granted() {
    let shutdown = Shutdown::new();
    let (address, dropped) = start_endless(AcceptOptions::default(), Duration::from_millis(200), &shutdown);
    let mut stream = connect(address).await;
    for frame in [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        // SETTINGS: the widest initial window of a stream.
        b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff",
        // WINDOW_UPDATE: the connection's window becomes as wide.
        b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0",
        // HEADERS of a whole request on stream 1: GET, http, "/", and the authority "a" (RFC 7541, appendix A).
        b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a",
    ] {
        stream.write_all(frame).await.unwrap();
    }
    timeout(LONG, dropped.notified()).await.expect("the body outlives a peer that stopped reading");
}

#[tokio::test]
async fn peer_that_reads_slowly_but_steadily_is_not_cut() {
    let (shutdown, identity) = (Shutdown::new(), Identity::new());
    let write_timeout = Duration::from_secs(1);
    let (plain, plain_dropped) = start_endless(AcceptOptions::default(), write_timeout, &shutdown);
    let (tls, tls_dropped) = start_endless(identity.options(), write_timeout, &shutdown);
    let (over_plain, over_tls) = (connect(plain).await, connect_tls(tls, &identity).await);
    let until = Instant::now() + 4 * write_timeout;
    tokio::join!(
        assert_steady_reading_is_not_cut(over_plain, &plain_dropped, until),
        assert_steady_reading_is_not_cut(over_tls, &tls_dropped, until),
    );
}
