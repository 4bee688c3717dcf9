//! One click kills one key: its next request, its running streams, and nothing of any other key.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use keyforge_loadtest::provider::Script;

use crate::harness::{Gateway, events, hello, hello_streamed, provider, quota, read};

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
    // The call has returned: nothing has to be waited for any more.
    assert_eq!(gateway.chat_as(&doomed, &hello()).await.status, 401);
    assert!(revoked_at.elapsed() < Duration::from_secs(2), "{:?}", revoked_at.elapsed());
    let receipt = &answer["receipt"];
    assert_eq!((receipt["nodes_acked"].as_u64(), receipt["nodes_total"].as_u64()), (Some(1), Some(1)), "{answer}");
    assert_eq!(receipt["streams_cut"].as_u64(), Some(1), "{answer}");

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
    let update = gateway.cli(&["key", "resume", &id]);
    assert_eq!(update.status.code(), Some(1), "{}", String::from_utf8_lossy(&update.stderr));
    gateway.stop().await;
    gateway.launch().await;
    let refused = gateway.chat_as(&token, &hello()).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "invalid_api_key"));
    let served = gateway.chat(&hello()).await;
    assert_eq!(served.status, 200, "{}", served.code());
}

#[tokio::test]
async fn a_paused_key_is_refused_and_its_stream_cut_until_it_is_resumed() {
    let provider = provider(Script { completion_tokens: 60, token_interval_ms: 50, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("paused", Default::default()).await;
    let mut cut = gateway.open(&token, &hello_streamed()).await.into_body();
    assert!(cut.frame().await.unwrap().unwrap().is_data(), "the stream runs");
    let paused = gateway.cli_json(&["key", "pause", &id]);
    assert_eq!((paused["status"].as_str(), paused["receipt"]["streams_cut"].as_u64()), (Some("paused"), Some(1)));
    assert_eq!(gateway.chat_as(&token, &hello()).await.status, 401);
    assert!(last_error(cut).await["message"].as_str().unwrap().contains("paused"));
    let resumed = gateway.cli_json(&["key", "resume", &id]);
    assert_eq!(resumed["receipt"]["nodes_acked"].as_u64(), Some(1), "{resumed}");
    assert_eq!(gateway.chat_as(&token, &hello()).await.status, 200);
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn a_key_that_was_set_to_nothing_is_told_that_its_quota_is_used_up_until_it_gets_another() {
    let provider = provider(Script { completion_tokens: 60, token_interval_ms: 50, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("zeroed", quota(1_000)).await;
    let mut cut = gateway.open(&token, &hello_streamed()).await.into_body();
    assert!(cut.frame().await.unwrap().unwrap().is_data(), "the stream runs");
    let zeroed = gateway.cli_json(&["key", "zero", &id]);
    assert_eq!((zeroed["status"].as_str(), zeroed["receipt"]["streams_cut"].as_u64()), (Some("active"), Some(1)));
    let refused = gateway.chat_as(&token, &hello()).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "budget_exceeded"), "{}", refused.text());
    assert_eq!(last_error(cut).await["code"], "budget_exceeded");
    gateway.cli_json(&["key", "update", &id, "--requests", "1000/month"]);
    gateway.eventually("it works again", async || gateway.chat_as(&token, &hello()).await.status == 200).await;
    gateway.assert_chains_hold();
}

/// The error that a stream ends with.
async fn last_error(body: hyper::body::Incoming) -> serde_json::Value {
    let rest = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let last: serde_json::Value = serde_json::from_str(events(&rest).last().unwrap()).unwrap();
    assert!(!rest.contains("[DONE]"));
    last["error"].clone()
}
