//! Signs of life as rows: when each boot was last heard of.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::BootId;
use sqlx::AssertSqlSafe;

use super::StoreError;
use super::sql::{self, Conn};

/// Notes that boots were heard of, each named once, in one statement. Their rows are taken in this order.
///
/// # Errors
/// [`StoreError`].
pub async fn note(conn: &mut Conn, boots: &[BootId], now: Timestamp) -> Result<(), StoreError> {
    if boots.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = (2..boots.len() + 2).map(|place| format!("(${place}, $1)")).collect();
    let rows = rows.join(", ");
    let note = sql::query(AssertSqlSafe(format!(
        "INSERT INTO boot_signs (boot_id, heard_at) VALUES {rows} \
         ON CONFLICT (boot_id) DO UPDATE SET heard_at = excluded.heard_at WHERE boot_signs.heard_at < excluded.heard_at"
    )));
    boots.iter().fold(note.bind(now.nanos()), |note, boot| note.bind(boot.as_bytes().as_slice())).execute(conn).await?;
    Ok(())
}

/// Forgets those not heard of since that are members of no epoch.
///
/// # Errors
/// [`StoreError`].
pub async fn forget(conn: &mut Conn, since: Timestamp) -> Result<(), StoreError> {
    sql::query(
        "DELETE FROM boot_signs WHERE heard_at < $1 \
         AND NOT EXISTS (SELECT 1 FROM epoch_members WHERE epoch_members.boot_id = boot_signs.boot_id)",
    )
    .bind(since.nanos())
    .execute(conn)
    .await?;
    Ok(())
}
