//! A server on a free port, and the two ways to talk to it: whole requests, and raw bytes.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use keyforge_runtime::accept::{self, AcceptOptions};
use keyforge_runtime::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything here takes; only a failing test meets it.
pub const LONG: Duration = Duration::from_secs(20);

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Serves `handler` on a free port.
pub fn start<H, F, B>(options: AcceptOptions, shutdown: &Shutdown, handler: H) -> SocketAddr
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = accept::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    drop(shutdown.spawn("listener", accept::serve(listener, options, service, shutdown.clone())));
    address
}

pub fn text(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(body.into()))
}

pub struct Answer {
    pub status: u16,
    pub version: http::Version,
    pub headers: http::HeaderMap,
    pub body: String,
}

/// One GET over a fresh connection; HTTP/2 by prior knowledge if `h2`.
pub async fn get(address: SocketAddr, path: &str, h2: bool) -> Result<Answer, hyper_util::client::legacy::Error> {
    let client = Client::builder(TokioExecutor::new()).http2_only(h2).build_http::<Full<Bytes>>();
    let request = Request::get(format!("http://{address}{path}")).body(Full::default()).unwrap();
    let response = timeout(LONG, client.request(request)).await.unwrap()?;
    let (head, body) = response.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Ok(Answer { status: head.status.as_u16(), version: head.version, headers: head.headers, body })
}

/// Sends raw bytes and reads until the server closes.
pub async fn send_and_read_to_end(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut received = Vec::new();
    // A reset is as good an end as a close.
    drop(timeout(LONG, stream.read_to_end(&mut received)).await.expect("the server never closed the connection"));
    String::from_utf8_lossy(&received).into_owned()
}
