//! Operators: who may administer, known by the digests of their tokens.

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::OperatorId;
use keyforge_shared::token::TokenDigest;
use sha2::{Digest as _, Sha256};

use super::sql::{self, Conn};
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
pub async fn insert(connection: &mut Conn, operator: &Operator) -> Result<(), StoreError> {
    sql::query("INSERT INTO operators (operator_id, name, token_digest, created_at) VALUES ($1, $2, $3, $4)")
        .bind(operator.id.as_bytes().as_slice())
        .bind(operator.name.as_str())
        .bind(operator.digest.0.as_slice())
        .bind(operator.created_at.nanos())
        .execute(connection)
        .await?;
    Ok(())
}

/// Every operator, by id.
///
/// # Errors
/// [`StoreError`].
pub async fn all(connection: &mut Conn) -> Result<Vec<Operator>, StoreError> {
    let select = "SELECT operator_id, name, token_digest, created_at FROM operators ORDER BY operator_id";
    let rows = sql::query(select).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Operator {
                id: column::bytes(row, "operator_id", OperatorId::from_slice)?,
                name: row.try_get("name")?,
                digest: TokenDigest(column::bytes32(row, "token_digest")?),
                created_at: column::time(row, "created_at")?,
            })
        })
        .collect()
}

/// SHA-256 over the canonical bytes of all operators, in the order of their ids. It names every field.
#[must_use]
pub fn digest(operators: &[Operator]) -> [u8; 32] {
    let mut sorted: Vec<&Operator> = operators.iter().collect();
    sorted.sort_unstable_by_key(|operator| operator.id);
    let mut writer = Writer::with_magic(b"KSO1");
    writer.u64(sorted.len() as u64);
    for operator in sorted {
        writer.raw(operator.id.as_bytes()).str(&operator.name).raw(&operator.digest.0).i64(operator.created_at.nanos());
    }
    Sha256::digest(writer.finish()).into()
}
