//! Custody of the vault: which keys it has, whether its secrets can be opened, and its rotation to another key.
//!
//! * [`keys`]: the keys that the configuration names, checked against what they sealed
//! * [`health`]: every secret is tried, at start, every minute, and when somebody asks
//! * `status`: how the vault stands
//! * [`wraps`]: what a key seals is counted
//! * `rotation`: everything is sealed anew under the current key
//! * [`holders`], `attendance`: which of several control planes hold which keys, and what each tells the others
//!
//! Where the keys come from is the configuration's word alone: a rotation reads it again, so that no call ever carries a key or names a file.
//! Which of them seals is the database's, and changes only with a rotation, so that control planes that share it agree.

mod attendance;
pub mod health;
pub mod holders;
pub mod keys;
mod rotation;
mod status;
pub mod wraps;

pub use status::{Status, VaultKeyStatus};

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::id::{CredentialId, KekId};
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::admin::{AdminError, Caller};
use crate::audit::completeness::NOTHING_CHANGED;
use crate::audit::{AdminAct, Audit};
use crate::config::{Config, VaultConfig};
use crate::instance::Instance;
use crate::store::sql::Conn;
use crate::store::vault_keys::{self, BegunRotation};
use crate::store::{Store, StoreError, Tx, deployment, locks, nodes, vault_records};
use crate::vault::Vault;

use keys::singles;

/// Name of a rotation's call in the administrators' chain.
pub const ROTATE: &str = "vault/Rotate";

/// Where the vault keys are configured.
#[derive(Clone, Debug)]
pub struct Configured {
    /// What was configured at the start.
    pub vault: VaultConfig,
    /// The file that says what is configured now, if one does.
    pub file: Option<PathBuf>,
    /// Who holds the keys: this process.
    pub instance: Instance,
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

type Unreadable = watch::Sender<Arc<BTreeSet<CredentialId>>>;

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
    /// Which secrets could not be opened when all were last tried. The log has named them.
    unreadable: Unreadable,
    /// Another key was taken up since.
    taken_up: Arc<Notify>,
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
            unreadable: Unreadable::default(),
            taken_up: Arc::default(),
            looked_at: Arc::default(),
        }
    }

    /// How many secrets could not be opened when they were last tried.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        u64::try_from(self.unreadable.borrow().len()).unwrap_or(u64::MAX)
    }

    /// Which those are. It is told anew whenever all have been tried.
    #[must_use]
    pub fn tried(&self) -> watch::Receiver<Arc<BTreeSet<CredentialId>>> {
        self.unreadable.subscribe()
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
        self.reload_keys().await?;
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
}
