//! Where a vault key comes from: an owner-only file, an environment variable, a credential of systemd, or a program that prints it.
//!
//! The program is the way to a key store elsewhere: it asks a KMS, an HSM or a TPM to open a sealed vault key, once per start, and nothing else
//! here needs to know which one. A reference names the source and is safe to show; no error repeats what was read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyforge_runtime::config::{SecretError, SecretRef, SecretRefError, env_var};
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::secret::SecretBytes;
use serde::{Deserialize, Deserializer, de};

use super::program::{self, ProgramError};

/// Where systemd puts a service's credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where a vault key is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KekSource {
    /// `file:PATH`: a file that only its owner may read. The first start makes it if it is not there.
    File(PathBuf),
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `credential:NAME`: a credential that systemd passes to the service.
    Credential(String),
    /// `command:PATH`: a program that prints the key.
    Command(PathBuf),
}

/// Why a text names no source. It does not repeat the text, which may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KekSourceError {
    /// Not a reference.
    #[error(
        "a vault key is given by reference, as file:PATH, env:NAME, credential:NAME or command:PATH, not as itself; if this was a real key, \
         replace it: it has been written down"
    )]
    Literal,
    /// `file:` or `env:` without a usable rest.
    #[error(transparent)]
    Reference(SecretRefError),
    /// `credential:` without a usable name.
    #[error("credential: needs the name of a credential as the unit file says it, such as credential:vault.key")]
    CredentialName,
    /// `command:` without an absolute path.
    #[error(
        "command: needs the absolute path of a program, such as command:/usr/local/sbin/open-vault-key; it gets no arguments"
    )]
    CommandPath,
}

/// Why a source gave no key.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The variable or credential cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// This process was not started with credentials.
    #[error(
        "there is no CREDENTIALS_DIRECTORY: start it as a systemd service with LoadCredential= or LoadCredentialEncrypted="
    )]
    NoCredentials,
    /// The program gave none.
    #[error(transparent)]
    Command(#[from] ProgramError),
}

impl KekSource {
    /// Reads what is kept there. Files are read in place: this is for starts and rotations.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self) -> Result<SecretBytes, ReadError> {
        match self {
            Self::File(path) => Ok(private_file::read(path)?),
            Self::Env(name) => Ok(SecretRef::Env(name.clone()).resolve()?),
            Self::Credential(name) => {
                let directory = env_var(CREDENTIALS).ok_or(ReadError::NoCredentials)?;
                // systemd keeps others out by the directory; the files' modes differ with how it does so.
                Ok(SecretRef::File(Path::new(&directory).join(name)).resolve()?)
            }
            Self::Command(program) => Ok(program::printed_by(program).await?),
        }
    }

    /// How errors call it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Env(name) => format!("the environment variable {name}"),
            Self::Credential(name) => format!("the systemd credential {name}"),
            Self::Command(program) => format!("the output of {}", program.display()),
        }
    }
}

impl FromStr for KekSource {
    type Err = KekSourceError;

    fn from_str(text: &str) -> Result<Self, KekSourceError> {
        if let Some(name) = text.strip_prefix("credential:") {
            let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
            let is_name = !name.is_empty() && !name.starts_with('.') && name.bytes().all(fits);
            return if is_name { Ok(Self::Credential(name.to_owned())) } else { Err(KekSourceError::CredentialName) };
        }
        if let Some(path) = text.strip_prefix("command:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Command(path)) } else { Err(KekSourceError::CommandPath) };
        }
        match SecretRef::parse(text) {
            Ok(SecretRef::File(path)) => Ok(Self::File(path)),
            Ok(SecretRef::Env(name)) => Ok(Self::Env(name)),
            Ok(SecretRef::Stdin) | Err(SecretRefError::Literal) => Err(KekSourceError::Literal),
            Err(error) => Err(KekSourceError::Reference(error)),
        }
    }
}

impl fmt::Display for KekSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Command(program) => write!(f, "command:{}", program.display()),
        }
    }
}

impl<'de> Deserialize<'de> for KekSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written_back_and_a_key_is_refused_without_repeating_it() {
        for text in ["file:/etc/keyforge/vault.key", "env:VAULT_KEY", "credential:vault.key", "command:/sbin/open"] {
            assert_eq!(text.parse::<KekSource>().unwrap().to_string(), text);
        }
        for (text, error) in [
            ("0123456789abcdef", KekSourceError::Literal),
            ("-", KekSourceError::Reference(SecretRefError::StdinNotAllowed)),
            ("file:", KekSourceError::Reference(SecretRefError::NoPath)),
            ("env:A=4711", KekSourceError::Reference(SecretRefError::VariableName)),
            ("credential:", KekSourceError::CredentialName),
            ("credential:../../etc/4711", KekSourceError::CredentialName),
            ("credential:..", KekSourceError::CredentialName),
            ("command:open", KekSourceError::CommandPath),
        ] {
            let found = text.parse::<KekSource>().unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("4711"), "{found}");
        }
    }
}
