//! Error bodies in OpenAI's form: `{"error":{"message","type","param","code"}}`, pretty-printed as they mostly are.

use bytes::Bytes;
use serde::Serialize;

/// One error as OpenAI would word it.
#[derive(Debug, Serialize)]
pub(crate) struct ApiError {
    #[serde(skip)]
    pub status: u16,
    pub message: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub param: Option<&'static str>,
    pub code: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ApiError,
}

impl ApiError {
    /// A request that makes no sense.
    pub(crate) fn invalid(message: impl Into<String>, param: Option<&'static str>, code: Option<&'static str>) -> Self {
        Self { status: 400, message: message.into(), kind: "invalid_request_error", param, code }
    }

    /// A model that does not exist.
    pub(crate) fn model_not_found(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Self { status: 404, code: Some("model_not_found"), ..Self::invalid(message, None, None) }
    }

    /// A path that is not served.
    pub(crate) fn unknown_url(method: &http::Method, path: &str) -> Self {
        let code = Some("unknown_url");
        Self { status: 404, code, ..Self::invalid(format!("Unknown request URL: {method} {path}."), None, None) }
    }

    /// A key that is not accepted. Repeats a masked form of it, as OpenAI does.
    pub(crate) fn invalid_key(key: &str) -> Self {
        if key.is_empty() {
            return Self { status: 401, ..Self::invalid("You didn't provide an API key.", None, None) };
        }
        let message = format!("Incorrect API key provided: {}.", masked(key));
        Self { status: 401, code: Some("invalid_api_key"), ..Self::invalid(message, None, None) }
    }

    /// A key over its request limit.
    pub(crate) fn rate_limited(model: &str, limit: u64, retry: &str) -> Self {
        let message =
            format!("Rate limit reached for {model} on requests: Limit {limit}. Please try again in {retry}.");
        Self { status: 429, message, kind: "requests", param: None, code: Some("rate_limit_exceeded") }
    }

    /// The error that goes with a status when a script names only the status.
    pub(crate) fn of_status(status: u16) -> Self {
        let (message, kind, code) = match status {
            401 => ("Incorrect API key provided.", "invalid_request_error", Some("invalid_api_key")),
            403 => ("Your project does not have access to this model.", "invalid_request_error", None),
            404 => ("The model does not exist.", "invalid_request_error", Some("model_not_found")),
            429 => ("Rate limit reached for requests.", "requests", Some("rate_limit_exceeded")),
            400..500 => ("The request is not valid.", "invalid_request_error", None),
            _ => ("The server had an error while processing your request.", "server_error", None),
        };
        Self { status, message: message.to_owned(), kind, param: None, code }
    }

    /// The error on one line, for an event.
    pub(crate) fn line(&self) -> Vec<u8> {
        serde_json::to_vec(&Envelope { error: self }).unwrap_or_default()
    }

    /// The error as a response body.
    pub(crate) fn body(&self) -> Bytes {
        serde_json::to_vec_pretty(&Envelope { error: self }).unwrap_or_default().into()
    }
}

/// The first and last four characters of a key, or stars alone when that would show half of it.
fn masked(key: &str) -> String {
    let count = key.chars().count();
    if count < 16 {
        return "*".repeat(count);
    }
    let head: String = key.chars().take(4).collect();
    let tail: String = key.chars().skip(count - 4).collect();
    format!("{head}{}{tail}", "*".repeat(count - 8))
}
