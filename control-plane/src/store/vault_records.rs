//! Sealed secrets as a whole: walked through to see how they stand and to seal their data keys anew. One by one they are with their credentials.

use keyforge_shared::id::CredentialId;

use super::sql::{self, Conn, Row};
use super::{StoreError, column};
use crate::vault::Sealed;

/// A credential's sealed secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub credential: CredentialId,
    /// Which version.
    pub version: u32,
    /// The secret, sealed.
    pub sealed: Sealed,
}

/// A credential, and the secret that stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub credential: CredentialId,
    /// The version that the credential says.
    pub expected: u32,
    /// The version that is there, sealed; `None` when none is.
    pub found: Option<(u32, Sealed)>,
}

macro_rules! select_kept {
    ($which:literal) => {
        concat!(
            "SELECT c.credential_id, c.secret_version AS expected, v.secret_version, v.kek_term, v.sealed_key, v.sealed_secret ",
            "FROM credentials c LEFT JOIN vault_records v ON v.credential_id = c.credential_id ",
            $which
        )
    };
}

/// Up to `count` credentials after `after`, in the order of their ids, with their secrets.
///
/// # Errors
/// [`StoreError`].
pub async fn kept_after(
    connection: &mut Conn,
    after: Option<CredentialId>,
    count: u32,
) -> Result<Vec<Kept>, StoreError> {
    let rows = sql::query(select_kept!("WHERE c.credential_id > $1 ORDER BY c.credential_id LIMIT $2"))
        .bind(start(after))
        .bind(count)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read_kept).collect()
}

/// One credential with its secret.
///
/// # Errors
/// [`StoreError`].
pub async fn kept(connection: &mut Conn, id: CredentialId) -> Result<Option<Kept>, StoreError> {
    let row = sql::query(select_kept!("WHERE c.credential_id = $1"))
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read_kept).transpose()
}

/// Up to `count` records after `after` that are under another term, in the order of their credentials' ids.
///
/// # Errors
/// [`StoreError`].
pub async fn under_others_after(
    connection: &mut Conn,
    term: u32,
    after: Option<CredentialId>,
    count: u32,
) -> Result<Vec<Record>, StoreError> {
    let rows = sql::query(
        "SELECT credential_id, secret_version, kek_term, sealed_key, sealed_secret FROM vault_records \
         WHERE kek_term <> $1 AND credential_id > $2 ORDER BY credential_id LIMIT $3",
    )
    .bind(term)
    .bind(start(after))
    .bind(count)
    .fetch_all(connection)
    .await?;
    let read = |row: &Row| {
        Ok(Record {
            credential: column::bytes(row, "credential_id", CredentialId::from_slice)?,
            version: column::unsigned32(row, "secret_version")?,
            sealed: sealed(row)?,
        })
    };
    rows.iter().map(read).collect()
}

/// How many records are under each term.
///
/// # Errors
/// [`StoreError`].
pub async fn count_by_term(connection: &mut Conn) -> Result<Vec<(u32, u64)>, StoreError> {
    let select = "SELECT kek_term, count(*) AS records FROM vault_records GROUP BY kek_term ORDER BY kek_term";
    let rows = sql::query(select).fetch_all(connection).await?;
    let read = |row: &Row| Ok((column::unsigned32(row, "kek_term")?, column::unsigned(row, "records")?));
    rows.iter().map(read).collect()
}

/// How many ciphertexts of data keys the versions of the present secrets took.
///
/// # Errors
/// [`StoreError`].
pub async fn versions(connection: &mut Conn) -> Result<u64, StoreError> {
    let rows = sql::query("SELECT secret_version FROM vault_records").fetch_all(connection).await?;
    rows.iter().try_fold(0_u64, |sum, row| Ok(sum.saturating_add(column::unsigned(row, "secret_version")?)))
}

/// Puts a record's data key, sealed anew, in place of `before`. False when the record is not as `before` any more; nothing was changed then.
///
/// # Errors
/// [`StoreError`].
pub async fn rewrap(connection: &mut Conn, before: &Record, after: &Sealed) -> Result<bool, StoreError> {
    let replaced = sql::query(
        "UPDATE vault_records SET kek_term = $1, sealed_key = $2 \
         WHERE credential_id = $3 AND secret_version = $4 AND kek_term = $5 AND sealed_key = $6",
    )
    .bind(after.kek_term)
    .bind(after.sealed_key.as_slice())
    .bind(before.credential.as_bytes().as_slice())
    .bind(before.version)
    .bind(before.sealed.kek_term)
    .bind(before.sealed.sealed_key.as_slice())
    .execute(connection)
    .await?;
    Ok(replaced == 1)
}

/// Ids are never empty, so that the empty one comes before all.
fn start(after: Option<CredentialId>) -> Vec<u8> {
    after.map_or_else(Vec::new, |id| id.as_bytes().to_vec())
}

fn read_kept(row: &Row) -> Result<Kept, StoreError> {
    let is_there = row.try_get::<Option<i64>, _>("secret_version")?.is_some();
    let found = is_there.then(|| Ok::<_, StoreError>((column::unsigned32(row, "secret_version")?, sealed(row)?)));
    Ok(Kept {
        credential: column::bytes(row, "credential_id", CredentialId::from_slice)?,
        expected: column::unsigned32(row, "expected")?,
        found: found.transpose()?,
    })
}

fn sealed(row: &Row) -> Result<Sealed, StoreError> {
    Ok(Sealed {
        kek_term: column::unsigned32(row, "kek_term")?,
        sealed_key: row.try_get("sealed_key")?,
        sealed_secret: row.try_get("sealed_secret")?,
    })
}
