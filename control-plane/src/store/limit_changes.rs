//! When limits were last changed, as rows.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, WorkspaceId};

use super::sql::{self, Conn};
use super::{StoreError, column};

/// Whose limits they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A key.
    Key(KeyId),
    /// A workspace.
    Workspace(WorkspaceId),
}

impl Owner {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Key(id) => id.as_str().as_bytes(),
            Self::Workspace(id) => id.as_bytes(),
        }
    }
}

/// Notes that limits are changed now.
///
/// # Errors
/// [`StoreError`].
pub async fn note(conn: &mut Conn, owner: Owner, now: Timestamp) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO limit_changes (owner, changed_at) VALUES ($1, $2) \
         ON CONFLICT (owner) DO UPDATE SET changed_at = excluded.changed_at WHERE limit_changes.changed_at < excluded.changed_at",
    )
    .bind(owner.bytes())
    .bind(now.nanos())
    .execute(conn)
    .await?;
    Ok(())
}

/// When limits were last changed; `None` for never.
///
/// # Errors
/// [`StoreError`].
pub async fn latest(conn: &mut Conn, owner: Owner) -> Result<Option<Timestamp>, StoreError> {
    let select = sql::query("SELECT changed_at FROM limit_changes WHERE owner = $1").bind(owner.bytes());
    let row = select.fetch_optional(conn).await?;
    row.as_ref().map(|row| column::time(row, "changed_at")).transpose()
}
