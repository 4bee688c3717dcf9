//! [`KeyStatus`] and [`KeyRecord`].

use std::sync::Arc;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, WorkspaceId};
use keyforge_shared::policy::Policy;
use keyforge_shared::state::{FormerToken, KeyRecord, KeyStatus};
use keyforge_shared::token::TokenDigest;

use super::{ConvertError, id, parsed, required, time, unspecified};
use crate::admin::v1 as admin;
use crate::fleet::v1 as proto;

impl From<KeyStatus> for admin::KeyStatus {
    fn from(status: KeyStatus) -> Self {
        match status {
            KeyStatus::Active => Self::Active,
            KeyStatus::Paused => Self::Paused,
            KeyStatus::Revoked => Self::Revoked,
        }
    }
}

impl TryFrom<admin::KeyStatus> for KeyStatus {
    type Error = ConvertError;
    fn try_from(status: admin::KeyStatus) -> Result<Self, ConvertError> {
        match status {
            admin::KeyStatus::Active => Ok(Self::Active),
            admin::KeyStatus::Paused => Ok(Self::Paused),
            admin::KeyStatus::Revoked => Ok(Self::Revoked),
            admin::KeyStatus::Unspecified => Err(unspecified("status")),
        }
    }
}

impl From<&KeyRecord> for proto::KeyRecord {
    fn from(key: &KeyRecord) -> Self {
        Self {
            id: key.id.to_string(),
            digest: key.digest.0.to_vec(),
            name: key.name.clone(),
            status: admin::KeyStatus::from(key.status).into(),
            policy: Some((&*key.policy).into()),
            chain_id: key.chain.as_bytes().to_vec(),
            workspace_id: key.workspace.as_bytes().to_vec(),
            status_revision: key.status_revision,
            former: key.former.as_deref().map(|former| proto::FormerToken {
                digest: former.digest.0.to_vec(),
                until_ms: former.until.map(Timestamp::millis),
            }),
        }
    }
}

impl TryFrom<proto::KeyRecord> for KeyRecord {
    type Error = ConvertError;
    fn try_from(key: proto::KeyRecord) -> Result<Self, ConvertError> {
        let status = admin::KeyStatus::try_from(key.status);
        let policy = Policy::try_from(required(key.policy, "policy")?);
        Ok(Self {
            id: parsed(&key.id, "id")?,
            digest: digest(&key.digest)?,
            name: key.name,
            status: status.map_err(|error| ConvertError::new("status", error))?.try_into()?,
            status_revision: key.status_revision,
            policy: policy.map(Arc::new).map_err(|error: ConvertError| error.within("policy"))?,
            chain: id(&key.chain_id, "chain_id", ChainId::from_slice)?,
            workspace: id(&key.workspace_id, "workspace_id", WorkspaceId::from_slice)?,
            former: key.former.map(former).transpose().map_err(|error| error.within("former"))?,
        })
    }
}

fn former(token: proto::FormerToken) -> Result<Box<FormerToken>, ConvertError> {
    let until = token.until_ms.map(|millis| time(millis, "until_ms")).transpose()?;
    Ok(Box::new(FormerToken { digest: digest(&token.digest)?, until }))
}

fn digest(bytes: &[u8]) -> Result<TokenDigest, ConvertError> {
    bytes.try_into().map(TokenDigest).map_err(|_| ConvertError::new("digest", "not 32 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn every_key_survives_the_wire(key in samples::key()) {
            prop_assert_eq!(KeyRecord::try_from(proto::KeyRecord::from(&key)), Ok(key));
        }

        #[test]
        fn a_key_with_any_field_missing_is_refused_by_name(key in samples::key()) {
            let whole = proto::KeyRecord::from(&key);
            let cases = [
                ("id", proto::KeyRecord { id: String::new(), ..whole.clone() }),
                ("digest", proto::KeyRecord { digest: vec![0; 31], ..whole.clone() }),
                ("status", proto::KeyRecord { status: 0, ..whole.clone() }),
                ("status", proto::KeyRecord { status: 77, ..whole.clone() }),
                ("policy", proto::KeyRecord { policy: None, ..whole.clone() }),
                ("chain_id", proto::KeyRecord { chain_id: Vec::new(), ..whole.clone() }),
                ("workspace_id", proto::KeyRecord { workspace_id: Vec::new(), ..whole.clone() }),
                ("former.digest", proto::KeyRecord { former: Some(proto::FormerToken::default()), ..whole }),
            ];
            for (field, broken) in cases {
                prop_assert_eq!(KeyRecord::try_from(broken).unwrap_err().field, field);
            }
        }
    }
}
