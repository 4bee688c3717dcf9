//! Names of things as newtypes, so that a node's id can never be passed where a credential's is meant.
//!
//! All but the virtual key's public id are 16 bytes, printed as a word and 32 hexadecimal digits (`cred_0f…`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::random;

/// Why a text is not an id of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given} is not {expected}")]
pub struct IdError {
    given: String,
    expected: &'static str,
}

/// As much of a text that is no id as can be repeated: what begins like something else, or runs on for too long, may be a secret in the wrong place.
fn shown(text: &str, prefix: &str) -> String {
    if text.starts_with(prefix) && text.chars().count() <= prefix.len() + 12 {
        return format!("`{text}`");
    }
    "this".to_owned()
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// From its 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// From a slice, if it is 16 bytes long.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }

            /// Its 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// A new random id.
            ///
            /// # Errors
            /// When the operating system has no randomness to give.
            pub fn generate() -> Result<Self, getrandom::Error> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Whole, because requests are named in headers, records and log lines all the time.
                let mut text = [0; $prefix.len() + 32];
                let (prefix, digits) = text.split_at_mut($prefix.len());
                prefix.copy_from_slice($prefix.as_bytes());
                hex::encode_to_slice(self.0, digits).map_err(|_| fmt::Error)?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 16];
                text.strip_prefix($prefix)
                    .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
                    .map(|()| Self(bytes))
                    .ok_or_else(|| IdError {
                        given: shown(text, $prefix),
                        expected: concat!("an id of the form ", $prefix, " and 32 hexadecimal digits"),
                    })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

id128!(
    /// One installation of KeyForge: made when its store is created, part of every encoding that must not cross installations.
    DeploymentId, "dep_");
id128!(
    /// A credential: one real provider key in the vault.
    CredentialId, "cred_");
id128!(
    /// A vault key, by a value that is derived from it and tells nothing about it.
    KekId, "kek_");
id128!(
    /// A chain of audit entries; each virtual key has one, and the administrators share one.
    ChainId, "chain_");
id128!(
    /// A data-plane node, the same over restarts.
    NodeId, "node_");
id128!(
    /// One life of a node's process; never used twice.
    BootId, "boot_");
id128!(
    /// One life of a virtual key's books in a counter store. Books that were lost, rolled back or given up begin a new one.
    LifeId, "life_");
id128!(
    /// A workspace: the keys of one team, and the limits that they share.
    WorkspaceId, "ws_");
id128!(
    /// An operator: an identity that may administer.
    OperatorId, "op_");
id128!(
    /// A request and its reservation: made at ingress, ordered by time, the identity in logs, entries and headers.
    RequestId, "req_");

impl RequestId {
    /// A new id: 48 bits of milliseconds, then 80 random bits.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate_at(now: Timestamp) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        bytes[6..].copy_from_slice(&random::bytes::<10>()?);
        bytes[..6].copy_from_slice(&now.millis().to_be_bytes()[2..]);
        Ok(Self(bytes))
    }
}

/// The public part of a virtual key: 12 base62 characters, printed as `vk_<12 characters>`.
///
/// It names the key in logs, entries and the API; it gives no access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 12]);

impl KeyId {
    /// From 12 base62 characters.
    ///
    /// # Errors
    /// When the slice is not 12 base62 characters.
    pub fn from_ascii(text: &[u8]) -> Result<Self, IdError> {
        match <[u8; 12]>::try_from(text) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_alphanumeric) => Ok(Self(bytes)),
            _ => Err(IdError {
                given: shown(&String::from_utf8_lossy(text), ""),
                expected: "a virtual key id of the form vk_ and 12 letters or digits",
            }),
        }
    }

    /// The 12 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vk_{}", self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    /// Takes `vk_<12>`; a whole token is refused, so that nobody gets used to pasting secrets where an id is meant.
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::from_ascii(text.strip_prefix("vk_").unwrap_or(text).as_bytes())
            .map_err(|error| IdError { given: shown(text, "vk_"), ..error })
    }
}

impl TryFrom<String> for KeyId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_names_the_kind_it_expects() {
        let id = CredentialId::generate().unwrap();
        assert_eq!(id.to_string().parse::<CredentialId>().unwrap(), id);
        let error = id.to_string().parse::<NodeId>().unwrap_err();
        assert!(error.to_string().contains("node_"), "{error}");
    }

    #[test]
    fn a_whole_token_is_not_accepted_as_a_key_id_and_not_echoed() {
        let text = "vk_abcdefghijkl_SECRETSECRETSECRET";
        let error = text.parse::<KeyId>().unwrap_err().to_string();
        assert!(!error.contains("SECRET"), "{error}");
    }

    #[test]
    fn request_ids_are_ordered_by_time() {
        let early = RequestId::generate_at(Timestamp::from_millis(1_000)).unwrap();
        let late = RequestId::generate_at(Timestamp::from_millis(1_001)).unwrap();
        assert!(early < late);
    }
}
