//! Clients that leave in the middle of an answer, on every node: what they held comes back, and they are charged what the provider bills if it
//! says so within a second, else at least that.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use keyforge_loadtest::provider::Script;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::agents::{INPUT_NANO, OUTPUT_NANO, ask};
use super::books::{Limits, billed, charged, counted, entries, settled};
use super::fleet::{Cluster, Plan};
use crate::harness::read;

const LIMITS: Limits = Limits { nano_usd: 520_000_000, requests: 100_000 };
const ABORTS: usize = 1_000;
const LONG_ABORTS: usize = 60;
const AT_ONCE: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_9_after_a_thousand_aborted_streams_nothing_is_held_and_the_charge_is_the_providers_bill() {
    // Streams that end well within the second for which a provider is still listened to.
    let script = Script { completion_tokens: 20, token_interval_ms: 10, record_requests: false, ..Script::default() };
    let cluster = Arc::new(Cluster::start(script, Plan::default()).await);
    let (token, id) = cluster.create_key("fickle", LIMITS.policy()).await;
    leave(&cluster, &token, ABORTS).await;
    cluster
        .eventually("every abort is in the chain", async || {
            let found = entries(&cluster, &id).await;
            found.iter().filter(|entry| counted(entry)).count() >= ABORTS
                && settled(&cluster, &id).await.requests == ABORTS as u64
        })
        .await;
    let found: Vec<_> = entries(&cluster, &id).await.into_iter().filter(counted).collect();
    assert_eq!(found.len(), ABORTS, "I-17: one entry each");
    let (bill, charge) = (billed(&cluster), charged(&found));
    let total = cluster.provider.bill().total();
    eprintln!("aborts: billed {bill:?}, charged {charge:?}, {} aborted at the provider", total.aborted_streams);
    assert_eq!(total.requests, ABORTS as u64);
    let tokens: (u64, u64) =
        found.iter().fold((0, 0), |sum, entry| (sum.0 + entry.input_tokens, sum.1 + entry.output_tokens));
    assert_eq!(tokens, (total.prompt_tokens, total.completion_tokens), "the provider's own bill");
    assert_eq!(charge.nano_usd, tokens.0 * INPUT_NANO + tokens.1 * OUTPUT_NANO, "exactly");
    assert_eq!(settled(&cluster, &id).await.nano_usd, charge.nano_usd, "I-20");

    // A prompt too dear for what is left is refused, and the refusal says what is spent and held.
    let mut dear = ask(16, false);
    dear["messages"][0]["content"] = json!("word ".repeat(200_000));
    for node in 0..3 {
        let settled = async || {
            let refused = cluster.chat(node, &token, &dear).await;
            assert_eq!((refused.status, refused.code().as_str()), (402, "budget_exceeded"), "{}", refused.text());
            let usd = |field: &str| refused.json()["error"][field].as_str().unwrap().parse::<f64>().unwrap();
            usd("held") == 0.0 && (1e9 * usd("spent")).round() as u64 == charge.nano_usd
        };
        cluster.eventually("nothing is held", settled).await;
    }
    cluster.serves(0, &token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_9_long_streams_whose_clients_left_are_let_go_and_charged_no_less_than_the_provider_bills() {
    let script = Script { completion_tokens: 60, token_interval_ms: 100, record_requests: false, ..Script::default() };
    let cluster = Arc::new(Cluster::start(script, Plan::default()).await);
    let (token, id) = cluster.create_key("hasty", LIMITS.policy()).await;
    let since = Instant::now();
    leave(&cluster, &token, LONG_ABORTS).await;
    let left = Instant::now();
    cluster
        .eventually("every stream is let go", async || {
            cluster.provider.bill().total().aborted_streams == LONG_ABORTS as u64
        })
        .await;
    eprintln!("long aborts: {:?} to leave, {:?} more to let go", left - since, left.elapsed());
    cluster
        .eventually("every abort is in the chain", async || settled(&cluster, &id).await.requests == LONG_ABORTS as u64)
        .await;
    let found: Vec<_> = entries(&cluster, &id).await.into_iter().filter(counted).collect();
    assert_eq!(found.len(), LONG_ABORTS, "I-17: one entry each");
    for entry in &found {
        assert_eq!(entry.cost_nano_usd, entry.bound_nano_usd, "{:?}", entry.flags);
        assert!(entry.flags.iter().any(|flag| flag.contains("gone")), "{:?}", entry.flags);
    }
    let (bill, charge) = (billed(&cluster), charged(&found));
    assert!(charge.nano_usd >= bill.nano_usd, "billed {bill:?}, charged {charge:?}");
    assert_eq!(settled(&cluster, &id).await.nano_usd, charge.nano_usd, "I-20");
}

/// Begins so many streams, leaves each in its middle.
async fn leave(cluster: &Arc<Cluster>, token: &str, count: usize) {
    let mut clients = JoinSet::new();
    for number in 0..count {
        while clients.len() >= AT_ONCE {
            clients.join_next().await.unwrap().unwrap();
        }
        let (cluster, token) = (Arc::clone(cluster), token.to_owned());
        clients.spawn(async move {
            let mut body = admitted(&cluster, number % 3, &token).await.into_body();
            for _ in 0..number % 7 {
                body.frame().await.unwrap().unwrap();
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

/// A stream that began. A machine that does too much at once may have Redis answer too late, which is refused, and asked for again.
async fn admitted(cluster: &Cluster, node: usize, token: &str) -> Response<Incoming> {
    loop {
        let answer = cluster.open(node, token, &ask(60, true)).await.unwrap();
        if answer.status() == 200 {
            return answer;
        }
        let refused = read(answer).await;
        assert_eq!(refused.code(), "enforcement_unavailable", "{}", refused.text());
        sleep(Duration::from_millis(refused.header("retry-after-ms").parse().unwrap())).await;
    }
}
