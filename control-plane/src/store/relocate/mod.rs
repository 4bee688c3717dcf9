//! Moves an installation from SQLite to PostgreSQL: all of it in one transaction, proven before that is committed, or nothing.
//!
//! The source must not run, and the target must be empty. What was copied is read back and compared row by row; beside that, every chain must end in
//! both places at the same entry, which must be there, and the ledger must say the same sums. Only then is the move committed and the
//! source set aside, so that it cannot be started by mistake. A move that was interrupted between these two is finished by moving again.

mod copy;
mod proof;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyforge_shared::clock::Clock;

use super::postgres::Postgres;
use super::sql::Conn;
use super::{CommitError, DATABASE_FILE, MOVED_FILE, Store, StoreError, locks, sql};
use crate::config::DatabaseConfig;

/// Every table, those first that others refer to.
const TABLES: [&str; 31] = [
    "deployment",
    "operators",
    "workspaces",
    "virtual_keys",
    "key_labels",
    "credentials",
    "vault_records",
    "vault_keys",
    "vault_rotation",
    "vault_holders",
    "models",
    "epochs",
    "epoch_members",
    "grants",
    "limit_changes",
    "overspent",
    "chains",
    "entries",
    "boots",
    "closed_boots",
    "boot_signs",
    "node_authority",
    "node_join_tokens",
    "nodes",
    "node_boots",
    "state_changes",
    "control_planes",
    "receipt_questions",
    "receipt_parts",
    "receipt_answers",
    "connected_nodes",
];
/// Beside those: sums for reports. Together they are all tables, which a test holds against the schema.
const SUMS: &str = "usage_by_day";

/// Why an installation was not moved. Both databases are as before, unless the message says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RelocateError {
    /// There is nothing to move.
    #[error("{} does not exist: there is no SQLite installation to move", .0.display())]
    NoSource(PathBuf),
    /// One of the databases failed, or the source is in use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something is in the target.
    #[error(
        "the database holds something already (in the table {0}): an installation is moved only into an empty one; nothing was changed"
    )]
    NotEmpty(&'static str),
    /// The source contradicts itself.
    #[error(
        "the installation contradicts itself, so it is not moved: {0}; start it as it is and run `keyforge audit verify --all`"
    )]
    Source(String),
    /// What was read back is not what was written.
    #[error("the copy is not the same as the installation ({0}); nothing was changed")]
    Differs(String),
    /// The copy is there, but the source could not be set aside.
    #[error("everything is moved, but {} could not be renamed: {cause}; remove it yourself, and never start it again", path.display())]
    SetAside {
        /// The source.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
}

impl From<CommitError> for RelocateError {
    fn from(error: CommitError) -> Self {
        Self::Store(error.into())
    }
}

impl From<sqlx::Error> for RelocateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocated {
    /// Rows of all tables.
    pub rows: u64,
    /// Chains, whose heads are the same in both places.
    pub chains: u64,
    /// Entries of them.
    pub entries: u64,
    /// Books of the ledger, whose sums are the same in both places.
    pub books: u64,
    /// What they have settled together: requests and nano-dollars, each counted once per limit and window.
    pub settled: i128,
    /// Where the source is now.
    pub set_aside: PathBuf,
}

/// Moves the installation in `directory`.
///
/// # Errors
/// [`RelocateError`].
pub async fn relocate(
    directory: &Path,
    database: &DatabaseConfig,
    clock: Arc<dyn Clock>,
) -> Result<Relocated, RelocateError> {
    let path = directory.join(DATABASE_FILE);
    if !path.exists() {
        return Err(RelocateError::NoSource(path));
    }
    // Takes the lock of the directory, which a running control plane holds.
    let source = Store::open(directory, clock).await?;
    let target = Postgres::open(database).await?;
    let relocated = relocate_rows(&source, &target).await;
    source.close().await;
    target.close().await;
    let mut relocated = relocated?;
    relocated.set_aside = directory.join(MOVED_FILE);
    fs::rename(&path, &relocated.set_aside).map_err(|cause| RelocateError::SetAside { path, cause })?;
    Ok(relocated)
}

async fn relocate_rows(source: &Store, target: &Postgres) -> Result<Relocated, RelocateError> {
    let mut from = source.read().await?;
    let mut to = target.write().await?;
    to.wait_without_end();
    // No control plane makes a deployment there meanwhile.
    locks::deployment(&mut to).await?;
    if let Some(table) = first_with_rows(&mut to).await? {
        return match proof::compare(&mut from, &mut to).await {
            // Moved before, but for setting the source aside; and nobody has used it since.
            Ok(relocated) if relocated.chains > 0 => Ok(relocated),
            _ => Err(RelocateError::NotEmpty(table)),
        };
    }
    let mut rows = 0;
    for table in TABLES.into_iter().chain([SUMS]) {
        let written = copy::table(&mut from, &mut to, table).await?;
        let read = copy::digest(&mut to, table).await?;
        if written != read {
            return Err(RelocateError::Differs(format!("table {table}")));
        }
        rows += written.rows;
    }
    copy::continue_numbers(&mut to).await?;
    let mut relocated = proof::compare(&mut from, &mut to).await?;
    relocated.rows = rows;
    to.commit().await?;
    Ok(relocated)
}

async fn first_with_rows(conn: &mut Conn) -> Result<Option<&'static str>, RelocateError> {
    for table in TABLES.into_iter().chain([SUMS]) {
        let any = sql::query(sqlx::AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {table})")));
        if any.fetch_value(conn).await? == Some(true) {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use keyforge_shared::clock::SystemClock;

    use super::*;

    #[tokio::test]
    async fn every_table_of_the_schema_is_moved() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("data"), Arc::new(SystemClock)).await.unwrap();
        let mut read = store.read().await.unwrap();
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'";
        let rows = sql::query(names).fetch_all(&mut read).await.unwrap();
        let tables: BTreeSet<String> = rows.iter().map(|row| row.try_get(0).unwrap()).collect();
        let moved: BTreeSet<String> = TABLES.into_iter().chain([SUMS]).map(str::to_owned).collect();
        assert_eq!(tables, moved);
    }
}
