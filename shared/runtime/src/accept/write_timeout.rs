//! Ends a connection whose peer has stopped reading.
//!
//! hyper polls no response body while its write buffer is full, so that no deadline inside a body can fire while a peer
//! reads nothing. This wrapper fails a write that made no progress for the timeout; hyper then ends the connection and
//! drops its bodies. It sits under TLS, where each byte that the kernel takes is seen, and owns a timer only during a stall.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// A connection whose writes fail with [`io::ErrorKind::TimedOut`] once none made progress for the timeout.
pub(super) struct WriteTimeout {
    stream: TcpStream,
    timeout: Duration,
    // Since the first write that found no room; boxed because rustls wants a stream that moves freely.
    stall: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    pub(super) fn new(stream: TcpStream, timeout: Duration) -> Self {
        Self { stream, timeout, stall: None }
    }

    /// Passes on what a write came to, unless it must be the timeout; `again` is the same write on the bare socket.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        again: impl FnOnce(&SockRef<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let timeout = self.timeout;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stall.as_mut().poll(context));
        // The kernel announces room only when about a third of its buffer is free, which a peer that reads slowly but
        // steadily may not reach in time. It takes bytes as soon as there is any room.
        let socket = SockRef::from(&self.stream);
        match again(&socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Reset instead of an orderly close: the kernel would keep the unsent bytes for minutes.
                if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%error, "cannot have a stalled connection reset");
                }
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer has stopped reading")))
            }
            progress => {
                self.stall = None;
                Poll::Ready(progress)
            }
        }
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written, |socket| socket.send(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written, |socket| socket.send_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A TCP stream has nothing to flush, and its shutdown does not wait: neither can stall.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
