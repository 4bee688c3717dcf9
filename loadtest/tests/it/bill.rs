//! The bill counts what was made, whatever became of it.

use http_body_util::BodyExt;
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::client::{SOON, chat, post, send};

#[tokio::test]
async fn the_bill_is_the_sum_of_reported_usage_by_key_and_model() {
    let provider = ScriptedProvider::start(Script { reasoning_tokens: 3, ..Script::default() }).unwrap();
    for (key, model, stream) in [("a", "gpt-4o", false), ("a", "gpt-5", true), ("b", "gpt-5", true)] {
        let asked = json!({"model": model, "stream": stream, "n": 2});
        assert_eq!(post(&provider, key, chat(asked)).await.status, 200);
    }
    let bill = provider.bill();
    assert_eq!(bill.total().completion_tokens, 3 * 2 * (16 + 3));
    assert_eq!(bill.total().reasoning_tokens, 3 * 2 * 3);
    assert_eq!((bill.of_credential("a").requests, bill.of_model("gpt-5").requests), (2, 2));
    assert_eq!(bill.of_credential("b").prompt_tokens, 6);
    assert_eq!(bill.total().aborted_streams, 0);
}

#[tokio::test]
async fn a_stream_that_the_client_left_costs_its_prompt_and_what_was_made() {
    let script = Script { token_interval_ms: 20, completion_tokens: 500, ..Script::default() };
    let provider = ScriptedProvider::start(script).unwrap();
    let response = send(&provider, "k", "/v1/chat/completions", &[], chat(json!({"stream": true}))).await.unwrap();
    let mut body = response.into_body();
    let mut events = 0;
    while events < 4 {
        let frame = body.frame().await.unwrap().unwrap();
        events += frame.data_ref().map_or(0, |data| data.windows(5).filter(|part| part == b"data:").count());
    }
    drop(body);
    let left = async {
        while provider.bill().total().aborted_streams == 0 {
            sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, left).await.expect("the provider notices that the client left");
    let charged = provider.bill().of_credential("k");
    assert_eq!((charged.requests, charged.prompt_tokens, charged.aborted_streams), (1, 6, 1));
    assert!((3..20).contains(&charged.completion_tokens), "{charged:?}");
}
