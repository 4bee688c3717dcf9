//! What a control plane that makes a receipt asks the others that share its database, and what these answer, each answer with its seal.
//!
//! A question needs none: an answer's seal is over the question that was answered, so that one which was changed on the way has no answer.

use std::time::Duration;

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::clock::Timestamp;

use super::node_lists::{self, AgedLife};
use super::sql::{self, Conn, Engine, Row};
use super::{StoreError, column, postgres};

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
    /// Lives that have done it, as they were known when this was written.
    pub acked: Vec<AgedLife>,
    /// Lives that have not.
    pub pending: Vec<AgedLife>,
    /// Streams that they ended.
    pub streams_cut: u64,
}

impl Part {
    /// The bytes that the seal of the answer of `by` to `question` is over.
    #[must_use]
    pub fn canonical(&self, question: &Question, by: &[u8; 16]) -> Vec<u8> {
        let Self { writes, is_settled, acked, pending, streams_cut } = self;
        let mut writer = Writer::default();
        writer.raw(&question.id).u64(question.revision).u64(nanos(question.max_staleness)).raw(by);
        writer.u32(*writes).u8(u8::from(*is_settled)).u64(*streams_cut);
        writer.bytes(&node_lists::of_lives(acked)).bytes(&node_lists::of_lives(pending));
        writer.finish()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Asks, and wakes the others once this transaction is committed.
///
/// # Errors
/// [`StoreError`].
pub async fn ask(conn: &mut Conn, question: &Question, asked_by: &[u8; 16], now: Timestamp) -> Result<(), StoreError> {
    let nanos = |duration: Duration| column::signed(nanos(duration), "a time");
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
pub async fn answer(
    conn: &mut Conn,
    question: &[u8; 16],
    by: &[u8; 16],
    (part, seal): (&Part, &[u8; 32]),
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO receipt_answers (question_id, control_plane_id, writes, is_settled, acked, pending, streams_cut, seal) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (question_id, control_plane_id) DO UPDATE SET writes = excluded.writes, \
         is_settled = excluded.is_settled, acked = excluded.acked, pending = excluded.pending, streams_cut = excluded.streams_cut, \
         seal = excluded.seal",
    )
    .bind(question.as_slice())
    .bind(by.as_slice())
    .bind(part.writes)
    .bind(i64::from(part.is_settled))
    .bind(node_lists::of_lives(&part.acked))
    .bind(node_lists::of_lives(&part.pending))
    .bind(column::signed(part.streams_cut, "the number of streams")?)
    .bind(seal.as_slice())
    .execute(conn)
    .await?;
    Ok(())
}

/// The part of a control plane and its seal, if it was written more often than `writes` times.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Corrupt`] when no control plane wrote such a row.
pub async fn part(
    conn: &mut Conn,
    question: &[u8; 16],
    by: &[u8; 16],
    writes: u32,
) -> Result<Option<(Part, Vec<u8>)>, StoreError> {
    let select = "SELECT writes, is_settled, acked, pending, streams_cut, seal FROM receipt_answers \
                  WHERE question_id = $1 AND control_plane_id = $2 AND writes > $3";
    let row =
        sql::query(select).bind(question.as_slice()).bind(by.as_slice()).bind(writes).fetch_optional(conn).await?;
    let read = |row: &Row| {
        let part = Part {
            writes: column::unsigned32(row, "writes")?,
            is_settled: column::flag(row, "is_settled")?,
            acked: node_lists::lives(row.try_get("acked")?, "acked")?,
            pending: node_lists::lives(row.try_get("pending")?, "pending")?,
            streams_cut: column::unsigned(row, "streams_cut")?,
        };
        Ok((part, row.try_get("seal")?))
    };
    row.as_ref().map(read).transpose()
}

/// Forgets a question that needs no answer any more.
///
/// # Errors
/// [`StoreError`].
pub async fn forget(conn: &mut Conn, question: &[u8; 16]) -> Result<(), StoreError> {
    for delete in
        ["DELETE FROM receipt_questions WHERE question_id = $1", "DELETE FROM receipt_answers WHERE question_id = $1"]
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
    let left_over = "DELETE FROM receipt_answers WHERE question_id NOT IN (SELECT question_id FROM receipt_questions)";
    sql::query(left_over).execute(conn).await?;
    Ok(())
}
