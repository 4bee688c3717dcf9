//! Signs of life as rows: when each boot was last heard of.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::BootId;

use super::StoreError;
use super::sql::{self, Conn};

/// Notes that a boot was heard of.
///
/// # Errors
/// [`StoreError`].
pub async fn note(conn: &mut Conn, boot: BootId, now: Timestamp) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO boot_signs (boot_id, heard_at) VALUES ($1, $2) \
         ON CONFLICT (boot_id) DO UPDATE SET heard_at = excluded.heard_at WHERE boot_signs.heard_at < excluded.heard_at",
    )
    .bind(boot.as_bytes().as_slice())
    .bind(now.nanos())
    .execute(conn)
    .await?;
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
