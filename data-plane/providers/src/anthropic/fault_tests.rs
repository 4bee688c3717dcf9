//! Failures by status, headers and body, in Anthropic's own forms.

use super::*;
use crate::fault::Billed;

/// 2026-11-22T06:00:00Z
const NOW: Timestamp = Timestamp::from_millis(1_795_327_200_000);

fn fault(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Fault {
    let headers = headers.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    read(status, &headers, body.as_bytes(), NOW)
}

fn error(kind: &str, message: &str) -> String {
    serde_json::json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_1" })
        .to_string()
}

#[test]
fn each_status_says_whose_fault_it_is() {
    for (status, kind, expected) in [
        (400, "invalid_request_error", FaultKind::ClientError),
        (401, "authentication_error", FaultKind::Dead),
        (402, "billing_error", FaultKind::Closed),
        (403, "permission_error", FaultKind::Dead),
        (404, "not_found_error", FaultKind::ClientError),
        (413, "request_too_large", FaultKind::ClientError),
        (429, "rate_limit_error", FaultKind::Throttled),
        (500, "api_error", FaultKind::ServerError),
        (504, "timeout_error", FaultKind::Ambiguous),
        (529, "overloaded_error", FaultKind::Overloaded),
    ] {
        let fault = fault(status, &[], &error(kind, "words"));
        assert_eq!((fault.kind, fault.status, fault.in_answer), (expected, Some(status), false), "{kind}");
        assert_eq!(fault.error_type.as_deref(), Some(kind));
    }
    let refused = fault(401, &[], &error("authentication_error", "invalid x-api-key"));
    assert_eq!(refused.message, "the provider refused the gateway's credential");
}

#[test]
fn clients_can_tell_a_prompt_that_is_too_long_by_its_code() {
    for (message, code) in [
        ("prompt is too long: 210000 tokens > 200000 maximum", Some("context_length_exceeded")),
        (
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            Some("context_length_exceeded"),
        ),
        ("Output blocked by content filtering policy", Some("content_filter")),
        ("messages: prompt is too long", None),
    ] {
        assert_eq!(fault(400, &[], &error("invalid_request_error", message)).code.as_deref(), code, "{message}");
    }
    let in_answer = in_answer(&error("invalid_request_error", "Output blocked by content filtering policy"));
    assert_eq!(in_answer.code.as_deref(), Some("content_filter"));
}

#[test]
fn a_body_in_another_form_is_not_repeated() {
    for body in ["upstream connect error at 10.0.0.7", "<html>10.0.0.7</html>", "", "{", "[]", "\u{feff}7"] {
        let fault = fault(503, &[("content-type", "text/plain")], body);
        assert_eq!(fault.kind, FaultKind::Overloaded);
        assert_eq!(fault.message, "the provider answered with status 503", "{body}");
    }
}

#[test]
fn what_names_the_account_is_taken_out_of_the_message() {
    let words =
        "limit of 450,000 input tokens (org: 01234567-89ab-cdef-0123-456789abcdef, model: claude-haiku-4-5-20251001).";
    let fault = fault(429, &[("retry-after", "41")], &error("rate_limit_error", words));
    assert_eq!(fault.message, "limit of 450,000 input tokens (org: [redacted], model: claude-haiku-4-5-20251001).");
    assert_eq!((fault.kind, fault.retry_after), (FaultKind::Throttled, Some(Duration::from_secs(41))));
}

#[test]
fn a_request_that_is_larger_than_a_minutes_allowance_is_the_clients_fault() {
    let body = error("rate_limit_error", "would exceed your organization's rate limit");
    let too_large = fault(429, &[("x-should-retry", "false")], &body);
    assert_eq!((too_large.kind, too_large.code.as_deref()), (FaultKind::ClientError, Some("rate_limit_exceeded")));
    assert_eq!(too_large.billed(), Billed::No);
    for throttled in [
        fault(429, &[("x-should-retry", "false"), ("retry-after", "3")], &body),
        fault(429, &[("x-should-retry", "true")], &body),
        fault(429, &[], &body),
    ] {
        assert_eq!(throttled.kind, FaultKind::Throttled);
    }
}

#[test]
fn without_retry_after_the_reset_of_what_is_used_up_tells() {
    let headers = [
        ("anthropic-ratelimit-requests-limit", "50"),
        ("anthropic-ratelimit-requests-remaining", "7"),
        ("anthropic-ratelimit-requests-reset", "2026-11-22T06:05:00Z"),
        ("anthropic-ratelimit-input-tokens-limit", "1000"),
        ("anthropic-ratelimit-input-tokens-remaining", "0"),
        ("anthropic-ratelimit-input-tokens-reset", "2026-11-22T06:00:20Z"),
        ("anthropic-ratelimit-output-tokens-limit", "1000"),
        ("anthropic-ratelimit-output-tokens-remaining", "0"),
        ("anthropic-ratelimit-output-tokens-reset", "1970-01-01T00:00:00Z"),
    ];
    let body = error("rate_limit_error", "slow down");
    assert_eq!(fault(429, &headers, &body).retry_after, Some(Duration::from_secs(20)));
    assert_eq!(fault(429, &headers[..3], &body).retry_after, None);
}

#[test]
fn an_account_that_may_not_spend_more_is_closed() {
    let repeated = fault(400, &[], &error("invalid_request_error", "No tool `your credit balance is too low`."));
    assert_eq!(repeated.kind, FaultKind::ClientError);
    let limit = "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.";
    assert_eq!(fault(400, &[], &error("invalid_request_error", limit)).kind, FaultKind::Closed);
    let credit = fault(400, &[], &error("invalid_request_error", "Your credit balance is too low to access the API."));
    assert_eq!((credit.kind, credit.retry_after), (FaultKind::Closed, None));
    let spent = r#"{"type":"error","error":{"type":"rate_limit_error","message":"limit","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
    let spent = fault(429, &[("retry-after", "5")], spent);
    // Until the first of December: eight days and eighteen hours.
    assert_eq!((spent.kind, spent.retry_after), (FaultKind::Closed, Some(Duration::from_secs((8 * 24 + 18) * 3600))));
}

#[test]
fn a_model_that_does_not_exist_has_the_code_that_clients_know() {
    let missing = fault(404, &[], &error("not_found_error", "model: claude-nope"));
    assert_eq!((missing.kind, missing.code.as_deref()), (FaultKind::NoModel, Some("model_not_found")));
    let other = fault(404, &[], &error("not_found_error", "file not there"));
    assert_eq!((other.kind, other.code), (FaultKind::ClientError, None));
}

#[test]
fn an_organisation_that_is_disabled_is_the_credentials_fault_and_told_to_nobody() {
    let message = "This organization has been disabled.";
    let disabled = fault(400, &[], &error("invalid_request_error", message));
    assert_eq!((disabled.kind, disabled.message.contains("organization")), (FaultKind::Dead, false));
    let inside = in_stream(&error("invalid_request_error", message));
    assert_eq!((inside.kind, inside.message.contains("organization")), (FaultKind::Dead, false));
    let repeated = fault(400, &[], &error("invalid_request_error", &format!("tools.0: {message}")));
    assert_eq!(repeated.kind, FaultKind::ClientError, "the client may have written that");
}

#[test]
fn errors_after_a_status_of_success_tell_by_their_type() {
    for (kind, expected) in [
        ("overloaded_error", FaultKind::Overloaded),
        ("api_error", FaultKind::ServerError),
        ("rate_limit_error", FaultKind::Throttled),
        ("authentication_error", FaultKind::Dead),
        ("billing_error", FaultKind::Closed),
        ("invalid_request_error", FaultKind::ClientError),
        ("unheard_of", FaultKind::Ambiguous),
    ] {
        let fault = in_stream(&error(kind, "key sk-ant-api03-abc"));
        assert_eq!((fault.kind, fault.in_answer, fault.billed()), (expected, true, Billed::Unknown), "{kind}");
        assert!(!fault.message.contains("sk-ant"), "{fault:?}");
    }
}
