//! The one closed list of refusals: each with its HTTP status, its stable code, its headers and its words.
//!
//! Whatever goes wrong with a request ends up here, in the client's dialect. Texts name what to do and never repeat a secret, a provider's raw
//! answer or the client's body.

mod denial;
mod limits;

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use keyforge_providers::dialect::{Dialect, ErrorBody};
use keyforge_providers::redact;
use keyforge_shared::admission::Denial;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::endpoint::Endpoint;

pub use keyforge_shared::exhausted::Exhausted;

pub use self::limits::RateLimit;
use crate::rate_headers::RateHeaders;

/// Tells SDKs that trying again can or cannot help.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const X_KEYFORGE_ERROR: HeaderName = HeaderName::from_static("x-keyforge-error");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// When to ask again for what was granted elsewhere and is not settled.
const SETTLING: Duration = Duration::from_secs(2);

/// Why a request is not served, or not served to its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// No key in any of the headers that may carry one.
    KeyMissing,
    /// Different keys in different headers.
    KeysConflict,
    /// A key that does not start with `vk_`.
    KeyForeign,
    /// Cut short, mistyped, or not known: indistinguishable on purpose.
    KeyUnknown,
    /// The key was revoked.
    KeyRevoked,
    /// The key's time is over.
    KeyExpired(Timestamp),
    /// The key was rotated, and the token that was sent worked until then; `None`: until the rotation.
    TokenReplaced(Option<Timestamp>),
    /// The key is switched off.
    KeyPaused,
    /// The policy does not allow the address that the request comes from.
    AddressNotAllowed,
    /// The policy does not allow the endpoint.
    EndpointNotAllowed(Endpoint),
    /// The policy does not allow the model.
    ModelNotAllowed(String),
    /// The catalogue does not have the model.
    ModelUnknown(String),
    /// The model is served by something that this version does not speak to.
    ModelNotServed(String),
    /// The key has a spend limit and the model has no price.
    ModelNotPriced(String),
    /// The key has a spend limit and this field could cost any amount.
    CostUnbounded(Cow<'static, str>),
    /// No such path. The hint says what there is instead.
    PathUnknown(&'static str),
    /// The path exists, the method is wrong. Names the right one.
    MethodNotAllowed(&'static str),
    /// The body says something that cannot be served.
    BodyInvalid {
        /// The field at fault.
        field: Option<String>,
        /// What is wrong with it.
        message: String,
    },
    /// The body has more bytes than allowed.
    BodyTooLarge(u64),
    /// The body did not arrive in time.
    BodyTimeout(Duration),
    /// A limit of requests or money is used up.
    Exhausted(Box<Exhausted>),
    /// A limit is used up, counting what others hold; once they have settled it may not be.
    Settling(Box<Exhausted>),
    /// The key goes too fast.
    RateLimited(Box<RateLimit>),
    /// The request alone is more than the key's tokens per minute.
    TooManyTokens {
        /// What it can take at most, in tokens; `None` when nothing bounds that.
        needed: Option<u64>,
        /// The policy's limit, in tokens.
        limit: u64,
        /// What is left of the key's rates, if the counter store was asked.
        rate_headers: RateHeaders,
    },
    /// No credential can serve the request for a while: limited, or behind a host that is overloaded or out of reach.
    PoolExhausted {
        /// When one can serve it.
        retry_after: Duration,
    },
    /// The provider ended an answer before its end, for a limit of the credential's.
    CutShort {
        /// When the same request can be served.
        retry_after: Duration,
    },
    /// Limits cannot be enforced right now, so nothing is admitted.
    EnforcementUnavailable,
    /// The node has not heard from the control plane for longer than it may serve the key without.
    StateStale,
    /// Requests cannot be recorded right now, so nothing is admitted.
    AuditUnavailable,
    /// The node has no room for another body.
    NodeBusy,
    /// The node has no state yet, or is going away.
    NotReady(&'static str),
    /// No credential of the model's provider can be used.
    NoCredential(String),
    /// The provider could not be reached; nothing was sent.
    UpstreamUnreachable,
    /// The provider did not answer in time.
    UpstreamTimeout,
    /// The provider's answer broke off or cannot be read.
    UpstreamBroken,
    /// The provider failed.
    UpstreamFailed(u16),
    /// The model ended without an answer that can be used, for a reason of its provider's.
    NoAnswer(Option<String>),
    /// The provider refused the request for what it says.
    UpstreamRefused {
        /// The provider's status.
        status: u16,
        /// The provider's code.
        code: Option<String>,
        /// The field that the provider names.
        param: Option<String>,
        /// The provider's words, without anything that looks like a key.
        message: String,
    },
    /// Our own fault.
    Internal,
}

/// The status, type and code of a rejection: what programs decide by.
struct Shape {
    status: u16,
    kind: &'static str,
    code: &'static str,
    retry: Retry,
}

enum Retry {
    /// Trying again cannot help.
    Never,
    /// Trying again may help after a while.
    After(Duration),
    /// The client's own rules decide.
    Unsaid,
}

impl Rejection {
    fn shape(&self) -> Shape {
        let shape = |status, kind, code, retry| Shape { status, kind, code, retry };
        let soon = Retry::After(Duration::from_secs(1));
        match self {
            Self::KeyMissing
            | Self::KeysConflict
            | Self::KeyForeign
            | Self::KeyUnknown
            | Self::KeyRevoked
            | Self::KeyExpired(_)
            | Self::TokenReplaced(_)
            | Self::KeyPaused => shape(401, "invalid_request_error", "invalid_api_key", Retry::Never),
            Self::AddressNotAllowed => shape(403, "permission_error", "address_not_allowed", Retry::Never),
            Self::EndpointNotAllowed(_) => shape(403, "permission_error", "endpoint_not_allowed", Retry::Never),
            Self::ModelNotAllowed(_) => shape(403, "permission_error", "model_not_allowed", Retry::Never),
            Self::ModelUnknown(_) => shape(404, "invalid_request_error", "model_not_found", Retry::Never),
            Self::ModelNotServed(_) => shape(400, "invalid_request_error", "model_not_served", Retry::Never),
            Self::ModelNotPriced(_) => shape(403, "permission_error", "model_not_priced", Retry::Never),
            Self::CostUnbounded(_) => shape(400, "invalid_request_error", "cost_unbounded", Retry::Never),
            Self::PathUnknown(_) => shape(404, "invalid_request_error", "unknown_path", Retry::Never),
            Self::MethodNotAllowed(_) => shape(405, "invalid_request_error", "method_not_allowed", Retry::Never),
            Self::BodyInvalid { .. } => shape(400, "invalid_request_error", "invalid_request", Retry::Never),
            Self::BodyTooLarge(_) => shape(413, "invalid_request_error", "request_too_large", Retry::Never),
            Self::BodyTimeout(_) => shape(408, "invalid_request_error", "request_timeout", Retry::Unsaid),
            Self::Exhausted(_) => shape(402, "insufficient_quota", "budget_exceeded", Retry::Never),
            Self::Settling(_) => shape(429, "rate_limit_error", "limit_settling", Retry::After(SETTLING)),
            Self::RateLimited(limited) => {
                shape(429, "rate_limit_error", "rate_limit_exceeded", Retry::After(limited.retry_after))
            }
            Self::PoolExhausted { retry_after } | Self::CutShort { retry_after } => {
                shape(429, "rate_limit_error", "rate_limit_exceeded", Retry::After(*retry_after))
            }
            Self::TooManyTokens { .. } => shape(429, "rate_limit_error", "rate_limit_exceeded", Retry::Never),
            Self::EnforcementUnavailable => shape(503, "server_error", "enforcement_unavailable", soon),
            Self::StateStale => shape(503, "server_error", "state_stale", soon),
            Self::AuditUnavailable => shape(503, "server_error", "audit_unavailable", soon),
            Self::NodeBusy => shape(503, "server_error", "node_busy", soon),
            Self::NotReady(_) => shape(503, "server_error", "not_ready", soon),
            Self::NoCredential(_) => shape(502, "server_error", "upstream_credentials_exhausted", Retry::Never),
            Self::UpstreamUnreachable => shape(502, "server_error", "upstream_unreachable", Retry::Unsaid),
            Self::UpstreamTimeout => shape(504, "server_error", "upstream_timeout", Retry::Unsaid),
            Self::UpstreamBroken => shape(502, "server_error", "upstream_broken", Retry::Unsaid),
            Self::UpstreamFailed(_) | Self::NoAnswer(_) => shape(502, "server_error", "upstream_error", Retry::Unsaid),
            // One request that is larger than a whole minute's allowance: no waiting helps it.
            Self::UpstreamRefused { status: 429, .. } => {
                shape(429, "rate_limit_error", "upstream_refused", Retry::Never)
            }
            Self::UpstreamRefused { status, .. } => {
                shape(*status, "invalid_request_error", "upstream_refused", Retry::Never)
            }
            Self::Internal => shape(500, "server_error", "internal_error", Retry::Unsaid),
        }
    }

    /// The stable word for it in entries, logs and metrics. Bodies call every dead key `invalid_api_key`, as clients expect.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyRevoked => "key_revoked",
            Self::KeyExpired(_) => "key_expired",
            Self::KeyPaused => "key_paused",
            Self::TokenReplaced(_) => "token_replaced",
            Self::PoolExhausted { .. } => "pool_exhausted",
            Self::CutShort { .. } => "upstream_cut_short",
            other => other.shape().code,
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.shape().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What a person should know and do.
    fn message(&self) -> Cow<'_, str> {
        match self {
            Self::KeyMissing => {
                "No API key: send your virtual key (vk_…) as `Authorization: Bearer`, `x-api-key`, `api-key` or `x-goog-api-key`.".into()
            }
            Self::KeysConflict => "Different API keys were sent in different headers: send one virtual key.".into(),
            Self::KeyForeign => {
                "This is not a virtual key. KeyForge takes keys that start with vk_; provider keys stay in its vault.".into()
            }
            Self::KeyUnknown => "Unknown virtual key: it was mistyped, cut short, or never existed.".into(),
            Self::KeyRevoked => Denial::KeyRevoked.message(),
            Self::KeyExpired(at) => Denial::KeyExpired(*at).message(),
            Self::KeyPaused => Denial::KeyPaused.message(),
            Self::TokenReplaced(until) => Denial::TokenReplaced(*until).message(),
            Self::AddressNotAllowed => Denial::AddressNotAllowed.message(),
            Self::EndpointNotAllowed(endpoint) => Denial::EndpointNotAllowed(*endpoint).message(),
            Self::ModelNotAllowed(model) => Denial::ModelNotAllowed(model.clone()).message(),
            Self::ModelUnknown(model) => Denial::ModelUnknown(model.clone()).message(),
            Self::ModelNotServed(model) => Denial::ModelNotServed(model.clone()).message(),
            Self::ModelNotPriced(model) => Denial::ModelNotPriced(model.clone()).message(),
            Self::CostUnbounded(field) => {
                format!("`{field}` could cost any amount, so it cannot be used with a key that has a spend limit.").into()
            }
            Self::MethodNotAllowed(method) => format!("This path takes {method} only.").into(),
            Self::BodyTooLarge(limit) => format!("The request body is larger than the {limit} bytes allowed.").into(),
            Self::BodyTimeout(limit) => {
                format!("The request body did not arrive within {} s.", limit.as_secs()).into()
            }
            Self::Exhausted(exhausted) => exhausted.message().into(),
            Self::Settling(exhausted) => format!(
                "{} Some of it is held by requests that run, or was granted elsewhere, and may come back; try again in {}.",
                exhausted.message(),
                tenths(SETTLING)
            )
            .into(),
            Self::RateLimited(limited) => limited.message().into(),
            Self::TooManyTokens { needed, limit, .. } => too_many_tokens(*needed, *limit).into(),
            Self::PoolExhausted { retry_after } => {
                let wait = tenths(*retry_after);
                format!("No credential can serve this model right now: the provider limits their rate, is overloaded or out of reach. Please try again in {wait}.").into()
            }
            Self::CutShort { retry_after } => format!(
                "The provider broke this answer off at a limit of the credential that it came with. Please try again in {}.",
                tenths(*retry_after)
            )
            .into(),
            Self::EnforcementUnavailable => {
                "Limits cannot be checked right now, so nothing is admitted on this key. Try again shortly.".into()
            }
            Self::StateStale => {
                "This node has lost the control plane and cannot know whether the key still works. Try again shortly, or at another node.".into()
            }
            Self::AuditUnavailable => {
                "Requests cannot be recorded right now, so nothing is admitted. Try again shortly.".into()
            }
            Self::NodeBusy => "This node has no room for another request body right now. Try again shortly.".into(),
            Self::NotReady(words) | Self::PathUnknown(words) => (*words).into(),
            Self::NoCredential(provider) => Denial::NoCredential(provider.clone()).message(),
            Self::UpstreamUnreachable => "The provider cannot be reached. Nothing was sent, nothing was charged.".into(),
            Self::UpstreamTimeout => "The provider did not answer in time.".into(),
            Self::UpstreamBroken => "The provider's answer broke off or could not be read.".into(),
            Self::UpstreamFailed(200..300) => "The provider reported a failure.".into(),
            Self::UpstreamFailed(status) => format!("The provider failed with status {status}.").into(),
            Self::NoAnswer(reason) => {
                let named = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                format!("The model ended without an answer that can be used{named}. Sent again, the request may get one.").into()
            }
            Self::UpstreamRefused { message, .. } | Self::BodyInvalid { message, .. } => message.into(),
            Self::Internal => "KeyForge failed to serve this request; its log says why.".into(),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::BodyInvalid { field, .. } => field.as_deref(),
            Self::UpstreamRefused { param, .. } => param.as_deref(),
            Self::CostUnbounded(field) => field.split(':').next(),
            Self::ModelNotAllowed(_) | Self::ModelUnknown(_) | Self::ModelNotServed(_) | Self::ModelNotPriced(_) => {
                Some("model")
            }
            _ => None,
        }
    }

    fn with_body<T>(&self, render: impl FnOnce(&ErrorBody<'_>) -> T) -> T {
        let shape = self.shape();
        let code = match self {
            Self::UpstreamRefused { code, .. } => code.as_deref().unwrap_or_default(),
            _ => shape.code,
        };
        let extra = match self {
            Self::Exhausted(exhausted) | Self::Settling(exhausted) => limits::members(exhausted),
            _ => Vec::new(),
        };
        // What is wrong with a body is told with a few of its words, and somebody may have written a key there.
        let said = match self {
            Self::BodyInvalid { .. } | Self::CostUnbounded(_) => Cow::Owned(redact::message(&self.message())),
            _ => self.message(),
        };
        let param = self.param().map(redact::message);
        render(&ErrorBody { message: &said, kind: shape.kind, code, param: param.as_deref(), extra: &extra })
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self, dialect: Dialect) -> bytes::Bytes {
        self.with_body(|body| dialect.error_body(body))
    }

    /// The event that ends a stream which has begun.
    #[must_use]
    pub fn stream_event(&self, dialect: Dialect) -> bytes::Bytes {
        self.with_body(|body| dialect.stream_error(body))
    }

    /// Writes the headers that tell an SDK whether and when to try again.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        match self.shape().retry {
            Retry::Unsaid => {}
            Retry::Never => {
                headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Retry::After(wait) => {
                let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000).max(1)));
                headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis.max(1)));
            }
        }
        match self {
            Self::MethodNotAllowed(method) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(method));
            }
            Self::RateLimited(limited) => limited.rate_headers.write(headers),
            // Its body says what agents know how to read; this says that the limit is not the key's.
            Self::PoolExhausted { .. } => {
                headers.insert(X_KEYFORGE_ERROR, HeaderValue::from_static("pool_exhausted"));
            }
            Self::TooManyTokens { rate_headers, .. } => rate_headers.write(headers),
            _ => {}
        }
    }
}

/// The wait that a client is told, in seconds with one decimal, rounded up: some read it out of the message.
fn tenths(wait: Duration) -> String {
    let tenths = wait.as_millis().div_ceil(100).max(1);
    format!("{}.{}s", tenths / 10, tenths % 10)
}

fn too_many_tokens(needed: Option<u64>, limit: u64) -> String {
    format!(
        "This request can take {}, more than this virtual key's tokens_per_minute of {limit}: \
         waiting does not help. Send less input, lower max_completion_tokens, or have the limit raised.",
        needed.map_or_else(|| "any number of tokens".to_owned(), |needed| format!("up to {needed} tokens"))
    )
}
