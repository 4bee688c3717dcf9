//! Nodes that cannot hear a revocation: they stop when they promised to, whatever stopped, and the receipt says when.

use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use tokio::time::{Instant, sleep};

use super::agents::{ask, attempt};
use super::books::Limits;
use super::fleet::{Cluster, Plan};

/// How long the nodes of these tests may serve a key without the control plane.
const BOUND: Duration = Duration::from_secs(3);
/// What a machine that does other things may add.
const LOADED: Duration = Duration::from_secs(2);

const PLAN: Plan<'_> = Plan { nodes: 2, redis: 1, tuning: "", alone: true };
const LIMITS: Limits = Limits { nano_usd: 1_000_000_000, requests: 100_000 };

fn bounded(seconds: u32) -> admin::Policy {
    admin::Policy { max_staleness_seconds: Some(seconds), ..admin::Policy::default() }
}

async fn kind(cluster: &Cluster, node: usize, token: &str) -> String {
    attempt(cluster, node, token, &ask(16, false)).await.kind()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_13_without_the_control_plane_a_key_is_served_as_long_as_its_policy_allows_and_no_longer() {
    let cluster = Cluster::start(Script::default(), PLAN).await;
    let (strict, _) = cluster.create_key("strict", bounded(3)).await;
    let (patient, _) = cluster.create_key("patient", bounded(600)).await;
    for node in 0..2 {
        cluster.serves(node, &strict).await;
        cluster.serves(node, &patient).await;
    }
    cluster.signal("control-plane", "-STOP");
    let stopped = Instant::now();
    let mut last_served = Duration::ZERO;
    while stopped.elapsed() < BOUND + Duration::from_millis(500) {
        let sent = stopped.elapsed();
        match kind(&cluster, 0, &strict).await.as_str() {
            "200" => last_served = last_served.max(sent),
            "503 state_stale" => break,
            other => panic!("{other}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    eprintln!("cut off: last served {last_served:?} after the control plane stopped, of {BOUND:?}");
    assert!(last_served <= BOUND, "{last_served:?}");
    sleep((BOUND + Duration::from_millis(500)).saturating_sub(stopped.elapsed())).await;
    for node in 0..2 {
        assert_eq!(kind(&cluster, node, &strict).await, "503 state_stale");
        assert_eq!(kind(&cluster, node, &patient).await, "200", "its policy allows more");
    }
    cluster.signal("control-plane", "-CONT");
    let back = Instant::now();
    cluster.serves(0, &strict).await;
    assert!(back.elapsed() <= BOUND + LOADED, "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_13_a_node_that_was_stopped_admits_nothing_after_the_moment_that_the_receipt_names() {
    let cluster = Cluster::start(Script::default(), PLAN).await;
    let (token, id) = cluster.create_key("doomed", bounded(3)).await;
    for node in 0..2 {
        cluster.serves(node, &token).await;
    }
    cluster.signal("node-2", "-STOP");
    let answer = cluster.cli_json(&["key", "revoke", &id, "--wait", "300"]);
    let receipt = &answer["receipt"];
    assert_eq!((receipt["nodes_acked"].as_u64(), receipt["nodes_total"].as_u64()), (Some(1), Some(2)), "{answer}");
    assert_eq!(receipt["nodes_pending"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(kind(&cluster, 0, &token).await, "401 invalid_api_key");

    // It is sent while the node cannot hear of anything, and is the first thing that the node finds once it runs again.
    let body = ask(16, false);
    let (first, ()) = tokio::join!(attempt(&cluster, 1, &token, &body), async {
        sleep(BOUND + Duration::from_millis(300)).await;
        cluster.signal("node-2", "-CONT");
    });
    assert!(["503 state_stale", "401 invalid_api_key"].contains(&first.kind().as_str()), "{first:?}");
    let refused = async || kind(&cluster, 1, &token).await == "401 invalid_api_key";
    cluster.eventually("the node has heard of it", refused).await;
    let again = cluster.cli_json(&["key", "revoke", &id]);
    assert_eq!(again["receipt"]["nodes_acked"].as_u64(), Some(2), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_key_is_stopped_in_the_shared_counters_too_and_an_old_freeze_goes_with_the_next_request() {
    let cluster = Cluster::start(Script::default(), PLAN).await;
    let (token, id) = cluster.create_key("paused", LIMITS.policy()).await;
    cluster.serves(0, &token).await;
    let books = cluster.redis("redis", &["--scan", "--pattern", &format!("*{}*books*", &id[3..])]);
    assert!(!books.is_empty() && books.lines().count() == 1, "{books}");
    let frozen = || cluster.redis("redis", &["HGET", &books, "frozen"]);
    assert_eq!(frozen(), "");
    let paused = cluster.cli_json(&["key", "pause", &id]);
    let revision = paused["receipt"]["revision"].as_u64().unwrap();
    cluster.eventually("the shared counters know", async || frozen() == revision.to_string()).await;
    assert_eq!(paused["receipt"]["nodes_acked"].as_u64(), Some(2), "{paused}");
    assert_eq!(kind(&cluster, 0, &token).await, "401 invalid_api_key");
    cluster.cli_json(&["key", "resume", &id]);
    cluster.eventually("they let it go on", async || frozen().is_empty()).await;

    // The word that lifted it was lost.
    cluster.redis("redis", &["HSET", &books, "frozen", &revision.to_string()]);
    assert_eq!(kind(&cluster, 1, &token).await, "200");
    assert_eq!(frozen(), "");
    // What is newer than anything that the node knows stays.
    cluster.redis("redis", &["HSET", &books, "frozen", "1000000"]);
    assert_eq!(kind(&cluster, 1, &token).await, "401 invalid_api_key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_without_the_control_plane_tells_dead_keys_from_others_and_serves_none() {
    let cluster = Cluster::start(Script::default(), Plan { nodes: 1, ..PLAN }).await;
    let (alive, _) = cluster.create_key("alive", bounded(3_600)).await;
    let (dead, id) = cluster.create_key("dead", bounded(3_600)).await;
    cluster.cli_json(&["key", "revoke", &id]);
    cluster.serves(0, &alive).await;
    let before = cluster.pid("node-1");
    cluster.hold_down("control-plane").await;
    // Told to stop, it writes down what it knows.
    cluster.signal("node-1", "-TERM");
    let again = async || cluster.pid("node-1").is_some_and(|pid| Some(pid) != before);
    cluster.eventually("the node runs again", again).await;
    let told = async |token: &str| kind(&cluster, 0, token).await;
    cluster.eventually("it knows its keys", async || told(&dead).await == "401 invalid_api_key").await;
    assert_eq!(told(&alive).await, "503 state_stale", "it has no secret to serve it with");
    assert!(!cluster.is_ready(0).await);
    cluster.release("control-plane");
    cluster.serves(0, &alive).await;
    cluster.eventually("it is ready", async || cluster.is_ready(0).await).await;
    let log = cluster.log("node-1");
    assert!(log.contains("the state of the last run was found"), "{log}");
}
