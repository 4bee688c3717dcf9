//! Counting what a vault key seals, in the transaction that stores it: never more than one key may make, and never under a key that was replaced.

use crate::store::StoreError;
use crate::store::sql::Conn;
use crate::store::vault_keys::{self, Counted};
use crate::vault::{MOST_WRAPS, VaultError};

/// Why ciphertexts must not be stored.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key may not seal, or not any more.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Counts `wraps` ciphertexts that were made under the key of a term. Without that they must not be stored.
///
/// # Errors
/// [`CountError`].
pub async fn count(conn: &mut Conn, term: u32, wraps: u64) -> Result<(), CountError> {
    match vault_keys::count_wraps(conn, term, wraps, MOST_WRAPS).await? {
        Counted::Yes => Ok(()),
        Counted::UsedUp => Err(VaultError::UsedUp.into()),
        Counted::Replaced => Err(VaultError::Replaced(term).into()),
    }
}
