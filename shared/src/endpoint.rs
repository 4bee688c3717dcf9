//! What agents can call, by the words that policies use for it, and sets of that.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::catalog::Operation;

/// Something that agents can call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Chat completions.
    Chat,
    /// Embeddings.
    Embeddings,
    /// The list of models, and single models.
    Models,
}

/// A text is no endpoint.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an endpoint: there are chat, embeddings and models")]
pub struct EndpointError;

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Embeddings, Self::Models];

    /// The word used in the store, the API, errors and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
        }
    }

    /// Where nodes serve it.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Models => "/v1/models",
        }
    }

    /// What a model must be called through to be called here; `None` where no model is called.
    #[must_use]
    pub const fn operation(self) -> Option<Operation> {
        match self {
            Self::Chat => Some(Operation::Chat),
            Self::Embeddings => Some(Operation::Embedding),
            Self::Models => None,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(word: &str) -> Result<Self, EndpointError> {
        Self::ALL.into_iter().find(|endpoint| endpoint.as_str() == word).ok_or(EndpointError)
    }
}

/// A set of endpoints, as a policy allows them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Endpoint>", into = "Vec<Endpoint>")]
pub struct Endpoints(u8);

impl Endpoints {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `endpoint` is one of them.
    #[must_use]
    pub const fn contain(self, endpoint: Endpoint) -> bool {
        self.0 & endpoint.bit() != 0
    }

    /// Each of them, always in the same order.
    pub fn iter(self) -> impl Iterator<Item = Endpoint> {
        Endpoint::ALL.into_iter().filter(move |endpoint| self.contain(*endpoint))
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<T: IntoIterator<Item = Endpoint>>(endpoints: T) -> Self {
        Self(endpoints.into_iter().fold(0, |set, endpoint| set | endpoint.bit()))
    }
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        endpoints.into_iter().collect()
    }
}

impl From<Endpoints> for Vec<Endpoint> {
    fn from(endpoints: Endpoints) -> Self {
        endpoints.iter().collect()
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_a_word_and_a_place_of_its_own() {
        for endpoint in Endpoint::ALL {
            assert_eq!(endpoint.as_str().parse(), Ok(endpoint));
            let only: Endpoints = [endpoint, endpoint].into_iter().collect();
            assert_eq!(only.iter().collect::<Vec<_>>(), [endpoint]);
            assert_eq!(serde_json::to_string(&only).unwrap(), format!("[\"{endpoint}\"]"));
        }
        assert_eq!("chats".parse::<Endpoint>(), Err(EndpointError));
        assert!(serde_json::from_str::<Endpoints>(r#"["chats"]"#).is_err());
    }
}
