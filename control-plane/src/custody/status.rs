//! How the vault stands: under which keys its secrets are, whether they can be opened, and how far a rotation is.

use keyforge_shared::id::CredentialId;

use super::health::{self, Fault, Findings, Tally};
use super::keys::singles;
use super::{Custodian, Progress, holders};
use crate::admin::AdminError;
use crate::nodes::authority::open_key;
use crate::store::vault_keys::{self, KnownKey};
use crate::store::{StoreError, deployment, nodes, vault_records};

/// Why a rotation does not run here that is not ended.
const ELSEWHERE: &str =
    "it was begun by another control plane and may go on there; `keyforge vault rotate` runs it here as well";

/// A vault key and what is sealed under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultKeyStatus {
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

impl VaultKeyStatus {
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
    pub keys: Vec<VaultKeyStatus>,
    /// What was found when every secret was tried.
    pub findings: Findings,
    /// Why the private key of the nodes' authority cannot be opened, if it cannot.
    pub authority_fault: Option<String>,
    /// The last rotation of this process, or one that is unfinished.
    pub rotation: Option<Progress>,
    /// The control planes that share the database, and the terms of the keys that each holds; none when it is not shared.
    pub holders: Vec<holders::KeyHolder>,
}

impl Custodian {
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
        let holders = holders::all(&mut read, &self.configured.instance).await?;
        drop(read);
        let terms = singles(&deployment).terms()?;
        let authority_term = authority.as_ref().map(|stored| stored.key.kek_term);
        let authority_fault = authority.and_then(|stored| open_key(&self.vault, &stored).err());
        let authority_fault = authority_fault.map(|error| error.to_string());
        let held = self.vault.keys();
        let status = |key: KnownKey| VaultKeyStatus {
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
}
