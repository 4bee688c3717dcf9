//! Seals of single rows that are not part of the replicated state: whoever lacks the audit root key can neither write nor change one unnoticed.
//!
//! ```text
//! K_r  = HKDF-Expand(R, "kf/row/seal/v1" || deployment_id)
//! seal = HMAC(K_r, "keyforge/row/v1\0" || lp(table) || row)          lp(x) = u32 length || x
//! ```
//!
//! A seal says that this program wrote the row; it does not say that the row is still the newest of its kind.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::audit::canonical::Writer;
use crate::id::DeploymentId;
use crate::secret::Key256;

const KEY_DOMAIN: &[u8] = b"kf/row/seal/v1";
const ROW_DOMAIN: &[u8] = b"keyforge/row/v1\0";

/// The key that seals rows of one deployment.
#[derive(Clone)]
pub struct RowSealKey(Hmac<Sha256>);

impl RowSealKey {
    /// Derives the key of `deployment` from its audit root key.
    #[must_use]
    pub fn derive(root: &Key256, deployment: DeploymentId) -> Self {
        Self(root.expand(&[KEY_DOMAIN, deployment.as_bytes()]).hmac())
    }

    /// The seal of a row of `table`, given as its canonical bytes.
    #[must_use]
    pub fn seal(&self, table: &str, row: &[u8]) -> [u8; 32] {
        let mut head = Writer::default();
        head.raw(ROW_DOMAIN).str(table);
        let mut mac = self.0.clone();
        mac.update(&head.finish());
        mac.update(row);
        mac.finalize().into_bytes().into()
    }

    /// Whether `stored` is that seal, in constant time.
    #[must_use]
    pub fn holds(&self, stored: &[u8], table: &str, row: &[u8]) -> bool {
        self.seal(table, row).as_slice().ct_eq(stored).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_its_row_table_deployment_and_key_only() {
        let key = |root: u8, deployment: u8| {
            RowSealKey::derive(&Key256::new([root; 32]), DeploymentId::from_bytes([deployment; 16]))
        };
        let seal = key(1, 1).seal("nodes", b"row");
        assert!(key(1, 1).holds(&seal, "nodes", b"row"));
        assert!(!key(1, 1).holds(&seal, "nodes", b"rows") && !key(1, 1).holds(&seal, "node", b"srow"));
        assert!(!key(2, 1).holds(&seal, "nodes", b"row") && !key(1, 2).holds(&seal, "nodes", b"row"));
        assert!(!key(1, 1).holds(&seal[..31], "nodes", b"row") && !key(1, 1).holds(&[], "nodes", b"row"));
    }
}
