//! A node without its ports, and a ledger of a few lines, for the tests of this crate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::{Cooldowns, Counters, MemoryCooldowns, MemoryCounters};
use keyforge_proto::convert;
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::grant_service_server::{GrantService, GrantServiceServer};
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::catalog::{Model, Operation, Prices, ProviderName, Rates};
use keyforge_shared::clock::{Clock, ManualClock, Timestamp};
use keyforge_shared::id::{BootId, ChainId, DeploymentId, KeyId, LifeId, NodeId, WorkspaceId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::{NanoUsd, PicoUsdPerToken};
use keyforge_shared::network::Networks;
use keyforge_shared::period::{Calendar, Window};
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::{Policy, RequestLimit, SpendLimit};
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{Change, KeyRecord, KeyStatus, Resource, State, WorkspaceRecord};
use keyforge_shared::token::TokenDigest;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status, async_trait};

use crate::audit::{Identity, Spool, SpoolLimits};
use crate::config::{Config, Limits, UpstreamTimes};
use crate::control::ControlChannel;
use crate::grants::Grants;
use crate::leases::Leases;
use crate::ledger::Ledger;
use crate::memberships::Memberships;
use crate::metrics::Metrics;
use crate::plane::Plane;
use crate::pool::Pools;
use crate::replica::Replica;
use crate::replica::freshness::Moment;
use crate::request::refuse::Refusals;
use crate::settlements::Settlements;
use crate::upstream::Upstream;

/// 2026-11-22T10:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_795_341_600_000);

/// What tests see and change of the ledger.
#[derive(Default)]
pub(crate) struct LedgerState {
    /// By scope, dimension and window.
    pub limits: BTreeMap<(Scope, Dimension, Window), u64>,
    /// Grants are at most this, beyond what is needed nothing.
    pub slice: u64,
    pub epochs: BTreeMap<(KeyId, LifeId), Epoch>,
    pub granted: BTreeMap<(CounterId, u32), u64>,
    /// Last record that is chained, of any boot.
    pub chained: u64,
    /// Calls fail.
    pub down: bool,
    /// Calls wait, as those of a process that was stopped.
    pub hangs: bool,
    /// Calls that came.
    pub calls: usize,
    /// Answers grant nothing and say that there is more.
    pub teasing: bool,
    /// How long questions for grants wait.
    pub slow: Duration,
    /// So many answers are lost.
    pub lose: usize,
    pub acquired: usize,
    pub returned: Vec<KeyId>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch {
    pub number: u32,
    pub closed: bool,
    serial: u64,
    /// Of the latest answer that was asked for something.
    granted_serial: u64,
    pub members: BTreeMap<BootId, u64>,
}

/// A ledger that grants by the rules of the real one, and keeps nothing.
#[derive(Default)]
pub(crate) struct FakeLedger(pub Mutex<LedgerState>);

impl LedgerState {
    /// What counts against the limit of a counter outside of one epoch of one key: all of it, and what may come back.
    fn elsewhere(&self, counter: &CounterId, epoch: u32) -> (u64, u64) {
        let same = |other: &CounterId| match counter.scope {
            Scope::Key => other == counter,
            Scope::Workspace => CounterId { key: counter.key, ..*other } == *counter,
        };
        let others = self.granted.iter().filter(|((other, of), _)| same(other) && !(other == counter && *of == epoch));
        let open = |counter: &CounterId, number: u32| {
            self.epochs.iter().any(|((key, _), epoch)| *key == counter.key && epoch.number == number && !epoch.closed)
        };
        others.fold((0, 0), |(all, back), ((other, of), granted)| {
            (all + granted, back + if open(other, *of) { *granted } else { 0 })
        })
    }

    fn acquire(&mut self, request: &proto::AcquireGrantsRequest) -> Result<proto::AcquireGrantsResponse, Status> {
        self.acquired += 1;
        let key: KeyId = request.key_id.parse().unwrap();
        let life = LifeId::from_slice(&request.life_id).unwrap();
        let next = 1 + self.epochs.keys().filter(|(of, _)| *of == key).count();
        let new = Epoch { number: u32::try_from(next).unwrap(), ..Epoch::default() };
        let epoch = self.epochs.entry((key, life)).or_insert(new);
        if epoch.closed {
            return Err(Status::aborted("over"));
        }
        epoch.serial += 1;
        let (number, serial) = (epoch.number, epoch.serial);
        if !request.wants.is_empty() {
            epoch.granted_serial = serial;
        }
        epoch.members.insert(BootId::from_slice(&request.boot_id).unwrap(), serial);
        let (mut grants, mut holders) = (Vec::new(), Vec::new());
        for want in &request.wants {
            let counter = convert::counter_id(key, want.counter.as_ref().unwrap()).unwrap();
            let grant = self.grant(counter, number, want.amount)?;
            if grant.available == 0 && counter.scope == Scope::Workspace {
                holders.extend(self.holders(&counter));
            }
            grants.push(grant);
        }
        Ok(proto::AcquireGrantsResponse { epoch: number, serial, grants, holders })
    }

    fn grant(&mut self, counter: CounterId, epoch: u32, amount: u64) -> Result<proto::Grant, Status> {
        let name = (counter.scope, counter.dimension, counter.window);
        let limit = *self.limits.get(&name).ok_or_else(|| Status::failed_precondition("no such limit"))?;
        let (elsewhere, unsettled) = self.elsewhere(&counter, epoch);
        let granted = self.granted.entry((counter, epoch)).or_default();
        let spendable = limit.saturating_sub(elsewhere).saturating_sub(*granted);
        let slice = if self.teasing { 0 } else { spendable.min(amount.max(self.slice)) };
        *granted += slice;
        let period = Calendar::utc().period(counter.window, counter.first_day);
        Ok(proto::Grant {
            counter: Some(counter.into()),
            period_start_ms: period.start.millis(),
            period_end_ms: period.end.millis(),
            granted: *granted,
            limit,
            available: spendable - slice,
            elsewhere,
            unsettled,
        })
    }

    fn holders(&self, counter: &CounterId) -> Vec<proto::Holder> {
        let others = self.epochs.iter().filter(|((key, _), epoch)| *key != counter.key && !epoch.closed);
        let held = others.filter_map(|((key, life), epoch)| {
            let granted = *self.granted.get(&(CounterId { key: *key, ..*counter }, epoch.number))?;
            let life_id = life.as_bytes().to_vec();
            Some(proto::Holder { key_id: key.to_string(), life_id, epoch: epoch.number, unsettled: granted })
        });
        held.filter(|holder| holder.unsettled > 0).collect()
    }

    fn give_back(&mut self, request: &proto::ReturnGrantsRequest) -> Result<(), Status> {
        let key: KeyId = request.key_id.parse().unwrap();
        let epoch = self.epochs.get_mut(&(key, LifeId::from_slice(&request.life_id).unwrap())).unwrap();
        if !(epoch.granted_serial..=epoch.serial).contains(&request.serial) {
            return Err(Status::failed_precondition("overtaken"));
        }
        epoch.serial += 1;
        let number = epoch.number;
        for holding in &request.holdings {
            let counter = convert::counter_id(key, holding.counter.as_ref().unwrap()).unwrap();
            let granted = self.granted.entry((counter, number)).or_default();
            *granted = holding.granted.min(*granted);
        }
        self.returned.push(key);
        Ok(())
    }

    fn leave(&mut self, request: &proto::LeaveEpochsRequest) -> Result<u64, Status> {
        if self.chained < request.last_seq {
            return Err(Status::failed_precondition("not shipped"));
        }
        let boot = BootId::from_slice(&request.boot_id).unwrap();
        let mut closed = 0;
        for left in &request.memberships {
            let key: KeyId = left.key_id.parse().unwrap();
            let mut epochs = self.epochs.iter_mut();
            let Some((_, epoch)) = epochs.find(|((of, _), epoch)| *of == key && epoch.number == left.epoch) else {
                continue;
            };
            if epoch.members.get(&boot).is_some_and(|serial| *serial <= left.serial) {
                epoch.members.remove(&boot);
            }
            epoch.closed |= epoch.members.is_empty();
            closed += u64::from(epoch.closed);
        }
        Ok(closed)
    }
}

impl FakeLedger {
    async fn call<T>(
        &self,
        act: impl FnOnce(&mut LedgerState) -> Result<T, Status> + Send,
    ) -> Result<Response<T>, Status> {
        self.0.lock().calls += 1;
        while self.0.lock().hangs {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = self.0.lock();
        if state.down {
            return Err(Status::unavailable("down"));
        }
        let answer = act(&mut state)?;
        if state.lose > 0 {
            state.lose -= 1;
            return Err(Status::unavailable("lost"));
        }
        Ok(Response::new(answer))
    }

    /// Serves it, and gives its URL.
    pub async fn serve(self: &Arc<Self>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(GrantServiceServer::new(Served(Arc::clone(self))))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        drop(Shutdown::new().spawn_background("ledger", server));
        url
    }

    /// Epochs that are open, with this boot as a member.
    pub fn memberships(&self, boot: BootId) -> usize {
        let state = self.0.lock();
        state.epochs.values().filter(|epoch| !epoch.closed && epoch.members.contains_key(&boot)).count()
    }
}

struct Served(Arc<FakeLedger>);

#[async_trait]
impl GrantService for Served {
    async fn acquire_grants(
        &self,
        request: Request<proto::AcquireGrantsRequest>,
    ) -> Result<Response<proto::AcquireGrantsResponse>, Status> {
        let slow = self.0.0.lock().slow;
        tokio::time::sleep(slow).await;
        self.0.call(|state| state.acquire(request.get_ref())).await
    }

    async fn return_grants(
        &self,
        request: Request<proto::ReturnGrantsRequest>,
    ) -> Result<Response<proto::ReturnGrantsResponse>, Status> {
        self.0.call(|state| state.give_back(request.get_ref()).map(|()| proto::ReturnGrantsResponse {})).await
    }

    async fn leave_epochs(
        &self,
        request: Request<proto::LeaveEpochsRequest>,
    ) -> Result<Response<proto::LeaveEpochsResponse>, Status> {
        let leave = |state: &mut LedgerState| state.leave(request.get_ref());
        self.0.call(|state| leave(state).map(|epochs_closed| proto::LeaveEpochsResponse { epochs_closed })).await
    }

    async fn close_boot(
        &self,
        _: Request<proto::CloseBootRequest>,
    ) -> Result<Response<proto::CloseBootResponse>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
}

/// A node.
pub(crate) struct Node {
    pub plane: Arc<Plane>,
    pub ledger: Ledger,
    pub boot: BootId,
    _directory: tempfile::TempDir,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub url: String,
    pub clock: Arc<dyn Clock>,
    pub counters: Arc<Counters>,
    pub store_up: watch::Receiver<bool>,
    pub store_patience: Duration,
    pub state: Vec<Resource>,
}

impl Parts {
    /// A node of its own, at `clock`.
    pub fn in_memory(url: String, clock: &Arc<ManualClock>, state: Vec<Resource>) -> Self {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let counters = Arc::new(Counters::Memory(MemoryCounters::new(Arc::clone(&clock))));
        let store_up = watch::Sender::new(true).subscribe();
        Self { url, clock, counters, store_up, store_patience: Duration::from_millis(45), state }
    }

    pub fn build(self) -> Node {
        let Self { url, clock, counters, store_up, store_patience, state } = self;
        let directory = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let boot = BootId::generate().unwrap();
        let identity =
            Identity { deployment: DeploymentId::from_bytes([1; 16]), node: NodeId::from_bytes([2; 16]), boot };
        let token = SecretBytes::new(b"kff_test".to_vec());
        let ledger = Ledger::new(ControlChannel::in_the_clear(&url, &token).unwrap(), boot, shutdown.clone());
        let (spool, _) =
            Spool::open(&directory.path().join("spool"), SpoolLimits::default(), identity, Arc::clone(&clock)).unwrap();
        let memberships = Memberships::new(Arc::clone(&clock));
        let shared = (Arc::clone(&counters), memberships.clone());
        let grants = Grants::new(ledger.clone(), shared.0, shared.1, Arc::clone(&clock), shutdown.clone());
        let metrics = Metrics::new(&opentelemetry::global::meter("test"));
        let local = "127.0.0.1:0".parse().unwrap();
        let config = Config::local(directory.path().to_owned(), local, local, SecretBytes::new(b"kff_test".to_vec()));
        let replica = Replica::default();
        let mut held = State::default();
        held.commit(state.into_iter().map(Change::Upsert).collect());
        let hash = held.set_hash();
        replica.replace(identity.deployment, held, hash).unwrap();
        // Tests let hours pass between two requests.
        replica.freshness.set_bound(Duration::MAX);
        replica.freshness.confirm(Moment::now(&*clock));
        let replica = Arc::new(replica);
        let settlements = Settlements::start(Arc::clone(&counters), metrics.clone(), &shutdown);
        settlements.mark_in(spool.marks());
        let (pools_clock, pools_time) = (Arc::clone(&clock), Arc::clone(&clock));
        let plane = Plane {
            clock,
            identity,
            replica: Arc::clone(&replica),
            store_up,
            store_patience,
            grants,
            memberships,
            settlements,
            leases: Leases::start(Arc::clone(&counters), &shutdown),
            counters,
            spool,
            pools: Pools::start(
                Cooldowns::InProcess(MemoryCooldowns::new(pools_clock)),
                replica,
                pools_time,
                metrics.clone(),
                &shutdown,
            ),
            upstream: Upstream::new(&config).unwrap(),
            metrics,
            refusals: Refusals::default(),
            limits: Limits::default(),
            times: UpstreamTimes::default(),
            body_room: Arc::new(Semaphore::new(usize::try_from(config.limits.buffered_bytes).unwrap())),
            body_digests: false,
            trusted_proxies: Networks::default(),
            readiness: Readiness::new(),
            shutdown,
        };
        Node { plane: Arc::new(plane), ledger, boot, _directory: directory }
    }
}

pub(crate) fn key_id(number: u8) -> KeyId {
    KeyId::from_ascii(format!("key{number:09}").as_bytes()).unwrap()
}

/// A key of the workspace.
pub(crate) fn key(number: u8, policy: Policy) -> Resource {
    Resource::Key(Arc::new(KeyRecord {
        id: key_id(number),
        digest: TokenDigest([number; 32]),
        name: "k".to_owned(),
        status: KeyStatus::Active,
        status_revision: 0,
        policy: Arc::new(policy),
        chain: ChainId::from_bytes([number; 16]),
        workspace: WorkspaceId::from_bytes([7; 16]),
        former: None,
    }))
}

/// The workspace.
pub(crate) fn workspace(request_limits: Vec<RequestLimit>, spend_limits: Vec<SpendLimit>) -> Resource {
    let id = WorkspaceId::from_bytes([7; 16]);
    let (name, plan) = ("default".to_owned(), Plan::Unlimited);
    Resource::Workspace(Arc::new(WorkspaceRecord { id, name, request_limits, spend_limits, plan }))
}

/// A dollar for a million tokens in, ten for a million out.
pub(crate) fn model() -> Resource {
    let standard = Rates { input: PicoUsdPerToken(1_000_000), output: PicoUsdPerToken(10_000_000), ..Rates::default() };
    Resource::Model(Arc::new(Model {
        name: "m".to_owned(),
        provider: ProviderName("openai".to_owned()),
        upstream_name: "m".to_owned(),
        operation: Operation::Chat,
        context_tokens: Some(128_000),
        max_output_tokens: Some(1_000),
        prices: Some(Prices { standard, priority: None, flex: None, long_context: Vec::new() }),
        source: "a price list".to_owned(),
        as_of: "2026-11-22".to_owned(),
    }))
}

pub(crate) fn quota(requests: u64) -> Policy {
    Policy { request_limits: vec![RequestLimit { requests, window: Window::Day }], ..Policy::default() }
}

pub(crate) fn cap(nanos: u64) -> Policy {
    Policy { spend_limits: vec![spend(nanos)], ..Policy::default() }
}

pub(crate) fn spend(nanos: u64) -> SpendLimit {
    SpendLimit { amount: NanoUsd::new(nanos), window: Window::Day }
}
