//! Both stores have one schema: the same tables, with the same columns of the same kinds.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyforge_control_plane::store::Store;
use keyforge_control_plane::store::sql::{self, Conn};
use keyforge_shared::clock::SystemClock;

use crate::plane::Plane;
use crate::stores::{self, SQLITE_FILE};

/// Table, column, kind, and whether it must have a value.
type Columns = BTreeSet<(String, String, String, bool)>;

async fn columns(conn: &mut Conn, select: &'static str) -> Columns {
    let rows = sql::query(select).fetch_all(conn).await.unwrap();
    let text = |row: &sql::Row, place: usize| row.try_get::<String, _>(place).unwrap();
    rows.iter().map(|row| (text(row, 0), text(row, 1), text(row, 2), row.try_get(3).unwrap())).collect()
}

#[tokio::test]
async fn database_that_does_not_exist_is_told_in_the_servers_words_without_a_line_of_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = stores::database_of(directory.path()).unwrap();
    config.name = "nosuch".to_owned();
    let opened = Store::open_configured(&directory.path().join("data"), Some(&config), Arc::new(SystemClock)).await;
    let text = opened.err().unwrap().to_string();
    assert!(text.starts_with("cannot use the PostgreSQL server at "), "{text}");
    assert!(
        text.ends_with(
            ": database \"nosuch\" does not exist; make that database, or name another one in the URL of the database"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn both_stores_have_the_same_tables_and_columns() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(one.path().join(SQLITE_FILE), "").unwrap();
    let (one, other) = (Plane::start_again(one).await.stop().await, Plane::start_again(other).await.stop().await);
    let in_sqlite = columns(
        &mut stores::connect(one.path()).await,
        "SELECT tables.name, columns.name, CASE columns.type WHEN 'INTEGER' THEN 'bigint' WHEN 'BLOB' THEN 'bytea' ELSE 'text' END, \
             columns.\"notnull\" OR columns.pk > 0 \
         FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns \
         WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite%' AND tables.name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
    )
    .await;
    let in_postgres = columns(
        &mut stores::connect(other.path()).await,
        "SELECT relname::text, attname::text, atttypid::regtype::text, attnotnull FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid \
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname NOT LIKE '\\_sqlx%' \
             AND attnum > 0 AND NOT attisdropped",
    )
    .await;
    assert!(in_sqlite.len() > 80, "{}", in_sqlite.len());
    let only = |one: &Columns, other: &Columns| one.difference(other).cloned().collect::<Vec<_>>();
    assert_eq!((only(&in_sqlite, &in_postgres), only(&in_postgres, &in_sqlite)), (Vec::new(), Vec::new()));
}
