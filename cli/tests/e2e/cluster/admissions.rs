//! A rate over several nodes: never more in any minute than it says, and whoever waits as long as told is admitted.

use std::sync::Arc;
use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::agents::{Outcome, ask, assert_only, attempt, kinds};
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
    // Two on each node ask for more than there is.
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
    let told = patient(&cluster).await;
    let outcomes: Vec<Outcome> = clients.join_all().await.into_iter().flatten().collect();
    // Redis may answer too late on a machine that does too much at once.
    assert_only(&outcomes, &["200", "429 rate_limit_exceeded", "503 enforcement_unavailable"]);
    let steady =
        cluster.provider.requests().split_off(before).into_iter().filter(|seen| seen.json()["max_tokens"] == 16);
    let arrivals: Vec<Instant> = steady.map(|seen| seen.at).collect();
    assert!(arrivals.len() > rate, "a second minute began: {} arrivals", arrivals.len());
    for (first, next) in arrivals.iter().zip(&arrivals[rate..]) {
        assert!(*next - *first > MINUTE - WAY, "I-10: {} requests within {:?}", rate + 1, *next - *first);
    }
    let refused = outcomes.iter().filter(|outcome| outcome.status == Some(429));
    assert!(refused.clone().count() > 3 * rate, "the rate was asked for much more than it has");
    assert!(refused.clone().all(|outcome| outcome.retry_after.is_some_and(|wait| wait <= MINUTE)));
    eprintln!("rates: {} arrived, told to wait {told:?}, {:?}", arrivals.len(), kinds(&outcomes));
}

/// Uses a rate up over the nodes, and is admitted once it has waited as long as it was told. Returns how long that was.
async fn patient(cluster: &Cluster) -> Duration {
    let policy = admin::Policy { requests_per_minute: Some(3), ..admin::Policy::default() };
    let (token, _) = cluster.create_key("patient", policy).await;
    let mut told = None;
    for round in 0.. {
        let outcome = attempt(cluster, round % 3, &token, &ask(17, false)).await;
        match outcome.kind().as_str() {
            "200" if told.is_some() => break,
            "429 rate_limit_exceeded" if told.is_none() => {
                told = outcome.retry_after;
                sleep(told.unwrap()).await;
            }
            "200" | "503 enforcement_unavailable" => sleep(Duration::from_millis(500)).await,
            _ => panic!("it waited {told:?} and is told to wait {:?}: {}", outcome.retry_after, outcome.error),
        }
    }
    told.unwrap()
}
