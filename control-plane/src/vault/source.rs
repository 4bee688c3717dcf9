//! Where a vault key comes from: an owner-only file, an environment variable, a credential of systemd, or a program that prints it.
//!
//! The program is the way to a key store elsewhere: it asks a KMS, an HSM or a TPM to open a sealed vault key, once per start, and nothing else
//! here needs to know which one. A reference names the source and is safe to show; no error repeats what was read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use keyforge_runtime::config::{SecretError, SecretRef, SecretRefError, env_var};
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::secret::SecretBytes;
use serde::{Deserialize, Deserializer, de};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use zeroize::Zeroizing;

/// Where systemd puts a service's credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// How long a program may take: a key store in a network answers within seconds or not at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes that a program may print: far more than 64 digits and a line end.
const MOST_PRINTED: usize = 4_096;

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
    /// The program could not be run, or failed.
    #[error("{} {what}; what it said stands above", program.display())]
    Command {
        /// The program.
        program: PathBuf,
        /// How it failed.
        what: String,
    },
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
            Self::Command(program) => printed_by(program).await,
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

async fn printed_by(program: &Path) -> Result<SecretBytes, ReadError> {
    let failed = |what: String| ReadError::Command { program: program.to_owned(), what };
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
    // Reserved at once, so that growing leaves no copies of the key behind.
    let mut printed = Zeroizing::new(Vec::with_capacity(MOST_PRINTED + 1));
    let stdout = child.stdout.take().ok_or_else(|| failed("has no output".to_owned()))?;
    let limit = u64::try_from(MOST_PRINTED).unwrap_or(u64::MAX).saturating_add(1);
    let ended = async {
        stdout.take(limit).read_to_end(&mut printed).await?;
        child.wait().await
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    let seconds = PATIENCE.as_secs();
    let ended = ended.map_err(|_| failed(format!("did not end within {seconds} seconds")))?;
    let status = ended.map_err(|error| failed(format!("cannot be read from: {error}")))?;
    if printed.len() > MOST_PRINTED {
        return Err(failed(format!("printed more than {MOST_PRINTED} bytes, which is no key")));
    }
    if !status.success() {
        return Err(failed(format!("failed ({status})")));
    }
    Ok(SecretBytes::new(std::mem::take(&mut *printed)))
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
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

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

    async fn run(script: &str) -> Result<String, ReadError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("open");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        let read = KekSource::Command(path).read().await;
        read.map(|bytes| String::from_utf8(bytes.expose().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_program_is_asked_once_and_gets_neither_arguments_nor_input() {
        assert_eq!(run("cat; echo \"$#\"").await.unwrap(), "0\n");
    }

    #[tokio::test]
    async fn a_program_that_fails_is_named_and_nothing_that_it_printed_is_repeated() {
        for (script, said) in [("echo 4711; exit 3", "exit status: 3"), ("yes 4711", "more than 4096 bytes")] {
            let error = run(script).await.err().unwrap().to_string();
            assert!(error.contains("/open ") && error.contains(said) && !error.contains("4711 "), "{error}");
        }
        let missing = KekSource::Command(PathBuf::from("/no/such/program")).read().await.err().unwrap().to_string();
        assert!(missing.contains("/no/such/program cannot be run"), "{missing}");
    }
}
