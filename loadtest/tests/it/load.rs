//! The load generator measures the provider, and the two agree on what happened.

use std::time::Duration;

use keyforge_loadtest::load::prompt::Prompt;
use keyforge_loadtest::load::{Limit, Target, closed, rate, stream};
use keyforge_loadtest::provider::{Reply, Script, ScriptedProvider};

fn prompt(stream: bool) -> Prompt {
    Prompt { model: "gpt-4o".into(), prompt_bytes: 50, max_tokens: 64, stream }
}

fn calls(calls: u64) -> Limit {
    Limit { calls, ..Limit::seconds(20) }
}

fn start(script: Script) -> (ScriptedProvider, Target) {
    let provider = ScriptedProvider::start(script).unwrap();
    let target = Target::parse(&provider.base_url(), "sk-load").unwrap();
    (provider, target)
}

#[tokio::test]
async fn a_closed_loop_makes_exactly_its_calls_and_counts_failures() {
    let (provider, target) = start(Script::default());
    provider.push(Reply::status(503));
    provider.push(Reply::CloseBeforeResponse);
    let seen = closed::run(&target, &prompt(false).body(), 4, calls(200)).await.unwrap();
    assert_eq!((seen.calls, seen.failures, seen.latency.count()), (198, 2, 198));
    assert!(seen.first_failure.is_some() && seen.per_second() > 0.0);
    assert_eq!((provider.bill().of_credential("sk-load").requests, provider.request_count()), (198, 200));
}

#[tokio::test]
async fn at_a_fixed_rate_a_stall_is_charged_to_every_call_that_waited() {
    let (provider, target) = start(Script::default());
    provider.push(Reply::Answer.after(300));
    let seen = rate::run(&target, &prompt(false).body(), 200, 1, calls(40)).await.unwrap();
    assert_eq!((seen.calls, seen.failures), (40, 0));
    assert!(seen.latency.quantile(0.5) > Duration::from_millis(50), "{:?}", seen.latency.quantile(0.5));
}

#[tokio::test]
async fn streams_are_counted_by_event_and_timed_to_their_first_content() {
    let script = Script { first_token_ms: 20, token_interval_ms: 5, completion_tokens: 10, ..Script::default() };
    let (_provider, target) = start(script);
    let seen = stream::run(&target, &prompt(true).body(), 3, calls(6)).await.unwrap();
    assert_eq!((seen.streams, seen.failures, seen.events), (6, 0, 6 * (1 + 10 + 1 + 1 + 1)));
    assert!(seen.first_byte.quantile(0.0) >= Duration::from_millis(20));
    assert!(seen.total.quantile(0.0) >= seen.first_content.quantile(0.0) + Duration::from_millis(40));
}

#[tokio::test]
async fn a_stream_without_done_is_a_failure() {
    let (provider, target) = start(Script::default());
    provider.push(Reply::ErrorEvent { after_events: 3 });
    let seen = stream::run(&target, &prompt(true).body(), 1, calls(2)).await.unwrap();
    assert_eq!((seen.streams, seen.failures), (1, 1));
    assert!(seen.first_failure.unwrap().contains("[DONE]"));
}
