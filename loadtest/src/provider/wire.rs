//! Faults below HTTP: a connection that closes instead of answering, or response headers that never end.
//!
//! The service leaves the wanted fault in the connection's slot and fails; when the HTTP connection has gone, the
//! fault is carried out on a second handle of the same socket. On HTTP/2 only the stream is reset.

use std::fmt;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Bytes after which an endless answer falls silent.
pub(crate) const ENDLESS_BYTES: usize = 64 << 20;

/// What the socket does after HTTP has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireFault {
    Close,
    SlowHeaders { interval: Duration },
    EndlessHeader,
}

/// Where a service leaves the fault of its connection.
pub(crate) type Slot = Arc<Mutex<Option<WireFault>>>;

/// The error with which a service gives up its connection.
#[derive(Debug)]
pub(crate) struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the script takes the connection away from HTTP here")
    }
}

impl std::error::Error for GivenUp {}

/// Carries out a fault; returns when the client has left or there is nothing more to do.
pub(crate) async fn carry_out(fault: WireFault, socket: StdTcpStream) {
    let Ok(mut socket) = TcpStream::from_std(socket) else { return };
    // The client leaving is how these end: an error of the socket is no news.
    drop(match fault {
        WireFault::Close => Ok(()),
        WireFault::SlowHeaders { interval } => slow_headers(&mut socket, interval).await,
        WireFault::EndlessHeader => endless_header(&mut socket).await,
    });
}

async fn slow_headers(socket: &mut TcpStream, interval: Duration) -> std::io::Result<()> {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-slow: ";
    for byte in head.iter().chain(std::iter::repeat_n(&b'a', ENDLESS_BYTES)) {
        socket.write_all(&[*byte]).await?;
        sleep(interval).await;
    }
    Ok(())
}

async fn endless_header(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-endless: ").await?;
    let block = vec![b'a'; 16 << 10];
    for _ in 0..ENDLESS_BYTES / block.len() {
        socket.write_all(&block).await?;
    }
    std::future::pending().await
}
