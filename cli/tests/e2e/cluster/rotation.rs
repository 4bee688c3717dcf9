//! A rotated key: two tokens for as long as the grace lasts, by the clocks of nodes that hear of nobody, and none once it is revoked.

use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use tokio::time::{Instant, sleep};

use super::agents::{ask, attempt};
use super::fleet::{Cluster, Plan};

/// How long the former token goes on to work: long enough for two nodes to be asked before.
const GRACE: Duration = Duration::from_secs(5);
const PLAN: Plan<'_> = Plan { nodes: 2, redis: 1, tuning: "", alone: true };

async fn kind(cluster: &Cluster, node: usize, token: &str) -> String {
    attempt(cluster, node, token, &ask(16, false)).await.kind()
}

fn rotate(cluster: &Cluster, id: &str, grace: &str) -> String {
    let rotated = cluster.cli_json(&["key", "rotate", id, "--grace", grace]);
    rotated["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_13_a_former_token_ends_with_its_grace_also_without_the_control_plane_and_a_revocation_ends_both_tokens() {
    let cluster = Cluster::start(Script::default(), PLAN).await;
    let policy = admin::Policy { max_staleness_seconds: Some(600), ..admin::Policy::default() };
    let (old, id) = cluster.create_key("rotated", policy).await;
    for node in 0..2 {
        cluster.serves(node, &old).await;
    }
    let new = rotate(&cluster, &id, "5s");
    let rotated = Instant::now();
    for node in 0..2 {
        cluster.serves(node, &new).await;
    }
    cluster.signal("control-plane", "-STOP");
    for node in 0..2 {
        let told = kind(&cluster, node, &old).await;
        assert!(told == "200" || rotated.elapsed() >= GRACE, "{told} after {:?}", rotated.elapsed());
    }
    sleep((GRACE + Duration::from_millis(100)).saturating_sub(rotated.elapsed())).await;
    for node in 0..2 {
        let reply = cluster.chat(node, &old, &ask(16, false)).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"), "{}", reply.text());
        assert!(reply.text().contains("rotated"), "{}", reply.text());
        assert_eq!(kind(&cluster, node, &new).await, "200", "the new token does not end");
    }
    cluster.signal("control-plane", "-CONT");

    let newest = rotate(&cluster, &id, "24h");
    for node in 0..2 {
        cluster.serves(node, &newest).await;
        assert_eq!(kind(&cluster, node, &new).await, "200", "its grace lasts");
        assert_eq!(kind(&cluster, node, &old).await, "401 invalid_api_key", "there are never more than two");
    }
    let answer = cluster.cli_json(&["key", "revoke", &id]);
    assert_eq!(answer["receipt"]["nodes_acked"].as_u64(), Some(2), "{answer}");
    for node in 0..2 {
        for token in [&new, &newest] {
            assert_eq!(kind(&cluster, node, token).await, "401 invalid_api_key");
        }
    }
}
