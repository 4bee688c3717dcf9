//! The model catalogue, each entry as JSON.

use keyforge_shared::catalog::Model;

use super::sql::{self, Conn, Row};
use super::{StoreError, column};

/// Creates or replaces an entry.
///
/// # Errors
/// [`StoreError`].
pub async fn put(connection: &mut Conn, model: &Model) -> Result<(), StoreError> {
    let text = serde_json::to_string(model).map_err(|_| StoreError::Range("the model"))?;
    sql::query(
        "INSERT INTO models (name, model) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET model = excluded.model",
    )
    .bind(model.name.as_str())
    .bind(text)
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes an entry.
///
/// # Errors
/// [`StoreError`].
pub async fn remove(connection: &mut Conn, name: &str) -> Result<(), StoreError> {
    sql::query("DELETE FROM models WHERE name = $1").bind(name).execute(connection).await?;
    Ok(())
}

/// The entry with this name.
///
/// # Errors
/// [`StoreError`].
pub async fn get(connection: &mut Conn, name: &str) -> Result<Option<Model>, StoreError> {
    let row = sql::query("SELECT model FROM models WHERE name = $1").bind(name).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

/// Up to `count` entries by name, after the one named `after`; an empty name is before all.
///
/// # Errors
/// [`StoreError`].
pub async fn page(connection: &mut Conn, after: &str, count: u32) -> Result<Vec<Model>, StoreError> {
    let rows = sql::query("SELECT model FROM models WHERE name > $1 ORDER BY name LIMIT $2")
        .bind(after)
        .bind(i64::from(count))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// The whole catalogue.
///
/// # Errors
/// [`StoreError`].
pub async fn all(connection: &mut Conn) -> Result<Vec<Model>, StoreError> {
    let rows = sql::query("SELECT model FROM models ORDER BY name").fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Model, StoreError> {
    column::word(row, "model", |text| serde_json::from_str(text).ok())
}
