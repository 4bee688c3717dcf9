//! What a control plane that makes a receipt asks the others that share its database, and what these answer.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::NodeId;

use super::sql::{self, Conn, Engine, Row};
use super::{StoreError, column, node_lists, postgres};

/// Questions that are read at a time.
const MOST_READ: u32 = 256;

/// How far a revision has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Drawn for this question.
    pub id: [u8; 16],
    /// Which revision.
    pub revision: u64,
    /// Nodes that heard of their control plane so recently may be serving.
    pub max_staleness: Duration,
    /// How long an answer is of use.
    pub wait: Duration,
}

/// How far it has come with the nodes of one control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// How many times it was written.
    pub writes: u32,
    /// Whether no connected node has still to say something.
    pub is_settled: bool,
    /// Nodes that have done it.
    pub acked: Vec<NodeId>,
    /// Nodes that have not, with the age of what each knew when this was written.
    pub pending: Vec<(NodeId, Duration)>,
    /// Streams that they ended.
    pub streams_cut: u64,
}

/// Asks, and wakes the others once this transaction is committed.
///
/// # Errors
/// [`StoreError`].
pub async fn ask(conn: &mut Conn, question: &Question, asked_by: &[u8; 16], now: Timestamp) -> Result<(), StoreError> {
    let nanos = |duration: Duration| column::signed(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), "a time");
    sql::query(
        "INSERT INTO receipt_questions (question_id, asked_by, revision, max_staleness, wait, asked_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(question.id.as_slice())
    .bind(asked_by.as_slice())
    .bind(column::signed(question.revision, "the revision")?)
    .bind(nanos(question.max_staleness)?)
    .bind(nanos(question.wait)?)
    .bind(now.nanos())
    .execute(conn)
    .await?;
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        patience.wait(sqlx::query("SELECT pg_notify($1, '')").bind(postgres::CHANNEL).execute(connection)).await?;
    }
    Ok(())
}

/// What others than this control plane ask, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn questions(conn: &mut Conn, this: &[u8; 16]) -> Result<Vec<Question>, StoreError> {
    let select = "SELECT question_id, revision, max_staleness, wait FROM receipt_questions WHERE asked_by <> $1 \
                  ORDER BY asked_at, question_id LIMIT $2";
    let rows = sql::query(select).bind(this.as_slice()).bind(MOST_READ).fetch_all(conn).await?;
    let read = |row: &Row| {
        Ok(Question {
            id: column::bytes(row, "question_id", |bytes| bytes.try_into().ok())?,
            revision: column::unsigned(row, "revision")?,
            max_staleness: Duration::from_nanos(column::unsigned(row, "max_staleness")?),
            wait: Duration::from_nanos(column::unsigned(row, "wait")?),
        })
    };
    rows.iter().map(read).collect()
}

/// Writes the part of a control plane in place of what it answered before.
///
/// # Errors
/// [`StoreError`].
pub async fn answer(conn: &mut Conn, question: &[u8; 16], by: &[u8; 16], part: &Part) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO receipt_parts (question_id, control_plane_id, writes, is_settled, acked, pending, streams_cut) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (question_id, control_plane_id) DO UPDATE SET writes = excluded.writes, \
         is_settled = excluded.is_settled, acked = excluded.acked, pending = excluded.pending, streams_cut = excluded.streams_cut",
    )
    .bind(question.as_slice())
    .bind(by.as_slice())
    .bind(part.writes)
    .bind(i64::from(part.is_settled))
    .bind(node_lists::of_ids(&part.acked))
    .bind(node_lists::of_aged(&part.pending))
    .bind(column::signed(part.streams_cut, "the number of streams")?)
    .execute(conn)
    .await?;
    Ok(())
}

/// The part of a control plane, if it was written more often than `writes` times.
///
/// # Errors
/// [`StoreError`].
pub async fn part(
    conn: &mut Conn,
    question: &[u8; 16],
    by: &[u8; 16],
    writes: u32,
) -> Result<Option<Part>, StoreError> {
    let select = "SELECT writes, is_settled, acked, pending, streams_cut FROM receipt_parts \
                  WHERE question_id = $1 AND control_plane_id = $2 AND writes > $3";
    let row =
        sql::query(select).bind(question.as_slice()).bind(by.as_slice()).bind(writes).fetch_optional(conn).await?;
    let read = |row: &Row| {
        Ok(Part {
            writes: column::unsigned32(row, "writes")?,
            is_settled: column::flag(row, "is_settled")?,
            acked: node_lists::ids(row, "acked")?,
            pending: node_lists::aged(row.try_get("pending")?, "pending")?,
            streams_cut: column::unsigned(row, "streams_cut")?,
        })
    };
    row.as_ref().map(read).transpose()
}

/// Forgets a question that needs no answer any more.
///
/// # Errors
/// [`StoreError`].
pub async fn forget(conn: &mut Conn, question: &[u8; 16]) -> Result<(), StoreError> {
    for delete in
        ["DELETE FROM receipt_questions WHERE question_id = $1", "DELETE FROM receipt_parts WHERE question_id = $1"]
    {
        sql::query(delete).bind(question.as_slice()).execute(conn).await?;
    }
    Ok(())
}

/// Forgets what was asked before a moment, and answers to what is not asked any more.
///
/// # Errors
/// [`StoreError`].
pub async fn forget_before(conn: &mut Conn, moment: Timestamp) -> Result<(), StoreError> {
    sql::query("DELETE FROM receipt_questions WHERE asked_at < $1").bind(moment.nanos()).execute(conn).await?;
    let left_over = "DELETE FROM receipt_parts WHERE question_id NOT IN (SELECT question_id FROM receipt_questions)";
    sql::query(left_over).execute(conn).await?;
    Ok(())
}
