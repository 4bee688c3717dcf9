//! Keys that are still to be frozen, because a request of theirs cost more than its bound. Noted with that request's entry, gone with the freeze.

use keyforge_shared::id::{KeyId, RequestId};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::{StoreError, column};

/// Notes that a key is to be frozen, because `request` cost more than its bound. A key that is frozen or revoked already needs no note, and the
/// freeze takes the note away in its own transaction.
///
/// # Errors
/// [`StoreError`].
pub async fn note(conn: &mut SqliteConnection, key: KeyId, request: RequestId) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO overspent (key_id, request_id) \
         SELECT key_id, ? FROM virtual_keys WHERE key_id = ? AND status = 'active' ON CONFLICT DO NOTHING",
    )
    .bind(request.as_bytes().as_slice())
    .bind(key.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// The keys that are still to be frozen, each with the request that cost more than its bound.
///
/// # Errors
/// [`StoreError`].
pub async fn noted(conn: &mut SqliteConnection) -> Result<Vec<(KeyId, RequestId)>, StoreError> {
    let rows = sqlx::query("SELECT key_id, request_id FROM overspent ORDER BY key_id").fetch_all(conn).await?;
    let read = |row: &SqliteRow| {
        let key = column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?;
        Ok((key, column::bytes(row, "request_id", RequestId::from_slice)?))
    };
    rows.iter().map(read).collect()
}
