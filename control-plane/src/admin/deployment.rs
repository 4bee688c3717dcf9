//! The deployment: made at the first start, recognised at every later one.
//!
//! The first start draws the vault key, the audit root key and the first operator's token, makes the workspace `default`, imports the built-in
//! models and begins the administrators' chain, all or nothing. A later start refuses a vault key that does not belong to the data, and
//! workspaces, keys, models, credentials or operators that are not the ones that were sealed.

use std::path::Path;
use std::sync::Arc;

use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::{ChainId, DeploymentId, OperatorId, WorkspaceId};
use keyforge_shared::secret::Key256;
use keyforge_shared::state::{Resource, State, WorkspaceRecord};
use keyforge_shared::state_seal::SealSum;
use keyforge_shared::token::{self, TokenKind};
use zeroize::Zeroizing;

use super::state_seal::StateSeal;
use super::workspaces::DEFAULT_WORKSPACE;
use crate::audit::{AdminAct, Audit, AuditError};
use crate::catalog::{self, CatalogError};
use crate::store::deployment::{self, Deployment};
use crate::store::operators::{self, Operator};
use crate::store::workspaces::{self, StoredWorkspace};
use crate::store::{Store, StoreError, credentials, keys, locks, models};
use crate::vault::{Kek, KekError, KekSource, Vault, VaultError};

/// Name of the file in the data directory that the first operator's token is written to.
pub const OPERATOR_TOKEN_FILE: &str = "operator.token";
const FIRST_OPERATOR: &str = "owner";
const FIRST_REVISION: u64 = 1;

/// Why a deployment cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no usable vault key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The vault key does not open what is there.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The administrators' chain cannot be extended.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The first operator's token cannot be written.
    #[error("the first operator's token cannot be written: {0}")]
    Token(#[from] PrivateFileError),
    /// The built-in models cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Workspaces, keys, models, credentials or operators are not the ones that were sealed.
    #[error(
        "the seal of the state does not hold: workspaces, keys, models, credentials or operators in the database were changed by something \
         other than KeyForge, so nothing of it is served; restore the database from a backup (the administrators' chain says what they should be)"
    )]
    StateChanged,
    /// The operating system gave no randomness.
    #[error("no randomness available for the keys of a new deployment")]
    Random,
}

/// A deployment that is ready to be administered.
pub struct Opened {
    /// Its id.
    pub id: DeploymentId,
    /// Whether it was made just now.
    pub is_new: bool,
    /// Its vault.
    pub vault: Arc<Vault>,
    /// Its chains.
    pub audit: Arc<Audit>,
    /// Its replicated state.
    pub state: State,
    /// Seals the states that follow.
    pub seal: StateSeal,
    /// Sum of this state, under its seal.
    pub sum: SealSum,
}

/// Opens the deployment in `store`, or makes one if there is none. `data_dir` is where a first operator's token is written to.
///
/// # Errors
/// [`OpenError`]; its message says what to do.
pub async fn open(store: &Store, data_dir: &Path, kek: &KekSource, clock: Arc<dyn Clock>) -> Result<Opened, OpenError> {
    let found = deployment::get(&mut *store.read().await?).await?;
    let loaded = Kek::load(kek, found.is_some())?;
    let (vault, audit, is_new) = match found {
        Some(deployment) => {
            let (vault, audit) = recognise(loaded, &deployment, clock)?;
            (vault, audit, false)
        }
        None => {
            let (deployment, vault, root) = prepare(loaded, store)?;
            let audit = Audit::new(root, deployment.id, deployment.admin_chain, Arc::clone(&clock));
            match create(store, &audit, &deployment, &data_dir.join(OPERATOR_TOKEN_FILE)).await? {
                None => (vault, audit, true),
                // Another control plane was first; it has the same vault key, or this one is refused.
                Some(first) => {
                    let (vault, audit) = recognise(Kek::load(kek, true)?, &first, clock)?;
                    (vault, audit, false)
                }
            }
        }
    };
    let (deployment, operators, state) = load(store).await?;
    let seal = StateSeal::new(&audit, &operators);
    let sum = seal.sum(&state);
    seal.check(&deployment, sum)?;
    Ok(Opened { id: deployment.id, is_new, vault: Arc::new(vault), audit: Arc::new(audit), state, seal, sum })
}

/// Vault and chains of a deployment that is there.
fn recognise(kek: Kek, deployment: &Deployment, clock: Arc<dyn Clock>) -> Result<(Vault, Audit), OpenError> {
    let vault = Vault::new(kek, deployment.id);
    vault.check(&deployment.vault_check)?;
    let root = vault.open_audit_root(&deployment.audit_root)?;
    Ok((vault, Audit::new(root, deployment.id, deployment.admin_chain, clock)))
}

fn prepare(kek: Kek, store: &Store) -> Result<(Deployment, Vault, Key256), OpenError> {
    let id = DeploymentId::generate().map_err(|_| OpenError::Random)?;
    let admin_chain = ChainId::generate().map_err(|_| OpenError::Random)?;
    let root = Key256::generate().map_err(|_| OpenError::Random)?;
    let vault = Vault::new(kek, id);
    let deployment = Deployment {
        id,
        created_at: store.now(),
        revision: FIRST_REVISION,
        // The workspace, the models and the operator that it covers are still to be made.
        state_seal: Vec::new(),
        vault_check: vault.make_check()?,
        audit_root: vault.seal_audit_root(&root)?,
        admin_chain,
    };
    Ok((deployment, vault, root))
}

/// Writes a new deployment. Gives the one that is there when somebody else was first.
async fn create(
    store: &Store,
    audit: &Audit,
    deployment: &Deployment,
    token_file: &Path,
) -> Result<Option<Deployment>, OpenError> {
    let token = token::generate(TokenKind::Operator).map_err(|_| OpenError::Random)?;
    let operator = Operator {
        id: OperatorId::generate().map_err(|_| OpenError::Random)?,
        name: FIRST_OPERATOR.to_owned(),
        digest: token::digest(token.as_bytes()),
        created_at: deployment.created_at,
    };
    let built_in = catalog::built_in()?;
    let workspace = first_workspace(deployment)?;
    let models = built_in.iter().map(|model| Resource::Model(Arc::new(model.clone())));
    let first = Resource::Workspace(Arc::new(workspace.record.clone()));
    let state = State::from_snapshot(deployment.revision, std::iter::once(first).chain(models));
    let seal = StateSeal::new(audit, std::slice::from_ref(&operator));
    let state_seal = seal.seal(deployment.revision, seal.sum(&state)).to_vec();
    let mut tx = store.write().await?;
    locks::deployment(&mut tx).await?;
    if let Some(first) = deployment::get(&mut tx).await? {
        return Ok(Some(first));
    }
    deployment::insert(&mut tx, &Deployment { state_seal, ..deployment.clone() }).await?;
    operators::insert(&mut tx, &operator).await?;
    workspaces::insert(&mut tx, &workspace).await?;
    for model in &built_in {
        models::put(&mut tx, model).await?;
    }
    audit.create_chain(&mut tx, deployment.admin_chain, None, [0; 32]).await?;
    let act = AdminAct {
        operator: operator.id,
        peer: "control plane".to_owned(),
        method: "deployment/Create",
        target: deployment.id.to_string(),
        outcome: AdminOutcome::Done,
        detail: format!(
            "operator {FIRST_OPERATOR} and workspace {DEFAULT_WORKSPACE} made, {} models imported",
            built_in.len()
        ),
    };
    audit.append_admin(&mut tx, act).await?;
    // Before the commit: a token that nobody was told would lock everyone out. A file that is left behind by a failed start is replaced.
    write_token(token_file, &token)?;
    tx.commit().await.map_err(StoreError::from)?;
    tracing::info!(deployment = %deployment.id, token_file = %token_file.display(), "a new deployment was made");
    Ok(None)
}

/// The workspace that keys belong to when none is named.
fn first_workspace(deployment: &Deployment) -> Result<StoredWorkspace, OpenError> {
    let record = WorkspaceRecord {
        id: WorkspaceId::generate().map_err(|_| OpenError::Random)?,
        name: DEFAULT_WORKSPACE.to_owned(),
        request_limits: Vec::new(),
        spend_limits: Vec::new(),
    };
    Ok(StoredWorkspace { record, created_at: deployment.created_at, revision: deployment.revision })
}

fn write_token(path: &Path, token: &str) -> Result<(), PrivateFileError> {
    let mut line = Zeroizing::new(String::with_capacity(token.len() + 1));
    line.push_str(token);
    line.push('\n');
    private_file::replace(path, line.as_bytes())
}

/// The installation, its operators and its state, as of one moment.
async fn load(store: &Store) -> Result<(Deployment, Vec<Operator>, State), StoreError> {
    let mut read = store.read().await?;
    let deployment = deployment::get(&mut read).await?.ok_or(StoreError::Corrupt("deployment"))?;
    let operators = operators::all(&mut read).await?;
    let workspaces = workspaces::all(&mut read).await?.into_iter();
    let workspaces = workspaces.map(|workspace| Resource::Workspace(Arc::new(workspace)));
    let keys = keys::all(&mut read).await?.into_iter().map(|key| Resource::Key(Arc::new(key)));
    let models = models::all(&mut read).await?.into_iter().map(|model| Resource::Model(Arc::new(model)));
    let credentials = credentials::all(&mut read).await?.into_iter();
    let credentials = credentials.map(|credential| Resource::Credential(Arc::new(credential)));
    let state = State::from_snapshot(deployment.revision, workspaces.chain(keys).chain(models).chain(credentials));
    Ok((deployment, operators, state))
}
