//! The ledger's books as rows: what each open epoch was granted and has settled per counter, and what counts for good.
//!
//! A counter that has no row at all is unknown. Once it has one, every chained entry of its scope is settled in rows: in that of its epoch while
//! the epoch is open, else in that of epoch 0.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::{CivilDay, Window};

use super::sql::{self, Conn, Row, sum_up_to_most};
use super::{StoreError, column};

/// A counter's books in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Settled, and in no counter of the life: it counts from nothing all the same. What the life was told that it may spend is
    /// `granted - before`. Requests or nano-dollars.
    pub before: u64,
    /// `before`, and what was handed to the life, cumulative.
    pub granted: u64,
    /// Proven by chained entries.
    pub settled: u64,
}

impl Books {
    /// The same, when nothing is handed out: then the life has spent nothing under these books, so that all they settled was before them.
    #[must_use]
    pub fn begun(self) -> Self {
        if self.granted > self.before {
            return self;
        }
        let before = self.before.max(self.settled);
        Self { before, granted: before, settled: self.settled }
    }
}

/// A counter's books in one epoch; `None` when there are none.
///
/// # Errors
/// [`StoreError`].
pub async fn books(conn: &mut Conn, counter: &CounterId, epoch: u32) -> Result<Option<Books>, StoreError> {
    let row = sql::query(
        "SELECT before, granted, settled FROM grants \
         WHERE key_id = $1 AND scope = $2 AND dimension = $3 AND \"window\" = $4 AND first_day = $5 AND epoch = $6",
    )
    .bind(counter.key.as_str())
    .bind(counter.scope.as_str())
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.first_day.number())
    .bind(epoch)
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read_books).transpose()
}

fn read_books(row: &Row) -> Result<Books, StoreError> {
    Ok(Books {
        before: column::unsigned(row, "before")?,
        granted: column::unsigned(row, "granted")?,
        settled: column::unsigned(row, "settled")?,
    })
}

/// Writes a counter's books in one epoch.
///
/// # Errors
/// [`StoreError`].
pub async fn set_books(conn: &mut Conn, counter: &CounterId, epoch: u32, books: Books) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO grants (key_id, scope, dimension, \"window\", first_day, epoch, workspace_id, before, granted, settled) \
         SELECT key_id, $2, $3, $4, $5, $6, CASE $2 WHEN 'workspace' THEN workspace_id END, $7, $8, $9 \
         FROM virtual_keys WHERE key_id = $1 \
         ON CONFLICT (key_id, scope, dimension, \"window\", first_day, epoch) DO UPDATE SET before = excluded.before, granted = excluded.granted, settled = excluded.settled",
    )
    .bind(counter.key.as_str())
    .bind(counter.scope.as_str())
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.first_day.number())
    .bind(epoch)
    .bind(column::signed(books.before, "before")?)
    .bind(column::signed(books.granted, "granted")?)
    .bind(column::signed(books.settled, "settled")?)
    .execute(conn)
    .await?;
    Ok(())
}

/// All that counts against one limit in one period: of one key, or of all keys of a workspace.
macro_rules! of_limit {
    ($scope:expr, $select:expr, $and:expr) => {
        match $scope {
            Scope::Key => concat!(
                $select,
                " FROM grants AS books WHERE books.key_id = $1 AND books.scope = 'key' AND books.dimension = $2 \
                 AND books.\"window\" = $3 AND books.first_day = $4",
                $and
            ),
            Scope::Workspace => concat!(
                $select,
                " FROM grants AS books \
                 WHERE books.workspace_id = (SELECT workspace_id FROM virtual_keys WHERE virtual_keys.key_id = $1) \
                 AND books.dimension = $2 AND books.\"window\" = $3 AND books.first_day = $4",
                $and
            ),
        }
    };
}

/// Whether books are of an epoch with a member that can still settle or return what is granted: one whose records are not lost, and which fulfils
/// a further condition.
macro_rules! reachable {
    ($and:expr) => {
        concat!(
            "EXISTS (SELECT 1 FROM epoch_members AS member LEFT JOIN boots USING (boot_id) \
             LEFT JOIN boot_signs AS sign USING (boot_id) \
             WHERE member.key_id = books.key_id AND member.epoch = books.epoch AND boots.lost_at IS NULL",
            $and,
            ")"
        )
    };
}

/// Whether the counter, or that of another key with the same limit and period, has books.
///
/// # Errors
/// [`StoreError`].
pub async fn is_known(conn: &mut Conn, counter: &CounterId) -> Result<bool, StoreError> {
    let found = sql::query(of_limit!(counter.scope, "SELECT 1", " LIMIT 1"))
        .bind(counter.key.as_str())
        .bind(counter.dimension.as_str())
        .bind(counter.window.as_str())
        .bind(counter.first_day.number())
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// What all books but one make of a limit in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Proven by chained entries, in open and closed epochs.
    pub settled: u64,
    /// Granted to open epochs and not settled.
    pub outstanding: u64,
    /// The part of `outstanding` whose epoch has a member that is expected to settle or return it.
    pub expected: u64,
}

impl Sums {
    /// What nobody else can be granted any more.
    #[must_use]
    pub const fn written_off(&self) -> u64 {
        self.settled.saturating_add(self.outstanding)
    }
}

/// Sums over all books of the counter's limit and period, for a workspace's limit those of all its keys. With `except`, those of the counter
/// itself in that epoch are left out. Members are expected to settle that were heard of since `heard_since`. Books count as at most 2^53, which is more than any limit, so that no absurd entry makes sums overflow.
///
/// # Errors
/// [`StoreError`].
pub async fn sums(
    conn: &mut Conn,
    counter: &CounterId,
    except: Option<u32>,
    heard_since: Timestamp,
) -> Result<Sums, StoreError> {
    let row = sql::query(of_limit!(
        counter.scope,
        concat!(
            "SELECT CAST(coalesce(sum(CASE WHEN settled < 9007199254740992 THEN settled ELSE 9007199254740992 END), 0) AS BIGINT) AS settled, \
             CAST(coalesce(sum(CASE WHEN epoch > 0 AND granted > settled THEN granted - settled END), 0) AS BIGINT) AS outstanding, \
             CAST(coalesce(sum(CASE WHEN epoch > 0 AND granted > settled AND ",
            reachable!(" AND sign.heard_at >= $6"),
            " THEN granted - settled END), 0) AS BIGINT) AS expected"
        ),
        " AND NOT (books.key_id = $1 AND books.epoch = $5)"
    ))
    .bind(counter.key.as_str())
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.first_day.number())
    .bind(except.map_or(-1, i64::from))
    .bind(heard_since.nanos())
    .fetch_one(conn)
    .await?;
    Ok(Sums {
        settled: column::unsigned(&row, "settled")?,
        outstanding: column::unsigned(&row, "outstanding")?,
        expected: column::unsigned(&row, "expected")?,
    })
}

/// What an epoch was granted under a limit, and has not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Whose epoch it is.
    pub key: KeyId,
    /// The epoch.
    pub epoch: u32,
    /// Of the limit.
    pub window: Window,
    /// The period's first day.
    pub first_day: CivilDay,
    /// Requests or nano-dollars.
    pub amount: u64,
    /// Whether a member is expected to settle or return it.
    pub is_expected: bool,
}

/// Everything outstanding of the counter's scope and dimension in other windows than its own, for a workspace's limit that of all its keys. Members are
/// expected to settle that were heard of since `heard_since`.
///
/// # Errors
/// [`StoreError`].
pub async fn outstanding_in_others(
    conn: &mut Conn,
    counter: &CounterId,
    heard_since: Timestamp,
) -> Result<Vec<Outstanding>, StoreError> {
    macro_rules! select {
        ($of:literal) => {
            concat!(
                "SELECT books.key_id AS key_id, books.epoch AS epoch, books.\"window\" AS \"window\", books.first_day AS first_day, \
                 books.granted - books.settled AS amount, ",
                reachable!(" AND sign.heard_at >= $4"),
                " AS is_expected FROM grants AS books WHERE books.dimension = $2 AND books.\"window\" <> $3 \
                 AND books.epoch > 0 AND books.granted > books.settled AND ",
                $of
            )
        };
    }
    let select = match counter.scope {
        Scope::Key => select!("books.key_id = $1 AND books.scope = 'key'"),
        Scope::Workspace => {
            select!("books.workspace_id = (SELECT workspace_id FROM virtual_keys WHERE virtual_keys.key_id = $1)")
        }
    };
    let rows = sql::query(select)
        .bind(counter.key.as_str())
        .bind(counter.dimension.as_str())
        .bind(counter.window.as_str())
        .bind(heard_since.nanos())
        .fetch_all(conn)
        .await?;
    let read = |row: &Row| {
        Ok(Outstanding {
            key: column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?,
            epoch: column::unsigned32(row, "epoch")?,
            window: column::word(row, "window", |word| word.parse::<Window>().ok())?,
            first_day: CivilDay::from_number(column::unsigned32(row, "first_day")?),
            amount: column::unsigned(row, "amount")?,
            is_expected: row.try_get("is_expected")?,
        })
    };
    rows.iter().map(read).collect()
}

/// A life of another key that was granted something of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The key.
    pub key: KeyId,
    /// The life of its books.
    pub life: LifeId,
    /// The life's epoch.
    pub epoch: u32,
    /// Granted and not settled: requests or nano-dollars.
    pub unsettled: u64,
}

/// Up to `most` lives of other keys that hold most of the counter's limit and can still return it, those with most first.
///
/// # Errors
/// [`StoreError`].
pub async fn holders(conn: &mut Conn, counter: &CounterId, most: u32) -> Result<Vec<Holder>, StoreError> {
    let rows = sql::query(of_limit!(
        counter.scope,
        "SELECT books.key_id AS key_id, books.epoch AS epoch, books.granted - books.settled AS unsettled, \
             (SELECT life_id FROM epochs WHERE epochs.key_id = books.key_id AND epochs.epoch = books.epoch) AS life_id",
        concat!(
            " AND books.epoch > 0 AND books.key_id <> $1 AND books.granted > books.settled AND ",
            reachable!(""),
            " ORDER BY unsettled DESC, key_id LIMIT $5"
        )
    ))
    .bind(counter.key.as_str())
    .bind(counter.dimension.as_str())
    .bind(counter.window.as_str())
    .bind(counter.first_day.number())
    .bind(most)
    .fetch_all(conn)
    .await?;
    let read = |row: &Row| {
        Ok(Holder {
            key: column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?,
            life: column::bytes(row, "life_id", LifeId::from_slice)?,
            epoch: column::unsigned32(row, "epoch")?,
            unsettled: column::unsigned(row, "unsettled")?,
        })
    };
    rows.iter().map(read).collect()
}

/// What one counter settles for one epoch.
#[derive(Clone, Copy, Debug)]
pub struct Settlement {
    /// The counter.
    pub counter: CounterId,
    /// The epoch that entries name; 0 for none.
    pub epoch: u32,
    /// Requests or nano-dollars.
    pub amount: u64,
}

/// Adds to what known counters have settled; unknown ones are passed over. What names an epoch that is not open counts for good at once. Sums stop
/// at 2^63 - 1.
///
/// # Errors
/// [`StoreError`].
pub async fn settle(conn: &mut Conn, settlements: &[Settlement]) -> Result<(), StoreError> {
    sql::query(conn.either(SETTLE_IN_SQLITE, SETTLE_IN_POSTGRES)).bind(json_of(settlements)?).execute(conn).await?;
    Ok(())
}

/// As statements take them: `[[[key, scope, dimension, window, first day], epoch, amount], …]`.
fn json_of(settlements: &[Settlement]) -> Result<String, StoreError> {
    let rows = settlements.iter().map(|row| {
        let amount = row.amount.min(i64::MAX.unsigned_abs());
        let CounterId { key, scope, dimension, window, first_day } = &row.counter;
        let name = (key.as_str(), scope.as_str(), dimension.as_str(), window.as_str(), first_day.number());
        (name, row.epoch, amount)
    });
    serde_json::to_string(&rows.collect::<Vec<_>>()).map_err(|_| StoreError::Range("settlements"))
}

/// Notes that some of what is about to be settled is in no life's counter, although its epoch has books of it. Each counter and epoch comes once.
///
/// # Errors
/// [`StoreError`].
pub async fn spent_outside(conn: &mut Conn, settlements: &[Settlement]) -> Result<(), StoreError> {
    sql::query(conn.either(OUTSIDE_IN_SQLITE, OUTSIDE_IN_POSTGRES)).bind(json_of(settlements)?).execute(conn).await?;
    Ok(())
}

macro_rules! outside {
    ($given:literal) => {
        concat!(
            "UPDATE grants SET before = CASE WHEN before > 9223372036854775807 - given.amount THEN 9223372036854775807 ELSE before + given.amount END, \
             granted = CASE WHEN granted > 9223372036854775807 - given.amount THEN 9223372036854775807 ELSE granted + given.amount END \
             FROM (",
            $given,
            ") AS given WHERE grants.key_id = given.key_id AND grants.scope = given.scope AND grants.dimension = given.dimension \
             AND grants.\"window\" = given.\"window\" AND grants.first_day = given.first_day AND grants.epoch = given.epoch AND grants.epoch > 0"
        )
    };
}

const OUTSIDE_IN_SQLITE: &str = outside!(
    "SELECT value ->> '$[0][0]' AS key_id, value ->> '$[0][1]' AS scope, value ->> '$[0][2]' AS dimension, value ->> '$[0][3]' AS \"window\", \
     value ->> '$[0][4]' AS first_day, value ->> 1 AS epoch, value ->> 2 AS amount FROM json_each($1)"
);

const OUTSIDE_IN_POSTGRES: &str = outside!(
    "SELECT value #>> '{0,0}' AS key_id, value #>> '{0,1}' AS scope, value #>> '{0,2}' AS dimension, value #>> '{0,3}' AS \"window\", \
     (value #>> '{0,4}')::bigint AS first_day, (value #>> '{1}')::bigint AS epoch, (value #>> '{2}')::bigint AS amount \
     FROM json_array_elements($1::json)"
);

/// What is given, joined with the epoch that it counts in, for counters that are known.
macro_rules! settle {
    ($given:literal, $amount:literal, $grouped:literal) => {
        concat!(
            "WITH given AS MATERIALIZED (",
            $given,
            "), due AS (SELECT given.key_id, given.scope, given.dimension, given.\"window\", given.first_day, \
                 coalesce(epochs.epoch, 0) AS epoch, CASE given.scope WHEN 'workspace' THEN owner.workspace_id END AS workspace_id, amount \
             FROM given JOIN virtual_keys AS owner ON owner.key_id = given.key_id \
                 LEFT JOIN epochs ON epochs.key_id = given.key_id AND epochs.epoch = given.epoch AND epochs.state = 'open' \
             WHERE CASE given.scope \
                 WHEN 'key' THEN EXISTS (SELECT 1 FROM grants AS books WHERE books.key_id = given.key_id AND books.scope = 'key' \
                     AND books.dimension = given.dimension AND books.\"window\" = given.\"window\" AND books.first_day = given.first_day) \
                 ELSE EXISTS (SELECT 1 FROM grants AS books WHERE books.workspace_id = owner.workspace_id \
                     AND books.dimension = given.dimension AND books.\"window\" = given.\"window\" AND books.first_day = given.first_day) END) \
             INSERT INTO grants (key_id, scope, dimension, \"window\", first_day, epoch, workspace_id, before, granted, settled) \
             SELECT key_id, scope, dimension, \"window\", first_day, epoch, workspace_id, ",
            $amount, ", ", $amount, ", ", $amount, " FROM due WHERE true ", $grouped,
            " ON CONFLICT (key_id, scope, dimension, \"window\", first_day, epoch) DO UPDATE SET ",
            sum_up_to_most!("grants", "settled")
        )
    };
}

const SETTLE_IN_SQLITE: &str = settle!(
    "SELECT value ->> '$[0][0]' AS key_id, value ->> '$[0][1]' AS scope, value ->> '$[0][2]' AS dimension, value ->> '$[0][3]' AS \"window\", \
     value ->> '$[0][4]' AS first_day, value ->> 1 AS epoch, value ->> 2 AS amount FROM json_each($1)",
    "amount",
    ""
);

/// One statement must not touch a row twice here, so what several epochs settle in one row is summed first.
const SETTLE_IN_POSTGRES: &str = settle!(
    "SELECT value #>> '{0,0}' AS key_id, value #>> '{0,1}' AS scope, value #>> '{0,2}' AS dimension, value #>> '{0,3}' AS \"window\", \
     (value #>> '{0,4}')::bigint AS first_day, (value #>> '{1}')::bigint AS epoch, (value #>> '{2}')::bigint AS amount \
     FROM json_array_elements($1::json)",
    "least(sum(amount), 9223372036854775807)::bigint",
    "GROUP BY key_id, scope, dimension, \"window\", first_day, epoch, workspace_id"
);

/// All books of a key, by epoch; those of epoch 0 count for good.
///
/// # Errors
/// [`StoreError::Corrupt`] also when books of a workspace's limit are kept for another workspace than the key's; [`StoreError::Database`].
pub async fn all_books(conn: &mut Conn, key: KeyId) -> Result<Vec<(CounterId, u32, Books)>, StoreError> {
    let rows = sql::query(
        "SELECT scope, dimension, \"window\", first_day, epoch, before, granted, settled, \
             (scope = 'key' OR grants.workspace_id IS NOT DISTINCT FROM virtual_keys.workspace_id) AS in_place \
         FROM grants JOIN virtual_keys USING (key_id) WHERE key_id = $1 \
         ORDER BY epoch, scope, dimension, \"window\", first_day",
    )
    .bind(key.as_str())
    .fetch_all(conn)
    .await?;
    let read = |row: &Row| {
        if !row.try_get::<bool, _>("in_place")? {
            return Err(StoreError::Corrupt("workspace_id"));
        }
        let named = |word: &str| Dimension::ALL.into_iter().find(|dimension| dimension.as_str() == word);
        let counter = CounterId {
            key,
            scope: column::word(row, "scope", |word| Scope::ALL.into_iter().find(|scope| scope.as_str() == word))?,
            dimension: column::word(row, "dimension", named)?,
            window: column::word(row, "window", |word| word.parse::<Window>().ok())?,
            first_day: CivilDay::from_number(column::unsigned32(row, "first_day")?),
        };
        Ok((counter, column::unsigned32(row, "epoch")?, read_books(row)?))
    };
    rows.iter().map(read).collect()
}
