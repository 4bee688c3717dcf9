//! A key is worth exactly what is left of it: quota, cap and rate under concurrency.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use keyforge_loadtest::provider::{Reply as Scripted, Script};
use keyforge_proto::admin::v1 as admin;
use serde_json::json;

use crate::harness::{Gateway, Reply, cap, hello, hello_streamed, provider, quota};

/// gpt-4o-mini's output price in nano-dollars a token, times a thousand.
const OUTPUT_PICO: u64 = 600_000;

/// A refusal that no waiting helps, and that is no credential's fault.
const TOO_LARGE: &str = r#"{"error":{"message":"Request too large for gpt-4o-mini on tokens per min (TPM): Limit 1, Requested 2.","type":"tokens","code":"rate_limit_exceeded"}}"#;

fn by_status(replies: &[Reply]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts.entry(reply.status).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn of_64_concurrent_requests_a_quota_of_20_admits_exactly_20() {
    let provider = provider(Script { latency_ms: 1_500, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("quota", quota(20)).await;
    let body = hello();
    let replies = join_all((0..64).map(|_| gateway.chat_as(&token, &body))).await;
    // All twenty still run, and nobody knows yet what they will be charged.
    assert_eq!(by_status(&replies), BTreeMap::from([(200, 20), (429, 44)]));
    assert_eq!(provider.bill().total().requests, 20, "the provider's own count");
    let refused = replies.iter().find(|reply| reply.status == 429).unwrap();
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("limit_settling", "2"));
    assert_eq!(refused.header("x-should-retry"), "");
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["type"], &error["dimension"], &error["limit"]),
        (&json!("rate_limit_error"), &json!("requests"), &json!(20))
    );
    assert_eq!(error["spent"].as_u64().unwrap() + error["held"].as_u64().unwrap(), 20);
    // Now it is known.
    let refused = gateway.chat_as(&token, &body).await;
    let error = &refused.json()["error"];
    assert_eq!((refused.status, refused.code().as_str()), (402, "budget_exceeded"));
    assert_eq!((&error["type"], &error["dimension"]), (&json!("insufficient_quota"), &json!("requests")));
    assert_eq!((&error["limit"], &error["spent"], &error["held"]), (&json!(20), &json!(20), &json!(0)));
    assert!(error["reset_at"].as_str().unwrap().ends_with("-01T00:00:00Z"), "{error}");
    assert_eq!(refused.header("x-should-retry"), "false");
    let entries = gateway.entries(&id, 65).await;
    let refusals = |code: &str| entries.iter().filter(|entry| entry.rejection == code).count();
    assert_eq!(entries.iter().filter(|entry| entry.outcome == "completed").count(), 20);
    assert_eq!((refusals("limit_settling"), refusals("budget_exceeded")), (44, 1));
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn of_64_concurrent_requests_a_cap_of_one_cent_admits_exactly_what_fits() {
    // The dearest provider there can be: every answer is as long as it may be.
    let provider = provider(Script { fill: true, latency_ms: 1_500, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("cent", cap(10_000_000)).await;
    let mut body = hello();
    body["max_tokens"] = json!(2_000);
    // At the ordinary tier, so that the bound is at the price that is charged.
    body["service_tier"] = json!("default");
    let replies = join_all((0..64).map(|_| gateway.chat_as(&token, &body))).await;
    let counts = by_status(&replies);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [200, 429], "{counts:?}");
    let entries = gateway.entries(&id, 64).await;
    let spent: u64 = entries.iter().map(|entry| entry.cost_nano_usd).sum();
    let bounds: u64 = entries.iter().map(|entry| entry.bound_nano_usd).sum();
    let bill = provider.bill().total();
    let billed = (bill.prompt_tokens * 150_000 + bill.completion_tokens * OUTPUT_PICO).div_ceil(1000);
    assert!(bounds <= 10_000_000, "I-1: {bounds} nano-dollars were held at once");
    assert!(billed <= spent && spent <= 10_000_000, "billed {billed}, charged {spent}");
    // Full requests hold a little more than 1.2 thousandths of a dollar, so 8 fit whole and one more is cut to what was left.
    let admitted = counts[&200];
    assert!((8..=9).contains(&admitted), "{admitted} admitted");
    assert!(entries.iter().filter(|entry| entry.flags.iter().any(|flag| flag.contains("clamp"))).count() <= 1);
    let error = replies.iter().find(|reply| reply.status == 429).unwrap().json()["error"].clone();
    assert_eq!((&error["code"], &error["limit"]), (&json!("limit_settling"), &json!("0.01")));
    assert!(error["held"].is_string() && error["spent"].is_string() && error["reset_at"].is_string(), "{error}");
}

#[tokio::test]
async fn one_after_another_a_key_can_be_spent_down_to_its_last_words_and_not_beyond() {
    let provider = provider(Script { fill: true, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("small", cap(1_000_000)).await;
    let mut admitted = 0;
    let mut clamped = false;
    let last = loop {
        let reply = gateway.chat_as(&token, &hello()).await;
        if reply.status != 200 {
            break reply;
        }
        admitted += 1;
        clamped |= !reply.header("x-keyforge-output-limit").is_empty();
        assert!(admitted < 50, "a dollar's thousandth must end");
    };
    assert_eq!(last.status, 402);
    assert!(clamped, "without a limit of its own a request is cut to what the key can pay");
    let entries = gateway.entries(&id, admitted + 1).await;
    let spent: u64 = entries.iter().map(|entry| entry.cost_nano_usd).sum();
    assert!(spent <= 1_000_000, "{spent}");
    let needed: f64 = last.json()["error"]["needed"].as_str().unwrap().parse().unwrap();
    assert!(1e9 * needed > (1_000_000 - spent) as f64, "I-8: what was left was truly too little");
}

#[tokio::test]
async fn the_rate_limit_admits_exactly_as_many_as_it_says_and_tells_when_to_come_back() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let policy = keyforge_proto::admin::v1::Policy { requests_per_minute: Some(5), ..Default::default() };
    let (token, _) = gateway.create_key("slow", policy).await;
    let body = hello();
    let replies = join_all((0..12).map(|_| gateway.chat_as(&token, &body))).await;
    assert_eq!(by_status(&replies), BTreeMap::from([(200, 5), (429, 7)]));
    let limited = replies.iter().find(|reply| reply.status == 429).unwrap();
    assert_eq!(limited.code(), "rate_limit_exceeded");
    let seconds: u64 = limited.header("retry-after").parse().unwrap();
    let millis: u64 = limited.header("retry-after-ms").parse().unwrap();
    assert!((1..=60).contains(&seconds) && millis <= 60_000 && millis > 50_000, "{seconds} {millis}");
    assert_eq!(seconds, millis.div_ceil(1_000));
    let told = |reply: &Reply, what: &str| reply.header(&format!("x-ratelimit-{what}-requests")).to_owned();
    let mut left: Vec<_> =
        replies.iter().filter(|reply| reply.status == 200).map(|reply| told(reply, "remaining")).collect();
    left.sort();
    assert_eq!(left, ["0", "1", "2", "3", "4"], "each answer says what was left after it");
    assert!(replies.iter().all(|reply| told(reply, "limit") == "5"));
    assert!(replies.iter().all(|reply| told(reply, "reset").ends_with('s')));
    assert!(replies.iter().all(|reply| reply.header("x-ratelimit-limit-tokens").is_empty()), "no rate, no header");
}

#[tokio::test]
async fn a_keys_rates_are_told_whatever_becomes_of_its_request_and_what_is_left_only_where_it_is_known() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let policy = admin::Policy { requests_per_minute: Some(50), tokens_per_minute: Some(2_000), ..quota(6) };
    let (token, _) = gateway.create_key("told", policy).await;
    let told = |reply: &Reply| {
        let header = |what: &str, of: &str| reply.header(&format!("x-ratelimit-{what}-{of}")).to_owned();
        assert_eq!([header("limit", "requests"), header("limit", "tokens")], ["50", "2000"], "{}", reply.text());
        let known =
            ["requests", "tokens"].map(|of| !header("remaining", of).is_empty() && !header("reset", of).is_empty());
        assert_eq!(known[0], known[1]);
        (reply.status, known[0], !reply.header("x-keyforge-cost-usd").is_empty())
    };
    let small = |stream: bool| {
        let mut body = if stream { hello_streamed() } else { hello() };
        body["max_tokens"] = json!(20);
        body
    };
    // Admitted, so that the store has said what is left: served, streamed, refused and failed.
    assert_eq!(told(&gateway.chat_as(&token, &small(false)).await), (200, true, true));
    assert_eq!(told(&gateway.chat_as(&token, &small(true)).await), (200, true, false));
    for (fault, streamed, status) in [
        (Scripted::json(429, TOO_LARGE), false, 429),
        (Scripted::json(400, r#"{"error":{"message":"no"}}"#), false, 400),
        (Scripted::status(500), false, 502),
        (Scripted::CutStream { after_events: 0 }, true, 502),
    ] {
        provider.push(fault);
        assert_eq!(told(&gateway.chat_as(&token, &small(streamed)).await), (status, true, true));
    }
    // Not admitted, and nobody was asked what is left.
    let mut unknown = small(false);
    unknown["max_tokens"] = json!(-1);
    assert_eq!(told(&gateway.chat_as(&token, &unknown).await), (400, false, false));
    let mut long = small(false);
    long["messages"][0]["content"] = "word ".repeat(2_000).into();
    assert_eq!(told(&gateway.chat_as(&token, &long).await), (429, false, false));
    assert_eq!(told(&gateway.chat_as(&token, &small(false)).await), (402, false, false));
}

#[tokio::test]
async fn tokens_of_a_minute_are_given_back_as_far_as_a_request_did_not_take_them() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let policy = keyforge_proto::admin::v1::Policy { tokens_per_minute: Some(1_500), ..Default::default() };
    let (token, _) = gateway.create_key("tokens", policy).await;
    let mut body = hello();
    body["max_tokens"] = json!(400);
    // Each may take more than half of the minute and takes a few tokens.
    for _ in 0..5 {
        let reply = gateway.chat_as(&token, &body).await;
        assert_eq!((reply.status, reply.header("x-ratelimit-limit-tokens")), (200, "1500"));
    }
    body["max_tokens"] = json!(1_000_000);
    let cut = gateway.chat_as(&token, &body).await;
    let limited: u64 = cut.header("x-keyforge-output-limit").parse().unwrap_or(0);
    assert!(cut.status == 429 || (cut.status == 200 && limited < 1_500), "{} {limited}", cut.status);
    body["messages"][0]["content"] = "word ".repeat(1_000).into();
    let refused = gateway.chat_as(&token, &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(refused.header("x-should-retry"), "false");
    assert!(refused.text().contains("tokens_per_minute"), "{}", refused.text());
}

#[tokio::test]
async fn no_more_requests_run_at_the_same_time_than_the_key_may_and_an_end_makes_room() {
    let provider = provider(Script { latency_ms: 1_000, ..Script::default() });
    let gateway = Gateway::start(&provider).await;
    let policy = keyforge_proto::admin::v1::Policy { concurrent_requests: Some(3), ..Default::default() };
    let (token, _) = gateway.create_key("few", policy).await;
    let body = hello();
    let replies = join_all((0..10).map(|_| gateway.chat_as(&token, &body))).await;
    assert_eq!(by_status(&replies), BTreeMap::from([(200, 3), (429, 7)]));
    let limited = replies.iter().find(|reply| reply.status == 429).unwrap();
    assert_eq!((limited.code().as_str(), limited.header("retry-after")), ("rate_limit_exceeded", "1"));
    let replies = join_all((0..3).map(|_| gateway.chat_as(&token, &body))).await;
    assert_eq!(by_status(&replies), BTreeMap::from([(200, 3)]), "all of them have ended");
}

#[tokio::test]
async fn i_1_keys_of_a_workspace_share_its_quota_to_the_last_request() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let mut workspaces = admin::workspace_service_client::WorkspaceServiceClient::new(gateway.admin().await);
    let limits = vec![admin::RequestLimit { requests: 20, window: admin::Window::Month.into() }];
    let team = admin::CreateWorkspaceRequest { name: "team".to_owned(), request_limits: limits, ..Default::default() };
    workspaces.create_workspace(team).await.unwrap();
    let mut tokens = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let mut keys = admin::key_service_client::KeyServiceClient::new(gateway.admin().await);
        let request = admin::CreateKeyRequest {
            name: name.to_owned(),
            policy: Some(admin::Policy::default()),
            workspace: "team".to_owned(),
            ..Default::default()
        };
        tokens.push(keys.create_key(request).await.unwrap().into_inner().token);
    }
    for token in &tokens {
        gateway
            .eventually("the node knows the key", async || {
                gateway.send(hyper::Method::GET, "/v1/models", token, "").await.status == 200
            })
            .await;
    }
    let body = hello();
    // What one key was granted and does not use is collected when another needs it.
    let mut served = 0;
    for round in 0..40 {
        let reply = gateway.chat_as(&tokens[round % 3], &body).await;
        served += usize::from(reply.status == 200);
        if reply.status != 200 {
            let error = &reply.json()["error"];
            assert!([402, 429].contains(&reply.status), "{error}");
            assert_eq!((&error["scope"], &error["limit"]), (&json!("workspace"), &json!(20)));
            assert_eq!(served, 20, "refused before the last one was gone: {error}");
        }
    }
    assert_eq!((served, provider.bill().total().requests), (20, 20));
}

#[tokio::test]
async fn a_raised_limit_takes_effect_at_once_and_a_lowered_one_too() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("moving", quota(2)).await;
    let body = hello();
    for expected in [200, 200, 402] {
        assert_eq!(gateway.chat_as(&token, &body).await.status, expected);
    }
    let update = |limit: &'static str| gateway.cli_json(&["key", "update", &id, "--requests", limit]);
    update("4/month");
    gateway.eventually("the raised limit holds", async || gateway.chat_as(&token, &body).await.status == 200).await;
    update("3/month");
    gateway
        .eventually("the lowered limit holds", async || {
            let error = gateway.chat_as(&token, &body).await.json()["error"].clone();
            error["limit"] == 3
        })
        .await;
    let admitted = provider.bill().total().requests;
    assert!(admitted <= 4, "{admitted}");
}

#[tokio::test]
async fn what_cannot_be_bounded_is_refused_by_name_on_a_capped_key_only() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (capped, _) = gateway.create_key("capped", cap(1_000_000_000)).await;
    let (free, _) = gateway.create_key("free", Default::default()).await;
    let mut body = hello();
    body["web_search_options"] = json!({});
    let refused = gateway.chat_as(&capped, &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "cost_unbounded"));
    assert_eq!(refused.json()["error"]["param"], "web_search_options");
    assert_eq!(gateway.chat_as(&free, &body).await.status, 200);
}

#[tokio::test]
async fn streams_of_a_capped_key_settle_at_the_truth() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("streams", cap(100_000_000)).await;
    let body = hello_streamed();
    let replies = join_all((0..20).map(|_| gateway.chat_as(&token, &body))).await;
    let served = replies.iter().filter(|reply| reply.status == 200).count();
    let entries = gateway.entries(&id, 20).await;
    let spent: u64 = entries.iter().map(|entry| entry.cost_nano_usd).sum();
    let bill = provider.bill().total();
    assert_eq!(bill.requests, served as u64);
    // Each request is rounded up by less than one nano-dollar.
    let billed = (bill.prompt_tokens * 150_000 + bill.completion_tokens * OUTPUT_PICO) / 1000;
    assert!(spent >= billed && spent <= billed + 20, "billed {billed}, charged {spent}");
}
