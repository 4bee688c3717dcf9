//! The ledger's rows: epochs, what each was granted and has settled per counter, and the keys that are to be frozen for overspending.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, CounterStoreId, KeyId, RequestId};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::period::Window;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, column};

/// One life of a counter store, as one key sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// From 1, dense per key.
    pub epoch: u32,
    /// Whose process the store lives in.
    pub boot: BootId,
    /// Whether it may still spend.
    pub open: bool,
    /// When it was opened.
    pub opened_at: Timestamp,
}

/// The epoch of `key` in `store`, if one was ever opened.
///
/// # Errors
/// [`StoreError`].
pub async fn epoch(
    conn: &mut SqliteConnection,
    key: KeyId,
    store: CounterStoreId,
) -> Result<Option<Epoch>, StoreError> {
    let row = sqlx::query("SELECT epoch, boot_id, state, opened_at FROM epochs WHERE key_id = ? AND store_id = ?")
        .bind(key.as_str())
        .bind(store.as_bytes().as_slice())
        .fetch_optional(conn)
        .await?;
    let read = |row: &SqliteRow| {
        Ok(Epoch {
            epoch: column::unsigned32(row, "epoch")?,
            boot: column::bytes(row, "boot_id", BootId::from_slice)?,
            open: row.try_get::<&str, _>("state")? == "open",
            opened_at: column::time(row, "opened_at")?,
        })
    };
    row.as_ref().map(read).transpose()
}

/// Opens the next epoch of `key`.
///
/// # Errors
/// [`StoreError::Database`], also when the store has an epoch of this key already.
pub async fn open_epoch(
    conn: &mut SqliteConnection,
    key: KeyId,
    store: CounterStoreId,
    boot: BootId,
    now: Timestamp,
) -> Result<Epoch, StoreError> {
    let row = sqlx::query(
        "INSERT INTO epochs (key_id, epoch, store_id, boot_id, state, opened_at) \
         SELECT ?1, 1 + coalesce(max(epoch), 0), ?2, ?3, 'open', ?4 FROM epochs WHERE key_id = ?1 RETURNING epoch",
    )
    .bind(key.as_str())
    .bind(store.as_bytes().as_slice())
    .bind(boot.as_bytes().as_slice())
    .bind(now.nanos())
    .fetch_one(conn)
    .await?;
    Ok(Epoch { epoch: column::unsigned32(&row, "epoch")?, boot, open: true, opened_at: now })
}

/// What is known of a counter store over all keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFacts {
    /// It was closed, for at least one key.
    pub closed: bool,
    /// Another boot than the one asked for opened an epoch in it.
    pub foreign: bool,
}

/// Whether `store` is closed, or not `boot`'s.
///
/// # Errors
/// [`StoreError`].
pub async fn store_facts(
    conn: &mut SqliteConnection,
    store: CounterStoreId,
    boot: BootId,
) -> Result<StoreFacts, StoreError> {
    let row = sqlx::query(
        "SELECT coalesce(max(state = 'closed'), 0) AS closed, coalesce(max(boot_id <> ?), 0) AS foreign_boot \
         FROM epochs WHERE store_id = ?",
    )
    .bind(boot.as_bytes().as_slice())
    .bind(store.as_bytes().as_slice())
    .fetch_one(conn)
    .await?;
    Ok(StoreFacts { closed: row.try_get("closed")?, foreign: row.try_get("foreign_boot")? })
}

/// Raises the serial of an epoch's grants and gives the new one. With `expected`, only from that serial: `None` says that it is another by now.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn raise_serial(
    conn: &mut SqliteConnection,
    key: KeyId,
    epoch: u32,
    expected: Option<u64>,
) -> Result<Option<u64>, StoreError> {
    let row = sqlx::query(
        "UPDATE epochs SET serial = serial + 1 WHERE key_id = ?1 AND epoch = ?2 AND (?3 IS NULL OR serial = ?3) \
         RETURNING serial",
    )
    .bind(key.as_str())
    .bind(epoch)
    .bind(expected.map(|serial| i64::try_from(serial).unwrap_or(i64::MAX)))
    .fetch_optional(conn)
    .await?;
    row.map(|row| column::unsigned(&row, "serial")).transpose()
}

/// Closes the open epochs of a store. Returns how many there were.
///
/// # Errors
/// [`StoreError`].
pub async fn close_epochs(
    conn: &mut SqliteConnection,
    store: CounterStoreId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let done = sqlx::query("UPDATE epochs SET state = 'closed', closed_at = ? WHERE store_id = ? AND state = 'open'")
        .bind(now.nanos())
        .bind(store.as_bytes().as_slice())
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// A counter's books in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Settled when these books were made, because the limit is younger than the epoch. The store counts from nothing all the same: what it
    /// was told that it may spend is `granted - before`. Requests or nano-dollars.
    pub before: u64,
    /// `before`, and what was handed to the store, cumulative.
    pub granted: u64,
    /// Proven by chained entries, from the beginning of the epoch.
    pub settled: u64,
}

impl Books {
    /// Books of an epoch that has settled `used` without them, and was granted nothing.
    #[must_use]
    pub const fn after(used: u64) -> Self {
        Self { before: used, granted: used, settled: used }
    }
}

/// A counter's books in one epoch; `None` before its first grant there.
///
/// # Errors
/// [`StoreError`].
pub async fn books(conn: &mut SqliteConnection, counter: &CounterId, epoch: u32) -> Result<Option<Books>, StoreError> {
    let row = sqlx::query(
        "SELECT before, granted, settled FROM grants \
         WHERE key_id = ? AND dimension = ? AND window = ? AND period_start = ? AND epoch = ?",
    )
    .bind(counter.key.as_str())
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.period_start.nanos())
    .bind(epoch)
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read_books).transpose()
}

fn read_books(row: &SqliteRow) -> Result<Books, StoreError> {
    Ok(Books {
        before: column::unsigned(row, "before")?,
        granted: column::unsigned(row, "granted")?,
        settled: column::unsigned(row, "settled")?,
    })
}

/// Whether a counter has books in any epoch.
///
/// # Errors
/// [`StoreError`].
pub async fn has_books(conn: &mut SqliteConnection, counter: &CounterId) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM grants WHERE key_id = ? AND dimension = ? AND window = ? AND period_start = ?)",
    )
    .bind(counter.key.as_str())
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.period_start.nanos())
    .fetch_one(conn)
    .await?;
    Ok(found)
}

/// Writes a counter's books in one epoch; an epoch that the key never had is passed over.
///
/// # Errors
/// [`StoreError`].
pub async fn set_books(
    conn: &mut SqliteConnection,
    counter: &CounterId,
    epoch: u32,
    books: Books,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO grants (key_id, dimension, window, period_start, epoch, before, granted, settled) \
         SELECT key_id, ?3, ?4, ?5, epoch, ?6, ?7, ?8 FROM epochs WHERE key_id = ?1 AND epoch = ?2 \
         ON CONFLICT DO UPDATE SET before = excluded.before, granted = excluded.granted, settled = excluded.settled",
    )
    .bind(counter.key.as_str())
    .bind(epoch)
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.period_start.nanos())
    .bind(column::signed(books.before, "before")?)
    .bind(column::signed(books.granted, "granted")?)
    .bind(column::signed(books.settled, "settled")?)
    .execute(conn)
    .await?;
    Ok(())
}

/// What all epochs but one make of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Settled, over all epochs.
    pub settled: u64,
    /// Written off for open epochs beyond what they have settled.
    pub outstanding: u64,
}

impl Sums {
    /// What can no longer be granted to anyone else.
    #[must_use]
    pub const fn written_off(&self) -> u64 {
        self.settled.saturating_add(self.outstanding)
    }
}

/// Sums a counter over all epochs except `except` (0 excepts none). An open epoch counts with the larger of what it was granted and what it
/// has settled, a closed one with what it has settled.
///
/// # Errors
/// [`StoreError`], also when the sum is beyond 2^63 - 1.
pub async fn sums(conn: &mut SqliteConnection, counter: &CounterId, except: u32) -> Result<Sums, StoreError> {
    let row = sqlx::query(
        "SELECT coalesce(sum(settled), 0) AS settled, \
             coalesce(sum(CASE WHEN state = 'open' THEN max(granted - settled, 0) ELSE 0 END), 0) AS outstanding \
         FROM grants JOIN epochs USING (key_id, epoch) \
         WHERE key_id = ? AND dimension = ? AND window = ? AND period_start = ? AND epoch <> ?",
    )
    .bind(counter.key.as_str())
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.period_start.nanos())
    .bind(except)
    .fetch_one(conn)
    .await?;
    Ok(Sums { settled: column::unsigned(&row, "settled")?, outstanding: column::unsigned(&row, "outstanding")? })
}

/// What one counter settles in one epoch.
#[derive(Clone, Copy, Debug)]
pub struct Settlement {
    /// The counter.
    pub counter: CounterId,
    /// The epoch.
    pub epoch: u32,
    /// Requests or nano-dollars.
    pub amount: u64,
}

/// Adds to what counters have settled; counters without books are passed over. No counter may occur twice. Sums stop at 2^63 - 1.
///
/// # Errors
/// [`StoreError`].
pub async fn settle(conn: &mut SqliteConnection, settlements: &[Settlement]) -> Result<(), StoreError> {
    let rows: Vec<_> = settlements
        .iter()
        .map(|row| {
            let amount = row.amount.min(i64::MAX.unsigned_abs());
            let counter = &row.counter;
            let start = counter.period_start.nanos();
            (counter.key.as_str(), counter.dimension.as_str(), counter.window.as_str(), start, row.epoch, amount)
        })
        .collect();
    sqlx::query(
        "UPDATE grants SET settled = min(9223372036854775807, settled + given.amount) \
         FROM (SELECT value ->> 0 AS key_id, value ->> 1 AS dimension, value ->> 2 AS window, value ->> 3 AS period_start, \
                   value ->> 4 AS epoch, value ->> 5 AS amount FROM json_each(?)) AS given \
         WHERE grants.key_id = given.key_id AND grants.dimension = given.dimension AND grants.window = given.window \
             AND grants.period_start = given.period_start AND grants.epoch = given.epoch",
    )
    .bind(serde_json::to_string(&rows).map_err(|_| StoreError::Range("settlements"))?)
    .execute(conn)
    .await?;
    Ok(())
}

/// All books of a key, by epoch.
///
/// # Errors
/// [`StoreError`].
pub async fn all_books(conn: &mut SqliteConnection, key: KeyId) -> Result<Vec<(CounterId, u32, Books)>, StoreError> {
    let rows = sqlx::query(
        "SELECT dimension, window, period_start, epoch, before, granted, settled FROM grants WHERE key_id = ? \
         ORDER BY epoch, dimension, window, period_start",
    )
    .bind(key.as_str())
    .fetch_all(conn)
    .await?;
    let read = |row: &SqliteRow| {
        let counter = CounterId {
            key,
            dimension: column::word(row, "dimension", dimension)?,
            window: column::word(row, "window", |word| word.parse::<Window>().ok())?,
            period_start: column::time(row, "period_start")?,
        };
        Ok((counter, column::unsigned32(row, "epoch")?, read_books(row)?))
    };
    rows.iter().map(read).collect()
}

fn dimension(word: &str) -> Option<Dimension> {
    [Dimension::Requests, Dimension::Spend].into_iter().find(|dimension| dimension.as_str() == word)
}

/// The open epochs of a boot, over all keys and stores.
///
/// # Errors
/// [`StoreError`].
pub async fn open_epochs_of_boot(conn: &mut SqliteConnection, boot: BootId) -> Result<Vec<(KeyId, u32)>, StoreError> {
    let rows =
        sqlx::query("SELECT key_id, epoch FROM epochs WHERE boot_id = ? AND state = 'open' ORDER BY key_id, epoch")
            .bind(boot.as_bytes().as_slice())
            .fetch_all(conn)
            .await?;
    let read = |row: &SqliteRow| {
        let key = column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?;
        Ok((key, column::unsigned32(row, "epoch")?))
    };
    rows.iter().map(read).collect()
}

/// Notes that a key is to be frozen, because `request` cost more than its bound. A key that is frozen or revoked already needs no note, and the
/// freeze takes the note away in its own transaction.
///
/// # Errors
/// [`StoreError`].
pub async fn note_overspent(conn: &mut SqliteConnection, key: KeyId, request: RequestId) -> Result<(), StoreError> {
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
pub async fn overspent(conn: &mut SqliteConnection) -> Result<Vec<(KeyId, RequestId)>, StoreError> {
    let rows = sqlx::query("SELECT key_id, request_id FROM overspent ORDER BY key_id").fetch_all(conn).await?;
    let read = |row: &SqliteRow| {
        let key = column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?;
        Ok((key, column::bytes(row, "request_id", RequestId::from_slice)?))
    };
    rows.iter().map(read).collect()
}
