//! Ids out of requests. What was given is not repeated: people paste secrets where ids are meant, and errors are recorded.

use keyforge_shared::id::{CredentialId, KeyId};

use crate::admin::AdminError;

/// A virtual key's id.
pub(super) fn key_id(text: &str) -> Result<KeyId, AdminError> {
    text.parse().map_err(|_| AdminError::Invalid("id: not an id of the form vk_ and 12 letters or digits".to_owned()))
}

/// A credential's id.
pub(super) fn credential_id(text: &str) -> Result<CredentialId, AdminError> {
    text.parse()
        .map_err(|_| AdminError::Invalid("id: not an id of the form cred_ and 32 hexadecimal digits".to_owned()))
}
