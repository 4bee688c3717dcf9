//! Boots as rows: how far each life of a node has shipped its records, and how it ended: in good order, or with records lost.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};

use super::sql::{self, Conn, Engine, Row};
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
pub async fn get(conn: &mut Conn, boot: BootId) -> Result<Option<Boot>, StoreError> {
    let row = sql::query("SELECT node_id, watermark, lost_at FROM boots WHERE boot_id = $1")
        .bind(boot.as_bytes().as_slice())
        .fetch_optional(conn)
        .await?;
    let read = |row: &Row| {
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
async fn insert(conn: &mut Conn, boot: BootId, node: NodeId, now: Timestamp) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO boots (boot_id, node_id, first_seen, watermark) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING",
    )
    .bind(boot.as_bytes().as_slice())
    .bind(node.as_bytes().as_slice())
    .bind(now.nanos())
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes a boot known, if it is not, and holds its row, so that nobody else chains records of it at the same time.
///
/// # Errors
/// [`StoreError`].
pub async fn hold(conn: &mut Conn, boot: BootId, node: NodeId, now: Timestamp) -> Result<Boot, StoreError> {
    insert(conn, boot, node, now).await?;
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        let held = sqlx::query("SELECT 1 FROM boots WHERE boot_id = $1 FOR UPDATE").bind(boot.as_bytes().as_slice());
        patience.wait(held.execute(connection)).await?;
    }
    get(conn, boot).await?.ok_or(StoreError::Corrupt("boots"))
}

/// Moves a boot's watermark.
///
/// # Errors
/// [`StoreError`].
pub async fn set_watermark(conn: &mut Conn, boot: BootId, watermark: u64) -> Result<(), StoreError> {
    sql::query("UPDATE boots SET watermark = $1 WHERE boot_id = $2")
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
pub async fn declare_lost(conn: &mut Conn, boot: BootId, now: Timestamp) -> Result<(), StoreError> {
    sql::query("UPDATE boots SET lost_at = $1 WHERE boot_id = $2 AND lost_at IS NULL")
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
pub async fn close(conn: &mut Conn, boot: BootId, now: Timestamp) -> Result<(), StoreError> {
    sql::query("INSERT INTO closed_boots (boot_id, closed_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
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
pub async fn is_over(conn: &mut Conn, boot: BootId) -> Result<bool, StoreError> {
    let over = sql::query(
        "SELECT EXISTS (SELECT 1 FROM closed_boots WHERE boot_id = $1) \
             OR EXISTS (SELECT 1 FROM boots WHERE boot_id = $1 AND lost_at IS NOT NULL)",
    );
    Ok(over.bind(boot.as_bytes().as_slice()).fetch_one(conn).await?.try_get(0)?)
}

/// What is stored of a boot's records that should be 1 to its watermark, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stocktaking {
    /// The boot's bytes, unchecked.
    pub boot: Vec<u8>,
    /// The stored watermark; `None` when there is no such boot although entries name it.
    pub watermark: Option<i64>,
    /// How many records of the boot are chained or told of.
    pub entries: i64,
    /// The first place in the order of their numbers that has another number, and that number.
    pub first_astray: Option<(i64, i64)>,
}

/// The next boot after `after`, in the order of ids, of all that the table or an entry names; `None` after the last.
///
/// # Errors
/// [`StoreError`].
pub async fn named_after(conn: &mut Conn, after: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    // Each half is one step in an index, so the walk costs as much as there are boots.
    let next = sql::query(
        "SELECT boot_id FROM (SELECT boot_id FROM (SELECT boot_id FROM boots WHERE boot_id > $1 ORDER BY boot_id LIMIT 1) AS known \
         UNION ALL SELECT boot_id FROM (SELECT boot_id FROM entries WHERE boot_id IS NOT NULL AND boot_id > $1 \
             ORDER BY boot_id LIMIT 1) AS named) AS next ORDER BY boot_id LIMIT 1",
    )
    .bind(after);
    Ok(next.fetch_value(conn).await?)
}

/// Counts the records of a boot: those that are chained, and `told`, runs of first and last numbers that are told of elsewhere.
///
/// # Errors
/// [`StoreError`].
pub async fn stocktaking(conn: &mut Conn, boot: Vec<u8>, told: &[(u64, u64)]) -> Result<Stocktaking, StoreError> {
    let counts = sql::query(
        "SELECT (SELECT watermark FROM boots WHERE boot_id = $1), (SELECT count(node_seq) FROM entries WHERE boot_id = $1)",
    );
    let counts = counts.bind(boot.as_slice()).fetch_one(conn).await?;
    let (watermark, chained): (_, i64) = (counts.try_get(0)?, counts.try_get(1)?);
    let first_astray =
        if told.is_empty() { first_astray(conn, &boot).await? } else { first_astray_beside(conn, &boot, told).await? };
    let told = told.iter().map(|(first, last)| last.saturating_sub(*first).saturating_add(1));
    let told = i64::try_from(told.fold(0, u64::saturating_add)).unwrap_or(i64::MAX);
    Ok(Stocktaking { boot, watermark, entries: chained.saturating_add(told), first_astray })
}

/// Read off the index in order; a number of its own kind (NULL, text) is astray, too.
async fn first_astray(conn: &mut Conn, boot: &[u8]) -> Result<Option<(i64, i64)>, StoreError> {
    let astray = sql::query(
        "SELECT place, coalesce(node_seq, 0) FROM \
         (SELECT node_seq, row_number() OVER (ORDER BY node_seq) AS place FROM entries WHERE boot_id = $1) AS numbered \
         WHERE node_seq IS DISTINCT FROM place LIMIT 1",
    );
    let astray = astray.bind(boot).fetch_optional(conn).await?;
    astray.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

macro_rules! astray_beside {
    ($told:literal) => {
        concat!(
            "SELECT place, low FROM (SELECT low, \
                 CAST(1 + coalesce(sum(high - low + 1) OVER (ORDER BY low ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS BIGINT) AS place \
                 FROM (SELECT node_seq AS low, node_seq AS high FROM entries WHERE boot_id = $1 AND node_seq IS NOT NULL UNION ALL ",
            $told,
            ") AS known) AS numbered WHERE low <> place LIMIT 1"
        )
    };
}

/// The same where runs of numbers are told of beside what is chained: each run takes as many places as it is long.
async fn first_astray_beside(
    conn: &mut Conn,
    boot: &[u8],
    told: &[(u64, u64)],
) -> Result<Option<(i64, i64)>, StoreError> {
    let astray = sql::query(conn.either(
        astray_beside!("SELECT value ->> 0 AS low, value ->> 1 AS high FROM json_each($2)"),
        astray_beside!(
            "SELECT (value ->> 0)::bigint AS low, (value ->> 1)::bigint AS high FROM json_array_elements($2::json)"
        ),
    ));
    let runs = serde_json::to_string(told).map_err(|_| StoreError::Range("told"))?;
    let astray = astray.bind(boot).bind(runs).fetch_optional(conn).await?;
    astray.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}
