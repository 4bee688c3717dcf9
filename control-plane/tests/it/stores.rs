//! Which store these tests run on, and how to reach it past the control plane. The same tests make two binaries: `it` on SQLite, and `it_postgres` on a real
//! PostgreSQL server, where each has a database of its own. Its URL is kept in the test's directory, so that a second start finds it.

use std::fs;
use std::path::Path;

use keyforge_control_plane::config::DatabaseConfig;
use keyforge_control_plane::store::sql::{self, Conn, Engine};
use keyforge_loadtest::postgres::shared::shared;
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;

/// Where a directory says which database it uses.
pub const URL_FILE: &str = "database.url";

/// Says that a directory keeps to SQLite, whatever the tests run on.
pub const SQLITE_FILE: &str = "sqlite";

/// What SQLite has and tampering needs.
const LIKE_SQLITE: [&str; 3] = [
    "CREATE FUNCTION zeroblob(bytes integer) RETURNS bytea LANGUAGE sql AS $$ SELECT decode(repeat('00', bytes), 'hex') $$",
    "CREATE FUNCTION json_set(document text, path text, value text) RETURNS text LANGUAGE sql AS $$ SELECT jsonb_set(document::jsonb, \
     string_to_array(ltrim(translate(path, '$[]', '..'), '.'), '.'), to_jsonb(value))::text $$",
    "CREATE FUNCTION json_set(document text, path text, value bigint) RETURNS text LANGUAGE sql AS $$ SELECT jsonb_set(document::jsonb, \
     string_to_array(ltrim(translate(path, '$[]', '..'), '.'), '.'), to_jsonb(value))::text $$",
];

/// Whether these tests run on PostgreSQL.
pub fn on_postgres() -> bool {
    env!("CARGO_CRATE_NAME") == "it_postgres"
}

/// The database of a test's directory, made for the first one who asks; `None` on SQLite.
pub fn database_of(directory: &Path) -> Option<DatabaseConfig> {
    (on_postgres() && !directory.join(SQLITE_FILE).exists()).then(|| {
        let file = directory.join(URL_FILE);
        if !file.exists() {
            fs::write(&file, shared().unwrap().database().unwrap()).unwrap();
        }
        DatabaseConfig { connections: 8, ..DatabaseConfig::local(&url(directory)).unwrap() }
    })
}

/// A connection past the control plane, for which no row must belong to another.
pub async fn connect(directory: &Path) -> Conn {
    if !on_postgres() || directory.join(SQLITE_FILE).exists() {
        let path = directory.join("data/control-plane.db");
        return sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap().into();
    }
    let mut connection = Conn::from(sqlx::PgConnection::connect(&url(directory)).await.unwrap());
    let known = "SELECT to_regproc('zeroblob') IS NOT NULL";
    if sql::query(known).fetch_value::<bool>(&mut connection).await.unwrap() == Some(false) {
        for function in LIKE_SQLITE {
            sql::query(function).execute(&mut connection).await.unwrap();
        }
    }
    connection
}

/// Nobody else writes an entry until this connection is gone.
pub async fn keep_all_others_from_writing(conn: &mut Conn) {
    let begin = conn.either("BEGIN IMMEDIATE", "BEGIN");
    sql::query(begin).execute(conn).await.unwrap();
    if let Engine::Postgres(connection, _) = conn.engine().unwrap() {
        sqlx::query("LOCK TABLE chains IN EXCLUSIVE MODE").execute(connection).await.unwrap();
    }
}

/// Lets rows lose what they refer to, until the transaction ends, or without one for good.
pub async fn let_rows_dangle(conn: &mut Conn) {
    let (in_transaction, for_good) = ("PRAGMA defer_foreign_keys = ON", "PRAGMA foreign_keys = OFF");
    match conn.engine().unwrap() {
        Engine::Sqlite(connection) => {
            for pragma in [in_transaction, for_good] {
                sqlx::query(pragma).execute(&mut *connection).await.unwrap();
            }
        }
        Engine::Postgres(connection, _) => {
            sqlx::query("SET session_replication_role = replica").execute(connection).await.unwrap();
        }
    }
}

/// Runs SQL in the words of SQLite, past everything that guards the rows.
pub async fn tamper(conn: &mut Conn, statement: &str) -> u64 {
    let_rows_dangle(conn).await;
    let mut words = statement.to_owned();
    if on_postgres() {
        words = words.replace(" x'", " '\\x").replace("AS BLOB", "AS bytea");
        // Who may write may also drop what would keep out a double.
        for index in ["DROP INDEX IF EXISTS entries_by_chain", "DROP INDEX IF EXISTS entries_by_node"] {
            sql::query(index).execute(conn).await.unwrap();
        }
    }
    sql::query(AssertSqlSafe(words)).execute(conn).await.unwrap_or_else(|error| panic!("{error}: {statement}"))
}

/// Every row of a PostgreSQL database as text, bytes in hexadecimal; nothing of SQLite, whose file can be read as it is.
pub async fn rows_as_text(directory: &Path) -> Vec<String> {
    if !on_postgres() {
        return Vec::new();
    }
    let mut conn = connect(directory).await;
    let tables =
        sql::query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'").fetch_all(&mut conn).await;
    let mut texts = Vec::new();
    for table in tables.unwrap() {
        let table: String = table.try_get(0).unwrap();
        let rows = sql::query(AssertSqlSafe(format!("SELECT it::text FROM {table} AS it"))).fetch_all(&mut conn).await;
        texts.extend(rows.unwrap().iter().map(|row| row.try_get::<String, _>(0).unwrap()));
    }
    assert!(texts.len() > 10, "{}", texts.len());
    texts
}

/// Makes every change of a virtual key fail.
pub async fn prevent_updates_of_keys(conn: &mut Conn) {
    let statements = conn.either(
        &["CREATE TRIGGER prevent BEFORE UPDATE ON virtual_keys BEGIN SELECT raise(ABORT, 'not now'); END"][..],
        &[
            "CREATE FUNCTION prevent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$",
            "CREATE TRIGGER prevent BEFORE UPDATE ON virtual_keys FOR EACH ROW EXECUTE FUNCTION prevent()",
        ],
    );
    for statement in statements {
        sql::query(*statement).execute(conn).await.unwrap();
    }
}

/// Lets virtual keys change again.
pub async fn allow_updates_of_keys(conn: &mut Conn) {
    let drop = conn.either("DROP TRIGGER prevent", "DROP TRIGGER prevent ON virtual_keys");
    sql::query(drop).execute(conn).await.unwrap();
}

/// Makes every further move of a secret to the second vault key fail once `most` are under it.
pub async fn fill_up_vault_records(conn: &mut Conn, most: u32) {
    let moves = format!("new.kek_term = 2 AND (SELECT count(*) FROM vault_records WHERE kek_term = 2) >= {most}");
    let statements = if conn.either(false, true) {
        vec![
            format!(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {moves} THEN \
                 RAISE EXCEPTION 'disk is full'; END IF; RETURN new; END $$"
            ),
            "CREATE TRIGGER full_disk BEFORE UPDATE ON vault_records FOR EACH ROW EXECUTE FUNCTION full_disk()"
                .to_owned(),
        ]
    } else {
        vec![format!(
            "CREATE TRIGGER full_disk BEFORE UPDATE ON vault_records WHEN {moves} \
             BEGIN SELECT raise(ABORT, 'disk is full'); END"
        )]
    };
    for statement in statements {
        sql::query(AssertSqlSafe(statement)).execute(conn).await.unwrap();
    }
}

/// Lets secrets move again.
pub async fn make_room_for_vault_records(conn: &mut Conn) {
    let drop = conn.either("DROP TRIGGER full_disk", "DROP TRIGGER full_disk ON vault_records");
    sql::query(drop).execute(conn).await.unwrap();
}

/// Copies a closed control plane's database to another directory.
pub fn copy_database(from: &TempDir, to: &Path) {
    if on_postgres() {
        let url = url(from.path());
        let (_, name) = url.rsplit_once('/').unwrap();
        fs::write(to.join(URL_FILE), shared().unwrap().copy_of(name).unwrap()).unwrap();
    }
}

/// Drops the database of a directory, before the process ends.
pub fn forget(directory: &Path) {
    if on_postgres() && directory.join(URL_FILE).exists() {
        let url = url(directory);
        let (_, name) = url.rsplit_once('/').unwrap();
        // One on another server, or of a test that failed already, must not make this fail.
        if name.starts_with("t_") {
            drop(shared().unwrap().forget(name));
        }
    }
}

fn url(directory: &Path) -> String {
    fs::read_to_string(directory.join(URL_FILE)).unwrap()
}
