//! Reads a failure of Google's API: `{"error":{"code","message","status","details"}}`, sometimes as the only element of a list.
//!
//! Google says little by statuses: a wrong key is a 400, a spent day and a busy minute are both a 429 without `retry-after`. What
//! is meant stands in `details`, and at Vertex, which has none, in the message alone. Sources: google.rpc `error_details.proto` and
//! `code.proto`; Google, "Troubleshooting" and "Rate limits" of the Gemini API (2026-10); recordings.

use std::time::Duration;

use http::HeaderMap;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::period::{Calendar, Window, ZoneName};
use keyforge_shared::usage::Usage;
use serde_json::{Map, Value};

use super::account::without_projects;
use crate::fault::{Fault, FaultKind};
use crate::redact;

/// Longest body that is read for an error; a longer one is none.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest code, type or param.
const MAX_LABEL_BYTES: usize = 128;
/// Longer waits are cut to this: no quota of Google's is metered by more than a day, clocks set back an hour.
const LONGEST: Duration = Duration::from_secs(25 * 60 * 60);
/// The wait where none is told: Vertex shares its capacity out second by second.
const UNTOLD: Duration = Duration::from_secs(1);
/// Where Google's days begin ("Rate limits": daily quotas reset at midnight Pacific time).
const DAYS_OF: &str = "America/Los_Angeles";
/// What messages say where a balance is used up or a cap reached, in lower case.
const SPENT: [&str; 4] = ["credits are depleted", "spending cap", "spend cap", "billing account is closed"];
/// How messages about a key begin, in lower case, where no reason is given.
const KEY_REFUSED: [&str; 4] = ["api key not valid", "api key expired", "api_key_invalid", "your api key"];
/// How messages begin where the account may not use the API from here or without paying, in lower case.
const PLACE_REFUSED: [&str; 2] = ["user location is not supported", "gemini api free tier is not available"];

/// Reads a response whose status is not a success.
#[must_use]
pub fn read(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Fault {
    let said = Said::in_body(body);
    let kind = classify(status, &said);
    let retry_after = match kind {
        FaultKind::Closed if said.is_daily() => until_tomorrow(now),
        FaultKind::Throttled => said.wait().or_else(|| in_header(headers)).or(Some(UNTOLD)),
        FaultKind::Overloaded | FaultKind::ServerError | FaultKind::Closed => {
            said.wait().or_else(|| in_header(headers))
        }
        FaultKind::Dead | FaultKind::ClientError | FaultKind::NoModel | FaultKind::NoAnswer | FaultKind::Ambiguous => {
            None
        }
    };
    let otherwise = format!("the provider answered with status {status}");
    Fault { retry_after, ..said.fault(kind, Some(status), false, otherwise) }
}

/// Whether a body with a status of success is an error all the same.
pub(super) fn is_error(text: &str) -> bool {
    // A quick look first: the texts of answers are long.
    text.contains("\"error\"") && parse(text).is_some()
}

/// Reads an error that came under a status of success.
pub(super) fn in_answer(text: &str) -> Fault {
    let said = Said::in_body(text.as_bytes());
    let status = said.code.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..=599).contains(code));
    let kind = status.or_else(|| said.status_of_word()).map_or(FaultKind::Ambiguous, |status| classify(status, &said));
    said.fault(kind, status, true, "the provider reported an error instead of an answer".to_owned())
}

/// A stream that holds what is no answer.
pub(super) fn damaged() -> Fault {
    Said::default().fault(FaultKind::Ambiguous, None, true, "the provider's stream holds what is no answer".to_owned())
}

/// An answer that ended for a `reason` of Google's which leaves nothing to use, such as a call that cannot be read.
pub(super) fn no_answer(reason: &str, usage: Option<Usage>) -> Fault {
    let code = Some(reason.to_owned()).filter(|reason| is_label(reason));
    let named = code.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let message = format!("the model ended without an answer that can be used{named}");
    let said = Said { reason: code, ..Said::default() };
    Fault { usage: usage.map(Box::new), ..said.fault(FaultKind::NoAnswer, None, true, message) }
}

/// The error's members, if the text is an object or a list of one object that holds an error.
fn parse(text: &str) -> Option<Map<String, Value>> {
    let body = match serde_json::from_str(text).ok()? {
        Value::Array(mut list) if list.len() == 1 => list.pop()?,
        body => body,
    };
    match body {
        Value::Object(mut outer) => match outer.remove("error")? {
            Value::Object(error) => Some(error),
            _ => None,
        },
        _ => None,
    }
}

/// What an error body says.
#[derive(Default)]
struct Said {
    code: Option<u64>,
    message: Option<String>,
    /// In lower case, for what only the message tells.
    lower: String,
    status: Option<String>,
    reason: Option<String>,
    delay: Option<Duration>,
    quotas: Vec<String>,
}

impl Said {
    fn in_body(body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_BODY_BYTES);
        let Some(error) = text.and_then(parse) else { return Self::default() };
        let word = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let of = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let message = of("message").filter(|message| !message.trim().is_empty());
        let mut said = Self {
            code: error.get("code").and_then(Value::as_u64),
            lower: message.as_deref().unwrap_or_default().to_ascii_lowercase(),
            message,
            status: of("status").filter(|status| is_label(status)),
            ..Self::default()
        };
        // Which kind of detail it is shows in what is there: `ErrorInfo`, `RetryInfo`, `QuotaFailure`.
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            let list = |name: &str| detail.get(name).and_then(Value::as_array).into_iter().flatten();
            said.reason = said.reason.or_else(|| word(detail, "reason").filter(|reason| is_label(reason)));
            said.delay = said.delay.or_else(|| seconds(detail.get("retryDelay")?.as_str()?));
            said.quotas.extend(list("violations").filter_map(|violation| word(violation, "quotaId")));
        }
        said
    }

    fn mentions(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.lower.contains(word))
    }

    /// Whether the message begins so. Further on it may repeat the request, as in "Unsupported MIME type: …", and no client shall be able to
    /// make a credential look dead to others.
    fn begins(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.lower.starts_with(word))
    }

    fn is_daily(&self) -> bool {
        self.quotas.iter().any(|quota| quota.contains("PerDay"))
    }

    /// What the provider asks to wait: in its details, or else at the end of its message.
    fn wait(&self) -> Option<Duration> {
        let in_message = || {
            let (_, after) = self.lower.split_once("please retry in ")?;
            seconds(after.split_whitespace().next()?.trim_end_matches(['.', ',']))
        };
        self.delay.or_else(in_message)
    }

    /// The HTTP status that the canonical word stands for.
    fn status_of_word(&self) -> Option<u16> {
        Some(match self.status.as_deref()? {
            "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" => 400,
            "UNAUTHENTICATED" => 401,
            "PERMISSION_DENIED" => 403,
            "NOT_FOUND" => 404,
            "ABORTED" => 409,
            "RESOURCE_EXHAUSTED" => 429,
            "CANCELLED" => 499,
            "INTERNAL" | "UNKNOWN" | "DATA_LOSS" => 500,
            "UNAVAILABLE" => 503,
            "DEADLINE_EXCEEDED" => 504,
            _ => return None,
        })
    }

    fn fault(self, kind: FaultKind, status: Option<u16>, in_answer: bool, otherwise: String) -> Fault {
        let message = match (&self.message, kind) {
            // What the provider says of the credential is for nobody but the operator, and the code tells it.
            (_, FaultKind::Dead) => "the provider refused the gateway's credential".to_owned(),
            (Some(message), _) => redact::message(&without_projects(message)),
            (None, _) => otherwise,
        };
        // As clients of chat completions know it.
        let is_too_long =
            self.lower.contains("token count") && self.lower.contains("exceeds the maximum number of tokens");
        let code = match kind {
            FaultKind::NoModel => Some("model_not_found".to_owned()),
            FaultKind::ClientError if is_too_long => Some("context_length_exceeded".to_owned()),
            _ => self.reason,
        };
        // The field that Google may name is one of its own API, which the client did not write.
        Fault {
            kind,
            status,
            code,
            error_type: self.status,
            param: None,
            message,
            retry_after: None,
            in_answer,
            usage: None,
        }
    }
}

/// A short word of letters that are harmless anywhere.
fn is_label(word: &str) -> bool {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    !word.is_empty() && word.len() <= MAX_LABEL_BYTES && word.bytes().all(harmless) && redact::message(word) == word
}

fn classify(status: u16, said: &Said) -> FaultKind {
    let key_refused = said.reason.as_deref().is_some_and(|reason| reason.starts_with("API_KEY_"));
    match status {
        401 => FaultKind::Dead,
        400 | 403 if key_refused || said.begins(&KEY_REFUSED) => FaultKind::Dead,
        // The same account cannot serve from where this gateway is; another may, if it pays.
        400 if said.begins(&PLACE_REFUSED) => FaultKind::Dead,
        402 => FaultKind::Closed,
        403 => denied(said),
        408 | 499 | 504 | 522..=524 => FaultKind::Ambiguous,
        429 if said.is_daily() || said.mentions(&SPENT) => FaultKind::Closed,
        429 => FaultKind::Throttled,
        404 if said.mentions(&["model"]) => FaultKind::NoModel,
        400..=498 => FaultKind::ClientError,
        503 | 529 => FaultKind::Overloaded,
        _ => FaultKind::ServerError,
    }
}

/// Permission is denied to the credential, for a reason that Google then gives, or to the client's request for something that is not there or
/// another's.
fn denied(said: &Said) -> FaultKind {
    match &said.reason {
        _ if said.message.is_none() && said.status.is_none() => FaultKind::ServerError,
        None => FaultKind::ClientError,
        Some(_) => FaultKind::Dead,
    }
}

/// `48s`, `48.939935699s`; nothing for what is not positive.
fn seconds(text: &str) -> Option<Duration> {
    let count: f64 = text.strip_suffix('s')?.parse().ok()?;
    let is_number = text.starts_with(|c: char| c.is_ascii_digit());
    let wait = (is_number && count > 0.0).then(|| Duration::try_from_secs_f64(count).unwrap_or(LONGEST))?;
    (!wait.is_zero()).then_some(wait.min(LONGEST))
}

/// Vertex and proxies before it may send the header.
fn in_header(headers: &HeaderMap) -> Option<Duration> {
    let count: u64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    (count > 0).then(|| Duration::from_secs(count).min(LONGEST))
}

/// The time until Google's next day begins.
fn until_tomorrow(now: Timestamp) -> Option<Duration> {
    let calendar = Calendar::of(ZoneName::new(DAYS_OF).ok().as_ref());
    let wait = calendar.period(Window::Day, calendar.day_at(now)).end.since(now);
    (!wait.is_zero()).then_some(wait.min(LONGEST))
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
