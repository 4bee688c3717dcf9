//! The store: one SQLite database in the control plane's data directory, or a PostgreSQL database that several control planes share; and the only
//! files that speak SQL.
//!
//! A commit is on disk when it returns. In SQLite writes go through one connection, one transaction at a time; in PostgreSQL a transaction
//! takes the [`locks`] of what it decides about. Reads see one consistent state. One process at a time owns a data directory, by a lock on
//! `control-plane.lock`. Functions on single nouns live in the files named after them, and take the connection of whoever decides on the transaction.

pub mod boot_signs;
pub mod boots;
pub mod chains;
pub mod column;
pub mod connected_nodes;
pub mod control_planes;
pub mod credentials;
pub mod deployment;
pub mod entries;
pub mod epochs;
pub mod key_labels;
pub mod keys;
pub mod ledger;
pub mod limit_changes;
pub mod listen;
pub mod locks;
mod migrate;
pub mod models;
pub mod node_lists;
pub mod nodes;
pub mod operators;
pub mod overspent;
pub mod partitions;
mod postgres;
pub mod receipt_parts;
pub mod relocate;
pub mod sql;
mod sqlite;
pub mod state_changes;
mod timely;
pub mod usage;
pub mod vault_holders;
pub mod vault_keys;
pub mod vault_records;
pub mod workspaces;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::partitions::Made;
use self::postgres::Postgres;
use self::sqlite::Sqlite;
use crate::config::DatabaseConfig;
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::clock::{Clock, Timestamp};

pub use migrate::MigrationError;
pub use sql::{CommitError, Tx};

/// Name of the database in the data directory.
pub const DATABASE_FILE: &str = "control-plane.db";
/// Name that the database has once it was moved to PostgreSQL.
pub const MOVED_FILE: &str = "control-plane.db.moved";
/// Name of the file that says that the installation of this data directory is in PostgreSQL.
pub const ELSEWHERE_FILE: &str = "control-plane.elsewhere";
/// Name of the file whose lock says that a process owns the data directory.
pub const LOCK_FILE: &str = "control-plane.lock";

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
    #[error("the database failed: {}", words_of(.0))]
    Database(#[from] sqlx::Error),
    /// The server cannot be reached at the start, or does not let us in.
    #[error("cannot use the PostgreSQL server at {at}: {}; {}", words_of(source), advice_on(source))]
    Server {
        /// Its host and port, or its socket.
        at: String,
        /// What it said, or the operating system.
        source: sqlx::Error,
    },
    /// The answer to a commit was lost: what was to be done is done as a whole, or not at all.
    #[error(transparent)]
    Unanswered(CommitError),
    /// A database is configured, but the installation is still in the data directory.
    #[error(
        "{} holds an installation, but [database] names another place: move it there with `keyforge move-database --config FILE`, or move \
         that file away to begin anew without any keys", .0.display()
    )]
    NotMoved(PathBuf),
    /// The installation was moved, but no database is configured.
    #[error(
        "the installation was moved to PostgreSQL and what is left of it is {}: name that database in [database], or move this file \
         away to begin anew without any keys", .0.display()
    )]
    Moved(PathBuf),
    /// The installation is in PostgreSQL, but no database is configured.
    #[error(
        "the installation of this data directory is in PostgreSQL, as {} says: name that database in [database], or move this file away to \
         begin anew without any keys", .0.display()
    )]
    Elsewhere(PathBuf),
    /// The password of the database cannot be used.
    #[error("database.password cannot be used: {0}")]
    Password(String),
    /// The server is too old.
    #[error("the PostgreSQL server is of version {0}: version 15 or a later one is needed")]
    OldServer(i32),
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
    database: Database,
    clock: Arc<dyn Clock>,
    /// Held for as long as the store is open; the operating system lets go of it when the process dies, however it dies.
    _lock: File,
}

enum Database {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Store {
    /// Opens the database in `directory`, making both if they do not exist, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError`]: the directory cannot be used, belongs to another process, or holds a database of another kind or version.
    pub async fn open(directory: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::open_configured(directory, None, clock).await
    }

    /// Opens what is configured: a PostgreSQL database, or without one the database in `directory`. Its schema is brought up to date.
    ///
    /// # Errors
    /// As [`Store::open`]; the server cannot be reached, or is too old.
    pub async fn open_configured(
        directory: &Path,
        database: Option<&DatabaseConfig>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        private_file::private_dir(directory)?;
        let lock = lock(directory)?;
        unless_another(directory, database.is_some())?;
        let database = match database {
            None => Database::Sqlite(Sqlite::open(directory).await?),
            Some(config) => {
                let database = Postgres::open(config).await?;
                note_elsewhere(directory)?;
                Database::Postgres(database)
            }
        };
        let store = Self { inner: Arc::new(Inner { database, clock, _lock: lock }) };
        partitions::make_ahead(&store).await?;
        Ok(store)
    }

    /// Begins a transaction that may write. In SQLite it waits its turn: there is one at a time.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn write(&self) -> Result<Tx, StoreError> {
        match &self.inner.database {
            Database::Sqlite(database) => database.write().await,
            Database::Postgres(database) => database.write().await,
        }
    }

    /// Begins a transaction that reads one consistent state and cannot write.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn read(&self) -> Result<Tx, StoreError> {
        match &self.inner.database {
            Database::Sqlite(database) => database.read().await,
            Database::Postgres(database) => database.read().await,
        }
    }

    /// Whether other control planes may write as well.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.database, Database::Postgres(_))
    }

    fn partitions(&self) -> Option<&Made> {
        match &self.inner.database {
            Database::Sqlite(_) => None,
            Database::Postgres(database) => Some(&database.made),
        }
    }

    /// The store's wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Closes all connections. In SQLite that folds the write-ahead log back into the database.
    pub async fn close(&self) {
        match &self.inner.database {
            Database::Sqlite(database) => database.close().await,
            Database::Postgres(database) => database.close().await,
        }
    }
}

/// Refuses to begin anew where an installation is kept in the other kind of database.
fn unless_another(directory: &Path, is_shared: bool) -> Result<(), StoreError> {
    let [here, moved, elsewhere] = [DATABASE_FILE, MOVED_FILE, ELSEWHERE_FILE].map(|name| directory.join(name));
    match (is_shared, here.exists()) {
        (true, true) => Err(StoreError::NotMoved(here)),
        (false, false) if moved.exists() => Err(StoreError::Moved(moved)),
        (false, false) if elsewhere.exists() => Err(StoreError::Elsewhere(elsewhere)),
        _ => Ok(()),
    }
}

/// So that a start without `[database]` does not make another installation, whose tokens would take the place of those of this one.
fn note_elsewhere(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(ELSEWHERE_FILE);
    if path.exists() {
        return Ok(());
    }
    Ok(private_file::replace(
        &path,
        b"The installation of this directory is in the PostgreSQL database that [database] names.\n",
    )?)
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

impl From<CommitError> for StoreError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Undone(error) => Self::Database(error),
            lost @ CommitError::Unanswered(_) => Self::Unanswered(lost),
        }
    }
}

impl StoreError {
    /// Whether the database cannot be reached, does not let us in, or gave this transaction up in favour of another: the same may succeed later. Nothing
    /// was done, unless it is [`Self::Unanswered`].
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Database(error) | Self::Server { source: error, .. } => is_passing(error),
            Self::Unanswered(_) => true,
            _ => false,
        }
    }

    /// Logs what failed: as a warning where whoever asked for it asks again and may succeed.
    pub fn log(&self, what: &str) {
        match self.is_passing() {
            true => tracing::warn!(error = %self, "{what}: the database is away"),
            false => tracing::error!(error = %self, "{what}"),
        }
    }

    /// Whether what is stored is not what this program left there, so that it will not do to try again.
    #[must_use]
    pub fn is_of_the_stored(&self) -> bool {
        match self {
            Self::Corrupt(_) | Self::Range(_) => true,
            Self::Database(error) | Self::Server { source: error, .. } => is_of_the_stored(error),
            _ => false,
        }
    }
}

/// What went wrong, as the server or the operating system says it, without the line of the server's own source.
fn words_of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

/// What to do about a server that cannot be used at the start.
fn advice_on(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    match (error, code.as_ref()) {
        (sqlx::Error::Io(_), _) => "is it running, and is it there that the URL of the database says?",
        (sqlx::Error::Tls(_), _) => {
            "beyond this host it must speak TLS, with a certificate of its name that is trusted here (database.ca_file)"
        }
        (_, "3D000") => "make that database, or name another one in the URL of the database",
        (_, code) if code.starts_with("28") => {
            "look at the user in the URL of the database, at database.password, and at whom the server lets in (pg_hba.conf)"
        }
        (_, "53300") => "it has no connection to spare: raise its max_connections, or lower database.connections",
        (_, "57P03") => "it is starting or stopping: try again",
        _ => "its log may say more",
    }
}

fn is_of_the_stored(error: &sqlx::Error) -> bool {
    match error {
        // A column that is not there, or holds another kind of value than the schema has.
        sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound => true,
        // Class of SQLSTATE: the server found its own files damaged.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("XX")),
        _ => false,
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        // A connection that broke in the middle of a message, or as the server went down.
        sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => true,
        // Classes of SQLSTATE: connection, sign-in, resources, intervention of an operator; a serialization failure, a deadlock, a lock that was
        // not got. Who cannot sign in was let in once: a password was changed, or the server's rules.
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some_and(|error| {
                let code = error.code();
                ["08", "28", "53", "57P"].iter().any(|class| code.starts_with(class))
                    || ["40001", "40P01", "55P03", "57014", "25P03"].contains(&code)
            })
        }
        _ => false,
    }
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
    async fn nothing_begins_anew_beside_an_installation_in_the_other_kind_of_database() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        open(&path).await.unwrap().close().await;
        let elsewhere = DatabaseConfig::local("postgres://kf@127.0.0.1:1/kf").unwrap();
        let shared =
            async || Store::open_configured(&path, Some(&elsewhere), Arc::new(SystemClock)).await.err().unwrap();
        let error = shared().await;
        assert!(matches!(error, StoreError::NotMoved(_)), "{error}");
        std::fs::rename(path.join(DATABASE_FILE), path.join(MOVED_FILE)).unwrap();
        let error = open(&path).await.err().unwrap();
        assert!(matches!(error, StoreError::Moved(_)), "{error}");
        let error = shared().await;
        assert!(error.is_passing(), "it asks the server then: {error}");
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
        assert!(sql::query(insert).execute(&mut store.read().await.unwrap()).await.is_err());
        sql::query(insert).execute(&mut store.write().await.unwrap()).await.unwrap();
        let mut read = store.read().await.unwrap();
        let count = sql::query("SELECT count(*) FROM models").fetch_value::<i64>(&mut read);
        assert_eq!(count.await.unwrap(), Some(0));
    }
}
