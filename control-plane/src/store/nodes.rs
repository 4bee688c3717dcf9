//! Nodes as rows: the authority that certifies them, tokens to join with, who joined and was removed, and whose life a boot is.

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId, OperatorId};
use keyforge_shared::token::TokenDigest;

use super::sql::{self, Conn, Row};
use super::{StoreError, column};
use crate::nodes::serves::Serves;
use crate::vault::Sealed;

/// The authority as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAuthority {
    /// Its certificate, X.509 in DER.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Sealed,
    /// Since when there is one.
    pub created_at: Timestamp,
}

/// A token to join with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// What is kept of it.
    pub digest: TokenDigest,
    /// Name of the node that will join; may be empty.
    pub name: String,
    /// Providers that it will serve.
    pub serves: Serves,
    /// Who made it.
    pub created_by: OperatorId,
    /// When.
    pub created_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// When it was used, if it was.
    pub used_at: Option<Timestamp>,
}

impl JoinToken {
    /// The bytes that its seal is over.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(&self.canonical_before()).i64(self.used_at.map_or(i64::MIN, Timestamp::nanos));
        writer.finish()
    }

    /// The bytes that its seal was over before it said whether the token was used.
    #[must_use]
    pub fn canonical_before(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(&self.digest.0).str(&self.name).raw(self.created_by.as_bytes());
        writer.i64(self.created_at.nanos()).i64(self.expires_at.nanos());
        serves(&mut writer, &self.serves);
        writer.finish()
    }
}

/// A node that has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name; may be empty.
    pub name: String,
    /// Providers that it serves.
    pub serves: Serves,
    /// Since when.
    pub joined_at: Timestamp,
    /// When it was removed, if it was.
    pub removed_at: Option<Timestamp>,
    /// Serial number of its newest certificate.
    pub certificate_serial: Vec<u8>,
    /// Until when that is good.
    pub certificate_expires_at: Timestamp,
    /// Whether anybody has presented it.
    pub certificate_used: bool,
}

impl Node {
    /// The bytes that its seal is over.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(&self.canonical_before()).bytes(&self.certificate_serial).i64(self.certificate_expires_at.nanos());
        writer.u8(u8::from(self.certificate_used));
        writer.finish()
    }

    /// The bytes that its seal was over before it told of the certificate.
    #[must_use]
    pub fn canonical_before(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(self.id.as_bytes()).str(&self.name).i64(self.joined_at.nanos());
        writer.u8(u8::from(self.removed_at.is_some())).i64(self.removed_at.map_or(0, Timestamp::nanos));
        serves(&mut writer, &self.serves);
        writer.finish()
    }
}

/// Rows that are older than the column have seals without it, and serve all.
fn serves(writer: &mut Writer, serves: &Serves) {
    if !serves.names().is_empty() {
        writer.str(&serves.text());
    }
}

/// Reads the authority, if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn authority(conn: &mut Conn) -> Result<Option<StoredAuthority>, StoreError> {
    let row = sql::query("SELECT certificate, kek_term, sealed_key, sealed_secret, created_at FROM node_authority")
        .fetch_optional(conn)
        .await?;
    let read = |row: &Row| {
        Ok(StoredAuthority {
            certificate: row.try_get("certificate")?,
            key: Sealed {
                kek_term: column::unsigned32(row, "kek_term")?,
                sealed_key: row.try_get("sealed_key")?,
                sealed_secret: row.try_get("sealed_secret")?,
            },
            created_at: column::time(row, "created_at")?,
        })
    };
    row.as_ref().map(read).transpose()
}

/// Keeps the authority, unless there is one already.
///
/// # Errors
/// [`StoreError`].
pub async fn insert_authority(conn: &mut Conn, new: &StoredAuthority) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO node_authority (singleton, certificate, kek_term, sealed_key, sealed_secret, created_at) \
         VALUES (1, $1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(new.certificate.as_slice())
    .bind(i64::from(new.key.kek_term))
    .bind(new.key.sealed_key.as_slice())
    .bind(new.key.sealed_secret.as_slice())
    .bind(new.created_at.nanos())
    .execute(conn)
    .await?;
    Ok(())
}

/// Puts the data key of the authority's private key, sealed anew, in place of `before`. False when it is not as `before` any more; nothing was
/// changed then.
///
/// # Errors
/// [`StoreError`].
pub async fn rewrap_authority(conn: &mut Conn, before: &Sealed, after: &Sealed) -> Result<bool, StoreError> {
    let replaced =
        sql::query("UPDATE node_authority SET kek_term = $1, sealed_key = $2 WHERE kek_term = $3 AND sealed_key = $4")
            .bind(after.kek_term)
            .bind(after.sealed_key.as_slice())
            .bind(before.kek_term)
            .bind(before.sealed_key.as_slice())
            .execute(conn)
            .await?;
    Ok(replaced == 1)
}

/// Keeps a token's digest.
///
/// # Errors
/// [`StoreError`].
pub async fn insert_token(conn: &mut Conn, token: &JoinToken, seal: &[u8; 32]) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO node_join_tokens (token_digest, name, created_by, created_at, expires_at, seal, providers) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(token.digest.0.as_slice())
    .bind(token.name.as_str())
    .bind(token.created_by.as_bytes().as_slice())
    .bind(token.created_at.nanos())
    .bind(token.expires_at.nanos())
    .bind(seal.as_slice())
    .bind(token.serves.text())
    .execute(conn)
    .await?;
    Ok(())
}

/// Reads a token and its seal.
///
/// # Errors
/// [`StoreError`].
pub async fn token(conn: &mut Conn, digest: &TokenDigest) -> Result<Option<(JoinToken, Vec<u8>)>, StoreError> {
    let row = sql::query(
        "SELECT token_digest, name, created_by, created_at, expires_at, seal, used_at, providers FROM node_join_tokens \
         WHERE token_digest = $1",
    )
    .bind(digest.0.as_slice())
    .fetch_optional(conn)
    .await?;
    let read = |row: &Row| {
        let token = JoinToken {
            digest: TokenDigest(column::bytes32(row, "token_digest")?),
            name: row.try_get("name")?,
            serves: Serves::parse(row.try_get("providers")?),
            created_by: column::bytes(row, "created_by", OperatorId::from_slice)?,
            created_at: column::time(row, "created_at")?,
            expires_at: column::time(row, "expires_at")?,
            used_at: row.try_get::<Option<i64>, _>("used_at")?.map(Timestamp::from_nanos),
        };
        Ok((token, row.try_get("seal")?))
    };
    row.as_ref().map(read).transpose()
}

/// Forgets the tokens that an operator made and nobody has used, and says how many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn forget_tokens_of(conn: &mut Conn, operator: OperatorId) -> Result<u64, StoreError> {
    let forget = sql::query("DELETE FROM node_join_tokens WHERE created_by = $1 AND used_at IS NULL");
    Ok(forget.bind(operator.as_bytes().as_slice()).execute(conn).await?)
}

/// Notes that a token was used by a node. `false` when somebody else was first, in which case nothing is changed. `seal` is over the token as it is then.
///
/// # Errors
/// [`StoreError`].
pub async fn use_token(conn: &mut Conn, used: &JoinToken, node: NodeId, seal: &[u8; 32]) -> Result<bool, StoreError> {
    let update =
        "UPDATE node_join_tokens SET used_at = $1, node_id = $2, seal = $3 WHERE token_digest = $4 AND used_at IS NULL";
    let used = sql::query(update)
        .bind(used.used_at.map(Timestamp::nanos))
        .bind(node.as_bytes().as_slice())
        .bind(seal.as_slice())
        .bind(used.digest.0.as_slice())
        .execute(conn)
        .await?;
    Ok(used == 1)
}

/// Adds a node.
///
/// # Errors
/// [`StoreError`], also when there was ever one of this id.
pub async fn insert(conn: &mut Conn, node: &Node, seal: &[u8; 32]) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO nodes (node_id, name, joined_at, removed_at, seal, certificate_serial, certificate_expires_at, certificate_used, providers) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(node.id.as_bytes().as_slice())
    .bind(node.name.as_str())
    .bind(node.joined_at.nanos())
    .bind(node.removed_at.map(Timestamp::nanos))
    .bind(seal.as_slice())
    .bind(node.certificate_serial.as_slice())
    .bind(node.certificate_expires_at.nanos())
    .bind(i64::from(node.certificate_used))
    .bind(node.serves.text())
    .execute(conn)
    .await?;
    Ok(())
}

fn read_node(row: &Row) -> Result<(Node, Vec<u8>), StoreError> {
    let node = Node {
        id: column::bytes(row, "node_id", NodeId::from_slice)?,
        name: row.try_get("name")?,
        serves: Serves::parse(row.try_get("providers")?),
        joined_at: column::time(row, "joined_at")?,
        removed_at: row.try_get::<Option<i64>, _>("removed_at")?.map(Timestamp::from_nanos),
        certificate_serial: row.try_get("certificate_serial")?,
        certificate_expires_at: column::time(row, "certificate_expires_at")?,
        certificate_used: row.try_get::<i64, _>("certificate_used")? != 0,
    };
    Ok((node, row.try_get("seal")?))
}

/// Reads a node and its seal.
///
/// # Errors
/// [`StoreError`].
pub async fn get(conn: &mut Conn, id: NodeId) -> Result<Option<(Node, Vec<u8>)>, StoreError> {
    let row = sql::query(
        "SELECT node_id, name, joined_at, removed_at, seal, certificate_serial, certificate_expires_at, certificate_used, providers \
         FROM nodes WHERE node_id = $1",
    )
    .bind(id.as_bytes().as_slice())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read_node).transpose()
}

/// Every node and its seal, removed ones included, in the order in which they joined.
///
/// # Errors
/// [`StoreError`].
pub async fn all(conn: &mut Conn) -> Result<Vec<(Node, Vec<u8>)>, StoreError> {
    let select = "SELECT node_id, name, joined_at, removed_at, seal, certificate_serial, certificate_expires_at, certificate_used, \
                  providers FROM nodes";
    let rows = sql::query(select).fetch_all(conn).await?;
    let mut nodes = rows.iter().map(read_node).collect::<Result<Vec<_>, _>>()?;
    nodes.sort_by_key(|(node, _)| (node.joined_at, node.id));
    Ok(nodes)
}

/// Reads a node and its seal, and lets nobody else change it before the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub async fn hold(conn: &mut Conn, id: NodeId) -> Result<Option<(Node, Vec<u8>)>, StoreError> {
    // In SQLite there is one writer at a time.
    if let Some(lock) = conn.either(None, Some("SELECT 1 FROM nodes WHERE node_id = $1 FOR UPDATE")) {
        sql::query(lock).bind(id.as_bytes().as_slice()).fetch_optional(conn).await?;
    }
    get(conn, id).await
}

/// Writes what of a node can change: its certificate, and that it was removed. `seal` is over the node as it is then.
///
/// # Errors
/// [`StoreError`].
pub async fn update(conn: &mut Conn, node: &Node, seal: &[u8; 32]) -> Result<(), StoreError> {
    sql::query(
        "UPDATE nodes SET removed_at = $1, certificate_serial = $2, certificate_expires_at = $3, certificate_used = $4, seal = $5 \
         WHERE node_id = $6",
    )
    .bind(node.removed_at.map(Timestamp::nanos))
    .bind(node.certificate_serial.as_slice())
    .bind(node.certificate_expires_at.nanos())
    .bind(i64::from(node.certificate_used))
    .bind(seal.as_slice())
    .bind(node.id.as_bytes().as_slice())
    .execute(conn)
    .await?;
    Ok(())
}

/// The nodes that were removed at or after a moment.
///
/// # Errors
/// [`StoreError`].
pub async fn removed_since(conn: &mut Conn, since: Timestamp) -> Result<Vec<NodeId>, StoreError> {
    let rows = sql::query("SELECT node_id FROM nodes WHERE removed_at >= $1").bind(since.nanos());
    let rows = rows.fetch_all(conn).await?;
    rows.iter().map(|row| column::bytes(row, "node_id", NodeId::from_slice)).collect()
}

/// Whose life a boot is, if anybody has said so: by its records once it has shipped any, before that by the note of [`claim_boot`].
///
/// # Errors
/// [`StoreError`].
pub async fn boot_owner(conn: &mut Conn, boot: BootId) -> Result<Option<NodeId>, StoreError> {
    let select = "SELECT node_id FROM (SELECT node_id, 1 AS place FROM boots WHERE boot_id = $1 \
                  UNION ALL SELECT node_id, 2 AS place FROM node_boots WHERE boot_id = $1) AS owners ORDER BY place LIMIT 1";
    let row = sql::query(select).bind(boot.as_bytes().as_slice()).fetch_optional(conn).await?;
    row.as_ref().map(|row| column::bytes(row, "node_id", NodeId::from_slice)).transpose()
}

/// Notes whose life a boot is. The first note stands.
///
/// # Errors
/// [`StoreError`].
pub async fn claim_boot(conn: &mut Conn, boot: BootId, node: NodeId) -> Result<(), StoreError> {
    sql::query("INSERT INTO node_boots (boot_id, node_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(boot.as_bytes().as_slice())
        .bind(node.as_bytes().as_slice())
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets the notes of boots that need none: those that have shipped, whose row in `boots` says the same for ever, and those that have closed without
/// having shipped anything, in whose name nothing can be done any more that somebody could not do in a name of their own.
///
/// What stays are notes of boots that run and of those that died before their first record came, however long ago: their node may still have records of
/// them on its disk and come back with these, and until then no other node may take the name and put its own records in that place.
///
/// # Errors
/// [`StoreError`].
pub async fn forget_boots(conn: &mut Conn) -> Result<(), StoreError> {
    let delete = "DELETE FROM node_boots WHERE EXISTS (SELECT 1 FROM closed_boots WHERE closed_boots.boot_id = node_boots.boot_id) \
                  OR EXISTS (SELECT 1 FROM boots WHERE boots.boot_id = node_boots.boot_id AND boots.node_id = node_boots.node_id)";
    sql::query(delete).execute(conn).await?;
    Ok(())
}
