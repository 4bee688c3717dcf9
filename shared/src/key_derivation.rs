//! How keys with one purpose come from the audit root key: HKDF-Expand (RFC 5869) with SHA-256, the root as pseudorandom key, the purpose as info.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::secret::Key256;

impl Key256 {
    /// The key that belongs to `info`, whose parts are taken as if they were written one after the other.
    #[must_use]
    pub(crate) fn expand(&self, info: &[&[u8]]) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        // Expanding a 32-byte key to 32 bytes is within HKDF's limits, so neither step can fail.
        if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(self.expose()) {
            let expanded = hkdf.expand_multi_info(info, &mut *bytes);
            debug_assert!(expanded.is_ok());
        }
        Self::new(*bytes)
    }

    /// HMAC-SHA256 under this key.
    #[must_use]
    pub(crate) fn hmac(&self) -> Hmac<Sha256> {
        // HMAC pads a shorter key with zeros to one block of 64 bytes; done here, the key has the one length that cannot be refused.
        let mut block = Zeroizing::new([0; 64]);
        block[..32].copy_from_slice(self.expose());
        Hmac::new((&*block).into())
    }
}
