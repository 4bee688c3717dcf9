//! Epochs as rows: the lives of each key's books, which boots use each, and how far its answers have come.
//!
//! An open epoch has at least one member. It is closed with the transaction that takes its last one away, and then its books are folded into those
//! of epoch 0: what counts for good.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, KeyId, LifeId};

use super::sql::{self, Conn, Row, sum_up_to_most};
use super::{StoreError, column};

/// One life of a key's books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// From 1, dense per key.
    pub epoch: u32,
    /// Whether it may still spend.
    pub open: bool,
}

/// The epoch of a life of `key`, if one was ever opened.
///
/// # Errors
/// [`StoreError`].
pub async fn of_life(conn: &mut Conn, key: KeyId, life: LifeId) -> Result<Option<Epoch>, StoreError> {
    let row = sql::query("SELECT epoch, state FROM epochs WHERE key_id = $1 AND life_id = $2")
        .bind(key.as_str())
        .bind(life.as_bytes().as_slice())
        .fetch_optional(conn)
        .await?;
    let read = |row: &Row| {
        let open = row.try_get::<&str, _>("state")? == "open";
        Ok(Epoch { epoch: column::unsigned32(row, "epoch")?, open })
    };
    row.as_ref().map(read).transpose()
}

/// Opens the next epoch of `key`.
///
/// # Errors
/// [`StoreError::Database`], also when the life has an epoch already.
pub async fn open(conn: &mut Conn, key: KeyId, life: LifeId, now: Timestamp) -> Result<u32, StoreError> {
    let row = sql::query(
        "INSERT INTO epochs (key_id, epoch, life_id, state, opened_at) \
         SELECT $1, 1 + coalesce(max(epoch), 0), $2, 'open', $3 FROM epochs WHERE key_id = $1 RETURNING epoch",
    )
    .bind(key.as_str())
    .bind(life.as_bytes().as_slice())
    .bind(now.nanos())
    .fetch_one(conn)
    .await?;
    column::unsigned32(&row, "epoch")
}

/// The serial of a further answer of an epoch; `with_grants` when it tells grants.
///
/// # Errors
/// [`StoreError::Database`], also when there is no such epoch.
pub async fn next_serial(conn: &mut Conn, key: KeyId, epoch: u32, with_grants: bool) -> Result<u64, StoreError> {
    let row = sql::query(
        "UPDATE epochs SET serial = serial + 1, granted_serial = CASE WHEN $3 THEN serial + 1 ELSE granted_serial END \
         WHERE key_id = $1 AND epoch = $2 RETURNING serial",
    )
    .bind(key.as_str())
    .bind(epoch)
    .bind(with_grants)
    .fetch_one(conn)
    .await?;
    column::unsigned(&row, "serial")
}

/// Takes note of a return by books that have applied the answer `serial` and will apply none before it. False when grants were told since.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn take_return(conn: &mut Conn, key: KeyId, epoch: u32, serial: u64) -> Result<bool, StoreError> {
    let done = sql::query(
        "UPDATE epochs SET serial = serial + 1 WHERE key_id = $1 AND epoch = $2 AND $3 BETWEEN granted_serial AND serial",
    )
    .bind(key.as_str())
    .bind(epoch)
    .bind(saturated(serial))
    .execute(conn)
    .await?;
    Ok(done > 0)
}

/// Makes `boot` a member of an epoch, or renews its membership, with the serial of the answer that tells it so.
///
/// # Errors
/// [`StoreError`].
pub async fn join(conn: &mut Conn, key: KeyId, epoch: u32, boot: BootId, serial: u64) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO epoch_members (key_id, epoch, boot_id, serial) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (key_id, epoch, boot_id) DO UPDATE SET serial = excluded.serial",
    )
    .bind(key.as_str())
    .bind(epoch)
    .bind(boot.as_bytes().as_slice())
    .bind(column::signed(serial, "the serial")?)
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends a membership, unless it was renewed after the answer `serial`. False when there is none to end.
///
/// # Errors
/// [`StoreError`].
pub async fn leave(conn: &mut Conn, key: KeyId, epoch: u32, boot: BootId, serial: u64) -> Result<bool, StoreError> {
    let done =
        sql::query("DELETE FROM epoch_members WHERE key_id = $1 AND epoch = $2 AND boot_id = $3 AND serial <= $4")
            .bind(key.as_str())
            .bind(epoch)
            .bind(boot.as_bytes().as_slice())
            .bind(saturated(serial))
            .execute(conn)
            .await?;
    Ok(done > 0)
}

/// The epochs that a boot is a member of, over all keys. All are open.
///
/// # Errors
/// [`StoreError`].
pub async fn of_boot(conn: &mut Conn, boot: BootId) -> Result<Vec<(KeyId, u32)>, StoreError> {
    let rows = sql::query("SELECT key_id, epoch FROM epoch_members WHERE boot_id = $1 ORDER BY key_id, epoch")
        .bind(boot.as_bytes().as_slice())
        .fetch_all(conn)
        .await?;
    let read = |row: &Row| {
        let key = column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?;
        Ok((key, column::unsigned32(row, "epoch")?))
    };
    rows.iter().map(read).collect()
}

/// Closes an open epoch that has no member left: its books become part of what counts for good. False when it has members, or is closed already.
///
/// # Errors
/// [`StoreError`].
pub async fn close_if_left(conn: &mut Conn, key: KeyId, epoch: u32, now: Timestamp) -> Result<bool, StoreError> {
    let done = sql::query(
        "UPDATE epochs SET state = 'closed', closed_at = $3 WHERE key_id = $1 AND epoch = $2 AND state = 'open' \
             AND NOT EXISTS (SELECT 1 FROM epoch_members WHERE key_id = $1 AND epoch = $2)",
    )
    .bind(key.as_str())
    .bind(epoch)
    .bind(now.nanos())
    .execute(&mut *conn)
    .await?;
    if done == 0 {
        return Ok(false);
    }
    let fold = [
        concat!(
            "INSERT INTO grants (key_id, scope, dimension, \"window\", first_day, epoch, workspace_id, before, granted, settled) \
             SELECT key_id, scope, dimension, \"window\", first_day, 0, workspace_id, 0, 0, settled \
             FROM grants WHERE key_id = $1 AND epoch = $2 \
             ON CONFLICT (key_id, scope, dimension, \"window\", first_day, epoch) DO UPDATE SET ",
            sum_up_to_most!("grants", "settled")
        ),
        "DELETE FROM grants WHERE key_id = $1 AND epoch = $2",
    ];
    for statement in fold {
        sql::query(statement).bind(key.as_str()).bind(epoch).execute(&mut *conn).await?;
    }
    Ok(true)
}

/// A serial as nodes name it: one that the database cannot hold is above all that it holds.
fn saturated(serial: u64) -> i64 {
    i64::try_from(serial).unwrap_or(i64::MAX)
}
