//! The fleet token: what every node of a deployment presents, and what secrets are sealed with on their way to a node.
//!
//! It is kept in a file of the data directory that only its owner may read, and made when that file is missing.

use std::path::Path;
use std::sync::Arc;

use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::token::{self, TokenDigest, TokenKind};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Name of the file in the data directory.
pub const FLEET_TOKEN_FILE: &str = "fleet.token";

/// Why there is no fleet token.
#[derive(Debug, thiserror::Error)]
pub enum FleetTokenError {
    /// The file cannot be used.
    #[error("the fleet token cannot be used: {0}")]
    File(#[from] PrivateFileError),
    /// Not a fleet token. The message does not repeat it.
    #[error(
        "{0} does not hold a fleet token (kff_...): remove the file, start again, and give the nodes the new token"
    )]
    Format(String),
    /// There is none, but nodes may have one.
    #[error(
        "{0} is missing, but this deployment has other control planes, and nodes that know their token: copy the file from the data \
         directory of another control plane (mode 0600)"
    )]
    Missing(String),
    /// The operating system gave no randomness.
    #[error("no randomness available for a fleet token")]
    Random,
}

/// The fleet token. Clones share it.
#[derive(Clone)]
pub struct FleetToken {
    secret: Arc<SecretBytes>,
    digest: TokenDigest,
}

impl FleetToken {
    /// Reads the token in `data_dir`, or makes one if that may be.
    ///
    /// # Errors
    /// [`FleetTokenError`].
    pub fn load(data_dir: &Path, may_make: bool) -> Result<Self, FleetTokenError> {
        let path = data_dir.join(FLEET_TOKEN_FILE);
        if let Ok(false) = path.try_exists() {
            if !may_make {
                return Err(FleetTokenError::Missing(path.display().to_string()));
            }
            let token = token::generate(TokenKind::Fleet).map_err(|_| FleetTokenError::Random)?;
            let mut line = Zeroizing::new(String::with_capacity(token.len() + 1));
            line.push_str(&token);
            line.push('\n');
            private_file::create_new(&path, line.as_bytes())?;
            tracing::info!(path = %path.display(), "a new fleet token was made: nodes need it");
        }
        let secret = SecretBytes::new(private_file::read(&path)?.expose().trim_ascii().to_vec());
        let digest = token::digest_of(TokenKind::Fleet, secret.expose());
        let digest = digest.ok_or_else(|| FleetTokenError::Format(path.display().to_string()))?;
        Ok(Self { secret: Arc::new(secret), digest })
    }

    /// The token's bytes, without a newline.
    #[must_use]
    pub const fn secret(&self) -> &Arc<SecretBytes> {
        &self.secret
    }

    /// Whether `presented` is the token. How long the answer takes does not depend on how much of it is right.
    #[must_use]
    pub fn accepts(&self, presented: &[u8]) -> bool {
        token::digest(presented).0.ct_eq(&self.digest.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_made_once_and_only_itself_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let missing = FleetToken::load(directory.path(), false).err().unwrap().to_string();
        assert!(missing.contains("copy the file"), "{missing}");
        let token = FleetToken::load(directory.path(), true).ok().unwrap();
        let again = FleetToken::load(directory.path(), false).ok().unwrap();
        assert!(again.accepts(token.secret().expose()));
        assert!(!again.accepts(b"") && !again.accepts(&token.secret().expose()[1..]));
        private_file::replace(&directory.path().join(FLEET_TOKEN_FILE), b"guess me\n").unwrap();
        let error = FleetToken::load(directory.path(), true).err().unwrap().to_string();
        assert!(error.contains(FLEET_TOKEN_FILE) && !error.contains("guess me"), "{error}");
    }
}
