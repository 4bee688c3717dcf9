//! The vault key: 32 random bytes in hexadecimal, in a file that only its owner may read, or in an environment variable.
//!
//! The file is made once, when a deployment is made. Beside existing data a missing key is an error, never a new key: a new one could open
//! nothing that the old one sealed.

use std::path::{Path, PathBuf};

use keyforge_runtime::config::{SecretError, SecretRef};
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::secret::{Key256, SecretBytes};
use zeroize::Zeroizing;

/// The first term of a vault key. Terms count the keys that a vault has had.
const FIRST_TERM: u32 = 1;

/// Where the vault key is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KekSource {
    /// A file, made at the first start if it is not there.
    File(PathBuf),
    /// An environment variable, which the operator sets.
    Env(String),
}

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
    /// The file cannot be used.
    #[error("the vault key cannot be used: {0}")]
    File(#[from] PrivateFileError),
    /// The variable cannot be used.
    #[error("the vault key cannot be used: {0}")]
    Env(#[from] SecretError),
    /// Not a key. The message does not repeat it.
    #[error("the vault key in {0} is not 64 hexadecimal digits: make one with `openssl rand -hex 32`")]
    Format(String),
    /// The operating system gave no randomness.
    #[error("no randomness available for a vault key")]
    Random,
}

impl KekSource {
    /// The source that a configuration names; `None` for the standard input, which a restart could not read again.
    #[must_use]
    pub fn from_reference(reference: SecretRef) -> Option<Self> {
        match reference {
            SecretRef::File(path) => Some(Self::File(path)),
            SecretRef::Env(name) => Some(Self::Env(name)),
            SecretRef::Stdin => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Env(name) => format!("the environment variable {name}"),
        }
    }
}

/// The key that seals data keys, and its term.
pub struct Kek {
    key: Key256,
    term: u32,
    source: String,
}

impl Kek {
    /// The vault key of the first term; `source` names it in errors.
    #[must_use]
    pub fn new(key: Key256, source: impl Into<String>) -> Self {
        Self { key, term: FIRST_TERM, source: source.into() }
    }

    /// Reads the vault key. When `data_exists` is false and its file does not exist, makes one.
    ///
    /// # Errors
    /// [`KekError`]; a missing file beside existing data is one.
    pub fn load(source: &KekSource, data_exists: bool) -> Result<Self, KekError> {
        let text = match source {
            KekSource::Env(name) => SecretRef::Env(name.clone()).resolve()?,
            KekSource::File(path) => match path.try_exists() {
                Ok(false) if data_exists => return Err(KekError::Missing(path.clone())),
                Ok(false) => return create(path, source),
                Ok(true) | Err(_) => private_file::read(path)?,
            },
        };
        let key = parse(&text).ok_or_else(|| KekError::Format(source.name()))?;
        Ok(Self::new(key, source.name()))
    }

    /// The key itself.
    #[must_use]
    pub(super) const fn key(&self) -> &Key256 {
        &self.key
    }

    /// Its term.
    #[must_use]
    pub const fn term(&self) -> u32 {
        self.term
    }

    /// Where it came from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

fn create(path: &Path, source: &KekSource) -> Result<Kek, KekError> {
    let key = Key256::generate().map_err(|_| KekError::Random)?;
    let mut line = Zeroizing::new([b'\n'; 65]);
    // The buffer has the one length that this can be encoded to.
    hex::encode_to_slice(key.expose(), &mut line[..64]).map_err(|_| KekError::Format(source.name()))?;
    private_file::create_new(path, &*line)?;
    Ok(Kek::new(key, source.name()))
}

fn parse(text: &SecretBytes) -> Option<Key256> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.expose().trim_ascii(), &mut *bytes).ok()?;
    Some(Key256::new(*bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn key_file_is_made_once_owner_only_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.key");
        let source = KekSource::File(path.clone());
        let made = Kek::load(&source, false).ok().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for data_exists in [false, true] {
            assert!(Kek::load(&source, data_exists).ok().unwrap().key().expose() == made.key().expose());
        }
    }

    #[test]
    fn missing_key_beside_existing_data_is_an_error_and_no_new_key_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.key");
        let error = Kek::load(&KekSource::File(path.clone()), true).err().unwrap();
        assert!(matches!(error, KekError::Missing(_)) && error.to_string().contains("restore the file"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_repeating_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.key");
        for wrong in ["", "abc", &"z".repeat(64), &"0".repeat(63), &"0".repeat(65)] {
            private_file::replace(&path, wrong.as_bytes()).unwrap();
            let error = Kek::load(&KekSource::File(path.clone()), true).err().unwrap();
            assert!(matches!(error, KekError::Format(_)), "{error}");
            assert!(wrong.len() < 3 || !error.to_string().contains(wrong), "{error}");
        }
        private_file::replace(&path, "aB".repeat(32).as_bytes()).unwrap();
        assert!(Kek::load(&KekSource::File(path), true).ok().unwrap().key().expose() == &[0xab; 32]);
    }
}
