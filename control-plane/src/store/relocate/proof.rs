//! The proof that two databases hold the same installation: the heads of all chains, and the sums of the ledger.

use std::path::PathBuf;

use super::{RelocateError, Relocated};
use crate::store::sql::{self, Conn, Row};

/// Of every chain where it ends, and under which seal.
const HEADS: &str = "SELECT chain_id, head_seq, head_hash, head_seal FROM chains ORDER BY chain_id";

/// What every limit of every key has granted and settled in every period, and in how many books.
const BOOKS: &str = "SELECT key_id, scope, dimension, \"window\", first_day, count(*), CAST(sum(granted) AS BIGINT), CAST(sum(settled) AS BIGINT) \
    FROM grants GROUP BY key_id, scope, dimension, \"window\", first_day ORDER BY 1, 2, 3, 4, 5";

/// A chain that does not end with its last entry, or lacks some before it.
const UNFINISHED: &str = "SELECT chain_id FROM chains WHERE head_seq <> (SELECT count(*) FROM entries WHERE entries.chain_id = chains.chain_id) \
    OR (head_seq > 0 AND NOT EXISTS (SELECT 1 FROM entries WHERE entries.chain_id = chains.chain_id AND seq = head_seq AND hash = head_hash)) \
    LIMIT 1";

type Head = (Vec<u8>, i64, Vec<u8>, Vec<u8>);
type Book = ((String, String, String, String, i64), (i64, i64, i64));

/// Compares the two, and says how much there is. Rows are not counted here.
pub(super) async fn compare(from: &mut Conn, to: &mut Conn) -> Result<Relocated, RelocateError> {
    let (heads, copied) = (heads(from).await?, heads(to).await?);
    if heads != copied {
        return Err(RelocateError::Differs("the heads of chains".to_owned()));
    }
    for (conn, is_source) in [(from as &mut Conn, true), (to as &mut Conn, false)] {
        if let Some(chain) = sql::query(UNFINISHED).fetch_value::<Vec<u8>>(conn).await? {
            let what = format!("chain {} does not end with its last entry", hex::encode(chain));
            return Err(if is_source { RelocateError::Source(what) } else { RelocateError::Differs(what) });
        }
    }
    let (books, copied) = (books(from).await?, books(to).await?);
    if books != copied {
        return Err(RelocateError::Differs("the sums of the ledger".to_owned()));
    }
    Ok(Relocated {
        rows: 0,
        chains: heads.len() as u64,
        entries: heads.iter().map(|(_, seq, ..)| seq.unsigned_abs()).sum(),
        books: books.iter().map(|(_, (count, ..))| count.unsigned_abs()).sum(),
        settled: books.iter().map(|(_, (.., settled))| i128::from(*settled)).sum(),
        set_aside: PathBuf::new(),
    })
}

async fn heads(conn: &mut Conn) -> Result<Vec<Head>, sqlx::Error> {
    let rows = sql::query(HEADS).fetch_all(conn).await?;
    let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
    rows.iter().map(read).collect()
}

async fn books(conn: &mut Conn) -> Result<Vec<Book>, sqlx::Error> {
    let rows = sql::query(BOOKS).fetch_all(conn).await?;
    let read = |row: &Row| {
        let limit = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        Ok((limit, (row.try_get(5)?, row.try_get(6)?, row.try_get(7)?)))
    };
    let mut books: Vec<Book> = rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?;
    // Databases order texts in their own ways.
    books.sort_unstable();
    Ok(books)
}
