//! A rate over several nodes: never more in any minute than it says, and whoever waits as long as told is admitted.

use std::sync::Arc;
use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::agents::{Outcome, ask, assert_only, attempt};
use super::fleet::{Cluster, Plan};
use super::{is_long, seconds};

const MINUTE: Duration = Duration::from_secs(60);
/// From an admission to the provider, at most: the window is measured there, and not where it is kept.
const WAY: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_10_three_nodes_together_admit_no_more_than_the_rate_in_any_minute() {
    let rate: usize = if is_long() { 120 } else { 20 };
    let cluster = Arc::new(Cluster::start(Script::default(), Plan { alone: false, ..Plan::default() }).await);
    let policy = admin::Policy { requests_per_minute: Some(rate as u32), ..admin::Policy::default() };
    let (token, _) = cluster.create_key("steady", policy).await;
    let before = cluster.provider.request_count() as usize;
    let end = Instant::now() + seconds(64, 130);
    let mut clients = JoinSet::new();
    // Two on each node ask in bursts; one waits as it is told.
    for client in 0..6 {
        let (cluster, token) = (Arc::clone(&cluster), token.clone());
        clients.spawn(async move {
            let mut outcomes = Vec::new();
            while Instant::now() < end {
                outcomes.push(attempt(&cluster, client % 3, &token, &ask(16, false)).await);
                sleep(Duration::from_millis(250)).await;
            }
            outcomes
        });
    }
    let outcomes: Vec<Outcome> = clients.join_all().await.into_iter().flatten().collect();
    assert_only(&outcomes, &["200", "429 rate_limit_exceeded"]);
    let arrivals: Vec<Instant> = cluster.provider.requests()[before..].iter().map(|seen| seen.at).collect();
    assert!(arrivals.len() > rate, "a second minute began: {} arrivals", arrivals.len());
    for (first, next) in arrivals.iter().zip(&arrivals[rate..]) {
        assert!(*next - *first > MINUTE - WAY, "I-10: {} requests within {:?}", rate + 1, *next - *first);
    }
    let refused = outcomes.iter().filter(|outcome| outcome.status == Some(429));
    assert!(refused.clone().count() > 3 * rate, "the rate was asked for much more than it has");
    assert!(refused.clone().all(|outcome| outcome.retry_after.is_some_and(|wait| wait <= MINUTE)));

    // Whoever waits as long as told is admitted, on any node.
    let told = loop {
        let outcome = attempt(&cluster, 0, &token, &ask(16, false)).await;
        match outcome.status {
            Some(200) => {}
            _ => break outcome.retry_after.unwrap(),
        }
    };
    if told < Duration::from_secs(15) || is_long() {
        sleep(told).await;
        let admitted = attempt(&cluster, 1, &token, &ask(16, false)).await;
        assert_eq!(admitted.kind(), "200", "after {told:?}: {:?}", admitted.retry_after);
    }
    eprintln!("rates: {} admitted, {} refused, told to wait {told:?}", arrivals.len(), refused.count());
}
