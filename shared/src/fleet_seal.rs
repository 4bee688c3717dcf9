//! How secrets travel from the control plane to a node: sealed so that only the boot that said hello can open them, and only as what they are.
//!
//! ```text
//! key = HKDF-SHA256(ikm = fleet token, salt = boot_id, info = "keyforge/fleet/seal/v1")
//! AAD = "keyforge/fleet/secret/v1" || node_id || boot_id || credential_id || u32 secret_version
//! ```
//!
//! Every field of the associated data has a fixed width. The ciphertext has the format of [`crate::seal`]. A boot id is never used twice, so
//! each key seals few messages: one per credential and version, and again after each reconnection.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::id::{BootId, CredentialId, NodeId};
use crate::secret::{Key256, SecretBytes};

const KEY_INFO: &[u8] = b"keyforge/fleet/seal/v1";
const SECRET_DOMAIN: &[u8] = b"keyforge/fleet/secret/v1";

/// The key that seals secrets for one life of a node.
#[must_use]
pub fn seal_key(fleet_token: &SecretBytes, boot: BootId) -> Key256 {
    let mut bytes = Zeroizing::new([0; 32]);
    // 32 bytes are within what HKDF-SHA256 can expand to (255 times 32), so this cannot fail.
    let expanded = Hkdf::<Sha256>::new(Some(boot.as_bytes()), fleet_token.expose()).expand(KEY_INFO, &mut *bytes);
    debug_assert!(expanded.is_ok());
    Key256::new(*bytes)
}

/// What a sealed secret is bound to.
#[must_use]
pub fn associated_data(node: NodeId, boot: BootId, credential: CredentialId, secret_version: u32) -> Vec<u8> {
    let version = secret_version.to_be_bytes();
    [SECRET_DOMAIN, node.as_bytes(), boot.as_bytes(), credential.as_bytes(), &version].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{open, seal};

    #[test]
    fn i_25_secret_opens_only_for_its_boot_node_credential_and_version() {
        let token = SecretBytes::new(b"fleet token".to_vec());
        let ids = |byte| {
            (NodeId::from_bytes([byte; 16]), BootId::from_bytes([byte; 16]), CredentialId::from_bytes([byte; 16]))
        };
        let (node, boot, credential) = ids(1);
        let (other_node, other_boot, other_credential) = ids(2);
        let sealed = seal(&seal_key(&token, boot), &associated_data(node, boot, credential, 1), b"sk-secret").unwrap();
        let opens = |token: &SecretBytes, node, boot, credential, version| {
            open(&seal_key(token, boot), &associated_data(node, boot, credential, version), &sealed).is_ok()
        };
        assert!(opens(&token, node, boot, credential, 1));
        assert!(!opens(&token, other_node, boot, credential, 1));
        assert!(!opens(&token, node, other_boot, credential, 1));
        assert!(!opens(&token, node, boot, other_credential, 1));
        assert!(!opens(&token, node, boot, credential, 2));
        assert!(!opens(&SecretBytes::new(b"another token".to_vec()), node, boot, credential, 1));
    }

    /// Computed with Python's `hmac` and `hashlib`: extract with the salt, then expand once.
    #[test]
    fn key_is_what_another_implementation_of_hkdf_derives() {
        let key = seal_key(&SecretBytes::new(b"fleet token".to_vec()), BootId::from_bytes([7; 16]));
        assert_eq!(hex::encode(key.expose()), "9922ac3a366c0986da3b4fb0981f4e155e1b1e2b75df03b9a0cb5be75d193c5d");
    }
}
