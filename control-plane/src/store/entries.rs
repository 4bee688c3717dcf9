//! Entries as rows. They are only ever inserted, many in one statement.
//!
//! What is read back comes raw, column by column, because the verifier must not trust any of it.

use std::sync::{Arc, LazyLock};

use keyforge_shared::audit::chain::Hash;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, ChainId, KeyId, NodeId, RequestId};
use keyforge_shared::limit::{CounterId, Scope};
use keyforge_shared::period::ZoneName;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments as _, AssertSqlSafe};

use super::sql::{self, Conn, Engine, Row};
use super::timely::Patience;
use super::{StoreError, column, partitions};

/// Which record of which boot an entry holds, or which boot it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub boot: BootId,
    /// The record's number in that life; `None` for what the control plane itself wrote about it.
    pub node_seq: Option<u64>,
}

/// An entry to insert.
pub struct NewEntry {
    /// The chain.
    pub chain: ChainId,
    /// Place in it.
    pub seq: u64,
    /// Where the record came from, or which life it is about; `None` when it is about none.
    pub origin: Option<Origin>,
    /// When it was chained.
    pub t_cp: Timestamp,
    /// In which key epoch.
    pub key_epoch: u32,
    /// The record's canonical bytes.
    pub record: Vec<u8>,
    /// `h_i`.
    pub hash: Hash,
}

/// Rows of one statement. The last chunk of a batch is inserted with smaller ones, so few statements are prepared.
const CHUNKS: [usize; 3] = [100, 10, 1];

static INSERTS: LazyLock<[Arc<str>; 3]> = LazyLock::new(|| {
    CHUNKS.map(|rows| {
        let mut sql = String::from(
            "INSERT INTO entries (chain_id, seq, node_id, boot_id, node_seq, t_cp, key_epoch, record, hash) VALUES ",
        );
        for row in 0..rows {
            sql.push_str(if row == 0 { "(?,?,?,?,?,?,?,?,?)" } else { ",(?,?,?,?,?,?,?,?,?)" });
        }
        sql.into()
    })
});

/// Inserts entries in the order given.
///
/// # Errors
/// [`StoreError::Database`], also when a record of a boot is chained already.
pub async fn insert(conn: &mut Conn, entries: Vec<NewEntry>) -> Result<(), StoreError> {
    partitions::make_for(conn, entries.iter().map(|entry| entry.t_cp)).await?;
    match conn.engine()? {
        Engine::Sqlite(connection) => insert_in_chunks(connection, entries).await,
        Engine::Postgres(connection, patience) => insert_as_columns(connection, patience, entries).await,
    }
}

/// As rows of constants, which is what SQLite reads fastest.
async fn insert_in_chunks(connection: &mut SqliteConnection, entries: Vec<NewEntry>) -> Result<(), StoreError> {
    let mut entries = entries.into_iter();
    while entries.len() > 0 {
        let Some(size) = CHUNKS.iter().position(|rows| *rows <= entries.len()) else { break };
        let mut arguments = SqliteArguments::default();
        arguments.reserve(CHUNKS[size] * 9, 0);
        for entry in entries.by_ref().take(CHUNKS[size]) {
            bind(&mut arguments, entry)?;
        }
        sqlx::query_with(AssertSqlSafe(INSERTS[size].clone()), arguments).execute(&mut *connection).await?;
    }
    Ok(())
}

/// As one list per column: one statement and one plan for any number of entries.
async fn insert_as_columns(
    connection: &mut PgConnection,
    patience: &mut Patience,
    entries: Vec<NewEntry>,
) -> Result<(), StoreError> {
    let seqs: Vec<i64> = entries.iter().map(|entry| column::signed(entry.seq, "seq")).collect::<Result<_, _>>()?;
    let node_seqs: Vec<Option<i64>> = entries.iter().map(number).collect::<Result<_, _>>()?;
    let origins: Vec<Option<Origin>> = entries.iter().map(|entry| entry.origin).collect();
    let chains: Vec<&[u8]> = entries.iter().map(|entry| entry.chain.as_bytes().as_slice()).collect();
    let nodes: Vec<Option<&[u8]>> =
        origins.iter().map(|it| it.as_ref().map(|it| it.node.as_bytes().as_slice())).collect();
    let boots: Vec<Option<&[u8]>> =
        origins.iter().map(|it| it.as_ref().map(|it| it.boot.as_bytes().as_slice())).collect();
    let times: Vec<i64> = entries.iter().map(|entry| entry.t_cp.nanos()).collect();
    let epochs: Vec<i64> = entries.iter().map(|entry| i64::from(entry.key_epoch)).collect();
    let records: Vec<&[u8]> = entries.iter().map(|entry| entry.record.as_slice()).collect();
    let hashes: Vec<&[u8]> = entries.iter().map(|entry| entry.hash.as_slice()).collect();
    let insert = sqlx::query(
        "INSERT INTO entries (chain_id, seq, node_id, boot_id, node_seq, t_cp, key_epoch, record, hash) \
         SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bytea[])",
    )
    .bind(chains)
    .bind(seqs)
    .bind(nodes)
    .bind(boots)
    .bind(node_seqs)
    .bind(times)
    .bind(epochs)
    .bind(records)
    .bind(hashes);
    patience.wait(insert.execute(connection)).await?;
    Ok(())
}

fn number(entry: &NewEntry) -> Result<Option<i64>, StoreError> {
    entry.origin.and_then(|origin| origin.node_seq).map(|number| column::signed(number, "node_seq")).transpose()
}

fn bind(arguments: &mut SqliteArguments, entry: NewEntry) -> Result<(), StoreError> {
    let node_seq = number(&entry)?;
    let seq = column::signed(entry.seq, "seq")?;
    let origin = entry.origin.as_ref();
    arguments
        .add(entry.chain.as_bytes().as_slice())
        .and_then(|()| arguments.add(seq))
        .and_then(|()| arguments.add(origin.map(|origin| origin.node.as_bytes().as_slice())))
        .and_then(|()| arguments.add(origin.map(|origin| origin.boot.as_bytes().as_slice())))
        .and_then(|()| arguments.add(node_seq))
        .and_then(|()| arguments.add(entry.t_cp.nanos()))
        .and_then(|()| arguments.add(i64::from(entry.key_epoch)))
        .and_then(|()| arguments.add(entry.record))
        .and_then(|()| arguments.add(entry.hash.as_slice()))
        .map_err(|error| StoreError::Database(sqlx::Error::Encode(error)))
}

/// An entry's row as it stands, unchecked.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    /// The row.
    pub entry_id: i64,
    /// Place in its chain.
    pub seq: i64,
    /// The node's 16 bytes.
    pub node_id: Option<Vec<u8>>,
    /// The boot's 16 bytes.
    pub boot_id: Option<Vec<u8>>,
    /// The record's number in that boot.
    pub node_seq: Option<i64>,
    /// Unix nanoseconds.
    pub t_cp: i64,
    /// Key epoch.
    pub key_epoch: i64,
    /// The record.
    pub record: Vec<u8>,
    /// The stored hash.
    pub hash: Vec<u8>,
}

fn stored(row: &Row) -> Result<StoredEntry, StoreError> {
    Ok(StoredEntry {
        entry_id: row.try_get(0)?,
        seq: row.try_get(1)?,
        node_id: row.try_get(2)?,
        boot_id: row.try_get(3)?,
        node_seq: row.try_get(4)?,
        t_cp: row.try_get(5)?,
        key_epoch: row.try_get(6)?,
        record: row.try_get(7)?,
        hash: row.try_get(8)?,
    })
}

/// At most `limit` rows of a chain after the row `(seq, entry_id)`, in that order, doubles and all.
///
/// # Errors
/// [`StoreError`].
pub async fn after(
    conn: &mut Conn,
    chain: &[u8],
    (seq, entry_id): (i64, i64),
    limit: u32,
) -> Result<Vec<StoredEntry>, StoreError> {
    let rows = sql::query(
        "SELECT entry_id, seq, node_id, boot_id, node_seq, t_cp, key_epoch, record, hash FROM entries \
         WHERE chain_id = $1 AND (seq, entry_id) > ($2, $3) ORDER BY seq, entry_id LIMIT $4",
    )
    .bind(chain)
    .bind(seq)
    .bind(entry_id)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(stored).collect()
}

/// At most `limit` rows of a chain before `seq`, the last one first.
///
/// # Errors
/// [`StoreError`].
pub async fn before(conn: &mut Conn, chain: ChainId, seq: i64, limit: u32) -> Result<Vec<StoredEntry>, StoreError> {
    between(conn, chain, (i64::MIN, seq), limit).await
}

/// At most `limit` rows of a chain between two places, without those themselves, the last one first.
///
/// # Errors
/// [`StoreError`].
pub async fn between(
    conn: &mut Conn,
    chain: ChainId,
    (after, before): (i64, i64),
    limit: u32,
) -> Result<Vec<StoredEntry>, StoreError> {
    let rows = sql::query(
        "SELECT entry_id, seq, node_id, boot_id, node_seq, t_cp, key_epoch, record, hash FROM entries \
         WHERE chain_id = $1 AND seq > $2 AND seq < $3 ORDER BY seq DESC LIMIT $4",
    )
    .bind(chain.as_bytes().as_slice())
    .bind(after)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(stored).collect()
}

/// The last entry of a key's chain.
#[derive(Clone, Debug)]
pub struct End {
    /// The key.
    pub key: KeyId,
    /// Its chain.
    pub chain: ChainId,
    /// Where the key's days begin; UTC without one.
    pub zone: Option<ZoneName>,
    /// Place of the entry.
    pub seq: i64,
    /// When it was chained, in Unix nanoseconds.
    pub t_cp: i64,
}

macro_rules! ends_of {
    ($zone:literal, $last:literal, $keys:literal) => {
        concat!(
            "SELECT owner.key_id AS key_id, owner.chain_id AS chain_id, ", $zone, " AS zone, last.seq AS seq, last.t_cp AS t_cp \
             FROM virtual_keys AS owner JOIN ", $last, " WHERE ", $keys
        )
    };
    (sqlite, $keys:literal) => {
        ends_of!(
            "owner.policy ->> '$.time_zone'",
            "entries AS last ON last.entry_id = \
                 (SELECT entry_id FROM entries WHERE entries.chain_id = owner.chain_id ORDER BY seq DESC LIMIT 1)",
            $keys
        )
    };
    (postgres, $keys:literal) => {
        ends_of!(
            "owner.policy::json ->> 'time_zone'",
            "LATERAL (SELECT seq, t_cp FROM entries WHERE entries.chain_id = owner.chain_id ORDER BY seq DESC LIMIT 1) AS last ON true",
            $keys
        )
    };
    ($keys:literal) => {
        (ends_of!(sqlite, $keys), ends_of!(postgres, $keys))
    };
}

/// The last entry of every key under the counter's limit, but for keys without any.
///
/// # Errors
/// [`StoreError`].
pub async fn ends(conn: &mut Conn, counter: &CounterId) -> Result<Vec<End>, StoreError> {
    let (in_sqlite, in_postgres) = match counter.scope {
        Scope::Key => ends_of!("owner.key_id = $1"),
        Scope::Workspace => {
            ends_of!("owner.workspace_id = (SELECT workspace_id FROM virtual_keys WHERE virtual_keys.key_id = $1)")
        }
    };
    let sql = conn.either(in_sqlite, in_postgres);
    let rows = sql::query(sql).bind(counter.key.as_str()).fetch_all(conn).await?;
    let read = |row: &Row| {
        let zone: Option<&str> = row.try_get("zone")?;
        Ok(End {
            key: column::word(row, "key_id", |id| KeyId::from_ascii(id.as_bytes()).ok())?,
            chain: column::bytes(row, "chain_id", ChainId::from_slice)?,
            zone: zone.map(|zone| zone.parse().map_err(|_| StoreError::Corrupt("policy"))).transpose()?,
            seq: row.try_get("seq")?,
            t_cp: row.try_get("t_cp")?,
        })
    };
    rows.iter().map(read).collect()
}

/// The chained records of a boot with numbers from `first` to `last`, by number.
///
/// # Errors
/// [`StoreError`].
pub async fn of_boot(conn: &mut Conn, boot: BootId, first: u64, last: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let rows = sql::query(
        "SELECT node_seq, record FROM entries WHERE boot_id = $1 AND node_seq BETWEEN $2 AND $3 ORDER BY node_seq",
    )
    .bind(boot.as_bytes().as_slice())
    .bind(column::signed(first, "node_seq")?)
    .bind(column::signed(last, "node_seq")?)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok((column::unsigned(row, "node_seq")?, row.try_get("record")?))).collect()
}

/// At most `limit` records that the control plane wrote about a boot in `chain`, each with its place, after place `after`.
///
/// # Errors
/// [`StoreError`].
pub async fn about_boot(
    conn: &mut Conn,
    (chain, boot): (ChainId, &[u8]),
    after: i64,
    limit: u32,
) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    let rows = sql::query(
        "SELECT seq, record FROM entries WHERE boot_id = $1 AND node_seq IS NULL AND chain_id = $2 AND seq > $3 ORDER BY seq LIMIT $4",
    )
    .bind(boot)
    .bind(chain.as_bytes().as_slice())
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, row.try_get("record")?))).collect()
}

/// Which of `requests` have a chained record of `boot`, and in which chain.
///
/// # Errors
/// [`StoreError`].
pub async fn chains_of_requests(
    conn: &mut Conn,
    boot: BootId,
    requests: &[RequestId],
) -> Result<Vec<(RequestId, ChainId)>, StoreError> {
    let wanted: Vec<String> = requests.iter().map(|id| id.to_string().trim_start_matches("req_").to_owned()).collect();
    // A request record holds its request id at the fixed offset 77; SQL counts from 1.
    let rows = sql::query(conn.either(
        "SELECT DISTINCT substr(record, 78, 16) AS request_id, chain_id FROM entries \
         WHERE boot_id = $1 AND node_seq IS NOT NULL AND substr(record, 78, 16) IN (SELECT unhex(value) FROM json_each($2))",
        "SELECT DISTINCT substr(record, 78, 16) AS request_id, chain_id FROM entries \
         WHERE boot_id = $1 AND node_seq IS NOT NULL AND substr(record, 78, 16) IN (SELECT decode(value, 'hex') FROM json_array_elements_text($2::json))",
    ))
    .bind(boot.as_bytes().as_slice())
    .bind(serde_json::to_string(&wanted).map_err(|_| StoreError::Range("requests"))?)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let request = column::bytes(row, "request_id", RequestId::from_slice)?;
            Ok((request, column::bytes(row, "chain_id", ChainId::from_slice)?))
        })
        .collect()
}
