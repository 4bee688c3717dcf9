//! Which control planes that share the database hold which vault keys. They say so themselves, again and again; a process that died is told by its
//! silence.

use keyforge_shared::clock::Timestamp;

use super::sql::{self, Conn, Row};
use super::{StoreError, column};

/// That a process holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which process.
    pub holder: [u8; 16],
    /// How operators know it.
    pub name: String,
    /// The key's term.
    pub term: u32,
    /// When it last said so.
    pub seen_at: Timestamp,
}

/// Writes which keys a process holds, in place of what it said before.
///
/// # Errors
/// [`StoreError`].
pub async fn hold(
    conn: &mut Conn,
    holder: &[u8; 16],
    name: &str,
    terms: &[u32],
    now: Timestamp,
) -> Result<(), StoreError> {
    leave(conn, holder).await?;
    for term in terms {
        sql::query("INSERT INTO vault_holders (holder_id, term, name, seen_at) VALUES ($1, $2, $3, $4)")
            .bind(holder.as_slice())
            .bind(*term)
            .bind(name)
            .bind(now.nanos())
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Forgets a process.
///
/// # Errors
/// [`StoreError`].
pub async fn leave(conn: &mut Conn, holder: &[u8; 16]) -> Result<(), StoreError> {
    sql::query("DELETE FROM vault_holders WHERE holder_id = $1").bind(holder.as_slice()).execute(conn).await?;
    Ok(())
}

/// Forgets processes that have said nothing since a moment.
///
/// # Errors
/// [`StoreError`].
pub async fn forget_before(conn: &mut Conn, moment: Timestamp) -> Result<(), StoreError> {
    sql::query("DELETE FROM vault_holders WHERE seen_at < $1").bind(moment.nanos()).execute(conn).await?;
    Ok(())
}

/// What all processes hold that have said something since a moment, by their names.
///
/// # Errors
/// [`StoreError`].
pub async fn since(conn: &mut Conn, moment: Timestamp) -> Result<Vec<Holding>, StoreError> {
    let select = "SELECT holder_id, term, name, seen_at FROM vault_holders WHERE seen_at >= $1 \
                  ORDER BY name, holder_id, term";
    let rows = sql::query(select).bind(moment.nanos()).fetch_all(conn).await?;
    let read = |row: &Row| {
        Ok(Holding {
            holder: column::bytes(row, "holder_id", |bytes| bytes.try_into().ok())?,
            name: row.try_get("name")?,
            term: column::unsigned32(row, "term")?,
            seen_at: column::time(row, "seen_at")?,
        })
    };
    rows.iter().map(read).collect()
}
