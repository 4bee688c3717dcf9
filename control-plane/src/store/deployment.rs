//! The one row about the installation itself.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, DeploymentId};

use super::sql::{self, Conn};
use super::{StoreError, column};

/// The installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Revision of the replicated state.
    pub revision: u64,
    /// Seal of the replicated state and the operators at that revision.
    pub state_seal: Vec<u8>,
    /// Tells a wrong vault key.
    pub vault_check: Vec<u8>,
    /// The audit root key, sealed under the vault key.
    pub audit_root: Vec<u8>,
    /// The administrators' chain.
    pub admin_chain: ChainId,
}

/// The installation, or `None` in a new database.
///
/// # Errors
/// [`StoreError`].
pub async fn get(connection: &mut Conn) -> Result<Option<Deployment>, StoreError> {
    let row = sql::query("SELECT * FROM deployment WHERE singleton = 1").fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Deployment {
        id: column::bytes(&row, "deployment_id", DeploymentId::from_slice)?,
        created_at: column::time(&row, "created_at")?,
        revision: column::unsigned(&row, "revision")?,
        state_seal: row.try_get("state_seal")?,
        vault_check: row.try_get("vault_check")?,
        audit_root: row.try_get("audit_root")?,
        admin_chain: column::bytes(&row, "admin_chain_id", ChainId::from_slice)?,
    }))
}

/// The stored revision, unchecked; `None` in a new database.
///
/// # Errors
/// [`StoreError`].
pub async fn revision(connection: &mut Conn) -> Result<Option<i64>, StoreError> {
    Ok(sql::query("SELECT revision FROM deployment WHERE singleton = 1").fetch_value(connection).await?)
}

/// The stored revision and its seal, unchecked; `None` in a new database.
///
/// # Errors
/// [`StoreError`].
pub async fn position(connection: &mut Conn) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let select = sql::query("SELECT revision, state_seal FROM deployment WHERE singleton = 1");
    let Some(row) = select.fetch_optional(connection).await? else { return Ok(None) };
    Ok(Some((column::unsigned(&row, "revision")?, row.try_get("state_seal")?)))
}

/// Writes the row of a new installation.
///
/// # Errors
/// [`StoreError`]; also when there is one already.
pub async fn insert(connection: &mut Conn, deployment: &Deployment) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO deployment \
         (singleton, deployment_id, created_at, revision, state_seal, vault_check, audit_root, admin_chain_id) \
         VALUES (1, $1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(deployment.id.as_bytes().as_slice())
    .bind(deployment.created_at.nanos())
    .bind(column::signed(deployment.revision, "the revision")?)
    .bind(deployment.state_seal.as_slice())
    .bind(deployment.vault_check.as_slice())
    .bind(deployment.audit_root.as_slice())
    .bind(deployment.admin_chain.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves the replicated state from `revision` to the next one, whose seal is `seal`, so that revisions stay dense.
///
/// # Errors
/// [`StoreError::Corrupt`] when the database is at another revision.
pub async fn advance_revision(connection: &mut Conn, revision: u64, seal: &[u8; 32]) -> Result<(), StoreError> {
    let held = column::signed(revision, "the revision")?;
    let update = "UPDATE deployment SET revision = revision + 1, state_seal = $1 WHERE singleton = 1 AND revision = $2";
    let moved = sql::query(update).bind(seal.as_slice()).bind(held).execute(connection).await?;
    if moved == 1 { Ok(()) } else { Err(StoreError::Corrupt("revision")) }
}

/// Puts the vault check and the audit root key, sealed anew, in place of what was there. False when the audit root key is not as `before` any more.
///
/// # Errors
/// [`StoreError`].
pub async fn reseal(
    connection: &mut Conn,
    before: &Deployment,
    check: &[u8],
    audit_root: &[u8],
) -> Result<bool, StoreError> {
    let update = "UPDATE deployment SET vault_check = $1, audit_root = $2 WHERE singleton = 1 AND audit_root = $3";
    let query = sql::query(update).bind(check).bind(audit_root).bind(before.audit_root.as_slice());
    Ok(query.execute(connection).await? == 1)
}
