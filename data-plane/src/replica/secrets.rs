//! The credentials' secrets as ready-made header values. They live in memory only, and leave it only towards their provider.

use std::sync::Arc;

use hashbrown::HashMap;
use http::HeaderValue;
use keyforge_shared::id::CredentialId;
use keyforge_shared::secret::SecretBytes;
use parking_lot::RwLock;

/// A secret as the `authorization` header that carries it. Built once, so that requests share its bytes.
pub struct Authorization {
    value: HeaderValue,
    version: u32,
}

impl Authorization {
    /// The header value; marked sensitive, so that it is printed nowhere and indexed in no compression table.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        self.value.clone()
    }
}

/// All secrets that the node holds.
#[derive(Default)]
pub struct Secrets(RwLock<HashMap<CredentialId, Arc<Authorization>>>);

/// The secret holds bytes that no header can carry.
#[derive(Debug, thiserror::Error)]
#[error("the secret of {0} cannot be sent in a header: add the credential again")]
pub struct Unsendable(CredentialId);

impl Secrets {
    /// Takes a secret in place of an older version.
    ///
    /// # Errors
    /// [`Unsendable`] when no header can carry it.
    pub fn put(&self, credential: CredentialId, version: u32, secret: &SecretBytes) -> Result<(), Unsendable> {
        let bearer = zeroize::Zeroizing::new([b"Bearer ", secret.expose()].concat());
        let mut value = HeaderValue::from_bytes(&bearer).map_err(|_| Unsendable(credential))?;
        value.set_sensitive(true);
        let mut secrets = self.0.write();
        if secrets.get(&credential).is_none_or(|held| held.version < version) {
            secrets.insert(credential, Arc::new(Authorization { value, version }));
        }
        Ok(())
    }

    /// The secret of a credential, if its version is the expected one.
    #[must_use]
    pub fn get(&self, credential: CredentialId, version: u32) -> Option<Arc<Authorization>> {
        self.0.read().get(&credential).filter(|held| held.version == version).cloned()
    }

    /// Forgets every secret but those that `keep` wants.
    pub fn retain(&self, keep: impl Fn(CredentialId) -> bool) {
        self.0.write().retain(|credential, _| keep(*credential));
    }
}
