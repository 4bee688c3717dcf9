//! The months that entries are kept in: one partition of the table each, made ahead, so that old ones can be moved or detached as a whole.
//!
//! Making one takes no lock that readers or writers wait for. An entry of a month that nobody made yet, because a clock is astray or an old
//! database is moved, has its partition made with it. SQLite keeps all entries in one table, so there everything here is nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::period::{Calendar, Period, Window};
use sqlx::AssertSqlSafe;

use super::sql::{Conn, Engine};
use super::{Store, StoreError, locks};

/// How many months after the present one have their partition already.
const AHEAD: u32 = 3;
const LOOK: Duration = Duration::from_hours(6);

/// The time for which partitions are known to be there. Clones share it.
#[derive(Clone, Default)]
pub struct Made(Arc<Range>);

#[derive(Default)]
struct Range {
    from: AtomicI64,
    until: AtomicI64,
}

impl Made {
    fn covers(&self, time: Timestamp) -> bool {
        let Range { from, until } = &*self.0;
        (from.load(Ordering::Acquire)..until.load(Ordering::Acquire)).contains(&time.nanos())
    }

    fn set(&self, from: Timestamp, until: Timestamp) {
        self.0.until.store(until.nanos(), Ordering::Release);
        self.0.from.store(from.nanos(), Ordering::Release);
    }
}

/// Makes the partitions of this month and the next ones.
///
/// # Errors
/// [`StoreError`].
pub async fn make_ahead(store: &Store) -> Result<(), StoreError> {
    let Some(made) = store.partitions() else { return Ok(()) };
    let first = month_of(store.now());
    let mut tx = store.write().await?;
    locks::partitions(&mut tx).await?;
    let mut month = first;
    make(&mut tx, month).await?;
    for _ in 0..AHEAD {
        month = month_of(month.end);
        make(&mut tx, month).await?;
    }
    tx.commit().await?;
    made.set(first.start, month.end);
    Ok(())
}

/// Makes partitions ahead for as long as it is polled. One that is missing all the same is made with the first entry that needs it.
pub async fn keep_ahead(store: &Store) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = make_ahead(store).await {
            tracing::warn!(%error, "partitions of the audit entries could not be made ahead; tried again later");
        }
    }
}

/// Makes the partitions that entries chained at these times need, in the transaction that inserts them, unless they are there.
///
/// # Errors
/// [`StoreError`].
pub async fn make_for(conn: &mut Conn, times: impl Iterator<Item = Timestamp>) -> Result<(), StoreError> {
    let Some(made) = conn.partitions().cloned() else { return Ok(()) };
    let mut missing: Vec<Timestamp> =
        times.filter(|time| !made.covers(*time)).map(|time| month_of(time).start).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    locks::partitions(conn).await?;
    for start in missing {
        make(conn, month_of(start)).await?;
    }
    Ok(())
}

fn month_of(time: Timestamp) -> Period {
    let calendar = Calendar::utc();
    calendar.period(Window::Month, calendar.day_at(time))
}

async fn make(conn: &mut Conn, month: Period) -> Result<(), StoreError> {
    let Engine::Postgres(connection, patience) = conn.engine()? else { return Ok(()) };
    let day = Calendar::utc().day_at(month.start).to_string();
    let (year_month, _) = day.rsplit_once('-').unwrap_or((&day, ""));
    let name = format!("entries_{}", year_month.replace('-', "_"));
    let exists = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(&name).fetch_one(&mut *connection);
    if patience.wait(exists).await? {
        return Ok(());
    }
    // Made apart and attached: made in place, it would wait for everybody who reads or writes entries, and they for it.
    let (from, until) = (month.start.nanos(), month.end.nanos());
    for statement in [
        format!("CREATE TABLE {name} (LIKE entries INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"),
        format!("ALTER TABLE entries ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({until})"),
    ] {
        patience.wait(sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection)).await?;
    }
    tracing::info!(name, "a partition of the audit entries was made");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_without_a_gap() {
        let mut month = month_of(Timestamp::from_millis(1_795_327_200_000));
        for _ in 0..30 {
            let next = month_of(month.end);
            assert_eq!(next.start, month.end);
            assert!(next.end > next.start);
            month = next;
        }
    }

    #[test]
    fn nothing_is_covered_until_partitions_are_made() {
        let made = Made::default();
        let month = month_of(Timestamp::from_millis(1_795_327_200_000));
        assert!(!made.covers(month.start) && !made.covers(Timestamp::from_nanos(0)));
        made.set(month.start, month.end);
        assert!(made.covers(month.start) && !made.covers(month.end));
    }
}
