//! The composition root: the only file that puts the parts of a control plane together.
//!
//! [`start`] returns when gRPC is served. A drain stops accepting, ends the nodes' streams, and lets calls and commits that run finish; after
//! it [`ControlPlane::close`] closes the store, which everything else stands on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use keyforge_proto::DESCRIPTORS;
use keyforge_proto::admin::v1::audit_service_server::AuditServiceServer;
use keyforge_proto::admin::v1::credential_service_server::CredentialServiceServer;
use keyforge_proto::admin::v1::key_service_server::KeyServiceServer;
use keyforge_proto::admin::v1::model_service_server::ModelServiceServer;
use keyforge_proto::admin::v1::usage_service_server::UsageServiceServer;
use keyforge_proto::admin::v1::workspace_service_server::WorkspaceServiceServer;
use keyforge_proto::fleet::v1::audit_intake_service_server::AuditIntakeServiceServer;
use keyforge_proto::fleet::v1::grant_service_server::GrantServiceServer;
use keyforge_proto::fleet::v1::state_service_server::StateServiceServer;
use keyforge_runtime::accept::{self, AcceptOptions, BindError};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::telemetry::Telemetry;
use keyforge_runtime::tls::{self, TlsError};
use keyforge_shared::clock::Clock;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;

use crate::admin::Admin;
use crate::admin::deployment::{self, OPERATOR_TOKEN_FILE, OpenError};
use crate::audit::Audit;
use crate::config::{Config, TlsFiles};
use crate::grpc::audit::AuditApi;
use crate::grpc::auth::FleetAuth;
use crate::grpc::credentials::CredentialApi;
use crate::grpc::grants::GrantApi;
use crate::grpc::intake::IntakeApi;
use crate::grpc::keys::KeyApi;
use crate::grpc::models::ModelApi;
use crate::grpc::state::StateApi;
use crate::grpc::usage::UsageApi;
use crate::grpc::workspaces::WorkspaceApi;
use crate::ledger::Ledger;
use crate::metrics;
use crate::publish::fleet::Fleet;
use crate::publish::fleet_token::{FLEET_TOKEN_FILE, FleetToken, FleetTokenError};
use crate::publish::hub::Hub;
use crate::publish::secrets::Secrets;
use crate::publish::session::Publisher;
use crate::publish::standings::Standings;
use crate::store::{Store, StoreError, partitions};

/// How often the nodes that are there are noted: often within [`SILENCE`](crate::ledger::signs::SILENCE).
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// Why a control plane cannot start. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The deployment cannot be opened.
    #[error(transparent)]
    Deployment(#[from] OpenError),
    /// There is no fleet token.
    #[error(transparent)]
    FleetToken(#[from] FleetTokenError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The listener does not say where it listens.
    #[error("the listener has no address: {0}")]
    Address(std::io::Error),
    /// The descriptors that were compiled in cannot be read.
    #[error("gRPC reflection cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running control plane.
pub struct ControlPlane {
    addr: SocketAddr,
    data_dir: PathBuf,
    admin: Admin,
    fleet: Fleet,
    store: Store,
}

impl ControlPlane {
    /// Where gRPC is served.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the first operator's token was written to.
    #[must_use]
    pub fn operator_token_path(&self) -> PathBuf {
        self.data_dir.join(OPERATOR_TOKEN_FILE)
    }

    /// Where the fleet's token is kept.
    #[must_use]
    pub fn fleet_token_path(&self) -> PathBuf {
        self.data_dir.join(FLEET_TOKEN_FILE)
    }

    /// Administration without a network in between.
    #[must_use]
    pub const fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Which nodes there are.
    #[must_use]
    pub const fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Closes the store, the last part to go: call it after [`Shutdown::drained`]. Without it nothing is lost, but the next start has to
    /// recover.
    pub async fn close(self) {
        self.store.close().await;
    }
}

/// Starts a control plane. When it returns, gRPC is served; a drain of `shutdown` ends it.
///
/// # Errors
/// [`StartError`].
pub async fn start(
    config: Config,
    shutdown: Shutdown,
    telemetry: &Telemetry,
    clock: Arc<dyn Clock>,
) -> Result<ControlPlane, StartError> {
    let tls = config.tls.as_ref().map(acceptor).transpose()?;
    let store = Store::open_configured(&config.data_dir, config.database.as_ref(), Arc::clone(&clock)).await?;
    let parts = assemble(&config, store, &shutdown, telemetry, clock).await?;
    if parts.store.is_shared() {
        keep_up(&parts, &shutdown);
    }
    let listener = accept::bind(config.listen)?;
    let addr = listener.local_addr().map_err(StartError::Address)?;
    let routes = routes(&parts, &shutdown)?;
    let (signs, drain) = (hear_of(parts.ledger.clone(), parts.publisher.fleet.clone()), shutdown.drain_started());
    drop(shutdown.spawn_background("signs of life", async move {
        tokio::select! {
            () = signs => {}
            () = drain => {}
        }
    }));
    let options = AcceptOptions { tls, ..AcceptOptions::default() };
    let service = move |peer| WithPeer { routes: TowerToHyperService::new(routes.clone()), local: addr, peer };
    drop(shutdown.spawn_critical("grpc", accept::serve_with(listener, options, service, shutdown.clone())));
    tracing::info!(%addr, data_dir = %config.data_dir.display(), "the control plane serves gRPC");
    let Parts { admin, publisher, store, .. } = parts;
    Ok(ControlPlane { addr, data_dir: config.data_dir, admin, fleet: publisher.fleet, store })
}

struct Parts {
    store: Store,
    audit: Arc<Audit>,
    ledger: Ledger,
    admin: Admin,
    publisher: Publisher,
    fleet_auth: FleetAuth,
}

async fn assemble(
    config: &Config,
    store: Store,
    shutdown: &Shutdown,
    telemetry: &Telemetry,
    clock: Arc<dyn Clock>,
) -> Result<Parts, StartError> {
    let opened = deployment::open(&store, &config.data_dir, &config.vault_key, Arc::clone(&clock)).await?;
    let fleet_token = FleetToken::load(&config.data_dir, opened.is_new || !store.is_shared())?;
    let (hub, fleet) = (Hub::new(opened.state), Fleet::new(Arc::clone(&clock)));
    metrics::register(&telemetry.meter(), &hub, &fleet);
    let secrets = Secrets::new(store.clone(), Arc::clone(&opened.vault), Arc::clone(fleet_token.secret()));
    let audit = opened.audit;
    let sealed = (opened.seal, opened.sum);
    let admin = Admin::new(store.clone(), opened.vault, Arc::clone(&audit), hub.clone(), sealed, shutdown.clone());
    let ledger = Ledger::new(store.clone(), Arc::clone(&clock));
    let publisher = Publisher { hub, fleet, secrets, deployment: opened.id, clock };
    Ok(Parts { store, audit, ledger, admin, publisher, fleet_auth: FleetAuth::new(fleet_token) })
}

/// Keeps note of the boots that are there.
async fn hear_of(ledger: Ledger, fleet: Fleet) {
    let mut often = tokio::time::interval(NOTE_EVERY);
    loop {
        often.tick().await;
        if let Err(error) = ledger.hear_of(&fleet.present()).await {
            tracing::warn!(%error, "nodes that are there could not be noted: what they hold may be taken for spent until they ask for more");
        }
    }
}

/// Keeps up with what others do to a shared database, and its tables ahead of time.
fn keep_up(parts: &Parts, shutdown: &Shutdown) {
    let (admin, drain) = (parts.admin.clone(), shutdown.drain_started());
    drop(shutdown.spawn_critical("follow", async move {
        tokio::select! {
            () = admin.follow() => {}
            () = drain => {}
        }
    }));
    let (store, drain) = (parts.store.clone(), shutdown.drain_started());
    drop(shutdown.spawn("partitions", async move {
        tokio::select! {
            () = partitions::keep_ahead(&store) => {}
            () = drain => {}
        }
    }));
}

fn routes(parts: &Parts, shutdown: &Shutdown) -> Result<Routes, StartError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let drain = shutdown.drain_started();
    drop(shutdown.spawn_background("health", async move {
        drain.await;
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    }));
    let Parts { store, audit, ledger, admin, publisher, fleet_auth } = parts;
    let audit_api = AuditApi::new(admin.clone(), store.clone(), Arc::clone(audit));
    let usage = UsageApi::new(admin.clone(), store.clone(), ledger.clone());
    let standings = Standings::new(Arc::clone(&publisher.clock));
    let state = StateApi::new(publisher.clone(), standings.clone(), shutdown.clone());
    let intake = IntakeApi::new(store.clone(), Arc::clone(audit), admin.clone());
    Ok(Routes::new(reflection)
        .add_service(health_service)
        .add_service(WorkspaceServiceServer::new(WorkspaceApi::new(admin.clone())))
        .add_service(KeyServiceServer::new(KeyApi::new(admin.clone())))
        .add_service(CredentialServiceServer::new(CredentialApi::new(admin.clone(), standings)))
        .add_service(ModelServiceServer::new(ModelApi::new(admin.clone())))
        .add_service(AuditServiceServer::new(audit_api))
        .add_service(UsageServiceServer::new(usage))
        .add_service(StateServiceServer::with_interceptor(state, fleet_auth.clone()))
        .add_service(GrantServiceServer::with_interceptor(GrantApi::new(ledger.clone()), fleet_auth.clone()))
        .add_service(AuditIntakeServiceServer::with_interceptor(intake, fleet_auth.clone()))
        .prepare())
}

fn acceptor(files: &TlsFiles) -> Result<tokio_rustls::TlsAcceptor, TlsError> {
    Ok(tls::server_config(&files.certificates, &files.key)?.into())
}

/// Tells the services whose connection a request came on.
struct WithPeer {
    routes: TowerToHyperService<Routes>,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Service<Request<Incoming>> for WithPeer {
    type Response = <TowerToHyperService<Routes> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Routes> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Routes> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let info = TcpConnectInfo { local_addr: Some(self.local), remote_addr: Some(self.peer) };
        request.extensions_mut().insert(info);
        self.routes.call(request)
    }
}
