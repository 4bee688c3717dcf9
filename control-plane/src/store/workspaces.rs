//! Workspaces: keys that share limits, which are stored as JSON.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::WorkspaceId;
use keyforge_shared::plan::Plan;
use keyforge_shared::state::WorkspaceRecord;
use serde::Serialize;

use super::sql::{self, Conn, Row};
use super::{StoreError, column};

/// A workspace with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWorkspace {
    /// What nodes know.
    pub record: WorkspaceRecord,
    /// When it was made.
    pub created_at: Timestamp,
    /// State revision of its last change.
    pub revision: u64,
}

/// Adds a workspace.
///
/// # Errors
/// [`StoreError`]; also when there is one of this name.
pub async fn insert(connection: &mut Conn, workspace: &StoredWorkspace) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO workspaces (request_limits, spend_limits, plan, revision, workspace_id, name, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(limits_text(&workspace.record.request_limits)?)
    .bind(limits_text(&workspace.record.spend_limits)?)
    .bind(workspace.record.plan.as_str())
    .bind(column::signed(workspace.revision, "the revision")?)
    .bind(workspace.record.id.as_bytes().as_slice())
    .bind(workspace.record.name.as_str())
    .bind(workspace.created_at.nanos())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes everything of a workspace that can change.
///
/// # Errors
/// [`StoreError`].
pub async fn update(connection: &mut Conn, workspace: &StoredWorkspace) -> Result<(), StoreError> {
    sql::query(
        "UPDATE workspaces SET name = $1, request_limits = $2, spend_limits = $3, plan = $4, revision = $5 WHERE workspace_id = $6",
    )
    .bind(workspace.record.name.as_str())
    .bind(limits_text(&workspace.record.request_limits)?)
    .bind(limits_text(&workspace.record.spend_limits)?)
    .bind(workspace.record.plan.as_str())
    .bind(column::signed(workspace.revision, "the revision")?)
    .bind(workspace.record.id.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes a workspace that no key belongs to.
///
/// # Errors
/// [`StoreError`]; also when a key belongs to it.
pub async fn delete(connection: &mut Conn, id: WorkspaceId) -> Result<(), StoreError> {
    let delete = sql::query("DELETE FROM workspaces WHERE workspace_id = $1");
    delete.bind(id.as_bytes().as_slice()).execute(connection).await?;
    Ok(())
}

/// The workspace with this id.
///
/// # Errors
/// [`StoreError`].
pub async fn get(connection: &mut Conn, id: WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
    let row = sql::query("SELECT * FROM workspaces WHERE workspace_id = $1")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Up to `count` workspaces by name, after the one named `after`; an empty name is before all.
///
/// # Errors
/// [`StoreError`].
pub async fn list(connection: &mut Conn, after: &str, count: u32) -> Result<Vec<StoredWorkspace>, StoreError> {
    let rows = sql::query("SELECT * FROM workspaces WHERE name > $1 ORDER BY name LIMIT $2")
        .bind(after)
        .bind(i64::from(count))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// Every workspace, as nodes know them.
///
/// # Errors
/// [`StoreError`].
pub async fn all(connection: &mut Conn) -> Result<Vec<WorkspaceRecord>, StoreError> {
    let rows = sql::query("SELECT * FROM workspaces").fetch_all(connection).await?;
    rows.iter().map(|row| Ok(read(row)?.record)).collect()
}

fn read(row: &Row) -> Result<StoredWorkspace, StoreError> {
    let record = WorkspaceRecord {
        id: column::bytes(row, "workspace_id", WorkspaceId::from_slice)?,
        name: row.try_get("name")?,
        request_limits: column::word(row, "request_limits", |text| serde_json::from_str(text).ok())?,
        spend_limits: column::word(row, "spend_limits", |text| serde_json::from_str(text).ok())?,
        plan: column::word(row, "plan", Plan::from_word)?,
    };
    Ok(StoredWorkspace {
        record,
        created_at: column::time(row, "created_at")?,
        revision: column::unsigned(row, "revision")?,
    })
}

fn limits_text(limits: &[impl Serialize]) -> Result<String, StoreError> {
    serde_json::to_string(limits).map_err(|_| StoreError::Range("the limits of a workspace"))
}
