//! The control planes that share the database, as each says of itself, and those that are gone.
//!
//! Every moment here is of the database server's clock, so that the control planes' own are not compared. Whoever is marked as gone by mistake puts
//! that right when it says the next time that it is there.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::NodeId;

use super::sql::{self, Conn, Row};
use super::{StoreError, column, node_lists};

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
    /// It told no node since then that its state is fresh.
    pub at: Timestamp,
    /// The nodes that it had told, with the age of what each knew, if it left by itself.
    pub left: Option<Vec<(NodeId, Duration)>>,
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

/// Says that a control plane is there at `plane.seen_at`. What stands of `known_since` stays.
///
/// # Errors
/// [`StoreError`].
pub async fn say(conn: &mut Conn, plane: &KnownPlane) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO control_planes (control_plane_id, name, known_since, max_staleness, seen_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (control_plane_id) DO UPDATE SET max_staleness = excluded.max_staleness, seen_at = excluded.seen_at, \
         gone_at = NULL, left_nodes = NULL",
    )
    .bind(plane.id.as_slice())
    .bind(plane.name.as_str())
    .bind(plane.known_since.nanos())
    .bind(nanos(plane.max_staleness)?)
    .bind(plane.seen_at.nanos())
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether a control plane has a row and is not marked as gone.
///
/// # Errors
/// [`StoreError`].
pub async fn is_there(conn: &mut Conn, id: &[u8; 16]) -> Result<bool, StoreError> {
    let select = "SELECT EXISTS (SELECT 1 FROM control_planes WHERE control_plane_id = $1 AND gone_at IS NULL)";
    Ok(sql::query(select).bind(id.as_slice()).fetch_value(conn).await? == Some(true))
}

/// From when on every control plane is known, as far as those know that have said something since a moment; `None` without any.
///
/// # Errors
/// [`StoreError`].
pub async fn known_since(conn: &mut Conn, moment: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let select =
        "SELECT known_since FROM control_planes WHERE gone_at IS NULL AND seen_at >= $1 ORDER BY known_since LIMIT 1";
    let row = sql::query(select).bind(moment.nanos()).fetch_optional(conn).await?;
    row.as_ref().map(|row| column::time(row, "known_since")).transpose()
}

/// Marks those as gone from `now` on that have said nothing since a moment, and gives their names.
///
/// # Errors
/// [`StoreError`].
pub async fn mark_silent(conn: &mut Conn, since: Timestamp, now: Timestamp) -> Result<Vec<String>, StoreError> {
    let update = "UPDATE control_planes SET gone_at = $1 WHERE gone_at IS NULL AND seen_at < $2 RETURNING name";
    let rows = sql::query(update).bind(now.nanos()).bind(since.nanos()).fetch_all(conn).await?;
    Ok(rows.iter().map(|row| row.try_get("name")).collect::<Result<_, _>>()?)
}

/// Marks those as gone from `now` on that have a name and are not `successor`.
///
/// # Errors
/// [`StoreError`].
pub async fn mark_replaced(
    conn: &mut Conn,
    name: &str,
    successor: &[u8; 16],
    now: Timestamp,
) -> Result<(), StoreError> {
    sql::query("UPDATE control_planes SET gone_at = $1 WHERE gone_at IS NULL AND name = $2 AND control_plane_id <> $3")
        .bind(now.nanos())
        .bind(name)
        .bind(successor.as_slice())
        .execute(conn)
        .await?;
    Ok(())
}

/// Marks a control plane as gone that leaves by itself, with the nodes that it had told that their state is fresh.
///
/// # Errors
/// [`StoreError`].
pub async fn leave(
    conn: &mut Conn,
    id: &[u8; 16],
    nodes: &[(NodeId, Duration)],
    now: Timestamp,
) -> Result<(), StoreError> {
    sql::query("UPDATE control_planes SET gone_at = $1, left_nodes = $2 WHERE control_plane_id = $3")
        .bind(now.nanos())
        .bind(node_lists::of_aged(nodes))
        .bind(id.as_slice())
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets those that were gone before a moment.
///
/// # Errors
/// [`StoreError`].
pub async fn forget_before(conn: &mut Conn, moment: Timestamp) -> Result<(), StoreError> {
    sql::query("DELETE FROM control_planes WHERE gone_at < $1").bind(moment.nanos()).execute(conn).await?;
    Ok(())
}

/// Those whose nodes may be serving a key at `now`, by their names: all that are there, and those that are gone for no longer than the key's own bound,
/// or without one theirs.
///
/// # Errors
/// [`StoreError`].
pub async fn that_count(
    conn: &mut Conn,
    bound: Option<Duration>,
    now: Timestamp,
) -> Result<Vec<KnownPlane>, StoreError> {
    let select = "SELECT control_plane_id, name, known_since, max_staleness, seen_at, gone_at, left_nodes FROM control_planes \
         WHERE gone_at IS NULL OR gone_at >= $1 - COALESCE($2, max_staleness) ORDER BY name, control_plane_id";
    let rows = sql::query(select).bind(now.nanos()).bind(bound.map(nanos).transpose()?).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<KnownPlane, StoreError> {
    let left = row.try_get::<Option<&[u8]>, _>("left_nodes")?;
    let left = left.map(|bytes| node_lists::aged(bytes, "left_nodes")).transpose()?;
    let gone_at = row.try_get::<Option<i64>, _>("gone_at")?;
    Ok(KnownPlane {
        id: column::bytes(row, "control_plane_id", |bytes| bytes.try_into().ok())?,
        name: row.try_get("name")?,
        known_since: column::time(row, "known_since")?,
        max_staleness: Duration::from_nanos(column::unsigned(row, "max_staleness")?),
        seen_at: column::time(row, "seen_at")?,
        gone: gone_at.map(|at| Gone { at: Timestamp::from_nanos(at), left }),
    })
}

fn nanos(duration: Duration) -> Result<i64, StoreError> {
    i64::try_from(duration.as_nanos()).map_err(|_| StoreError::Range("a bound on staleness"))
}
