//! The composition root of a node: the only file that names concrete parts. It builds them in order and takes them down in reverse.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::redis::RedisStartError;
use keyforge_counters::{Cooldowns, Counters, MemoryCounters, RedisCounters};
use keyforge_runtime::accept::{self, AcceptOptions, BindError};
use keyforge_runtime::ops::Ops;
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_runtime::readiness::{Readiness, ReadinessCheck};
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::telemetry::Telemetry;
use keyforge_runtime::tls::reload::ReloadingCertificate;
use keyforge_runtime::tls::{self, TlsError};
use keyforge_shared::clock::Clock;
use keyforge_shared::fleet_seal::BootKey;
use keyforge_shared::id::{BootId, DeploymentId, NodeId};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::audit::{self, GrpcSink, Identity, Shipper, Spool, SpoolError, SpoolLimits};
use crate::config::{Config, CounterConfig};
use crate::control::ControlChannel;
use crate::front::Front;
use crate::grants::Grants;
use crate::grants::raises::RaiseEnds;
use crate::grants::returns::Returns;
use crate::identity::admission::{Admission, AdmissionError};
use crate::leases::Leases;
use crate::ledger::Ledger;
use crate::memberships::Memberships;
use crate::memberships::leaving::Leaving;
use crate::metrics::Metrics;
use crate::plane::Plane;
use crate::pool::Pools;
use crate::replica::Replica;
use crate::replica::follow::Follower;
use crate::replica::key_followers::KeyFollowers;
use crate::replica::last_good::LastGood;
use crate::replica::orders::Watcher;
use crate::request::refuse::Refusals;
use crate::settlements::Settlements;
use crate::upstream::Upstream;

/// How long a stopping node tries to ship its last records before it leaves them to its next start, and to tell the counter store how the last
/// requests ended.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// How often the files of the agents' certificate are looked at.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(5);

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] PrivateFileError),
    /// Its spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no way to the control plane.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The counter store cannot be used.
    #[error(transparent)]
    Counters(#[from] RedisStartError),
    /// No randomness for the name of this life.
    #[error("the operating system has no randomness: {0}")]
    Random(String),
}

/// A running node.
pub struct DataPlane {
    agents: SocketAddr,
    shutdown: Shutdown,
    drain: Duration,
    spool: watch::Receiver<Option<Spool>>,
    settlements: Settlements,
}

impl DataPlane {
    /// Starts a node. Its listener is bound when this returns; it answers 503 until the control plane has sent its state.
    ///
    /// # Errors
    /// [`StartError`] for everything that no waiting would mend.
    pub async fn start(
        mut config: Config,
        shutdown: Shutdown,
        telemetry: &Telemetry,
        clock: Arc<dyn Clock>,
        readiness: Readiness,
    ) -> Result<Self, StartError> {
        private_file::private_dir(&config.data_dir)?;
        let boot = BootId::generate().map_err(|error| StartError::Random(error.to_string()))?;
        let boot_key = BootKey::generate().map_err(|error| StartError::Random(error.to_string()))?;
        let metrics = Metrics::new(&telemetry.meter());
        let Admission { node, channel, token, state_secret } = Admission::of(&config, &metrics, &clock, &shutdown)?;
        let listener = accept::bind(config.agents)?;
        let agents = listener.local_addr().unwrap_or(config.agents);
        // Before anybody can ask: what has not begun is not ready.
        let state = readiness.check("state");
        if let Some(address) = config.ops {
            let text = telemetry.clone();
            Ops::new(move || text.prometheus_text(), readiness.clone()).start(accept::bind(address)?, &shutdown);
        }
        let options = accept_options(&config, &metrics, &shutdown)?;
        let replica = Arc::new(Replica::default());
        let last_good = LastGood::new(&config.data_dir, state_secret, node);
        let loading = last_good.clone();
        if let Ok(Some((deployment, state))) = tokio::task::spawn_blocking(move || loading.load()).await {
            tracing::info!(revision = state.revision(), "the state of the last run was found");
            replica.restore(deployment, state);
        }
        drop(shutdown.spawn("last_good", last_good.keep(Arc::clone(&replica), shutdown.clone())));
        let ledger = Ledger::new(channel.clone(), boot, shutdown.clone());
        let counters = std::mem::take(&mut config.counters);
        let store_patience = counters.patience();
        let counting = Counting::start(counters, &ledger, &metrics, Arc::clone(&clock), &shutdown).await?;
        let returns = Returns::start(counting.grants.clone());
        let (memberships, settlements) = (counting.memberships.clone(), counting.settlements.clone());
        RaiseEnds::new(&replica, &memberships, &returns, &clock).start(&shutdown);
        let keys = Arc::new(KeyFollowers::new(Arc::clone(&replica), memberships, returns, settlements.clone()));
        let watcher = Watcher {
            replica: Arc::clone(&replica),
            followers: Arc::clone(&keys),
            channel: channel.urgent(),
            node,
            boot,
            clock: Arc::clone(&clock),
            metrics: metrics.clone(),
        };
        drop(shutdown.spawn_critical_background("orders", watcher.run(shutdown.clone())));
        let follower = Follower {
            replica: Arc::clone(&replica),
            channel: channel.clone(),
            node,
            boot,
            region: config.region.clone(),
            clock: Arc::clone(&clock),
            seal_key: boot_key,
            token,
            metrics: metrics.clone(),
        };
        drop(shutdown.spawn_critical_background("state_stream", follower.run(keys, shutdown.clone())));

        let front = Front::new(Arc::clone(&clock), readiness.clone());
        let for_connections = front.clone();
        let serve =
            accept::serve_with(listener, options, move |peer| for_connections.for_peer(peer.address), shutdown.clone());
        drop(shutdown.spawn_critical("accept", serve));

        let (opened, spool) = watch::channel(None);
        let rest = Rest {
            upstream: Upstream::new(&config)?,
            metrics,
            state,
            drain: config.drain,
            config,
            clock,
            replica,
            counting,
            store_patience,
            ledger,
            channel,
            identity: (node, boot),
            shutdown: shutdown.clone(),
            readiness,
            front,
            opened,
        };
        let drain = rest.drain;
        drop(shutdown.spawn_background("begin", rest.begin()));
        Ok(Self { agents, shutdown, drain, spool, settlements })
    }

    /// Where agents connect.
    #[must_use]
    pub const fn agents(&self) -> SocketAddr {
        self.agents
    }

    /// Waits for the drain to begin, then for what is running, then for the last records to be shipped and the counter store to be told
    /// of the last ends.
    pub async fn drained(self) -> Drained {
        let drained = self.shutdown.drained(self.drain).await;
        let spool = self.spool.borrow().clone();
        let ship = async {
            if let Some(spool) = spool {
                // What cannot be shipped now stays on disk, which the spool has said in the log.
                let _left = spool.close(LAST_RECORDS).await;
            }
        };
        let ((), told) = tokio::join!(ship, tokio::time::timeout(LAST_RECORDS, self.settlements.all_told()));
        if told.is_err() {
            let left = self.settlements.waiting();
            tracing::warn!(
                left,
                "the counter store was not told how the last requests ended: their holds expire by themselves"
            );
        }
        drained
    }
}

fn accept_options(config: &Config, metrics: &Metrics, shutdown: &Shutdown) -> Result<AcceptOptions, StartError> {
    let tls = match &config.tls {
        Some((certificates, key)) => {
            let certificate = ReloadingCertificate::load(certificates, key)?;
            let metrics = metrics.clone();
            certificate.watch(CERTIFICATE_LOOK, move |ended| metrics.certificate_reloaded(ended.is_ok()), shutdown);
            Some(TlsAcceptor::from(tls::server_config(certificate)?))
        }
        None => None,
    };
    Ok(AcceptOptions {
        tls,
        header_read_timeout: config.limits.header_time,
        max_connections: config.limits.connections,
        ..AcceptOptions::default()
    })
}

/// What decides about limits, and what keeps it going.
struct Counting {
    counters: Arc<Counters>,
    store_up: watch::Receiver<bool>,
    memberships: Memberships,
    grants: Grants,
    settlements: Settlements,
    leases: Leases,
}

impl Counting {
    async fn start(
        config: CounterConfig,
        ledger: &Ledger,
        metrics: &Metrics,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let (counters, store_up) = counter_store(config, Arc::clone(&clock), shutdown).await?;
        drop(shutdown.spawn_background("counter_store", show_availability(store_up.clone(), metrics.clone())));
        let memberships = Memberships::new(Arc::clone(&clock));
        let shared = (Arc::clone(&counters), memberships.clone());
        let grants = Grants::new(ledger.clone(), shared.0, shared.1, clock, shutdown.clone());
        let settlements = Settlements::start(Arc::clone(&counters), metrics.clone(), shutdown);
        let leases = Leases::start(Arc::clone(&counters), shutdown);
        Ok(Self { counters, store_up, memberships, grants, settlements, leases })
    }
}

async fn counter_store(
    config: CounterConfig,
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Result<(Arc<Counters>, watch::Receiver<bool>), StartError> {
    match config {
        CounterConfig::Memory => {
            let always = watch::Sender::new(true).subscribe();
            Ok((Arc::new(Counters::Memory(MemoryCounters::new(clock))), always))
        }
        CounterConfig::Redis(settings) => {
            let redis = RedisCounters::start(settings, shutdown).await?;
            let up = redis.availability();
            Ok((Arc::new(Counters::Redis(redis)), up))
        }
    }
}

/// Shows in the metrics whether the counter store can be reached; its log line is the store's own. The node stays ready meanwhile: keys without
/// limits work.
async fn show_availability(mut up: watch::Receiver<bool>, metrics: Metrics) {
    loop {
        let now = *up.borrow_and_update();
        metrics.counter_store(now);
        // A store in this process never changes.
        if up.changed().await.is_err() {
            return;
        }
    }
}

/// What is built once the control plane has said which installation this is.
struct Rest {
    config: Config,
    drain: Duration,
    clock: Arc<dyn Clock>,
    replica: Arc<Replica>,
    counting: Counting,
    store_patience: Duration,
    ledger: Ledger,
    channel: ControlChannel,
    identity: (NodeId, BootId),
    upstream: Upstream,
    metrics: Metrics,
    shutdown: Shutdown,
    readiness: Readiness,
    state: ReadinessCheck,
    front: Front,
    opened: watch::Sender<Option<Spool>>,
}

impl Rest {
    async fn begin(self) {
        self.state.set_not_ready("no state from the control plane yet");
        let mut deployment = self.replica.deployment();
        let known = async { deployment.wait_for(Option::is_some).await.ok().and_then(|found| *found) };
        let mut known = std::pin::pin!(known);
        let found = tokio::select! {
            found = &mut known => found,
            () = self.tell_ahead() => known.await,
        };
        let Some(deployment) = found else { return };
        let (state, shutdown) = (self.state.clone(), self.shutdown.clone());
        let (mut attached, mut known) = (self.replica.attached(), self.replica.freshness.known());
        // Opening the spool reads what earlier lives left on disk.
        let opened = tokio::task::spawn_blocking(move || self.open(deployment)).await;
        let failure = match opened {
            Ok(Ok(())) => {
                if !*attached.borrow() {
                    state.set_not_ready("the state of the last run, and no word from the control plane yet");
                }
                let is_attached = attached.wait_for(|attached| *attached).await.is_ok();
                if is_attached && known.wait_for(|known| *known).await.is_ok() {
                    state.set_ready();
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(error = failure, "the node cannot serve");
        state.set_not_ready(failure);
        shutdown.trigger();
    }

    /// What earlier lives held in a counter store that outlived them does not wait for the control plane.
    async fn tell_ahead(&self) {
        if !self.counting.settlements.are_told_at_once() {
            audit::tell_ahead(&self.spool_directory(), self.identity, &self.counting.counters).await;
        }
    }

    fn spool_directory(&self) -> PathBuf {
        self.config.data_dir.join("spool")
    }

    /// Opens the spool, begins shipping and recovering, and opens the front.
    fn open(self, deployment: DeploymentId) -> Result<(), SpoolError> {
        let (node, boot) = self.identity;
        let identity = Identity { deployment, node, boot };
        let limits = SpoolLimits { max_bytes: self.config.spool_bytes, ..SpoolLimits::default() };
        let directory = self.spool_directory();
        let (spool, leftovers) = Spool::open(&directory, limits, identity, Arc::clone(&self.clock))?;
        let counting = self.counting;
        let leaving = Leaving {
            memberships: counting.memberships.clone(),
            grants: counting.grants.clone(),
            counters: Arc::clone(&counting.counters),
            ledger: self.ledger,
            spool: spool.clone(),
        };
        drop(self.shutdown.spawn_background("leave_epochs", leaving.run()));
        let cooldowns = Cooldowns::beside(&counting.counters, Arc::clone(&self.clock));
        let (replica, clock) = (Arc::clone(&self.replica), Arc::clone(&self.clock));
        let pools = Pools::start(cooldowns, replica, clock, self.metrics.clone(), &self.shutdown);
        pools.report(self.channel.clone(), self.identity, &self.shutdown);
        let sink = Arc::new(GrpcSink::new(self.channel));
        drop(Shipper::new(spool.clone(), Arc::clone(&sink)).spawn(&self.shutdown));
        let settlements = &counting.settlements;
        settlements.mark_in(spool.marks());
        let outlives = !settlements.are_told_at_once();
        let told = audit::Told { sink, counters: outlives.then(|| Arc::clone(&counting.counters)) };
        let recovery = audit::recover(leftovers, told, Arc::clone(&self.clock), self.shutdown.clone());
        drop(self.shutdown.spawn_background("recover", recovery));
        self.opened.send_replace(Some(spool.clone()));
        let room = usize::try_from(self.config.limits.buffered_bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        self.front.open(Arc::new(Plane {
            clock: self.clock,
            identity,
            replica: self.replica,
            counters: counting.counters,
            store_up: counting.store_up,
            store_patience: self.store_patience,
            grants: counting.grants,
            memberships: counting.memberships,
            settlements: counting.settlements,
            leases: counting.leases,
            spool,
            pools,
            upstream: self.upstream,
            metrics: self.metrics,
            refusals: Refusals::default(),
            limits: self.config.limits,
            times: self.config.upstream,
            body_room: Arc::new(Semaphore::new(room)),
            body_digests: self.config.body_digests,
            trusted_proxies: self.config.trusted_proxies,
            shutdown: self.shutdown,
            readiness: self.readiness,
        }));
        Ok(())
    }
}
