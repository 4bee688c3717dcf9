//! Virtual keys. Of a token only its digest is stored; a policy is stored as JSON, and its end once more beside it.

use std::sync::Arc;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, KeyId, WorkspaceId};
use keyforge_shared::policy::Policy;
use keyforge_shared::state::{FormerToken, KeyRecord, KeyStatus};
use keyforge_shared::token::TokenDigest;
use sqlx::AssertSqlSafe;

use super::key_labels::{self, Labels};
use super::sql::{self, Bind as _, Conn, Engine, Row, Value};
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
    /// What people sort it by.
    pub labels: Labels,
}

/// Which keys a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of one workspace. Those of others are then not read, so that how long it takes says nothing about them.
    pub workspace: Option<WorkspaceId>,
    /// Those that have all of these labels.
    pub labels: Labels,
    /// Those that are not revoked and end from the first of these moments on, and before the second.
    pub expiring: Option<(Timestamp, Timestamp)>,
}

/// Where a page of keys goes on: after the key that was made at this time and has this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// When the last key of the page before was made.
    pub created_at: Timestamp,
    /// Its id.
    pub id: KeyId,
}

/// Adds a key, with its labels.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(connection: &mut Conn, key: &StoredKey) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO virtual_keys (name, status, status_revision, policy, expires_at, revoked_at, revision, key_id, token_digest, \
             former_digest, former_until, chain_id, workspace_id, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(key.record.name.as_str())
    .bind(key.record.status.stored())
    .bind(column::signed(key.record.status_revision, "the revision")?)
    .bind(policy_text(&key.record.policy)?)
    .bind(key.record.policy.expires_at.map(Timestamp::nanos))
    .bind(key.revoked_at.map(Timestamp::nanos))
    .bind(column::signed(key.revision, "the revision")?)
    .bind(key.record.id.as_str())
    .bind(key.record.digest.0.as_slice())
    .bind(former_digest(&key.record))
    .bind(former_until(&key.record))
    .bind(key.record.chain.as_bytes().as_slice())
    .bind(key.record.workspace.as_bytes().as_slice())
    .bind(key.created_at.nanos())
    .execute(&mut *connection)
    .await?;
    key_labels::replace(connection, key.record.id, &key.labels).await
}

/// Writes everything of a key that can change, but for its labels: not its workspace.
///
/// # Errors
/// [`StoreError`].
pub async fn update(connection: &mut Conn, key: &StoredKey) -> Result<(), StoreError> {
    sql::query(
        "UPDATE virtual_keys SET name = $1, status = $2, status_revision = $3, policy = $4, expires_at = $5, revoked_at = $6, \
             revision = $7, token_digest = $8, former_digest = $9, former_until = $10 \
         WHERE key_id = $11",
    )
    .bind(key.record.name.as_str())
    .bind(key.record.status.stored())
    .bind(column::signed(key.record.status_revision, "the revision")?)
    .bind(policy_text(&key.record.policy)?)
    .bind(key.record.policy.expires_at.map(Timestamp::nanos))
    .bind(key.revoked_at.map(Timestamp::nanos))
    .bind(column::signed(key.revision, "the revision")?)
    .bind(key.record.digest.0.as_slice())
    .bind(former_digest(&key.record))
    .bind(former_until(&key.record))
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
    let Some(row) = row(connection, id).await? else { return Ok(None) };
    let found = labelled(connection, &[row]).await?;
    Ok(found.into_iter().next())
}

/// The key with this id, as nodes know it.
///
/// # Errors
/// [`StoreError`].
pub async fn record(connection: &mut Conn, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
    row(connection, id).await?.as_ref().map(read_record).transpose()
}

async fn row(connection: &mut Conn, id: KeyId) -> Result<Option<Row>, StoreError> {
    let query = sql::query("SELECT * FROM virtual_keys WHERE key_id = $1").bind(id.as_str());
    Ok(query.fetch_optional(connection).await?)
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
    rows.iter().map(read_record).collect()
}

/// The workspaces of the keys that have these chains, each once. A key's workspace never changes.
///
/// # Errors
/// [`StoreError`].
pub async fn workspaces_of(connection: &mut Conn, chains: &[ChainId]) -> Result<Vec<WorkspaceId>, StoreError> {
    let Engine::Postgres(connection, patience) = connection.engine()? else {
        return Ok(Vec::new());
    };
    let chains: Vec<&[u8]> = chains.iter().map(|chain| chain.as_bytes().as_slice()).collect();
    let select = sqlx::query("SELECT DISTINCT workspace_id FROM virtual_keys WHERE chain_id = ANY($1)").bind(chains);
    let rows = patience.wait(select.fetch_all(connection)).await?.into_iter().map(Row::Postgres);
    rows.map(|row| column::bytes(&row, "workspace_id", WorkspaceId::from_slice)).collect()
}

/// Up to `count` keys that `filter` lets through, newest first, from `after` on.
///
/// # Errors
/// [`StoreError`].
pub async fn page(
    connection: &mut Conn,
    filter: &Filter,
    after: Option<After>,
    count: u32,
) -> Result<Vec<StoredKey>, StoreError> {
    // Text compares by bytes, so that every text is below this one.
    let (created_at, id) =
        after.map_or((i64::MAX, "~".to_owned()), |after| (after.created_at.nanos(), after.id.as_str().to_owned()));
    let (mut statement, mut values): (_, Vec<Value<'_>>) = match &filter.workspace {
        Some(own) => (
            "SELECT * FROM virtual_keys WHERE workspace_id = $1 AND (created_at, key_id) < ($2, $3)".to_owned(),
            vec![own.as_bytes().as_slice().value(), created_at.value(), id.value()],
        ),
        None => (
            "SELECT * FROM virtual_keys WHERE (created_at < $1 OR (created_at = $2 AND key_id < $3))".to_owned(),
            vec![created_at.value(), created_at.value(), id.value()],
        ),
    };
    for (name, value) in &filter.labels {
        let place = values.len();
        statement.push_str(&format!(
            " AND EXISTS (SELECT 1 FROM key_labels \
             WHERE key_labels.key_id = virtual_keys.key_id AND key_labels.name = ${} AND key_labels.value = ${})",
            place + 1,
            place + 2,
        ));
        values.extend([name.as_str().value(), value.as_str().value()]);
    }
    if let Some((from, until)) = filter.expiring {
        let place = values.len();
        let ends = format!(" AND status <> 'revoked' AND expires_at >= ${} AND expires_at < ${}", place + 1, place + 2);
        statement.push_str(&ends);
        values.extend([from.nanos().value(), until.nanos().value()]);
    }
    statement.push_str(&format!(" ORDER BY created_at DESC, key_id DESC LIMIT ${}", values.len() + 1));
    values.push(count.value());
    let query = values.into_iter().fold(sql::query(AssertSqlSafe(statement)), sql::Query::bind);
    let rows = query.fetch_all(connection).await?;
    labelled(connection, &rows).await
}

/// How many keys are not revoked and end from `from` on and before `until`.
///
/// # Errors
/// [`StoreError`].
pub async fn count_expiring(connection: &mut Conn, from: Timestamp, until: Timestamp) -> Result<u64, StoreError> {
    let row = sql::query(
        "SELECT count(*) AS keys FROM virtual_keys WHERE status <> 'revoked' AND expires_at >= $1 AND expires_at < $2",
    )
    .bind(from.nanos())
    .bind(until.nanos())
    .fetch_one(connection)
    .await?;
    column::unsigned(&row, "keys")
}

/// Every key, as nodes know them.
///
/// # Errors
/// [`StoreError`].
pub async fn all(connection: &mut Conn) -> Result<Vec<KeyRecord>, StoreError> {
    let rows = sql::query("SELECT * FROM virtual_keys").fetch_all(connection).await?;
    rows.iter().map(read_record).collect()
}

/// The keys of these rows, with their labels.
async fn labelled(connection: &mut Conn, rows: &[Row]) -> Result<Vec<StoredKey>, StoreError> {
    let mut keys = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<_> = keys.iter().map(|key| key.record.id).collect();
    let mut labels = key_labels::of(connection, &ids).await?;
    for key in &mut keys {
        key.labels = labels.remove(&key.record.id).unwrap_or_default();
    }
    Ok(keys)
}

/// A key without its labels.
fn read(row: &Row) -> Result<StoredKey, StoreError> {
    let revoked_at: Option<i64> = row.try_get("revoked_at")?;
    Ok(StoredKey {
        record: read_record(row)?,
        created_at: column::time(row, "created_at")?,
        revoked_at: revoked_at.map(Timestamp::from_nanos),
        revision: column::unsigned(row, "revision")?,
        labels: Labels::new(),
    })
}

fn former_digest(key: &KeyRecord) -> Option<&[u8]> {
    key.former.as_ref().map(|former| former.digest.0.as_slice())
}

fn former_until(key: &KeyRecord) -> Option<i64> {
    key.former.as_ref()?.until.map(Timestamp::nanos)
}

fn read_record(row: &Row) -> Result<KeyRecord, StoreError> {
    let former: Option<&[u8]> = row.try_get("former_digest")?;
    let until: Option<i64> = row.try_get("former_until")?;
    let former = former.map(|digest| {
        let digest = TokenDigest(digest.try_into().map_err(|_| StoreError::Corrupt("former_digest"))?);
        Ok::<_, StoreError>(Box::new(FormerToken { digest, until: until.map(Timestamp::from_nanos) }))
    });
    Ok(KeyRecord {
        id: column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?,
        digest: TokenDigest(column::bytes32(row, "token_digest")?),
        name: row.try_get("name")?,
        status: column::word(row, "status", KeyStatus::from_stored)?,
        status_revision: column::unsigned(row, "status_revision")?,
        policy: column::word(row, "policy", |text| serde_json::from_str(text).ok().map(Arc::new))?,
        chain: column::bytes(row, "chain_id", ChainId::from_slice)?,
        workspace: column::bytes(row, "workspace_id", WorkspaceId::from_slice)?,
        former: former.transpose()?,
    })
}

fn policy_text(policy: &Policy) -> Result<String, StoreError> {
    serde_json::to_string(policy).map_err(|_| StoreError::Range("the policy"))
}
