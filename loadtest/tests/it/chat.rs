//! Buffered answers, tools, response formats, models and errors.

use keyforge_loadtest::provider::{Reply, Script, ScriptedProvider};
use serde_json::{Value, json};

use crate::client::{chat, post, send, whole};

fn tools() -> Value {
    let parameters = json!({"type": "object", "required": ["city", "unit"], "properties":
        {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]}}});
    json!([
        {"type": "function", "function": {"name": "weather", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

#[tokio::test]
async fn a_buffered_answer_has_content_and_usage() {
    let provider = ScriptedProvider::start(Script { cached_tokens: 2, ..Script::default() }).unwrap();
    let answer = post(&provider, "sk-a", chat(json!({}))).await;
    let body = answer.json();
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert!(body["choices"][0]["message"]["content"].as_str().unwrap().starts_with("slow boats"));
    assert_eq!(body["usage"]["completion_tokens"], 16);
    assert_eq!(body["usage"]["prompt_tokens"], 6);
    assert_eq!(body["usage"]["total_tokens"], 22);
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    let seen = provider.requests();
    assert_eq!((seen.len(), seen[0].credential.as_str(), &seen[0].json()["model"]), (1, "sk-a", &json!("gpt-4o")));
    provider.shutdown().await;
}

#[tokio::test]
async fn max_tokens_cuts_and_n_multiplies() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let body = post(&provider, "k", chat(json!({"max_completion_tokens": 2, "n": 3}))).await.json();
    let said: Vec<&Value> =
        body["choices"].as_array().unwrap().iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(said, ["slow boats"; 3]);
    assert_eq!(body["choices"][2]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn the_first_tool_is_called_with_arguments_of_its_schema() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let body = post(&provider, "k", chat(json!({"tools": tools()}))).await.json();
    let calls = body["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    let arguments: Value = serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!("weather")));
    assert_eq!(arguments, json!({"city": "sample", "unit": "celsius"}));
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(body["choices"][0]["message"]["content"], Value::Null);
}

#[tokio::test]
async fn tool_choice_and_tool_results_decide_whether_a_tool_is_called() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let forced = json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "now"}}});
    let body = post(&provider, "k", chat(forced)).await.json();
    assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["function"], json!({"name": "now", "arguments": "{}"}));
    let body = post(&provider, "k", chat(json!({"tools": tools(), "tool_choice": "none"}))).await.json();
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let after = json!({"tools": tools(), "messages": [{"role": "tool", "tool_call_id": "c", "content": "12"}]});
    let body = post(&provider, "k", chat(after)).await.json();
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_json_schema_is_answered_with_json_that_satisfies_it() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let schema = json!({"type": "object", "required": ["rows"], "properties": {"rows": {"type": "array", "items":
        {"$ref": "#/$defs/row"}}}, "$defs": {"row": {"type": "object", "required": ["n", "of"], "properties":
        {"n": {"type": "integer"}, "of": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "t", "strict": true, "schema": schema}});
    let body = post(&provider, "k", chat(json!({"response_format": format}))).await.json();
    let said: Value = serde_json::from_str(body["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(said, json!({"rows": [{"n": 1, "of": true}]}));
}

#[tokio::test]
async fn the_sandbox_says_what_it_is_and_repeats_the_user() {
    let provider = ScriptedProvider::start(Script::sandbox()).unwrap();
    let answer = post(&provider, "anything", chat(json!({}))).await;
    let body = answer.json();
    let said = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(said.contains("sandbox, not a real model") && said.ends_with("hello"), "{said}");
    assert_eq!(
        (answer.header("x-keyforge-sandbox"), &body["system_fingerprint"]),
        ("true", &json!("keyforge-sandbox"))
    );
}

#[tokio::test]
async fn errors_have_the_form_of_openai() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let answer = post(&provider, "k", chat(json!({"model": "missing-model"}))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("model_not_found")));
    let answer = post(&provider, "k", json!({"model": "m"})).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("messages")));
    let response = send(&provider, "k", "/v1/nothing", &[], json!({})).await.unwrap();
    assert_eq!(whole(response).await.unwrap().status, 404);
    assert_eq!(provider.bill().total().requests, 0);
}

#[tokio::test]
async fn the_script_can_be_swapped_while_it_runs() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    provider.set_script(Script { completion_tokens: 3, model_suffix: "-2024-08-06".into(), ..Script::default() });
    let body = post(&provider, "k", chat(json!({}))).await.json();
    assert_eq!((&body["usage"]["completion_tokens"], &body["model"]), (&json!(3), &json!("gpt-4o-2024-08-06")));
}

#[tokio::test]
async fn cleartext_http2_is_spoken_on_the_same_port() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let socket = tokio::net::TcpStream::connect(provider.addr()).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(TokioIo::new(socket)).await.unwrap();
    let _driver = tokio::task::JoinSet::from_iter([connection]);
    let url = format!("{}/chat/completions", provider.base_url());
    let ask = |stream: bool| {
        let body = chat(json!({"stream": stream})).to_string();
        http::Request::post(&url).body(Full::new(bytes::Bytes::from(body))).unwrap()
    };
    let whole = sender.send_request(ask(false)).await.unwrap();
    assert_eq!((whole.version(), whole.status().as_u16()), (http::Version::HTTP_2, 200));
    provider.push(Reply::CutStream { after_events: 2 });
    let cut = sender.send_request(ask(true)).await.unwrap().into_body().collect().await;
    assert!(cut.is_err(), "a cut stream is reset");
    let again = sender.send_request(ask(true)).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(again.ends_with(b"data: [DONE]\n\n"), "and the connection lives on");
}
