//! The credentials' secrets as ready-made header values. They live in memory only, and leave it only towards their provider.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use keyforge_shared::id::CredentialId;
use keyforge_shared::provider::SecretHeader;
use keyforge_shared::secret::SecretBytes;
use parking_lot::RwLock;

const SCHEME: &[u8] = b"Bearer ";

/// A secret as the header that carries it. Built once, so that requests share its bytes.
///
/// Secrets come before the record that says which provider they are for, so both forms are kept; they are the same bytes.
pub struct Authorization {
    bearer: HeaderValue,
    bare: HeaderValue,
}

impl Authorization {
    fn new(secret: &SecretBytes) -> Option<Self> {
        let bearer = Bytes::from([SCHEME, secret.expose()].concat());
        let bare = bearer.slice(SCHEME.len()..);
        let sensitive = |bytes: Bytes| {
            let mut value = HeaderValue::from_maybe_shared(bytes).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Some(Self { bearer: sensitive(bearer)?, bare: sensitive(bare)? })
    }

    /// The header in the form that a provider takes; its value is marked sensitive, so that it is printed nowhere and indexed in no compression table.
    #[must_use]
    pub fn header(&self, form: SecretHeader) -> (HeaderName, HeaderValue) {
        match form {
            SecretHeader::Bearer => (AUTHORIZATION, self.bearer.clone()),
            SecretHeader::XApiKey => (HeaderName::from_static("x-api-key"), self.bare.clone()),
            SecretHeader::XGoogApiKey => (HeaderName::from_static("x-goog-api-key"), self.bare.clone()),
            SecretHeader::ApiKey => (HeaderName::from_static("api-key"), self.bare.clone()),
        }
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
        let authorization = Authorization::new(secret).ok_or(Unsendable(credential))?;
        self.0.write().insert((credential, version), Arc::new(authorization));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_where_its_provider_wants_it_and_is_never_printed() {
        let (secrets, id) = (Secrets::default(), CredentialId::from_bytes([1; 16]));
        secrets.put(id, 1, &SecretBytes::new(b"sk-hush".to_vec())).unwrap();
        let authorization = secrets.get(id, 1).unwrap();
        for (form, name, value) in [
            (SecretHeader::Bearer, "authorization", "Bearer sk-hush"),
            (SecretHeader::XApiKey, "x-api-key", "sk-hush"),
            (SecretHeader::XGoogApiKey, "x-goog-api-key", "sk-hush"),
            (SecretHeader::ApiKey, "api-key", "sk-hush"),
        ] {
            let header = authorization.header(form);
            assert_eq!((header.0.as_str(), header.1.to_str().unwrap()), (name, value));
            assert!(header.1.is_sensitive() && !format!("{header:?}").contains("hush"));
        }
        assert!(secrets.put(id, 2, &SecretBytes::new(b"two\nlines".to_vec())).is_err());
    }
}
