//! Boots as rows: how far each life of a node has shipped its records, and how it ended: in good order, or with records lost.

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
    /// When records of it were declared lost, if they were.
    pub lost_at: Option<Timestamp>,
}

/// Reads a boot; `None` when it never shipped anything.
///
/// # Errors
/// [`StoreError`].
pub async fn get(conn: &mut SqliteConnection, boot: BootId) -> Result<Option<Boot>, StoreError> {
    let row = sqlx::query("SELECT node_id, watermark, lost_at FROM boots WHERE boot_id = ?")
        .bind(boot.as_bytes().as_slice())
        .fetch_optional(conn)
        .await?;
    let read = |row: &SqliteRow| {
        Ok(Boot {
            node: column::bytes(row, "node_id", NodeId::from_slice)?,
            watermark: column::unsigned(row, "watermark")?,
            lost_at: row.try_get::<Option<i64>, _>("lost_at")?.map(Timestamp::from_nanos),
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

/// Declares that records of a boot are lost. The first declaration stands.
///
/// # Errors
/// [`StoreError`].
pub async fn declare_lost(conn: &mut SqliteConnection, boot: BootId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE boots SET lost_at = ? WHERE boot_id = ? AND lost_at IS NULL")
        .bind(now.nanos())
        .bind(boot.as_bytes().as_slice())
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes that a boot, known or not, ended in good order. The first note stands.
///
/// # Errors
/// [`StoreError`].
pub async fn close(conn: &mut SqliteConnection, boot: BootId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO closed_boots (boot_id, closed_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(boot.as_bytes().as_slice())
        .bind(now.nanos())
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether a boot's life is over: closed, or with records declared lost.
///
/// # Errors
/// [`StoreError`].
pub async fn is_over(conn: &mut SqliteConnection, boot: BootId) -> Result<bool, StoreError> {
    let over = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM closed_boots WHERE boot_id = ?1) \
             OR EXISTS (SELECT 1 FROM boots WHERE boot_id = ?1 AND lost_at IS NOT NULL)",
    );
    Ok(over.bind(boot.as_bytes().as_slice()).fetch_one(conn).await?)
}

/// What is stored of a boot's records that should be 1 to its watermark, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stocktaking {
    /// The boot's bytes, unchecked.
    pub boot: Vec<u8>,
    /// The stored watermark; `None` when there is no such boot although entries name it.
    pub watermark: Option<i64>,
    /// How many entries name the boot.
    pub entries: i64,
    /// The first place in the order of their numbers whose entry has another number, and that number.
    pub first_astray: Option<(i64, i64)>,
}

/// Counts the records of the next boot after `after`, in the order of ids, of all that the table or an entry names; `None` after the last.
///
/// # Errors
/// [`StoreError`].
pub async fn stocktaking_after(conn: &mut SqliteConnection, after: &[u8]) -> Result<Option<Stocktaking>, StoreError> {
    // Each half is one step in an index, so the walk costs as much as there are boots.
    let next: Option<Vec<u8>> = sqlx::query_scalar(
        "SELECT min(boot_id) FROM (SELECT min(boot_id) AS boot_id FROM boots WHERE boot_id > ?1 \
         UNION ALL SELECT min(boot_id) FROM entries WHERE boot_id IS NOT NULL AND boot_id > ?1)",
    )
    .bind(after)
    .fetch_one(&mut *conn)
    .await?;
    let Some(boot) = next else { return Ok(None) };
    let counts = sqlx::query_as(
        "SELECT (SELECT watermark FROM boots WHERE boot_id = ?1), (SELECT count(*) FROM entries WHERE boot_id = ?1)",
    );
    let (watermark, entries) = counts.bind(boot.as_slice()).fetch_one(&mut *conn).await?;
    // Read off the index in order; a number of its own kind (NULL, text) is astray, too.
    let astray = sqlx::query_as(
        "SELECT place, coalesce(node_seq, 0) FROM \
         (SELECT node_seq, row_number() OVER (ORDER BY node_seq) AS place FROM entries WHERE boot_id = ?) \
         WHERE node_seq IS NOT place LIMIT 1",
    );
    let first_astray = astray.bind(boot.as_slice()).fetch_optional(conn).await?;
    Ok(Some(Stocktaking { boot, watermark, entries, first_astray }))
}
