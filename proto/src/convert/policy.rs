//! [`Policy`], its limits, [`Window`] and [`Endpoint`].

use keyforge_shared::clock::Timestamp;
use keyforge_shared::endpoint::{Endpoint, Endpoints};
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::network::Networks;
use keyforge_shared::period::{Window, ZoneName};
use keyforge_shared::policy::{ModelPattern, Policy, Raise, RequestLimit, SpendLimit};

use super::{ConvertError, each, parsed, required, time, unspecified};
use crate::admin::v1 as proto;
use crate::admin::v1::raise::Amount;

impl From<Window> for proto::Window {
    fn from(window: Window) -> Self {
        match window {
            Window::Day => Self::Day,
            Window::Week => Self::Week,
            Window::Month => Self::Month,
            Window::Total => Self::Total,
        }
    }
}

/// A window out of the enum's number.
///
/// # Errors
/// [`ConvertError`] naming `field` when it is unspecified or unknown.
pub fn window(number: i32, field: &str) -> Result<Window, ConvertError> {
    match proto::Window::try_from(number) {
        Ok(proto::Window::Day) => Ok(Window::Day),
        Ok(proto::Window::Week) => Ok(Window::Week),
        Ok(proto::Window::Month) => Ok(Window::Month),
        Ok(proto::Window::Total) => Ok(Window::Total),
        Ok(proto::Window::Unspecified) => Err(unspecified(field)),
        Err(_) => Err(ConvertError::new(field, format!("no window has the number {number}"))),
    }
}

impl From<RequestLimit> for proto::RequestLimit {
    fn from(limit: RequestLimit) -> Self {
        Self { requests: limit.requests, window: proto::Window::from(limit.window).into() }
    }
}

impl TryFrom<proto::RequestLimit> for RequestLimit {
    type Error = ConvertError;
    fn try_from(limit: proto::RequestLimit) -> Result<Self, ConvertError> {
        Ok(Self { requests: limit.requests, window: window(limit.window, "window")? })
    }
}

impl From<SpendLimit> for proto::SpendLimit {
    fn from(limit: SpendLimit) -> Self {
        Self { nano_usd: limit.amount.nanos(), window: proto::Window::from(limit.window).into() }
    }
}

impl TryFrom<proto::SpendLimit> for SpendLimit {
    type Error = ConvertError;
    fn try_from(limit: proto::SpendLimit) -> Result<Self, ConvertError> {
        Ok(Self { amount: NanoUsd::new(limit.nano_usd), window: window(limit.window, "window")? })
    }
}

impl From<&Raise> for proto::Raise {
    fn from(raise: &Raise) -> Self {
        let amount = match raise.dimension {
            Dimension::Requests => Amount::Requests(raise.amount),
            Dimension::Spend => Amount::NanoUsd(raise.amount),
        };
        let window = proto::Window::from(raise.window).into();
        Self { amount: Some(amount), window, until_ms: raise.until.millis() }
    }
}

impl TryFrom<proto::Raise> for Raise {
    type Error = ConvertError;
    fn try_from(raise: proto::Raise) -> Result<Self, ConvertError> {
        let (dimension, amount) = match required(raise.amount, "amount")? {
            Amount::Requests(requests) => (Dimension::Requests, requests),
            Amount::NanoUsd(nanos) => (Dimension::Spend, nanos),
        };
        let window = window(raise.window, "window")?;
        Ok(Self { dimension, window, amount, until: time(raise.until_ms, "until_ms")? })
    }
}

/// Raises out of a list of them.
///
/// # Errors
/// [`ConvertError`] naming the first that is wrong by its place.
pub fn raises(messages: Vec<proto::Raise>) -> Result<Vec<Raise>, ConvertError> {
    each(messages, "raises")
}

impl From<Endpoint> for proto::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Chat => Self::Chat,
            Endpoint::Embeddings => Self::Embeddings,
            Endpoint::Models => Self::Models,
        }
    }
}

/// An endpoint out of the enum's number.
///
/// # Errors
/// [`ConvertError`] naming `field` when it is unspecified or unknown.
pub fn endpoint(number: i32, field: &str) -> Result<Endpoint, ConvertError> {
    match proto::Endpoint::try_from(number) {
        Ok(proto::Endpoint::Chat) => Ok(Endpoint::Chat),
        Ok(proto::Endpoint::Embeddings) => Ok(Endpoint::Embeddings),
        Ok(proto::Endpoint::Models) => Ok(Endpoint::Models),
        Ok(proto::Endpoint::Unspecified) => Err(unspecified(field)),
        Err(_) => Err(ConvertError::new(field, format!("no endpoint has the number {number}"))),
    }
}

fn networks(texts: &[String]) -> Result<Networks, ConvertError> {
    let numbered = texts.iter().enumerate();
    let networks = numbered.map(|(index, text)| parsed(text, &format!("networks[{index}]")));
    networks.collect::<Result<Vec<_>, _>>().map(Networks::new)
}

fn endpoints(numbers: &[i32]) -> Result<Endpoints, ConvertError> {
    let numbered = numbers.iter().enumerate();
    numbered.map(|(index, number)| endpoint(*number, &format!("endpoints[{index}]"))).collect()
}

impl From<&Policy> for proto::Policy {
    fn from(policy: &Policy) -> Self {
        Self {
            models: policy.models.iter().map(|pattern| pattern.0.clone()).collect(),
            request_limits: policy.request_limits.iter().copied().map(Into::into).collect(),
            spend_limits: policy.spend_limits.iter().copied().map(Into::into).collect(),
            requests_per_minute: policy.requests_per_minute,
            max_output_tokens: policy.max_output_tokens,
            expires_at_ms: policy.expires_at.map(Timestamp::millis),
            tokens_per_minute: policy.tokens_per_minute,
            concurrent_requests: policy.concurrent_requests,
            time_zone: policy.time_zone.as_ref().map(|zone| zone.as_str().to_owned()),
            max_staleness_seconds: policy.max_staleness_seconds,
            networks: policy.networks.as_slice().iter().map(ToString::to_string).collect(),
            endpoints: policy.endpoints.iter().map(|endpoint| proto::Endpoint::from(endpoint).into()).collect(),
            raises: policy.raises.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Policy> for Policy {
    type Error = ConvertError;
    fn try_from(policy: proto::Policy) -> Result<Self, ConvertError> {
        let zone = |name: String| ZoneName::new(&name).map_err(|error| ConvertError::new("time_zone", error));
        let decoded = Self {
            models: policy.models.into_iter().map(ModelPattern).collect(),
            request_limits: each(policy.request_limits, "request_limits")?,
            spend_limits: each(policy.spend_limits, "spend_limits")?,
            requests_per_minute: policy.requests_per_minute,
            max_output_tokens: policy.max_output_tokens,
            expires_at: policy.expires_at_ms.map(|millis| time(millis, "expires_at_ms")).transpose()?,
            tokens_per_minute: policy.tokens_per_minute,
            concurrent_requests: policy.concurrent_requests,
            time_zone: policy.time_zone.map(zone).transpose()?,
            max_staleness_seconds: policy.max_staleness_seconds,
            networks: networks(&policy.networks)?,
            endpoints: endpoints(&policy.endpoints)?,
            raises: raises(policy.raises)?.into(),
        };
        ConvertError::unless_valid(decoded.problems())?;
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn every_valid_policy_survives_the_wire(policy in samples::policy()) {
            prop_assert_eq!(Policy::try_from(proto::Policy::from(&policy)), Ok(policy));
        }
    }

    #[test]
    fn unspecified_and_unknown_windows_are_refused_by_path() {
        for (number, problem) in [(0, "unspecified"), (9, "no window has the number 9")] {
            let limit = |window| proto::SpendLimit { nano_usd: 1, window };
            let policy = proto::Policy { spend_limits: vec![limit(1), limit(number)], ..Default::default() };
            let error = Policy::try_from(policy).unwrap_err();
            assert_eq!((error.field.as_str(), error.problem.as_str()), ("spend_limits[1].window", problem));
        }
    }

    #[test]
    fn a_time_zone_that_does_not_exist_is_refused_by_name() {
        for wrong in ["", "Mars/Olympus", "Europe", "+02:00"] {
            let policy = proto::Policy { time_zone: Some(wrong.to_owned()), ..Default::default() };
            assert_eq!(Policy::try_from(policy).unwrap_err().field, "time_zone", "{wrong}");
        }
    }

    #[test]
    fn a_network_and_an_endpoint_that_are_none_are_refused_by_their_places() {
        let policy = proto::Policy { networks: vec!["::1".to_owned(), "10.0.0.0/40".to_owned()], ..Default::default() };
        assert_eq!(Policy::try_from(policy).unwrap_err().field, "networks[1]");
        for (number, problem) in [(0, "unspecified"), (99, "no endpoint has the number 99")] {
            let policy = proto::Policy { endpoints: vec![1, number], ..Default::default() };
            let error = Policy::try_from(policy).unwrap_err();
            assert_eq!((error.field.as_str(), error.problem.as_str()), ("endpoints[1]", problem));
        }
    }

    #[test]
    fn policy_that_the_domain_refuses_is_refused_with_all_its_problems() {
        let policy =
            proto::Policy { models: vec!["has space".to_owned()], requests_per_minute: Some(0), ..Default::default() };
        let text = Policy::try_from(policy).unwrap_err().within("policy").to_string();
        assert!(text.starts_with("policy.models: ") && text.contains("; policy.requests_per_minute: "), "{text}");
    }
}
