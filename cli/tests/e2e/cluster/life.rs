//! The verb itself: what it starts, what it starts again, and that it leaves nothing behind, with three Redis servers that form a cluster.

use keyforge_loadtest::provider::Script;

use super::fleet::{Cluster, Plan};

/// Whether a process runs; one that has ended and was not collected does not.
fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dies_is_started_again_and_the_end_leaves_no_process_behind() {
    let plan = Plan { nodes: 2, redis: 3, alone: false, ..Plan::default() };
    let mut cluster = Cluster::start(Script::default(), plan).await;
    let key = cluster.key();
    for node in 0..2 {
        cluster.serves(node, &key).await;
    }
    for name in ["node-2", "redis-2", "control-plane"] {
        let first = cluster.pid(name).unwrap();
        cluster.kill(name);
        cluster.eventually("it is back", async || cluster.pid(name).is_some_and(|pid| pid != first)).await;
    }
    cluster.all_ready().await;
    cluster.serves(1, &key).await;

    // Killed with SIGKILL it cannot clean up, and everything ends nevertheless.
    let pids = cluster.pids();
    assert_eq!(pids.len(), 1 + 1 + 2 + 3);
    cluster.kill_supervisor().await;
    cluster.eventually("nothing is left", async || !pids.iter().any(|pid| runs(*pid))).await;

    // The next start finds data, key and ports as they were.
    let urls = cluster.nodes.clone();
    cluster.launch(plan).await;
    assert_eq!(cluster.nodes, urls);
    assert!(cluster.banner["key"].is_null(), "the key's token is told once");
    cluster.serves(0, &key).await;
    let pids = cluster.pids();
    assert_eq!(cluster.stop().await.code(), Some(0));
    assert!(!pids.iter().any(|pid| runs(*pid)), "an end in order leaves nothing either");
    assert!(!cluster.data.join("cluster.json").exists());
}
