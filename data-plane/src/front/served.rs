//! A node that serves on a socket, with a scripted provider behind it, for the tests of what agents see.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keyforge_counters::{CounterState, CounterStore};
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use keyforge_runtime::accept::{AcceptOptions, serve_with};
use keyforge_shared::catalog::{Model, Operation, ProviderName};
use keyforge_shared::clock::ManualClock;
use keyforge_shared::id::CredentialId;
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::period::Window;
use keyforge_shared::policy::{ModelPattern, Policy, RequestLimit};
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{CredentialRecord, KeyRecord, Resource};
use keyforge_shared::token::NewToken;
use serde_json::Value;

use super::Front;
use crate::fixture::{FakeLedger, Node, Parts, START, cap, key, key_id, model, workspace};

/// What the key may spend in a day, in nano-dollars.
pub(crate) const CAP: u64 = 10_000_000_000;

/// A node with one key, which pays, and one credential of every provider of [`models`].
pub(crate) struct Scene {
    pub provider: ScriptedProvider,
    pub node: Node,
    pub clock: Arc<ManualClock>,
    pub address: String,
    token: NewToken,
    client: Client<HttpConnector, Full<Bytes>>,
    _ledger: Arc<FakeLedger>,
}

/// An answer.
pub(crate) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and code of an error.
    pub fn error(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    }
}

/// A model of every kind of provider: `m`, which OpenAI knows as `m-1`, `claude`, `gemini`, `e` and the hosted `farm/m`.
fn models() -> Vec<Resource> {
    let Resource::Model(base) = model() else { unreachable!() };
    let named = |name: &str, provider: &str, upstream: &str, operation| {
        let provider = ProviderName(provider.to_owned());
        let (name, upstream_name) = (name.to_owned(), upstream.to_owned());
        Resource::Model(Arc::new(Model { name, provider, upstream_name, operation, ..Model::clone(&base) }))
    };
    vec![
        named("m", "openai", "m-1", Operation::Chat),
        named("claude", "anthropic", "claude-1", Operation::Chat),
        named("gemini", "google", "gemini-1", Operation::Chat),
        named("e", "openai", "e-1", Operation::Embedding),
        named("gemini-e", "google", "gemini-e-1", Operation::Embedding),
        named("r", "openai", "r-1", Operation::Responses),
        named("farm/m", "farm", "m", Operation::Chat),
    ]
}

fn credential(number: u8, provider: &str, base_url: String) -> CredentialRecord {
    CredentialRecord {
        id: CredentialId::from_bytes([number; 16]),
        provider: ProviderName(provider.to_owned()),
        pool: "default".to_owned(),
        base_url,
        limit_group: "default".to_owned(),
        secret_version: 1,
        enabled: true,
        weight: 1,
    }
}

impl Scene {
    /// With a key that may call the models that match `patterns`, or all without any.
    pub async fn start(script: Script, patterns: &[&str]) -> Self {
        let provider = ScriptedProvider::start(script).unwrap();
        let token = NewToken::generate().unwrap();
        let quota = RequestLimit { requests: 100, window: Window::Day };
        let models_allowed = patterns.iter().map(|pattern| ModelPattern((*pattern).to_owned())).collect();
        let policy = Policy { models: models_allowed, request_limits: vec![quota], ..cap(CAP) };
        let Resource::Key(record) = key(1, policy) else { unreachable!() };
        let record = KeyRecord { digest: token.digest(), ..KeyRecord::clone(&record) };
        let mut state = vec![workspace(Vec::new(), Vec::new()), Resource::Key(Arc::new(record))];
        state.extend(models());
        let providers = (1u8..).zip(["openai", "anthropic", "google", "farm"]);
        let credentials: Vec<_> = providers.map(|(at, name)| credential(at, name, provider.base_url())).collect();
        state.extend(credentials.iter().map(|record| Resource::Credential(Arc::new(record.clone()))));

        let ledger = Arc::new(FakeLedger::default());
        let own = |dimension, limit| ((Scope::Key, dimension, Window::Day), limit);
        ledger.0.lock().limits = [own(Dimension::Spend, CAP), own(Dimension::Requests, 100)].into();
        let clock = Arc::new(ManualClock::at(START));
        let node = Parts::in_memory(ledger.serve().await, &clock, state).build();
        for credential in &credentials {
            let secret = SecretBytes::new(format!("sk-of-{}", credential.provider).into_bytes());
            node.plane.replica.secrets.put(credential.id, 1, &secret).unwrap();
        }
        let address = serve(&node).await;
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        Self { provider, node, clock, address, token, client, _ledger: ledger }
    }

    /// The answer's head, with its body to come.
    pub async fn open(&self, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("authorization", format!("Bearer {}", self.token.expose()))
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        self.client.request(request).await.unwrap()
    }

    /// The key's token.
    pub fn token(&self) -> &str {
        self.token.expose()
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        let (parts, body) = self.open(path, body).await.into_parts();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn chat(&self, body: &Value) -> Reply {
        self.post("/v1/chat/completions", body.to_string()).await
    }

    /// The same by a client that waits for a fifth of a second.
    pub async fn chat_in_haste(&self, body: &Value) -> Reply {
        let request = Request::post(format!("http://{}/v1/chat/completions", self.address))
            .header("authorization", format!("Bearer {}", self.token.expose()))
            .header("x-stainless-timeout", "0.2")
            .body(Full::new(body.to_string().into()))
            .unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        let request = Request::get(format!("http://{}{path}", self.address))
            .header("x-api-key", self.token.expose())
            .body(Full::default())
            .unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    /// The key's own counter of this dimension; nothing was ever reserved without one.
    pub async fn books(&self, dimension: Dimension) -> Option<CounterState> {
        let books = self.node.plane.counters.books(key_id(1)).await.unwrap();
        books.into_iter().find(|books| books.counter.dimension == dimension && books.counter.scope == Scope::Key)
    }

    /// Nano-dollars held and used.
    pub async fn money(&self) -> (u64, u64) {
        self.books(Dimension::Spend).await.map_or((0, 0), |books| (books.held, books.used))
    }

    /// Waits until nothing is held any more; returns what is used, in nano-dollars, and how long that took.
    pub async fn settled(&self) -> (u64, Duration) {
        let since = tokio::time::Instant::now();
        while since.elapsed() < Duration::from_secs(10) {
            let (held, used) = self.money().await;
            if held == 0 && used > 0 {
                return (used, since.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never settled: {:?}", self.money().await)
    }
}

async fn serve(node: &Node) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let front = Front::new(Arc::clone(&node.plane.clock), node.plane.readiness.clone());
    front.open(Arc::clone(&node.plane));
    let shutdown = node.plane.shutdown.clone();
    let serving =
        serve_with(listener, AcceptOptions::default(), move |peer| front.for_peer(peer.address), shutdown.clone());
    drop(shutdown.spawn_background("accept", serving));
    address
}
