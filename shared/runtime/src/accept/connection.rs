//! One connection from its handshake to its end: which HTTP version it speaks, what it may cost, when it is closed.
//!
//! A connection that has not sent a whole request head in time is closed, whichever phase it dawdles in: the TLS
//! handshake, the choice of the HTTP version, or the head itself. So is one whose peer has stopped reading, and, where there is an idle timeout, one of a
//! peer without a certificate that has asked nothing for so long.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::activity::Activity;
use super::places::Place;
use super::shield::Shield;
use super::write_timeout::WriteTimeout;
use super::{AcceptOptions, BoxError, Peer, Transport};
use crate::shutdown::Shutdown;

/// The smallest buffer that hyper accepts, in bytes.
const SMALLEST_BUFFER: usize = 8 * 1024;

/// Bytes of one HTTP/2 stream that wait for its window; beyond them its body is not asked for more.
const MAX_STREAM_SEND_BUFFER: usize = 64 * 1024;

/// What a connection is served with.
pub(super) struct Connection {
    options: Arc<AcceptOptions>,
    /// Its share of what its address may hold, or its certificate once it has shown one.
    place: Option<Place>,
    shutdown: Shutdown,
}

impl Connection {
    pub(super) fn new(options: Arc<AcceptOptions>, place: Option<Place>, shutdown: Shutdown) -> Self {
        Self { options, place, shutdown }
    }

    pub(super) fn options(&self) -> &AcceptOptions {
        &self.options
    }

    pub(super) async fn serve<M, S, B>(mut self, stream: TcpStream, address: SocketAddr, make_service: &M)
    where
        M: Fn(&Peer) -> S,
        S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let stream = WriteTimeout::new(stream, self.options.write_timeout);
        let Some(tls) = &self.options.tls else {
            let service = make_service(&Peer { address, transport: Transport::Cleartext });
            return self.serve_http(stream, service, self.options.idle_timeout).await;
        };
        let handshake = tokio::select! {
            ended = timeout(self.options.header_read_timeout, tls.accept(stream)) => ended,
            // Nothing was asked yet that a drain would have to finish.
            () = self.shutdown.drain_started() => return,
        };
        match handshake {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = certificates.map(|certificate| certificate.clone().into_owned());
                let idle_timeout = self.options.idle_timeout.filter(|_| certificate.is_none());
                if let (Some(certificate), Some(place)) = (&certificate, &self.place) {
                    let Some(place) = place.of_certificate(certificate.clone(), address) else { return };
                    self.place = Some(place);
                }
                let service = make_service(&Peer { address, transport: Transport::Tls { certificate } });
                self.serve_http(stream, service, idle_timeout).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                self.tell_if_refused(address, &error);
            }
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    /// A certificate that does not hold is told apart from a handshake that failed otherwise, as those of scanners do all day.
    fn tell_if_refused(&self, address: SocketAddr, error: &io::Error) {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        if let (Some(told), Some(cause @ rustls::Error::InvalidCertificate(_))) =
            (&self.options.on_refused_certificate, cause)
        {
            told(address, cause);
        }
    }

    async fn serve_http<I, S, B>(&self, stream: I, service: S, idle_timeout: Option<Duration>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let activity = Activity::new(idle_timeout.is_some());
        let service = Shield::new(service, self.shutdown.clone(), activity.clone());
        let builder = self.http_builder();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut first_request_due = pin!(sleep(self.options.header_read_timeout));
        let mut idle = pin!(activity.clone().idle_for(idle_timeout.unwrap_or(Duration::MAX)));
        let mut drain = pin!(self.shutdown.drain_started());
        let mut force = pin!(self.shutdown.force_started());
        let (mut watching, mut draining) = (true, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                () = &mut first_request_due, if watching => {
                    watching = false;
                    if !activity.was_asked() {
                        tracing::debug!("a connection was closed: it sent no request in time");
                        return;
                    }
                }
                // Who goes on after this much silence is told to come again, and loses no request.
                () = &mut idle, if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut drain, if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut force => return,
            }
        }
    }

    fn http_builder(&self) -> auto::Builder<StreamTasks> {
        let options = &self.options;
        let mut builder = auto::Builder::new(StreamTasks(self.shutdown.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_read_timeout)
            .max_buf_size(options.max_header_bytes.max(SMALLEST_BUFFER));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(options.max_concurrent_streams)
            .max_send_buf_size(MAX_STREAM_SEND_BUFFER)
            .keep_alive_interval(options.keep_alive_interval)
            .keep_alive_timeout(options.keep_alive_timeout);
        builder
    }
}

/// Runs each HTTP/2 stream as a task that the drain knows.
#[derive(Clone)]
struct StreamTasks(Shutdown);

impl<F> Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        drop(self.0.spawn("stream", stream));
    }
}
