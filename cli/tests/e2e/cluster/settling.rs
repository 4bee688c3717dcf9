//! What a lost life of a key's books had been granted comes back soon, also when nodes that knew that life are not asked for the key any more.

use keyforge_loadtest::provider::Script;
use tokio::time::{Duration, Instant, sleep};

use super::agents::{Outcome, ask, attempt, kinds};
use super::books::{Keys, Limits, charged, reconciled};
use super::fleet::{Cluster, Plan};

const LIMITS: Limits = Limits { nano_usd: 50_000_000, requests: 1_000 };
/// How long what was lost may be kept back.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_6_i_8_a_node_that_is_not_asked_any_more_does_not_keep_back_what_a_lost_life_was_granted() {
    let cluster = Cluster::start(Script { fill: true, ..Script::default() }, Plan::default()).await;
    let keys = Keys::one(cluster.create_key("moved", LIMITS.policy()).await, LIMITS);
    for node in 0..3 {
        cluster.serves(node, &keys.tokens[0]).await;
    }
    assert_eq!(cluster.redis("redis", &["FLUSHALL"]), "OK");

    // From here on all agents of this key happen to use the first node.
    let (begin, mut seen) = (Instant::now(), Vec::<Outcome>::new());
    loop {
        let outcome = attempt(&cluster, 0, &keys.tokens[0], &ask(100, false)).await;
        let kind = outcome.kind();
        seen.push(outcome);
        match kind.as_str() {
            "200" => {}
            "402 budget_exceeded" => break,
            _ => {
                let error = &seen[seen.len() - 1];
                assert!(begin.elapsed() < SOON, "{:?} after {:?}: {error:?}", kinds(&seen), begin.elapsed());
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let entries = reconciled(&cluster, &keys, &seen).await;
    let left = LIMITS.nano_usd - charged(&entries).nano_usd;
    eprintln!("settling: {:?} in {:?}, {left} nano-dollars are left", kinds(&seen), begin.elapsed());
    let needed: f64 = seen[seen.len() - 1].error["needed"].as_str().unwrap().parse().unwrap();
    assert!(1e9 * needed > left as f64, "I-8: {left} nano-dollars are left");
}
