//! Every fault does what it says, on the wire.

use std::time::Duration;

use http_body_util::BodyExt;
use keyforge_loadtest::provider::{FaultRule, Reply, Script, ScriptedProvider};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::client::{SILENCE, SOON, chat, post, raw, send, whole};

async fn with(reply: Reply) -> ScriptedProvider {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    provider.push(reply);
    provider
}

/// Everything the provider sends until it closes or falls silent, and whether it closed.
async fn bytes_of(provider: &ScriptedProvider, stream: bool, most: usize) -> (Vec<u8>, bool) {
    let mut socket = raw(provider, chat(json!({"stream": stream}))).await;
    let mut bytes = Vec::new();
    while bytes.len() < most {
        match timeout(SILENCE, socket.read_buf(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return (bytes, true),
            Ok(Ok(_)) => {}
            Err(_) => return (bytes, false),
        }
    }
    (bytes, false)
}

fn events_in(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).matches("data: ").count()
}

#[tokio::test]
async fn one_shot_replies_are_used_in_order_and_then_the_script() {
    let provider = with(Reply::status(503)).await;
    provider.push(Reply::rate_limited(1500).with_header("x-should-retry", "true").after(5));
    assert_eq!(post(&provider, "k", chat(json!({}))).await.status, 503);
    let limited = post(&provider, "k", chat(json!({}))).await;
    assert_eq!((limited.status, limited.header("retry-after"), limited.header("retry-after-ms")), (429, "2", "1500"));
    assert_eq!(limited.header("x-should-retry"), "true");
    assert_eq!(post(&provider, "k", chat(json!({}))).await.status, 200);
    assert_eq!(provider.bill().total().requests, 1);
}

#[tokio::test]
async fn standing_faults_hit_their_key_every_so_often() {
    let rule = FaultRule { every: 2, ..FaultRule::for_credential("sk-bad", Reply::status(500)) };
    let provider = ScriptedProvider::start(Script { faults: vec![rule], ..Script::default() }).unwrap();
    let mut statuses = Vec::new();
    for key in ["sk-bad", "sk-good", "sk-bad", "sk-bad", "sk-bad"] {
        statuses.push(post(&provider, key, chat(json!({}))).await.status);
    }
    assert_eq!(statuses, [200, 200, 500, 200, 500]);
}

#[tokio::test]
async fn bodies_that_are_not_what_they_claim() {
    let provider = with(Reply::Garbage).await;
    let garbage = post(&provider, "k", chat(json!({}))).await;
    assert!(garbage.status == 200 && serde_json::from_slice::<serde_json::Value>(&garbage.body).is_err());
    provider.push(Reply::Html);
    let html = post(&provider, "k", chat(json!({}))).await;
    assert_eq!((html.status, html.header("content-type")), (502, "text/html"));
    provider.push(Reply::GzipGarbage);
    let gzip = post(&provider, "k", chat(json!({}))).await;
    assert_eq!((gzip.header("content-encoding"), &gzip.body[..2]), ("gzip", &[0x1f, 0x8b][..]));
    let bytes: Vec<u8> = (0..=255).collect();
    provider.push(Reply::raw(418, bytes.clone()).with_header("x-two", "1").with_header("x-two", "2"));
    let raw = post(&provider, "k", chat(json!({}))).await;
    assert_eq!((raw.status, raw.headers.get_all("x-two").iter().count()), (418, 2));
    assert_eq!(raw.body, bytes);
}

#[tokio::test]
async fn hanging_replies_send_nothing_or_only_headers() {
    let provider = with(Reply::Hang).await;
    assert_eq!(bytes_of(&provider, false, usize::MAX).await, (Vec::new(), false));
    provider.push(Reply::HangAfterHeaders);
    let response = send(&provider, "k", "/v1/chat/completions", &[], chat(json!({}))).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(timeout(SILENCE, response.into_body().frame()).await.is_err());
}

#[tokio::test]
async fn a_connection_closes_instead_of_answering() {
    let provider = with(Reply::CloseBeforeResponse).await;
    assert_eq!(bytes_of(&provider, false, usize::MAX).await, (Vec::new(), true));
}

#[tokio::test]
async fn a_cut_stream_ends_after_its_events_without_done() {
    let provider = with(Reply::CutStream { after_events: 3 }).await;
    let (bytes, closed) = bytes_of(&provider, true, usize::MAX).await;
    assert_eq!((events_in(&bytes), closed), (3, true));
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "the transfer is not ended as if it were whole");
    let charged = provider.bill().total();
    assert_eq!((charged.completion_tokens, charged.aborted_streams), (2, 0));
    provider.push(Reply::CutStream { after_events: 0 });
    let response = send(&provider, "k", "/v1/chat/completions", &[], chat(json!({}))).await.unwrap();
    assert!(timeout(SOON, whole(response)).await.unwrap().is_err(), "a buffered answer breaks off");
}

#[tokio::test]
async fn a_stalled_stream_falls_silent_after_its_events() {
    let provider = with(Reply::StallStream { after_events: 2 }).await;
    let (bytes, closed) = bytes_of(&provider, true, usize::MAX).await;
    assert_eq!((events_in(&bytes), closed), (2, false));
}

#[tokio::test]
async fn an_error_event_ends_a_stream_without_done() {
    let provider = with(Reply::ErrorEvent { after_events: 0 }).await;
    let response = send(&provider, "k", "/v1/chat/completions", &[], chat(json!({"stream": true}))).await.unwrap();
    let answer = whole(response).await.unwrap();
    assert_eq!((answer.status, answer.text().matches("data: ").count()), (200, 1));
    assert!(answer.text().contains("\"error\"") && !answer.text().contains("[DONE]"));
    assert_eq!(provider.bill().total().completion_tokens, 0);
}

#[tokio::test]
async fn headers_that_never_end() {
    let provider = with(Reply::SlowHeaders { interval_ms: 1 }).await;
    let (bytes, _) = bytes_of(&provider, false, 60).await;
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && !String::from_utf8_lossy(&bytes).contains("\r\n\r\n"));
    provider.push(Reply::EndlessHeader);
    let (bytes, _) = bytes_of(&provider, false, 1 << 20).await;
    assert!(bytes.len() >= 1 << 20 && !String::from_utf8_lossy(&bytes).contains("\r\n\r\n"));
}

#[tokio::test]
async fn an_event_line_that_never_ends() {
    let provider = with(Reply::EndlessLine).await;
    let response = send(&provider, "k", "/v1/chat/completions", &[], chat(json!({"stream": true}))).await.unwrap();
    let (mut body, mut read) = (response.into_body(), 0);
    while read < 1 << 20 {
        let data = timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
        assert!(!data.contains(&b'\n'));
        read += data.len();
    }
}
