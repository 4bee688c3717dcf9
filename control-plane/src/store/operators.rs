//! Operators: who may administer, known by the digests of their tokens.

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{OperatorId, WorkspaceId};
use keyforge_shared::role::Role;
use keyforge_shared::token::TokenDigest;
use sha2::{Digest as _, Sha256};

use super::sql::{self, Conn, Row};
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
    /// What they may do.
    pub role: Role,
    /// The only workspace that they see; `None` for all.
    pub workspace: Option<WorkspaceId>,
    /// First moment at which their token no longer works; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// When they were revoked.
    pub revoked_at: Option<Timestamp>,
}

impl Operator {
    /// Whether they are what every operator was before there were roles: an owner of the whole deployment, for good.
    #[must_use]
    pub fn is_lasting_owner(&self) -> bool {
        self.role == Role::Owner && self.workspace.is_none() && self.expires_at.is_none() && self.revoked_at.is_none()
    }

    /// Whether their token has run out at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Adds an operator.
///
/// # Errors
/// [`StoreError`]; also when name or digest exist.
pub async fn insert(connection: &mut Conn, operator: &Operator) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO operators (token_digest, role, expires_at, revoked_at, operator_id, name, workspace_id, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(operator.digest.0.as_slice())
    .bind(operator.role.as_str())
    .bind(operator.expires_at.map(Timestamp::nanos))
    .bind(operator.revoked_at.map(Timestamp::nanos))
    .bind(operator.id.as_bytes().as_slice())
    .bind(operator.name.as_str())
    .bind(operator.workspace.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(operator.created_at.nanos())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes everything of an operator that can change: not their name nor their workspace.
///
/// # Errors
/// [`StoreError`].
pub async fn update(connection: &mut Conn, operator: &Operator) -> Result<(), StoreError> {
    sql::query(
        "UPDATE operators SET token_digest = $1, role = $2, expires_at = $3, revoked_at = $4 WHERE operator_id = $5",
    )
    .bind(operator.digest.0.as_slice())
    .bind(operator.role.as_str())
    .bind(operator.expires_at.map(Timestamp::nanos))
    .bind(operator.revoked_at.map(Timestamp::nanos))
    .bind(operator.id.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Every operator, by id.
///
/// # Errors
/// [`StoreError`].
pub async fn all(connection: &mut Conn) -> Result<Vec<Operator>, StoreError> {
    let rows = sql::query("SELECT * FROM operators ORDER BY operator_id").fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Operator, StoreError> {
    let moment = |column| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_nanos));
    let workspace: Option<&[u8]> = row.try_get("workspace_id")?;
    let workspace = workspace.map(|bytes| WorkspaceId::from_slice(bytes).ok_or(StoreError::Corrupt("workspace_id")));
    Ok(Operator {
        id: column::bytes(row, "operator_id", OperatorId::from_slice)?,
        name: row.try_get("name")?,
        digest: TokenDigest(column::bytes32(row, "token_digest")?),
        created_at: column::time(row, "created_at")?,
        role: column::word(row, "role", Role::from_word)?,
        workspace: workspace.transpose()?,
        expires_at: moment("expires_at")?,
        revoked_at: moment("revoked_at")?,
    })
}

/// SHA-256 over the canonical bytes of all operators, in the order of their ids. It names every field.
#[must_use]
pub fn digest<'a>(operators: impl IntoIterator<Item = &'a Operator>) -> [u8; 32] {
    let mut sorted: Vec<&Operator> = operators.into_iter().collect();
    sorted.sort_unstable_by_key(|operator| operator.id);
    // Owners for good alone have the bytes that operators had before there were roles.
    let is_plain = sorted.iter().all(|operator| operator.is_lasting_owner());
    let mut writer = Writer::with_magic(if is_plain { b"KSO1" } else { b"KSO2" });
    writer.u64(sorted.len() as u64);
    for operator in sorted {
        writer.raw(operator.id.as_bytes()).str(&operator.name).raw(&operator.digest.0).i64(operator.created_at.nanos());
        if !is_plain {
            let moment = |at: Option<Timestamp>| at.map(|at| at.nanos().cast_unsigned());
            writer.str(operator.role.as_str());
            writer.bytes(operator.workspace.as_ref().map_or(&[][..], |id| id.as_bytes()));
            writer.option_u64(moment(operator.expires_at)).option_u64(moment(operator.revoked_at));
        }
    }
    Sha256::digest(writer.finish()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(number: u8) -> Operator {
        Operator {
            id: OperatorId::from_bytes([number; 16]),
            name: format!("operator {number}"),
            digest: TokenDigest([number; 32]),
            created_at: Timestamp::from_nanos(number.into()),
            role: Role::Owner,
            workspace: None,
            expires_at: None,
            revoked_at: None,
        }
    }

    #[test]
    fn digest_names_every_field_and_no_order() {
        let base = [operator(1), operator(2)];
        let moment = Some(Timestamp::from_nanos(0));
        let changed = [
            Operator { name: "other".to_owned(), ..operator(2) },
            Operator { digest: TokenDigest([9; 32]), ..operator(2) },
            Operator { created_at: Timestamp::from_nanos(9), ..operator(2) },
            Operator { role: Role::Viewer, ..operator(2) },
            Operator { workspace: Some(WorkspaceId::from_bytes([0; 16])), ..operator(2) },
            Operator { expires_at: moment, ..operator(2) },
            Operator { revoked_at: moment, ..operator(2) },
            operator(3),
        ];
        let mut seen = vec![digest(&base), digest(&base[..1])];
        assert_eq!(digest([&base[1], &base[0]]), seen[0]);
        for operator in changed {
            let found = digest([&base[0], &operator]);
            assert!(!seen.contains(&found), "{operator:?}");
            seen.push(found);
        }
    }

    #[test]
    fn owners_for_good_have_the_bytes_that_they_had_before_there_were_roles() {
        let mut writer = Writer::with_magic(b"KSO1");
        writer.u64(1).raw(&[1; 16]).str("operator 1").raw(&[1; 32]).i64(1);
        let before: [u8; 32] = Sha256::digest(writer.finish()).into();
        assert_eq!(digest([&operator(1)]), before);
    }
}
