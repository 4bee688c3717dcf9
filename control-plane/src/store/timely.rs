//! Transactions in PostgreSQL that wait for each answer only so long, so that nobody waits for a server that has stopped answering.
//!
//! After an answer that did not come nothing else is done in the transaction, and its connection is thrown away: nobody knows what state it is in.
//! Of a commit without an answer nobody knows whether it happened. The server undoes what was not committed when it sees that the connection is gone.

use std::io;
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::raw_sql;
use tokio::time::timeout;

use super::sql::CommitError;

/// How long a transaction that was given up may take to be undone before its connection is thrown away.
const UNDONE_WITHIN: Duration = Duration::from_secs(2);

/// How long the answer to a statement is waited for.
#[derive(Debug, Default)]
pub struct Patience {
    /// `None` for as long as it takes.
    at_most: Option<Duration>,
    has_ended: bool,
}

impl Patience {
    /// Waits so long for each answer.
    pub(super) const fn of(at_most: Duration) -> Self {
        Self { at_most: Some(at_most), has_ended: false }
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// What the database said; [`sqlx::Error::Io`] when it said nothing in time.
    pub async fn wait<T>(&mut self, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let Some(at_most) = self.at_most else { return answer.await };
        timeout(at_most, answer).await.unwrap_or_else(|_| {
            self.has_ended = true;
            Err(no_answer())
        })
    }
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time"))
}

/// A transaction on a connection of the pool. Dropping it undoes it.
pub(super) struct Timely {
    /// Taken when it is dropped.
    connection: Option<PoolConnection<Postgres>>,
    patience: Patience,
    state: State,
    tasks: Shutdown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The answer to its beginning or its end is awaited.
    Unknown,
    Open,
    Over,
}

impl Timely {
    /// Begins one with `statement`, and waits at most `within` for that.
    pub(super) async fn begin(
        connection: PoolConnection<Postgres>,
        statement: &'static str,
        within: Duration,
        patience: Patience,
        tasks: Shutdown,
    ) -> Result<Self, sqlx::Error> {
        let mut tx = Self { connection: Some(connection), patience, state: State::Unknown, tasks };
        let begun = raw_sql(statement).execute(tx.parts()?.0);
        timeout(within, begun).await.map_err(|_| no_answer())??;
        tx.state = State::Open;
        Ok(tx)
    }

    /// The connection, and how long to wait for what it says, unless an answer did not come before.
    pub(super) fn parts(&mut self) -> Result<(&mut PgConnection, &mut Patience), sqlx::Error> {
        let connection = self.connection.as_mut().filter(|_| !self.patience.has_ended);
        Ok((connection.ok_or_else(no_answer)?, &mut self.patience))
    }

    /// Asks for the commit.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(super) async fn commit(mut self) -> Result<(), CommitError> {
        // Without a connection that still answers nothing is asked for.
        self.parts().map_err(CommitError::Undone)?;
        self.state = State::Unknown;
        let (connection, patience) = self.parts().map_err(CommitError::Undone)?;
        let answer = patience.wait(raw_sql("COMMIT").execute(connection)).await;
        if matches!(answer, Ok(_) | Err(sqlx::Error::Database(_))) {
            self.state = State::Over;
        }
        answer.map(drop).map_err(CommitError::of)
    }

    /// Waits for as long as each answer takes.
    pub(super) fn wait_without_end(&mut self) {
        self.patience = Patience::default();
    }
}

impl Drop for Timely {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        match self.state {
            State::Over => {}
            State::Open if !self.patience.has_ended => {
                drop(self.tasks.spawn_background("undo", async move {
                    let undone = timeout(UNDONE_WITHIN, raw_sql("ROLLBACK").execute(&mut *connection)).await;
                    if !matches!(undone, Ok(Ok(_))) {
                        connection.close_on_drop();
                    }
                }));
            }
            State::Open | State::Unknown => connection.close_on_drop(),
        }
    }
}
