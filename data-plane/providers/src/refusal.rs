//! Why a request is not sent, and why what came back under a status of success is no answer.

use crate::fault::Fault;

/// Why a body cannot be served. The message is meant for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The field at fault, if it is one field.
    pub field: Option<String>,
    /// What is wrong, repeating at most a few words of the body.
    pub message: String,
}

/// Why a body with a status of success is not an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAnswer {
    /// Not one JSON object in UTF-8, as when a proxy in between answers or the body was cut short.
    #[error("the provider's answer is not a JSON object")]
    Malformed,
    /// An object without a list of choices.
    #[error("the provider's answer holds no choices")]
    NoChoices,
    /// An object without a vector for each thing that was to be embedded.
    #[error("the provider's answer does not hold the embeddings that were asked for")]
    NoEmbeddings,
    /// An error under a status of success.
    #[error("{}", .0.message)]
    Refused(Box<Fault>),
}
