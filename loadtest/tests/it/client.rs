//! A plain client: one connection per request, and a raw socket for what is below HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keyforge_loadtest::provider::ScriptedProvider;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Longer than anything here takes.
pub const SOON: Duration = Duration::from_secs(10);

/// Long enough for a local answer to arrive, if one were sent.
pub const SILENCE: Duration = Duration::from_millis(200);

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("a UTF-8 body")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The data of all events; `[DONE]` must be last and is left out.
    pub fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> = self.text().lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.into_iter().map(|event| serde_json::from_str(event).expect("a JSON event")).collect()
    }
}

pub fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

pub async fn post(provider: &ScriptedProvider, key: &str, body: Value) -> Answer {
    let response = send(provider, key, "/v1/chat/completions", &[], body).await.expect("a response");
    whole(response).await.expect("a whole body")
}

/// Sends a request; gives the response with its body still to come.
pub async fn send(
    provider: &ScriptedProvider,
    key: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> hyper::Result<http::Response<Incoming>> {
    let socket = TcpStream::connect(provider.addr()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let mut driver = tokio::task::JoinSet::from_iter([connection]);
    let mut request = Request::post(path).header("host", "provider").header("authorization", format!("Bearer {key}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await;
    driver.detach_all();
    response
}

pub async fn whole(response: http::Response<Incoming>) -> hyper::Result<Answer> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

/// Writes a chat request to a raw socket.
pub async fn raw(provider: &ScriptedProvider, body: Value) -> TcpStream {
    let mut socket = TcpStream::connect(provider.addr()).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\nauthorization: Bearer sk-raw\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    socket
}
