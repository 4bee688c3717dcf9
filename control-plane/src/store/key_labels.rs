//! Labels of virtual keys: names with values that people sort keys by.
//!
//! Nodes do not know them, and they decide about nothing; the seal of the replicated state does not cover them.

use std::collections::{BTreeMap, HashMap};

use keyforge_shared::id::KeyId;
use sqlx::AssertSqlSafe;

use super::sql::{self, Conn};
use super::{StoreError, column};

/// Values by name.
pub type Labels = BTreeMap<String, String>;

/// Gives a key these labels and no others.
///
/// # Errors
/// [`StoreError`].
pub async fn replace(connection: &mut Conn, key: KeyId, labels: &Labels) -> Result<(), StoreError> {
    let delete = sql::query("DELETE FROM key_labels WHERE key_id = $1").bind(key.as_str());
    delete.execute(&mut *connection).await?;
    for (name, value) in labels {
        let insert = sql::query("INSERT INTO key_labels (key_id, name, value) VALUES ($1, $2, $3)");
        insert.bind(key.as_str()).bind(name.as_str()).bind(value.as_str()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The labels of those of these keys that have any.
///
/// # Errors
/// [`StoreError`].
pub async fn of(connection: &mut Conn, keys: &[KeyId]) -> Result<HashMap<KeyId, Labels>, StoreError> {
    let mut found: HashMap<KeyId, Labels> = HashMap::new();
    if keys.is_empty() {
        return Ok(found);
    }
    let places: Vec<_> = (1..=keys.len()).map(|place| format!("${place}")).collect();
    let places = places.join(", ");
    let sql = format!("SELECT key_id, name, value FROM key_labels WHERE key_id IN ({places})");
    let mut query = sql::query(AssertSqlSafe(sql));
    for key in keys {
        query = query.bind(key.as_str());
    }
    for row in query.fetch_all(connection).await? {
        let key = column::word(&row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?;
        found.entry(key).or_default().insert(row.try_get("name")?, row.try_get("value")?);
    }
    Ok(found)
}
