//! What agents see of a node that serves on a socket.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use keyforge_loadtest::provider::{Reply as Scripted, Script};
use keyforge_shared::limit::Dimension;
use keyforge_shared::state::{ApplyError, Change, Delta, FormerToken, KeyRecord, Resource, SetHash};
use keyforge_shared::token::TokenDigest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::served::Scene;
use crate::fixture::{START, key_id};

const CHAT: &str = "/v1/chat/completions";

fn ask(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 500, "service_tier": "default" })
}

fn streamed(model: &str) -> Value {
    let mut body = ask(model);
    body["stream"] = true.into();
    body
}

#[tokio::test]
async fn a_model_is_called_by_its_name_or_its_providers_and_recorded_by_its_name() {
    let scene = Scene::start(Script::default(), &[]).await;
    for (called, name, upstream) in [
        ("m", "m", "m-1"),
        ("openai/m", "m", "m-1"),
        ("openai/m-1", "m", "m-1"),
        ("farm/m", "farm/m", "m"),
        ("farm/farm/m", "farm/m", "m"),
    ] {
        let reply = scene.chat(&ask(called)).await;
        assert_eq!(reply.status, 200, "{called}: {}", reply.text());
        assert_eq!(reply.headers["x-keyforge-model"], name, "{called}");
        let sent: Value = serde_json::from_slice(&scene.provider.requests().pop().unwrap().body).unwrap();
        assert_eq!(sent["model"], upstream, "{called}");
    }
    for unknown in ["m-1", "google/m", "openai/", "/m", "openai/farm/m"] {
        assert_eq!(scene.chat(&ask(unknown)).await.error(), (404, "model_not_found".to_owned()), "{unknown}");
    }
    let one = scene.get("/v1/models/openai%2Fm").await;
    assert_eq!((one.status, &one.json()["id"]), (200, &json!("m")));
    for googles in ["models%2Fgemini-1", "models%2Fgemini", "google%2Fmodels%2Fgemini-1"] {
        let one = scene.get(&format!("/v1/models/{googles}")).await;
        assert_eq!((one.status, &one.json()["id"]), (200, &json!("gemini")), "{googles}");
    }
    assert_eq!(scene.get("/v1/models/models%2Fm-1").await.status, 404, "another provider's");
}

#[tokio::test]
async fn a_policy_speaks_of_the_catalogues_name_whatever_a_client_writes() {
    let scene = Scene::start(Script::default(), &["farm/*", "openai/*"]).await;
    for called in ["m", "openai/m", "openai/m-1", "nothing"] {
        assert_eq!(scene.chat(&ask(called)).await.error(), (403, "model_not_allowed".to_owned()), "{called}");
    }
    assert_eq!(scene.chat(&ask("farm/m")).await.status, 200);
    // It would be allowed, and does not exist.
    assert_eq!(scene.chat(&ask("openai/nothing")).await.error(), (404, "model_not_found".to_owned()));
    let listed: Vec<Value> = scene.get("/v1/models").await.json()["data"].as_array().unwrap().clone();
    assert_eq!(listed.iter().map(|model| model["id"].as_str().unwrap()).collect::<Vec<_>>(), ["farm/m"]);
    assert_eq!(scene.get("/v1/models/openai/m").await.status, 404);
}

#[tokio::test]
async fn every_model_that_an_endpoint_serves_is_listed_and_others_are_told_where() {
    let scene = Scene::start(Script::default(), &[]).await;
    let listed = scene.get("/v1/models").await.json();
    let names: Vec<_> = listed["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["claude", "e", "farm/m", "gemini", "gemini-e", "m"]);
    let reply = scene.chat(&ask("e")).await;
    assert_eq!(
        (reply.error(), &reply.json()["error"]["param"]),
        ((400, "invalid_request".to_owned()), &json!("model"))
    );
    assert!(reply.text().contains("/v1/embeddings"), "{}", reply.text());
    assert_eq!(scene.chat(&ask("r")).await.error(), (400, "model_not_served".to_owned()));
}

#[tokio::test]
async fn a_replaced_token_works_until_its_end_by_the_nodes_own_clock() {
    let scene = Scene::start(Script::default(), &[]).await;
    let replica = &scene.node.plane.replica;
    let key = replica.key(key_id(1)).unwrap();
    let until = START.saturating_add(Duration::from_secs(3600));
    let former = FormerToken { digest: key.digest, until: Some(until) };
    let digest = TokenDigest([9; 32]);
    let rotated = KeyRecord { digest, former: Some(Box::new(former)), ..KeyRecord::clone(&key) };
    replica_changes(&scene, Resource::Key(Arc::new(rotated.clone())));
    for reply in [scene.chat(&ask("m")).await, scene.get("/v1/models").await, scene.chat(&ask("none")).await] {
        assert_eq!(reply.headers["x-keyforge-token-valid-until"], until.rfc3339().as_str(), "{}", reply.status);
    }
    scene.clock.set(until);
    let reply = scene.chat(&ask("m")).await;
    assert_eq!(reply.error(), (401, "invalid_api_key".to_owned()));
    assert!(reply.text().contains(&until.rfc3339()) && !reply.headers.contains_key("x-keyforge-token-valid-until"));
    assert_eq!(scene.get("/v1/models").await.status, 401);
    let at_once = FormerToken { digest: key.digest, until: None };
    replica_changes(&scene, Resource::Key(Arc::new(KeyRecord { former: Some(Box::new(at_once)), ..rotated })));
    scene.clock.set(START);
    assert_eq!(scene.chat(&ask("m")).await.status, 401, "a clock that is behind does not give it back");
}

fn replica_changes(scene: &Scene, resource: Resource) {
    let replica = &scene.node.plane.replica;
    let (from, _) = replica.position();
    let (_, diverged) = replica.apply(Delta {
        from,
        to: from + 1,
        changes: vec![Change::Upsert(resource)],
        set_hash: SetHash::default(),
    });
    assert_eq!(diverged, Err(ApplyError::Diverged(from + 1)), "the hash is not what this is about");
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_reserves_nothing() {
    let scene = Scene::start(Script::default(), &[]).await;
    for body in ["[]", "[{}]", "\"m\"", "7", "null", "", "{", "{}", "\u{0}", "{\"model\":7,\"messages\":[]}"] {
        assert_eq!(scene.post(CHAT, body).await.error(), (400, "invalid_request".to_owned()), "{body:?}");
    }
    let mut socket = tokio::net::TcpStream::connect(&scene.address).await.unwrap();
    let length = 40 << 20;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n");
    let reply = scene.get("/v1/models").await;
    assert_eq!(reply.status, 200);
    socket.write_all(format!("{head}authorization: Bearer {}\r\n\r\n", scene.token()).as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    assert_eq!(scene.provider.request_count(), 0);
    assert!(scene.books(Dimension::Spend).await.is_none());
}

#[tokio::test]
async fn what_a_provider_has_nothing_for_is_refused_by_name_and_gives_everything_back() {
    let scene = Scene::start(Script::default(), &[]).await;
    for model in ["claude", "gemini"] {
        let mut body = ask(model);
        body["logit_bias"] = json!({ "50256": -100 });
        let reply = scene.chat(&body).await;
        assert_eq!(reply.error(), (400, "invalid_request".to_owned()), "{model}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], "logit_bias", "{model}");
        assert_eq!(scene.money().await, (0, 0), "{model}");
        let requests = scene.books(Dimension::Requests).await.unwrap();
        assert_eq!((requests.held, requests.used), (0, 0), "{model}");
    }
    assert_eq!(scene.provider.request_count(), 0);
}

#[tokio::test]
async fn an_error_before_the_first_content_of_a_stream_is_an_error_status() {
    let scene = Scene::start(Script::default(), &[]).await;
    let role = json!({ "id": "c", "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "" } }] });
    let error = json!({ "error": { "message": "boom", "type": "server_error", "code": null } });
    let events = format!(": wait\n\ndata: {role}\n\ndata: {error}\n\n");
    scene.provider.push(Scripted::events(events.clone()));
    let reply = scene.chat(&streamed("m")).await;
    assert_eq!(reply.error(), (502, "upstream_error".to_owned()), "{}", reply.text());
    scene.provider.push(Scripted::CutStream { after_events: 1 });
    assert_eq!(scene.chat(&streamed("m")).await.error(), (502, "upstream_broken".to_owned()));
    scene.provider.push(Scripted::Garbage);
    assert_eq!(scene.chat(&streamed("m")).await.error(), (502, "upstream_broken".to_owned()));
    // After it, the status is out and the stream ends with the error.
    scene.provider.push(Scripted::CutStream { after_events: 3 });
    let reply = scene.chat(&streamed("m")).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().trim_end().ends_with('}') && reply.text().contains("upstream_broken"), "{}", reply.text());
}

#[tokio::test]
async fn a_stream_without_content_is_held_back_for_two_seconds_and_no_longer() {
    let scene = Scene::start(Script::default(), &[]).await;
    scene.provider.push(Scripted::StallStream { after_events: 1 });
    let since = Instant::now();
    let mut answer = scene.open(CHAT, streamed("m").to_string()).await;
    let waited = since.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    assert_eq!(answer.status(), 200);
    assert!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().starts_with(b"data: "));
}

#[tokio::test]
async fn i_9_a_client_that_hangs_up_frees_the_provider_within_a_second_and_pays_at_least_its_bill() {
    let script = Script { completion_tokens: 400, token_interval_ms: 20, ..Script::default() };
    let scene = Scene::start(script, &[]).await;
    let mut answer = scene.open(CHAT, streamed("m").to_string()).await;
    answer.body_mut().frame().await.unwrap().unwrap();
    let (bound, used) = scene.money().await;
    assert!(bound > 0 && used == 0);
    drop(answer);
    let since = Instant::now();
    while scene.provider.bill().total().aborted_streams == 0 {
        assert!(since.elapsed() < Duration::from_secs(1), "the provider still works");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (charged, _) = scene.settled().await;
    let bill = scene.provider.bill().total();
    let cost = bill.prompt_tokens * 1_000 + bill.completion_tokens * 10_000;
    assert!(charged == bound && charged >= cost, "{charged} of {bound}, {cost} billed");
}

#[tokio::test]
async fn i_9_a_stream_that_ends_soon_after_its_client_left_is_charged_what_it_took() {
    let script = Script { completion_tokens: 20, token_interval_ms: 10, ..Script::default() };
    let scene = Scene::start(script, &[]).await;
    let mut answer = scene.open(CHAT, streamed("m").to_string()).await;
    answer.body_mut().frame().await.unwrap().unwrap();
    drop(answer);
    let (charged, _) = scene.settled().await;
    let bill = scene.provider.bill().total();
    assert_eq!((bill.aborted_streams, bill.completion_tokens), (0, 20));
    assert_eq!(charged, bill.prompt_tokens * 1_000 + bill.completion_tokens * 10_000);
}

#[tokio::test]
async fn i_9_an_answer_that_nobody_waits_for_any_more_is_given_up_within_a_second_and_charged_at_its_bound() {
    let scene = Scene::start(Script::default(), &[]).await;
    scene.provider.push(Scripted::Answer.after(30_000));
    let body = ask("m").to_string();
    let asked = scene.open(CHAT, body);
    assert!(tokio::time::timeout(Duration::from_millis(200), asked).await.is_err(), "nothing has come yet");
    let (bound, _) = scene.money().await;
    let (charged, took) = scene.settled().await;
    assert!(charged == bound && took < Duration::from_millis(1_100), "{charged} of {bound} after {took:?}");
}

fn embed(model: &str) -> Value {
    json!({ "model": model, "input": ["one", "two"] })
}

fn vectors(model: &str, prompt_tokens: u64) -> Vec<u8> {
    let vector = |index| json!({ "object": "embedding", "index": index, "embedding": [0.5, -0.25] });
    let usage = json!({ "prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens });
    json!({ "object": "list", "data": [vector(0), vector(1)], "model": model, "usage": usage }).to_string().into_bytes()
}

#[tokio::test]
async fn embeddings_go_to_their_provider_and_cost_what_it_counts() {
    let scene = Scene::start(Script::default(), &[]).await;
    scene.provider.push(Scripted::json(200, vectors("e-1", 7)));
    let reply = scene.post("/openai/v1/embeddings", embed("openai/e").to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.body, vectors("e-1", 7), "the provider's own bytes");
    assert_eq!(
        (&reply.headers["x-keyforge-model"], &reply.headers["x-keyforge-cost-usd"]),
        (&"e".parse().unwrap(), &"0.000007".parse().unwrap())
    );
    let sent = scene.provider.requests().pop().unwrap();
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!((sent.path.as_str(), &body["model"]), ("/v1/embeddings", &json!("e-1")));
    assert_eq!(scene.money().await, (0, 7_000));
}

#[tokio::test]
async fn embeddings_that_are_none_are_charged_at_their_bound_and_told_as_broken() {
    let scene = Scene::start(Script::default(), &[]).await;
    scene.provider.push(Scripted::json(200, r#"{"object":"list","data":[]}"#));
    let reply = scene.post("/v1/embeddings", embed("e").to_string()).await;
    assert_eq!(reply.error(), (502, "upstream_broken".to_owned()));
    let (held, used) = scene.money().await;
    assert!(held == 0 && used > 7_000, "{used}");
}

#[tokio::test]
async fn a_model_that_is_called_at_the_wrong_endpoint_is_told_the_right_one() {
    let scene = Scene::start(Script::default(), &[]).await;
    for model in ["m", "claude"] {
        let reply = scene.post("/v1/embeddings", embed(model).to_string()).await;
        assert_eq!(reply.error(), (400, "invalid_request".to_owned()), "{model}");
        assert!(reply.text().contains("POST /v1/chat/completions"), "{}", reply.text());
    }
    for body in [json!([]), json!("m"), json!({ "model": "e" }), json!({ "model": "e", "input": [] })] {
        assert_eq!(scene.post("/v1/embeddings", body.to_string()).await.status, 400, "{body}");
    }
    assert!(scene.books(Dimension::Spend).await.is_none());
}

fn events(events: &[Value]) -> Vec<u8> {
    let event = |event: &Value| match event["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {event}\n\n"),
        None => format!("data: {event}\n\n"),
    };
    events.iter().map(event).collect::<String>().into_bytes()
}

fn anthropic_message(content: &Value, usage: &Value) -> Value {
    json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-1-20260101", "content": content,
        "stop_reason": "end_turn", "stop_sequence": null, "usage": usage })
}

fn anthropic_stream() -> Vec<u8> {
    let usage = json!({ "input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1 });
    let mut start = anthropic_message(&json!([]), &usage);
    start["stop_reason"] = Value::Null;
    events(&[
        json!({ "type": "message_start", "message": start }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "ping" }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "Hel" } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "lo" } }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null }, "usage": { "output_tokens": 5 } }),
        json!({ "type": "message_stop" }),
    ])
}

fn anthropic_answer() -> String {
    let text = json!([{ "type": "text", "text": "Hello" }]);
    anthropic_message(&text, &json!({ "input_tokens": 10, "output_tokens": 5 })).to_string()
}

fn google_chunk(text: &str, last: bool) -> Value {
    let mut candidate = json!({ "content": { "role": "model", "parts": [{ "text": text }] }, "index": 0 });
    let mut usage = json!({ "promptTokenCount": 10, "totalTokenCount": 10 });
    if last {
        candidate["finishReason"] = "STOP".into();
        usage = json!({ "promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15 });
    }
    json!({ "candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-1-001", "responseId": "r1" })
}

/// The texts of a stream of chat completion chunks, which must end as clients expect.
fn streamed_text(body: &str) -> String {
    let data: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"), "{body}");
    let chunks = data[..data.len() - 1].iter().map(|chunk| serde_json::from_str::<Value>(chunk).unwrap());
    chunks.filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())).collect()
}

/// Ten tokens in and five out, at a dollar and ten for a million.
const TEN_IN_FIVE_OUT: u64 = 10 * 1_000 + 5 * 10_000;

#[tokio::test]
async fn a_chat_completion_of_another_provider_is_asked_and_answered_in_its_language_and_costs_what_it_counts() {
    let scene = Scene::start(Script::default(), &[]).await;
    let text = json!([{ "type": "text", "text": "Hello" }]);
    let anthropic = anthropic_message(&text, &json!({ "input_tokens": 10, "output_tokens": 5 }));
    let google = google_chunk("Hello", true);
    for (number, (model, answer, path, secret)) in (1u64..).zip([
        ("claude", anthropic, "/v1/messages", ("x-api-key", "sk-of-anthropic")),
        ("gemini", google, "/v1/models/gemini-1:generateContent", ("x-goog-api-key", "sk-of-google")),
    ]) {
        scene.provider.push(Scripted::json(200, answer.to_string()));
        let reply = scene.chat(&ask(model)).await;
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        let body = reply.json();
        assert_eq!(body["object"], "chat.completion", "{model}");
        assert_eq!(body["choices"][0]["message"]["content"], "Hello", "{model}");
        assert_eq!(body["choices"][0]["finish_reason"], "stop", "{model}");
        assert_eq!(body["usage"]["total_tokens"], 15, "{model}");
        assert_eq!(reply.headers["x-keyforge-cost-usd"], "0.00006", "{model}");
        let sent = scene.provider.requests().pop().unwrap();
        assert_eq!((sent.path.as_str(), sent.header(secret.0)), (path, Some(secret.1)), "{model}");
        assert!(sent.header("authorization").is_none(), "{model}");
        assert_eq!(scene.money().await, (0, number * TEN_IN_FIVE_OUT), "{model}");
    }
}

#[tokio::test]
async fn a_stream_of_another_provider_arrives_as_chunks_and_costs_what_it_counts() {
    let scene = Scene::start(Script::default(), &[]).await;
    let google = events(&[google_chunk("Hel", false), google_chunk("lo", true)]);
    for (number, (model, stream, path)) in (1u64..).zip([
        ("claude", anthropic_stream(), "/v1/messages"),
        ("gemini", google, "/v1/models/gemini-1:streamGenerateContent?alt=sse"),
    ]) {
        scene.provider.push(Scripted::events(stream));
        let reply = scene.chat(&streamed(model)).await;
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        assert_eq!(reply.headers["content-type"], "text/event-stream", "{model}");
        assert_eq!(streamed_text(&reply.text()), "Hello", "{model}");
        assert!(!reply.text().contains("\"usage\":{"), "{model}: nobody asked for usage");
        assert_eq!(scene.provider.requests().pop().unwrap().path, path, "{model}");
        assert_eq!(scene.settled().await.0, number * TEN_IN_FIVE_OUT, "{model}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error_that_says_why_and_costs_what_was_counted() {
    let none = json!({
        "candidates": [{ "content": {}, "finishReason": "MALFORMED_FUNCTION_CALL" }],
        "usageMetadata": { "promptTokenCount": 10, "thoughtsTokenCount": 5 },
    });
    for stream in [false, true] {
        let scene = Scene::start(Script::default(), &[]).await;
        let event = format!("data: {none}\r\n\r\n").into_bytes();
        scene.provider.push(if stream { Scripted::events(event) } else { Scripted::json(200, none.to_string()) });
        let reply = scene.chat(&if stream { streamed("gemini") } else { ask("gemini") }).await;
        assert_eq!(reply.error(), (502, "upstream_error".to_owned()), "{}", reply.text());
        assert!(reply.text().contains("MALFORMED_FUNCTION_CALL"), "{}", reply.text());
        assert_eq!(scene.settled().await.0, TEN_IN_FIVE_OUT, "stream: {stream}");
    }
}

#[tokio::test]
async fn wishes_that_a_provider_is_not_told_are_named_however_the_request_ends() {
    let scene = Scene::start(Script::default(), &[]).await;
    let mut asked = ask("claude");
    asked["seed"] = json!(7);
    asked["verbosity"] = json!("low");
    for answer in [Scripted::json(200, anthropic_answer()), Scripted::json(500, "{}".to_owned())] {
        scene.provider.push(answer);
        assert_eq!(scene.chat(&asked).await.headers["x-keyforge-ignored"], "seed, verbosity");
    }
    scene.provider.push(Scripted::json(200, anthropic_answer()));
    assert!(!scene.chat(&ask("claude")).await.headers.contains_key("x-keyforge-ignored"));
}

#[tokio::test]
async fn errors_of_another_provider_are_told_in_the_clients_dialect() {
    let scene = Scene::start(Script::default(), &[]).await;
    let overloaded = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
    scene.provider.push(Scripted::json(529, overloaded.to_string()));
    let limited = (429, "rate_limit_exceeded".to_owned());
    assert_eq!(scene.chat_in_haste(&ask("claude")).await.error(), limited, "as whoever asks next is told");
    assert_eq!(scene.money().await, (0, 0), "refused before it began");
    let start = anthropic_stream().split(|byte| *byte == b'\n').take(2).collect::<Vec<_>>().join(&b'\n');
    let events = [start, format!("\n\nevent: error\ndata: {overloaded}\n\n").into_bytes()].concat();
    // One that nothing was said of.
    let scene = Scene::start(Script::default(), &[]).await;
    scene.provider.push(Scripted::events(events));
    assert_eq!(scene.chat_in_haste(&streamed("claude")).await.error(), limited);
    let exhausted =
        json!({ "error": { "code": 429, "message": "Resource has been exhausted", "status": "RESOURCE_EXHAUSTED" } });
    scene.provider.push(Scripted::json(429, exhausted.to_string()));
    let reply = scene.chat_in_haste(&ask("gemini")).await;
    assert_eq!(reply.error(), limited);
    assert!(reply.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn embeddings_of_another_provider_arrive_as_the_client_expects_them() {
    let scene = Scene::start(Script::default(), &[]).await;
    let answer = json!({ "embeddings": [{ "values": [0.5, -0.25] }, { "values": [1.0, 2.0] }] });
    scene.provider.push(Scripted::json(200, answer.to_string()));
    let reply = scene.post("/v1/embeddings", embed("gemini-e").to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!((&body["object"], &body["data"][1]["embedding"]), (&json!("list"), &json!([1.0, 2.0])));
    assert_eq!(scene.provider.requests().pop().unwrap().path, "/v1/models/gemini-e-1:batchEmbedContents");
    // It counts nothing, so the bound is charged.
    let (held, used) = scene.money().await;
    assert!(held == 0 && used > 0, "{used}");
}
