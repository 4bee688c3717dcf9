//! SQLite: one file in the data directory, one connection that writes, a few that read.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use super::sql::Tx;
use super::{DATABASE_FILE, MigrationError, StoreError, migrate};

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// SQLite's result code for a file that is not a database.
const SQLITE_NOTADB: &str = "26";

/// An open file.
pub(super) struct Sqlite {
    writer: SqlitePool,
    reader: SqlitePool,
}

impl Sqlite {
    /// Opens the database in `directory`, making it if it does not exist, and brings its schema up to date.
    pub(super) async fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(DATABASE_FILE);
        // SQLite would make it readable for everyone, and its write-ahead log takes the mode of the database.
        let create = || OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        create().map_err(|source| StoreError::Lock { path: path.clone(), source })?;
        let named = |error| if is_not_a_database(&error) { StoreError::NotADatabase(path.clone()) } else { error };
        let writer = pool(1, &path, false).await.map_err(StoreError::from).map_err(named)?;
        migrate::sqlite(&mut *writer.acquire().await?).await.map_err(named)?;
        let reader = pool(READERS, &path, true).await?;
        Ok(Self { writer, reader })
    }

    pub(super) async fn write(&self) -> Result<Tx, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?.into())
    }

    pub(super) async fn read(&self) -> Result<Tx, StoreError> {
        Ok(self.reader.begin_with("BEGIN DEFERRED").await?.into())
    }

    /// Closes all connections, which folds the write-ahead log back into the database.
    pub(super) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

async fn pool(connections: u32, path: &Path, read_only: bool) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(!read_only)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("secure_delete", "ON")
        .pragma("query_only", if read_only { "ON" } else { "OFF" })
        .disable_statement_logging();
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
}

fn is_not_a_database(error: &StoreError) -> bool {
    let cause = match error {
        StoreError::Database(error) | StoreError::Migration(MigrationError::Failed { source: error, .. }) => error,
        _ => return false,
    };
    cause.as_database_error().and_then(|error| error.code()).as_deref() == Some(SQLITE_NOTADB)
}
