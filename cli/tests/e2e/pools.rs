//! Pools in one process: a refusal by the provider is replayed on another credential and no agent sees it, while there is one that can serve.

use std::sync::Arc;
use std::time::Duration;

use keyforge_loadtest::provider::script::FaultRule;
use keyforge_loadtest::provider::{RateLimit, Reply as Scripted, Script, ScriptedProvider};
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::{Gateway, PROVIDER_KEY, Reply, hello, hello_streamed, provider, quota};

/// A second credential of the same provider.
const SPARE: &str = "sk-spare-4c1e8a7b6d5f3a2c1b0e";

/// What OpenAI says when an account has no money left.
const NO_MONEY: &str = r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;

async fn add(gateway: &Gateway, provider: &str, secret: &str, base_url: &str) {
    let mut credentials = CredentialServiceClient::new(gateway.admin().await);
    let request = admin::AddCredentialRequest {
        provider: provider.to_owned(),
        secret: secret.as_bytes().to_vec(),
        base_url: base_url.to_owned(),
        ..admin::AddCredentialRequest::default()
    };
    credentials.add_credential(request).await.unwrap();
}

/// A gateway with two credentials, and a key that was made after them, so that who knows it knows them.
async fn pair(provider: &ScriptedProvider, policy: admin::Policy) -> (Gateway, String, String) {
    let gateway = Gateway::start(provider).await;
    add(&gateway, "openai", SPARE, &provider.base_url()).await;
    let (token, id) = gateway.create_key("agent", policy).await;
    (gateway, token, id)
}

/// How many requests came with this secret.
fn arrived(provider: &ScriptedProvider, secret: &str) -> usize {
    provider.requests().iter().filter(|request| request.credential == secret).count()
}

fn refusing(secret: &str, reply: Scripted) -> Script {
    Script { faults: vec![FaultRule::for_credential(secret, reply)], ..Script::default() }
}

fn error(code: u16, body: &str) -> Scripted {
    Scripted::Status { code, body: Some(body.to_owned()), headers: Default::default() }
}

/// Asks until the credential of this secret was tried; nobody sees that it fails. Returns the answer to that request.
async fn until_tried(gateway: &Gateway, token: &str, provider: &ScriptedProvider, secret: &str) -> Reply {
    for _ in 0..64 {
        let before = arrived(provider, secret);
        let reply = gateway.chat_as(token, &hello()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        if arrived(provider, secret) > before {
            return reply;
        }
    }
    panic!("the credential was never tried");
}

/// What `credential list` says of the credential whose standing is not healthy.
async fn standing(gateway: &Gateway, state: &str) -> Value {
    let found = || {
        let all = gateway.cli_json(&["credential", "list"]);
        all.as_array().unwrap().iter().find(|one| one["standing"]["state"] == state).cloned()
    };
    gateway.eventually("the node has reported how the credential stands", async || found().is_some()).await;
    found().unwrap()
}

#[tokio::test]
async fn i_26_a_refusal_is_replayed_counted_once_and_recorded_twice() {
    let provider = provider(refusing(PROVIDER_KEY, error(429, NO_MONEY)));
    let (gateway, token, id) = pair(&provider, quota(8)).await;
    let reply = until_tried(&gateway, &token, &provider, PROVIDER_KEY).await;
    assert_eq!(reply.header("x-keyforge-attempts"), "2");
    assert_eq!(reply.header("x-keyforge-pool-slot").len(), 8);
    let served = provider.requests().len() - 1;
    for _ in served..8 {
        let reply = gateway.chat_as(&token, &hello()).await;
        assert_eq!((reply.status, reply.header("x-keyforge-attempts")), (200, "1"), "{}", reply.text());
    }
    assert_eq!(gateway.chat_as(&token, &hello()).await.status, 402, "the attempt that was replayed took no request");
    assert_eq!(arrived(&provider, PROVIDER_KEY), 1, "an account without money is not asked again");

    let entries = gateway.entries(&id, 9).await;
    let replayed: Vec<_> = entries.iter().filter(|entry| entry.request_id == reply.header("x-request-id")).collect();
    let shown = |entry: &&admin::RequestEntry| (entry.attempt, entry.status, entry.cost_nano_usd > 0);
    let mut attempts: Vec<_> = replayed.iter().map(shown).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [(1, 429, false), (2, 200, true)]);
    assert!(replayed.iter().any(|entry| entry.flags.iter().any(|flag| flag == "not_counted")));
    let closed = standing(&gateway, "closed").await;
    assert_eq!(closed["standing"]["last_error"]["code"], "insufficient_quota");
    assert!(closed["standing"]["ready_at"].is_string());
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn a_dead_credential_is_an_alarm_and_no_agent_notices() {
    let script = Script { accepted_keys: vec![SPARE.to_owned()], ..Script::default() };
    let provider = provider(script);
    let (gateway, token, _) = pair(&provider, admin::Policy::default()).await;
    until_tried(&gateway, &token, &provider, PROVIDER_KEY).await;
    for _ in 0..20 {
        assert_eq!(gateway.chat_as(&token, &hello_streamed()).await.status, 200);
    }
    assert_eq!(arrived(&provider, PROVIDER_KEY), 1, "it is not asked again");
    let dead = standing(&gateway, "dead").await;
    assert_eq!(dead["standing"]["last_error"]["code"], "invalid_api_key");

    // All dead: nothing that an agent could wait for, until somebody does something.
    provider.set_script(Script { accepted_keys: vec!["sk-another-key-0123456789".to_owned()], ..Script::default() });
    let reply = gateway.chat_as(&token, &hello()).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_credentials_exhausted"));
    assert_eq!(reply.header("x-should-retry"), "false");
    let count = provider.request_count();
    assert_eq!(gateway.chat_as(&token, &hello()).await.status, 502);
    assert_eq!(provider.request_count(), count, "nobody is asked in vain");
    provider.set_script(Script::default());
    let mut credentials = CredentialServiceClient::new(gateway.admin().await);
    let id = dead["id"].as_str().unwrap().to_owned();
    let rotation = admin::RotateCredentialRequest { id, secret: PROVIDER_KEY.into() };
    credentials.rotate_credential(rotation).await.unwrap();
    gateway.eventually("the rotated one serves", async || gateway.chat_as(&token, &hello()).await.status == 200).await;
}

#[tokio::test]
async fn i_28_what_has_begun_is_never_replayed_and_what_has_not_is() {
    let provider = provider(refusing(PROVIDER_KEY, Scripted::CutStream { after_events: 3 }));
    let (gateway, token, _) = pair(&provider, admin::Policy::default()).await;
    let mut cut = 0;
    for number in 1..=20 {
        let reply = gateway.chat_as(&token, &hello_streamed()).await;
        assert_eq!((reply.status, reply.header("x-keyforge-attempts")), (200, "1"));
        cut += usize::from(reply.text().contains("upstream_broken"));
        assert_eq!(provider.request_count(), number, "each was sent once");
    }
    assert!(cut > 0 && cut == arrived(&provider, PROVIDER_KEY), "{cut}");

    // An error in place of the first word is not a beginning.
    let overloaded = "event: error\ndata: {\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
    let reply = Scripted::Raw { status: 200, headers, body: overloaded.into(), chunk_bytes: None };
    provider.set_script(Script::default());
    provider.push(reply);
    let before = provider.request_count();
    let reply = gateway.chat_as(&token, &hello_streamed()).await;
    assert!(reply.status == 200 && reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    assert_eq!((reply.header("x-keyforge-attempts"), provider.request_count() - before), ("2", 2));
}

#[tokio::test]
async fn a_failure_that_may_have_cost_something_is_not_replayed() {
    let provider = provider(refusing(PROVIDER_KEY, Scripted::status(500)));
    let (gateway, token, _) = pair(&provider, admin::Policy::default()).await;
    for number in 1..=20 {
        let reply = gateway.chat_as(&token, &hello()).await;
        assert!([200, 502].contains(&reply.status));
        assert_eq!((provider.request_count(), reply.header("x-keyforge-attempts")), (number, "1"));
    }
    assert!(arrived(&provider, PROVIDER_KEY) > 1, "and the credential is not to blame");
}

#[tokio::test]
async fn the_quota_of_a_day_and_the_limit_of_a_month_close_a_credential_until_then() {
    let spent = r#"{"type":"error","error":{"type":"rate_limit_error","message":"You have reached your specified API usage limits.","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
    let message = json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
        "content": [{ "type": "text", "text": "Hello" }], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": { "input_tokens": 10, "output_tokens": 3 } });
    let per_day = json!({ "error": { "code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED", "details": [
        { "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
            { "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier" }] },
        { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38s" }] } });
    let content = json!({ "candidates": [{ "content": { "parts": [{ "text": "Hello" }], "role": "model" }, "finishReason": "STOP", "index": 0 }],
        "usageMetadata": { "promptTokenCount": 10, "candidatesTokenCount": 3, "totalTokenCount": 13 }, "modelVersion": "gemini-2.5-flash" });
    for (name, model, refusal, answer) in [
        ("anthropic", "claude-sonnet-4-5", spent.to_owned(), message),
        ("google", "gemini-2.5-flash", per_day.to_string(), content),
    ] {
        let faults = vec![
            FaultRule::for_credential("sk-closed-0123456789", error(429, &refusal)),
            FaultRule::for_credential("sk-served-0123456789", error(200, &answer.to_string())),
        ];
        let provider = provider(Script { faults, ..Script::default() });
        let gateway = Gateway::start(&provider).await;
        for secret in ["sk-closed-0123456789", "sk-served-0123456789"] {
            add(&gateway, name, secret, &provider.base_url()).await;
        }
        let (token, _) = gateway.create_key("agent", admin::Policy::default()).await;
        let ask = json!({ "model": model, "max_tokens": 100, "messages": [{ "role": "user", "content": "Hello" }] });
        for _ in 0..30 {
            let reply = gateway.chat_as(&token, &ask).await;
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        }
        assert_eq!(arrived(&provider, "sk-closed-0123456789"), 1, "{name}: not asked again before its time");
        let closed = standing(&gateway, "closed").await;
        assert!(closed["standing"]["ready_at"].is_string(), "{name}: {closed}");
    }
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_passed_over() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    add(&gateway, "openai", SPARE, &format!("http://{closed}/v1")).await;
    let (token, id) = gateway.create_key("agent", quota(20)).await;
    let mut replayed = 0;
    for _ in 0..20 {
        let reply = gateway.chat_as(&token, &hello()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        replayed += usize::from(reply.header("x-keyforge-attempts") == "2");
    }
    assert!(replayed > 0, "its host was never tried");
    assert_eq!(gateway.entries(&id, 20 + replayed).await.len(), 20 + replayed);
}

/// More requests than may be replayed: nobody would be served by replaying alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stays_away_costs_no_request_and_is_hardly_tried() {
    const REQUESTS: usize = 480;
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    add(&gateway, "openai", SPARE, &provider.base_url()).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for number in 0..2 {
        add(&gateway, "openai", &format!("sk-away-{number}-0123456789"), &format!("http://{closed}/v1")).await;
    }
    let (token, _) = gateway.create_key("agent", admin::Policy::default()).await;
    let mut replayed = 0;
    for _ in 0..REQUESTS {
        let reply = gateway.chat_as(&token, &hello()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        replayed += usize::from(reply.header("x-keyforge-attempts") != "1");
    }
    assert!((1..50).contains(&replayed), "{replayed} of {REQUESTS} met it");
    assert_eq!(provider.requests().len(), REQUESTS);
}

#[tokio::test]
async fn a_request_that_needs_a_moment_waits_for_it_and_one_that_needs_longer_is_told_when() {
    let bucket = RateLimit::bucket(1, 2_000);
    let provider = provider(Script { rate_limit: Some(bucket), ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (token, _) = gateway.create_key("agent", admin::Policy::default()).await;
    assert_eq!(gateway.chat_as(&token, &hello()).await.status, 200);
    let asked = Instant::now();
    let reply = gateway.chat_as(&token, &hello()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(asked.elapsed() > Duration::from_millis(1_500), "it waited: {:?}", asked.elapsed());

    // An hour is not worth waiting for.
    provider.set_script(Script { rate_limit: Some(RateLimit::bucket(1, 3_600_000)), ..Script::default() });
    sleep(Duration::from_secs(2)).await;
    let replies = [gateway.chat_as(&token, &hello()).await, gateway.chat_as(&token, &hello()).await];
    let refused = replies.iter().find(|reply| reply.status != 200).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(refused.header("x-keyforge-error"), "pool_exhausted");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((3_500..=3_960).contains(&seconds), "{seconds}");
    assert!(refused.text().contains("try again in 3"), "{}", refused.text());
}

/// Agents that ask for much more than there is, each with a key of its own, and come back when they are told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_capacity_whoever_comes_back_as_told_is_served() {
    const AGENTS: usize = 60;
    let bucket = RateLimit::bucket(2, 1_000);
    let provider = provider(Script { rate_limit: Some(bucket), ..Script::default() });
    let (gateway, _, _) = pair(&provider, admin::Policy::default()).await;
    let mut tokens = Vec::new();
    for agent in 0..AGENTS {
        tokens.push(gateway.create_key(&format!("agent-{agent}"), admin::Policy::default()).await.0);
    }
    let long = std::env::var("KEYFORGE_LONG_TESTS").is_ok_and(|value| !value.is_empty());
    let (gateway, end) = (Arc::new(gateway), Instant::now() + Duration::from_secs(if long { 240 } else { 45 }));
    let mut agents = JoinSet::new();
    for token in tokens {
        let gateway = Arc::clone(&gateway);
        agents.spawn(async move {
            let (mut served, mut told, mut kept) = (0, 0, 0);
            while Instant::now() < end {
                let reply = gateway.chat_as(&token, &hello()).await;
                if reply.status == 200 {
                    served += 1;
                    continue;
                }
                assert_eq!((reply.status, reply.header("x-keyforge-error")), (429, "pool_exhausted"));
                told += 1;
                let wait = Duration::from_millis(reply.header("retry-after-ms").parse().unwrap());
                sleep(wait).await;
                let again = gateway.chat_as(&token, &hello()).await;
                kept += usize::from(again.status == 200);
                served += usize::from(again.status == 200);
            }
            (served, told, kept)
        });
    }
    let outcomes = agents.join_all().await;
    let sum = outcomes.iter().fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    let (served, told, kept) = sum;
    eprintln!("pools: above capacity {served} served, {told} told to come back, {kept} of them served then");
    assert!(told > 20, "it was not above capacity");
    assert!(kept * 100 >= told * 99, "{kept} of {told}");
}
