//! A cluster of real processes, started as its users start it, and asked by the smallest possible HTTP client.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_shared::secret::SecretBytes;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const PATIENCE: Duration = Duration::from_secs(60);

/// Presents the operator's token.
#[derive(Clone)]
pub struct Operator(MetadataValue<Ascii>);

impl Interceptor for Operator {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A running cluster.
pub struct Cluster {
    supervisor: Child,
    banner: Value,
    data: std::path::PathBuf,
}

impl Cluster {
    pub async fn start(keyforge: &Path, data: &Path, nodes: usize) -> anyhow::Result<Self> {
        let mut supervisor = Command::new(keyforge)
            .args(["local-cluster", "--output", "json", "--nodes", &nodes.to_string(), "--data"])
            .arg(data)
            // Nothing is ever sent to it.
            .envs([("OPENAI_API_KEY", "sk-not-used"), ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", keyforge.display()))?;
        let mut lines = BufReader::new(supervisor.stdout.take().context("no standard output")?).lines();
        let line =
            tokio::time::timeout(PATIENCE, lines.next_line()).await.context("the cluster is not ready in time")??;
        let banner = serde_json::from_str(&line.context("the cluster ended at once")?)?;
        Ok(Self { supervisor, banner, data: data.to_owned() })
    }

    pub fn control_plane_url(&self) -> anyhow::Result<String> {
        Ok(self.banner["control_plane"]["url"].as_str().context("no control plane")?.to_owned())
    }

    pub fn control_plane_pid(&self) -> anyhow::Result<u32> {
        let status: Value = serde_json::from_slice(&std::fs::read(self.data.join("cluster.json"))?)?;
        Ok(u32::try_from(status["control_plane"]["pid"].as_u64().context("no control plane")?)?)
    }

    pub fn fleet_token(&self) -> anyhow::Result<Arc<SecretBytes>> {
        let text = std::fs::read_to_string(self.data.join("fleet.token"))?;
        Ok(Arc::new(SecretBytes::new(text.trim_end().as_bytes().to_vec())))
    }

    /// Addresses of the nodes, such as `127.0.0.1:8080`.
    pub fn nodes(&self) -> Vec<String> {
        let nodes = self.banner["nodes"].as_array().into_iter().flatten();
        nodes.filter_map(|node| Some(node["url"].as_str()?.trim_start_matches("http://").to_owned())).collect()
    }

    pub async fn keys(&self) -> anyhow::Result<KeyServiceClient<InterceptedService<Channel, Operator>>> {
        let token = std::fs::read_to_string(self.banner["admin_token_file"].as_str().context("no operator")?)?;
        let channel = Endpoint::from_shared(self.control_plane_url()?)?.tcp_nodelay(true).connect().await?;
        let bearer = format!("Bearer {}", token.trim_end()).parse().context("the operator's token")?;
        Ok(KeyServiceClient::with_interceptor(channel, Operator(bearer)))
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.supervisor.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        tokio::time::timeout(PATIENCE, self.supervisor.wait()).await.context("the cluster does not end")??;
        Ok(())
    }
}

/// One connection to a node that asks for the list of models, over and over: the cheapest question that a key is looked at for.
pub struct Probe {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
}

impl Probe {
    pub async fn connect(node: &str, token: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(node).await?;
        stream.set_nodelay(true)?;
        let mut probe = Self { stream: BufReader::new(stream), request: Vec::new() };
        probe.show(token);
        Ok(probe)
    }

    /// Asks with another token from here on.
    pub fn show(&mut self, token: &str) {
        let request = format!("GET /v1/models HTTP/1.1\r\nhost: node\r\nauthorization: Bearer {token}\r\n\r\n");
        self.request = request.into_bytes();
    }

    /// The status of one answer.
    pub async fn ask(&mut self) -> anyhow::Result<u16> {
        self.stream.write_all(&self.request).await?;
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                bail!("the node closed the connection");
            }
            let line = line.trim_end().to_ascii_lowercase();
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        status.context("an answer without a status")
    }
}
