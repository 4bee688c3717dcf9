//! [`CredentialRecord`]: a credential without its secret.

use keyforge_shared::catalog::ProviderName;
use keyforge_shared::id::CredentialId;
use keyforge_shared::state::{CredentialRecord, MAX_WEIGHT};

use super::{ConvertError, id};
use crate::fleet::v1 as proto;

impl From<&CredentialRecord> for proto::CredentialRecord {
    fn from(credential: &CredentialRecord) -> Self {
        Self {
            id: credential.id.as_bytes().to_vec(),
            provider: credential.provider.0.clone(),
            pool: credential.pool.clone(),
            base_url: credential.base_url.clone(),
            limit_group: credential.limit_group.clone(),
            secret_version: credential.secret_version,
            enabled: credential.enabled,
            weight: credential.weight,
        }
    }
}

impl TryFrom<proto::CredentialRecord> for CredentialRecord {
    type Error = ConvertError;
    fn try_from(credential: proto::CredentialRecord) -> Result<Self, ConvertError> {
        let words = [
            ("provider", &credential.provider),
            ("pool", &credential.pool),
            ("base_url", &credential.base_url),
            ("limit_group", &credential.limit_group),
        ];
        if let Some((field, _)) = words.into_iter().find(|(_, word)| word.is_empty()) {
            return Err(ConvertError::new(field, "missing"));
        }
        if credential.secret_version == 0 {
            return Err(ConvertError::new("secret_version", "versions count from 1"));
        }
        // A control plane that knows no weights sends none.
        let weight = credential.weight.max(1);
        if weight > MAX_WEIGHT {
            return Err(ConvertError::new("weight", "more than any credential may have"));
        }
        Ok(Self {
            id: id(&credential.id, "id", CredentialId::from_slice)?,
            provider: ProviderName(credential.provider),
            pool: credential.pool,
            base_url: credential.base_url,
            limit_group: credential.limit_group,
            secret_version: credential.secret_version,
            enabled: credential.enabled,
            weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn every_credential_survives_the_wire(credential in samples::credential()) {
            prop_assert_eq!(CredentialRecord::try_from(proto::CredentialRecord::from(&credential)), Ok(credential));
        }

        #[test]
        fn a_credential_with_any_field_missing_is_refused_by_name(credential in samples::credential()) {
            let whole = proto::CredentialRecord::from(&credential);
            let cases = [
                ("id", proto::CredentialRecord { id: vec![1; 15], ..whole.clone() }),
                ("provider", proto::CredentialRecord { provider: String::new(), ..whole.clone() }),
                ("pool", proto::CredentialRecord { pool: String::new(), ..whole.clone() }),
                ("base_url", proto::CredentialRecord { base_url: String::new(), ..whole.clone() }),
                ("limit_group", proto::CredentialRecord { limit_group: String::new(), ..whole.clone() }),
                ("secret_version", proto::CredentialRecord { secret_version: 0, ..whole.clone() }),
                ("weight", proto::CredentialRecord { weight: MAX_WEIGHT + 1, ..whole }),
            ];
            for (field, broken) in cases {
                prop_assert_eq!(CredentialRecord::try_from(broken).unwrap_err().field, field);
            }
        }
    }
}
