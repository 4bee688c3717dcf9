//! Custody of the vault: which keys it has, whether its secrets can be opened, and its rotation to another key.
//!
//! * [`keys`]: the keys that the configuration names, checked against what they sealed
//! * [`health`]: every secret is tried, at start, every minute, and when somebody asks
//! * [`wraps`]: what a key seals is counted
//! * `rotation`: everything is sealed anew under the current key
//! * [`holders`]: which of several control planes hold which keys
//!
//! Where the keys come from is the configuration's word alone: a rotation reads it again, so that no call ever carries a key or names a file.
//! Which of them seals is the database's, and changes only with a rotation, so that control planes that share it agree.

pub mod health;
pub mod holders;
pub mod keys;
mod rotation;
pub mod wraps;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::id::{CredentialId, KekId};
use serde_json::json;
use tokio::sync::watch;

use crate::admin::deployment::OpenError;
use crate::admin::{AdminError, Caller};
use crate::audit::completeness::NOTHING_CHANGED;
use crate::audit::{AdminAct, Audit};
use crate::config::{Config, VaultConfig};
use crate::nodes::authority::open_key;
use crate::store::sql::Conn;
use crate::store::vault_keys::{self, BegunRotation, KnownKey};
use crate::store::{Store, StoreError, Tx, deployment, locks, nodes, vault_records};
use crate::vault::{Held, MOST_WRAPS, Vault};

use health::{Fault, Findings, Tally};
use holders::{ATTEND_EVERY, Holder};
use keys::{Keys, singles};

/// Name of a rotation's call in the administrators' chain.
pub const ROTATE: &str = "vault/Rotate";
/// How often every secret is tried.
const EXAMINE_EVERY: Duration = Duration::from_mins(1);
/// From so many ciphertexts on the log asks for another key.
const MANY_WRAPS: u64 = MOST_WRAPS / 2;
/// Why a rotation does not run here that is not ended.
const ELSEWHERE: &str =
    "it was begun by another control plane and may go on there; `keyforge vault rotate` runs it here as well";

/// Where the vault keys are configured.
#[derive(Clone, Debug)]
pub struct Configured {
    /// What was configured at the start.
    pub vault: VaultConfig,
    /// The file that says what is configured now, if one does.
    pub file: Option<PathBuf>,
    /// Who holds the keys.
    pub holder: Holder,
}

impl Configured {
    fn now(&self) -> Result<VaultConfig, AdminError> {
        let Some(file) = &self.file else { return Ok(self.vault.clone()) };
        let read = Config::load(file).map_err(|error| AdminError::Precondition(error.to_string()))?;
        Ok(read.0.vault)
    }

    /// When the file was last changed, if it says so.
    fn changed_at(&self) -> Option<SystemTime> {
        std::fs::metadata(self.file.as_ref()?).ok()?.modified().ok()
    }
}

/// How far a rotation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The key that it moves to.
    pub to: KekId,
    /// Secrets under other keys when it was begun.
    pub total: u64,
    /// Of those, sealed anew.
    pub rewrapped: u64,
    /// Of those, not to be opened and left as they are.
    pub unreadable: u64,
    /// Whether it has ended.
    pub done: bool,
    /// Why it was interrupted.
    pub interrupted: Option<String>,
}

impl Progress {
    /// Whether it goes on.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        !self.done && self.interrupted.is_none()
    }
}

/// A vault key and what is sealed under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// The key as the database knows it.
    pub key: KnownKey,
    /// The reference that it was read from; `None` when it is not configured.
    pub source: Option<String>,
    /// Whether it seals what is new.
    pub current: bool,
    /// Whether the configuration wants it to seal what is new, from a rotation on.
    pub wanted: bool,
    /// Secrets under it.
    pub secrets: Tally,
    /// Whether the audit root key or the vault check is under it.
    pub audit_root: bool,
    /// Whether the private key of the nodes' authority is under it.
    pub node_authority: bool,
}

impl KeyStatus {
    /// Whether the key is configured and seals nothing any more.
    #[must_use]
    pub const fn is_retired(&self) -> bool {
        let seals_something = self.audit_root || self.node_authority || self.secrets.secrets > 0;
        self.source.is_some() && !self.current && !self.wanted && !seals_something
    }
}

/// How the vault stands.
#[derive(Debug)]
pub struct Status {
    /// Every key that was ever configured, in the order of its term.
    pub keys: Vec<KeyStatus>,
    /// What was found when every secret was tried.
    pub findings: Findings,
    /// Why the private key of the nodes' authority cannot be opened, if it cannot.
    pub authority_fault: Option<String>,
    /// The last rotation of this process, or one that is unfinished.
    pub rotation: Option<Progress>,
    /// The control planes that share the database, and the terms of the keys that each holds; none when it is not shared.
    pub holders: Vec<holders::Held>,
}

/// Watches over the vault. Clones share it.
#[derive(Clone)]
pub struct Custodian {
    store: Store,
    vault: Arc<Vault>,
    audit: Arc<Audit>,
    configured: Arc<Configured>,
    shutdown: Shutdown,
    progress: watch::Sender<Option<Progress>>,
    /// One rotation is begun at a time.
    beginning: Arc<tokio::sync::Mutex<()>>,
    unreadable: Arc<AtomicU64>,
    /// What the log has named.
    named: Arc<Mutex<BTreeSet<CredentialId>>>,
    /// When the configuration was last changed that was looked at for a key that others hold.
    looked_at: Arc<Mutex<Option<SystemTime>>>,
}

impl Custodian {
    /// Custody of `vault`, whose keys are configured as `configured` says.
    #[must_use]
    pub fn new(store: Store, vault: Arc<Vault>, audit: Arc<Audit>, configured: Configured, shutdown: Shutdown) -> Self {
        Self {
            store,
            vault,
            audit,
            configured: Arc::new(configured),
            shutdown,
            progress: watch::Sender::new(None),
            beginning: Arc::default(),
            unreadable: Arc::default(),
            named: Arc::default(),
            looked_at: Arc::default(),
        }
    }

    /// How many secrets could not be opened when they were last tried.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Why the secrets of some credentials cannot be opened, in their order; `None` for one that can, or that is gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn faults(
        &self,
        credentials: impl Iterator<Item = CredentialId> + Send,
    ) -> Result<Vec<Option<Fault>>, StoreError> {
        let credentials: Vec<_> = credentials.collect();
        let mut read = self.store.read().await?;
        let mut faults = Vec::with_capacity(credentials.len());
        for credential in credentials {
            let kept = vault_records::kept(&mut read, credential).await?;
            faults.push(kept.and_then(|kept| health::open(&self.vault, &kept).err()));
        }
        Ok(faults)
    }

    /// Tries every secret and says how the vault stands.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn status(&self) -> Result<Status, AdminError> {
        let findings = self.examine().await?;
        let mut read = self.store.read().await?;
        let known = vault_keys::all(&mut read).await?;
        let deployment = deployment::get(&mut read).await?.ok_or(StoreError::Corrupt("deployment"))?;
        let authority = nodes::authority(&mut read).await?;
        let begun = vault_keys::rotation(&mut read).await?;
        let left = self.left(&mut read, begun.as_ref().map_or(0, |begun| begun.to_term)).await?;
        let holders = self.configured.holder.all(&mut read, self.store.now()).await?;
        drop(read);
        let terms = singles(&deployment).terms()?;
        let authority_term = authority.as_ref().map(|stored| stored.key.kek_term);
        let authority_fault = authority.and_then(|stored| open_key(&self.vault, &stored).err());
        let authority_fault = authority_fault.map(|error| error.to_string());
        let held = self.vault.keys();
        let status = |key: KnownKey| KeyStatus {
            source: held.of_term(key.term).filter(|held| held.configured).map(|held| held.kek.source().to_string()),
            current: key.seals,
            wanted: held.wanted().term == key.term,
            secrets: findings.by_term.get(&key.term).copied().unwrap_or_default(),
            audit_root: terms.contains(&key.term),
            node_authority: authority_term == Some(key.term),
            key,
        };
        let keys: Vec<_> = known.into_iter().map(status).collect();
        let mine = self.progress.borrow().clone();
        let rotation = match (mine, begun) {
            (Some(mine), None) => Some(mine),
            (Some(mine), Some(_)) if mine.is_running() => Some(mine),
            (mine, Some(begun)) => keys.iter().find(|key| key.key.term == begun.to_term).map(|to| Progress {
                to: to.key.id,
                total: begun.total,
                rewrapped: begun.total.saturating_sub(left),
                unreadable: 0,
                done: false,
                interrupted: Some(mine.and_then(|mine| mine.interrupted).unwrap_or_else(|| ELSEWHERE.to_owned())),
            }),
            (None, None) => None,
        };
        Ok(Status { keys, findings, authority_fault, rotation, holders })
    }

    /// Takes up the keys that the configuration names now and begins a rotation to its current one, or finds one that runs. It goes on whether or
    /// not anybody watches; `None` is never the last that a watcher sees.
    ///
    /// # Errors
    /// [`AdminError::Precondition`] for keys that cannot be read, do not belong here, or are not held by every control plane.
    pub async fn rotate(&self, caller: &Caller) -> Result<watch::Receiver<Option<Progress>>, AdminError> {
        let _turn = self.beginning.lock().await;
        if self.progress.borrow().as_ref().is_some_and(Progress::is_running) {
            let mut tx = self.store.write().await?;
            self.append(&mut tx, caller, self.current(), NOTHING_CHANGED.to_owned()).await?;
            tx.commit().await.map_err(StoreError::from)?;
            return Ok(self.progress.subscribe());
        }
        self.take_up().await?;
        let to = self.vault.keys().wanted().clone();
        let mut tx = self.store.write().await?;
        locks::state(&mut tx).await?;
        self.unless_lacking(&mut tx, &to).await?;
        let total = self.left(&mut tx, to.term).await?;
        let begun = vault_keys::rotation(&mut tx).await?;
        if total == 0 && begun.is_none() && self.deployment_is_under(&mut tx, to.term).await? {
            self.append(&mut tx, caller, to.id, NOTHING_CHANGED.to_owned()).await?;
            vault_keys::let_seal(&mut tx, to.term).await?;
            tx.commit().await.map_err(StoreError::from)?;
            self.vault.seal_with(to.term)?;
            let nothing = Progress { to: to.id, total, rewrapped: 0, unreadable: 0, done: true, interrupted: None };
            return Ok(watch::Sender::new(Some(nothing)).subscribe());
        }
        let operator = caller.operator();
        let begun = BegunRotation { to_term: to.term, operator, total, began_at: self.store.now() };
        vault_keys::let_seal(&mut tx, to.term).await?;
        vault_keys::begin_rotation(&mut tx, &begun).await?;
        let (before, after) = (json!({ "key": self.current() }), json!({ "key": to.id }));
        let detail = json!({ "before": before, "after": after, "secrets": total }).to_string();
        self.append(&mut tx, caller, to.id, detail).await?;
        // To its end although the caller may hang up: what is committed goes on here, not at the next start.
        let this = self.clone();
        let committing = self.shutdown.spawn("vault rotation begins", async move {
            tx.commit().await.map_err(StoreError::from)?;
            this.vault.seal_with(to.term)?;
            Ok(this.begin(to.id, begun, 0))
        });
        committing.await.map_err(|_| AdminError::Interrupted)?
    }

    /// Refuses to let a key seal that another control plane does not hold.
    async fn unless_lacking(&self, conn: &mut Conn, to: &Held) -> Result<(), AdminError> {
        let lacking = self.configured.holder.lacking(conn, to.term, self.store.now()).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        Err(AdminError::Precondition(format!(
            "not every control plane holds the vault key {}: it is missing in {}. Name it there as vault.key, and the key before it in \
             vault.previous, as here; it is taken up within {} seconds without a restart. Then rotate again. Nothing was changed",
            to.id,
            lacking.join(", "),
            ATTEND_EVERY.as_secs()
        )))
    }

    /// How many secrets are under other terms.
    async fn left(&self, conn: &mut Conn, term: u32) -> Result<u64, StoreError> {
        let by_term = vault_records::count_by_term(conn).await?;
        let others = by_term.iter().filter(|(other, _)| *other != term);
        Ok(others.fold(0_u64, |sum, (_, records)| sum.saturating_add(*records)))
    }

    /// Whether everything that stands with the deployment itself is under a term.
    async fn deployment_is_under(&self, conn: &mut Conn, term: u32) -> Result<bool, AdminError> {
        let deployment = deployment::get(conn).await?.ok_or(StoreError::Corrupt("deployment"))?;
        let authority = nodes::authority(conn).await?;
        let is_under = authority.is_none_or(|stored| stored.key.kek_term == term);
        Ok(is_under && singles(&deployment).terms()? == [term; 2])
    }

    /// Goes on with a rotation that a start before this one did not bring to its end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resume(&self) -> Result<(), StoreError> {
        let mut read = self.store.read().await?;
        let Some(begun) = vault_keys::rotation(&mut read).await? else { return Ok(()) };
        let left = self.left(&mut read, begun.to_term).await?;
        drop(read);
        if self.vault.seal_with(begun.to_term).is_err() {
            // It was begun by another control plane since this one has started.
            return Ok(());
        }
        let to = self.vault.keys().current().clone();
        tracing::info!(key = %to.id, left, "the rotation of the vault key goes on");
        let rewrapped = begun.total.saturating_sub(left);
        drop(self.begin(to.id, begun, rewrapped));
        Ok(())
    }

    fn begin(&self, to: KekId, begun: BegunRotation, rewrapped: u64) -> watch::Receiver<Option<Progress>> {
        let total = begun.total;
        let progress = Progress { to, total, rewrapped, unreadable: 0, done: false, interrupted: None };
        self.progress.send_replace(Some(progress));
        let watched = self.progress.subscribe();
        drop(self.shutdown.spawn("vault rotation", self.clone().run(begun)));
        watched
    }

    /// Reads the keys that are configured now, and holds them from now on.
    async fn take_up(&self) -> Result<(), AdminError> {
        let read = Keys::load(&self.configured.now()?, false).await.map_err(refused)?;
        let (keyring, _) = read.open(&self.store, &self.configured.holder).await.map_err(refused)?;
        self.vault.take_up(keyring);
        Ok(())
    }

    /// Tells the other control planes again and again which keys this one holds, and follows what they do.
    pub async fn attend(self) {
        let mut often = tokio::time::interval(ATTEND_EVERY);
        loop {
            often.tick().await;
            if let Err(error) = self.look_around().await {
                tracing::warn!(%error, "the other control planes and this one do not agree on the vault keys");
            }
        }
    }

    /// Says once which keys this control plane holds, and looks which key seals now and whether there is one that is to be taken up.
    ///
    /// # Errors
    /// [`AdminError::Precondition`] when this control plane does not have the key that seals, so that it cannot seal anything.
    pub async fn look_around(&self) -> Result<(), AdminError> {
        let changed_at = self.configured.changed_at();
        let is_changed =
            changed_at.is_some() && *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) != changed_at;
        let known = vault_keys::all(&mut *self.store.read().await?).await?;
        let keys = self.vault.keys();
        if is_changed && known.iter().any(|key| keys.of_term(key.term).is_none()) {
            // Another control plane holds a key that this one does not. If this one was given it since, it is taken up; if not, a rotation to it is
            // refused there.
            self.take_up().await?;
            *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = changed_at;
        }
        let mut tx = self.store.write().await?;
        // Nobody lets another key seal between the look and what follows from it, here neither.
        locks::state(&mut tx).await?;
        self.configured.holder.hold(&mut tx, &self.vault.keys(), self.store.now()).await?;
        let known = vault_keys::all(&mut tx).await?;
        let sealing = known.iter().find(|key| key.seals).ok_or(StoreError::Corrupt("vault_keys"))?;
        self.vault.seal_with(sealing.term)?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }

    /// Tells the other control planes that this one is gone.
    pub async fn leave(&self) {
        if !self.store.is_shared() {
            return;
        }
        if let Err(error) = self.configured.holder.leave(&self.store).await {
            tracing::warn!(%error, "the other control planes could not be told that this one stops");
        }
    }

    fn current(&self) -> KekId {
        self.vault.keys().current().id
    }

    /// Records a call in the transaction that does what it asks for.
    async fn append(&self, tx: &mut Tx, caller: &Caller, target: KekId, detail: String) -> Result<(), AdminError> {
        let act = AdminAct {
            operator: caller.operator(),
            peer: caller.peer().to_owned(),
            method: ROTATE,
            target: target.to_string(),
            outcome: AdminOutcome::Done,
            detail,
        };
        Ok(self.audit.append_admin(tx, act).await?)
    }

    /// Tries every secret at once and then every minute, for the log and the metric.
    pub async fn watch(self) {
        let mut often = tokio::time::interval(EXAMINE_EVERY);
        loop {
            often.tick().await;
            if let Err(error) = self.examine().await {
                tracing::warn!(%error, "the vault's secrets could not be tried");
            }
            if let Err(error) = self.look_at_wraps().await {
                tracing::warn!(%error, "the uses of the vault key could not be looked at");
            }
        }
    }

    async fn examine(&self) -> Result<Findings, StoreError> {
        let findings = health::examine(&self.store, &self.vault).await?;
        self.unreadable.store(u64::try_from(findings.unreadable.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let now: BTreeSet<_> = findings.unreadable.iter().map(|(credential, _)| *credential).collect();
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        for (credential, fault) in &findings.unreadable {
            if !named.contains(credential) {
                tracing::error!(%credential, reason = %fault, "the secret of a credential cannot be opened");
            }
        }
        for credential in named.difference(&now) {
            tracing::info!(%credential, "the secret of a credential can be opened again, or is gone");
        }
        *named = now;
        Ok(findings)
    }

    async fn look_at_wraps(&self) -> Result<(), StoreError> {
        let current = self.current();
        let known = vault_keys::all(&mut *self.store.read().await?).await?;
        let wraps = known.iter().find(|key| key.id == current).map_or(0, |key| key.wraps);
        if wraps >= MANY_WRAPS {
            tracing::warn!(key = %current, wraps, most = MOST_WRAPS, "the vault key is used up soon: rotate it");
        }
        Ok(())
    }
}

/// Keys that cannot be taken up are the operator's to mend; the database's failures are not.
fn refused(error: OpenError) -> AdminError {
    match error {
        OpenError::Store(error) => error.into(),
        other => AdminError::Precondition(other.to_string()),
    }
}
