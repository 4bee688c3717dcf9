//! Why an attempt failed, in terms that decide what to do next: whose fault, whether another credential may help, when this
//! one may be used again, and whether the provider may have billed the attempt.

use std::time::Duration;

use keyforge_shared::usage::Usage;

/// Whose fault, and what it means for the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The credential's rate is used up for a moment. Another one may serve.
    Throttled,
    /// The provider has no capacity, for anybody. Back off.
    Overloaded,
    /// The credential's account may not spend more: a budget, a balance, a plan. Waiting a moment does not help.
    Closed,
    /// The credential is refused as such: wrong, revoked, without the right.
    Dead,
    /// The request is at fault; no credential would help.
    ClientError,
    /// The credential's account has no such model, or nobody has. Another one may serve.
    NoModel,
    /// The provider failed.
    ServerError,
    /// The model ended without an answer that anybody could use. The same request may get one.
    NoAnswer,
    /// Nobody knows whether the request was served.
    Ambiguous,
}

/// Whether the provider may charge for the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billed {
    /// Refused before any token was made.
    No,
    /// Tokens may have been made: the attempt stays charged at its bound.
    Unknown,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault.
    pub kind: FaultKind,
    /// The HTTP status; inside a stream the one that the error names, if any.
    pub status: Option<u16>,
    /// The provider's code, e.g. `model_not_found`: letters, digits and `_.:-` only.
    pub code: Option<String>,
    /// The provider's error type, e.g. `invalid_request_error`: the same letters only.
    pub error_type: Option<String>,
    /// The field of the request that the provider finds fault with.
    pub param: Option<String>,
    /// Safe for the client: keys, account ids and long tokens are taken out, and nothing of a body is repeated that is not
    /// an error of the provider's own form.
    pub message: String,
    /// How long the provider asks to wait; never zero.
    pub retry_after: Option<Duration>,
    /// Whether the error came after a status of success.
    pub in_answer: bool,
    /// What the attempt took, where the provider says so for all that it failed.
    pub usage: Option<Box<Usage>>,
}

impl Fault {
    /// Whether the attempt may be charged, given that the whole request was sent. A refusal by a 4xx status or 529 comes
    /// before any token; a request that timed out, or an error after a status of success, may come after some.
    #[must_use]
    pub fn billed(&self) -> Billed {
        match self.status {
            Some(408 | 499) => Billed::Unknown,
            Some(400..=498 | 529) if !self.in_answer => Billed::No,
            _ => Billed::Unknown,
        }
    }
}
