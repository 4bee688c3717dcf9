//! Credentials, and beside them their secrets as the vault sealed them.

use keyforge_shared::catalog::ProviderName;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::CredentialId;
use keyforge_shared::state::CredentialRecord;

use super::sql::{self, Conn, Row};
use super::{StoreError, column};
use crate::vault::Sealed;

/// A credential with its history, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCredential {
    /// What nodes know.
    pub record: CredentialRecord,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Where a page of credentials goes on: after the one that was added at this time and has this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// When the last credential of the page before was added.
    pub created_at: Timestamp,
    /// Its id.
    pub id: CredentialId,
}

/// Adds a credential. Its secret is put beside it by [`put_secret`].
///
/// # Errors
/// [`StoreError`].
pub async fn insert(connection: &mut Conn, credential: &StoredCredential) -> Result<(), StoreError> {
    let record = &credential.record;
    sql::query(
        "INSERT INTO credentials (pool, base_url, limit_group, enabled, secret_version, weight, credential_id, provider, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(record.pool.as_str())
    .bind(record.base_url.as_str())
    .bind(record.limit_group.as_str())
    .bind(i64::from(record.enabled))
    .bind(i64::from(record.secret_version))
    .bind(i64::from(record.weight))
    .bind(record.id.as_bytes().as_slice())
    .bind(record.provider.0.as_str())
    .bind(credential.created_at.nanos())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes everything of a credential that can change.
///
/// # Errors
/// [`StoreError`].
pub async fn update(connection: &mut Conn, record: &CredentialRecord) -> Result<(), StoreError> {
    sql::query(
        "UPDATE credentials SET pool = $1, base_url = $2, limit_group = $3, enabled = $4, secret_version = $5, weight = $6 \
         WHERE credential_id = $7",
    )
    .bind(record.pool.as_str())
    .bind(record.base_url.as_str())
    .bind(record.limit_group.as_str())
    .bind(i64::from(record.enabled))
    .bind(i64::from(record.secret_version))
    .bind(i64::from(record.weight))
    .bind(record.id.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes a credential and its secret. What was overwritten in the file is zeroed by the database's `secure_delete`.
///
/// # Errors
/// [`StoreError`].
pub async fn remove(connection: &mut Conn, id: CredentialId) -> Result<(), StoreError> {
    for delete in
        ["DELETE FROM vault_records WHERE credential_id = $1", "DELETE FROM credentials WHERE credential_id = $1"]
    {
        sql::query(delete).bind(id.as_bytes().as_slice()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The credential with this id.
///
/// # Errors
/// [`StoreError`].
pub async fn get(connection: &mut Conn, id: CredentialId) -> Result<Option<StoredCredential>, StoreError> {
    let row = sql::query("SELECT * FROM credentials WHERE credential_id = $1")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Up to `count` credentials, newest first, from `after` on.
///
/// # Errors
/// [`StoreError`].
pub async fn page(
    connection: &mut Conn,
    after: Option<After>,
    count: u32,
) -> Result<Vec<StoredCredential>, StoreError> {
    let (created_at, id) =
        after.map_or((i64::MAX, Vec::new()), |after| (after.created_at.nanos(), after.id.as_bytes().to_vec()));
    let rows = sql::query(
        "SELECT * FROM credentials WHERE created_at < $1 OR (created_at = $2 AND credential_id < $3) \
         ORDER BY created_at DESC, credential_id DESC LIMIT $4",
    )
    .bind(created_at)
    .bind(created_at)
    .bind(id)
    .bind(i64::from(count))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Every credential, as nodes know them.
///
/// # Errors
/// [`StoreError`].
pub async fn all(connection: &mut Conn) -> Result<Vec<CredentialRecord>, StoreError> {
    let rows = sql::query("SELECT * FROM credentials").fetch_all(connection).await?;
    rows.iter().map(|row| Ok(read(row)?.record)).collect()
}

/// Puts a version of a credential's secret into the vault, in place of the version before.
///
/// # Errors
/// [`StoreError`]; also when there is no such credential.
pub async fn put_secret(
    connection: &mut Conn,
    id: CredentialId,
    version: u32,
    sealed: &Sealed,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO vault_records (credential_id, secret_version, kek_term, sealed_key, sealed_secret) \
         VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (credential_id) DO UPDATE SET secret_version = excluded.secret_version, \
         kek_term = excluded.kek_term, sealed_key = excluded.sealed_key, sealed_secret = excluded.sealed_secret",
    )
    .bind(id.as_bytes().as_slice())
    .bind(i64::from(version))
    .bind(i64::from(sealed.kek_term))
    .bind(sealed.sealed_key.as_slice())
    .bind(sealed.sealed_secret.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

fn read(row: &Row) -> Result<StoredCredential, StoreError> {
    let record = CredentialRecord {
        id: column::bytes(row, "credential_id", CredentialId::from_slice)?,
        provider: ProviderName(row.try_get("provider")?),
        pool: row.try_get("pool")?,
        base_url: row.try_get("base_url")?,
        limit_group: row.try_get("limit_group")?,
        secret_version: column::unsigned32(row, "secret_version")?,
        enabled: column::flag(row, "enabled")?,
        weight: column::unsigned32(row, "weight")?,
    };
    Ok(StoredCredential { record, created_at: column::time(row, "created_at")? })
}
