//! Which rows and names a decision holds while it is taken, so that several control planes can share a database.
//!
//! SQLite has one writer at a time, so there everything here is nothing. In PostgreSQL a transaction takes what it needs in this order, and
//! within one kind in the order of ids, so that no two wait for each other:
//!
//! 1. [`state`]: the row of the deployment, which numbers the revisions of the replicated state
//! 2. [`life`] of a boot: whoever gives it a place in the books shares it, whoever ends it has it alone
//! 3. the boot's own row ([`super::boots::hold`]): its watermark
//! 4. [`workspaces`]: who chains entries shares those of its keys; who sums or reads the past of a workspace's limits has it alone
//! 5. [`super::chains::heads`]: a key's chain *and books* move under the row of its chain; the administrators' chain comes last
//!
//! All are let go with the transaction.

use keyforge_shared::id::{BootId, KeyId, WorkspaceId};

use super::StoreError;
use super::sql::{Conn, Engine};

/// How many hold something at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Any number, but nobody alone.
    Shared,
    /// One.
    Alone,
}

/// Waits for its turn to change the replicated state. From here on the stored revision stays until the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub async fn state(conn: &mut Conn) -> Result<(), StoreError> {
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        patience
            .wait(sqlx::query("SELECT 1 FROM deployment WHERE singleton = 1 FOR UPDATE").execute(connection))
            .await?;
    }
    Ok(())
}

/// Holds the life of a boot: that it is not over, or that nobody is given a place in its name.
///
/// # Errors
/// [`StoreError`].
pub async fn life(conn: &mut Conn, boot: BootId, hold: Hold) -> Result<(), StoreError> {
    names(conn, vec![name(boot.as_bytes())], hold).await
}

/// Holds workspaces, as far as the books of their limits go.
///
/// # Errors
/// [`StoreError`].
pub async fn workspaces(conn: &mut Conn, ids: &[WorkspaceId], hold: Hold) -> Result<(), StoreError> {
    names(conn, ids.iter().map(|id| name(id.as_bytes())).collect(), hold).await
}

/// Holds the books of keys, and their chains, alone.
///
/// # Errors
/// [`StoreError`].
pub async fn books(conn: &mut Conn, keys: &[KeyId]) -> Result<(), StoreError> {
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        let keys: Vec<&str> = keys.iter().map(KeyId::as_str).collect();
        let held = sqlx::query("SELECT 1 FROM chains WHERE key_id = ANY($1) ORDER BY chain_id FOR UPDATE").bind(keys);
        patience.wait(held.execute(connection)).await?;
    }
    Ok(())
}

/// Waits until nobody else makes or looks for the deployment.
///
/// # Errors
/// [`StoreError`].
pub async fn deployment(conn: &mut Conn) -> Result<(), StoreError> {
    names(conn, vec![DEPLOYMENT], Hold::Alone).await
}

/// Waits until nobody else makes partitions of the entries.
///
/// # Errors
/// [`StoreError`].
pub async fn partitions(conn: &mut Conn) -> Result<(), StoreError> {
    names(conn, vec![PARTITIONS], Hold::Alone).await
}

const DEPLOYMENT: i64 = i64::from_be_bytes(*b"kf deplo");
const PARTITIONS: i64 = i64::from_be_bytes(*b"kf parts");

/// A number for 16 random bytes. Two that share one wait for each other without need, and nothing else.
fn name(id: &[u8; 16]) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *id;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

async fn names(conn: &mut Conn, mut names: Vec<i64>, hold: Hold) -> Result<(), StoreError> {
    names.sort_unstable();
    names.dedup();
    if let Engine::Postgres(connection, patience) = conn.engine()? {
        let sql = match hold {
            Hold::Shared => "SELECT pg_advisory_xact_lock_shared(name) FROM unnest($1::bigint[]) AS name",
            Hold::Alone => "SELECT pg_advisory_xact_lock(name) FROM unnest($1::bigint[]) AS name",
        };
        patience.wait(sqlx::query(sql).bind(names).execute(connection)).await?;
    }
    Ok(())
}
