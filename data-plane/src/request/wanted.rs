//! What a request asks for, whichever of the endpoints it came to: the one place that tells them apart.

use bytes::Bytes;
use keyforge_providers::exchange::{self, Destination, Exchange, Outgoing, Stamp};
use keyforge_providers::openai::embeddings::{self, EmbeddingsRequest};
use keyforge_providers::openai::request::{self, ChatRequest};
use keyforge_providers::refusal::RequestError;
use keyforge_shared::endpoint;

/// An endpoint that requests with a body come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/embeddings`.
    Embeddings,
}

impl Endpoint {
    /// What policies call it.
    #[must_use]
    pub const fn named(self) -> endpoint::Endpoint {
        match self {
            Self::ChatCompletions => endpoint::Endpoint::Chat,
            Self::Embeddings => endpoint::Endpoint::Embeddings,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn path(self) -> &'static str {
        self.named().path()
    }
}

/// What a request asks for.
pub enum Wanted {
    /// A chat completion.
    Chat(Box<ChatRequest>),
    /// Vectors of texts.
    Embeddings(Box<EmbeddingsRequest>),
}

impl Wanted {
    /// Reads a body that came to `endpoint`.
    ///
    /// # Errors
    /// [`RequestError`] that says what is wrong with it.
    pub fn read(endpoint: Endpoint, body: &[u8]) -> Result<Self, RequestError> {
        match endpoint {
            Endpoint::ChatCompletions => request::scan(body).map(|request| Self::Chat(Box::new(request))),
            Endpoint::Embeddings => embeddings::scan(body).map(|request| Self::Embeddings(Box::new(request))),
        }
    }

    /// The model's name as the client wrote it.
    #[must_use]
    pub fn model(&self) -> &str {
        match self {
            Self::Chat(request) => &request.model,
            Self::Embeddings(request) => &request.model,
        }
    }

    /// Whether the answer is to be an event stream.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        match self {
            Self::Chat(request) => request.stream,
            Self::Embeddings(_) => false,
        }
    }

    /// The endpoint that it came to.
    #[must_use]
    pub const fn endpoint(&self) -> Endpoint {
        match self {
            Self::Chat(_) => Endpoint::ChatCompletions,
            Self::Embeddings(_) => Endpoint::Embeddings,
        }
    }

    /// The request as its provider wants it, and how its answer is read.
    ///
    /// # Errors
    /// [`RequestError`] naming what the provider has nothing for.
    pub fn prepare(
        &self,
        body: Bytes,
        destination: &Destination<'_>,
        stamp: Stamp,
    ) -> Result<(Outgoing, Exchange), RequestError> {
        match self {
            Self::Chat(request) => exchange::chat(request, body, destination, stamp),
            Self::Embeddings(request) => exchange::embeddings(request, body, destination, stamp),
        }
    }
}
