//! Whether a key may make a request at all: the checks that need nothing but records, one after the other as a node makes them.
//!
//! Nodes refuse by them, and whoever explains a key asks the same functions. Rates, quotas and caps are not here: they are decided by counters.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::catalog::{Model, Operation, Prices};
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::policy::Policy;
use crate::state::{KeyRecord, KeyStatus};
use crate::token::TokenDigest;

/// Why a key may not make a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The key was revoked.
    KeyRevoked,
    /// The key is switched off.
    KeyPaused,
    /// The token was replaced by a rotation, and worked until this moment; `None`: until then.
    TokenReplaced(Option<Timestamp>),
    /// The key's time is over since this moment.
    KeyExpired(Timestamp),
    /// The request comes from outside of the networks that the key may be used from.
    AddressNotAllowed,
    /// The policy does not allow the endpoint.
    EndpointNotAllowed(Endpoint),
    /// The policy does not allow the model of this name.
    ModelNotAllowed(String),
    /// The catalogue does not have a model of this name.
    ModelUnknown(String),
    /// The model of this name is called through an endpoint that this version does not have.
    ModelNotServed(String),
    /// The model of this name is called through the first endpoint, and the request came to the second.
    ModelElsewhere(String, Endpoint, Endpoint),
    /// The key has a spend limit, and the model of this name has no price.
    ModelNotPriced(String),
    /// No credential of this provider can be used.
    NoCredential(String),
}

impl Denial {
    /// The HTTP status that the agent is answered with.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::KeyRevoked | Self::KeyPaused | Self::TokenReplaced(_) | Self::KeyExpired(_) => 401,
            Self::AddressNotAllowed
            | Self::EndpointNotAllowed(_)
            | Self::ModelNotAllowed(_)
            | Self::ModelNotPriced(_) => 403,
            Self::NoCredential(_) => 502,
            Self::ModelUnknown(_) => 404,
            Self::ModelNotServed(_) | Self::ModelElsewhere(..) => 400,
        }
    }

    /// The code in the error that the agent is answered with.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::KeyRevoked | Self::KeyPaused | Self::TokenReplaced(_) | Self::KeyExpired(_) => "invalid_api_key",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::EndpointNotAllowed(_) => "endpoint_not_allowed",
            Self::ModelNotAllowed(_) => "model_not_allowed",
            Self::ModelUnknown(_) => "model_not_found",
            Self::ModelNotServed(_) => "model_not_served",
            Self::ModelElsewhere(..) => "invalid_request",
            Self::ModelNotPriced(_) => "model_not_priced",
            Self::NoCredential(_) => "upstream_credentials_exhausted",
        }
    }

    /// What the agent is told. It never says which addresses are allowed: whoever found a key need not learn where it works.
    #[must_use]
    pub fn message(&self) -> Cow<'static, str> {
        match self {
            Self::KeyRevoked => "This virtual key was revoked.".into(),
            Self::KeyPaused => "This virtual key is paused; an operator can resume it.".into(),
            Self::TokenReplaced(None) => {
                "This virtual key was rotated, and this token of it works no more: use its new one.".into()
            }
            Self::TokenReplaced(Some(until)) => format!(
                "This virtual key was rotated, and this token of it worked until {}: use its new one.",
                until.rfc3339()
            )
            .into(),
            Self::KeyExpired(at) => format!("This virtual key expired at {}.", at.rfc3339()).into(),
            Self::AddressNotAllowed => "This virtual key cannot be used from this address.".into(),
            Self::EndpointNotAllowed(endpoint) => {
                format!("This virtual key's policy does not allow the endpoint `{endpoint}`.").into()
            }
            Self::ModelNotAllowed(model) => {
                format!("This virtual key's policy does not allow the model `{model}`.").into()
            }
            Self::ModelUnknown(model) => {
                format!("The model `{model}` does not exist here; GET /v1/models lists what does.").into()
            }
            Self::ModelNotServed(model) => {
                format!("The model `{model}` cannot be called through this endpoint.").into()
            }
            Self::ModelNotPriced(model) => {
                format!("The model `{model}` has no price, so it cannot be used with a key that has a spend limit.")
                    .into()
            }
            Self::NoCredential(provider) => {
                format!("No usable {provider} credential: an operator must add or enable one.").into()
            }
            Self::ModelElsewhere(model, there, here) => {
                let what = if *there == Endpoint::Embeddings { "an embedding model" } else { "a chat model" };
                let (there, here) = (there.path(), here.path());
                format!("The model `{model}` is {what}: use POST {there} for it, not {here}.").into()
            }
        }
    }
}

/// Whether the key works at all at `now`.
///
/// # Errors
/// [`Denial::KeyRevoked`], [`Denial::KeyPaused`], [`Denial::KeyExpired`].
pub fn standing(key: &KeyRecord, now: Timestamp) -> Result<(), Denial> {
    match key.status {
        KeyStatus::Revoked => return Err(Denial::KeyRevoked),
        KeyStatus::Paused => return Err(Denial::KeyPaused),
        KeyStatus::Active => {}
    }
    match key.policy.expires_at {
        Some(expiry) if expiry <= now => Err(Denial::KeyExpired(expiry)),
        _ => Ok(()),
    }
}

/// Whether the token with this digest, which resolved to the key, still works at `now`: and until when, if it was replaced.
///
/// # Errors
/// [`Denial::TokenReplaced`].
pub fn token(key: &KeyRecord, presented: &TokenDigest, now: Timestamp) -> Result<Option<Timestamp>, Denial> {
    if key.digest == *presented {
        return Ok(None);
    }
    match key.former.as_ref().filter(|former| former.digest == *presented).and_then(|former| former.until) {
        Some(until) if now < until => Ok(Some(until)),
        until => Err(Denial::TokenReplaced(until)),
    }
}

/// Whether the key may be used from where the request comes from, which is only looked for when it matters. Nowhere is in no network.
///
/// # Errors
/// [`Denial::AddressNotAllowed`].
pub fn address(policy: &Policy, address: impl FnOnce() -> Option<IpAddr>) -> Result<(), Denial> {
    if policy.networks.is_empty() || address().is_some_and(|address| policy.networks.contain(address)) {
        return Ok(());
    }
    Err(Denial::AddressNotAllowed)
}

/// Whether the key may be used for `endpoint`.
///
/// # Errors
/// [`Denial::EndpointNotAllowed`].
pub const fn endpoint(policy: &Policy, endpoint: Endpoint) -> Result<(), Denial> {
    if policy.endpoints.is_empty() || policy.endpoints.contain(endpoint) {
        return Ok(());
    }
    Err(Denial::EndpointNotAllowed(endpoint))
}

/// Whether the key may call what the catalogue has for a name, through `endpoint`. The policy speaks of the catalogue's name, whatever the client
/// wrote, and it speaks first: what a key may not call it need not learn exists. `shown` is the name as it may be repeated.
///
/// # Errors
/// [`Denial::ModelNotAllowed`], [`Denial::ModelUnknown`], [`Denial::ModelNotServed`], [`Denial::ModelElsewhere`].
pub fn model<M: AsRef<Model>>(
    policy: &Policy,
    name: &str,
    found: Option<M>,
    endpoint: Endpoint,
    shown: impl Fn(&str) -> String,
) -> Result<M, Denial> {
    if !policy.allows_model(found.as_ref().map_or(name, |model| &model.as_ref().name)) {
        return Err(Denial::ModelNotAllowed(shown(name)));
    }
    let model = found.ok_or_else(|| Denial::ModelUnknown(shown(name)))?;
    let entry = model.as_ref();
    if endpoint.operation() == Some(entry.operation) {
        return Ok(model);
    }
    let name = shown(&entry.name);
    Err(match entry.operation {
        Operation::Chat => Denial::ModelElsewhere(name, Endpoint::Chat, endpoint),
        Operation::Embedding => Denial::ModelElsewhere(name, Endpoint::Embeddings, endpoint),
        Operation::Responses => Denial::ModelNotServed(name),
    })
}

/// The prices of a model, which a key with a spend limit needs.
///
/// # Errors
/// [`Denial::ModelNotPriced`].
pub fn prices(model: &Model) -> Result<&Prices, Denial> {
    model.prices.as_ref().ok_or_else(|| Denial::ModelNotPriced(model.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_networks_and_endpoints_allows_all_and_one_with_them_those_alone() {
        let anywhere = Policy::default();
        assert_eq!(address(&anywhere, || unreachable!("nobody looks for what does not matter")), Ok(()));
        assert_eq!(endpoint(&anywhere, Endpoint::Models), Ok(()));
        let text = r#"{"networks": ["10.0.0.0/8"], "endpoints": ["chat"]}"#;
        let policy: Policy = serde_json::from_str(text).unwrap();
        let from = |text: &str| address(&policy, || text.parse().ok());
        assert_eq!((from("10.1.2.3"), from("::ffff:10.1.2.3")), (Ok(()), Ok(())));
        for elsewhere in ["11.1.2.3", "::1", "nowhere"] {
            assert_eq!(from(elsewhere), Err(Denial::AddressNotAllowed), "{elsewhere}");
        }
        assert_eq!(endpoint(&policy, Endpoint::Chat), Ok(()));
        assert_eq!(endpoint(&policy, Endpoint::Models), Err(Denial::EndpointNotAllowed(Endpoint::Models)));
    }

    #[test]
    fn an_address_that_is_refused_learns_no_network() {
        assert!(!Denial::AddressNotAllowed.message().contains(|letter: char| letter.is_ascii_digit()));
    }
}
