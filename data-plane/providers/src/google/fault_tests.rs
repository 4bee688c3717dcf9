//! Failures in every form that Google writes them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fault::Billed;

/// 2026-11-22T06:00:00Z, which is 22:00 of the day before at the Pacific.
const NOW: Timestamp = Timestamp::from_millis(1_795_327_200_000);

fn fault(status: u16, body: &Value) -> Fault {
    read(status, &HeaderMap::new(), body.to_string().as_bytes(), NOW)
}

fn error(status: u16, word: &str, message: &str, details: Value) -> Value {
    json!({"error": {"code": status, "message": message, "status": word, "details": details}})
}

fn wait(fault: &Fault) -> Option<f64> {
    fault.retry_after.map(|wait| wait.as_secs_f64())
}

#[test]
fn a_spent_day_closes_until_midnight_at_the_pacific() {
    let details = json!([
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
            {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"},
            {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "250"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31s"},
    ]);
    let fault = fault(429, &error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", details));
    assert_eq!((fault.kind, wait(&fault)), (FaultKind::Closed, Some(2.0 * 3600.0)));
    assert_eq!(fault.error_type.as_deref(), Some("RESOURCE_EXHAUSTED"));
    assert_eq!(fault.billed(), Billed::No);
}

#[test]
fn clients_can_tell_a_prompt_that_is_too_long_by_its_code() {
    let message = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).";
    let fault = fault(400, &error(400, "INVALID_ARGUMENT", message, json!([])));
    assert_eq!((fault.kind, fault.code.as_deref()), (FaultKind::ClientError, Some("context_length_exceeded")));
}

#[test]
fn days_begin_at_the_pacific_also_when_clocks_are_set() {
    // 2026-11-01T07:30:00Z is 00:30 of the day that has 25 hours there.
    let autumn = Timestamp::from_millis(1_793_518_200_000);
    assert_eq!(until_tomorrow(autumn), Some(Duration::from_secs(24 * 3600 + 1800)));
}

#[test]
fn a_busy_minute_says_how_long() {
    let message =
        "You exceeded your current quota, please check your plan and billing details.\nPlease retry in 48.9s.";
    for (delay, expected) in
        [("48s", 48.0), ("48.5s", 48.5), ("0.5s", 0.5), ("0s", 48.9), ("-1s", 48.9), ("soon", 48.9), ("infs", 48.9)]
    {
        let details = json!([
            {"violations": [{"quotaId": "GenerateContentPaidTierInputTokensPerModelPerMinute"}]},
            {"retryDelay": delay},
        ]);
        let fault = fault(429, &error(429, "RESOURCE_EXHAUSTED", message, details));
        assert_eq!((fault.kind, wait(&fault)), (FaultKind::Throttled, Some(expected)), "{delay}");
    }
}

#[test]
fn a_refusal_without_details_is_over_in_a_moment() {
    let body = json!({"error": {"code": 429, "message": "Resource exhausted. Please try again later.", "status": "RESOURCE_EXHAUSTED"}});
    assert_eq!((fault(429, &body).kind, wait(&fault(429, &body))), (FaultKind::Throttled, Some(1.0)));
    let headers = [(http::header::RETRY_AFTER, "7".parse().unwrap())].into_iter().collect();
    assert_eq!(wait(&read(429, &headers, b"", NOW)), Some(7.0));
}

#[test]
fn statuses_and_details_tell_whose_fault_it_is() {
    let reason = |reason: &str| json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]);
    for (status, word, message, details, kind) in [
        (
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            reason("API_KEY_INVALID"),
            FaultKind::Dead,
        ),
        (400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", json!([]), FaultKind::Dead),
        (400, "INVALID_ARGUMENT", "Please use a valid role: user, model.", json!([]), FaultKind::ClientError),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", json!([]), FaultKind::Dead),
        (400, "FAILED_PRECONDITION", "The File abc is not in an ACTIVE state.", json!([]), FaultKind::ClientError),
        // What the client wrote, repeated.
        (400, "INVALID_ARGUMENT", "Unsupported MIME type: API key not valid", json!([]), FaultKind::ClientError),
        (400, "INVALID_ARGUMENT", "No file: User location is not supported", json!([]), FaultKind::ClientError),
        (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", json!([]), FaultKind::Dead),
        (402, "", "Payment required", json!([]), FaultKind::Closed),
        (
            403,
            "PERMISSION_DENIED",
            "Generative Language API has not been used",
            reason("SERVICE_DISABLED"),
            FaultKind::Dead,
        ),
        (403, "PERMISSION_DENIED", "This API method requires billing", reason("BILLING_DISABLED"), FaultKind::Dead),
        (403, "PERMISSION_DENIED", "Consumer has been suspended.", reason("CONSUMER_SUSPENDED"), FaultKind::Dead),
        (403, "PERMISSION_DENIED", "Your API key was reported as leaked.", json!([]), FaultKind::Dead),
        (
            403,
            "PERMISSION_DENIED",
            "You do not have permission to access the File abc",
            json!([]),
            FaultKind::ClientError,
        ),
        (403, "PERMISSION_DENIED", "Permission denied on resource x.", json!([]), FaultKind::ClientError),
        (403, "PERMISSION_DENIED", "Not found: your API key", json!([]), FaultKind::ClientError),
        (413, "", "too large", json!([]), FaultKind::ClientError),
        (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", json!([]), FaultKind::Closed),
        (499, "CANCELLED", "The operation was cancelled.", json!([]), FaultKind::Ambiguous),
        (500, "INTERNAL", "An internal error has occurred.", json!([]), FaultKind::ServerError),
        (503, "UNAVAILABLE", "The model is overloaded.", json!([]), FaultKind::Overloaded),
        (504, "DEADLINE_EXCEEDED", "Deadline expired.", json!([]), FaultKind::Ambiguous),
    ] {
        let body = error(status, word, message, details);
        let listed = json!([body]);
        for body in [&body, &listed] {
            let fault = fault(status, body);
            assert_eq!((fault.kind, fault.status, fault.in_answer), (kind, Some(status), false), "{status} {message}");
            assert_eq!(fault.message.contains(message), kind != FaultKind::Dead, "{}", fault.message);
        }
        // Inside an answer the body says the status itself.
        let inside = in_answer(&body.to_string());
        assert_eq!((inside.kind, inside.in_answer), (kind, true), "{status} {message}");
    }
}

#[test]
fn a_model_that_is_not_there_has_the_code_that_clients_know() {
    let body = error(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1beta", json!([]));
    let fault = fault(404, &body);
    assert_eq!((fault.kind, fault.code.as_deref()), (FaultKind::NoModel, Some("model_not_found")));
}

#[test]
fn a_field_that_the_client_did_not_write_is_not_named() {
    let details = json!([{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "contents[0].role", "description": "x"}]}]);
    assert_eq!(fault(400, &error(400, "INVALID_ARGUMENT", "m", details)).param, None);
}

#[test]
fn details_of_an_unknown_form_hide_nothing_else() {
    let details =
        json!([7, null, {"violations": null, "reason": 7}, {"retryDelay": "3s", "violations": [null, {"quotaId": 7}]}]);
    let fault = fault(429, &error(429, "RESOURCE_EXHAUSTED", "m", details));
    assert_eq!((fault.kind, wait(&fault), fault.code), (FaultKind::Throttled, Some(3.0), None));
}

#[test]
fn nobodys_project_is_told() {
    let message = "Publisher Model `projects/acme-7/locations/us/models/x` was not found for project_number:987654321 and key AIzaSyA1234.";
    let fault = fault(404, &error(404, "NOT_FOUND", message, json!([])));
    for secret in ["acme", "987654321", "AIza"] {
        assert!(!fault.message.contains(secret), "{}", fault.message);
    }
}

#[test]
fn what_is_no_error_of_googles_is_not_repeated() {
    for (body, status, kind) in [
        (&b"<html>proxy secret</html>"[..], 502, FaultKind::ServerError),
        (b"secret", 403, FaultKind::ServerError),
        (b"\xff\xfe", 400, FaultKind::ClientError),
        (br#"{"error":"secret"}"#, 503, FaultKind::Overloaded),
    ] {
        let fault = read(status, &HeaderMap::new(), body, NOW);
        assert_eq!((fault.kind, fault.message), (kind, format!("the provider answered with status {status}")));
    }
}

#[test]
fn errors_inside_an_answer_are_told_by_their_word_if_they_have_no_number() {
    assert_eq!(in_answer(r#"{"error":{"status":"UNAVAILABLE"}}"#).kind, FaultKind::Overloaded);
    assert_eq!(in_answer(r#"{"error":{"message":"m"}}"#).kind, FaultKind::Ambiguous);
    assert!(!is_error(r#"{"candidates":[{"content":{"parts":[{"text":"\"error\""}]}}]}"#));
    assert!(!is_error(r#"{"error":null}"#));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>, status: u16, text in "\\PC*", millis: i64) {
        let now = Timestamp::from_millis(millis);
        std::hint::black_box(read(status, &HeaderMap::new(), &bytes, now));
        let body = json!({"error": {"message": text, "details": [{"retryDelay": text, "violations": [{"quotaId": "PerDay"}]}]}});
        let fault = read(status, &HeaderMap::new(), body.to_string().as_bytes(), now);
        prop_assert!(fault.retry_after.is_none_or(|wait| !wait.is_zero() && wait <= LONGEST));
        std::hint::black_box(in_answer(&text));
    }
}
