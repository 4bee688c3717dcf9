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
use keyforge_shared::plan::Plan;
use keyforge_shared::role::Role;
use keyforge_shared::secret::Key256;
use keyforge_shared::state::{Resource, State, WorkspaceRecord};
use keyforge_shared::state_seal::SealSum;
use keyforge_shared::token::{self, TokenKind};
use zeroize::Zeroizing;

use super::roster::Roster;
use super::state_seal::StateSeal;
use super::workspaces::DEFAULT_WORKSPACE;
use crate::audit::{AdminAct, Audit, AuditError};
use crate::catalog::{self, CatalogError};
use crate::config::VaultConfig;
use crate::custody::keys::Keys;
use crate::instance::Instance;
use crate::store::deployment::{self, Deployment};
use crate::store::operators::{self, Operator};
use crate::store::vault_keys::{self, KnownKey};
use crate::store::workspaces::{self, StoredWorkspace};
use crate::store::{Store, StoreError, credentials, keys, locks, models};
use crate::vault::{Absence, KekError, Singles, Vault, VaultError};

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
    /// Its operators, under the same seal.
    pub roster: Roster,
}

/// Opens the deployment in `store`, or makes one if there is none. `data_dir` is where a first operator's token is written to; `instance` is who
/// holds the vault keys from now on.
///
/// # Errors
/// [`OpenError`]; its message says what to do.
pub async fn open(
    store: &Store,
    data_dir: &Path,
    keys: &VaultConfig,
    instance: &Instance,
    clock: Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    let found = deployment::get(&mut *store.read().await?).await?;
    let absence = if found.is_none() { Absence::New } else { Absence::beside_data(store.is_shared()) };
    let keys = Keys::load(keys, absence).await?;
    // If another control plane is first meanwhile, it has the same vault key, or this one is refused.
    let is_new = found.is_none() && create(store, &keys, data_dir, &clock).await?;
    let (keyring, root) = keys.open(store, instance).await?;
    let (deployment, operators, state) = load(store).await?;
    let vault = Vault::new(keyring, deployment.id);
    let audit = Audit::new(root, deployment.id, deployment.admin_chain, clock);
    let (seal, roster) = (StateSeal::new(&audit), Roster::new(operators));
    let sum = seal.sum(&state);
    seal.check(&deployment, sum, &roster)?;
    Ok(Opened { id: deployment.id, is_new, vault: Arc::new(vault), audit: Arc::new(audit), state, seal, sum, roster })
}

/// A deployment that is not yet written, its first vault key, and its audit root key.
fn prepare(keys: &Keys, store: &Store) -> Result<(Deployment, KnownKey, Key256), OpenError> {
    let root = Key256::generate().map_err(|_| OpenError::Random)?;
    let deployment = Deployment {
        id: DeploymentId::generate().map_err(|_| OpenError::Random)?,
        created_at: store.now(),
        revision: FIRST_REVISION,
        // The workspace, the models and the operator that it covers are still to be made.
        state_seal: Vec::new(),
        vault_check: Vec::new(),
        audit_root: Vec::new(),
        admin_chain: ChainId::generate().map_err(|_| OpenError::Random)?,
    };
    let (vault, first_key) = keys.first(&deployment);
    let Singles { check, audit_root } = vault.seal_singles(&root)?;
    Ok((Deployment { vault_check: check, audit_root, ..deployment }, first_key, root))
}

/// Writes a new deployment. False when somebody else was first; nothing was written then.
async fn create(store: &Store, keys: &Keys, data_dir: &Path, clock: &Arc<dyn Clock>) -> Result<bool, OpenError> {
    let (deployment, first_key, root) = prepare(keys, store)?;
    let audit = Audit::new(root, deployment.id, deployment.admin_chain, Arc::clone(clock));
    let token = token::generate(TokenKind::Operator).map_err(|_| OpenError::Random)?;
    let operator = Operator {
        id: OperatorId::generate().map_err(|_| OpenError::Random)?,
        name: FIRST_OPERATOR.to_owned(),
        digest: token::digest(token.as_bytes()),
        created_at: deployment.created_at,
        role: Role::Owner,
        workspace: None,
        expires_at: None,
        revoked_at: None,
    };
    let built_in = catalog::built_in()?;
    let workspace = first_workspace(&deployment)?;
    let models = built_in.iter().map(|model| Resource::Model(Arc::new(model.clone())));
    let first = Resource::Workspace(Arc::new(workspace.record.clone()));
    let state = State::from_snapshot(deployment.revision, std::iter::once(first).chain(models));
    let (seal, roster) = (StateSeal::new(&audit), Roster::new([operator.clone()]));
    let state_seal = seal.seal(deployment.revision, seal.sum(&state), &roster).to_vec();
    let mut tx = store.write().await?;
    locks::deployment(&mut tx).await?;
    if deployment::get(&mut tx).await?.is_some() {
        return Ok(false);
    }
    let deployment = Deployment { state_seal, ..deployment };
    deployment::insert(&mut tx, &deployment).await?;
    vault_keys::insert(&mut tx, &first_key).await?;
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
    let token_file = data_dir.join(OPERATOR_TOKEN_FILE);
    write_token(&token_file, &token)?;
    tx.commit().await.map_err(StoreError::from)?;
    tracing::info!(deployment = %deployment.id, token_file = %token_file.display(), "a new deployment was made");
    Ok(true)
}

/// The workspace that keys belong to when none is named.
fn first_workspace(deployment: &Deployment) -> Result<StoredWorkspace, OpenError> {
    let record = WorkspaceRecord {
        id: WorkspaceId::generate().map_err(|_| OpenError::Random)?,
        name: DEFAULT_WORKSPACE.to_owned(),
        request_limits: Vec::new(),
        spend_limits: Vec::new(),
        plan: Plan::Unlimited,
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
