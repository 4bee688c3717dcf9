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
}

impl Authorization {
    /// The header value; marked sensitive, so that it is printed nowhere and indexed in no compression table.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        self.value.clone()
    }
}

/// All secrets that the node holds, by credential and version: a new version comes before the record that names it.
#[derive(Default)]
pub struct Secrets(RwLock<HashMap<(CredentialId, u32), Arc<Authorization>>>);

/// The secret holds bytes that no header can carry.
#[derive(Debug, thiserror::Error)]
#[error("the secret of {0} cannot be sent in a header: add the credential again")]
pub struct Unsendable(CredentialId);

impl Secrets {
    /// Takes a secret in.
    ///
    /// # Errors
    /// [`Unsendable`] when no header can carry it.
    pub fn put(&self, credential: CredentialId, version: u32, secret: &SecretBytes) -> Result<(), Unsendable> {
        let bearer = zeroize::Zeroizing::new([b"Bearer ", secret.expose()].concat());
        let mut value = HeaderValue::from_bytes(&bearer).map_err(|_| Unsendable(credential))?;
        value.set_sensitive(true);
        self.0.write().insert((credential, version), Arc::new(Authorization { value }));
        Ok(())
    }

    /// A version of a credential's secret.
    #[must_use]
    pub fn get(&self, credential: CredentialId, version: u32) -> Option<Arc<Authorization>> {
        self.0.read().get(&(credential, version)).cloned()
    }

    /// Forgets every secret but those that `keep` wants.
    pub fn retain(&self, keep: impl Fn(CredentialId, u32) -> bool) {
        self.0.write().retain(|(credential, version), _| keep(*credential, *version));
    }
}
