//! Redis is away: keys with limits are refused at once, keys without go on, and everything is as before when it is back. A Redis that may forget is
//! not accepted.

use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::agents::{Outcome, ask, attempt};
use super::books::Limits;
use super::fleet::{Cluster, PATIENCE, Plan};

const LIMITS: Limits = Limits { nano_usd: 1_000_000_000, requests: 100_000 };
/// The promise, and what a machine that does other things may add.
const PROMPT: Duration = Duration::from_millis(50);
const LOADED: Duration = Duration::from_millis(250);
const RECOVERY: Duration = Duration::from_secs(2);

/// Lines of a node's log at a level that somebody should see.
fn raised(log: &str) -> Vec<String> {
    let loud = |line: &&str| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        matches!(line["level"].as_str(), Some("WARN" | "ERROR"))
    };
    log.lines().filter(loud).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_stopped_limited_keys_are_refused_at_once_and_others_go_on() {
    let cluster = Cluster::start(Script::default(), Plan::default()).await;
    let (capped, _) = cluster.create_key("capped", LIMITS.policy()).await;
    let (free, _) = cluster.create_key("free", admin::Policy::default()).await;
    for node in 0..3 {
        for key in [&capped, &free] {
            assert_eq!(cluster.chat(node, key, &ask(16, false)).await.status, 200);
        }
    }
    let logged: Vec<usize> = (1..=3).map(|node| raised(&cluster.log(&format!("node-{node}"))).len()).collect();

    cluster.signal("redis", "-STOP");
    let mut refusals: Vec<Outcome> = Vec::new();
    let stopped = Instant::now();
    for round in 0.. {
        if stopped.elapsed() > Duration::from_secs(2) {
            break;
        }
        for node in 0..3 {
            refusals.push(attempt(&cluster, node, &capped, &ask(16, round % 2 == 0)).await);
            assert_eq!(cluster.chat(node, &free, &ask(16, false)).await.status, 200, "a key without limits goes on");
        }
    }
    for refusal in &refusals {
        assert_eq!(refusal.kind(), "503 enforcement_unavailable", "{refusal:?}");
        assert!(refusal.retry_after.is_some(), "{refusal:?}");
    }
    let mut took: Vec<Duration> = refusals.iter().map(|refusal| refusal.took).collect();
    took.sort();
    let (half, longest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("outage: {} refusals, p50 {half:?}, max {longest:?}", took.len());
    assert!(half <= PROMPT && longest <= LOADED, "p50 {half:?}, max {longest:?}");

    cluster.signal("redis", "-CONT");
    let back = Instant::now();
    for node in 0..3 {
        while attempt(&cluster, node, &capped, &ask(16, false)).await.status != Some(200) {
            assert!(back.elapsed() <= RECOVERY, "node {} does not recover", node + 1);
            sleep(Duration::from_millis(20)).await;
        }
    }
    eprintln!("outage: recovered in {:?}", back.elapsed());
    for (node, before) in (1..=3).zip(logged) {
        let lines = raised(&cluster.log(&format!("node-{node}"))).split_off(before);
        assert!((1..=2).contains(&lines.len()), "one line for each change: {lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_forget_is_refused_with_what_to_change() {
    let cluster = Cluster::start(Script::default(), Plan { nodes: 1, ..Plan::default() }).await;
    let key = cluster.key();
    assert_eq!(cluster.chat(0, &key, &ask(16, false)).await.status, 200);
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
    let served = async || attempt(&cluster, 0, &key, &ask(16, false)).await.status == Some(200);
    cluster.eventually("it serves again", served).await;
}
