//! One way to speak to two databases: a statement with its values, a connection of either kind, and the rows that come back.
//!
//! Statements number their values (`$1`), which both databases read. A value is one of the few kinds that columns have: whole numbers of 64
//! bits, texts, bytes. What only one of the databases understands is chosen with [`Conn::either`] or [`Conn::engine`] and said where it stands.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, ColumnIndex, Decode, Row as _, SqlSafeStr, SqlStr, Type};

use super::partitions::Made;
use super::timely::{Patience, Timely};

/// The assignment of an upsert that adds the new amount to the stored one and stops at 2^63 - 1, where one database would fail and the other
/// lose digits.
macro_rules! sum_up_to_most {
    ($table:literal, $column:literal) => {
        concat!(
            $column,
            " = CASE WHEN ",
            $table,
            ".",
            $column,
            " > 9223372036854775807 - excluded.",
            $column,
            " THEN 9223372036854775807 ELSE ",
            $table,
            ".",
            $column,
            " + excluded.",
            $column,
            " END"
        )
    };
}

pub(super) use sum_up_to_most;

/// A connection to the store's database, whichever it is.
pub struct Conn(Link);

enum Link {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(Timely, Made),
    /// Outside of any transaction: every statement is one of its own.
    SqliteAlone(Box<SqliteConnection>),
    PostgresAlone(Box<PgConnection>, Patience),
}

/// Which database a connection speaks to, and the connection as its driver knows it.
pub enum Engine<'c> {
    /// SQLite.
    Sqlite(&'c mut SqliteConnection),
    /// PostgreSQL, and how long its answers are waited for.
    Postgres(&'c mut PgConnection, &'c mut Patience),
}

/// A transaction. Dropping it undoes it.
pub struct Tx(Conn);

/// Why a commit is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It did not: it was not asked for, or the database refused.
    #[error(transparent)]
    Undone(sqlx::Error),
    /// It was asked for and not answered: what was to be done is done as a whole, or not at all.
    #[error("the database did not answer a commit, so that nobody knows whether it happened: {0}")]
    Unanswered(sqlx::Error),
}

impl CommitError {
    /// What came of a commit that was asked for.
    pub(super) fn of(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(_) => Self::Undone(error),
            lost => Self::Unanswered(lost),
        }
    }
}

impl Tx {
    /// A transaction in PostgreSQL, where partitions are made.
    pub(super) const fn in_postgres(tx: Timely, made: Made) -> Self {
        Self(Conn(Link::Postgres(tx, made)))
    }

    /// Makes what was done last. On disk when this returns.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn commit(self) -> Result<(), CommitError> {
        match self.0.0 {
            Link::Sqlite(tx) => tx.commit().await.map_err(CommitError::of),
            Link::Postgres(tx, _) => tx.commit().await,
            Link::SqliteAlone(_) | Link::PostgresAlone(..) => Ok(()),
        }
    }

    /// Waits for the answers to its statements for as long as they take.
    pub(super) fn wait_without_end(&mut self) {
        if let Link::Postgres(tx, _) = &mut self.0.0 {
            tx.wait_without_end();
        }
    }
}

impl From<sqlx::Transaction<'static, Sqlite>> for Tx {
    fn from(tx: sqlx::Transaction<'static, Sqlite>) -> Self {
        Self(Conn(Link::Sqlite(tx)))
    }
}

impl From<SqliteConnection> for Conn {
    fn from(connection: SqliteConnection) -> Self {
        Self(Link::SqliteAlone(Box::new(connection)))
    }
}

impl From<PgConnection> for Conn {
    fn from(connection: PgConnection) -> Self {
        Self(Link::PostgresAlone(Box::new(connection), Patience::default()))
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}

impl Conn {
    /// The connection as its driver knows it, for what only one database has.
    ///
    /// # Errors
    /// An earlier answer did not come in time, so that nothing can be done on this connection any more.
    pub fn engine(&mut self) -> Result<Engine<'_>, sqlx::Error> {
        Ok(match &mut self.0 {
            Link::Sqlite(tx) => Engine::Sqlite(tx),
            Link::SqliteAlone(connection) => Engine::Sqlite(connection),
            Link::Postgres(tx, _) => {
                let (connection, patience) = tx.parts()?;
                Engine::Postgres(connection, patience)
            }
            Link::PostgresAlone(connection, patience) => Engine::Postgres(connection, patience),
        })
    }

    /// The wording that this connection's database understands.
    #[must_use]
    pub const fn either<T: Copy>(&self, sqlite: T, postgres: T) -> T {
        match self.0 {
            Link::Sqlite(_) | Link::SqliteAlone(_) => sqlite,
            Link::Postgres(..) | Link::PostgresAlone(..) => postgres,
        }
    }

    /// Which partitions are there, where there are any.
    pub(super) const fn partitions(&self) -> Option<&Made> {
        match &self.0 {
            Link::Postgres(_, made) => Some(made),
            Link::Sqlite(_) | Link::SqliteAlone(_) | Link::PostgresAlone(..) => None,
        }
    }
}

/// A value of a statement, or the absence of one of its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'q> {
    /// A whole number.
    Integer(Option<i64>),
    /// A text.
    Text(Option<Cow<'q, str>>),
    /// Bytes.
    Bytes(Option<Cow<'q, [u8]>>),
    /// A condition, which no column holds.
    Flag(bool),
}

/// What can be a value of a statement.
pub trait Bind<'q> {
    /// The absence of such a value.
    const NULL: Value<'q>;

    /// As a value.
    fn value(self) -> Value<'q>;
}

macro_rules! bind {
    ($($kind:ty => $variant:ident, $given:ident, $value:expr;)*) => {$(
        impl<'q> Bind<'q> for $kind {
            const NULL: Value<'q> = Value::$variant(None);

            fn value(self) -> Value<'q> {
                let $given = self;
                Value::$variant(Some($value))
            }
        }
    )*};
}

bind! {
    i64 => Integer, given, given;
    u32 => Integer, given, i64::from(given);
    &'q str => Text, given, Cow::Borrowed(given);
    String => Text, given, Cow::Owned(given);
    &'q [u8] => Bytes, given, Cow::Borrowed(given);
    Vec<u8> => Bytes, given, Cow::Owned(given);
}

impl<'q> Bind<'q> for bool {
    const NULL: Value<'q> = Value::Flag(false);

    fn value(self) -> Value<'q> {
        Value::Flag(self)
    }
}

impl<'q, T: Bind<'q>> Bind<'q> for Option<T> {
    const NULL: Value<'q> = T::NULL;

    fn value(self) -> Value<'q> {
        self.map_or(T::NULL, Bind::value)
    }
}

impl<'q> Bind<'q> for Value<'q> {
    const NULL: Value<'q> = Value::Integer(None);

    fn value(self) -> Value<'q> {
        self
    }
}

/// A statement and its values so far.
#[must_use = "a statement does nothing until it is executed"]
pub struct Query<'q> {
    sql: SqlStr,
    values: Vec<Value<'q>>,
}

/// A statement that is prepared once per connection.
pub fn query<'q>(sql: impl SqlSafeStr) -> Query<'q> {
    Query { sql: sql.into_sql_str(), values: Vec::new() }
}

impl<'q> Query<'q> {
    /// Adds the next value: the first is `$1`.
    pub fn bind(mut self, value: impl Bind<'q>) -> Self {
        self.values.push(value.value());
        self
    }

    /// Runs it, and says how many rows it touched.
    ///
    /// # Errors
    /// What the database said.
    pub async fn execute(self, conn: &mut Conn) -> Result<u64, sqlx::Error> {
        match conn.engine()? {
            Engine::Sqlite(connection) => {
                let query = sqlx::query_with(self.sql, for_sqlite(self.values)?);
                Ok(query.execute(connection).await?.rows_affected())
            }
            Engine::Postgres(connection, patience) => {
                let query = sqlx::query_with(self.sql, for_postgres(self.values)?);
                Ok(patience.wait(query.execute(connection)).await?.rows_affected())
            }
        }
    }

    /// All its rows.
    ///
    /// # Errors
    /// What the database said.
    pub async fn fetch_all(self, conn: &mut Conn) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match conn.engine()? {
            Engine::Sqlite(connection) => {
                let query = sqlx::query_with(self.sql, for_sqlite(self.values)?);
                query.fetch_all(connection).await?.into_iter().map(Row::Sqlite).collect()
            }
            Engine::Postgres(connection, patience) => {
                let query = sqlx::query_with(self.sql, for_postgres(self.values)?);
                patience.wait(query.fetch_all(connection)).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Its first row, if there is any.
    ///
    /// # Errors
    /// What the database said.
    pub async fn fetch_optional(self, conn: &mut Conn) -> Result<Option<Row>, sqlx::Error> {
        Ok(match conn.engine()? {
            Engine::Sqlite(connection) => {
                let query = sqlx::query_with(self.sql, for_sqlite(self.values)?);
                query.fetch_optional(connection).await?.map(Row::Sqlite)
            }
            Engine::Postgres(connection, patience) => {
                let query = sqlx::query_with(self.sql, for_postgres(self.values)?);
                patience.wait(query.fetch_optional(connection)).await?.map(Row::Postgres)
            }
        })
    }

    /// The value in the only column of its first row, if there is any row.
    ///
    /// # Errors
    /// What the database said, or the value is of another type.
    pub async fn fetch_value<T: for<'r> Column<'r>>(self, conn: &mut Conn) -> Result<Option<T>, sqlx::Error> {
        self.fetch_optional(conn).await?.map(|row| row.try_get(0)).transpose()
    }

    /// Its first row.
    ///
    /// # Errors
    /// What the database said; [`sqlx::Error::RowNotFound`] when there is none.
    pub async fn fetch_one(self, conn: &mut Conn) -> Result<Row, sqlx::Error> {
        self.fetch_optional(conn).await?.ok_or(sqlx::Error::RowNotFound)
    }
}

fn for_sqlite(values: Vec<Value<'_>>) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(values.len(), 0);
    for value in values {
        let added = match value {
            Value::Integer(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value.map(Cow::into_owned)),
            Value::Bytes(value) => arguments.add(value.map(Cow::into_owned)),
            Value::Flag(value) => arguments.add(value),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn for_postgres(values: Vec<Value<'_>>) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    arguments.reserve(values.len(), 0);
    for value in values {
        let added = match value {
            Value::Integer(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value.as_deref()),
            Value::Bytes(value) => arguments.add(value.as_deref()),
            Value::Flag(value) => arguments.add(value),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// A row of an answer.
pub enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

/// What can be read out of a column of either database.
pub trait Column<'r>: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres> {}

impl<'r, T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>> Column<'r> for T {}

/// The place of a column in a row: its name, or its number from 0.
pub trait Place: ColumnIndex<SqliteRow> + ColumnIndex<PgRow> {}

impl<T: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>> Place for T {}

impl Row {
    /// The value in a column.
    ///
    /// # Errors
    /// There is no such column, or it holds something else.
    pub fn try_get<'r, T: Column<'r>, P: Place>(&'r self, place: P) -> Result<T, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(place),
            Self::Postgres(row) => row.try_get(place),
        }
    }

    /// How many columns it has.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Sqlite(row) => row.len(),
            Self::Postgres(row) => row.len(),
        }
    }
}
