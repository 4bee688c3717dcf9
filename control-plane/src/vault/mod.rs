//! The vault: envelope encryption of what must not be readable at rest.
//!
//! Each version of a record has a data key of its own, which seals exactly one message; data keys are sealed under the vault key ([`Kek`]).
//! Every ciphertext is bound to its place, so that none can be moved to another record, version or purpose:
//!
//! ```text
//! AAD = "kf/vault/v1\0" || deployment_id[16] || lp(table) || lp(record_id) || u32 record_version || lp(purpose) || u32 kek_term
//! lp(x) = u32 length || x          integers big-endian
//! sealed_key    = seal(vault key, AAD with purpose "data-key", data key)
//! sealed_secret = seal(data key,  AAD with purpose "secret",   secret)
//! single blob   = u32 kek_term || seal(vault key, AAD with its own purpose, secret)
//! ```
//!
//! The format of `seal` is [`keyforge_shared::seal`]'s.

mod kek;

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::id::{CredentialId, DeploymentId};
use keyforge_shared::seal::{self, SealError};
use keyforge_shared::secret::{Key256, SecretBytes};

pub use kek::{Kek, KekError, KekSource};

const DOMAIN: &[u8] = b"kf/vault/v1\0";
const DATA_KEY: &str = "data-key";
const SECRET: &str = "secret";
/// What the vault check holds; its content does not matter, only that it opens.
const CHECK: &[u8] = b"this vault key belongs to this data directory";

/// Why the vault did not seal or open something. Never holds a part of a secret.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The vault key is another one than the data was sealed under.
    #[error(
        "the vault key in {0} does not belong to this data directory: put the right key there, or point data_dir to the data that belongs to it"
    )]
    WrongKey(String),
    /// Sealed under a term of the vault key that is not at hand.
    #[error(
        "sealed under term {found} of the vault key, but {at_hand} is at hand: configure the vault key of that term"
    )]
    Term {
        /// The term that the record names.
        found: u32,
        /// The term of the configured key.
        at_hand: u32,
    },
    /// A ciphertext was changed or does not belong where it was found.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The operating system gave no randomness.
    #[error("no randomness available for a data key")]
    Random,
}

/// What a ciphertext is and where it belongs.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    table: &'static str,
    record: &'a [u8],
    version: u32,
}

impl<'a> Place<'a> {
    /// The secret of a credential in one of its versions.
    #[must_use]
    pub const fn credential(id: &'a CredentialId, version: u32) -> Self {
        Self { table: "vault_records", record: id.as_bytes(), version }
    }

    /// The private key of the nodes' authority, whose certificate has this SHA-256 digest.
    #[must_use]
    pub const fn authority(certificate_digest: &'a [u8; 32]) -> Self {
        Self { table: "node_authority", record: certificate_digest, version: 1 }
    }

    const fn deployment() -> Self {
        Self { table: "deployment", record: &[], version: 1 }
    }
}

/// A secret at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Term of the vault key that sealed the data key.
    pub kek_term: u32,
    /// The data key, sealed under the vault key.
    pub sealed_key: Vec<u8>,
    /// The secret, sealed under the data key.
    pub sealed_secret: Vec<u8>,
}

/// Seals and opens the secrets of one deployment.
pub struct Vault {
    kek: Kek,
    deployment: DeploymentId,
}

impl Vault {
    /// The vault of `deployment`, under `kek`.
    #[must_use]
    pub const fn new(kek: Kek, deployment: DeploymentId) -> Self {
        Self { kek, deployment }
    }

    /// Seals `secret` for `place`, under a fresh data key.
    ///
    /// # Errors
    /// [`VaultError::Random`] without randomness.
    pub fn seal(&self, place: Place<'_>, secret: &SecretBytes) -> Result<Sealed, VaultError> {
        let data_key = Key256::generate().map_err(|_| VaultError::Random)?;
        let kek_term = self.kek.term();
        let sealed_key = seal::seal(self.kek.key(), &self.bind(place, DATA_KEY, kek_term), data_key.expose())?;
        let sealed_secret = seal::seal(&data_key, &self.bind(place, SECRET, kek_term), secret.expose())?;
        Ok(Sealed { kek_term, sealed_key, sealed_secret })
    }

    /// Opens what [`Self::seal`] made for the same place.
    ///
    /// # Errors
    /// [`VaultError`] for everything that was changed, moved, or sealed under another key.
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<SecretBytes, VaultError> {
        let term = self.require_term(sealed.kek_term)?;
        let opened = seal::open(self.kek.key(), &self.bind(place, DATA_KEY, term), &sealed.sealed_key)?;
        let data_key = Key256::from_slice(opened.expose()).ok_or(SealError::Format)?;
        Ok(seal::open(&data_key, &self.bind(place, SECRET, term), &sealed.sealed_secret)?)
    }

    /// A blob by which [`Self::check`] recognises the vault key.
    ///
    /// # Errors
    /// [`VaultError::Seal`] without randomness.
    pub fn make_check(&self) -> Result<Vec<u8>, VaultError> {
        self.seal_single("check", CHECK)
    }

    /// Tells a wrong vault key before anything depends on it.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] naming where the key came from.
    pub fn check(&self, blob: &[u8]) -> Result<(), VaultError> {
        match self.open_single("check", blob) {
            Ok(_) => Ok(()),
            Err(VaultError::Seal(_)) => Err(VaultError::WrongKey(self.kek.source().to_owned())),
            Err(other) => Err(other),
        }
    }

    /// Seals the audit root key.
    ///
    /// # Errors
    /// [`VaultError::Seal`] without randomness.
    pub fn seal_audit_root(&self, root: &Key256) -> Result<Vec<u8>, VaultError> {
        self.seal_single("audit-root", root.expose())
    }

    /// Opens the audit root key.
    ///
    /// # Errors
    /// [`VaultError`] when the blob is not what [`Self::seal_audit_root`] made.
    pub fn open_audit_root(&self, blob: &[u8]) -> Result<Key256, VaultError> {
        let opened = self.open_single("audit-root", blob)?;
        Key256::from_slice(opened.expose()).ok_or(VaultError::Seal(SealError::Format))
    }

    fn seal_single(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let term = self.kek.term();
        let sealed = seal::seal(self.kek.key(), &self.bind(Place::deployment(), purpose, term), secret)?;
        Ok([&term.to_be_bytes()[..], &sealed].concat())
    }

    fn open_single(&self, purpose: &str, blob: &[u8]) -> Result<SecretBytes, VaultError> {
        let (term, sealed) = blob.split_first_chunk::<4>().ok_or(SealError::Format)?;
        let term = self.require_term(u32::from_be_bytes(*term))?;
        Ok(seal::open(self.kek.key(), &self.bind(Place::deployment(), purpose, term), sealed)?)
    }

    const fn require_term(&self, found: u32) -> Result<u32, VaultError> {
        let at_hand = self.kek.term();
        if found == at_hand { Ok(found) } else { Err(VaultError::Term { found, at_hand }) }
    }

    fn bind(&self, place: Place<'_>, purpose: &str, term: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(DOMAIN).raw(self.deployment.as_bytes()).str(place.table).bytes(place.record);
        writer.u32(place.version).str(purpose).u32(term);
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(key: u8, deployment: u8) -> Vault {
        Vault::new(Kek::new(Key256::new([key; 32]), "test"), DeploymentId::from_bytes([deployment; 16]))
    }

    fn id(byte: u8) -> CredentialId {
        CredentialId::from_bytes([byte; 16])
    }

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    #[test]
    fn secret_opens_where_it_was_sealed() {
        let vault = vault(1, 1);
        let sealed = vault.seal(Place::credential(&id(1), 1), &secret("sk-1")).unwrap();
        assert!(vault.open(Place::credential(&id(1), 1), &sealed).ok().unwrap().expose() == b"sk-1");
    }

    #[test]
    fn i_25_no_ciphertext_opens_in_the_place_of_another() {
        let vault = vault(1, 1);
        let places = [(id(1), 1), (id(1), 2), (id(2), 1), (id(2), 2)];
        let seal = |(id, version): &(CredentialId, u32)| {
            vault.seal(Place::credential(id, *version), &secret(&format!("{id}{version}"))).unwrap()
        };
        let sealed: Vec<Sealed> = places.iter().map(seal).collect();
        for (at, (id, version)) in places.iter().enumerate() {
            for key_of in 0..places.len() {
                for secret_of in 0..places.len() {
                    let moved = Sealed {
                        kek_term: sealed[at].kek_term,
                        sealed_key: sealed[key_of].sealed_key.clone(),
                        sealed_secret: sealed[secret_of].sealed_secret.clone(),
                    };
                    let opens = vault.open(Place::credential(id, *version), &moved).is_ok();
                    assert_eq!(opens, key_of == at && secret_of == at, "{key_of} and {secret_of} at {at}");
                }
            }
        }
    }

    #[test]
    fn i_25_key_and_secret_of_one_record_are_not_interchangeable_and_terms_are_bound() {
        let vault = vault(1, 1);
        let id = id(1);
        let place = Place::credential(&id, 1);
        let sealed = vault.seal(place, &secret("sk-1")).unwrap();
        let swapped = Sealed {
            kek_term: sealed.kek_term,
            sealed_key: sealed.sealed_secret.clone(),
            sealed_secret: sealed.sealed_key.clone(),
        };
        assert!(vault.open(place, &swapped).is_err());
        let renamed = Sealed { kek_term: sealed.kek_term + 1, ..sealed };
        assert!(matches!(vault.open(place, &renamed), Err(VaultError::Term { .. })));
    }

    #[test]
    fn i_25_each_sealing_draws_a_new_data_key() {
        let vault = vault(1, 1);
        let id = id(1);
        let place = Place::credential(&id, 1);
        let (first, second) = (vault.seal(place, &secret("x")).unwrap(), vault.seal(place, &secret("x")).unwrap());
        let mixed = Sealed { sealed_secret: second.sealed_secret, ..first };
        assert!(vault.open(place, &mixed).is_err());
    }

    #[test]
    fn check_tells_a_wrong_key_and_another_deployment_and_names_the_source() {
        let blob = vault(1, 1).make_check().unwrap();
        assert!(vault(1, 1).check(&blob).is_ok());
        for other in [vault(2, 1), vault(1, 2)] {
            assert!(matches!(other.check(&blob), Err(VaultError::WrongKey(source)) if source == "test"));
        }
    }

    #[test]
    fn audit_root_survives_and_the_check_cannot_stand_in_for_it() {
        let vault = vault(1, 1);
        let root = Key256::new([9; 32]);
        let blob = vault.seal_audit_root(&root).unwrap();
        assert!(vault.open_audit_root(&blob).ok().unwrap().expose() == root.expose());
        assert!(vault.open_audit_root(&vault.make_check().unwrap()).is_err());
        assert!(vault.check(&blob).is_err());
    }
}
