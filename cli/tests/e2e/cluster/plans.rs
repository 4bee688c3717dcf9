//! The Free plan over several nodes: the fourth key and the 1,001st request of a month are refused, wherever they are asked for.

use std::sync::Arc;
use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::agents::{Outcome, ask, assert_only, attempt, kinds};
use super::deployment::PATIENCE;
use super::fleet::{Cluster, Plan};

const REQUESTS_A_MONTH: usize = 1_000;
const AGENTS: usize = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_1_i_4_the_fourth_key_and_the_1001st_request_of_a_free_workspace_are_refused_across_nodes() {
    let plan = Plan { nodes: 2, alone: false, ..Plan::default() };
    let cluster = Arc::new(Cluster::start(Script::default(), plan).await);
    assert_eq!(cluster.cli_json(&["workspace", "create", "team", "--plan", "free"])["plan"], "free");
    let mut keys = Vec::new();
    for name in ["one", "two", "three"] {
        keys.push(cluster.create_key_in("team", name, admin::Policy::default()).await.0);
    }
    let fourth = cluster.cli(&["key", "create", "four", "--workspace", "team"]);
    let said = String::from_utf8_lossy(&fourth.stderr);
    assert!(
        !fourth.status.success() && said.contains("the plan free of the workspace allows 3 virtual keys"),
        "{said}"
    );

    let before = cluster.provider.request_count() as usize;
    let mut agents = JoinSet::new();
    for agent in 0..AGENTS {
        let (cluster, token) = (Arc::clone(&cluster), keys[agent % keys.len()].clone());
        agents.spawn(async move { until_used_up(&cluster, agent, &token).await });
    }
    let outcomes: Vec<Outcome> = agents.join_all().await.into_iter().flatten().collect();
    // Redis may answer too late on a machine that does too much at once.
    assert_only(&outcomes, &["200", "402 budget_exceeded", "429 limit_settling", "503 enforcement_unavailable"]);
    let kinds = kinds(&outcomes);
    let served = kinds.get("200").copied().unwrap_or_default();
    let sent = cluster.provider.request_count() as usize - before;
    assert!(sent <= REQUESTS_A_MONTH, "I-1: {sent} requests in a month: {kinds:?}");
    if !kinds.contains_key("503 enforcement_unavailable") {
        assert_eq!((served, sent), (REQUESTS_A_MONTH, REQUESTS_A_MONTH), "{kinds:?}");
    }
    for refused in outcomes.iter().filter(|outcome| outcome.status == Some(402)) {
        let message = refused.error["message"].as_str().unwrap();
        assert!(message.contains("request quota of 1000 per month, which is that of the plan free"), "{message}");
        let (plan, limit, scope) = (&refused.error["plan"], &refused.error["limit"], &refused.error["scope"]);
        assert_eq!((plan, limit, scope), (&"free".into(), &1_000.into(), &"workspace".into()));
    }
    // A key of another workspace goes on.
    let (other, _) = cluster.create_key("other", admin::Policy::default()).await;
    for node in 0..2 {
        assert_eq!(attempt(&cluster, node, &other, &ask(16, false)).await.kind(), "200");
    }
}

/// Asks one node after the other until it is told that the month is used up, or until it takes too long.
async fn until_used_up(cluster: &Cluster, agent: usize, token: &str) -> Vec<Outcome> {
    let (mut outcomes, end) = (Vec::new(), Instant::now() + 3 * PATIENCE);
    for number in agent.. {
        let outcome = attempt(cluster, number % 2, token, &ask(16, false)).await;
        let (status, is_late) = (outcome.status, Instant::now() > end);
        outcomes.push(outcome);
        match status {
            Some(402) => break,
            _ if is_late => break,
            Some(200) => {}
            _ => sleep(Duration::from_millis(200)).await,
        }
    }
    outcomes
}
