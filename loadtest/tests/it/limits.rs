//! Keys that are refused and limits that are reached.

use std::collections::BTreeMap;

use keyforge_loadtest::provider::{RateLimit, Script, ScriptedProvider};
use serde_json::json;

use crate::client::{chat, post};

#[tokio::test]
async fn an_unknown_key_is_refused_with_a_masked_form_of_it() {
    let script = Script { accepted_keys: vec!["sk-known".into()], ..Script::default() };
    let provider = ScriptedProvider::start(script).unwrap();
    let answer = post(&provider, "sk-unknown-0123456789", chat(json!({}))).await;
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    assert!(message.contains("sk-u") && message.contains("6789") && !message.contains("unknown"), "{message}");
    assert_eq!(post(&provider, "sk-known", chat(json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_key_over_its_limit_gets_429_and_others_do_not() {
    let limits = BTreeMap::from([("sk-small".into(), RateLimit { requests: 1, window_ms: 60_000, even: false })]);
    let provider = ScriptedProvider::start(Script { rate_limits: limits, ..Script::default() }).unwrap();
    let first = post(&provider, "sk-small", chat(json!({}))).await;
    assert_eq!((first.status, first.header("x-ratelimit-remaining-requests")), (200, "0"));
    let second = post(&provider, "sk-small", chat(json!({}))).await;
    assert_eq!((second.status, &second.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    let after_ms: u64 = second.header("retry-after-ms").parse().unwrap();
    assert!((1..=60_000).contains(&after_ms));
    assert_eq!(second.header("retry-after"), after_ms.div_ceil(1000).to_string());
    assert!(second.header("x-ratelimit-reset-requests").ends_with('s'));
    assert_eq!(post(&provider, "sk-large", chat(json!({}))).await.status, 200);
    assert_eq!(provider.bill().of_credential("sk-small").requests, 1);
}
