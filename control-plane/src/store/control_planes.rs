//! The control planes that share the database, as each says of itself, and those that are gone.
//!
//! Every moment here is of the database server's clock, so that the control planes' own are not compared. Whoever is marked as gone by mistake puts
//! that right when it says the next time that it is there. Each row comes with its seal; whether that holds, [`crate::registry`] looks.

use std::time::Duration;

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::clock::Timestamp;

use super::node_lists::{self, AgedLife};
use super::sql::{self, Conn, Row};
use super::{StoreError, column};

/// A control plane as its row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPlane {
    /// Which process.
    pub id: [u8; 16],
    /// How operators know it.
    pub name: String,
    /// Whoever told nodes since then that their state is fresh has a row.
    pub known_since: Timestamp,
    /// How long its nodes serve keys that have no bound of their own.
    pub max_staleness: Duration,
    /// When it last said that it is there.
    pub seen_at: Timestamp,
    /// Since when it is gone, if it is.
    pub gone: Option<Gone>,
}

/// How a control plane went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// It told no node since then that its state is fresh; [`Gone::NOT_YET_KNOWN`] while that is not known.
    pub at: Timestamp,
    /// The lives of nodes that it had told, as it knew them when it left, if it left by itself.
    pub left: Option<Vec<AgedLife>>,
}

impl Gone {
    /// Whoever marks a control plane does not know when the mark will be in the database: from then on it has force.
    pub const NOT_YET_KNOWN: Timestamp = Timestamp::MAX;
}

impl KnownPlane {
    /// The bytes that its seal is over.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let Self { id, name, known_since, max_staleness, seen_at, gone } = self;
        let mut writer = Writer::default();
        writer.raw(id).str(name).i64(known_since.nanos());
        writer.u64(u64::try_from(max_staleness.as_nanos()).unwrap_or(u64::MAX)).i64(seen_at.nanos());
        if let Some(Gone { at, left }) = gone {
            writer.u8(1).i64(at.nanos());
            if let Some(left) = left {
                writer.u8(1).bytes(&node_lists::of_lives(left));
            }
        }
        writer.finish()
    }
}

/// The database server's clock.
///
/// # Errors
/// [`StoreError`].
pub async fn now(conn: &mut Conn) -> Result<Timestamp, StoreError> {
    let select = conn.either(
        "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000000",
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000",
    );
    let nanos = sql::query(select).fetch_value(conn).await?;
    Ok(Timestamp::from_nanos(nanos.ok_or(StoreError::Corrupt("the clock"))?))
}

/// Writes a row in place of the one of the same process.
///
/// # Errors
/// [`StoreError`].
pub async fn put(conn: &mut Conn, plane: &KnownPlane, seal: &[u8; 32]) -> Result<(), StoreError> {
    let max_staleness = column::signed(u64::try_from(plane.max_staleness.as_nanos()).unwrap_or(u64::MAX), "a bound")?;
    let left = plane.gone.as_ref().and_then(|gone| gone.left.as_deref()).map(node_lists::of_lives);
    sql::query(
        "INSERT INTO control_planes (control_plane_id, name, known_since, max_staleness, seen_at, gone_at, left_lives, seal) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (control_plane_id) DO UPDATE SET name = excluded.name, \
         known_since = excluded.known_since, max_staleness = excluded.max_staleness, seen_at = excluded.seen_at, \
         gone_at = excluded.gone_at, left_nodes = NULL, left_lives = excluded.left_lives, seal = excluded.seal",
    )
    .bind(plane.id.as_slice())
    .bind(plane.name.as_str())
    .bind(plane.known_since.nanos())
    .bind(max_staleness)
    .bind(plane.seen_at.nanos())
    .bind(plane.gone.as_ref().map(|gone| gone.at.nanos()))
    .bind(left)
    .bind(seal.as_slice())
    .execute(conn)
    .await?;
    Ok(())
}

/// A control plane's row and its seal.
///
/// # Errors
/// [`StoreError`].
pub async fn get(conn: &mut Conn, id: &[u8; 16]) -> Result<Option<(KnownPlane, Vec<u8>)>, StoreError> {
    let select = "SELECT control_plane_id, name, known_since, max_staleness, seen_at, gone_at, left_lives, seal FROM control_planes \
                  WHERE control_plane_id = $1";
    let row = sql::query(select).bind(id.as_slice()).fetch_optional(conn).await?;
    row.as_ref().map(read).transpose()
}

/// The same, and nobody else changes the row before the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub async fn hold(conn: &mut Conn, id: &[u8; 16]) -> Result<Option<(KnownPlane, Vec<u8>)>, StoreError> {
    // In SQLite there is one writer at a time.
    if let Some(lock) = conn.either(None, Some("SELECT 1 FROM control_planes WHERE control_plane_id = $1 FOR UPDATE")) {
        sql::query(lock).bind(id.as_slice()).fetch_optional(conn).await?;
    }
    get(conn, id).await
}

/// Forgets those that were gone before a moment.
///
/// # Errors
/// [`StoreError`].
pub async fn forget_before(conn: &mut Conn, moment: Timestamp) -> Result<(), StoreError> {
    sql::query("DELETE FROM control_planes WHERE gone_at < $1").bind(moment.nanos()).execute(conn).await?;
    Ok(())
}

/// Those whose nodes may be serving a key at `now`, by their names, each with its seal: all that are there, and those that are gone for no longer than the
/// key's own bound, or without one theirs.
///
/// # Errors
/// [`StoreError`].
pub async fn that_count(
    conn: &mut Conn,
    bound: Option<Duration>,
    now: Timestamp,
) -> Result<Vec<(KnownPlane, Vec<u8>)>, StoreError> {
    let bound =
        bound.map(|bound| i64::try_from(bound.as_nanos()).map_err(|_| StoreError::Range("a bound on staleness")));
    let select = "SELECT control_plane_id, name, known_since, max_staleness, seen_at, gone_at, left_lives, seal FROM control_planes \
         WHERE gone_at IS NULL OR gone_at >= $1 - COALESCE($2, max_staleness) ORDER BY name, control_plane_id";
    let rows = sql::query(select).bind(now.nanos()).bind(bound.transpose()?).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

/// What no row of ours has is read as something else, for which its seal does not hold.
fn read(row: &Row) -> Result<(KnownPlane, Vec<u8>), StoreError> {
    let left = row.try_get::<Option<&[u8]>, _>("left_lives")?;
    let left = left.and_then(|bytes| node_lists::lives(bytes, "left_lives").ok());
    let gone_at = row.try_get::<Option<i64>, _>("gone_at")?;
    let max_staleness = u64::try_from(row.try_get::<i64, _>("max_staleness")?).unwrap_or(u64::MAX);
    let plane = KnownPlane {
        id: column::bytes(row, "control_plane_id", |bytes| bytes.try_into().ok())?,
        name: row.try_get("name")?,
        known_since: column::time(row, "known_since")?,
        max_staleness: Duration::from_nanos(max_staleness),
        seen_at: column::time(row, "seen_at")?,
        gone: gone_at.map(|at| Gone { at: Timestamp::from_nanos(at), left }),
    };
    Ok((plane, row.try_get("seal")?))
}
