//! Reads a failure of an OpenAI-compatible host: the status, the headers and the several forms in which hosts write errors.
//!
//! Seen in recordings: an `error` object, an `error` string beside a `code`, a flat error, a `detail`, codes that are
//! integers, and bodies that are HTML, plain text or empty, of which nothing is repeated.

use http::HeaderMap;
use keyforge_shared::clock::Timestamp;
use serde_json::Value;

use super::retry;
use crate::fault::{Fault, FaultKind};
use crate::redact;

/// Longest body that is read for an error; a longer one is none.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest code, type or param.
const MAX_LABEL_BYTES: usize = 128;
/// Parts of codes and types that mean: this account may not spend more.
const CLOSED: [&str; 6] = [
    "insufficient_quota",
    "billing",
    "spend_limit",
    "insufficient_balance",
    "insufficient_credit",
    "insufficient_funds",
];
/// Parts of codes and types that mean: this credential may not do this at all.
const DEAD: [&str; 7] =
    ["api_key", "authentication", "unauthorized", "permission", "account", "access_terminated", "deactivated"];
/// The same of a 403: it may do this with other models. Neither depends on what a request says.
const DENIED: [&str; 2] = ["model_not_found", "missing_scope"];

/// Parts of codes and types that mean: this account has no such model, as at OpenAI, Together, Mistral and Azure.
const NO_MODEL: [&str; 4] = ["model_not_found", "model_not_available", "invalid_model", "deploymentnotfound"];

/// Reads a response whose status is not a success.
#[must_use]
pub fn read(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Fault {
    let said = Said::in_body(body);
    let kind = classify(status, &said);
    let asks_to_wait = matches!(kind, FaultKind::Throttled | FaultKind::Overloaded | FaultKind::ServerError);
    let retry_after =
        if asks_to_wait { retry::after(headers, said.message.as_deref().unwrap_or_default(), now) } else { None };
    let message = match (&said.message, kind) {
        // What the provider says of the credential is for nobody but the operator, and the code tells it.
        (_, FaultKind::Dead) => "the provider refused the gateway's credential".to_owned(),
        (Some(message), _) => redact::message(message),
        (None, _) => format!("the provider answered with status {status}"),
    };
    let Said { code, error_type, param, .. } = said;
    Fault { kind, status: Some(status), code, error_type, param, message, retry_after, in_answer: false, usage: None }
}

/// Reads an error that came as an event of a stream which had begun with a status of success.
#[must_use]
pub fn in_stream(data: &str) -> Fault {
    after_success(data, "the provider reported an error inside the stream")
}

/// Reads an error that came instead of an answer, under a status of success.
pub(super) fn in_answer(body: &str) -> Fault {
    after_success(body, "the provider reported an error instead of an answer")
}

fn after_success(text: &str, otherwise: &str) -> Fault {
    let said = Said::in_body(text.as_bytes());
    let kind = said.status.map_or_else(|| classify_by_name(&said), |status| classify(status, &said));
    let message = match (&said.message, kind) {
        (_, FaultKind::Dead) => "the provider refused the gateway's credential".to_owned(),
        (Some(message), _) => redact::message(message),
        (None, _) => otherwise.to_owned(),
    };
    let Said { code, error_type, param, status, .. } = said;
    Fault { kind, status, code, error_type, param, message, retry_after: None, in_answer: true, usage: None }
}

/// What an error body says.
#[derive(Default)]
struct Said {
    message: Option<String>,
    code: Option<String>,
    error_type: Option<String>,
    param: Option<String>,
    /// A status inside the body, as some hosts write into streams.
    status: Option<u16>,
}

impl Said {
    fn in_body(body: &[u8]) -> Self {
        if body.len() > MAX_BODY_BYTES {
            return Self::default();
        }
        let outer = match serde_json::from_slice(body) {
            Ok(Value::Object(outer)) => outer,
            // Google's host of this API puts the object into a list.
            Ok(Value::Array(list)) => match list.into_iter().next() {
                Some(Value::Object(outer)) => outer,
                _ => return Self::default(),
            },
            _ => return Self::default(),
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let inner = match outer.get("error") {
            Some(Value::Object(inner)) => inner,
            _ => &outer,
        };
        let message = [inner.get("message"), outer.get("error"), outer.get("detail"), inner.get("details")];
        let message = message.into_iter().flatten().find_map(said);
        let status = [inner.get("status_code"), inner.get("code")].into_iter().flatten().find_map(Value::as_u64);
        Self {
            message,
            code: label(inner.get("code")).or_else(|| label(outer.get("code"))),
            error_type: label(inner.get("type")),
            param: text(inner.get("param"))
                .filter(|param| param.len() <= MAX_LABEL_BYTES)
                .map(|param| redact::message(&param)),
            status: status.and_then(|status| u16::try_from(status).ok()).filter(|status| (400..=599).contains(status)),
        }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        [&self.code, &self.error_type].into_iter().flatten().map(|name| name.to_ascii_lowercase())
    }

    fn mentions(&self, words: &[&str]) -> bool {
        self.names().any(|name| words.iter().any(|word| name.contains(word)))
    }

    /// One request that is larger than the whole allowance of a minute: no wait and no other attempt on the key helps, and
    /// the key is as good as before.
    fn is_too_large(&self) -> bool {
        self.message.as_deref().is_some_and(|message| message.starts_with("Request too large"))
    }
}

/// The words of a message: a text; the first of a list; or what a validator found, with the field that it stumbled over.
fn said(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        // One level of each is all that has been seen.
        Value::Array(list) => list.first().and_then(found),
        Value::Object(object) => match object.get("detail") {
            Some(Value::Array(list)) => list.first().and_then(found),
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn found(value: &Value) -> Option<String> {
    if let Value::String(text) = value {
        return Some(text.clone()).filter(|text| !text.trim().is_empty());
    }
    let words = [value.get("msg"), value.get("message")].into_iter().flatten().find_map(Value::as_str)?;
    let path = value.get("loc").and_then(Value::as_array).into_iter().flatten();
    let path: Vec<_> = path.map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned)).collect();
    Some(if path.is_empty() { words.to_owned() } else { format!("{}: {words}", path.join(".")) })
}

/// A code or type: a short string of letters that are harmless anywhere, or an integer.
fn label(value: Option<&Value>) -> Option<String> {
    let label = match value? {
        Value::String(label) => label.clone(),
        Value::Number(number) if number.is_u64() => number.to_string(),
        _ => return None,
    };
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    let sound = !label.is_empty() && label.len() <= MAX_LABEL_BYTES && label.bytes().all(harmless);
    (sound && redact::message(&label) == label).then_some(label)
}

fn classify(status: u16, said: &Said) -> FaultKind {
    match status {
        402 => FaultKind::Closed,
        400..=499 if said.mentions(&CLOSED) => FaultKind::Closed,
        401 => FaultKind::Dead,
        403 if said.message.is_none() => FaultKind::ServerError,
        403 if said.param.is_none() && (said.mentions(&DEAD) || said.mentions(&DENIED)) => FaultKind::Dead,
        // Some hosts report a wrong key as a bad request.
        400 if said.names().any(|name| name == "invalid_api_key" || name == "api_key_invalid") => FaultKind::Dead,
        408 | 499 | 504 | 522..=524 => FaultKind::Ambiguous,
        429 if said.is_too_large() => FaultKind::ClientError,
        429 => FaultKind::Throttled,
        498 | 503 | 529 => FaultKind::Overloaded,
        400 | 404 if said.mentions(&NO_MODEL) => FaultKind::NoModel,
        400..=497 => FaultKind::ClientError,
        _ if said.mentions(&["overloaded"]) => FaultKind::Overloaded,
        _ => FaultKind::ServerError,
    }
}

/// Without a status, the code and type must tell.
fn classify_by_name(said: &Said) -> FaultKind {
    if said.mentions(&CLOSED) {
        FaultKind::Closed
    } else if said.mentions(&["rate_limit"]) {
        FaultKind::Throttled
    } else if said.mentions(&["overloaded"]) {
        FaultKind::Overloaded
    } else if said.mentions(&["server_error", "internal"]) {
        FaultKind::ServerError
    } else if said.mentions(&["invalid_request", "context_length", "content_filter", "tool_use_failed"]) {
        FaultKind::ClientError
    } else {
        FaultKind::Ambiguous
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
