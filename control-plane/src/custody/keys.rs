//! The vault keys of a configuration become those of a deployment: read, checked against what is sealed, and given their terms.
//!
//! A key gets its term, the next free number, when it is first configured, whether or not it ever seals anything. Nothing is written before the
//! keys have opened what stands with the deployment itself. The key that seals must be among them; which one that is, only a rotation changes.

use std::sync::Arc;

use keyforge_shared::id::{DeploymentId, KekId};
use keyforge_shared::secret::Key256;

use super::holders;
use crate::admin::deployment::OpenError;
use crate::config::VaultConfig;
use crate::instance::Instance;
use crate::store::deployment::{self, Deployment};
use crate::store::sql::Conn;
use crate::store::vault_keys::{self, KnownKey};
use crate::store::{Store, StoreError, locks, nodes, vault_records};
use crate::vault::{Absence, Kek, Keyring, Singles, Vault, VaultError};

/// Term of the first vault key.
const FIRST_TERM: u32 = 1;
/// Ciphertexts beside those of secrets and of the nodes' authority: the vault check and the audit root key.
pub const SINGLES: u64 = 2;

/// The vault keys of a configuration, read.
pub struct Keys {
    wanted: Arc<Kek>,
    previous: Vec<Arc<Kek>>,
}

impl Keys {
    /// Reads what the configuration names. `absence` says what is done when the file of the one that is to seal is missing.
    ///
    /// # Errors
    /// [`OpenError::Kek`].
    pub async fn load(config: &VaultConfig, absence: Absence) -> Result<Self, OpenError> {
        let wanted = Arc::new(Kek::load(&config.key, absence).await?);
        // Whoever names one has it: none is made.
        let absence = if absence == Absence::New { Absence::Lost } else { absence };
        let mut previous = Vec::with_capacity(config.previous.len());
        for source in &config.previous {
            previous.push(Arc::new(Kek::load(source, absence).await?));
        }
        Ok(Self { wanted, previous })
    }

    /// The vault of a deployment that is being made, and its first key.
    #[must_use]
    pub fn first(&self, deployment: &Deployment) -> (Vault, KnownKey) {
        let id = self.wanted.id(deployment.id);
        let vault = Vault::new(Keyring::of_one(deployment.id, Arc::clone(&self.wanted)), deployment.id);
        (vault, KnownKey { term: FIRST_TERM, id, seals: true, wraps: SINGLES, added_at: deployment.created_at })
    }

    /// The keys with their terms in the deployment of the store, and the audit root key that they open. From then on `instance` is known to hold
    /// them.
    ///
    /// # Errors
    /// [`OpenError::Vault`] naming the key that is needed when it is not among these.
    pub async fn open(&self, store: &Store, instance: &Instance) -> Result<(Keyring, Key256), OpenError> {
        let mut tx = store.write().await?;
        // No rotation begins between the look at which key seals and the word that this process holds it.
        locks::state(&mut tx).await?;
        let deployment = deployment::get(&mut tx).await?.ok_or(StoreError::Corrupt("deployment"))?;
        let mut known = vault_keys::all(&mut tx).await?;
        let stored = known.len();
        if known.is_empty() {
            let wraps = wraps_so_far(&mut tx).await?;
            known.push(self.adopted(&deployment, wraps)?);
        }
        for kek in self.all() {
            let id = kek.id(deployment.id);
            if known.iter().all(|key| key.id != id) {
                let last = known.iter().map(|key| key.term).max().unwrap_or(0);
                let term = last.checked_add(1).ok_or(StoreError::Range("vault_keys.term"))?;
                known.push(KnownKey { term, id, seals: false, wraps: 0, added_at: store.now() });
            }
        }
        let sealing = known.iter().find(|key| key.seals).ok_or(StoreError::Corrupt("vault_keys"))?;
        let keyring = self.keyring(deployment.id, &known, sealing.term);
        let keyring = keyring.ok_or_else(|| self.wrong_key(deployment.id, sealing.id.to_string()))?;
        let vault = Vault::new(keyring, deployment.id);
        let root = vault.open_singles(&singles(&deployment));
        let root = root.map_err(|error| self.wrong(error, deployment.id, &known))?;
        for key in known.get(stored..).unwrap_or_default() {
            vault_keys::insert(&mut tx, key).await?;
            tracing::info!(key = %key.id, term = key.term, "a vault key was added");
        }
        let keyring = self.keyring(deployment.id, &known, sealing.term).ok_or(StoreError::Corrupt("vault_keys"))?;
        if store.is_shared() {
            holders::hold(&mut tx, instance, &keyring).await?;
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok((keyring, root))
    }

    /// The key of a deployment from before keys had ids: the one that opens what is there.
    fn adopted(&self, deployment: &Deployment, wraps: u64) -> Result<KnownKey, OpenError> {
        let opens = |kek: &&Arc<Kek>| {
            let vault = Vault::new(Keyring::of_one(deployment.id, Arc::clone(kek)), deployment.id);
            vault.open_singles(&singles(deployment)).is_ok()
        };
        let found = self.all().find(opens);
        let found = found.ok_or_else(|| self.wrong_key(deployment.id, "another one".to_owned()))?;
        let id = found.id(deployment.id);
        Ok(KnownKey { term: FIRST_TERM, id, seals: true, wraps, added_at: deployment.created_at })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Kek>> {
        std::iter::once(&self.wanted).chain(&self.previous)
    }

    fn keyring(&self, deployment: DeploymentId, known: &[KnownKey], sealing: u32) -> Option<Keyring> {
        let of = |id: KekId| known.iter().find(|key| key.id == id).map_or(0, |key| key.term);
        Keyring::new(deployment, (&self.wanted, &self.previous), of, sealing)
    }

    fn wrong(&self, error: VaultError, deployment: DeploymentId, known: &[KnownKey]) -> OpenError {
        let VaultError::Term(term) = error else { return error.into() };
        let needed = known.iter().find(|key| key.term == term);
        let needed =
            needed.map_or_else(|| format!("a key of term {term}, of which nothing is known"), |key| key.id.to_string());
        self.wrong_key(deployment, needed).into()
    }

    fn wrong_key(&self, deployment: DeploymentId, needed: String) -> VaultError {
        VaultError::WrongKey { from: self.wanted.source().name(), id: self.wanted.id(deployment), needed }
    }
}

/// Ciphertexts that the one key of a deployment from before they were counted has made.
async fn wraps_so_far(conn: &mut Conn) -> Result<u64, StoreError> {
    let authority = u64::from(nodes::authority(conn).await?.is_some());
    Ok(vault_records::versions(conn).await?.saturating_add(SINGLES).saturating_add(authority))
}

/// What is sealed and stands with the deployment itself.
#[must_use]
pub fn singles(deployment: &Deployment) -> Singles {
    Singles { check: deployment.vault_check.clone(), audit_root: deployment.audit_root.clone() }
}
