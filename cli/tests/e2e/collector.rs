//! A collector of telemetry that takes OTLP over HTTP and keeps what comes, as it comes.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

/// A collector of telemetry that keeps the raw bodies.
pub struct Collector {
    pub url: String,
    kept: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let kept = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service =
                        service_fn(move |request: Request<hyper::body::Incoming>| keep(Arc::clone(&kept), request));
                    drop(
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await,
                    );
                });
            }
        });
        Self { url, kept }
    }

    /// All bodies that came to a path, one after the other.
    pub fn of(&self, path: &str) -> Vec<u8> {
        let kept = self.kept.lock().unwrap();
        kept.iter().filter(|(to, _)| to == path).flat_map(|(_, body)| body.to_vec()).collect()
    }
}

async fn keep(
    kept: Arc<Mutex<Vec<(String, Bytes)>>>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let headers = format!("{:?}", request.headers());
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut kept = kept.lock().unwrap();
    kept.push((path.clone(), Bytes::from(headers)));
    kept.push((path, body));
    Ok(Response::new(Full::default()))
}
