//! Audit chains: begun with a key, extended by what nodes ship and operators do, read back and verified.
//!
//! * [`chain`]: the only way to extend a chain; a chain whose head was tampered with is never extended
//! * [`intake`]: records of nodes arrive at least once and are chained exactly once; [`gap`]: they never arrive; [`unchained`]: no key's chain can
//!   take them
//! * [`list`]: entries for people; [`verify`]: everything that is stored, checked against its hashes, the ledger, and what should be there

pub mod chain;
pub mod completeness;
pub mod gap;
pub mod intake;
pub mod list;
pub mod unchained;
pub mod verify;

use std::sync::Arc;

use keyforge_shared::audit::admin::{AdminOutcome, AdminRecord};
use keyforge_shared::audit::chain::{ChainKey, Genesis, head_seal};
use keyforge_shared::clock::Clock;
use keyforge_shared::id::{ChainId, DeploymentId, KeyId, OperatorId, RequestId};
use keyforge_shared::row_seal::RowSealKey;
use keyforge_shared::secret::Key256;
use keyforge_shared::state_seal::SealKey;

use crate::store::StoreError;
use crate::store::chains::{self, NewChain};
use crate::store::sql::Conn;

/// The key epoch of every chain so far.
const KEY_EPOCH: u32 = 0;

/// Why nothing was chained.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head's seal does not fit the head: extending it would hide what was done to it.
    #[error(
        "the head of {0} was tampered with, so nothing is chained to it: verify the chain, then restore the database from a backup"
    )]
    Tampered(ChainId),
    /// There is no such chain.
    #[error("there is no chain {0}")]
    UnknownChain(ChainId),
    /// The operating system gave no randomness.
    #[error("no randomness available for a request id")]
    Random(#[from] getrandom::Error),
}

/// An act of administration, as its caller knows it.
#[derive(Clone, Debug)]
pub struct AdminAct {
    /// Who; all zero when unknown.
    pub operator: OperatorId,
    /// Where from: the peer's network address.
    pub peer: String,
    /// What was called, such as `keys/Revoke`.
    pub method: &'static str,
    /// What it was about; empty for lists.
    pub target: String,
    /// How it ended.
    pub outcome: AdminOutcome,
    /// What changed, or why it failed; never a secret.
    pub detail: String,
}

/// The chains' writer. Holds the audit root key.
pub struct Audit {
    root: Key256,
    deployment: DeploymentId,
    admin_chain: ChainId,
    clock: Arc<dyn Clock>,
}

impl Audit {
    /// A writer of the chains of `deployment`.
    #[must_use]
    pub fn new(root: Key256, deployment: DeploymentId, admin_chain: ChainId, clock: Arc<dyn Clock>) -> Self {
        Self { root, deployment, admin_chain, clock }
    }

    /// The installation that the chains belong to.
    #[must_use]
    pub const fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// The administrators' chain.
    #[must_use]
    pub const fn admin_chain(&self) -> ChainId {
        self.admin_chain
    }

    /// The key that seals the replicated state, derived from the same root.
    #[must_use]
    pub fn state_seal_key(&self) -> SealKey {
        SealKey::derive(&self.root, self.deployment)
    }

    /// The key that seals rows beside the replicated state, derived from the same root.
    #[must_use]
    pub fn row_seal_key(&self) -> RowSealKey {
        RowSealKey::derive(&self.root, self.deployment)
    }

    fn chain_key(&self, chain: ChainId) -> ChainKey {
        ChainKey::derive(&self.root, chain, KEY_EPOCH)
    }

    /// Begins a chain in the caller's transaction: the one that creates its virtual key, or, with `key` absent, the administrators' chain.
    /// `policy_digest` is the SHA-256 of the policy that the key begins with, or zero.
    ///
    /// # Errors
    /// [`AuditError::Store`], also when the chain exists.
    pub async fn create_chain(
        &self,
        conn: &mut Conn,
        chain: ChainId,
        key: Option<KeyId>,
        policy_digest: [u8; 32],
    ) -> Result<(), AuditError> {
        let mac = self.chain_key(chain);
        let created = self.clock.now();
        let genesis = Genesis {
            deployment: self.deployment,
            chain,
            created,
            policy_digest,
            key_epoch: KEY_EPOCH,
            key_commitment: mac.commitment(),
            checkpoint_key: Vec::new(),
            previous: (ChainId::from_bytes([0; 16]), [0; 32]),
        };
        let genesis_hash = genesis.hash(&mac);
        let seal = head_seal(&mac, chain, 0, &genesis_hash);
        let new = NewChain { chain, key, genesis: genesis.encode(), genesis_hash, seal, created };
        Ok(chains::insert_chain(conn, &new).await?)
    }

    /// Chains an act of administration in the caller's transaction, so that the act and its entry exist together or not at all.
    ///
    /// # Errors
    /// [`AuditError`]; the caller must then undo the act.
    pub async fn append_admin(&self, conn: &mut Conn, act: AdminAct) -> Result<(), AuditError> {
        let at = self.clock.now();
        let record = AdminRecord {
            deployment: self.deployment,
            chain: self.admin_chain,
            request: RequestId::generate_at(at)?,
            operator: act.operator,
            at,
            peer: act.peer,
            method: act.method.to_owned(),
            target: act.target,
            outcome: act.outcome,
            detail: act.detail,
        };
        self.append(conn, self.admin_chain, record.encode()).await
    }
}
