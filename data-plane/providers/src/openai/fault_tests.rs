//! Failures of providers, by status, code and type.

use std::time::Duration;

use super::*;
use crate::fault::Billed;

const NOW: Timestamp = Timestamp::from_millis(1_795_327_200_000);

fn fault(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Fault {
    let headers = headers.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    read(status, &headers, body.as_bytes(), NOW)
}

#[test]
fn kinds_follow_status_code_and_type() {
    for (status, body, kind, billed) in [
        (
            429,
            r#"{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}"#,
            FaultKind::Throttled,
            Billed::No,
        ),
        (
            429,
            r#"{"error":{"message":"x","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            FaultKind::Closed,
            Billed::No,
        ),
        (429, r#"{"error":{"message":"x","code":"project_spend_limit_exceeded"}}"#, FaultKind::Closed, Billed::No),
        (400, r#"{"error":{"message":"x","code":"billing_hard_limit_reached"}}"#, FaultKind::Closed, Billed::No),
        (402, r#"{"error":{"message":"Insufficient Balance"}}"#, FaultKind::Closed, Billed::No),
        (
            429,
            r#"{"error":{"message":"Request too large for m","type":"tokens","code":"rate_limit_exceeded"}}"#,
            FaultKind::ClientError,
            Billed::No,
        ),
        (429, "", FaultKind::Throttled, Billed::No),
        (401, r#"{"error":{"message":"x","code":"invalid_api_key"}}"#, FaultKind::Dead, Billed::No),
        (401, "", FaultKind::Dead, Billed::No),
        (400, r#"{"error":{"message":"x","code":"API_KEY_INVALID"}}"#, FaultKind::Dead, Billed::No),
        (403, r#"{"error":{"message":"x","type":"insufficient_permissions"}}"#, FaultKind::Dead, Billed::No),
        (
            403,
            r#"{"error":{"message":"x","type":"invalid_request_error","code":"model_not_found"}}"#,
            FaultKind::Dead,
            Billed::No,
        ),
        (403, r#"{"error":{"message":"x","code":"missing_scope"}}"#, FaultKind::Dead, Billed::No),
        (403, r#"{"error":{"message":"input was flagged","code":403}}"#, FaultKind::ClientError, Billed::No),
        (403, "<html>blocked</html>", FaultKind::ServerError, Billed::No),
        (404, r#"{"error":{"message":"x","code":"model_not_found"}}"#, FaultKind::NoModel, Billed::No),
        (404, r#"{"error":{"message":"x","code":"DeploymentNotFound"}}"#, FaultKind::NoModel, Billed::No),
        (400, r#"{"message":"Invalid model: x","type":"invalid_model","code":"1500"}"#, FaultKind::NoModel, Billed::No),
        (404, r#"{"error":{"message":"model model_not_found","code":"no_file"}}"#, FaultKind::ClientError, Billed::No),
        (413, "too large", FaultKind::ClientError, Billed::No),
        (408, "upstream request timeout", FaultKind::Ambiguous, Billed::Unknown),
        (498, "", FaultKind::Overloaded, Billed::No),
        (500, r#"{"error":{"message":"x","type":"server_error"}}"#, FaultKind::ServerError, Billed::Unknown),
        (500, r#"{"error":{"message":"x","type":"overloaded_error"}}"#, FaultKind::Overloaded, Billed::Unknown),
        (502, "<html>", FaultKind::ServerError, Billed::Unknown),
        (503, "", FaultKind::Overloaded, Billed::Unknown),
        (504, "", FaultKind::Ambiguous, Billed::Unknown),
        (529, "", FaultKind::Overloaded, Billed::No),
        (302, "", FaultKind::ServerError, Billed::Unknown),
    ] {
        let fault = fault(status, &[], body);
        assert_eq!((fault.kind, fault.billed()), (kind, billed), "{status} {body}");
        assert_eq!((fault.status, fault.in_answer), (Some(status), false));
    }
}

#[test]
fn a_client_error_keeps_what_the_agent_needs_to_mend_its_request() {
    let body = r#"{"error":{"message":"Unsupported value: 'temperature'","type":"invalid_request_error","param":"messages[0].role","code":"unsupported_value"}}"#;
    let fault = fault(400, &[("retry-after", "5")], body);
    assert_eq!(fault.message, "Unsupported value: 'temperature'");
    assert_eq!(fault.error_type.as_deref(), Some("invalid_request_error"));
    assert_eq!(fault.param.as_deref(), Some("messages[0].role"));
    assert_eq!(fault.code.as_deref(), Some("unsupported_value"));
    assert_eq!(fault.retry_after, None);
}

#[test]
fn errors_are_read_in_every_form() {
    for (body, message, code) in [
        (r#"{"error":{"message":"m","code":429}}"#, "m", Some("429")),
        (r#"{"code":"c","error":"m"}"#, "m", Some("c")),
        (r#"{"object":"error","message":"m","type":"t","code":"1300"}"#, "m", Some("1300")),
        (r#"{"detail":"m"}"#, "m", None),
        (
            r#"{"detail":[{"loc":["body","messages",0],"msg":"field required","type":"missing"}]}"#,
            "body.messages.0: field required",
            None,
        ),
        (r#"{"object":"error","message":{"detail":[{"loc":["body"],"msg":"m"}]},"code":null}"#, "body: m", None),
        (r#"{"error":["m","n"],"code":7}"#, "m", Some("7")),
        (r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]"#, "m", Some("400")),
        (r#"{"error":7}"#, "the provider answered with status 422", None),
        (r#"{"detail":[1]}"#, "the provider answered with status 422", None),
        (r#"{"error":{}}"#, "the provider answered with status 422", None),
        (r#"{"error":{"message":" ","code":"a b"}}"#, "the provider answered with status 422", None),
        ("<html>secret</html>", "the provider answered with status 422", None),
        ("[]", "the provider answered with status 422", None),
        ("", "the provider answered with status 422", None),
    ] {
        let fault = fault(422, &[], body);
        assert_eq!((fault.message.as_str(), fault.code.as_deref()), (message, code), "{body}");
    }
    let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "m".repeat(70_000));
    assert_eq!(fault(422, &[], &long).message, "the provider answered with status 422");
}

#[test]
fn i_21_nothing_of_a_credential_or_account_is_passed_on() {
    let key = r#"{"error":{"message":"Incorrect API key provided: abc.","type":"invalid_request_error","code":"invalid_api_key"}}"#;
    let dead = fault(401, &[], key);
    assert_eq!(dead.message, "the provider refused the gateway's credential");
    assert_eq!(dead.code.as_deref(), Some("invalid_api_key"));
    let canary = "sk-proj-CANARY0000";
    let body = format!(
        r#"{{"error":{{"message":"for {canary} in org-CANARY","type":"{canary}","code":"{canary}","param":"{canary}"}}}}"#
    );
    for status in [400, 401, 403, 404, 429, 500] {
        let shown = format!("{:?}", fault(status, &[], &body));
        assert!(!shown.contains("CANARY"), "{shown}");
    }
    assert!(!format!("{:?}", in_stream(&body)).contains("CANARY"));
}

#[test]
fn waits_are_read_for_faults_that_pass() {
    let limited =
        r#"{"error":{"message":"Rate limit reached. Please try again in 6m0s.","code":"rate_limit_exceeded"}}"#;
    assert_eq!(fault(429, &[], limited).retry_after, Some(Duration::from_secs(360)));
    assert_eq!(fault(429, &[("retry-after", "44")], "plain text").retry_after, Some(Duration::from_secs(44)));
    assert_eq!(fault(503, &[("retry-after", "1")], "").retry_after, Some(Duration::from_secs(1)));
    let quota = r#"{"error":{"message":"x","code":"insufficient_quota"}}"#;
    assert_eq!(fault(429, &[("retry-after", "1")], quota).retry_after, None);
}
