//! Bad input: each refused with a clear error that names the field, in OpenAI's form, and nothing of it reaches the provider.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Gateway, hello, provider, read};

async fn refused(gateway: &Gateway, body: &str) -> (u16, Value) {
    let reply = gateway.send(Method::POST, "/v1/chat/completions", &gateway.key, body.to_owned()).await;
    let error = reply.json()["error"].clone();
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}: {error}");
    assert!(error["type"].is_string() && error["code"].is_string(), "{body}: {error}");
    (reply.status, error)
}

#[tokio::test]
async fn a_body_that_cannot_be_served_is_refused_by_field() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let valid = hello().to_string();
    let cases: [(&str, Option<&str>); 16] = [
        ("", None),
        ("{", None),
        (&valid[..valid.len() - 1], None),
        ("[]", None),
        ("\"text\"", None),
        ("nonsense", None),
        (r#"{"messages":[{"role":"user","content":"x"}]}"#, Some("model")),
        (r#"{"model":5,"messages":[{"role":"user","content":"x"}]}"#, Some("model")),
        (r#"{"model":"gpt-4o-mini"}"#, Some("messages")),
        (r#"{"model":"gpt-4o-mini","messages":"x"}"#, Some("messages")),
        (r#"{"model":"gpt-4o-mini","messages":[]}"#, Some("messages")),
        (r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}],"max_tokens":-1}"#, Some("max_tokens")),
        (r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}],"max_tokens":"9"}"#, Some("max_tokens")),
        (r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}],"n":0}"#, Some("n")),
        (r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}],"stream":"yes"}"#, Some("stream")),
        (r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}],"mod\u0065l":"gpt-5"}"#, Some("model")),
    ];
    for (body, field) in cases {
        let (status, error) = refused(&gateway, body).await;
        assert_eq!(status, 400, "{body}: {error}");
        assert_eq!(error["param"].as_str(), field, "{body}: {error}");
        assert_eq!(error["code"], "invalid_request", "{body}: {error}");
    }
    assert_eq!(provider.bill().total().requests, 0);
}

#[tokio::test]
async fn models_that_may_not_or_cannot_be_called_are_refused_apart() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let policy = admin::Policy { models: vec!["gpt-4o*".to_owned(), "no-such-model".to_owned()], ..Default::default() };
    let (token, _) = gateway.create_key("narrow", policy).await;
    let ask = async |key: &str, model: &str| {
        let mut body = hello();
        body["model"] = json!(model);
        let reply = gateway.chat_as(key, &body).await;
        (reply.status, reply.code(), reply.json()["error"]["param"].clone())
    };
    assert_eq!(ask(&token, "gpt-5").await, (403, "model_not_allowed".to_owned(), json!("model")));
    assert_eq!(ask(&token, "no-such-model").await, (404, "model_not_found".to_owned(), json!("model")));
    // Of the responses API only, and of a provider that has no credential here.
    assert_eq!(ask(&gateway.key, "gpt-5-pro").await, (400, "model_not_served".to_owned(), json!("model")));
    let without = (502, "upstream_credentials_exhausted".to_owned(), json!(null));
    assert_eq!(ask(&gateway.key, "claude-opus-5").await, without);
}

#[tokio::test]
async fn a_key_is_refused_for_what_it_is_and_found_wherever_it_is_sent() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let post = async |headers: &[(&str, String)]| {
        let mut request = Request::post(format!("{}/v1/chat/completions", gateway.url));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let reply =
            read(gateway.request(request.body(Full::new(Bytes::from(hello().to_string()))).unwrap()).await).await;
        (reply.status, reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned(), reply)
    };
    let key = gateway.key.clone();
    for header in ["x-api-key", "api-key", "x-goog-api-key"] {
        assert_eq!(post(&[(header, key.clone())]).await.0, 200, "{header}");
    }
    assert_eq!(post(&[("authorization", format!("Bearer {key}")), ("api-key", key.clone())]).await.0, 200);

    let unknown = keyforge_shared::token::NewToken::generate().unwrap();
    let cases: [(&[(&str, String)], &str); 6] = [
        (&[], "No API key"),
        (&[("authorization", "Bearer sk-proj-abcdef".to_owned())], "not a virtual key"),
        (&[("authorization", format!("Bearer {}", &key[..40]))], "Unknown virtual key"),
        (&[("authorization", format!("Bearer {}x", &key[..key.len() - 1]))], "Unknown virtual key"),
        (&[("authorization", format!("Bearer {}", unknown.expose()))], "Unknown virtual key"),
        (&[("authorization", format!("Bearer {key}")), ("x-api-key", unknown.expose().to_owned())], "Different"),
    ];
    for (headers, words) in cases {
        let (status, message, reply) = post(headers).await;
        assert_eq!(status, 401, "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(reply.code(), "invalid_api_key");
        assert_eq!(reply.header("x-should-retry"), "false");
        assert!(!reply.text().contains(&key[16..40]), "no part of a secret is echoed");
    }
}

#[tokio::test]
async fn an_expired_key_is_refused_and_says_since_when() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64 + 1_500;
    let policy = admin::Policy { expires_at_ms: Some(soon), ..Default::default() };
    let (token, id) = gateway.create_key("brief", policy).await;
    gateway.eventually("it expires", async || gateway.chat_as(&token, &hello()).await.status == 401).await;
    let reply = gateway.chat_as(&token, &hello()).await;
    assert!(reply.text().contains("expired at 20"), "{}", reply.text());
    gateway
        .eventually("the refusal is chained", async || {
            gateway.entries(&id, 1).await.iter().any(|entry| entry.rejection == "key_expired")
        })
        .await;
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_refused_with_what_does() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let ask = async |method: Method, path: &str| {
        let reply = gateway.send(method, path, &gateway.key, "").await;
        (reply.status, reply.json()["error"]["message"].as_str().unwrap().to_owned(), reply)
    };
    let (status, message, _) = ask(Method::GET, "/v1/chat/completions").await;
    assert_eq!(status, 405);
    assert!(message.contains("POST"), "{message}");
    assert_eq!(ask(Method::DELETE, "/v1/models").await.2.header("allow"), "GET");
    for (path, words) in [("/v1/completions", "chat/completions"), ("/v1/responses", "chat/completions"), ("/", "/v1")]
    {
        let (status, message, _) = ask(Method::POST, path).await;
        assert_eq!(status, 404);
        assert!(message.contains(words), "{path}: {message}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 41943040\r\n\r\n",
        gateway.key
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = socket.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("request_too_large"), "{answer}");

    // Without an announced length the limit holds all the same.
    let body = vec![b' '; 33 << 20];
    let stream = futures_util::stream::iter(
        body.chunks(1 << 20)
            .map(|chunk| Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::copy_from_slice(chunk)))),
    );
    let stream: Vec<_> = futures_util::StreamExt::collect(stream).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::StreamBody<_>>();
    let request = Request::post(format!("{}/v1/chat/completions", gateway.url))
        .header("authorization", format!("Bearer {}", gateway.key))
        .body(http_body_util::StreamBody::new(futures_util::stream::iter(stream)))
        .unwrap();
    // The rest of the body is taken in all the same, so that a client that looks for an answer only then finds it.
    assert_eq!(client.request(request).await.unwrap().status(), 413);
    assert_eq!(gateway.chat(&hello()).await.status, 200);
    assert_eq!(provider.bill().total().requests, 1);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /v1/models HTTP/1.1\r\nx-long: ").await.unwrap();
    let filler = vec![b'a'; 64 * 1024];
    let mut written = Ok(());
    for _ in 0..16 {
        written = socket.write_all(&filler).await;
        if written.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    assert!(read.is_ok() || written.is_err(), "the connection is closed");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(gateway.chat(&hello()).await.status, 200);
}
