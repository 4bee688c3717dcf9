//! Brings the schema to this version's, one transaction per step, and refuses to touch a database whose schema has another history. Steps have the same
//! numbers in both kinds of database; PostgreSQL begins with step 4. There they run under an advisory lock, so that control planes that start at
//! the same time wait for each other.
//!
//! The steps are compiled in; their checksums are stored with them, so that an edited step is noticed at start.

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{PgConnection, SqlSafeStr as _, SqliteConnection};

use super::StoreError;

/// The steps, in order. A step that was released is never edited; a change is a new step.
const SQLITE: [(i64, &str, &str); 15] = [
    (1, "initial", include_str!("../../migrations/sqlite/0001_initial.sql")),
    (2, "keys_by_workspace", include_str!("../../migrations/sqlite/0002_keys_by_workspace.sql")),
    (3, "credential_weights", include_str!("../../migrations/sqlite/0003_credential_weights.sql")),
    (4, "state_changes", include_str!("../../migrations/sqlite/0004_state_changes.sql")),
    (5, "boot_signs", include_str!("../../migrations/sqlite/0005_boot_signs.sql")),
    (6, "nodes", include_str!("../../migrations/sqlite/0006_nodes.sql")),
    (7, "status_revisions", include_str!("../../migrations/sqlite/0007_status_revisions.sql")),
    (8, "vault_keys", include_str!("../../migrations/sqlite/0008_vault_keys.sql")),
    (9, "operators_and_plans", include_str!("../../migrations/sqlite/0009_operators_and_plans.sql")),
    (10, "key_life", include_str!("../../migrations/sqlite/0010_key_life.sql")),
    (11, "node_providers", include_str!("../../migrations/sqlite/0011_node_providers.sql")),
    (12, "limit_changes", include_str!("../../migrations/sqlite/0012_limit_changes.sql")),
    (13, "receipt_parts", include_str!("../../migrations/sqlite/0013_receipt_parts.sql")),
    (14, "certificates_in_use", include_str!("../../migrations/sqlite/0014_certificates_in_use.sql")),
    (15, "sealed_receipts", include_str!("../../migrations/sqlite/0015_sealed_receipts.sql")),
];
/// The steps in PostgreSQL.
const POSTGRES: [(i64, &str, &str); 12] = [
    (4, "initial", include_str!("../../migrations/postgres/0004_initial.sql")),
    (5, "boot_signs", include_str!("../../migrations/postgres/0005_boot_signs.sql")),
    (6, "nodes", include_str!("../../migrations/postgres/0006_nodes.sql")),
    (7, "status_revisions", include_str!("../../migrations/postgres/0007_status_revisions.sql")),
    (8, "vault_keys", include_str!("../../migrations/postgres/0008_vault_keys.sql")),
    (9, "operators_and_plans", include_str!("../../migrations/postgres/0009_operators_and_plans.sql")),
    (10, "key_life", include_str!("../../migrations/postgres/0010_key_life.sql")),
    (11, "node_providers", include_str!("../../migrations/postgres/0011_node_providers.sql")),
    (12, "limit_changes", include_str!("../../migrations/postgres/0012_limit_changes.sql")),
    (13, "receipt_parts", include_str!("../../migrations/postgres/0013_receipt_parts.sql")),
    (14, "certificates_in_use", include_str!("../../migrations/postgres/0014_certificates_in_use.sql")),
    (15, "sealed_receipts", include_str!("../../migrations/postgres/0015_sealed_receipts.sql")),
];

/// Why the schema is not this version's.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A step is not what was once applied.
    #[error(
        "schema step {0} of the database is not the one of this version: install the version that made it, or restore a backup"
    )]
    Changed(i64),
    /// The database was last used by a later version.
    #[error(
        "the database has schema step {0}, which this version does not know: install the later version that made it"
    )]
    Newer(i64),
    /// A step was begun and not finished.
    #[error(
        "schema step {0} was applied by half: restore the backup from before the update, then start this version again"
    )]
    HalfApplied(i64),
    /// A step failed and was undone.
    #[error("schema step {step} failed and was undone; the database is as before: {source}")]
    Failed {
        /// Which step; 0 before the first.
        step: i64,
        /// What the database said.
        source: sqlx::Error,
    },
}

/// Applies the steps that are missing in SQLite.
pub(super) async fn sqlite(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    migrator(&SQLITE).run_direct(None, connection, false).await.map_err(|error| typed(error).into())
}

/// Applies the steps that are missing in PostgreSQL.
pub(super) async fn postgres(connection: &mut PgConnection) -> Result<(), StoreError> {
    migrator(&POSTGRES).run_direct(None, connection, false).await.map_err(|error| typed(error).into())
}

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let step = |(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(steps.iter().map(step).collect())
}

fn typed(error: MigrateError) -> MigrationError {
    match error {
        MigrateError::VersionMismatch(step) => MigrationError::Changed(step),
        MigrateError::VersionMissing(step) => MigrationError::Newer(step),
        MigrateError::Dirty(step) => MigrationError::HalfApplied(step),
        MigrateError::ExecuteMigration(source, step) => MigrationError::Failed { step, source },
        MigrateError::Execute(source) => MigrationError::Failed { step: 0, source },
        other => MigrationError::Failed { step: 0, source: sqlx::Error::Migrate(Box::new(other)) },
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;

    async fn refused(tamper: &'static str) -> MigrationError {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlite(&mut connection).await.unwrap();
        sqlite(&mut connection).await.unwrap();
        sqlx::query(tamper).execute(&mut connection).await.unwrap();
        match sqlite(&mut connection).await {
            Err(StoreError::Migration(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_workspaces_keys_are_found_by_an_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlite(&mut connection).await.unwrap();
        for (query, index) in [
            ("EXPLAIN QUERY PLAN SELECT count(*) FROM virtual_keys WHERE workspace_id = x'00'", "by_workspace"),
            (
                "EXPLAIN QUERY PLAN SELECT * FROM virtual_keys WHERE workspace_id = x'00' AND (created_at, key_id) < (7, 'a') \
                 ORDER BY created_at DESC, key_id DESC LIMIT 9",
                "by_workspace_age",
            ),
            (
                "EXPLAIN QUERY PLAN SELECT chain_id FROM virtual_keys WHERE workspace_id = x'00' AND chain_id > x'00' \
                 ORDER BY chain_id LIMIT 1",
                "by_workspace_chain",
            ),
        ] {
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(query).fetch_all(&mut connection).await.unwrap();
            let [(.., plan)] = plan.as_slice() else { panic!("{plan:?}") };
            assert!(plan.starts_with("SEARCH") && plan.contains(index), "{plan}");
        }
    }

    #[tokio::test]
    async fn schema_with_another_history_is_refused_with_what_to_do() {
        let changed = refused("UPDATE _sqlx_migrations SET checksum = x'00'").await;
        assert!(matches!(changed, MigrationError::Changed(1)), "{changed}");
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (99, 'later', 1, x'00', 0)";
        let newer = refused(newer).await;
        assert!(matches!(newer, MigrationError::Newer(99)), "{newer}");
        let half = refused("UPDATE _sqlx_migrations SET success = 0").await;
        assert!(matches!(half, MigrationError::HalfApplied(1)), "{half}");
    }
}
