//! What a key may do besides its limits: from where, for what, and more of a limit for a while; and that `key explain` says what agents are told.

use std::time::Duration;

use hyper::Method;
use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use keyforge_shared::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::harness::{Gateway, Reply, hello, provider, quota};

/// What `key explain` says that an agent would be told, without `null`s.
fn explained(gateway: &Gateway, id: &str, request: &[&str]) -> Option<(u64, String, String)> {
    let answer = gateway.cli_json(&[&["key", "explain", id], request].concat());
    let refusal = answer["refusal"].as_object()?;
    let text = |field: &str| refusal[field].as_str().unwrap().to_owned();
    Some((refusal["status"].as_u64().unwrap(), text("code"), text("message")))
}

/// What an agent was told.
fn told(reply: &Reply) -> Option<(u64, String, String)> {
    if reply.status == 200 {
        return None;
    }
    let error = reply.json()["error"].clone();
    let text = |field: &str| error[field].as_str().unwrap().to_owned();
    Some((reply.status.into(), text("code"), text("message")))
}

#[tokio::test]
async fn a_key_works_from_its_networks_and_for_its_endpoints_alone_and_is_explained_in_the_words_that_the_agent_gets() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("office", admin::Policy::default()).await;
    let update = |more: &[&str]| gateway.cli_json(&[&["key", "update", &id], more].concat());
    let refused = async |code: &str| {
        gateway.eventually(code, async || gateway.chat_as(&token, &hello()).await.code() == code).await;
        told(&gateway.chat_as(&token, &hello()).await)
    };
    let model = ["--model", "gpt-4o-mini", "--from", "127.0.0.1"];

    update(&["--network", "10.0.0.0/8,2001:db8::/32"]);
    let elsewhere = refused("address_not_allowed").await;
    assert_eq!(elsewhere.as_ref().map(|(status, ..)| *status), Some(403));
    assert!(!format!("{elsewhere:?}").contains("10.0"), "whoever found a key need not learn where it works");
    assert_eq!(explained(&gateway, &id, &model), elsewhere);
    assert_eq!(explained(&gateway, &id, &["--model", "gpt-4o-mini", "--from", "::ffff:10.1.2.3"]), None);

    update(&["--network", "127.0.0.0/8,::1", "--endpoints", "models"]);
    assert_eq!(explained(&gateway, &id, &model), refused("endpoint_not_allowed").await);
    assert_eq!(gateway.send(Method::GET, "/v1/models", &token, "").await.status, 200);
    assert_eq!(explained(&gateway, &id, &["--endpoint", "models", "--from", "127.0.0.1"]), None);

    update(&["--no-endpoints", "--models", "gpt-5*"]);
    assert_eq!(explained(&gateway, &id, &model), refused("model_not_allowed").await);
    update(&["--no-network", "--models", ""]);
    gateway.eventually("it is served", async || gateway.chat_as(&token, &hello()).await.status == 200).await;
    assert_eq!(explained(&gateway, &id, &model), None);

    let entries = gateway.entries(&id, 7).await;
    for code in ["address_not_allowed", "endpoint_not_allowed", "model_not_allowed"] {
        assert!(entries.iter().any(|entry| entry.rejection == code && entry.outcome == "refused"), "{code}");
    }
    gateway.cli_json(&["key", "pause", &id]);
    assert_eq!(explained(&gateway, &id, &model), told(&gateway.chat_as(&token, &hello()).await));
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn who_asks_for_the_models_from_elsewhere_is_refused_and_is_an_entry_of_the_chain() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let made = gateway.cli_json(&["key", "create", "leaked", "--network", "192.0.2.0/24"]);
    let (id, token) = (made["key"]["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let asked = async || gateway.send(Method::GET, "/v1/models", token, "").await;
    gateway.eventually("the node knows the key", async || asked().await.status == 403).await;
    assert_eq!(asked().await.code(), "address_not_allowed");
    assert_eq!(gateway.entries(id, 1).await[0].rejection, "address_not_allowed");
    gateway.assert_chains_hold();
}

#[tokio::test]
async fn a_raise_lets_more_through_until_its_moment_and_then_the_limit_is_what_it_was() {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("raised", quota(2)).await;
    let served = async || {
        let mut served = 0;
        while gateway.chat_as(&token, &hello()).await.status == 200 {
            served += 1;
        }
        served
    };
    assert_eq!(served().await, 2);
    let until = SystemClock.now().saturating_add(Duration::from_secs(8)).rfc3339();
    let raised = gateway.cli_json(&["key", "raise", &id, "--requests", "+3/month", "--until", &until]);
    let raise = &raised["policy"]["raises"][0];
    assert_eq!(
        (&raise["dimension"], &raise["window"], &raise["amount"]),
        (&json!("requests"), &json!("month"), &json!(3))
    );
    gateway.eventually("the raised limit holds", async || gateway.chat_as(&token, &hello()).await.status == 200).await;
    assert_eq!(served().await, 2, "three more in all");
    let limit = async || gateway.chat_as(&token, &hello()).await.json()["error"]["limit"].clone();
    assert_eq!(limit().await, 5);
    gateway.eventually("its end has come", async || limit().await == 2).await;
    assert!(SystemClock.now().rfc3339() >= until, "not before its moment");
    let shown: Value = gateway.cli_json(&["key", "explain", &id, "--model", "gpt-4o-mini"]);
    assert_eq!(shown["refusal"]["code"], "budget_exceeded", "{shown}");
    assert_eq!(provider.bill().total().requests, 5);
    gateway.assert_chains_hold();
}
