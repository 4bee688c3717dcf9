//! How ids, times and amounts stand in columns: ids as their raw bytes, times as Unix nanoseconds, unsigned numbers as the database's signed ones.
//!
//! Reading a value back never guesses: what no type has is [`StoreError::Corrupt`], with the column's name.

use keyforge_shared::clock::Timestamp;

use super::StoreError;
use super::sql::Row;

/// An unsigned number as the database keeps it.
///
/// # Errors
/// [`StoreError::Range`] above 2^63 - 1, naming `what`.
pub fn signed(value: u64, what: &'static str) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Range(what))
}

/// An unsigned number out of a column.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is negative; [`StoreError::Database`] when the column is missing or of another type.
pub fn unsigned(row: &Row, column: &'static str) -> Result<u64, StoreError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Corrupt(column))
}

/// A condition out of a column that holds it as 0 or 1.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is another number; [`StoreError::Database`] when the column is missing or of another type.
pub fn flag(row: &Row, column: &'static str) -> Result<bool, StoreError> {
    match row.try_get::<i64, _>(column)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(StoreError::Corrupt(column)),
    }
}

/// A number of 32 bits out of a column.
///
/// # Errors
/// As [`unsigned`].
pub fn unsigned32(row: &Row, column: &'static str) -> Result<u32, StoreError> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Corrupt(column))
}

/// A moment out of a column.
///
/// # Errors
/// [`StoreError::Database`] when the column is missing or of another type.
pub fn time(row: &Row, column: &'static str) -> Result<Timestamp, StoreError> {
    Ok(Timestamp::from_nanos(row.try_get(column)?))
}

/// An id or another value with a byte form out of a column: `bytes(row, "chain_id", ChainId::from_slice)`.
///
/// # Errors
/// [`StoreError::Corrupt`] when `parse` refuses; [`StoreError::Database`] when the column is missing or of another type.
pub fn bytes<T>(row: &Row, column: &'static str, parse: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, StoreError> {
    parse(row.try_get::<&[u8], _>(column)?).ok_or(StoreError::Corrupt(column))
}

/// Exactly 32 bytes, such as a digest, out of a column.
///
/// # Errors
/// As [`bytes`].
pub fn bytes32(row: &Row, column: &'static str) -> Result<[u8; 32], StoreError> {
    bytes(row, column, |stored| stored.try_into().ok())
}

/// A word with a meaning out of a column: `word(row, "status", KeyStatus::from_stored)`.
///
/// # Errors
/// As [`bytes`].
pub fn word<T>(row: &Row, column: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, StoreError> {
    parse(row.try_get::<&str, _>(column)?).ok_or(StoreError::Corrupt(column))
}
