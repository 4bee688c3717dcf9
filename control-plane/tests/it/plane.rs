//! A control plane of its own for each test: real files, a real socket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyforge_control_plane::app::{self, ControlPlane, StartError};
use keyforge_control_plane::config::Config;
use keyforge_control_plane::store::StoreError;
use keyforge_control_plane::store::sql::{self, Conn};
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_proto::admin::v1::model_service_client::ModelServiceClient;
use keyforge_proto::admin::v1::operator_service_client::OperatorServiceClient;
use keyforge_proto::admin::v1::vault_service_client::VaultServiceClient;
use keyforge_proto::admin::v1::workspace_service_client::WorkspaceServiceClient;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::telemetry::{Telemetry, TelemetryConfig};
use keyforge_shared::audit::admin::AdminRecord;
use keyforge_shared::clock::SystemClock;
use keyforge_shared::secret::SecretBytes;
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::stores;

pub const CANARY: &str = "sk-canary-4711-not-to-be-seen-anywhere";

/// Presents a token with every call.
#[derive(Clone)]
pub struct Bearer(pub Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

pub type Authorized = InterceptedService<Channel, Bearer>;

pub struct Plane {
    pub directory: TempDir,
    pub running: ControlPlane,
    pub shutdown: Shutdown,
    pub telemetry: Telemetry,
    channel: Channel,
    pub operator_token: String,
    pub fleet_token: String,
}

/// A configuration file of this name in its directory is what a control plane is started with; without one it has the defaults.
pub const CONFIG: &str = "control-plane.toml";

pub async fn start_in(directory: &Path) -> Result<(ControlPlane, Shutdown), StartError> {
    let (running, shutdown, _) = start_watched(directory).await?;
    Ok((running, shutdown))
}

async fn start_watched(directory: &Path) -> Result<(ControlPlane, Shutdown, Telemetry), StartError> {
    let (telemetry, _) = Telemetry::prepare(TelemetryConfig::new("test")).unwrap();
    let shutdown = Shutdown::new();
    let file = directory.join(CONFIG);
    let mut config = match file.exists() {
        true => Config::load(&file).unwrap().0,
        false => Config::local(directory.join("data"), SocketAddr::from(([127, 0, 0, 1], 0))),
    };
    config.database = stores::database_of(directory);
    let running = app::start(config, shutdown.clone(), &telemetry, Arc::new(SystemClock)).await?;
    Ok((running, shutdown, telemetry))
}

/// Starts in a directory that a control plane of this process has left. A process that another test forks at that moment holds its lock, too, until it
/// becomes the program that it is to be.
async fn start_when_free(directory: &Path) -> Result<(ControlPlane, Shutdown, Telemetry), StartError> {
    for _ in 0..100 {
        match start_watched(directory).await {
            Err(StartError::Store(StoreError::Locked(_))) => tokio::time::sleep(Duration::from_millis(50)).await,
            started => return started,
        }
    }
    start_watched(directory).await
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_again(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_again(directory: TempDir) -> Self {
        let (running, shutdown, telemetry) = start_when_free(directory.path()).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", running.addr())).unwrap().connect().await.unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap().trim_end().to_owned();
        let (operator_token, fleet_token) = (read(&running.operator_token_path()), read(&running.fleet_token_path()));
        Self { directory, running, shutdown, telemetry, channel, operator_token, fleet_token }
    }

    /// Drains, closes, and gives the directory back.
    pub async fn stop(self) -> TempDir {
        drop(self.channel);
        self.shutdown.trigger();
        assert_eq!(self.shutdown.drained(Duration::from_secs(20)).await, Drained::Clean);
        self.running.close().await;
        self.directory
    }

    pub fn with(&self, token: Option<&str>) -> (Channel, Bearer) {
        (self.channel.clone(), Bearer(token.map(|token| format!("Bearer {token}").parse().unwrap())))
    }

    pub fn keys(&self) -> KeyServiceClient<Authorized> {
        let (channel, bearer) = self.with(Some(&self.operator_token));
        KeyServiceClient::with_interceptor(channel, bearer)
    }

    pub fn workspaces(&self) -> WorkspaceServiceClient<Authorized> {
        let (channel, bearer) = self.with(Some(&self.operator_token));
        WorkspaceServiceClient::with_interceptor(channel, bearer)
    }

    pub fn credentials(&self) -> CredentialServiceClient<Authorized> {
        let (channel, bearer) = self.with(Some(&self.operator_token));
        CredentialServiceClient::with_interceptor(channel, bearer)
    }

    pub fn vault(&self) -> VaultServiceClient<Authorized> {
        let (channel, bearer) = self.with(Some(&self.operator_token));
        VaultServiceClient::with_interceptor(channel, bearer)
    }

    pub fn models(&self) -> ModelServiceClient<Authorized> {
        let (channel, bearer) = self.with(Some(&self.operator_token));
        ModelServiceClient::with_interceptor(channel, bearer)
    }

    pub fn operators(&self) -> OperatorServiceClient<Authorized> {
        let (channel, bearer) = self.with(Some(&self.operator_token));
        OperatorServiceClient::with_interceptor(channel, bearer)
    }

    /// Makes an operator, of a workspace unless that is empty.
    pub async fn make_operator(&self, name: &str, role: admin::Role, workspace: &str) -> (admin::Operator, String) {
        let (name, workspace) = (name.to_owned(), workspace.to_owned());
        let request = admin::CreateOperatorRequest { name, role: role.into(), workspace, expires_at_ms: None };
        let made = self.operators().create_operator(request).await.unwrap().into_inner();
        (made.operator.unwrap(), made.token)
    }

    /// Makes a workspace without limits.
    pub async fn make_workspace(&self, name: &str) -> String {
        let request = admin::CreateWorkspaceRequest { name: name.to_owned(), ..Default::default() };
        self.workspaces().create_workspace(request).await.unwrap().into_inner().id
    }

    /// Makes a key in a workspace.
    pub async fn make_key_in(&self, workspace: &str, name: &str) -> admin::Key {
        let (name, workspace) = (name.to_owned(), workspace.to_owned());
        let request = admin::CreateKeyRequest { name, workspace, ..Default::default() };
        self.keys().create_key(request).await.unwrap().into_inner().key.unwrap()
    }

    pub fn state(&self) -> StateServiceClient<Authorized> {
        let (channel, bearer) = self.with(Some(&self.fleet_token));
        StateServiceClient::with_interceptor(channel, bearer)
    }

    pub fn fleet_secret(&self) -> SecretBytes {
        SecretBytes::new(self.fleet_token.clone().into_bytes())
    }

    /// Makes a key that may do everything.
    pub async fn make_key(&self, name: &str) -> (admin::Key, String) {
        let request = admin::CreateKeyRequest { name: name.to_owned(), ..Default::default() };
        let answer = self.keys().create_key(request).await.unwrap().into_inner();
        (answer.key.unwrap(), answer.token)
    }

    pub async fn add_credential(&self, secret: &str) -> admin::Credential {
        let request = admin::AddCredentialRequest {
            provider: "openai".to_owned(),
            secret: secret.as_bytes().to_vec(),
            ..Default::default()
        };
        self.credentials().add_credential(request).await.unwrap().into_inner()
    }

    pub async fn revision(&self) -> u64 {
        let mut database = database(self.directory.path()).await;
        let revision = sql::query("SELECT revision FROM deployment").fetch_value::<i64>(&mut database).await.unwrap();
        u64::try_from(revision.unwrap()).unwrap()
    }

    /// The administrators' chain, read beside the running control plane.
    pub async fn admin_entries(&self) -> Vec<AdminRecord> {
        let mut database = database(self.directory.path()).await;
        let select = "SELECT record FROM entries JOIN deployment ON chain_id = admin_chain_id ORDER BY seq";
        let rows = sql::query(select).fetch_all(&mut database).await.unwrap();
        rows.iter().map(|row| AdminRecord::decode(row.try_get(0).unwrap()).unwrap()).collect()
    }

    pub async fn last_entry(&self) -> AdminRecord {
        self.admin_entries().await.pop().unwrap()
    }
}

pub async fn database(directory: &Path) -> Conn {
    stores::connect(directory).await
}
