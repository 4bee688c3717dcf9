//! What a key may not do, as a rejection: with the same status, code and words as whoever explains the key gives.

use keyforge_shared::admission::Denial;

use super::Rejection;

impl From<Denial> for Rejection {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::KeyRevoked => Self::KeyRevoked,
            Denial::KeyPaused => Self::KeyPaused,
            Denial::TokenReplaced(until) => Self::TokenReplaced(until),
            Denial::KeyExpired(at) => Self::KeyExpired(at),
            Denial::AddressNotAllowed => Self::AddressNotAllowed,
            Denial::EndpointNotAllowed(endpoint) => Self::EndpointNotAllowed(endpoint),
            Denial::ModelNotAllowed(model) => Self::ModelNotAllowed(model),
            Denial::ModelUnknown(model) => Self::ModelUnknown(model),
            Denial::ModelNotServed(model) => Self::ModelNotServed(model),
            Denial::ModelNotPriced(model) => Self::ModelNotPriced(model),
            Denial::NoCredential(provider) => Self::NoCredential(provider),
            Denial::ModelElsewhere(..) => {
                Self::BodyInvalid { field: Some("model".to_owned()), message: denial.message().into_owned() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keyforge_providers::dialect::Dialect;
    use keyforge_shared::clock::Timestamp;
    use keyforge_shared::endpoint::Endpoint;

    use super::*;

    #[test]
    fn a_denial_is_explained_with_the_status_and_the_words_that_the_agent_gets() {
        let model = || "m".to_owned();
        let denials = [
            Denial::KeyRevoked,
            Denial::KeyPaused,
            Denial::TokenReplaced(None),
            Denial::TokenReplaced(Some(Timestamp::from_millis(0))),
            Denial::KeyExpired(Timestamp::from_millis(0)),
            Denial::AddressNotAllowed,
            Denial::EndpointNotAllowed(Endpoint::Models),
            Denial::ModelNotAllowed(model()),
            Denial::ModelUnknown(model()),
            Denial::ModelNotServed(model()),
            Denial::ModelNotPriced(model()),
            Denial::NoCredential("openai".to_owned()),
            Denial::ModelElsewhere(model(), Endpoint::Chat, Endpoint::Embeddings),
        ];
        for denial in denials {
            let rejection = Rejection::from(denial.clone());
            let body: serde_json::Value = serde_json::from_slice(&rejection.body(Dialect::ChatCompletions)).unwrap();
            let (error, status) = (&body["error"], rejection.status().as_u16());
            assert_eq!((status, &error["code"]), (denial.status(), &denial.code().into()), "{denial:?}");
            assert_eq!(error["message"], denial.message().as_ref(), "{denial:?}");
        }
    }
}
