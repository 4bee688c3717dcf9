//! Virtual keys. Of a token only its digest is stored; a policy is stored as JSON.

use std::sync::Arc;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, KeyId, WorkspaceId};
use keyforge_shared::policy::Policy;
use keyforge_shared::state::{KeyRecord, KeyStatus};
use keyforge_shared::token::TokenDigest;

use super::sql::{self, Conn, Engine, Row};
use super::{StoreError, column};

/// A virtual key with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// What nodes know.
    pub record: KeyRecord,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// State revision of its last change.
    pub revision: u64,
}

/// Where a page of keys goes on: after the key that was made at this time and has this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// When the last key of the page before was made.
    pub created_at: Timestamp,
    /// Its id.
    pub id: KeyId,
}

/// Adds a key.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(connection: &mut Conn, key: &StoredKey) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO virtual_keys (name, status, status_revision, policy, revoked_at, revision, key_id, token_digest, chain_id, \
             workspace_id, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(key.record.name.as_str())
    .bind(key.record.status.as_str())
    .bind(column::signed(key.record.status_revision, "the revision")?)
    .bind(policy_text(&key.record.policy)?)
    .bind(key.revoked_at.map(Timestamp::nanos))
    .bind(column::signed(key.revision, "the revision")?)
    .bind(key.record.id.as_str())
    .bind(key.record.digest.0.as_slice())
    .bind(key.record.chain.as_bytes().as_slice())
    .bind(key.record.workspace.as_bytes().as_slice())
    .bind(key.created_at.nanos())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes everything of a key that can change: not its workspace.
///
/// # Errors
/// [`StoreError`].
pub async fn update(connection: &mut Conn, key: &StoredKey) -> Result<(), StoreError> {
    sql::query(
        "UPDATE virtual_keys SET name = $1, status = $2, status_revision = $3, policy = $4, revoked_at = $5, revision = $6 \
         WHERE key_id = $7",
    )
    .bind(key.record.name.as_str())
    .bind(key.record.status.as_str())
    .bind(column::signed(key.record.status_revision, "the revision")?)
    .bind(policy_text(&key.record.policy)?)
    .bind(key.revoked_at.map(Timestamp::nanos))
    .bind(column::signed(key.revision, "the revision")?)
    .bind(key.record.id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// The key with this id.
///
/// # Errors
/// [`StoreError`].
pub async fn get(connection: &mut Conn, id: KeyId) -> Result<Option<StoredKey>, StoreError> {
    let row =
        sql::query("SELECT * FROM virtual_keys WHERE key_id = $1").bind(id.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

/// Whether there is a key with this id, whatever its row holds.
///
/// # Errors
/// [`StoreError`].
pub async fn exists(connection: &mut Conn, id: KeyId) -> Result<bool, StoreError> {
    let exists = sql::query("SELECT EXISTS (SELECT 1 FROM virtual_keys WHERE key_id = $1)");
    Ok(exists.bind(id.as_str()).fetch_one(connection).await?.try_get(0)?)
}

/// How many keys belong to a workspace, and how many of those are revoked.
///
/// # Errors
/// [`StoreError`].
pub async fn count_in(connection: &mut Conn, workspace: WorkspaceId) -> Result<(u64, u64), StoreError> {
    let row = sql::query(
        "SELECT count(*) AS keys, count(*) FILTER (WHERE status = 'revoked') AS revoked FROM virtual_keys WHERE workspace_id = $1",
    )
    .bind(workspace.as_bytes().as_slice())
    .fetch_one(connection)
    .await?;
    Ok((column::unsigned(&row, "keys")?, column::unsigned(&row, "revoked")?))
}

/// Of a workspace's keys one for each time zone that they count in.
///
/// # Errors
/// [`StoreError`].
pub async fn one_per_time_zone(connection: &mut Conn, workspace: WorkspaceId) -> Result<Vec<KeyRecord>, StoreError> {
    let rows = sql::query(connection.either(
        "SELECT * FROM virtual_keys WHERE key_id IN \
         (SELECT min(key_id) FROM virtual_keys WHERE workspace_id = $1 GROUP BY policy ->> '$.time_zone')",
        "SELECT * FROM virtual_keys WHERE key_id IN \
         (SELECT min(key_id) FROM virtual_keys WHERE workspace_id = $1 GROUP BY policy::json ->> 'time_zone')",
    ))
    .bind(workspace.as_bytes().as_slice())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(read(row)?.record)).collect()
}

/// The workspaces of the keys that have these chains, each once. A key's workspace never changes.
///
/// # Errors
/// [`StoreError`].
pub async fn workspaces_of(connection: &mut Conn, chains: &[ChainId]) -> Result<Vec<WorkspaceId>, StoreError> {
    let Engine::Postgres(connection) = connection.engine() else {
        return Ok(Vec::new());
    };
    let chains: Vec<&[u8]> = chains.iter().map(|chain| chain.as_bytes().as_slice()).collect();
    let select = sqlx::query("SELECT DISTINCT workspace_id FROM virtual_keys WHERE chain_id = ANY($1)").bind(chains);
    let rows = select.fetch_all(connection).await?.into_iter().map(Row::Postgres);
    rows.map(|row| column::bytes(&row, "workspace_id", WorkspaceId::from_slice)).collect()
}

/// Up to `count` keys, newest first, from `after` on.
///
/// # Errors
/// [`StoreError`].
pub async fn page(connection: &mut Conn, after: Option<After>, count: u32) -> Result<Vec<StoredKey>, StoreError> {
    let (created_at, id) = before(after);
    let rows = sql::query(
        "SELECT * FROM virtual_keys WHERE created_at < $1 OR (created_at = $2 AND key_id < $3) \
         ORDER BY created_at DESC, key_id DESC LIMIT $4",
    )
    .bind(created_at)
    .bind(created_at)
    .bind(id)
    .bind(i64::from(count))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// The same of one workspace's keys. Those of others are not read, so that how long it takes says nothing about them.
///
/// # Errors
/// [`StoreError`].
pub async fn page_in(
    connection: &mut Conn,
    workspace: WorkspaceId,
    after: Option<After>,
    count: u32,
) -> Result<Vec<StoredKey>, StoreError> {
    let (created_at, id) = before(after);
    let rows = sql::query(
        "SELECT * FROM virtual_keys WHERE workspace_id = $1 AND (created_at, key_id) < ($2, $3) \
         ORDER BY created_at DESC, key_id DESC LIMIT $4",
    )
    .bind(workspace.as_bytes().as_slice())
    .bind(created_at)
    .bind(id)
    .bind(i64::from(count))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// What every key of a page is older than.
fn before(after: Option<After>) -> (i64, String) {
    // Text compares by bytes, so that every text is below this one.
    after.map_or((i64::MAX, "~".to_owned()), |after| (after.created_at.nanos(), after.id.as_str().to_owned()))
}

/// Every key, as nodes know them.
///
/// # Errors
/// [`StoreError`].
pub async fn all(connection: &mut Conn) -> Result<Vec<KeyRecord>, StoreError> {
    let rows = sql::query("SELECT * FROM virtual_keys").fetch_all(connection).await?;
    rows.iter().map(|row| Ok(read(row)?.record)).collect()
}

fn read(row: &Row) -> Result<StoredKey, StoreError> {
    let revoked_at: Option<i64> = row.try_get("revoked_at")?;
    let record = KeyRecord {
        id: column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?,
        digest: TokenDigest(column::bytes32(row, "token_digest")?),
        name: row.try_get("name")?,
        status: column::word(row, "status", KeyStatus::from_word)?,
        status_revision: column::unsigned(row, "status_revision")?,
        policy: column::word(row, "policy", |text| serde_json::from_str(text).ok().map(Arc::new))?,
        chain: column::bytes(row, "chain_id", ChainId::from_slice)?,
        workspace: column::bytes(row, "workspace_id", WorkspaceId::from_slice)?,
    };
    Ok(StoredKey {
        record,
        created_at: column::time(row, "created_at")?,
        revoked_at: revoked_at.map(Timestamp::from_nanos),
        revision: column::unsigned(row, "revision")?,
    })
}

fn policy_text(policy: &Policy) -> Result<String, StoreError> {
    serde_json::to_string(policy).map_err(|_| StoreError::Range("the policy"))
}
