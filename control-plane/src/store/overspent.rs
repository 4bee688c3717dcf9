//! Keys that are still to be paused, because a request of theirs cost more than its bound. Noted with that request's entry, gone with the pause.

use keyforge_shared::id::{KeyId, RequestId};

use super::sql::{self, Conn, Row};
use super::{StoreError, column};

/// Notes that a key is to be paused, because `request` cost more than its bound. A key that is paused or revoked already needs no note, and the
/// pause takes the note away in its own transaction.
///
/// # Errors
/// [`StoreError`].
pub async fn note(conn: &mut Conn, key: KeyId, request: RequestId) -> Result<(), StoreError> {
    // A pause that is under way is waited for: a note after it would pause again what an operator has resumed.
    sql::query(conn.either(
        "INSERT INTO overspent (key_id, request_id) \
         SELECT key_id, $1 FROM virtual_keys WHERE key_id = $2 AND status = 'active' ON CONFLICT DO NOTHING",
        "INSERT INTO overspent (key_id, request_id) \
         SELECT key_id, $1 FROM virtual_keys WHERE key_id = $2 AND status = 'active' FOR SHARE ON CONFLICT DO NOTHING",
    ))
    .bind(request.as_bytes().as_slice())
    .bind(key.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether a key is still to be paused.
///
/// # Errors
/// [`StoreError`].
pub async fn is_noted(conn: &mut Conn, key: KeyId) -> Result<bool, StoreError> {
    let noted = sql::query("SELECT EXISTS (SELECT 1 FROM overspent WHERE key_id = $1)").bind(key.as_str());
    Ok(noted.fetch_one(conn).await?.try_get(0)?)
}

/// The keys that are still to be paused, each with the request that cost more than its bound.
///
/// # Errors
/// [`StoreError`].
pub async fn noted(conn: &mut Conn) -> Result<Vec<(KeyId, RequestId)>, StoreError> {
    let rows = sql::query("SELECT key_id, request_id FROM overspent ORDER BY key_id").fetch_all(conn).await?;
    let read = |row: &Row| {
        let key = column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?;
        Ok((key, column::bytes(row, "request_id", RequestId::from_slice)?))
    };
    rows.iter().map(read).collect()
}
