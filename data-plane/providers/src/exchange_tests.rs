//! The face of the crate: a host of the client's own dialect gets and gives the client's bytes.

use serde_json::{Value, json};

use super::*;
use crate::openai::request::scan;

fn destination(api: Api) -> Destination<'static> {
    Destination {
        api,
        target: Target { model: "up", limit: None, model_limit: None },
        limit_field: MaxTokensField::Current,
        usage_option: true,
    }
}

#[test]
fn a_host_of_the_same_dialect_gets_the_clients_bytes_and_so_does_the_client() {
    let body = Bytes::from(r#"{ "model":"m", "messages":[{"role":"user","content":"hi","x":1}], "foo":[1] }"#);
    let request = scan(&body).unwrap();
    let (outgoing, exchange) = chat(&request, body, &destination(Api::OpenAi), Stamp::default()).unwrap();
    assert_eq!((&*outgoing.path, outgoing.headers.len()), ("/chat/completions", 0));
    assert_eq!(
        outgoing.body.to_bytes(),
        r#"{ "model":"up", "messages":[{"role":"user","content":"hi","x":1}], "foo":[1] }"#
    );
    let answer = Bytes::from(r#"{"choices":[{}], "bar":1,"usage":{"prompt_tokens":1,"completion_tokens":2}}"#);
    let read = exchange.answer(answer.clone()).unwrap();
    assert_eq!((read.body, read.usage.map(|usage| usage.output)), (answer, Some(2)));
}

#[test]
fn embeddings_pass_a_host_of_the_same_api() {
    let body = Bytes::from(r#"{"model":"m","input":["a","b"],"truncate":true}"#);
    let request = openai::embeddings::scan(&body).unwrap();
    let (outgoing, exchange) = embeddings(&request, body.clone(), &destination(Api::OpenAi), Stamp::default()).unwrap();
    assert_eq!(&*outgoing.path, "/embeddings");
    assert_eq!(outgoing.body.to_bytes(), r#"{"model":"up","input":["a","b"],"truncate":true}"#);
    let answer = Bytes::from(r#"{"data":[{},{}],"model":"e","usage":{"prompt_tokens":4,"total_tokens":4}}"#);
    let read = exchange.answer(answer.clone()).unwrap();
    assert_eq!((read.body, read.usage.map(|usage| usage.input), read.model.as_deref()), (answer, Some(4), Some("e")));
    assert_eq!(exchange.answer(Bytes::from(r#"{"data":[{}]}"#)), Err(NotAnAnswer::NoEmbeddings));
}

#[test]
fn a_provider_without_embeddings_says_so_by_the_models_name() {
    let body = Bytes::from(r#"{"model":"m","input":"a"}"#);
    let request = openai::embeddings::scan(&body).unwrap();
    let error = embeddings(&request, body, &destination(Api::Anthropic), Stamp::default()).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("model"));
}

#[test]
fn what_is_to_be_translated_is_refused_by_its_path() {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }] });
    let body = Bytes::from(body.to_string());
    let request = scan(&body).unwrap();
    for api in [Api::Anthropic, Api::Google] {
        let error = chat(&request, body.clone(), &destination(api), Stamp::default()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("messages[0].content[0].image_url.url"));
        assert!(error.message.starts_with("`messages[0].content[0].image_url.url` must be a URL"), "{error}");
    }
}

#[test]
fn a_plain_conversation_reaches_every_provider() {
    let body = Bytes::from(
        json!({ "model": "m", "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }] }).to_string(),
    );
    let request = scan(&body).unwrap();
    for api in [Api::OpenAi, Api::Anthropic, Api::Google] {
        let (outgoing, _) = chat(&request, body.clone(), &destination(api), Stamp::default()).unwrap();
        let sent: Value = serde_json::from_slice(&outgoing.body.to_bytes()).unwrap();
        assert!(sent.to_string().contains("\"hi\""), "{api:?}: {sent}");
    }
}
