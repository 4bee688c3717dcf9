//! What goes wrong at a provider that speaks another language than the agent, or cannot be told it: well-formed errors in the agent's, charges that are never below the
//! provider's bill, and no connection that outlives its agent for longer than a second.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use keyforge_loadtest::provider::{Reply as Scripted, Script, ScriptedProvider};
use keyforge_proto::admin::v1 as admin;
use serde_json::{Value, json};

use crate::corpus::{RATES, add_models_of};
use crate::harness::{Gateway, cap, provider};
use crate::sdk::add_credential;

const IMPATIENT: &str = "[upstream]\nfirst_byte_seconds = 1\nidle_seconds = 1\ntotal_seconds = 20\n";
const MODELS: [(&str, &str); 2] = [("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-flash")];

fn ask(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "Hello there" }] })
}

/// A gateway with both providers, and a key whose cap no request comes near.
async fn stage(scripted: &ScriptedProvider, tuning: &str) -> (Gateway, String, String) {
    let gateway = Gateway::start_tuned(scripted, tuning).await;
    for (name, model) in MODELS {
        add_credential(&gateway, name, scripted).await;
        add_models_of(&gateway, name, &[model]).await;
    }
    let (token, id) = gateway.create_key("unlucky", cap(8_000_000_000_000)).await;
    (gateway, token, id)
}

/// What the provider would charge for a model, in nano-dollars.
fn billed(scripted: &ScriptedProvider, model: &str) -> u64 {
    let charges = scripted.bill().of_model(model);
    (charges.prompt_tokens * RATES.input + charges.completion_tokens * RATES.output).div_ceil(1000)
}

async fn last_entry(gateway: &Gateway, id: &str, count: usize) -> admin::RequestEntry {
    let mut entries = gateway.entries(id, count).await;
    assert_eq!(entries.len(), count, "one entry each");
    entries.pop().unwrap()
}

/// At the bound, or at what is left of it once the provider has counted the input.
fn assert_in_full(entry: &admin::RequestEntry, what: &str) {
    let (cost, bound) = (entry.cost_nano_usd, entry.bound_nano_usd);
    assert!(cost > 0 && cost <= bound && cost * 1000 > bound * 999, "{what}: {entry:?}");
}

#[tokio::test]
async fn no_failure_of_another_provider_reaches_an_agent_in_its_own_words_or_for_free() {
    let scripted = provider(Script::default());
    let (gateway, token, id) = stage(&scripted, IMPATIENT).await;
    let mut count = 0;
    for (_, model) in MODELS {
        let faults = [
            (Scripted::status(500), 502),
            (Scripted::Html, 502),
            (Scripted::Garbage, 502),
            (Scripted::GzipGarbage, 502),
            (Scripted::EndlessHeader, 502),
            (Scripted::CloseBeforeResponse, 502),
            (Scripted::CutStream { after_events: 0 }, 502),
            (Scripted::Hang, 504),
            (Scripted::EndlessLine, 502),
        ];
        for (fault, status) in faults {
            for stream in [false, true] {
                let what = format!("{model} {stream} {fault:?}");
                scripted.push(fault.clone());
                let reply = gateway.chat_as(&token, &ask(model, stream)).await;
                count += 1;
                // A line without an end is silence to one who waits for a whole event.
                let expected = if stream && fault == Scripted::EndlessLine { vec![502, 504] } else { vec![status] };
                assert!(expected.contains(&reply.status), "{what}: {} {}", reply.status, reply.text());
                let error = &reply.json()["error"];
                assert!(error["message"].is_string() && error["type"] == "server_error", "{what}: {error}");
                assert!(!reply.text().contains('<'), "{what}: {error}");
                let entry = last_entry(&gateway, &id, count).await;
                assert_in_full(&entry, &what);
            }
        }
    }
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn wishes_that_a_provider_is_not_told_are_named_in_a_header_of_the_answer() {
    let scripted = provider(Script::default());
    let (gateway, token, _) = stage(&scripted, IMPATIENT).await;
    for (_, model) in MODELS {
        let expected = if model.starts_with("claude") { "seed, top_p, verbosity" } else { "verbosity" };
        for stream in [false, true] {
            let wishes = json!({ "seed": 7, "temperature": 0.5, "top_p": 0.9, "verbosity": "low" });
            let mut asked = ask(model, stream);
            asked.as_object_mut().unwrap().extend(wishes.as_object().unwrap().clone());
            let reply = gateway.chat_as(&token, &asked).await;
            assert_eq!((reply.status, reply.header("x-keyforge-ignored")), (200, expected), "{model} {stream}");
            let silent = gateway.chat_as(&token, &ask(model, stream)).await;
            assert_eq!((silent.status, silent.header("x-keyforge-ignored")), (200, ""));
        }
        scripted.push(Scripted::status(500));
        let mut asked = ask(model, false);
        asked["verbosity"] = json!("high");
        let failed = gateway.chat_as(&token, &asked).await;
        assert_eq!((failed.status, failed.header("x-keyforge-ignored")), (502, "verbosity"), "{model}");
    }
}

#[tokio::test]
async fn a_stream_of_another_provider_that_breaks_ends_with_an_error_event_and_is_charged_in_full() {
    let scripted = provider(Script { completion_tokens: 8, ..Script::default() });
    let (gateway, token, id) = stage(&scripted, IMPATIENT).await;
    let mut count = 0;
    for (_, model) in MODELS {
        for fault in [
            Scripted::CutStream { after_events: 6 },
            Scripted::StallStream { after_events: 6 },
            Scripted::ErrorEvent { after_events: 6 },
        ] {
            let what = format!("{model} {fault:?}");
            scripted.push(fault);
            let reply = gateway.chat_as(&token, &ask(model, true)).await;
            count += 1;
            assert_eq!(reply.status, 200, "{what}");
            let last: Value = serde_json::from_str(reply.events().last().unwrap()).unwrap();
            assert!(last["error"]["message"].is_string(), "{what}: {last}");
            assert!(reply.events().len() > 2 && !reply.text().contains("[DONE]"), "{what}: {}", reply.text());
            let entry = last_entry(&gateway, &id, count).await;
            assert_in_full(&entry, &what);
            assert!(!entry.rejection.is_empty(), "{what}: {entry:?}");
        }
    }
}

#[tokio::test]
async fn i_9_an_agent_that_hangs_up_frees_any_provider_within_a_second_and_is_charged_no_less_than_its_bill() {
    let scripted = provider(Script { token_interval_ms: 20, completion_tokens: 1000, ..Script::default() });
    let (gateway, token, id) = stage(&scripted, "").await;
    for (number, (_, model)) in MODELS.into_iter().enumerate() {
        let mut body = gateway.open(&token, &ask(model, true)).await.into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        let left = Instant::now();
        while scripted.bill().of_model(model).aborted_streams == 0 {
            assert!(left.elapsed() < Duration::from_millis(1500), "{model}: the provider goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let entry = last_entry(&gateway, &id, number + 1).await;
        assert!(entry.flags.iter().any(|flag| flag == "client_gone"), "{entry:?}");
        let bill = billed(&scripted, model);
        assert!(bill > 0 && entry.cost_nano_usd >= bill, "{model}: {} of {bill}", entry.cost_nano_usd);
    }
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn what_is_no_request_is_refused_at_every_endpoint_with_the_field_that_is_wrong() {
    let scripted = provider(Script::default());
    let (gateway, _, _) = stage(&scripted, "").await;
    let (token, _) = gateway.create_key("free", admin::Policy::default()).await;
    let huge = format!(
        r#"{{"model":"claude-sonnet-4-5","messages":[{{"role":"user","content":"{}"}}]}}"#,
        "x".repeat(40 << 20)
    );
    for path in ["/v1/chat/completions", "/v1/embeddings"] {
        for (body, field) in
            [("[]", None), ("\"text\"", None), ("", None), ("{}", Some("model")), (r#"{"model":""}"#, Some("model"))]
        {
            let reply = gateway.send(hyper::Method::POST, path, &token, body).await;
            let error = &reply.json()["error"];
            assert_eq!((reply.status, error["code"].as_str()), (400, Some("invalid_request")), "{path} {body}");
            assert!(field.is_none() || error["param"].as_str() == field, "{path} {body}: {error}");
        }
        assert_eq!(gateway.send(hyper::Method::POST, path, &token, huge.clone()).await.status, 413, "{path}");
    }
    for (_, model) in MODELS {
        let with = |field: &str, value: Value| {
            let mut body = ask(model, false);
            body[field] = value;
            body
        };
        for (body, field) in [
            (with("frobnicate", json!(1)), "frobnicate"),
            (with("logit_bias", json!({ "1": 5 })), "logit_bias"),
            (
                with("messages", json!([{ "role": "user", "content": [{ "type": "hologram" }] }])),
                "messages[0].content[0].type",
            ),
            (with("tools", json!([{ "type": "function", "function": {} }])), "tools[0].function.name"),
            (with("response_format", json!({ "type": "xml" })), "response_format.type"),
        ] {
            let reply = gateway.chat_as(&token, &body).await;
            let error = &reply.json()["error"];
            assert_eq!((reply.status, error["param"].as_str()), (400, Some(field)), "{model}: {error}");
        }
    }
    assert_eq!(scripted.bill().total().requests, 0);
}
