//! Pools over three nodes and Redis: nine tenths of what the provider's exact limits let through, with no 429 to any agent; and what one node meets the
//! others honour.

use std::sync::Arc;
use std::time::Duration;

use keyforge_loadtest::provider::script::FaultRule;
use keyforge_loadtest::provider::{RateLimit, Reply as Scripted, Script};
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::agents::{Outcome, ask, attempt, kinds};
use super::fleet::{Cluster, Plan};
use super::is_long;
use crate::harness::PROVIDER_KEY;

/// A node honours what another met after at most this.
const KNOWN_AFTER: Duration = Duration::from_millis(250);

async fn add(cluster: &Cluster, secret: &str) {
    let mut credentials = CredentialServiceClient::new(cluster.admin().await);
    let request = admin::AddCredentialRequest {
        provider: "openai".to_owned(),
        secret: secret.as_bytes().to_vec(),
        base_url: cluster.provider.base_url(),
        ..admin::AddCredentialRequest::default()
    };
    credentials.add_credential(request).await.unwrap();
}

/// Sends so many requests at an even pace, to one node after the other.
async fn paced(cluster: &Arc<Cluster>, token: &str, (count, per_second): (usize, f64)) -> Vec<Outcome> {
    let mut ticks = interval(Duration::from_secs_f64(1.0 / per_second));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut running, mut outcomes) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count {
        ticks.tick().await;
        let (cluster, token) = (Arc::clone(cluster), token.to_owned());
        running.spawn(async move {
            attempt(&cluster, number % cluster.nodes.len(), &token, &ask(16, number % 2 == 0)).await
        });
        while let Some(done) = running.try_join_next() {
            outcomes.push(done.unwrap());
        }
    }
    outcomes.extend(running.join_all().await);
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_26_at_nine_tenths_of_what_a_pool_holds_no_agent_sees_a_429() {
    // Four credentials with an exact bucket each.
    let (each, count) = if is_long() { (40, 100_000) } else { (20, 900) };
    let script =
        Script { rate_limit: Some(RateLimit::bucket(each, 1_000)), record_requests: false, ..Script::default() };
    let cluster = Cluster::start(script, Plan::default()).await;
    for spare in 1..4 {
        add(&cluster, &format!("sk-spare-{spare}-0123456789")).await;
    }
    let (token, _) = cluster.create_key("agents", admin::Policy::default()).await;
    let cluster = Arc::new(cluster);
    let per_second = 4.0 * each as f64 * 0.9;
    let begun = Instant::now();
    let outcomes = paced(&cluster, &token, (count, per_second)).await;
    let (kinds, arrived) = (kinds(&outcomes), cluster.provider.request_count());
    let used = count as f64 / begun.elapsed().as_secs_f64() / (4.0 * each as f64) * 100.0;
    eprintln!(
        "pools: {count} requests in {:?}, {used:.0} % of what the pool holds: {kinds:?}; {arrived} reached the provider",
        begun.elapsed()
    );
    assert_eq!(kinds.get("200"), Some(&count), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cooldown_that_one_node_met_is_honoured_by_the_others() {
    let headers = [("retry-after".to_owned(), "60".to_owned())].into();
    let refusal = Scripted::Status { code: 429, body: None, headers };
    let script = Script { faults: vec![FaultRule::for_credential(PROVIDER_KEY, refusal)], ..Script::default() };
    let cluster = Cluster::start(script, Plan::default()).await;
    add(&cluster, "sk-spare-0123456789").await;
    let (token, _) = cluster.create_key("agent", admin::Policy::default()).await;
    let met = || cluster.provider.requests().iter().find(|seen| seen.credential == PROVIDER_KEY).map(|seen| seen.at);
    for _ in 0..64 {
        assert_eq!(cluster.chat(0, &token, &ask(16, false)).await.status, 200);
        if met().is_some() {
            break;
        }
    }
    sleep_until(met().expect("node 1 met the refusal") + KNOWN_AFTER).await;
    for number in 0..200 {
        assert_eq!(cluster.chat(1 + number % 2, &token, &ask(16, false)).await.status, 200);
    }
    let asked = cluster.provider.requests().iter().filter(|seen| seen.credential == PROVIDER_KEY).count();
    assert_eq!(asked, 1, "the other nodes asked it, too");

    // Without Redis the nodes go on with what they know.
    cluster.signal("redis", "-STOP");
    for number in 0..60 {
        assert_eq!(cluster.chat(number % 3, &token, &ask(16, false)).await.status, 200);
    }
    cluster.signal("redis", "-CONT");
    let asked = cluster.provider.requests().iter().filter(|seen| seen.credential == PROVIDER_KEY).count();
    assert_eq!(asked, 1, "nobody forgot it");
}
