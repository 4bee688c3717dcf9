//! Operators: who may administer, known by the digests of their tokens.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::OperatorId;
use keyforge_shared::token::TokenDigest;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, column};

/// An operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Their id, which entries name.
    pub id: OperatorId,
    /// Their name, unique.
    pub name: String,
    /// Digest of their token.
    pub digest: TokenDigest,
    /// Since when.
    pub created_at: Timestamp,
}

/// Adds an operator.
///
/// # Errors
/// [`StoreError`]; also when name or digest exist.
pub async fn insert(connection: &mut SqliteConnection, operator: &Operator) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO operators (operator_id, name, token_digest, created_at) VALUES (?, ?, ?, ?)")
        .bind(operator.id.as_bytes().as_slice())
        .bind(operator.name.as_str())
        .bind(operator.digest.0.as_slice())
        .bind(operator.created_at.nanos())
        .execute(connection)
        .await?;
    Ok(())
}

/// The operator whose token has this digest.
///
/// # Errors
/// [`StoreError`].
pub async fn by_digest(
    connection: &mut SqliteConnection,
    digest: &TokenDigest,
) -> Result<Option<Operator>, StoreError> {
    let row = sqlx::query("SELECT operator_id, name, token_digest, created_at FROM operators WHERE token_digest = ?")
        .bind(digest.0.as_slice())
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Operator {
        id: column::bytes(&row, "operator_id", OperatorId::from_slice)?,
        name: row.try_get("name")?,
        digest: TokenDigest(column::bytes32(&row, "token_digest")?),
        created_at: column::time(&row, "created_at")?,
    }))
}
