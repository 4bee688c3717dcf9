//! Copies tables, whatever columns they have: whole numbers, texts and bytes, by name.

use keyforge_shared::clock::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Arguments as _, AssertSqlSafe};

use super::RelocateError;
use crate::store::sql::{self, Conn, Engine, Row};
use crate::store::{StoreError, partitions};

/// Rows that are in memory at a time.
const PAGE: usize = 1_000;

/// How many rows a table has, and a sum over all that they say, in whichever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    sum: [u64; 4],
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Text,
    Bytes,
}

struct Column {
    name: String,
    kind: Kind,
}

/// One column of a page, as both databases take it.
enum Values {
    Integer(Vec<Option<i64>>),
    Text(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

impl Digest {
    fn add(&mut self, page: &[Values], rows: usize) {
        for row in 0..rows {
            let mut hasher = Sha256::new();
            for values in page {
                values.hash(row, &mut hasher);
            }
            let hash = hasher.finalize();
            for (lane, bytes) in self.sum.iter_mut().zip(hash.chunks_exact(8)) {
                let number = bytes.iter().fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
                *lane = lane.wrapping_add(number);
            }
            self.rows += 1;
        }
    }
}

impl Values {
    fn of(kind: Kind, rows: &[Row], place: usize) -> Result<Self, StoreError> {
        Ok(match kind {
            Kind::Integer => Self::Integer(column(rows, |row| row.try_get(place))?),
            Kind::Text => Self::Text(column(rows, |row| row.try_get(place))?),
            Kind::Bytes => Self::Bytes(column(rows, |row| row.try_get(place))?),
        })
    }

    fn hash(&self, row: usize, hasher: &mut Sha256) {
        let mut add = |bytes: Option<&[u8]>| {
            hasher.update([u8::from(bytes.is_some())]);
            hasher.update((bytes.map_or(0, <[u8]>::len) as u64).to_be_bytes());
            hasher.update(bytes.unwrap_or_default());
        };
        match self {
            Self::Integer(values) => match values[row] {
                Some(value) => add(Some(&value.to_be_bytes())),
                None => add(None),
            },
            Self::Text(values) => add(values[row].as_deref().map(str::as_bytes)),
            Self::Bytes(values) => add(values[row].as_deref()),
        }
    }
}

fn column<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T, sqlx::Error>) -> Result<Vec<T>, StoreError> {
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// Copies a table, and gives the sum over what was read.
pub(super) async fn table(from: &mut Conn, to: &mut Conn, table: &'static str) -> Result<Digest, RelocateError> {
    let columns = columns(to, table).await?;
    let names: Vec<String> = columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let names = names.join(", ");
    let select = format!("SELECT {names}, rowid FROM {table} WHERE rowid > $1 ORDER BY rowid LIMIT {PAGE}");
    let insert = insert(table, &names, &columns);
    let (mut digest, mut last) = (Digest::default(), i64::MIN);
    loop {
        let rows = sql::query(AssertSqlSafe(select.clone())).bind(last).fetch_all(from).await?;
        let Some(end) = rows.last() else { return Ok(digest) };
        last = end.try_get(columns.len())?;
        let page = columns.iter().enumerate().map(|(place, column)| Values::of(column.kind, &rows, place));
        let page = page.collect::<Result<Vec<_>, _>>()?;
        if table == "entries" {
            make_partitions(to, &columns, &page).await?;
        }
        digest.add(&page, rows.len());
        let Engine::Postgres(connection, _) = to.engine()? else { return Err(StoreError::Corrupt("relocate").into()) };
        write(connection, &insert, page).await?;
    }
}

async fn make_partitions(to: &mut Conn, columns: &[Column], page: &[Values]) -> Result<(), StoreError> {
    let times = columns.iter().position(|column| column.name == "t_cp").and_then(|place| page.get(place));
    let Some(Values::Integer(times)) = times else { return Err(StoreError::Corrupt("t_cp")) };
    partitions::make_for(to, times.iter().flatten().map(|time| Timestamp::from_nanos(*time))).await
}

/// The columns of a table in PostgreSQL. That SQLite has the same, by name, is seen when they are read.
async fn columns(to: &mut Conn, table: &'static str) -> Result<Vec<Column>, RelocateError> {
    let select = sql::query(
        "SELECT attname::text, atttypid::regtype::text FROM pg_attribute \
         WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    );
    let rows = select.bind(table).fetch_all(to).await?;
    let read = |row: &Row| {
        let kind = match row.try_get::<&str, _>(1)? {
            "bigint" => Kind::Integer,
            "text" => Kind::Text,
            "bytea" => Kind::Bytes,
            _ => return Err(StoreError::Corrupt("the schema")),
        };
        Ok(Column { name: row.try_get(0)?, kind })
    };
    Ok(rows.iter().map(read).collect::<Result<_, StoreError>>()?)
}

fn insert(table: &str, names: &str, columns: &[Column]) -> String {
    let lists: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(place, column)| {
            let kind = match column.kind {
                Kind::Integer => "bigint",
                Kind::Text => "text",
                Kind::Bytes => "bytea",
            };
            format!("${}::{kind}[]", place + 1)
        })
        .collect();
    format!("INSERT INTO {table} ({names}) SELECT * FROM unnest({})", lists.join(", "))
}

async fn write(to: &mut PgConnection, insert: &str, page: Vec<Values>) -> Result<(), RelocateError> {
    let mut arguments = PgArguments::default();
    for values in page {
        let added = match values {
            Values::Integer(values) => arguments.add(values),
            Values::Text(values) => arguments.add(values),
            Values::Bytes(values) => arguments.add(values),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    sqlx::query_with(AssertSqlSafe(insert.to_owned()), arguments).execute(to).await?;
    Ok(())
}

/// The sum over what is in a table of PostgreSQL, read back.
pub(super) async fn digest(to: &mut Conn, table: &'static str) -> Result<Digest, RelocateError> {
    let columns = columns(to, table).await?;
    let names: Vec<String> = columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let names = names.join(", ");
    // A cursor of its own for each table: statements are kept by their text, and rows of another shape would not fit them.
    let declare = format!("DECLARE {table}_moved NO SCROLL CURSOR FOR SELECT {names} FROM {table}");
    sql::query(AssertSqlSafe(declare)).execute(to).await?;
    let mut digest = Digest::default();
    loop {
        let rows = sql::query(AssertSqlSafe(format!("FETCH {PAGE} FROM {table}_moved"))).fetch_all(to).await?;
        if rows.is_empty() {
            break;
        }
        let page = columns.iter().enumerate().map(|(place, column)| Values::of(column.kind, &rows, place));
        digest.add(&page.collect::<Result<Vec<_>, _>>()?, rows.len());
    }
    sql::query(AssertSqlSafe(format!("CLOSE {table}_moved"))).execute(to).await?;
    Ok(digest)
}

/// Lets the numbers of new entries go on after those that were copied.
pub(super) async fn continue_numbers(to: &mut Conn) -> Result<(), RelocateError> {
    sql::query("SELECT setval('entries_entry_id', 1 + coalesce((SELECT max(entry_id) FROM entries), 0), false)")
        .execute(to)
        .await?;
    Ok(())
}
