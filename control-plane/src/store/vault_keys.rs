//! Which vault keys sealed anything here, how often, which one seals now, and the rotation that is under way. The keys themselves are never in
//! the database.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KekId, OperatorId};

use super::sql::{self, Conn, Row};
use super::{StoreError, column};

/// A vault key that the deployment has or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Its number, from 1.
    pub term: u32,
    /// What tells it from others.
    pub id: KekId,
    /// Whether new ciphertexts are made under it. One key at a time does that.
    pub seals: bool,
    /// How many ciphertexts were made under it.
    pub wraps: u64,
    /// When it was first configured.
    pub added_at: Timestamp,
}

/// A rotation that was begun and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunRotation {
    /// The term that everything is to be under.
    pub to_term: u32,
    /// Who asked for it.
    pub operator: OperatorId,
    /// How many records were under other terms when it was begun.
    pub total: u64,
    /// When that was.
    pub began_at: Timestamp,
}

/// Whether ciphertexts may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// They are counted.
    Yes,
    /// They would be more than one key may make.
    UsedUp,
    /// Another key seals now.
    Replaced,
}

/// Every key, in the order of its term.
///
/// # Errors
/// [`StoreError`].
pub async fn all(conn: &mut Conn) -> Result<Vec<KnownKey>, StoreError> {
    let select = "SELECT term, kek_id, seals, wraps, added_at FROM vault_keys ORDER BY term";
    let rows = sql::query(select).fetch_all(conn).await?;
    let read = |row: &Row| {
        Ok(KnownKey {
            term: column::unsigned32(row, "term")?,
            id: column::bytes(row, "kek_id", KekId::from_slice)?,
            seals: column::flag(row, "seals")?,
            wraps: column::unsigned(row, "wraps")?,
            added_at: column::time(row, "added_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Adds a key.
///
/// # Errors
/// [`StoreError`]; also when its term or id is taken, or another key seals and this one says that it does.
pub async fn insert(conn: &mut Conn, key: &KnownKey) -> Result<(), StoreError> {
    sql::query("INSERT INTO vault_keys (term, kek_id, seals, wraps, added_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(key.term)
        .bind(key.id.as_bytes().as_slice())
        .bind(i64::from(key.seals))
        .bind(column::signed(key.wraps, "wraps")?)
        .bind(key.added_at.nanos())
        .execute(conn)
        .await?;
    Ok(())
}

/// The term of the key that seals.
///
/// # Errors
/// [`StoreError`]; also when none does.
pub async fn sealing(conn: &mut Conn) -> Result<u32, StoreError> {
    let row = sql::query("SELECT term FROM vault_keys WHERE seals = 1").fetch_optional(conn).await?;
    column::unsigned32(&row.ok_or(StoreError::Corrupt("vault_keys"))?, "term")
}

/// Lets another key seal from now on. Whoever counted ciphertexts under the one before has committed when this returns.
///
/// # Errors
/// [`StoreError`]; also when the key is not known.
pub async fn let_seal(conn: &mut Conn, term: u32) -> Result<(), StoreError> {
    sql::query("UPDATE vault_keys SET seals = 0 WHERE seals = 1 AND term <> $1").bind(term).execute(conn).await?;
    let seals = sql::query("UPDATE vault_keys SET seals = 1 WHERE term = $1").bind(term).execute(conn).await?;
    if seals == 1 { Ok(()) } else { Err(StoreError::Corrupt("vault_keys")) }
}

/// Counts ciphertexts that were made under a term, in the transaction that stores them. Only those that are counted may be stored.
///
/// # Errors
/// [`StoreError`].
pub async fn count_wraps(conn: &mut Conn, term: u32, wraps: u64, most: u64) -> Result<Counted, StoreError> {
    let wraps = column::signed(wraps, "wraps")?;
    let counted = sql::query("UPDATE vault_keys SET wraps = wraps + $1 WHERE term = $2 AND seals = 1 AND wraps <= $3")
        .bind(wraps)
        .bind(term)
        .bind(column::signed(most, "wraps")?.saturating_sub(wraps))
        .execute(conn)
        .await?;
    if counted == 1 {
        return Ok(Counted::Yes);
    }
    let seals = sql::query("SELECT term FROM vault_keys WHERE term = $1 AND seals = 1").bind(term).fetch_optional(conn);
    Ok(if seals.await?.is_some() { Counted::UsedUp } else { Counted::Replaced })
}

/// The rotation that has not ended.
///
/// # Errors
/// [`StoreError`].
pub async fn rotation(conn: &mut Conn) -> Result<Option<BegunRotation>, StoreError> {
    let select = "SELECT to_term, operator_id, total, began_at FROM vault_rotation WHERE singleton = 1";
    let Some(row) = sql::query(select).fetch_optional(conn).await? else { return Ok(None) };
    Ok(Some(BegunRotation {
        to_term: column::unsigned32(&row, "to_term")?,
        operator: column::bytes(&row, "operator_id", OperatorId::from_slice)?,
        total: column::unsigned(&row, "total")?,
        began_at: column::time(&row, "began_at")?,
    }))
}

/// Writes down that a rotation was begun, in place of one before.
///
/// # Errors
/// [`StoreError`].
pub async fn begin_rotation(conn: &mut Conn, rotation: &BegunRotation) -> Result<(), StoreError> {
    end_rotation(conn, None).await?;
    sql::query(
        "INSERT INTO vault_rotation (singleton, to_term, operator_id, total, began_at) VALUES (1, $1, $2, $3, $4)",
    )
    .bind(rotation.to_term)
    .bind(rotation.operator.as_bytes().as_slice())
    .bind(column::signed(rotation.total, "total")?)
    .bind(rotation.began_at.nanos())
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets the rotation, if it is to that term: it has ended. False when there is none any more.
///
/// # Errors
/// [`StoreError`].
pub async fn end_rotation(conn: &mut Conn, to_term: Option<u32>) -> Result<bool, StoreError> {
    let ended = match to_term {
        Some(term) => sql::query("DELETE FROM vault_rotation WHERE to_term = $1").bind(term).execute(conn).await?,
        None => sql::query("DELETE FROM vault_rotation").execute(conn).await?,
    };
    Ok(ended == 1)
}
