//! The newest changes of the replicated state as rows, one per revision, for control planes that follow.

use super::sql::{self, Conn, Engine};
use super::{StoreError, column, postgres};

/// Revisions that are kept. Who is further behind loads the whole state.
const KEPT: i64 = 10_000;

/// The changes that led to a revision.
pub struct StateChange {
    /// The revision.
    pub revision: u64,
    /// The changes, as nodes are told them.
    pub changes: Vec<u8>,
    /// The seal of the state at that revision.
    pub state_seal: Vec<u8>,
    /// The digest of the operators at that revision, which the seal covers; empty when they were the same as before.
    pub operators_digest: Vec<u8>,
}

/// Writes the changes that lead to the next revision, and tells those who listen once this transaction is committed.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(conn: &mut Conn, change: &StateChange) -> Result<(), StoreError> {
    let revision = column::signed(change.revision, "the revision")?;
    // None is kept of a future that was undone, as by a backup.
    let of_no_use = sql::query("DELETE FROM state_changes WHERE revision <= $1 OR revision >= $2");
    of_no_use.bind(revision.saturating_sub(KEPT)).bind(revision).execute(conn).await?;
    sql::query("INSERT INTO state_changes (revision, changes, state_seal, operators_digest) VALUES ($1, $2, $3, $4)")
        .bind(revision)
        .bind(change.changes.as_slice())
        .bind(change.state_seal.as_slice())
        .bind(change.operators_digest.as_slice())
        .execute(conn)
        .await?;
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        patience.wait(sqlx::query("SELECT pg_notify($1, '')").bind(postgres::CHANNEL).execute(connection)).await?;
    }
    Ok(())
}

/// The changes after a revision up to that of the deployment, in order, as far as they are kept.
///
/// # Errors
/// [`StoreError`].
pub async fn after(conn: &mut Conn, revision: u64) -> Result<Vec<StateChange>, StoreError> {
    let select = "SELECT state_changes.revision, changes, state_changes.state_seal, operators_digest FROM state_changes \
                  JOIN deployment ON state_changes.revision <= deployment.revision WHERE state_changes.revision > $1 ORDER BY 1";
    let rows = sql::query(select).bind(column::signed(revision, "the revision")?).fetch_all(conn).await?;
    let read = |row: &sql::Row| {
        Ok(StateChange {
            revision: column::unsigned(row, "revision")?,
            changes: row.try_get("changes")?,
            state_seal: row.try_get("state_seal")?,
            operators_digest: row.try_get("operators_digest")?,
        })
    };
    rows.iter().map(read).collect()
}
