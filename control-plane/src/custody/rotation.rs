//! Rotation: seals every data key anew under the current vault key, while everything else goes on.
//!
//! Records are taken some at a time, each batch in a transaction of its own in which nothing is replaced that changed meanwhile; how far it is,
//! the records themselves say. So it can be stopped anywhere, by a drain, a failure or a power cut, and goes on from there. What stands with the
//! deployment itself comes last: until then the old key is needed to start, and a start without it is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::id::CredentialId;
use serde_json::json;

use super::keys::{SINGLES, singles};
use super::wraps::{CountError, count};
use super::{Custodian, Progress};
use crate::audit::{AdminAct, AuditError};
use crate::nodes::authority::rewrap_key;
use crate::store::vault_keys::{self, BegunRotation};
use crate::store::vault_records::{self, Record};
use crate::store::{StoreError, Tx, deployment, locks, nodes};
use crate::vault::{Place, Sealed, VaultError};

/// Records of one transaction: few enough that other writers do not notice it.
const BATCH: u32 = 32;
/// How long writers that wait are let before between two transactions.
const BREATH: Duration = Duration::from_millis(20);
/// How long a database that is away is waited for before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Unreadable credentials that the entry names one by one.
const NAMED: usize = 20;
/// Who the end of a rotation is recorded to come from.
const PEER: &str = "control plane";

/// Why a rotation stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// The process is about to end.
    #[error("the control plane is stopping; it goes on at its next start")]
    Draining,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Another rotation was begun, here or elsewhere.
    #[error("another vault key seals by now")]
    AnotherKeySeals,
    /// The end cannot be recorded.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// What one walk did: how many records it sealed anew, and which it could not open.
type Walked = (u64, Vec<CredentialId>);

impl From<CountError> for Stopped {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Store(error) => error.into(),
            CountError::Vault(error) => error.into(),
        }
    }
}

impl Custodian {
    /// Runs a rotation that was begun to its end.
    pub(super) async fn run(self, begun: BegunRotation) {
        let stopped = loop {
            match self.rewrap_all(&begun).await {
                Ok(()) => return,
                // The database is away for a while; what was moved stays moved.
                Err(Stopped::Store(error)) if error.is_passing() && !self.shutdown.is_draining() => {
                    tracing::warn!(%error, "the rotation of the vault key waits for the database");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(stopped) => break stopped,
            }
        };
        tracing::warn!(reason = %stopped, "the rotation of the vault key was interrupted; it goes on at the next start, or with the next `keyforge vault rotate`");
        self.progress.send_modify(|progress| {
            if let Some(progress) = progress {
                progress.interrupted = Some(stopped.to_string());
            }
        });
    }

    async fn rewrap_all(&self, begun: &BegunRotation) -> Result<(), Stopped> {
        loop {
            // Other records may have come behind the walk, out of a backup for example: the last walk seals nothing.
            let (rewrapped, unreadable) = self.walk(begun).await?;
            if rewrapped == 0 {
                return self.finish(begun, &unreadable).await;
            }
        }
    }

    /// Walks once through all records that are under other terms.
    async fn walk(&self, begun: &BegunRotation) -> Result<Walked, Stopped> {
        let (mut rewrapped, mut unreadable, mut after) = (0_u64, Vec::new(), None);
        loop {
            if self.shutdown.is_draining() {
                return Err(Stopped::Draining);
            }
            let mut read = self.store.read().await?;
            let batch = vault_records::under_others_after(&mut read, begun.to_term, after, BATCH).await?;
            drop(read);
            let Some(last) = batch.last() else { return Ok((rewrapped, unreadable)) };
            after = Some(last.credential);
            let mut anew = Vec::with_capacity(batch.len());
            for record in &batch {
                match self.vault.rewrap(Place::credential(&record.credential, record.version), &record.sealed) {
                    Ok(sealed) => anew.push((record, sealed)),
                    Err(error @ VaultError::Random) => return Err(error.into()),
                    Err(_) => unreadable.push(record.credential),
                }
            }
            let replaced = self.replace(&anew).await?;
            rewrapped = rewrapped.saturating_add(replaced);
            self.advance(replaced, u64::try_from(unreadable.len()).unwrap_or(u64::MAX));
            tokio::time::sleep(BREATH).await;
        }
    }

    /// Stores a batch. How many records were still as they were read.
    async fn replace(&self, anew: &[(&Record, Sealed)]) -> Result<u64, Stopped> {
        if anew.is_empty() {
            return Ok(0);
        }
        let mut tx = self.store.write().await?;
        // Each under the key that sealed it: should that be another one, it is of those that the next walk finds.
        let mut by_term = BTreeMap::<u32, u64>::new();
        for (_, sealed) in anew {
            *by_term.entry(sealed.kek_term).or_default() += 1;
        }
        for (term, sealed) in by_term {
            count(&mut tx, term, sealed).await?;
        }
        let mut replaced = 0_u64;
        for (record, sealed) in anew {
            let is_replaced = vault_records::rewrap(&mut tx, record, sealed).await?;
            replaced = replaced.saturating_add(u64::from(is_replaced));
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(replaced)
    }

    /// Moves what stands with the deployment itself, and records the end, unless another control plane has brought the rotation to it already.
    async fn finish(&self, begun: &BegunRotation, unreadable: &[CredentialId]) -> Result<(), Stopped> {
        let mut tx = self.store.write().await?;
        locks::state(&mut tx).await?;
        let ended_here = vault_keys::end_rotation(&mut tx, Some(begun.to_term)).await?;
        if ended_here {
            self.move_deployment(&mut tx, begun).await?;
            self.audit.append_admin(&mut tx, self.ended(begun, unreadable)).await?;
        }
        tx.commit().await.map_err(StoreError::from)?;
        tracing::info!(
            key = self.id_of(begun.to_term),
            unreadable = unreadable.len(),
            ended_here,
            "everything that can be opened is sealed under the current vault key"
        );
        self.progress.send_modify(|progress| {
            if let Some(progress) = progress {
                progress.done = true;
            }
        });
        Ok(())
    }

    /// Seals the vault check, the audit root key and the key of the nodes' authority anew, if they are under another term.
    async fn move_deployment(&self, tx: &mut Tx, begun: &BegunRotation) -> Result<(), Stopped> {
        let before = deployment::get(tx).await?.ok_or(StoreError::Corrupt("deployment"))?;
        let held = singles(&before);
        if held.terms()? != [begun.to_term; 2] {
            let sealed = self.vault.seal_singles(&self.vault.open_singles(&held)?)?;
            if sealed.terms()? != [begun.to_term; 2] {
                return Err(Stopped::AnotherKeySeals);
            }
            count(tx, begun.to_term, SINGLES).await?;
            if !deployment::reseal(tx, &before, &sealed.check, &sealed.audit_root).await? {
                return Err(StoreError::Corrupt("deployment").into());
            }
        }
        let Some(authority) = nodes::authority(tx).await? else { return Ok(()) };
        if authority.key.kek_term != begun.to_term {
            let sealed = rewrap_key(&self.vault, &authority)?;
            count(tx, sealed.kek_term, 1).await?;
            if !nodes::rewrap_authority(tx, &authority.key, &sealed).await? {
                return Err(StoreError::Corrupt("node_authority").into());
            }
        }
        Ok(())
    }

    /// The entry of the end.
    fn ended(&self, begun: &BegunRotation, unreadable: &[CredentialId]) -> AdminAct {
        let named: Vec<_> = unreadable.iter().take(NAMED).map(ToString::to_string).collect();
        let detail = json!({
            "term": begun.to_term, "secrets": begun.total, "unreadable": unreadable.len(), "unreadable_credentials": named,
        });
        AdminAct {
            operator: begun.operator,
            peer: PEER.to_owned(),
            method: "vault/RotationEnded",
            target: self.id_of(begun.to_term),
            outcome: AdminOutcome::Done,
            detail: detail.to_string(),
        }
    }

    fn advance(&self, rewrapped: u64, unreadable: u64) {
        self.progress.send_modify(|progress| {
            if let Some(Progress { rewrapped: sum, unreadable: found, .. }) = progress {
                *sum = sum.saturating_add(rewrapped);
                *found = unreadable;
            }
        });
    }

    fn id_of(&self, term: u32) -> String {
        self.vault.keys().of_term(term).map_or_else(|| format!("term {term}"), |held| held.id.to_string())
    }
}
