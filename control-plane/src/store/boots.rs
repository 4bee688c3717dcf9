//! Boots as rows: how far each life of a node has shipped its records, and whether it was declared over.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, column};

/// How far a boot has shipped.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Its node.
    pub node: NodeId,
    /// Every record up to this number is chained.
    pub watermark: u64,
    /// When its life was declared over, if it was.
    pub closed_at: Option<Timestamp>,
}

/// Reads a boot; `None` when it never shipped anything.
///
/// # Errors
/// [`StoreError`].
pub async fn get(conn: &mut SqliteConnection, boot: BootId) -> Result<Option<Boot>, StoreError> {
    let row = sqlx::query("SELECT node_id, watermark, closed_at FROM boots WHERE boot_id = ?")
        .bind(boot.as_bytes().as_slice())
        .fetch_optional(conn)
        .await?;
    let read = |row: &SqliteRow| {
        Ok(Boot {
            node: column::bytes(row, "node_id", NodeId::from_slice)?,
            watermark: column::unsigned(row, "watermark")?,
            closed_at: row.try_get::<Option<i64>, _>("closed_at")?.map(Timestamp::from_nanos),
        })
    };
    row.as_ref().map(read).transpose()
}

/// Makes a boot known, if it is not.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(conn: &mut SqliteConnection, boot: BootId, node: NodeId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO boots (boot_id, node_id, first_seen, watermark) VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
    )
    .bind(boot.as_bytes().as_slice())
    .bind(node.as_bytes().as_slice())
    .bind(now.nanos())
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves a boot's watermark.
///
/// # Errors
/// [`StoreError`].
pub async fn set_watermark(conn: &mut SqliteConnection, boot: BootId, watermark: u64) -> Result<(), StoreError> {
    sqlx::query("UPDATE boots SET watermark = ? WHERE boot_id = ?")
        .bind(column::signed(watermark, "watermark")?)
        .bind(boot.as_bytes().as_slice())
        .execute(conn)
        .await?;
    Ok(())
}

/// Declares a boot's life over. The first declaration stands.
///
/// # Errors
/// [`StoreError`].
pub async fn close(conn: &mut SqliteConnection, boot: BootId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE boots SET closed_at = ? WHERE boot_id = ? AND closed_at IS NULL")
        .bind(now.nanos())
        .bind(boot.as_bytes().as_slice())
        .execute(conn)
        .await?;
    Ok(())
}
