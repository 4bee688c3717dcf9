//! How secrets travel from the control plane to a node: sealed so that only the boot that said hello can open them, and only as what they are.
//!
//! ```text
//! HPKE (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, one message per encapsulation
//! mode   = base; psk where node and control plane share the fleet token: psk = SHA-256(fleet token), psk_id = "keyforge/fleet/token/v1"
//! info   = "keyforge/fleet/secret/v2" || node_id || boot_id || credential_id || u32 secret_version
//! sealed = version:u8 = 2 || encapsulated key[32] || ciphertext || tag[16]
//! ```
//!
//! Every field of the info has a fixed width. The node's private key is made for one life and never leaves its memory, so that neither a recording
//! of the stream nor whatever ends TLS on the way can open a secret, not even with every certificate's key.
//!
//! A node keeps its last good state on disk under a key of its own, which it derives from the fleet token, or from a secret of its own when it has
//! joined with a certificate:
//!
//! ```text
//! key = HKDF-SHA256(ikm = that secret, salt = the file's, info = "keyforge/node/state/v1" || node_id)
//! AAD = "keyforge/node/state/frame/v1" || node_id || u64 number of the frame
//! ```

use hkdf::Hkdf;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, PskBundle, Serializable as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::id::{BootId, CredentialId, NodeId};
use crate::seal::SealError;
use crate::secret::{Key256, SecretBytes};

const VERSION: u8 = 2;
const INFO_DOMAIN: &[u8] = b"keyforge/fleet/secret/v2";
const PSK_ID: &[u8] = b"keyforge/fleet/token/v1";
/// Bytes of a public key, and of an encapsulated one.
const KEY_LEN: usize = 32;

type Suite = X25519HkdfSha256;

const STATE_INFO: &[u8] = b"keyforge/node/state/v1";
const FRAME_DOMAIN: &[u8] = b"keyforge/node/state/frame/v1";

/// What makes the key of each file another one, so that none seals more than one file.
pub type StateSalt = [u8; 16];

/// A new one.
///
/// # Errors
/// [`SealError::Random`] without randomness.
pub fn state_salt() -> Result<StateSalt, SealError> {
    let mut salt = StateSalt::default();
    getrandom::fill(&mut salt).map_err(|_| SealError::Random)?;
    Ok(salt)
}

/// The key that seals one file with the last good state of a node.
#[must_use]
pub fn state_key(secret: &SecretBytes, salt: &StateSalt, node: NodeId) -> Key256 {
    let mut bytes = Zeroizing::new([0; 32]);
    // 32 bytes are within what HKDF-SHA256 can expand to (255 times 32), so this cannot fail.
    let expanded =
        Hkdf::<Sha256>::new(Some(salt), secret.expose()).expand(&[STATE_INFO, node.as_bytes()].concat(), &mut *bytes);
    debug_assert!(expanded.is_ok());
    Key256::new(*bytes)
}

/// What a frame of that file is bound to.
#[must_use]
pub fn state_frame(node: NodeId, number: u64) -> Vec<u8> {
    [FRAME_DOMAIN, node.as_bytes(), &number.to_be_bytes()].concat()
}

/// What a sealed secret is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The node that it is for.
    pub node: NodeId,
    /// The life of it.
    pub boot: BootId,
    /// Whose secret it is.
    pub credential: CredentialId,
    /// Which version.
    pub secret_version: u32,
}

impl Binding {
    fn info(&self) -> Vec<u8> {
        let version = self.secret_version.to_be_bytes();
        [INFO_DOMAIN, self.node.as_bytes(), self.boot.as_bytes(), self.credential.as_bytes(), &version].concat()
    }
}

/// The key pair of one life of a node.
pub struct BootKey {
    private: <Suite as Kem>::PrivateKey,
    public: BootPublicKey,
}

/// The public half, which the node says hello with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootPublicKey(<Suite as Kem>::PublicKey);

/// What node and control plane have in common besides that key: the digest of the fleet token, where there is one.
pub struct SharedToken(Zeroizing<[u8; 32]>);

impl SharedToken {
    /// Of a fleet token.
    #[must_use]
    pub fn of(fleet_token: &SecretBytes) -> Self {
        Self(Zeroizing::new(Sha256::digest(fleet_token.expose()).into()))
    }

    fn bundle(&self) -> Result<PskBundle<'_>, SealError> {
        PskBundle::new(&*self.0, PSK_ID).map_err(|_| SealError::Rejected)
    }
}

impl BootKey {
    /// Draws the keys of a new life.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        let (private, public) = Suite::derive_keypair(&*seed);
        Ok(Self { private, public: BootPublicKey(public) })
    }

    /// What the node says hello with.
    #[must_use]
    pub const fn public(&self) -> &BootPublicKey {
        &self.public
    }

    /// Opens what [`BootPublicKey::seal`] made for the same binding and, if any, the same token.
    ///
    /// # Errors
    /// [`SealError::Format`] for other formats, [`SealError::Rejected`] for everything that does not belong.
    pub fn open(
        &self,
        binding: &Binding,
        token: Option<&SharedToken>,
        sealed: &[u8],
    ) -> Result<SecretBytes, SealError> {
        let (version, rest) = sealed.split_first().ok_or(SealError::Format)?;
        let (encapsulated, ciphertext) = rest.split_at_checked(KEY_LEN).ok_or(SealError::Format)?;
        if *version != VERSION {
            return Err(SealError::Format);
        }
        let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| SealError::Rejected)?;
        let mode = match token {
            Some(token) => OpModeR::Psk(token.bundle()?),
            None => OpModeR::Base,
        };
        hpke::single_shot_open::<AesGcm256, HkdfSha256, Suite>(
            &mode,
            &self.private,
            &encapsulated,
            &binding.info(),
            ciphertext,
            &[],
        )
        .map(SecretBytes::new)
        .map_err(|_| SealError::Rejected)
    }
}

impl BootPublicKey {
    /// Out of its 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        <Suite as Kem>::PublicKey::from_bytes(bytes).ok().map(Self)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes().to_vec()
    }

    /// Seals a secret so that only the holder of the private key opens it, and only for this binding.
    ///
    /// # Errors
    /// [`SealError::Rejected`] for a public key of low order, and for plaintexts beyond 64 GiB.
    pub fn seal(
        &self,
        binding: &Binding,
        token: Option<&SharedToken>,
        secret: &SecretBytes,
    ) -> Result<Vec<u8>, SealError> {
        let mode = match token {
            Some(token) => OpModeS::Psk(token.bundle()?),
            None => OpModeS::Base,
        };
        let (encapsulated, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, Suite>(
            &mode,
            &self.0,
            &binding.info(),
            secret.expose(),
            &[],
        )
        .map_err(|_| SealError::Rejected)?;
        Ok([&[VERSION], encapsulated.to_bytes().as_slice(), &ciphertext].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(node: u8, boot: u8, credential: u8, secret_version: u32) -> Binding {
        Binding {
            node: NodeId::from_bytes([node; 16]),
            boot: BootId::from_bytes([boot; 16]),
            credential: CredentialId::from_bytes([credential; 16]),
            secret_version,
        }
    }

    fn secret() -> SecretBytes {
        SecretBytes::new(b"sk-secret".to_vec())
    }

    #[test]
    fn i_25_secret_opens_only_for_its_boot_node_credential_and_version() {
        let (key, other) = (BootKey::generate().unwrap(), BootKey::generate().unwrap());
        let public = BootPublicKey::from_slice(&key.public().to_bytes()).unwrap();
        let sealed = public.seal(&binding(1, 1, 1, 1), None, &secret()).unwrap();
        let opens = |key: &BootKey, binding| key.open(&binding, None, &sealed).is_ok();
        assert!(key.open(&binding(1, 1, 1, 1), None, &sealed).ok().unwrap().expose() == secret().expose());
        assert!(!opens(&other, binding(1, 1, 1, 1)));
        for moved in [binding(2, 1, 1, 1), binding(1, 2, 1, 1), binding(1, 1, 2, 1), binding(1, 1, 1, 2)] {
            assert!(!opens(&key, moved), "{moved:?}");
        }
    }

    #[test]
    fn where_a_token_is_shared_only_who_has_it_can_seal() {
        let key = BootKey::generate().unwrap();
        let token = |text: &str| SharedToken::of(&SecretBytes::new(text.as_bytes().to_vec()));
        let place = binding(1, 1, 1, 1);
        let sealed = key.public().seal(&place, Some(&token("fleet token")), &secret()).unwrap();
        assert!(key.open(&place, Some(&token("fleet token")), &sealed).is_ok());
        assert!(key.open(&place, Some(&token("another")), &sealed).is_err());
        assert!(key.open(&place, None, &sealed).is_err());
        let open = key.public().seal(&place, None, &secret()).unwrap();
        assert!(key.open(&place, Some(&token("fleet token")), &open).is_err());
    }

    #[test]
    fn any_changed_or_missing_byte_is_refused() {
        let key = BootKey::generate().unwrap();
        let place = binding(1, 1, 1, 1);
        let sealed = key.public().seal(&place, None, &secret()).unwrap();
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(key.open(&place, None, &changed).is_err(), "byte {index}");
            assert!(key.open(&place, None, &sealed[..index]).is_err(), "length {index}");
        }
        assert!(BootPublicKey::from_slice(&[0; 31]).is_none());
        let low_order = BootPublicKey::from_slice(&[0; 32]).unwrap();
        assert!(low_order.seal(&place, None, &secret()).is_err());
    }
}
