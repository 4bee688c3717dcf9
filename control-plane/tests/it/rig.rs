//! The books of a control plane without its network: a store on disk, a clock that stands still, chains, ledger and intake.

use std::sync::Arc;

use keyforge_control_plane::audit::Audit;
use keyforge_control_plane::audit::intake::{Batch, Intake, IntakeError, Taken};
use keyforge_control_plane::audit::verify::{Selection, Verdict, Verification};
use keyforge_control_plane::ledger::{Acquire, Grant, Granted, Ledger, LedgerError, Want};
use keyforge_control_plane::store::Store;
use keyforge_control_plane::store::keys::{self, StoredKey};
use keyforge_control_plane::store::limit_changes::{self, Owner};
use keyforge_control_plane::store::workspaces::{self, StoredWorkspace};
use keyforge_shared::audit::request::{Flags, Outcome, RequestRecord};
use keyforge_shared::clock::{Clock, ManualClock, Timestamp};
use keyforge_shared::id::{BootId, ChainId, CredentialId, DeploymentId, KeyId, LifeId, NodeId, RequestId, WorkspaceId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, CivilDay, Window};
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::{Policy, RequestLimit, SpendLimit};
use keyforge_shared::secret::Key256;
use keyforge_shared::state::{KeyRecord, KeyStatus, WorkspaceRecord};
use keyforge_shared::token::TokenDigest;

use crate::stores;

pub const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 16]);
pub const ADMIN_CHAIN: ChainId = ChainId::from_bytes([0xad; 16]);
pub const NODE: NodeId = NodeId::from_bytes([2; 16]);
/// The workspace of keys for which none is named; it has no limits.
pub const HOME: WorkspaceId = WorkspaceId::from_bytes([0xd0; 16]);
/// 2026-11-22T06:00:00Z, a Sunday.
pub const START: Timestamp = Timestamp::from_millis(1_795_327_200_000);

pub struct Rig {
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub audit: Arc<Audit>,
    pub ledger: Ledger,
    pub intake: Intake,
    pub directory: tempfile::TempDir,
}

#[derive(Clone, Copy)]
pub struct Key {
    pub id: KeyId,
    pub chain: ChainId,
}

impl Drop for Rig {
    fn drop(&mut self) {
        stores::forget(self.directory.path());
    }
}

impl Rig {
    pub async fn new() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    /// The same, with a directory that may say which database is to be used.
    pub async fn start_in(directory: tempfile::TempDir) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let database = stores::database_of(directory.path());
        let data = directory.path().join("data");
        let store = Store::open_configured(&data, database.as_ref(), clock.clone()).await.unwrap();
        drop(stores::connect(directory.path()).await);
        let audit = Arc::new(Audit::new(Key256::new([7; 32]), DEPLOYMENT, ADMIN_CHAIN, clock.clone()));
        let mut tx = store.write().await.unwrap();
        audit.create_chain(&mut tx, ADMIN_CHAIN, None, [0; 32]).await.unwrap();
        tx.commit().await.unwrap();
        let rig = Self {
            ledger: Ledger::new(store.clone(), clock.clone()),
            intake: Intake::new(store.clone(), audit.clone()),
            store,
            clock,
            audit,
            directory,
        };
        rig.workspace(HOME, "default", &Policy::default()).await;
        rig
    }

    /// Creates a workspace with the limits per period of `limits`.
    pub async fn workspace(&self, id: WorkspaceId, name: &str, limits: &Policy) {
        let record = WorkspaceRecord {
            id,
            name: name.to_owned(),
            request_limits: limits.request_limits.clone(),
            spend_limits: limits.spend_limits.clone(),
            plan: Plan::Unlimited,
        };
        let workspace = StoredWorkspace { record, created_at: self.clock.now(), revision: 1 };
        let mut tx = self.store.write().await.unwrap();
        workspaces::insert(&mut tx, &workspace).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Changes a workspace's limits as an operator would.
    pub async fn change_workspace(&self, id: WorkspaceId, limits: &Policy) {
        let mut tx = self.store.write().await.unwrap();
        let mut stored = workspaces::get(&mut tx, id).await.unwrap().unwrap();
        stored.record.request_limits.clone_from(&limits.request_limits);
        stored.record.spend_limits.clone_from(&limits.spend_limits);
        workspaces::update(&mut tx, &stored).await.unwrap();
        limit_changes::note(&mut tx, Owner::Workspace(id), self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Creates the `n`th virtual key.
    pub async fn key(&self, n: u8, policy: Policy) -> Key {
        self.key_in(HOME, n, policy).await
    }

    /// Creates the `n`th virtual key, in a workspace.
    pub async fn key_in(&self, workspace: WorkspaceId, n: u8, policy: Policy) -> Key {
        let id = KeyId::from_ascii(format!("key{n:09}").as_bytes()).unwrap();
        let chain = ChainId::from_bytes([n; 16]);
        let record = KeyRecord {
            id,
            digest: TokenDigest([n; 32]),
            name: format!("key {n}"),
            status: KeyStatus::Active,
            status_revision: 0,
            policy: std::sync::Arc::new(policy),
            chain,
            workspace,
            former: None,
        };
        let key = StoredKey {
            record,
            created_at: self.clock.now(),
            revoked_at: None,
            revision: 1,
            labels: Default::default(),
        };
        let mut tx = self.store.write().await.unwrap();
        keys::insert(&mut tx, &key).await.unwrap();
        self.audit.create_chain(&mut tx, chain, Some(id), [n; 32]).await.unwrap();
        tx.commit().await.unwrap();
        Key { id, chain }
    }

    /// Changes a key's policy or status as an operator would.
    pub async fn change(&self, key: Key, change: impl FnOnce(&mut KeyRecord)) {
        let mut tx = self.store.write().await.unwrap();
        let mut stored = keys::get(&mut tx, key.id).await.unwrap().unwrap();
        change(&mut stored.record);
        keys::update(&mut tx, &stored).await.unwrap();
        limit_changes::note(&mut tx, Owner::Key(key.id), self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A settled request of `key`, reserved now.
    pub fn record(&self, key: Key, boot: BootId, node_seq: u64, epoch: u32, cost: u64) -> RequestRecord {
        let mut request = [0x11; 16];
        request[8..].copy_from_slice(&node_seq.to_be_bytes());
        RequestRecord {
            deployment: DEPLOYMENT,
            chain: key.chain,
            outcome: Outcome::Completed,
            node: NODE,
            boot,
            node_seq,
            request: RequestId::from_bytes(request),
            attempt: 1,
            period: self.today().number(),
            quota_epoch: epoch,
            t_node: self.clock.now(),
            t_mono_ns: 1,
            model: "gpt-5-mini".to_owned(),
            credential: CredentialId::from_bytes([3; 16]),
            status: 200,
            input_tokens: 10,
            output_tokens: 20,
            cache_read_tokens: 3,
            cache_write_tokens: 4,
            cost: NanoUsd::new(cost),
            bound: NanoUsd::new(cost),
            flags: Flags::USAGE_KNOWN,
            request_digest: [5; 32],
            response_digest: [6; 32],
            private: Vec::new(),
        }
    }

    /// The present day in UTC.
    pub fn today(&self) -> CivilDay {
        Calendar::utc().day_at(self.clock.now())
    }

    /// A counter of `key`'s own limit in the present period of UTC.
    pub fn counter(&self, key: Key, dimension: Dimension, window: Window) -> CounterId {
        CounterId { key: key.id, scope: Scope::Key, dimension, window, first_day: window.first_day(self.today()) }
    }

    pub async fn ship(&self, boot: BootId, records: &[RequestRecord]) -> Result<u64, IntakeError> {
        self.ship_taken(boot, records, false).await.map(|taken| taken.watermark)
    }

    /// The same, with all that became of it. With `earlier_gone`, the node has nothing from before the first record.
    pub async fn ship_taken(
        &self,
        boot: BootId,
        records: &[RequestRecord],
        earlier_gone: bool,
    ) -> Result<Taken, IntakeError> {
        let first_seq = records.first().map_or(1, |record| record.node_seq);
        let records = records.iter().map(RequestRecord::encode).collect();
        self.intake.ship(Batch { earlier_gone, ..batch((NODE, boot), first_seq, records) }).await
    }

    pub async fn verify(&self, selection: Selection) -> Vec<Verdict> {
        let mut verification = Verification::new(self.store.clone(), self.audit.clone(), selection);
        let mut verdicts = Vec::new();
        while let Some(verdict) = verification.next().await.unwrap() {
            verdicts.push(verdict);
        }
        verdicts
    }

    /// The verdicts of chains that do not hold.
    pub async fn faults(&self) -> Vec<Verdict> {
        let verdicts = self.verify(Selection::All).await;
        verdicts.into_iter().filter(|verdict| verdict.first_bad_seq.is_some() || !verdict.fault.is_empty()).collect()
    }

    /// Runs SQL as somebody would who has the database file and not the audit root key.
    pub async fn tamper(&self, sql: &'static str) -> u64 {
        let mut tx = self.store.write().await.unwrap();
        let touched = stores::tamper(&mut tx, sql).await;
        tx.commit().await.unwrap();
        touched
    }
}

/// Records of a life that keeps all of them.
pub fn batch((node, boot): (NodeId, BootId), first_seq: u64, records: Vec<Vec<u8>>) -> Batch {
    Batch { node, boot, first_seq, earlier_gone: false, records }
}

pub fn boot(n: u8) -> BootId {
    BootId::from_bytes([n; 16])
}

pub fn life(n: u8) -> LifeId {
    LifeId::from_bytes([0x40 + n; 16])
}

pub fn requests_per(window: Window, requests: u64) -> Policy {
    Policy { request_limits: vec![RequestLimit { requests, window }], ..Policy::default() }
}

pub fn spend_per(window: Window, nanos: u64) -> Policy {
    Policy { spend_limits: vec![SpendLimit { amount: NanoUsd::new(nanos), window }], ..Policy::default() }
}

pub fn ask(boot_number: u8, life_number: u8, counter: CounterId, amount: u64) -> Acquire {
    let wants = vec![Want { counter, amount }];
    Acquire { boot: boot(boot_number), life: life(life_number), key: counter.key, wants }
}

/// The `n`th boot asks for the `n`th life.
pub async fn acquire(rig: &Rig, n: u8, counter: CounterId, amount: u64) -> Result<Granted, LedgerError> {
    rig.ledger.acquire(&ask(n, n, counter, amount)).await
}

/// Granted to the life, spent elsewhere, and what is available beside that.
pub fn told(granted: &Granted) -> (u64, u64, u64) {
    let Grant { granted, elsewhere, available, .. } = granted.grants[0];
    (granted, elsewhere, available)
}
