//! Where a secret comes from. Configuration holds references (`env:NAME`, `file:PATH`, on a command line `-` for the
//! standard input), never secrets: a file can be shown, copied and kept under version control.
//!
//! An error of this module never repeats what was written, because it may be the secret itself.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyforge_shared::secret::SecretBytes;
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use super::env_var;

/// The largest secret that is read, in bytes: room for a key file, too small to be a wrong file taken for one.
const MAX_SECRET_BYTES: usize = 64 * 1024;

/// A reference to a secret. It is safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`: the value of an environment variable.
    Env(String),
    /// `file:PATH`: the bytes of a file, without one trailing newline.
    File(PathBuf),
    /// `-`: the standard input, without one trailing newline.
    Stdin,
}

/// Why a text is not a reference to a secret. It does not repeat the text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SecretRefError {
    /// Neither `env:` nor `file:`: perhaps the secret itself.
    #[error(
        "a secret is given by reference, as env:NAME or file:PATH, not as itself; \
         if this was a real secret, replace it: it has been written down"
    )]
    Literal,
    /// `env:` without a usable name.
    #[error("env: needs the name of an environment variable (letters, digits and _), such as env:PROVIDER_KEY")]
    VariableName,
    /// `file:` without a path.
    #[error("file: needs a path, such as file:/run/secrets/provider-key")]
    NoPath,
    /// `-` where the standard input is not available.
    #[error("the standard input (-) cannot be used here; use env:NAME or file:PATH")]
    StdinNotAllowed,
}

/// Why a reference led to no secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The variable is missing, empty or not UTF-8.
    #[error("the environment variable {0} is not set, is empty or is not UTF-8")]
    Unset(String),
    /// Reading failed.
    #[error("cannot read the secret from {from}: {cause}")]
    Read {
        /// The file, or the standard input.
        from: SecretRef,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// There was nothing but perhaps a newline.
    #[error("the secret from {0} is empty")]
    Empty(SecretRef),
    /// More than a secret can be.
    #[error("{0} holds more than {MAX_SECRET_BYTES} bytes: that is not a secret")]
    TooLarge(SecretRef),
}

impl SecretRef {
    /// Reads a reference as a configuration file may hold it: `env:NAME` or `file:PATH`.
    ///
    /// # Errors
    /// The text is something else, perhaps a secret; the error does not repeat it.
    pub fn parse(text: &str) -> Result<Self, SecretRefError> {
        if text == "-" {
            return Err(SecretRefError::StdinNotAllowed);
        }
        Self::parse_allowing_stdin(text)
    }

    /// Reads a reference as a command line may hold it: also `-`, the standard input.
    ///
    /// # Errors
    /// The text is something else, perhaps a secret; the error does not repeat it.
    pub fn parse_allowing_stdin(text: &str) -> Result<Self, SecretRefError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(name) = text.strip_prefix("env:") {
            let fits = |character: char| character.is_ascii_alphanumeric() || character == '_';
            let named = name.chars().all(fits) && name.starts_with(|first: char| !first.is_ascii_digit());
            return if named { Ok(Self::Env(name.to_owned())) } else { Err(SecretRefError::VariableName) };
        }
        match text.strip_prefix("file:") {
            Some("") => Err(SecretRefError::NoPath),
            Some(path) => Ok(Self::File(PathBuf::from(path))),
            None => Err(SecretRefError::Literal),
        }
    }

    /// Follows the reference. Blocks on the file or on the standard input: call it at start, not on a request's path.
    ///
    /// # Errors
    /// The source cannot be read, is empty, or is too large to be a secret.
    pub fn resolve(&self) -> Result<SecretBytes, SecretError> {
        let bytes = match self {
            Self::Env(name) => env_var(name).map(String::into_bytes).ok_or_else(|| SecretError::Unset(name.clone()))?,
            Self::File(path) => self.read(open(path))?,
            Self::Stdin => self.read(Ok(io::stdin().lock()))?,
        };
        if bytes.is_empty() {
            return Err(SecretError::Empty(self.clone()));
        }
        Ok(SecretBytes::new(bytes))
    }

    fn read(&self, source: io::Result<impl Read>) -> Result<Vec<u8>, SecretError> {
        let failed = |cause| SecretError::Read { from: self.clone(), cause };
        // Reserved at once, so that growing leaves no copies of the secret behind.
        let mut bytes = Vec::with_capacity(MAX_SECRET_BYTES + 1);
        let limit = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        source.map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(SecretError::TooLarge(self.clone()));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Ok(bytes)
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

impl FromStr for SecretRef {
    type Err = SecretRefError;

    /// As [`SecretRef::parse`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Stdin => f.write_str("the standard input"),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn references_are_read() {
        assert_eq!(SecretRef::parse("env:A_1"), Ok(SecretRef::Env("A_1".to_owned())));
        assert_eq!(SecretRef::parse("file:/a b"), Ok(SecretRef::File(PathBuf::from("/a b"))));
        assert_eq!(SecretRef::parse("-"), Err(SecretRefError::StdinNotAllowed));
        assert_eq!(SecretRef::parse_allowing_stdin("-"), Ok(SecretRef::Stdin));
        for bad_name in ["env:", "env:1A", "env:A B", "env:A=B"] {
            assert_eq!(SecretRef::parse(bad_name), Err(SecretRefError::VariableName), "{bad_name}");
        }
        assert_eq!(SecretRef::parse("file:"), Err(SecretRefError::NoPath));
    }

    #[test]
    fn literal_secret_is_refused_and_not_repeated() {
        for literal in ["sk-live-4711", "", "ENV:sk-live-4711", "env:sk-live-4711"] {
            let error = SecretRef::parse(literal).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("4711"), "{error}");
        }
    }

    fn from_file(bytes: &[u8]) -> Result<Vec<u8>, SecretError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, bytes).unwrap();
        SecretRef::File(path).resolve().map(|secret| secret.expose().to_vec())
    }

    #[test]
    fn one_trailing_newline_of_a_file_is_not_part_of_the_secret() {
        assert_eq!(from_file(b"abc").unwrap(), b"abc");
        assert_eq!(from_file(b"abc\n").unwrap(), b"abc");
        assert_eq!(from_file(b"abc\r\n").unwrap(), b"abc");
        assert_eq!(from_file(b"a\nb\n\n").unwrap(), b"a\nb\n");
    }

    #[test]
    fn empty_missing_and_huge_sources_are_refused_by_name() {
        assert!(matches!(from_file(b"\n"), Err(SecretError::Empty(_))));
        assert!(matches!(from_file(&vec![b'x'; MAX_SECRET_BYTES + 1]), Err(SecretError::TooLarge(_))));
        assert_eq!(from_file(&vec![b'x'; MAX_SECRET_BYTES]).unwrap().len(), MAX_SECRET_BYTES);
        let missing = SecretRef::File(PathBuf::from("/no/such/secret")).resolve().err().unwrap();
        assert!(missing.to_string().starts_with("cannot read the secret from file:/no/such/secret: "), "{missing}");
        let unset = SecretRef::Env("KEYFORGE_TEST_NEVER_SET".to_owned()).resolve().err().unwrap();
        assert!(unset.to_string().contains("KEYFORGE_TEST_NEVER_SET"), "{unset}");
    }

    #[test]
    fn environment_reference_is_followed() {
        let home = SecretRef::Env("PATH".to_owned()).resolve().unwrap();
        assert_eq!(Some(home.expose()), env_var("PATH").as_deref().map(str::as_bytes));
    }
}
