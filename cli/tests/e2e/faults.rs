//! What goes wrong on the way: the agent gets a well-formed error, the charge is the truth where it is known and the bound where it is not, and each
//! attempt is in the chain once.

use std::time::Duration;

use http_body_util::BodyExt;
use keyforge_loadtest::provider::{Reply as Scripted, Script};
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use keyforge_proto::admin::v1::{RequestEntry, RotateCredentialRequest};
use serde_json::{Value, json};

use crate::harness::{Gateway, PROVIDER_KEY, cap, events, hello, hello_streamed, provider};

const IMPATIENT: &str = "[upstream]\nfirst_byte_seconds = 1\nidle_seconds = 1\ntotal_seconds = 20\n";

struct Case {
    reply: Scripted,
    status: u16,
    code: &'static str,
    charge: Charge,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Charge {
    Bound,
    Nothing,
}

fn assert_charged(entry: &RequestEntry, charge: Charge, what: &str) {
    assert_eq!(entry.outcome, "completed", "{what}");
    match charge {
        Charge::Bound => assert!(
            entry.cost_nano_usd == entry.bound_nano_usd && entry.bound_nano_usd > 0,
            "{what}: {} of {}",
            entry.cost_nano_usd,
            entry.bound_nano_usd
        ),
        Charge::Nothing => assert_eq!(entry.cost_nano_usd, 0, "{what}"),
    }
}

#[tokio::test]
async fn a_buffered_request_survives_every_failure_of_its_provider() {
    let provider = provider(Script::default());
    let gateway = Gateway::start_tuned(&provider, IMPATIENT).await;
    let (token, id) = gateway.create_key("unlucky", cap(8_000_000_000_000)).await;
    let case = |reply, status, code, charge| Case { reply, status, code, charge };
    let cases = [
        case(Scripted::status(500), 502, "upstream_error", Charge::Bound),
        case(Scripted::status(503), 429, "rate_limit_exceeded", Charge::Bound),
        case(Scripted::Html, 502, "upstream_error", Charge::Bound),
        case(Scripted::Garbage, 502, "upstream_broken", Charge::Bound),
        case(Scripted::CloseBeforeResponse, 502, "upstream_broken", Charge::Bound),
        case(Scripted::CutStream { after_events: 1 }, 502, "upstream_broken", Charge::Bound),
        case(Scripted::GzipGarbage, 502, "upstream_broken", Charge::Bound),
        case(Scripted::Hang, 504, "upstream_timeout", Charge::Bound),
        case(Scripted::EndlessHeader, 502, "upstream_broken", Charge::Bound),
        case(Scripted::status(401), 502, "upstream_credentials_exhausted", Charge::Nothing),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let what = format!("{:?}", case.reply);
        provider.push(case.reply);
        let reply = gateway.chat_as(&token, &hello()).await;
        assert_eq!((reply.status, reply.code().as_str()), (case.status, case.code), "{what}: {}", reply.text());
        assert!(reply.json()["error"]["message"].is_string(), "{what}");
        let entries = gateway.entries(&id, number + 1).await;
        assert_eq!(entries.len(), number + 1, "{what}: one entry each");
        assert_charged(&entries[number], case.charge, &what);
        assert_eq!(u32::from(case.status), entries[number].status, "{what}");
    }
    gateway.assert_chains_hold();
    // The provider refused the credential at last, so it is left alone until somebody does something.
    let count = provider.request_count();
    assert_eq!(gateway.chat_as(&token, &hello()).await.code(), "upstream_credentials_exhausted");
    assert_eq!(provider.request_count(), count);
    let credential = gateway.cli_json(&["credential", "list"])[0]["id"].as_str().unwrap().to_owned();
    let mut credentials = CredentialServiceClient::new(gateway.admin().await);
    let rotation = RotateCredentialRequest { id: credential, secret: PROVIDER_KEY.into() };
    credentials.rotate_credential(rotation).await.unwrap();
    gateway.eventually("the next one is served", async || gateway.chat_as(&token, &hello()).await.status == 200).await;
    // A moment is waited for, and a minute is not.
    let (token, id) = gateway.create_key("throttled", cap(8_000_000_000_000)).await;
    provider.push(Scripted::status(429).with_header("retry-after", "1"));
    let reply = gateway.chat_as(&token, &hello()).await;
    assert_eq!((reply.status, reply.header("x-keyforge-attempts")), (200, "2"), "{}", reply.text());
    provider.push(Scripted::status(429).with_header("retry-after", "60"));
    let reply = gateway.chat_as(&token, &hello()).await;
    assert_eq!((reply.status, reply.code().as_str()), (429, "rate_limit_exceeded"));
    let entries = gateway.entries(&id, 3).await;
    assert_eq!(entries.iter().filter(|entry| entry.status == 200).count(), 1);
    for refused in entries.iter().filter(|entry| entry.status == 429) {
        assert_charged(refused, Charge::Nothing, "throttled");
    }
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_costs_nothing_and_counts_for_nothing() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    provider.shutdown().await;
    let (token, id) = gateway.create_key("unlucky", cap(1_000_000_000)).await;
    let reply = gateway.chat_as(&token, &hello()).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_unreachable"));
    let entry = gateway.entries(&id, 1).await.remove(0);
    assert_charged(&entry, Charge::Nothing, "unreachable");
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_a_well_formed_error_and_is_charged_in_full() {
    let provider = provider(Script { completion_tokens: 8, ..Script::default() });
    let gateway = Gateway::start_tuned(&provider, IMPATIENT).await;
    let (token, id) = gateway.create_key("unlucky", cap(8_000_000_000_000)).await;
    let cases = [
        (Scripted::CutStream { after_events: 3 }, "upstream_broken"),
        (Scripted::StallStream { after_events: 3 }, "upstream_timeout"),
        (Scripted::ErrorEvent { after_events: 3 }, ""),
    ];
    for (number, (fault, code)) in cases.into_iter().enumerate() {
        let what = format!("{fault:?}");
        provider.push(fault);
        let reply = gateway.chat_as(&token, &hello_streamed()).await;
        assert_eq!(reply.status, 200, "{what}");
        let events = reply.events();
        let last: Value =
            serde_json::from_str(events.last().unwrap()).unwrap_or_else(|_| panic!("{what}: {}", reply.text()));
        assert!(last["error"]["message"].is_string(), "{what}: {last}");
        if !code.is_empty() {
            assert_eq!(last["error"]["code"], code, "{what}");
        }
        let entries = gateway.entries(&id, number + 1).await;
        assert_charged(&entries[number], Charge::Bound, &what);
        assert!(!entries[number].rejection.is_empty(), "{what}");
    }
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_content_is_an_error_status() {
    let provider = provider(Script::default());
    let gateway = Gateway::start_tuned(&provider, IMPATIENT).await;
    let cases = [
        (Scripted::ErrorEvent { after_events: 0 }, 502),
        (Scripted::CutStream { after_events: 0 }, 502),
        (Scripted::HangAfterHeaders, 504),
        (Scripted::Garbage, 502),
        (Scripted::CutStream { after_events: 1 }, 502),
        (Scripted::status(400), 400),
    ];
    for (fault, status) in cases {
        let what = format!("{fault:?}");
        provider.push(fault);
        let reply = gateway.chat(&hello_streamed()).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_is_charged_what_the_provider_generated_and_leaves_no_hold() {
    let provider = provider(Script { completion_tokens: 30, token_interval_ms: 20, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("fickle", cap(1_000_000_000)).await;
    for number in 0..4 {
        let mut body = gateway.open(&token, &hello_streamed()).await.into_body();
        for _ in 0..=number {
            body.frame().await.unwrap().unwrap();
        }
        drop(body);
    }
    // One that hangs up before anything has come back.
    provider.push(Scripted::Answer.after(400));
    let body = hello();
    let early = gateway.open(&token, &body);
    assert!(tokio::time::timeout(Duration::from_millis(150), early).await.is_err(), "nothing has come yet");

    let entries = gateway.entries(&id, 5).await;
    assert_eq!(entries.len(), 5, "one entry each");
    let bill = provider.bill().total();
    let output: u64 = entries.iter().map(|entry| entry.output_tokens).sum();
    let input: u64 = entries.iter().map(|entry| entry.input_tokens).sum();
    assert_eq!((input, output), (bill.prompt_tokens, bill.completion_tokens), "the provider's own bill");
    for entry in &entries {
        assert!(entry.flags.iter().any(|flag| flag.contains("gone")), "{:?}", entry.flags);
        assert!(entry.cost_nano_usd < entry.bound_nano_usd);
    }
    // Nothing is held any more: all but what was spent can be had in one request.
    let balance = gateway.chat_as(&token, &hello()).await;
    let left: f64 = balance.header("x-keyforge-budget-remaining-usd").parse().unwrap();
    assert!(left > 0.1, "{left}");
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn the_providers_refusal_is_told_in_our_words_with_its_field() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let body = json!({ "error": {
        "message": "Invalid value for 'temperature' with key sk-proj-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
        "type": "invalid_request_error", "param": "temperature", "code": "invalid_value",
    }});
    provider.push(Scripted::json(400, body.to_string()));
    let reply = gateway.chat(&hello()).await;
    assert_eq!(reply.status, 400);
    let error = &reply.json()["error"];
    assert_eq!((error["param"].as_str(), error["code"].as_str()), (Some("temperature"), Some("invalid_value")));
    assert!(error["message"].as_str().unwrap().contains("temperature"));
    assert!(!reply.text().contains("sk-proj"), "{}", reply.text());
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_a_drain_lets_it_finish() {
    let provider = provider(Script { completion_tokens: 10, token_interval_ms: 200, ..Script::default() });
    let mut gateway = Gateway::start(&provider).await;
    let mut body = gateway.open(&gateway.key, &hello_streamed()).await.into_body();
    body.frame().await.unwrap().unwrap();
    let reading = tokio::spawn(async move { body.collect().await.unwrap().to_bytes() });
    let status = gateway.stop().await;
    assert!(status.success(), "{status:?}");
    let rest = String::from_utf8(reading.await.unwrap().to_vec()).unwrap();
    assert_eq!(events(&rest).last().map(String::as_str), Some("[DONE]"), "{rest}");
    gateway.launch().await;
    let entries = gateway.entries(&Gateway::id_of(&gateway.key), 1).await;
    assert_eq!(entries[0].outcome, "completed");
}

#[tokio::test]
async fn a_stream_that_counts_nothing_for_what_it_sent_is_charged_in_full() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("cheated", cap(1_000_000_000)).await;
    let chunk = |delta: Value, finish: Value| {
        json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
    };
    let nothing = json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9 } });
    let content = chunk(json!({ "role": "assistant", "content": "all for free" }), Value::Null);
    let end = chunk(json!({}), json!("stop"));
    provider.push(Scripted::events(format!("data: {content}\n\ndata: {end}\n\ndata: {nothing}\n\ndata: [DONE]\n\n")));
    let reply = gateway.chat_as(&token, &hello_streamed()).await;
    assert!(reply.text().contains("all for free"), "{}", reply.text());
    assert_charged(&gateway.entries(&id, 1).await[0], Charge::Bound, "no tokens for some words");
}
