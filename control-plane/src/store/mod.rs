//! The store: one SQLite database in the control plane's data directory, and the only files that speak SQL.
//!
//! Writes go through one connection, one transaction at a time; reads have connections of their own and see the last commit. A commit is on
//! disk when it returns (WAL with `synchronous = FULL`). One process at a time owns a data directory, by a lock on `control-plane.lock`.
//! Functions on single nouns live in the files named after them, and take the connection of whoever decides on the transaction.

pub mod boot_signs;
pub mod boots;
pub mod chains;
pub mod column;
pub mod credentials;
pub mod deployment;
pub mod entries;
pub mod epochs;
pub mod keys;
pub mod ledger;
mod migrate;
pub mod models;
pub mod operators;
pub mod overspent;
pub mod usage;
pub mod workspaces;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::clock::{Clock, Timestamp};
use sqlx::ConnectOptions;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

pub use migrate::MigrationError;

/// A transaction. Dropping it undoes it.
pub type Tx<'a> = sqlx::Transaction<'a, Sqlite>;

/// Name of the database in the data directory.
pub const DATABASE_FILE: &str = "control-plane.db";
/// Name of the file whose lock says that a process owns the data directory.
pub const LOCK_FILE: &str = "control-plane.lock";

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// SQLite's result code for a file that is not a database.
const SQLITE_NOTADB: &str = "26";

/// Why the store cannot be opened, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory cannot be used.
    #[error("the data directory cannot be used: {0}")]
    Directory(#[from] PrivateFileError),
    /// Another process owns the data directory.
    #[error("{} is in use by another control plane: stop that one, or configure another data directory", .0.display())]
    Locked(PathBuf),
    /// The lock file cannot be made.
    #[error("cannot lock the data directory with {}: {source}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file is there, but not SQLite's.
    #[error("{} is not a database: restore it from a backup, or move it away to begin anew without any keys", .0.display())]
    NotADatabase(PathBuf),
    /// The schema is not this version's and could not be made so.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// The database refused, for example because the disk is full.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// A stored value is none that its type has: the database was changed by something else.
    #[error("the database holds an impossible value in {0}: it was changed by another program, restore a backup")]
    Corrupt(&'static str),
    /// A value is too large for the database.
    #[error("{0} is beyond what the database can hold")]
    Range(&'static str),
}

/// The open store. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    writer: SqlitePool,
    reader: SqlitePool,
    clock: Arc<dyn Clock>,
    /// Held for as long as the store is open; the operating system lets go of it when the process dies, however it dies.
    _lock: File,
}

impl Store {
    /// Opens the database in `directory`, making both if they do not exist, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError`]: the directory cannot be used, belongs to another process, or holds a database of another kind or version.
    pub async fn open(directory: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        private_file::private_dir(directory)?;
        let lock = lock(directory)?;
        let path = directory.join(DATABASE_FILE);
        // SQLite would make it readable for everyone, and its write-ahead log takes the mode of the database.
        let create = || OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        create().map_err(|source| StoreError::Lock { path: path.clone(), source })?;
        let named = |error| if is_not_a_database(&error) { StoreError::NotADatabase(path.clone()) } else { error };
        let writer = pool(1, &path, false).await.map_err(StoreError::from).map_err(named)?;
        migrate::run(&mut *writer.acquire().await?).await.map_err(named)?;
        let reader = pool(READERS, &path, true).await?;
        Ok(Self { inner: Arc::new(Inner { writer, reader, clock, _lock: lock }) })
    }

    /// Begins a transaction that may write. It waits its turn: there is one at a time.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn write(&self) -> Result<Tx<'static>, StoreError> {
        Ok(self.inner.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Begins a transaction that reads one consistent state and cannot write.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn read(&self) -> Result<Tx<'static>, StoreError> {
        Ok(self.inner.reader.begin_with("BEGIN DEFERRED").await?)
    }

    /// The store's wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Closes all connections, which folds the write-ahead log back into the database.
    pub async fn close(&self) {
        self.inner.reader.close().await;
        self.inner.writer.close().await;
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

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK_FILE);
    let failed = |source| StoreError::Lock { path: path.clone(), source };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn is_not_a_database(error: &StoreError) -> bool {
    let cause = match error {
        StoreError::Database(error) | StoreError::Migration(MigrationError::Failed { source: error, .. }) => error,
        StoreError::Directory(_)
        | StoreError::Locked(_)
        | StoreError::Lock { .. }
        | StoreError::NotADatabase(_)
        | StoreError::Migration(_)
        | StoreError::Corrupt(_)
        | StoreError::Range(_) => return false,
    };
    cause.as_database_error().and_then(|error| error.code()).as_deref() == Some(SQLITE_NOTADB)
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::SystemClock;

    use super::*;

    async fn open(directory: &Path) -> Result<Store, StoreError> {
        Store::open(directory, Arc::new(SystemClock)).await
    }

    #[tokio::test]
    async fn one_process_at_a_time_owns_a_data_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let first = open(&path).await.unwrap();
        assert!(matches!(open(&path).await, Err(StoreError::Locked(locked)) if locked == path));
        first.close().await;
        drop(first);
        assert!(open(&path).await.is_ok());
    }

    #[tokio::test]
    async fn file_that_is_not_a_database_is_left_alone_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        private_file::private_dir(&path).unwrap();
        let text = "a text of more than one hundred bytes, which is what a database's header has. ".repeat(3);
        std::fs::write(path.join(DATABASE_FILE), &text).unwrap();
        let error = open(&path).await.err().unwrap();
        assert!(matches!(error, StoreError::NotADatabase(_)), "{error}");
        assert_eq!(std::fs::read_to_string(path.join(DATABASE_FILE)).unwrap(), text);
    }

    #[tokio::test]
    async fn directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = open(&file.join("data")).await.err().unwrap().to_string();
        assert!(error.starts_with("the data directory cannot be used") && error.contains("file/data"), "{error}");
    }

    #[tokio::test]
    async fn reader_cannot_write_and_an_undone_transaction_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("data")).await.unwrap();
        let insert = "INSERT INTO models (name, model) VALUES ('m', '{}')";
        assert!(sqlx::query(insert).execute(&mut *store.read().await.unwrap()).await.is_err());
        sqlx::query(insert).execute(&mut *store.write().await.unwrap()).await.unwrap();
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM models")
            .fetch_one(&mut *store.read().await.unwrap())
            .await
            .unwrap();
        assert_eq!(count, 0);
    }
}
