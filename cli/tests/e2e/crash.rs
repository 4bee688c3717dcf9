//! Sudden death: whatever moment the process is killed at, no request is lost, charged twice or forgotten, and nothing can be spent twice.
//!
//! The provider's own bill is the truth that every charge is compared with.

use std::collections::{BTreeMap, HashSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use keyforge_proto::admin::v1 as admin;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Gateway, PATIENCE, PROVIDER_KEY, cap, hello, hello_streamed, provider, quota, read, signal};

/// gpt-4o-mini's prices in nano-dollars a token, times a thousand.
const INPUT_PICO: u64 = 150_000;
const OUTPUT_PICO: u64 = 600_000;
/// As many requests as a busy node has in flight.
const CROWD: u64 = 40;

/// What a client saw of its request before the process died, or after.
#[derive(Debug)]
struct Seen {
    request_id: Option<String>,
    status: Option<u16>,
    whole: bool,
}

type Clients = JoinSet<Seen>;

/// A client that takes a broken connection for what it is.
async fn attempt(client: Client<HttpConnector, Full<Bytes>>, request: Request<Full<Bytes>>) -> Seen {
    let Ok(response) = client.request(request).await else {
        return Seen { request_id: None, status: None, whole: false };
    };
    let request_id = response.headers().get("x-request-id").map(|value| value.to_str().unwrap().to_owned());
    let status = Some(response.status().as_u16());
    let whole = match response.into_body().collect().await {
        Ok(body) => !body.to_bytes().is_empty(),
        Err(_) => false,
    };
    Seen { request_id, status, whole }
}

/// Every other one streamed; `first` numbers them, so that the provider's view of each can be told apart.
fn crowd(gateway: &Gateway, token: &str, first: u64, count: u64) -> Clients {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut clients = JoinSet::new();
    for number in first..first + count {
        let mut body = if number % 2 == 0 { hello() } else { hello_streamed() };
        body["max_tokens"] = json!(200);
        body["service_tier"] = json!("default");
        let request = Request::post(format!("{}/v1/chat/completions", gateway.url))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header("openai-beta", format!("crowd-{number}"))
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        clients.spawn(attempt(client.clone(), request));
    }
    clients
}

/// What the provider itself would charge, in nano-dollars, rounded down.
fn billed(provider: &ScriptedProvider) -> u64 {
    let bill = provider.bill().total();
    (bill.prompt_tokens * INPUT_PICO + bill.completion_tokens * OUTPUT_PICO) / 1000
}

/// Slow enough that whoever is killed has many requests in every stage.
fn slow() -> Script {
    Script { latency_ms: 150, first_token_ms: 50, token_interval_ms: 20, completion_tokens: 180, ..Script::default() }
}

fn both(requests: u64, nano_usd: u64) -> admin::Policy {
    admin::Policy { spend_limits: cap(nano_usd).spend_limits, ..quota(requests) }
}

async fn balance(gateway: &Gateway, id: &str, dimension: &str) -> admin::Balance {
    let mut usage = admin::usage_service_client::UsageServiceClient::new(gateway.admin().await);
    let request = admin::GetBalanceRequest { key_id: id.to_owned() };
    let balances = usage.get_balance(request).await.unwrap().into_inner().balances;
    balances.into_iter().find(|balance| balance.dimension == dimension).unwrap()
}

fn counted(entry: &admin::RequestEntry) -> bool {
    entry.outcome != "refused" && !entry.flags.iter().any(|flag| flag == "not_counted")
}

fn sum(entries: &[admin::RequestEntry]) -> u64 {
    entries.iter().map(|entry| entry.cost_nano_usd).sum()
}

/// Ids are unique, nothing costs more than its bound, and what nobody saw the end of costs just that.
fn assert_entries_are_sound(entries: &[admin::RequestEntry]) {
    let mut ids = HashSet::new();
    for entry in entries {
        assert!(ids.insert((&entry.request_id, entry.attempt)), "I-17: {} is recorded twice", entry.request_id);
        assert!(entry.cost_nano_usd <= entry.bound_nano_usd, "I-3: {entry:?}");
        if entry.outcome == "unresolved" {
            assert_eq!(entry.cost_nano_usd, entry.bound_nano_usd, "{entry:?}");
            assert!(entry.bound_nano_usd > 0, "{entry:?}");
        }
    }
}

/// I-20: the ledger, the usage report and the chain say the same.
async fn assert_books_agree(gateway: &Gateway, id: &str, entries: &[admin::RequestEntry]) {
    let spent = sum(entries);
    let requests = entries.iter().filter(|entry| counted(entry)).count() as u64;
    assert_eq!(balance(gateway, id, "spend").await.settled, spent, "I-20: spend");
    assert_eq!(balance(gateway, id, "requests").await.settled, requests, "I-20: requests");
    let report = gateway.cli_json(&["usage", "--key", id]);
    let rows = report["rows"].as_array().unwrap();
    let total = |field: &str| rows.iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("cost_nano_usd"), total("requests")), (spent, requests), "{report}");
}

fn outcomes(entries: &[admin::RequestEntry]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry.outcome.as_str()).or_default() += 1;
    }
    counts
}

/// Every request that got a whole answer is completed, and every one whose client learnt its id is there.
fn assert_clients_find_their_entries(seen: &[Seen], entries: &[admin::RequestEntry]) {
    for seen in seen {
        let Some(id) = &seen.request_id else { continue };
        let found: Vec<_> = entries.iter().filter(|entry| entry.request_id == *id).collect();
        assert_eq!(found.len(), 1, "I-17: {seen:?} has {} entries", found.len());
        let expected: &[&str] = match seen.status {
            Some(200) => &["completed", "unresolved"],
            _ => &["refused", "completed"],
        };
        assert!(expected.contains(&found[0].outcome.as_str()), "{seen:?}: {:?}", found[0]);
    }
}

/// Waits until the provider is in the middle of `tokens` more tokens, so that a kill hits answers half-way.
async fn in_the_middle(gateway: &Gateway, provider: &ScriptedProvider, arrived: u64, tokens: u64) {
    let before = provider.bill().total().completion_tokens;
    let all = tokio::time::timeout(PATIENCE, provider.wait_for_requests(arrived)).await;
    assert!(
        all.is_ok(),
        "only {} of {arrived} requests came to the provider\n{}",
        provider.request_count(),
        gateway.log()
    );
    let under_way = async || provider.bill().total().completion_tokens >= before + tokens;
    gateway.eventually("answers are under way", under_way).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_1_i_17_i_20_killed_in_full_traffic_nothing_is_lost_or_spent_twice() {
    const QUOTA: u64 = 70;
    const CAP: u64 = 100_000_000;
    let provider = provider(Script::default());
    let mut gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("crash", both(QUOTA, CAP)).await;
    let (other, other_id) = gateway.create_key("bystander", quota(10)).await;
    let mut seen = crowd(&gateway, &token, 0, 6).join_all().await;
    assert!(seen.iter().all(|seen| seen.status == Some(200) && seen.whole), "{seen:?}");
    assert_eq!(gateway.chat_as(&other, &hello()).await.status, 200);

    provider.set_script(slow());
    let clients = crowd(&gateway, &token, 6, CROWD);
    in_the_middle(&gateway, &provider, 7 + CROWD, 200).await;
    gateway.kill().await;
    seen.extend(clients.join_all().await);
    assert!(seen.iter().filter(|seen| !seen.whole).count() >= 20, "the kill must hit running requests: {seen:?}");

    provider.set_script(Script::default());
    gateway.launch().await;
    let admitted = 6 + CROWD;
    let entries = gateway.entries(&id, admitted as usize).await;
    assert_eq!(
        entries.len() as u64,
        admitted,
        "I-17: every attempt that the provider saw, once: {:?}",
        outcomes(&entries)
    );
    let tags: HashSet<_> =
        provider.requests().iter().filter_map(|seen| seen.header("openai-beta").map(str::to_owned)).collect();
    assert_eq!(tags.len() as u64, admitted, "each was sent to the provider once");
    assert_entries_are_sound(&entries);
    assert_clients_find_their_entries(&seen, &entries);
    let unresolved = entries.iter().filter(|entry| entry.outcome == "unresolved").count();
    assert!(unresolved >= 20, "{:?}", outcomes(&entries));
    assert!(entries.iter().all(|entry| entry.outcome != "refused"), "{:?}", outcomes(&entries));
    gateway
        .eventually("the ledger has settled the first life", async || {
            balance(&gateway, &id, "requests").await.settled == admitted
        })
        .await;
    assert_books_agree(&gateway, &id, &entries).await;
    assert!(sum(&entries) <= CAP, "I-1");
    let other_bill = gateway.entries(&other_id, 1).await;
    assert!(billed(&provider) <= sum(&entries) + sum(&other_bill), "the provider billed more than was charged");
    gateway.assert_chains_hold();

    // What is left of the quota is there again, and not one request more.
    let mut admitted_now = 0;
    let last = loop {
        let reply = gateway.chat_as(&token, &hello()).await;
        if reply.status != 200 {
            break reply;
        }
        admitted_now += 1;
        assert!(admitted + admitted_now <= QUOTA, "I-1: request {} of {QUOTA}", admitted + admitted_now);
    };
    assert_eq!((last.status, last.code().as_str()), (402, "budget_exceeded"), "{}", last.text());
    assert_eq!(admitted + admitted_now, QUOTA, "the rest of the quota is spendable after the crash: {}", last.text());
    assert_eq!(gateway.chat_as(&other, &hello()).await.status, 200, "another key never noticed");
    let entries = gateway.entries(&id, QUOTA as usize + 1).await;
    assert_eq!(outcomes(&entries)["refused"], 1);
    gateway
        .eventually("everything is settled", async || balance(&gateway, &id, "requests").await.settled == QUOTA)
        .await;
    assert_books_agree(&gateway, &id, &entries).await;
    gateway.assert_chains_hold();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_1_a_cap_holds_over_a_life_that_was_killed_and_the_next() {
    const CAP: u64 = 20_000_000;
    // The dearest provider there can be.
    let provider = provider(Script { fill: true, ..slow() });
    let mut gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("two cents", both(10_000, CAP)).await;
    // About half of the cap is held when the process dies.
    let clients = crowd(&gateway, &token, 0, CROWD);
    in_the_middle(&gateway, &provider, CROWD, 200).await;
    gateway.kill().await;
    clients.join_all().await;
    let first_life = provider.request_count();

    provider.set_script(Script { fill: true, ..Script::default() });
    gateway.launch().await;
    let entries = gateway.entries(&id, first_life as usize).await;
    assert_eq!(entries.len() as u64, first_life);
    let lost = sum(&entries);
    assert!(lost > 0 && lost <= CAP, "I-1: {lost}");
    gateway
        .eventually("the first life is settled", async || balance(&gateway, &id, "spend").await.settled == lost)
        .await;
    let mut answered = 0;
    loop {
        let mut body = hello();
        body["max_tokens"] = json!(2_000);
        let reply = gateway.chat_as(&token, &body).await;
        if reply.status != 200 {
            assert_eq!((reply.status, reply.code().as_str()), (402, "budget_exceeded"), "{}", reply.text());
            break;
        }
        answered += 1;
        assert!(answered < 100, "two cents must end");
    }
    assert!(answered > 0, "the rest of the cap is spendable: {lost} of {CAP} were charged in the first life");
    let entries = gateway.entries(&id, first_life as usize + answered + 1).await;
    assert_entries_are_sound(&entries);
    let charged = sum(&entries);
    assert!(charged <= CAP, "I-1: {charged}");
    assert!(billed(&provider) <= charged, "the provider billed {} and {charged} were charged", billed(&provider));
    gateway.eventually("all is settled", async || balance(&gateway, &id, "spend").await.settled == charged).await;
    assert_books_agree(&gateway, &id, &entries).await;
    gateway.assert_chains_hold();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_17_killed_twice_in_a_row_and_during_recovery_every_request_is_still_there_once() {
    let provider = provider(slow());
    let mut gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("unlucky", both(1_000, 500_000_000)).await;
    let mut seen = Vec::new();
    let mut first = 0;
    for life in 0..2 {
        let clients = crowd(&gateway, &token, first, CROWD);
        first += CROWD;
        in_the_middle(&gateway, &provider, first, 100).await;
        gateway.kill().await;
        seen.extend(clients.join_all().await);
        if life == 0 {
            gateway.launch().await;
        }
    }
    // Deaths during the recovery: the new life has its folder already, and the old one's is still there. Each a little later than the one before.
    let mut hits = 0;
    for later in [0, 0, 1, 2, 5, 10, 20] {
        die_at_the_start(&gateway, &provider, Duration::from_millis(later)).await;
        hits += u32::from(lives(&gateway) > 1);
    }
    assert!(hits >= 2, "only {hits} deaths came during the recovery");
    provider.set_script(Script::default());
    gateway.launch().await;
    let entries = gateway.entries(&id, first as usize).await;
    assert_eq!(entries.len() as u64, first, "I-17: {:?}", outcomes(&entries));
    assert_eq!(provider.request_count(), first);
    assert_entries_are_sound(&entries);
    assert_clients_find_their_entries(&seen, &entries);
    gateway
        .eventually("both lives are settled", async || balance(&gateway, &id, "requests").await.settled == first)
        .await;
    assert_books_agree(&gateway, &id, &entries).await;
    assert!(billed(&provider) <= sum(&entries));
    // Recovery leaves nothing behind to be recovered again: one folder, that of this life.
    gateway.eventually("only this life's folder is left", async || lives(&gateway) == 1).await;
    assert_eq!(gateway.chat_as(&token, &hello()).await.status, 200, "the key still works");
    assert_eq!(gateway.entries(&id, first as usize + 1).await.len() as u64, first + 1);
    gateway.assert_chains_hold();
}

/// Starts the process on the same data and kills it so long after it began a life beside the one that it has to recover.
async fn die_at_the_start(gateway: &Gateway, provider: &ScriptedProvider, later: Duration) {
    let before = lives(gateway);
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyforge"))
        .args([
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--ops-listen",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(&gateway.data)
        .args(gateway.database_url().iter().flat_map(|url| ["--database", url]))
        .env_clear()
        .env("OPENAI_API_KEY", PROVIDER_KEY)
        .env("OPENAI_BASE_URL", provider.base_url())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = async {
        while lives(gateway) <= before {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself before it was killed");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    // A life that came and went between two looks is a death too late, which is no failure.
    drop(tokio::time::timeout(Duration::from_secs(2), began).await);
    tokio::time::sleep(later).await;
    signal(child.id(), "-KILL");
    child.wait().unwrap();
}

/// Folders of lives in the node's spool.
fn lives(gateway: &Gateway) -> usize {
    fn spool(directory: &std::path::Path) -> Option<std::path::PathBuf> {
        std::fs::read_dir(directory)
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find_map(|path| if path.is_dir() && path.ends_with("spool") { Some(path) } else { spool(&path) })
    }
    let spool = spool(&gateway.data).expect("a spool in the data directory");
    let named = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let names = std::fs::read_dir(spool).unwrap().filter_map(Result::ok).map(named);
    names.filter(|name| name.starts_with("boot_") && !name.contains('.')).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_stop_it_finishes_the_running_streams_and_leaves_nothing_unresolved() {
    let provider = provider(slow());
    let mut gateway = Gateway::start(&provider).await;
    let (token, id) = gateway.create_key("polite", both(100, 100_000_000)).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(gateway.open(&token, &hello_streamed()).await);
    }
    let buffered = crowd(&gateway, &token, 0, 2);
    provider.wait_for_requests(6).await;
    let (status, replies) = tokio::join!(gateway.stop(), join_all(streams.into_iter().map(read)));
    assert_eq!(status.code(), Some(0), "{}", gateway.log());
    for reply in &replies {
        assert_eq!(reply.status, 200);
        let events = reply.events();
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "a drain cuts no stream: {}", reply.text());
        let words = events.iter().filter(|event| {
            serde_json::from_str::<Value>(event).is_ok_and(|chunk| chunk["choices"][0]["delta"]["content"].is_string())
        });
        assert!(words.count() >= 60, "{}", reply.text());
    }
    assert!(buffered.join_all().await.iter().all(|seen| seen.status == Some(200) && seen.whole));

    gateway.launch().await;
    let entries = gateway.entries(&id, 6).await;
    assert_eq!(outcomes(&entries), BTreeMap::from([("completed", 6)]));
    for reply in &replies {
        assert!(entries.iter().any(|entry| entry.request_id == reply.header("x-request-id")));
    }
    assert_eq!(lives(&gateway), 1, "a graceful end leaves nothing to recover");
    assert_books_agree(&gateway, &id, &entries).await;
    assert!(
        billed(&provider) <= sum(&entries) && sum(&entries) <= billed(&provider) + 6,
        "every price is the true one"
    );
    gateway.assert_chains_hold();
}
