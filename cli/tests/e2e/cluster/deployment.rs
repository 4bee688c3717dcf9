//! What agents, operators and the provider see of a deployment, however its processes were started.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use keyforge_loadtest::provider::ScriptedProvider;
use keyforge_proto::admin::v1 as admin;
use serde_json::Value;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;

use super::agents::{ask, attempt};
use super::books::Limits;
use crate::harness::{AdminChannel, Interceptor, Reply, read};

/// How long a whole deployment may take to start, or a fault to be over.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A control plane, the nodes that follow it, and the provider behind them.
#[derive(Clone)]
pub struct Deployment {
    /// The control plane's data directory, where commands on this host find it.
    pub data: PathBuf,
    pub provider: Arc<ScriptedProvider>,
    /// `http://127.0.0.1:PORT` of each node.
    pub nodes: Vec<String>,
    pub client: Client<HttpConnector, Full<Bytes>>,
}

impl Deployment {
    pub fn new(data: &Path, provider: Arc<ScriptedProvider>, nodes: Vec<String>) -> Self {
        Self { data: data.to_owned(), provider, nodes, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Sends a chat completion to a node. The connection may break.
    pub async fn open(&self, node: usize, token: &str, body: &Value) -> Result<Response<Incoming>, Error> {
        let request = Request::post(format!("{}/v1/chat/completions", self.nodes[node]))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        tokio::time::timeout(PATIENCE, self.client.request(request)).await.expect("an answer in time")
    }

    /// Sends a chat completion to a node that is up, and reads the whole answer.
    pub async fn chat(&self, node: usize, token: &str, body: &Value) -> Reply {
        read(self.open(node, token, body).await.unwrap()).await
    }

    /// Waits until a node serves a key. Redis may answer too late on a machine that does too much at once.
    pub async fn serves(&self, node: usize, token: &str) {
        let served = async || {
            let answer = attempt(self, node, token, &ask(16, false)).await;
            answer.kind() == "200"
        };
        self.eventually(&format!("node {} serves the key", node + 1), served).await;
    }

    /// Runs the command line, expects success, and reads its JSON.
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs the command line against the control plane.
    pub fn cli(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyforge"));
        command.args(arguments).env_clear().env("KEYFORGE_DATA", &self.data).stdin(Stdio::null()).output().unwrap()
    }

    /// Channels of the admin API with the owner's token.
    pub async fn admin(&self) -> AdminChannel {
        let read = |name: &str| std::fs::read_to_string(self.data.join(name)).unwrap().trim().to_owned();
        let (token, url) = (read("operator.token"), format!("http://{}", read("admin.addr")));
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let bearer: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        let authorize = move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", bearer.clone());
            Ok(request)
        };
        InterceptedService::new(channel, Box::new(authorize) as Interceptor)
    }

    /// Makes a key with this policy and waits until every node knows it. Returns token and id.
    pub async fn create_key(&self, name: &str, policy: admin::Policy) -> (String, String) {
        self.create_key_in("", name, policy).await
    }

    /// Makes a workspace with these limits.
    pub async fn create_workspace(&self, name: &str, limits: Limits) -> String {
        let mut workspaces = admin::workspace_service_client::WorkspaceServiceClient::new(self.admin().await);
        let admin::Policy { request_limits, spend_limits, .. } = limits.policy();
        let name = name.to_owned();
        let request = admin::CreateWorkspaceRequest { name, request_limits, spend_limits, ..Default::default() };
        workspaces.create_workspace(request).await.unwrap().into_inner().id
    }

    /// The same in a workspace; the empty one is `default`.
    pub async fn create_key_in(&self, workspace: &str, name: &str, policy: admin::Policy) -> (String, String) {
        let mut keys = admin::key_service_client::KeyServiceClient::new(self.admin().await);
        let (name, workspace) = (name.to_owned(), workspace.to_owned());
        let request = admin::CreateKeyRequest { name, policy: Some(policy), workspace, ..Default::default() };
        let answer = keys.create_key(request).await.unwrap().into_inner();
        for node in 0..self.nodes.len() {
            self.eventually("the node knows the new key", async || self.lists_models(node, &answer.token).await).await;
        }
        (answer.token, answer.key.unwrap().id)
    }

    /// Whether a node takes a key.
    pub async fn lists_models(&self, node: usize, token: &str) -> bool {
        let request = Request::get(format!("{}/v1/models", self.nodes[node]));
        let request = request.header("authorization", format!("Bearer {token}")).body(Full::default()).unwrap();
        self.client.request(request).await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Waits until `condition` holds.
    pub async fn eventually(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let all = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "not in time: {what}");
    }
}
