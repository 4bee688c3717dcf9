//! The vault: envelope encryption of what must not be readable at rest.
//!
//! Each version of a record has a data key of its own, which seals exactly one message; data keys are sealed under a vault key ([`Kek`]). There may
//! be several: new data keys are sealed under the current one, the others are for reading until a rotation has sealed everything anew. Every
//! ciphertext is bound to its place, and what a vault key sealed also to that key's term, so that none can be moved to another record, version,
//! purpose or term, and no other key is tried:
//!
//! ```text
//! AAD = "kf/vault/v1\0" || deployment_id[16] || lp(table) || lp(record_id) || u32 record_version || lp(purpose) || u32 term
//! lp(x) = u32 length || x          integers big-endian
//! sealed_key    = seal(vault key of the term, AAD with purpose "data-key", data key)
//! sealed_secret = seal(data key,              AAD with purpose "secret" and term 1, secret)
//! single blob   = u32 term || seal(vault key of the term, AAD with its own purpose, secret)
//! ```
//!
//! A secret keeps its ciphertext when its data key is sealed anew, so its AAD names no real term. The format of `seal` is
//! [`keyforge_shared::seal`]'s.

mod kek;
mod keyring;
mod program;
mod source;

use std::sync::{Arc, PoisonError, RwLock};

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::id::{CredentialId, DeploymentId, KekId};
use keyforge_shared::seal::{self, SealError};
use keyforge_shared::secret::{Key256, SecretBytes};

pub use kek::{Absence, Kek, KekError};
pub use keyring::{HeldKey, Keyring};
pub use source::{KekSource, KekSourceError, ReadError};

const DOMAIN: &[u8] = b"kf/vault/v1\0";
const DATA_KEY: &str = "data-key";
const SECRET: &str = "secret";
/// What stands where a term would in the AAD of secrets.
const SECRET_TERM: u32 = 1;
/// What the vault check holds; its content does not matter, only that it opens.
const CHECK: &[u8] = b"this vault key belongs to this data directory";

/// Most ciphertexts that are made under one vault key. Their nonces are 96 random bits, of which one key may use 2^32 (NIST SP 800-38D, 8.3).
/// A ciphertext is counted with the transaction that stores it; the other half is for those that were made and never stored.
pub const MOST_WRAPS: u64 = 1 << 31;

/// Why the vault did not seal or open something. Never holds a part of a secret.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The configured vault keys are others than the data was sealed under.
    #[error(
        "the vault key in {from} does not belong to this data directory: it is {id}, and the data is sealed under {needed}. Put that key \
         there, or into vault.previous if it is to be replaced, or point data_dir to the data that belongs to this key"
    )]
    WrongKey {
        /// Where the current key came from.
        from: String,
        /// The current key.
        id: KekId,
        /// The key that is missing, or what is known of it.
        needed: String,
    },
    /// Sealed under a key that is not configured.
    #[error("sealed under the vault key of term {0}, which is not configured: add it to vault.previous")]
    Term(u32),
    /// A ciphertext was changed or does not belong where it was found.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The key that seals has done so as often as one key may.
    #[error(
        "the vault key has sealed {MOST_WRAPS} times, as often as one key may: configure a new one and run `keyforge vault rotate`"
    )]
    UsedUp,
    /// Another key has come into use since this was sealed; it was not stored.
    #[error("the vault key of term {0} is not the one that seals any more: it was rotated just now, do it again")]
    Replaced(u32),
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
    deployment: DeploymentId,
    keys: RwLock<Arc<Keyring>>,
}

/// The two blobs that stand with the deployment itself.
pub struct Singles {
    /// Tells a wrong vault key.
    pub check: Vec<u8>,
    /// The audit root key, sealed.
    pub audit_root: Vec<u8>,
}

impl Vault {
    /// The vault of `deployment`, under these keys.
    #[must_use]
    pub fn new(keys: Keyring, deployment: DeploymentId) -> Self {
        Self { deployment, keys: RwLock::new(Arc::new(keys)) }
    }

    /// The keys at hand.
    #[must_use]
    pub fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes other keys from now on. Keys that they lack stay for reading: what was sealed a moment ago may still be on its way to the disk.
    pub fn take_up(&self, keys: Keyring) {
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(keys.and_for_reading(&held));
    }

    /// Seals with the key of another term from now on.
    ///
    /// # Errors
    /// [`VaultError::Term`] when it is not at hand; nothing was changed then.
    pub fn seal_with(&self, term: u32) -> Result<(), VaultError> {
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if held.current().term != term {
            *held = Arc::new(held.sealing_with(term).ok_or(VaultError::Term(term))?);
        }
        Ok(())
    }

    /// Seals `secret` for `place`, under a fresh data key.
    ///
    /// # Errors
    /// [`VaultError::Random`] without randomness.
    pub fn seal(&self, place: Place<'_>, secret: &SecretBytes) -> Result<Sealed, VaultError> {
        let data_key = Key256::generate().map_err(|_| VaultError::Random)?;
        let sealed_secret = seal::seal(&data_key, &self.bind(place, SECRET, SECRET_TERM), secret.expose())?;
        self.wrap(place, &data_key, sealed_secret)
    }

    /// Opens what [`Self::seal`] made for the same place.
    ///
    /// # Errors
    /// [`VaultError`] for everything that was changed, moved, or sealed under a key that is not at hand.
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<SecretBytes, VaultError> {
        self.open_with(place, sealed, &self.unwrap(place, sealed)?)
    }

    /// The same secret under the current key, the secret's own ciphertext unchanged. What cannot be opened is not sealed anew.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn rewrap(&self, place: Place<'_>, sealed: &Sealed) -> Result<Sealed, VaultError> {
        let data_key = self.unwrap(place, sealed)?;
        self.open_with(place, sealed, &data_key)?;
        self.wrap(place, &data_key, sealed.sealed_secret.clone())
    }

    fn wrap(&self, place: Place<'_>, data_key: &Key256, sealed_secret: Vec<u8>) -> Result<Sealed, VaultError> {
        let keys = self.keys();
        let HeldKey { term, kek, .. } = keys.current();
        let sealed_key = seal::seal(kek.key(), &self.bind(place, DATA_KEY, *term), data_key.expose())?;
        Ok(Sealed { kek_term: *term, sealed_key, sealed_secret })
    }

    fn unwrap(&self, place: Place<'_>, sealed: &Sealed) -> Result<Key256, VaultError> {
        let term = sealed.kek_term;
        let keys = self.keys();
        let held = keys.of_term(term).ok_or(VaultError::Term(term))?;
        let opened = seal::open(held.kek.key(), &self.bind(place, DATA_KEY, term), &sealed.sealed_key)?;
        Ok(Key256::from_slice(opened.expose()).ok_or(SealError::Format)?)
    }

    fn open_with(&self, place: Place<'_>, sealed: &Sealed, data_key: &Key256) -> Result<SecretBytes, VaultError> {
        Ok(seal::open(data_key, &self.bind(place, SECRET, SECRET_TERM), &sealed.sealed_secret)?)
    }

    /// Seals what stands with the deployment itself: the audit root key, and a blob by which [`Self::open_singles`] recognises the vault key.
    ///
    /// # Errors
    /// [`VaultError::Seal`] without randomness.
    pub fn seal_singles(&self, audit_root: &Key256) -> Result<Singles, VaultError> {
        let check = self.seal_single("check", CHECK)?;
        Ok(Singles { check, audit_root: self.seal_single("audit-root", audit_root.expose())? })
    }

    /// Opens the audit root key, after the check that the vault keys belong to the deployment.
    ///
    /// # Errors
    /// [`VaultError`] when the blobs are not what [`Self::seal_singles`] made.
    pub fn open_singles(&self, singles: &Singles) -> Result<Key256, VaultError> {
        self.open_single("check", &singles.check)?;
        let opened = self.open_single("audit-root", &singles.audit_root)?;
        Key256::from_slice(opened.expose()).ok_or(VaultError::Seal(SealError::Format))
    }

    fn seal_single(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let keys = self.keys();
        let HeldKey { term, kek, .. } = keys.current();
        let sealed = seal::seal(kek.key(), &self.bind(Place::deployment(), purpose, *term), secret)?;
        Ok([&term.to_be_bytes()[..], &sealed].concat())
    }

    fn open_single(&self, purpose: &str, blob: &[u8]) -> Result<SecretBytes, VaultError> {
        let (term, sealed) = split(blob)?;
        let keys = self.keys();
        let held = keys.of_term(term).ok_or(VaultError::Term(term))?;
        Ok(seal::open(held.kek.key(), &self.bind(Place::deployment(), purpose, term), sealed)?)
    }

    fn bind(&self, place: Place<'_>, purpose: &str, term: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(DOMAIN).raw(self.deployment.as_bytes()).str(place.table).bytes(place.record);
        writer.u32(place.version).str(purpose).u32(term);
        writer.finish()
    }
}

impl Singles {
    /// The terms that they are sealed under, check first. They differ only in a database that something else wrote to.
    ///
    /// # Errors
    /// [`VaultError::Seal`] for what is no sealed blob.
    pub fn terms(&self) -> Result<[u32; 2], VaultError> {
        Ok([split(&self.check)?.0, split(&self.audit_root)?.0])
    }
}

fn split(blob: &[u8]) -> Result<(u32, &[u8]), VaultError> {
    let (term, sealed) = blob.split_first_chunk::<4>().ok_or(SealError::Format)?;
    Ok((u32::from_be_bytes(*term), sealed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek(key: u8) -> Arc<Kek> {
        Arc::new(Kek::new(Key256::new([key; 32]), KekSource::Env(format!("KEY_{key}"))))
    }

    /// A key's term is its number.
    fn keys(deployment: DeploymentId, current: u8) -> Keyring {
        Keyring::new(deployment, (&kek(current), &[]), |_| u32::from(current), u32::from(current)).unwrap()
    }

    fn vault(key: u8, deployment: u8) -> Vault {
        let deployment = DeploymentId::from_bytes([deployment; 16]);
        Vault::new(keys(deployment, key), deployment)
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
        assert!(matches!(vault.open(place, &renamed), Err(VaultError::Term(2))));
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
    fn a_rewrapped_secret_opens_under_the_new_key_alone_and_only_its_data_keys_ciphertext_changed() {
        let deployment = DeploymentId::from_bytes([1; 16]);
        let id = id(1);
        let place = Place::credential(&id, 1);
        let vault = vault(1, 1);
        let old = vault.seal(place, &secret("sk-1")).unwrap();
        vault.take_up(keys(deployment, 2));
        let new = vault.rewrap(place, &old).unwrap();
        assert_eq!((new.kek_term, &new.sealed_secret), (2, &old.sealed_secret));
        let (before, after) =
            (Vault::new(keys(deployment, 1), deployment), Vault::new(keys(deployment, 2), deployment));
        assert!(after.open(place, &new).ok().unwrap().expose() == b"sk-1");
        assert!(matches!(after.open(place, &old), Err(VaultError::Term(1))));
        assert!(matches!(before.open(place, &new), Err(VaultError::Term(2))));
        // Nothing is opened by naming another term: no other key is tried.
        for (found, vault) in [(&new, &vault), (&old, &vault)] {
            let renamed = Sealed { kek_term: 3 - found.kek_term, ..found.clone() };
            assert!(matches!(vault.open(place, &renamed), Err(VaultError::Seal(SealError::Rejected))));
        }
    }

    #[test]
    fn what_cannot_be_opened_is_not_sealed_anew() {
        let (one, other) = (id(1), id(2));
        let vault = vault(1, 1);
        let first = vault.seal(Place::credential(&one, 1), &secret("sk-1")).unwrap();
        let second = vault.seal(Place::credential(&other, 1), &secret("sk-2")).unwrap();
        assert!(vault.rewrap(Place::credential(&other, 1), &first).is_err());
        let mixed = Sealed { sealed_secret: second.sealed_secret, ..first };
        assert!(vault.rewrap(Place::credential(&one, 1), &mixed).is_err());
    }

    #[test]
    fn singles_open_under_their_key_in_their_deployment_and_not_in_each_others_place() {
        let (vault, root) = (vault(1, 1), Key256::new([9; 32]));
        let Singles { check, audit_root } = vault.seal_singles(&root).unwrap();
        let singles =
            |check: &Vec<u8>, audit_root: &Vec<u8>| Singles { check: check.clone(), audit_root: audit_root.clone() };
        assert!(vault.open_singles(&singles(&check, &audit_root)).ok().unwrap().expose() == root.expose());
        assert!(vault.open_singles(&singles(&audit_root, &check)).is_err());
        assert!(vault.open_singles(&singles(&check, &check)).is_err());
        for other in [self::vault(2, 1), self::vault(1, 2)] {
            assert!(other.open_singles(&singles(&check, &audit_root)).is_err());
        }
    }
}
