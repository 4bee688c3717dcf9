//! Chains as rows: where each begins, where it ends, and whose it is.
//!
//! What is read back for verification comes raw, column by column, because the verifier must not trust any of it.

use keyforge_shared::audit::chain::Hash;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, KeyId, WorkspaceId};

use super::sql::{self, Conn, Engine, Row};
use super::{StoreError, column};

/// A chain that begins.
pub struct NewChain {
    /// Its id.
    pub chain: ChainId,
    /// Its virtual key; `None` for the administrators' chain.
    pub key: Option<KeyId>,
    /// The genesis' canonical bytes.
    pub genesis: Vec<u8>,
    /// `h_0`.
    pub genesis_hash: Hash,
    /// Seal of the head, which is the genesis.
    pub seal: Hash,
    /// When it begins.
    pub created: Timestamp,
}

/// Inserts a chain whose head is its genesis.
///
/// # Errors
/// [`StoreError::Database`], also when the chain exists.
pub async fn insert_chain(conn: &mut Conn, new: &NewChain) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO chains (chain_id, key_id, genesis, genesis_hash, head_seq, head_hash, head_seal, head_time) \
         VALUES ($1, $2, $3, $4, 0, $4, $5, $6)",
    )
    .bind(new.chain.as_bytes().as_slice())
    .bind(new.key.as_ref().map(KeyId::as_str))
    .bind(new.genesis.as_slice())
    .bind(new.genesis_hash.as_slice())
    .bind(new.seal.as_slice())
    .bind(new.created.nanos())
    .execute(conn)
    .await?;
    Ok(())
}

/// The end of a chain.
#[derive(Clone, Debug)]
pub struct Head {
    /// The chain.
    pub chain: ChainId,
    /// Its virtual key; `None` for the administrators' chain.
    pub key: Option<KeyId>,
    /// Number of its last entry; 0 when there is none.
    pub seq: u64,
    /// Hash of its last entry, or of its genesis.
    pub hash: Hash,
    /// The stored seal of both.
    pub seal: Hash,
    /// When the last entry was chained, or the chain began.
    pub time: Timestamp,
}

/// Reads the heads of chains, and holds them, so that nobody else extends these chains before the transaction ends. Chains that do not exist are
/// left out.
///
/// # Errors
/// [`StoreError`].
pub async fn heads(conn: &mut Conn, chains: &[ChainId]) -> Result<Vec<Head>, StoreError> {
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        let chains: Vec<&[u8]> = chains.iter().map(|chain| chain.as_bytes().as_slice()).collect();
        // In one order for everybody, the administrators' chain last.
        let rows = sqlx::query(
            "SELECT chain_id, key_id, head_seq, head_hash, head_seal, head_time FROM chains WHERE chain_id = ANY($1) \
             ORDER BY key_id IS NULL, chain_id FOR UPDATE",
        );
        let rows = patience.wait(rows.bind(chains).fetch_all(connection)).await?;
        return rows.into_iter().map(|row| head(&Row::Postgres(row))).collect();
    }
    let mut heads = Vec::with_capacity(chains.len());
    for chain in chains {
        let row = sql::query(
            "SELECT chain_id, key_id, head_seq, head_hash, head_seal, head_time FROM chains WHERE chain_id = $1",
        );
        if let Some(row) = row.bind(chain.as_bytes().as_slice()).fetch_optional(conn).await? {
            heads.push(head(&row)?);
        }
    }
    Ok(heads)
}

fn head(row: &Row) -> Result<Head, StoreError> {
    let key = row.try_get::<Option<&str>, _>("key_id")?;
    Ok(Head {
        chain: column::bytes(row, "chain_id", ChainId::from_slice)?,
        key: key
            .map(|text| KeyId::from_ascii(text.as_bytes()).map_err(|_| StoreError::Corrupt("key_id")))
            .transpose()?,
        seq: column::unsigned(row, "head_seq")?,
        hash: column::bytes32(row, "head_hash")?,
        seal: column::bytes32(row, "head_seal")?,
        time: column::time(row, "head_time")?,
    })
}

/// Moves the heads of chains, which [`heads`] gave in this transaction.
///
/// # Errors
/// [`StoreError`].
pub async fn set_heads(conn: &mut Conn, heads: &[Head]) -> Result<(), StoreError> {
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        let seqs = heads.iter().map(|head| column::signed(head.seq, "seq")).collect::<Result<Vec<_>, _>>()?;
        let update = sqlx::query(
            "UPDATE chains SET head_seq = moved.seq, head_hash = moved.hash, head_seal = moved.seal, head_time = moved.at \
             FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[]) AS moved (chain, seq, hash, seal, at) \
             WHERE chain_id = moved.chain",
        )
        .bind(heads.iter().map(|head| head.chain.as_bytes().as_slice()).collect::<Vec<_>>())
        .bind(seqs)
        .bind(heads.iter().map(|head| head.hash.as_slice()).collect::<Vec<_>>())
        .bind(heads.iter().map(|head| head.seal.as_slice()).collect::<Vec<_>>())
        .bind(heads.iter().map(|head| head.time.nanos()).collect::<Vec<_>>());
        patience.wait(update.execute(connection)).await?;
        return Ok(());
    }
    for head in heads {
        let update = sql::query(
            "UPDATE chains SET head_seq = $1, head_hash = $2, head_seal = $3, head_time = $4 WHERE chain_id = $5",
        );
        update
            .bind(column::signed(head.seq, "seq")?)
            .bind(head.hash.as_slice())
            .bind(head.seal.as_slice())
            .bind(head.time.nanos())
            .bind(head.chain.as_bytes().as_slice())
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// A chain's row as it stands, unchecked.
#[derive(Clone, Debug)]
pub struct StoredChain {
    /// The chain's 16 bytes.
    pub chain_id: Vec<u8>,
    /// The 12 characters of its key; `None` for the administrators' chain.
    pub key_id: Option<String>,
    /// The genesis' bytes.
    pub genesis: Vec<u8>,
    /// Stored `h_0`.
    pub genesis_hash: Vec<u8>,
    /// Stored head.
    pub head_seq: i64,
    /// Stored head.
    pub head_hash: Vec<u8>,
    /// Stored seal.
    pub head_seal: Vec<u8>,
    /// Unix nanoseconds.
    pub head_time: i64,
    /// The key that names this chain as its own, if one does.
    pub owner: Option<String>,
}

const CHAIN: &str = "SELECT chains.chain_id, chains.key_id, genesis, genesis_hash, head_seq, head_hash, head_seal, head_time, \
     virtual_keys.key_id AS owner FROM chains LEFT JOIN virtual_keys ON virtual_keys.chain_id = chains.chain_id \
     WHERE chains.chain_id = $1";

fn stored_chain(row: &Row) -> Result<StoredChain, StoreError> {
    Ok(StoredChain {
        chain_id: row.try_get(0)?,
        key_id: row.try_get(1)?,
        genesis: row.try_get(2)?,
        genesis_hash: row.try_get(3)?,
        head_seq: row.try_get(4)?,
        head_hash: row.try_get(5)?,
        head_seal: row.try_get(6)?,
        head_time: row.try_get(7)?,
        owner: row.try_get(8)?,
    })
}

/// One chain's row.
///
/// # Errors
/// [`StoreError`].
pub async fn chain(conn: &mut Conn, chain: &[u8]) -> Result<Option<StoredChain>, StoreError> {
    let row = sql::query(CHAIN).bind(chain).fetch_optional(conn).await?;
    row.as_ref().map(stored_chain).transpose()
}

/// The id of the chain after `after`, in the order of ids.
///
/// # Errors
/// [`StoreError`].
pub async fn chain_after(conn: &mut Conn, after: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let next = sql::query("SELECT chain_id FROM chains WHERE chain_id > $1 ORDER BY chain_id LIMIT 1");
    Ok(next.bind(after).fetch_value(conn).await?)
}

/// The chain after `after` of a workspace's virtual keys, as the keys name them, in the order of ids.
///
/// # Errors
/// [`StoreError`].
pub async fn chain_in_after(
    conn: &mut Conn,
    workspace: WorkspaceId,
    after: &[u8],
) -> Result<Option<ChainId>, StoreError> {
    let next = sql::query(
        "SELECT chain_id FROM virtual_keys WHERE workspace_id = $1 AND chain_id > $2 ORDER BY chain_id LIMIT 1",
    );
    let row = next.bind(workspace.as_bytes().as_slice()).bind(after).fetch_optional(conn).await?;
    row.as_ref().map(|row| column::bytes(row, "chain_id", ChainId::from_slice)).transpose()
}

/// The chain of a virtual key, as the key names it; `None` when there is no such key.
///
/// # Errors
/// [`StoreError`].
pub async fn chain_of_key(conn: &mut Conn, key: KeyId) -> Result<Option<ChainId>, StoreError> {
    let row = sql::query("SELECT chain_id FROM virtual_keys WHERE key_id = $1").bind(key.as_str()).fetch_optional(conn);
    row.await?.as_ref().map(|row| column::bytes(row, "chain_id", ChainId::from_slice)).transpose()
}

/// Something that has no chain although it should: the chain's bytes, and the key or the number of entries that point there.
pub enum Stray {
    /// A virtual key whose chain is gone.
    Key(Vec<u8>, String),
    /// Entries of a chain that is gone or never was, with the lowest place among them.
    Entries(Vec<u8>, i64),
}

/// At most `limit` strays of each kind.
///
/// # Errors
/// [`StoreError`].
pub async fn strays(conn: &mut Conn, limit: u32) -> Result<Vec<Stray>, StoreError> {
    let keys = sql::query(
        "SELECT chain_id, key_id FROM virtual_keys WHERE chain_id NOT IN (SELECT chain_id FROM chains) ORDER BY 1 LIMIT $1",
    );
    let keys = keys.bind(limit).fetch_all(conn).await?;
    let entries = sql::query(
        "SELECT chain_id, min(seq) FROM entries WHERE chain_id NOT IN (SELECT chain_id FROM chains) \
         GROUP BY chain_id ORDER BY 1 LIMIT $1",
    );
    let entries = entries.bind(limit).fetch_all(conn).await?;
    let keys = keys.iter().map(|row| Ok(Stray::Key(row.try_get(0)?, row.try_get(1)?)));
    keys.chain(entries.iter().map(|row| Ok(Stray::Entries(row.try_get(0)?, row.try_get(1)?)))).collect()
}
