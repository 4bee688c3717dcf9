//! Reads a failure of Anthropic's API: what any host's says, and what is Anthropic's own.
//!
//! Sources: "Errors" and "Rate limits" of its API reference (2026), and recordings. An error may come as the first event of a stream
//! that began with a status of success.

use std::time::Duration;

use http::HeaderMap;
use keyforge_shared::clock::Timestamp;
use serde::Deserialize;

use super::headroom;
use crate::fault::{Fault, FaultKind};
use crate::openai;

/// Longest body that is read for an error.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What an error says that other hosts' do not.
#[derive(Default, Deserialize)]
struct Said {
    error: Option<Body>,
}

#[derive(Deserialize)]
struct Body {
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    error_code: Option<String>,
}

impl Said {
    fn in_body(body: &[u8]) -> Self {
        if body.len() > MAX_BODY_BYTES { Self::default() } else { serde_json::from_slice(body).unwrap_or_default() }
    }

    /// Whether the message begins so. Further on it may repeat the request, and no client shall be able to make a credential look spent to
    /// others.
    fn begins(&self, words: &str) -> bool {
        let message = self.error.as_ref().and_then(|error| error.message.as_deref()).unwrap_or_default();
        message.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words))
    }

    /// The account's own limit of what it may spend in a month.
    fn has_spent_its_limit(&self) -> bool {
        let details = self.error.as_ref().and_then(|error| error.details.as_ref());
        details.and_then(|details| details.error_code.as_deref()) == Some("enforced_spend_limit_reached")
            || self.begins("You have reached your specified API usage limits")
    }

    fn is_disabled(&self) -> bool {
        self.begins("This organization has been disabled")
    }

    fn is_out_of_credit(&self) -> bool {
        self.begins("Your credit balance is too low")
    }
}

/// Reads a response whose status is not a success.
#[must_use]
pub fn read(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Fault {
    let mut fault = openai::fault::read(status, headers, body, now);
    let said = Said::in_body(body);
    if said.has_spent_its_limit() {
        fault.kind = FaultKind::Closed;
        fault.retry_after = until_next_month(now);
    } else if (400..500).contains(&status) && said.is_out_of_credit() {
        fault.kind = FaultKind::Closed;
        fault.retry_after = None;
    } else if (400..500).contains(&status) && said.is_disabled() {
        refuse_credential(&mut fault);
    } else if status == 429 && fault.kind == FaultKind::Throttled {
        throttled(&mut fault, headers, now);
    } else if status == 404 && fault.error_type.as_deref() == Some("not_found_error") && said.begins("model:") {
        fault.kind = FaultKind::NoModel;
        fault.code = Some("model_not_found".to_owned());
    }
    name(&mut fault, &said);
    // A field of this API is none that the client wrote.
    fault.param = None;
    fault
}

/// What only the message tells apart, by the codes that clients of chat completions know.
fn name(fault: &mut Fault, said: &Said) {
    if fault.kind != FaultKind::ClientError || fault.code.is_some() {
        return;
    }
    let code = if said.begins("prompt is too long") || said.begins("input length and `max_tokens` exceed context limit")
    {
        "context_length_exceeded"
    } else if said.begins("Output blocked by content filtering policy") {
        "content_filter"
    } else {
        return;
    };
    fault.code = Some(code.to_owned());
}

/// What the provider says of the credential is for nobody but the operator.
fn refuse_credential(fault: &mut Fault) {
    fault.kind = FaultKind::Dead;
    fault.retry_after = None;
    fault.message = "the provider refused the gateway's credential".to_owned();
}

/// Without a wait and with the advice not to try again, the one request is larger than the allowance of a minute: the key is as good
/// as before, and no other attempt on it helps.
fn throttled(fault: &mut Fault, headers: &HeaderMap, now: Timestamp) {
    let advice = headers.get("x-should-retry").map(http::HeaderValue::as_bytes);
    if fault.retry_after.is_none() && advice == Some(b"false") {
        fault.kind = FaultKind::ClientError;
        fault.code = Some("rate_limit_exceeded".to_owned());
        return;
    }
    let used_up = headroom::read(headers, now).into_iter().filter(|window| window.remaining == 0);
    let wait = used_up.filter_map(|window| window.resets_at).max().map(|reset| reset.since(now));
    fault.retry_after = fault.retry_after.or(wait.filter(|wait| !wait.is_zero()));
}

fn until_next_month(now: Timestamp) -> Option<Duration> {
    let today = jiff::Timestamp::from_second(now.seconds()).ok()?.to_zoned(jiff::tz::TimeZone::UTC).date();
    let first = today.last_of_month().tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    let first = Timestamp::from_millis(first.timestamp().as_millisecond());
    Some(first.since(now)).filter(|wait| !wait.is_zero())
}

/// Reads an error that came as an event of a stream.
pub(super) fn in_stream(data: &str) -> Fault {
    after_success(data)
}

/// Reads an error that came instead of an answer, under a status of success.
pub(super) fn in_answer(body: &str) -> Fault {
    after_success(body)
}

fn after_success(text: &str) -> Fault {
    let mut fault = openai::fault::in_stream(text);
    fault.kind = match fault.error_type.as_deref() {
        Some("authentication_error" | "permission_error") => FaultKind::Dead,
        Some("billing_error") => FaultKind::Closed,
        Some("rate_limit_error") => FaultKind::Throttled,
        Some("overloaded_error") => FaultKind::Overloaded,
        Some("api_error") => FaultKind::ServerError,
        Some("invalid_request_error" | "not_found_error" | "request_too_large") => FaultKind::ClientError,
        _ => fault.kind,
    };
    let said = Said::in_body(text.as_bytes());
    if said.has_spent_its_limit() || said.is_out_of_credit() {
        fault.kind = FaultKind::Closed;
    }
    if fault.kind == FaultKind::Dead || said.is_disabled() {
        refuse_credential(&mut fault);
    }
    name(&mut fault, &said);
    fault.param = None;
    fault
}

/// What is said of an event that is no JSON.
pub(super) fn unreadable() -> Fault {
    Fault {
        kind: FaultKind::ServerError,
        status: None,
        code: None,
        error_type: None,
        param: None,
        message: "the provider sent an event that is not JSON".to_owned(),
        retry_after: None,
        in_answer: true,
        usage: None,
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
