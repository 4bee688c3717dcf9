//! Redis is away: keys with limits are refused at once, keys without go on, and everything is as before when it is back. A Redis that may forget is
//! not accepted.

use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use tokio::time::{Instant, sleep};

use super::agents::{ask, attempt};
use super::books::Limits;
use super::deployment::PATIENCE;
use super::fleet::{Cluster, Plan};

const LIMITS: Limits = Limits { nano_usd: 1_000_000_000, requests: 100_000 };
/// The promise, and what a machine that does other things may add.
const PROMPT: Duration = Duration::from_millis(50);
const LOADED: Duration = Duration::from_millis(250);
const RECOVERY: Duration = Duration::from_secs(2);
/// What a node says, once, when its counter store goes and comes.
const GONE: &str = "the counter store is unavailable";
const BACK: &str = "the counter store is available again";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_limited_keys_are_refused_at_once_and_others_go_on() {
    let cluster = Cluster::start(Script::default(), Plan::default()).await;
    let (capped, _) = cluster.create_key("capped", LIMITS.policy()).await;
    let (free, _) = cluster.create_key("free", admin::Policy::default()).await;
    for node in 0..3 {
        for key in [&capped, &free] {
            cluster.serves(node, key).await;
        }
    }
    let before = changes(&cluster);
    cluster.signal("redis", "-STOP");
    refused_at_once(&cluster, &capped, &free).await;
    cluster.signal("redis", "-CONT");
    recovered(&cluster, &capped).await;
    for (before, now) in before.iter().zip(changes(&cluster)) {
        assert_eq!((now.0 - before.0, now.1 - before.1), (1, 1), "one line for each change");
    }

    // The same when nobody listens any more.
    cluster.hold_down("redis").await;
    refused_at_once(&cluster, &capped, &free).await;
    cluster.release("redis");
    cluster.eventually("Redis answers", async || cluster.redis("redis", &["PING"]) == "PONG").await;
    recovered(&cluster, &capped).await;
}

/// For two seconds a capped key is refused on every node as promptly as promised, and a free one is served.
async fn refused_at_once(cluster: &Cluster, capped: &str, free: &str) {
    let (begin, mut took) = (Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_secs(2) {
        for node in 0..3 {
            let refusal = attempt(cluster, node, capped, &ask(16, took.len() % 2 == 0)).await;
            assert_eq!(refusal.kind(), "503 enforcement_unavailable", "{refusal:?}");
            assert!(refusal.retry_after.is_some(), "{refusal:?}");
            took.push(refusal.took);
            assert_eq!(cluster.chat(node, free, &ask(16, false)).await.status, 200, "a key without limits goes on");
        }
    }
    took.sort();
    let (half, longest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("outage: {} refusals, p50 {half:?}, max {longest:?}", took.len());
    assert!(half <= PROMPT && longest <= LOADED, "p50 {half:?}, max {longest:?}");
}

/// Every node serves the capped key again soon.
async fn recovered(cluster: &Cluster, capped: &str) {
    let back = Instant::now();
    for node in 0..3 {
        while attempt(cluster, node, capped, &ask(16, false)).await.status != Some(200) {
            assert!(back.elapsed() <= RECOVERY, "node {} does not recover", node + 1);
            sleep(Duration::from_millis(20)).await;
        }
    }
    eprintln!("outage: recovered in {:?}", back.elapsed());
}

/// How often each node said that the store went away, and that it came back.
fn changes(cluster: &Cluster) -> Vec<(usize, usize)> {
    let count = |log: &str, words: &str| log.lines().filter(|line| line.contains(words)).count();
    let logs = (1..=3).map(|node| cluster.log(&format!("node-{node}")));
    logs.map(|log| (count(&log, GONE), count(&log, BACK))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_forget_is_refused_with_what_to_change() {
    let cluster = Cluster::start(Script::default(), Plan { nodes: 1, ..Plan::default() }).await;
    let key = cluster.key();
    cluster.serves(0, &key).await;
    assert_eq!(cluster.redis("redis", &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]), "OK");
    cluster.kill("node-1");
    let refused = async || {
        let log = cluster.log("node-1");
        log.contains("allkeys-lru") && log.contains("noeviction")
    };
    let told = tokio::time::timeout(PATIENCE / 3, cluster.eventually("the node says why", refused)).await;
    assert!(told.is_ok(), "{}", cluster.log("node-1"));
    assert!(!cluster.is_ready(0).await, "it does not serve with such a Redis");
    assert_eq!(cluster.redis("redis", &["CONFIG", "SET", "maxmemory-policy", "noeviction"]), "OK");
    cluster.all_ready().await;
    cluster.serves(0, &key).await;
}
