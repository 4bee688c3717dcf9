//! A vault key: 32 random bytes, read as 64 hexadecimal digits from where the configuration says, and the id that tells it from others.
//!
//! The file of a vault key is made once, when a deployment is made. Beside existing data a missing key is an error, never a new key: a new one
//! could open nothing that the old one sealed.
//!
//! ```text
//! id = HKDF-SHA256(ikm = vault key, salt = deployment_id, info = "kf/vault/key-id/v1"), 16 bytes
//! ```

use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::id::{DeploymentId, KekId};
use keyforge_shared::secret::{Key256, SecretBytes};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::source::{KekSource, ReadError};

const ID_INFO: &[u8] = b"kf/vault/key-id/v1";

/// Why there is no vault key.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file is gone, but what it opens is there.
    #[error(
        "the vault key file {} is missing, but the data directory holds data sealed under it: restore the file from where you keep its \
         copy (mode 0600). Without it the stored provider keys and audit chains cannot be opened by anyone; to begin anew, move the data \
         directory away", .0.display()
    )]
    Missing(PathBuf),
    /// The file is not here, but what it opens is in a database that other control planes use as well.
    #[error(
        "the vault key file {} is missing, but the database holds data sealed under it: copy the file from the data directory of another \
         control plane, or restore it from where you keep its copy (mode 0600). Without it the stored provider keys and audit chains cannot \
         be opened by anyone; to begin anew, use an empty database", .0.display()
    )]
    NotCopied(PathBuf),
    /// The source gave nothing.
    #[error("the vault key cannot be used: {0}")]
    Read(#[from] ReadError),
    /// The file cannot be made.
    #[error("the vault key cannot be made: {0}")]
    Create(#[from] PrivateFileError),
    /// Not a key. The message does not repeat it.
    #[error("the vault key in {0} is not 64 hexadecimal digits: make one with `openssl rand -hex 32`")]
    Format(String),
    /// The operating system gave no randomness.
    #[error("no randomness available for a vault key")]
    Random,
}

/// What it means that the file of a vault key does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Nothing was sealed yet: one is made.
    New,
    /// It was lost.
    Lost,
    /// It was lost, or not copied from another control plane on the same database.
    NotCopied,
}

impl Absence {
    /// Beside what is sealed already, in a database that `is_shared` with other control planes or not.
    #[must_use]
    pub const fn beside_data(is_shared: bool) -> Self {
        if is_shared { Self::NotCopied } else { Self::Lost }
    }
}

/// A key that seals data keys.
pub struct Kek {
    key: Key256,
    source: KekSource,
}

impl Kek {
    /// A vault key; `source` is where it came from.
    #[must_use]
    pub const fn new(key: Key256, source: KekSource) -> Self {
        Self { key, source }
    }

    /// Reads a vault key. `absence` says what is done when it is to be in a file that does not exist.
    ///
    /// # Errors
    /// [`KekError`]; a missing file that may not be made is one.
    pub async fn load(source: &KekSource, absence: Absence) -> Result<Self, KekError> {
        if let KekSource::File(path) = source
            && let Ok(false) = path.try_exists()
        {
            return match absence {
                Absence::New => create(path, source),
                Absence::Lost => Err(KekError::Missing(path.clone())),
                Absence::NotCopied => Err(KekError::NotCopied(path.clone())),
            };
        }
        let key = parse(&source.read().await?).ok_or_else(|| KekError::Format(source.name()))?;
        Ok(Self::new(key, source.clone()))
    }

    /// The key itself.
    pub(super) const fn key(&self) -> &Key256 {
        &self.key
    }

    /// Where it came from.
    #[must_use]
    pub const fn source(&self) -> &KekSource {
        &self.source
    }

    /// What tells it from other keys of `deployment`.
    #[must_use]
    pub fn id(&self, deployment: DeploymentId) -> KekId {
        let mut id = [0; 16];
        // 16 bytes are within what HKDF-SHA256 can expand to (255 times 32), so this cannot fail.
        let expanded = Hkdf::<Sha256>::new(Some(deployment.as_bytes()), self.key.expose()).expand(ID_INFO, &mut id);
        debug_assert!(expanded.is_ok());
        KekId::from_bytes(id)
    }
}

fn create(path: &Path, source: &KekSource) -> Result<Kek, KekError> {
    let key = Key256::generate().map_err(|_| KekError::Random)?;
    let mut line = Zeroizing::new([b'\n'; 65]);
    // The buffer has the one length that this can be encoded to.
    hex::encode_to_slice(key.expose(), &mut line[..64]).map_err(|_| KekError::Format(source.name()))?;
    private_file::create_new(path, &*line)?;
    Ok(Kek::new(key, source.clone()))
}

fn parse(text: &SecretBytes) -> Option<Key256> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.expose().trim_ascii(), &mut *bytes).ok()?;
    Key256::from_slice(&*bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn key_file_is_made_once_owner_only_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.key");
        let source = KekSource::File(path.clone());
        let made = Kek::load(&source, Absence::New).await.ok().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for absence in [Absence::Lost, Absence::New] {
            assert!(Kek::load(&source, absence).await.ok().unwrap().key().expose() == made.key().expose());
        }
    }

    #[tokio::test]
    async fn missing_key_beside_existing_data_is_an_error_and_no_new_key_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.key");
        for (absence, advice) in [(Absence::Lost, "restore the file"), (Absence::NotCopied, "of another control plane")]
        {
            let error = Kek::load(&KekSource::File(path.clone()), absence).await.err().unwrap();
            assert!(error.to_string().contains(advice), "{error}");
        }
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_not_a_key_is_refused_without_repeating_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.key");
        for wrong in ["", "abc", &"z".repeat(64), &"0".repeat(63), &"0".repeat(65)] {
            private_file::replace(&path, wrong.as_bytes()).unwrap();
            let error = Kek::load(&KekSource::File(path.clone()), Absence::Lost).await.err().unwrap();
            assert!(matches!(error, KekError::Format(_)), "{error}");
            assert!(wrong.len() < 3 || !error.to_string().contains(wrong), "{error}");
        }
        private_file::replace(&path, "aB".repeat(32).as_bytes()).unwrap();
        assert!(Kek::load(&KekSource::File(path), Absence::Lost).await.ok().unwrap().key().expose() == &[0xab; 32]);
    }

    /// Computed with Python's `hmac` and `hashlib`: extract with the salt, then expand once and take 16 bytes.
    #[test]
    fn id_is_what_another_implementation_of_hkdf_derives_and_differs_by_key_and_deployment() {
        let id = |key: u8, deployment: u8| {
            let kek = Kek::new(Key256::new([key; 32]), KekSource::Env("K".to_owned()));
            kek.id(DeploymentId::from_bytes([deployment; 16]))
        };
        assert_eq!(id(1, 2).to_string(), "kek_06f4593ed0ba5e017ba9d78587ed2c09");
        assert_ne!(id(1, 2), id(2, 2));
        assert_ne!(id(1, 2), id(1, 3));
    }
}
