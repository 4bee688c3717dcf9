//! The nodes that are connected to each control plane, as it last said: one row for each that shares the database, for whoever lists nodes at another one.

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::clock::Timestamp;

use super::sql::{self, Conn, Row};
use super::{StoreError, column};

/// What a control plane said of the nodes that are connected to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Which control plane.
    pub by: [u8; 16],
    /// When, by the database server's clock.
    pub written_at: Timestamp,
    /// The nodes, in the form that [`crate::registry::connected`] gives them.
    pub nodes: Vec<u8>,
}

impl Published {
    /// The bytes that its seal is over.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(&self.by).i64(self.written_at.nanos()).bytes(&self.nodes);
        writer.finish()
    }
}

/// Writes what a control plane says in place of what it said before.
///
/// # Errors
/// [`StoreError`].
pub async fn put(conn: &mut Conn, published: &Published, seal: &[u8; 32]) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO connected_nodes (control_plane_id, written_at, nodes, seal) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (control_plane_id) DO UPDATE SET written_at = excluded.written_at, nodes = excluded.nodes, seal = excluded.seal",
    )
    .bind(published.by.as_slice())
    .bind(published.written_at.nanos())
    .bind(published.nodes.as_slice())
    .bind(seal.as_slice())
    .execute(conn)
    .await?;
    Ok(())
}

/// What others than this control plane said since a moment, each with its seal.
///
/// # Errors
/// [`StoreError`].
pub async fn since(
    conn: &mut Conn,
    this: &[u8; 16],
    moment: Timestamp,
) -> Result<Vec<(Published, Vec<u8>)>, StoreError> {
    let select = "SELECT control_plane_id, written_at, nodes, seal FROM connected_nodes \
                  WHERE control_plane_id <> $1 AND written_at >= $2 ORDER BY control_plane_id";
    let rows = sql::query(select).bind(this.as_slice()).bind(moment.nanos()).fetch_all(conn).await?;
    let read = |row: &Row| {
        let published = Published {
            by: column::bytes(row, "control_plane_id", |bytes| bytes.try_into().ok())?,
            written_at: column::time(row, "written_at")?,
            nodes: row.try_get("nodes")?,
        };
        Ok((published, row.try_get("seal")?))
    };
    rows.iter().map(read).collect()
}

/// Forgets what was said before a moment.
///
/// # Errors
/// [`StoreError`].
pub async fn forget_before(conn: &mut Conn, moment: Timestamp) -> Result<(), StoreError> {
    sql::query("DELETE FROM connected_nodes WHERE written_at < $1").bind(moment.nanos()).execute(conn).await?;
    Ok(())
}
