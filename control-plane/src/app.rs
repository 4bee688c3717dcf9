//! The composition root: the only file that puts the parts of a control plane together.
//!
//! [`start`] returns when gRPC is served. A drain stops accepting, ends the nodes' streams, and lets calls and commits that run finish; after
//! it [`ControlPlane::close`] closes the store, which everything else stands on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use keyforge_proto::DESCRIPTORS;
use keyforge_proto::admin::v1::audit_service_server::AuditServiceServer;
use keyforge_proto::admin::v1::credential_service_server::CredentialServiceServer;
use keyforge_proto::admin::v1::key_service_server::KeyServiceServer;
use keyforge_proto::admin::v1::model_service_server::ModelServiceServer;
use keyforge_proto::admin::v1::node_service_server::NodeServiceServer as AdminNodeServiceServer;
use keyforge_proto::admin::v1::operator_service_server::OperatorServiceServer;
use keyforge_proto::admin::v1::usage_service_server::UsageServiceServer;
use keyforge_proto::admin::v1::vault_service_server::VaultServiceServer;
use keyforge_proto::admin::v1::workspace_service_server::WorkspaceServiceServer;
use keyforge_proto::fleet::v1::audit_intake_service_server::AuditIntakeServiceServer;
use keyforge_proto::fleet::v1::enrollment_service_server::EnrollmentServiceServer;
use keyforge_proto::fleet::v1::grant_service_server::GrantServiceServer;
use keyforge_proto::fleet::v1::node_service_server::NodeServiceServer;
use keyforge_proto::fleet::v1::state_service_server::StateServiceServer;
use keyforge_runtime::accept::BindError;
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::telemetry::Telemetry;
use keyforge_runtime::tls::TlsError;
use keyforge_runtime::tls::peer::Fingerprint;
use keyforge_shared::clock::Clock;
use tonic::service::Routes;

use crate::admin::deployment::{self, OPERATOR_TOKEN_FILE, OpenError};
use crate::admin::receipts::Receipts;
use crate::admin::{Admin, Sealed};
use crate::audit::Audit;
use crate::config::{Config, DEFAULT_CERTIFICATE_LIFE};
use crate::custody::{Configured, Custodian};
use crate::expiry::ExpiringKeys;
use crate::grpc::audit::AuditApi;
use crate::grpc::brief::{Brief, MAX_FROM_STRANGERS};
use crate::grpc::credentials::CredentialApi;
use crate::grpc::grants::GrantApi;
use crate::grpc::guarded::Gate as _;
use crate::grpc::health;
use crate::grpc::intake::IntakeApi;
use crate::grpc::keys::KeyApi;
use crate::grpc::models::ModelApi;
use crate::grpc::node_gate::NodeGate;
use crate::grpc::nodes::{CertificateApi, EnrollmentApi, NodeApi};
use crate::grpc::operator_gate::OperatorGate;
use crate::grpc::operators::OperatorApi;
use crate::grpc::state::StateApi;
use crate::grpc::usage::UsageApi;
use crate::grpc::vault::VaultApi;
use crate::grpc::workspaces::WorkspaceApi;
use crate::instance::Instance;
use crate::ledger::Ledger;
use crate::listeners::{self, Services};
use crate::metrics::{self, LabelledCounter};
use crate::nodes::authority::{Authority, AuthorityError};
use crate::nodes::{NodeParts, Nodes};
use crate::publish::credential_reports::CredentialReports;
use crate::publish::fleet::Fleet;
use crate::publish::fleet_token::{FLEET_TOKEN_FILE, FleetToken, FleetTokenError};
use crate::publish::horizon::Horizon;
use crate::publish::hub::Hub;
use crate::publish::responder::Responder;
use crate::publish::secrets::Secrets;
use crate::publish::session::Publisher;
use crate::registry::{LONGEST_STALENESS, Registry};
use crate::store::{Store, StoreError, partitions};

/// How long what answers other control planes may take to end.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
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
    /// There is no authority for the nodes.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
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
    tls_addr: Option<SocketAddr>,
    fingerprint: Fingerprint,
    data_dir: PathBuf,
    admin: Admin,
    fleet: Fleet,
    custodian: Custodian,
    horizon: Horizon,
    registry: Option<Registry>,
    /// Ends what other control planes need of this one for as long as it is in the registry.
    leaving: Shutdown,
    store: Store,
}

impl ControlPlane {
    /// Where gRPC is served in the clear.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where gRPC is served over TLS, if it is.
    #[must_use]
    pub const fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_addr
    }

    /// What nodes and operators pin.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
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

    /// How the vault stands.
    #[must_use]
    pub const fn custodian(&self) -> &Custodian {
        &self.custodian
    }

    /// Lets the process be ready only while a database that it shares can be reached. Ends with a drain of `shutdown`.
    pub fn show_database_in(&self, readiness: &Readiness, shutdown: &Shutdown) {
        if self.horizon.is_shared() {
            let (horizon, check) = (self.horizon.clone(), readiness.check("database"));
            let showing = async move { horizon.show(check).await };
            drop(shutdown.spawn("database readiness", shutdown.until_drain(showing)));
        }
    }

    /// Closes the store, the last part to go: call it after [`Shutdown::drained`]. Without it nothing is lost, but the next start has to
    /// recover.
    pub async fn close(self) {
        self.custodian.leave().await;
        self.leaving.trigger();
        if let Drained::TimedOut { tasks } = self.leaving.drained(LEAVE_WITHIN).await {
            tracing::warn!(tasks, "other control planes may go without an answer of this one");
        }
        if let Some(registry) = self.registry
            && let Err(error) = registry.leave(self.fleet.assured_within(LONGEST_STALENESS)).await
        {
            tracing::warn!(%error, "the other control planes could not be told which nodes this one had");
        }
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
    let store = Store::open_configured(&config.data_dir, config.database.as_ref(), Arc::clone(&clock)).await?;
    let parts = assemble(&config, store, &shutdown, telemetry, Arc::clone(&clock)).await?;
    parts.custodian.resume().await?;
    let leaving = Shutdown::new();
    if let Some(registry) = &parts.registry {
        registry.enter().await?;
        keep_up(&parts, registry, &shutdown, &leaving);
    }
    let routes = routes(&parts, &shutdown)?;
    let signs = hear_of(parts.ledger.clone(), parts.publisher.fleet.clone());
    drop(shutdown.spawn_background("signs of life", shutdown.until_drain(signs)));
    drop(shutdown.spawn_background("vault health", shutdown.until_drain(parts.custodian.clone().watch())));
    parts.gate.nodes().follow_removals(&shutdown);
    let Parts { admin, publisher, store, gate, authority, custodian, registry, .. } = parts;
    let fingerprint = authority.fingerprint();
    let services = Services { routes, refused: LabelledCounter::refused_connections(&telemetry.meter()) };
    let over_tls = |tls| listeners::over_tls(tls, authority, (services.clone(), gate), clock, &shutdown);
    let tls_addr = config.tls.as_ref().map(over_tls).transpose()?;
    let addr = listeners::in_the_clear(config.listen, services, &shutdown)?;
    tracing::info!(%addr, ?tls_addr, data_dir = %config.data_dir.display(), "the control plane serves gRPC");
    let (data_dir, Publisher { fleet, horizon, .. }) = (config.data_dir, publisher);
    Ok(ControlPlane {
        addr,
        tls_addr,
        fingerprint,
        data_dir,
        admin,
        fleet,
        custodian,
        horizon,
        registry,
        leaving,
        store,
    })
}

struct Parts {
    store: Store,
    audit: Arc<Audit>,
    ledger: Ledger,
    admin: Admin,
    publisher: Publisher,
    authority: Arc<Authority>,
    gate: NodeGate,
    operators: OperatorGate,
    passed_over: LabelledCounter,
    is_new: bool,
    custodian: Custodian,
    /// Where others may share the database.
    registry: Option<Registry>,
}

async fn assemble(
    config: &Config,
    store: Store,
    shutdown: &Shutdown,
    telemetry: &Telemetry,
    clock: Arc<dyn Clock>,
) -> Result<Parts, StartError> {
    let instance = Instance::new(&config.data_dir).map_err(|_| OpenError::Random)?;
    let opened = deployment::open(&store, &config.data_dir, &config.vault, &instance, Arc::clone(&clock)).await?;
    let fleet_token = FleetToken::load(&config.data_dir, opened.is_new || !store.is_shared())?;
    let (hub, fleet) = (Hub::new(opened.state), Fleet::new(Arc::clone(&clock)));
    let authority = Authority::open(&store, &opened.vault, opened.id, Arc::clone(&clock)).await?;
    let authority = Arc::new(authority);
    let audit = opened.audit;
    let max_staleness = Duration::from_secs(config.max_staleness_seconds.into());
    let entered = || Registry::new(store.clone(), &instance, max_staleness, opened.is_new, audit.row_seal_key());
    let registry = store.is_shared().then(entered);
    let configured = Configured { vault: config.vault.clone(), file: config.file.clone(), instance };
    let vault = Arc::clone(&opened.vault);
    let custodian = Custodian::new(store.clone(), vault, Arc::clone(&audit), configured, shutdown.clone());
    let vault = Arc::clone(&opened.vault);
    let secrets = Secrets::new(store.clone(), vault, custodian.tried(), fleet_token.secret());
    let sealed = Sealed { seal: opened.seal, sum: opened.sum, roster: opened.roster };
    let admin = Admin::new(store.clone(), opened.vault, Arc::clone(&audit), hub.clone(), sealed, shutdown.clone());
    metrics::register(&telemetry.meter(), &hub, &fleet, (&admin, &custodian));
    metrics::register_doubled(&telemetry.meter(), fleet.clone(), registry.clone());
    metrics::register_expiring(&telemetry.meter(), ExpiringKeys::watch(store.clone(), Arc::clone(&clock), shutdown));
    let ledger = Ledger::new(store.clone(), Arc::clone(&clock));
    let nodes = Nodes::new(NodeParts {
        store: store.clone(),
        authority: Arc::clone(&authority),
        seal: audit.row_seal_key(),
        fleet_token,
        clock: Arc::clone(&clock),
        certificate_life: config.tls.map_or(DEFAULT_CERTIFICATE_LIFE, |tls| tls.certificate_life),
    });
    let gate = NodeGate::new(nodes, admin.clone(), LabelledCounter::refused_nodes(&telemetry.meter()));
    let operators = OperatorGate::new(admin.clone(), LabelledCounter::refused_calls(&telemetry.meter()));
    let horizon = Horizon::new(Arc::clone(&clock), store.is_shared());
    let publisher = Publisher { hub, horizon, fleet, secrets, deployment: opened.id, clock, max_staleness };
    let is_new = opened.is_new;
    let passed_over = LabelledCounter::passed_over_records(&telemetry.meter());
    let parts = Parts {
        store,
        audit,
        ledger,
        admin,
        publisher,
        authority,
        gate,
        operators,
        passed_over,
        is_new,
        custodian,
        registry,
    };
    Ok(parts)
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

/// Keeps up with what others do to a shared database, and its tables ahead of time. While this control plane drains, it is in the registry and has
/// told nodes that their state is fresh: so it answers the others until it leaves.
fn keep_up(parts: &Parts, registry: &Registry, shutdown: &Shutdown, leaving: &Shutdown) {
    let until_it_leaves = |name, work: BoxFuture<'static, ()>| {
        let forced = shutdown.force_started();
        let unless_forced = async move {
            tokio::select! {
                () = work => {}
                () = forced => {}
            }
        };
        leaving.spawn(name, leaving.until_drain(unless_forced))
    };
    let following = parts.admin.clone().follow(parts.publisher.horizon.clone(), registry.clone());
    let following = until_it_leaves("follow", following.boxed());
    drop(shutdown.spawn_critical_background("follow", async move { drop(following.await) }));
    drop(until_it_leaves("registry", registry.clone().attend().boxed()));
    drop(until_it_leaves("connected nodes", registry.clone().keep_published(parts.publisher.fleet.clone()).boxed()));
    let (store, publisher) = (parts.store.clone(), parts.publisher.clone());
    let responder = Responder::new(store, publisher, registry.clone(), leaving.clone());
    drop(until_it_leaves("receipt parts", responder.answer_all().boxed()));
    drop(shutdown.spawn("vault holders", shutdown.until_drain(parts.custodian.clone().attend())));
    let store = parts.store.clone();
    let keeping = async move { partitions::keep_ahead(&store).await };
    drop(shutdown.spawn("partitions", shutdown.until_drain(keeping)));
}

fn routes(parts: &Parts, shutdown: &Shutdown) -> Result<Routes, StartError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (health, health_service) = tonic_health::server::health_reporter();
    drop(
        shutdown.spawn_background(
            "health",
            health::tell(parts.publisher.horizon.clone(), health, shutdown.drain_started()),
        ),
    );
    let Parts { store, audit, ledger, admin, publisher, gate, operators, custodian, is_new, registry, .. } = parts;
    let passed_over = parts.passed_over.clone();
    let nodes = gate.nodes();
    let audit_api = AuditApi::new(admin.clone(), store.clone(), Arc::clone(audit));
    let usage = UsageApi::new(admin.clone(), store.clone(), ledger.clone());
    let credential_reports = CredentialReports::new(Arc::clone(&publisher.clock));
    let state = StateApi::new(publisher.clone(), credential_reports.clone(), gate.clone(), shutdown.clone());
    let intake = IntakeApi::new(store.clone(), Arc::clone(audit), admin.clone(), (gate.clone(), passed_over));
    let heard = (publisher.fleet.clone(), registry.clone());
    let node_api = NodeApi::new(admin.clone(), nodes.clone(), heard, publisher.hub.clone());
    let certificates = CertificateApi::new(admin.clone(), gate.clone());
    let others = registry.clone().map(|registry| (store.clone(), registry));
    let receipts = Receipts::new(admin.clone(), publisher.clone(), shutdown.clone(), *is_new, others);
    let enrollment = EnrollmentServiceServer::new(EnrollmentApi::new(admin.clone(), nodes.clone()));
    Ok(Routes::new(Brief::new(reflection.max_decoding_message_size(MAX_FROM_STRANGERS)))
        .add_service(Brief::new(health_service.max_decoding_message_size(MAX_FROM_STRANGERS)))
        .add_service(operators.guard(WorkspaceServiceServer::new(WorkspaceApi::new(admin.clone()))))
        .add_service(operators.guard(OperatorServiceServer::new(OperatorApi::new(admin.clone()))))
        .add_service(operators.guard(KeyServiceServer::new(KeyApi::new(admin.clone(), receipts, ledger.clone()))))
        .add_service(operators.guard(CredentialServiceServer::new(CredentialApi::new(
            admin.clone(),
            credential_reports,
            custodian.clone(),
        ))))
        .add_service(operators.guard(VaultServiceServer::new(VaultApi::new(admin.clone(), custodian.clone()))))
        .add_service(operators.guard(ModelServiceServer::new(ModelApi::new(admin.clone()))))
        .add_service(operators.guard(AuditServiceServer::new(audit_api)))
        .add_service(operators.guard(UsageServiceServer::new(usage)))
        .add_service(operators.guard(AdminNodeServiceServer::new(node_api)))
        .add_service(Brief::new(enrollment.max_decoding_message_size(MAX_FROM_STRANGERS)))
        .add_service(gate.guard(NodeServiceServer::new(certificates)))
        .add_service(gate.guard(StateServiceServer::new(state)))
        .add_service(gate.guard(GrantServiceServer::new(GrantApi::new(ledger.clone(), gate.clone()))))
        .add_service(gate.guard(AuditIntakeServiceServer::new(intake)))
        .prepare())
}
