//! One click kills one key: its next request, its running streams, and nothing of any other key.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use keyforge_loadtest::provider::Script;

use crate::harness::{Gateway, events, hello, hello_streamed, provider, read};

#[tokio::test]
async fn i_12_a_revoked_key_is_dead_at_its_next_request_its_stream_is_cut_and_other_keys_do_not_notice() {
    let provider = provider(Script { completion_tokens: 60, token_interval_ms: 50, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (doomed, doomed_id) = gateway.create_key("doomed", Default::default()).await;
    let (other, other_id) = gateway.create_key("other", Default::default()).await;

    let mut cut = gateway.open(&doomed, &hello_streamed()).await.into_body();
    let spared = gateway.open(&other, &hello_streamed()).await;
    assert!(cut.frame().await.unwrap().unwrap().is_data(), "the stream runs");

    let revoked_at = Instant::now();
    let answer = gateway.cli_json(&["key", "revoke", &doomed_id]);
    assert_eq!(answer["status"], "revoked", "{answer}");
    gateway.eventually("the key is refused", async || gateway.chat_as(&doomed, &hello()).await.status == 401).await;
    assert!(revoked_at.elapsed() < Duration::from_secs(2), "{:?}", revoked_at.elapsed());

    let rest = String::from_utf8(cut.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let events = events(&rest);
    let last: serde_json::Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "invalid_api_key", "{rest}");
    assert!(last["error"]["message"].as_str().unwrap().contains("revoked"));
    assert!(!rest.contains("[DONE]"));

    let whole = read(spared).await.text();
    assert!(whole.ends_with("data: [DONE]\n\n") && !whole.contains("error"), "the other key's stream ran to its end");

    let entries = gateway.entries(&doomed_id, 2).await;
    let streamed = entries.iter().find(|entry| entry.outcome == "completed").unwrap();
    assert!(streamed.flags.iter().any(|flag| flag.contains("revoked")), "{:?}", streamed.flags);
    assert!(entries.iter().any(|entry| entry.rejection == "key_revoked"));
    assert_eq!(gateway.entries(&other_id, 1).await[0].outcome, "completed");
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn a_revoked_key_stays_dead_over_a_restart_and_cannot_be_brought_back() {
    let provider = provider(Script::default());
    let mut gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("doomed", Default::default()).await;
    gateway.cli_json(&["key", "revoke", &id]);
    gateway.cli_json(&["key", "revoke", &id]);
    let update = gateway.cli(&["key", "unfreeze", &id]);
    assert_eq!(update.status.code(), Some(1), "{}", String::from_utf8_lossy(&update.stderr));
    gateway.stop().await;
    gateway.launch().await;
    let refused = gateway.chat_as(&token, &hello()).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "invalid_api_key"));
    assert_eq!(gateway.chat(&hello()).await.status, 200);
}

#[tokio::test]
async fn a_frozen_key_is_refused_until_it_is_unfrozen() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("paused", Default::default()).await;
    gateway.cli_json(&["key", "freeze", &id]);
    gateway.eventually("it is frozen", async || gateway.chat_as(&token, &hello()).await.status == 401).await;
    gateway.cli_json(&["key", "unfreeze", &id]);
    gateway.eventually("it works again", async || gateway.chat_as(&token, &hello()).await.status == 200).await;
}
