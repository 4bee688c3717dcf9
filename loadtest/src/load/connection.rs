//! One kept-alive HTTP/1.1 connection of the load generator; opened when needed, opened again after a failure.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{CALL_LIMIT, Target};

/// Bytes of an error body that are repeated in a failure.
const ERROR_BYTES: usize = 300;

/// A connection to one target.
#[derive(Debug)]
pub struct Connection {
    target: Target,
    host: HeaderValue,
    authorization: HeaderValue,
    sender: Option<SendRequest<Full<Bytes>>>,
    driver: JoinSet<()>,
}

impl Connection {
    /// A connection that will be opened by its first call.
    ///
    /// # Errors
    /// The key cannot be written into a header.
    pub fn new(target: &Target) -> anyhow::Result<Self> {
        Ok(Self {
            host: HeaderValue::try_from(target.addr.to_string())?,
            authorization: HeaderValue::try_from(format!("Bearer {}", target.key))
                .context("key: not a header value")?,
            target: target.clone(),
            sender: None,
            driver: JoinSet::new(),
        })
    }

    /// Sends a chat request and reads the whole answer.
    ///
    /// # Errors
    /// No connection, a status other than 200, a body that breaks off, or no end within [`CALL_LIMIT`].
    pub async fn call(&mut self, body: Bytes) -> anyhow::Result<()> {
        self.bounded(body, async |response| {
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                frame.context("the answer broke off")?;
            }
            Ok(())
        })
        .await
    }

    /// Sends a chat request and gives the 200 response to `read`, all within [`CALL_LIMIT`].
    pub(crate) async fn bounded<T>(
        &mut self,
        body: Bytes,
        read: impl AsyncFnOnce(Response<Incoming>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let outcome = timeout(CALL_LIMIT, async {
            let response = self.send(body).await?;
            read(response).await
        });
        let outcome = outcome.await.context("no whole answer in time").flatten();
        if outcome.is_err() {
            self.sender = None;
            self.driver.abort_all();
        }
        outcome
    }

    async fn send(&mut self, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::post(&self.target.path).body(Full::new(body))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sender = self.sender().await?;
        let response = sender.send_request(request).await.context("no answer")?;
        if response.status() == http::StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.context("an error answer broke off")?.to_bytes();
        bail!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES)]))
    }

    async fn sender(&mut self) -> anyhow::Result<&mut SendRequest<Full<Bytes>>> {
        let usable = match self.sender.take() {
            Some(mut sender) => sender.ready().await.ok().map(|()| sender),
            None => None,
        };
        let sender = match usable {
            Some(sender) => sender,
            None => self.open().await?,
        };
        Ok(self.sender.insert(sender))
    }

    async fn open(&mut self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let addr = self.target.addr;
        let socket = TcpStream::connect(addr).await.with_context(|| format!("cannot connect to {addr}"))?;
        socket.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        while self.driver.try_join_next().is_some() {}
        // How the connection ends is seen by the calls on it.
        self.driver.spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}
