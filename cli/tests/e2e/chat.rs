//! The way that everything goes right: an agent chats, streams and calls tools with a virtual key, and all of it is metered and chained.

use hyper::Method;
use keyforge_loadtest::provider::Script;
use serde_json::{Value, json};

use crate::harness::{Gateway, PROVIDER_KEY, hello, hello_streamed, provider, read};

#[tokio::test]
async fn a_buffered_answer_is_the_providers_bytes_paid_recorded_and_served_with_a_key_the_agent_never_saw() {
    let provider = provider(Script { cached_tokens: 3, reasoning_tokens: 2, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let reply = gateway.chat(&hello()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["choices"][0]["message"]["role"], "assistant");
    assert!(!reply.header("x-request-id").is_empty());
    assert_eq!(reply.header("x-keyforge-key-id"), Gateway::id_of(&gateway.key));
    assert_eq!(reply.header("x-keyforge-provider"), "openai");

    let seen = &provider.requests()[0];
    assert_eq!(seen.credential, PROVIDER_KEY);
    assert!(seen.headers.iter().all(|(_, value)| !format!("{value:?}").contains("vk_")), "the token stays here");
    assert_eq!(seen.json()["max_completion_tokens"], 16_384, "a capped key's request always carries an output limit");

    let usage = reply.json()["usage"].clone();
    let entry = gateway.entries(&Gateway::id_of(&gateway.key), 1).await.remove(0);
    assert_eq!(entry.outcome, "completed");
    assert_eq!(entry.request_id, reply.header("x-request-id"));
    assert_eq!(entry.input_tokens + entry.cache_read_tokens, usage["prompt_tokens"].as_u64().unwrap());
    assert_eq!(entry.cache_read_tokens, 3);
    assert_eq!(entry.output_tokens, usage["completion_tokens"].as_u64().unwrap());
    assert_eq!(entry.reasoning_tokens, 2);
    // gpt-4o-mini: 150, 75 and 600 nano-dollars a thousandth of a token, rounded up once.
    let pico = entry.input_tokens * 150_000 + entry.cache_read_tokens * 75_000 + entry.output_tokens * 600_000;
    assert_eq!(entry.cost_nano_usd, pico.div_ceil(1000));
    assert_eq!(
        reply.header("x-keyforge-cost-usd"),
        keyforge_shared::money::NanoUsd::new(entry.cost_nano_usd).decimal()
    );
    assert!(entry.bound_nano_usd >= entry.cost_nano_usd, "I-3");
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn a_stream_shows_usage_only_to_those_who_asked_and_is_metered_either_way() {
    let provider = provider(Script { chunk_bytes: Some(7), ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let plain = gateway.chat(&hello_streamed()).await;
    assert!(plain.header("content-type").starts_with("text/event-stream"));
    let events = plain.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(!plain.text().contains("\"usage\""), "{}", plain.text());

    let mut asking = hello_streamed();
    asking["stream_options"] = json!({ "include_usage": true });
    let asked = gateway.chat(&asking).await;
    let events = asked.events();
    let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(last["choices"], json!([]));

    for seen in provider.requests() {
        assert_eq!(seen.json()["stream_options"]["include_usage"], true);
    }
    let entries = gateway.entries(&Gateway::id_of(&gateway.key), 2).await;
    for entry in &entries {
        assert!(entry.flags.iter().any(|flag| flag.contains("stream")), "{:?}", entry.flags);
        assert_eq!(entry.output_tokens, last["usage"]["completion_tokens"].as_u64().unwrap());
    }
}

#[tokio::test]
async fn streamed_tool_calls_arrive_whole() {
    let provider = provider(Script { chunk_bytes: Some(11), ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let tools = json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters } }]);
    let mut body = hello_streamed();
    body["tools"] = tools;
    let reply = gateway.chat(&body).await;
    let mut arguments = String::new();
    let mut finish = Value::Null;
    for event in reply.events().iter().filter(|event| *event != "[DONE]") {
        let chunk: Value = serde_json::from_str(event).unwrap();
        let choice = &chunk["choices"][0];
        arguments += choice["delta"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap_or("");
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    assert_eq!(finish, "tool_calls");
    assert!(serde_json::from_str::<Value>(&arguments).unwrap()["city"].is_string(), "{arguments}");
}

#[tokio::test]
async fn a_request_that_needs_no_edit_reaches_the_provider_byte_for_byte() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (token, _) = gateway.create_key("unlimited", Default::default()).await;
    let body = "{ \"model\" : \"gpt-4o-mini\",\n\t\"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9 \\ud83d\\ude00\"}], \"unknown\":[1.50,{}] }";
    let reply = gateway.send(Method::POST, "/v1/chat/completions", &token, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = provider.requests().pop().unwrap();
    assert_eq!(seen.body, body.as_bytes());
}

#[tokio::test]
async fn each_key_sees_its_own_models() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let policy = keyforge_proto::admin::v1::Policy { models: vec!["gpt-4o-mini*".to_owned()], ..Default::default() };
    let (token, _) = gateway.create_key("narrow", policy).await;
    let list = gateway.send(Method::GET, "/v1/models", &token, "").await.json();
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("gpt-4o-mini")), "{names:?}");
    assert_eq!(gateway.send(Method::GET, "/v1/models/gpt-4o-mini", &token, "").await.json()["object"], "model");
    assert_eq!(gateway.send(Method::GET, "/v1/models/gpt-4o", &token, "").await.status, 404);
}

#[tokio::test]
async fn http_2_by_prior_knowledge_is_served() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<http_body_util::Full<bytes::Bytes>>();
    let request = hyper::Request::post(format!("{}/v1/chat/completions", gateway.url))
        .header("x-api-key", &gateway.key)
        .body(http_body_util::Full::new(bytes::Bytes::from(hello_streamed().to_string())))
        .unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    assert!(read(response).await.text().ends_with("data: [DONE]\n\n"));
}
