//! Entries for people: pages of a chain, decoded, oldest or newest first. Nothing is verified here.

use keyforge_shared::audit::record::Record;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::ChainId;

use crate::store::{Store, StoreError, entries as rows};

/// An entry, decoded.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Place in the chain.
    pub seq: u64,
    /// When it was chained.
    pub t_cp: Timestamp,
    /// Its hash as stored.
    pub hash: Vec<u8>,
    /// What it records.
    pub record: Record,
}

/// In which order a chain is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From its first entry on.
    OldestFirst,
    /// From its last entry back.
    NewestFirst,
}

/// At most `limit` entries of `chain` in this order, beyond the place `from`; from its end when that is `None`.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Corrupt`] when a record cannot be read, which verification reports with its place.
pub async fn entries(
    store: &Store,
    chain: ChainId,
    (order, from): (Order, Option<u64>),
    limit: u32,
) -> Result<Vec<Listed>, StoreError> {
    let mut tx = store.read().await?;
    let from = from.map(|seq| i64::try_from(seq).unwrap_or(i64::MAX));
    let found = match order {
        Order::OldestFirst => rows::after(&mut tx, chain.as_bytes(), (from.unwrap_or(0), i64::MAX), limit).await?,
        Order::NewestFirst => rows::before(&mut tx, chain, from.unwrap_or(i64::MAX), limit).await?,
    };
    found
        .into_iter()
        .map(|row| {
            Ok(Listed {
                seq: u64::try_from(row.seq).map_err(|_| StoreError::Corrupt("seq"))?,
                t_cp: Timestamp::from_nanos(row.t_cp),
                record: Record::decode(&row.record).map_err(|_| StoreError::Corrupt("record"))?,
                hash: row.hash,
            })
        })
        .collect()
}
