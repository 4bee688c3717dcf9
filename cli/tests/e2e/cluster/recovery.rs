//! A node that is killed in the middle of requests: once it is back, nothing of what it held is left in Redis, and what is charged there is what the
//! chain says and the provider billed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::agents::{INPUT_NANO, OUTPUT_NANO, Outcome, ask, attempt, kinds};
use super::books::{Keys, Limits, balance, billed, charged, reconciled};
use super::fleet::{Cluster, Plan};

const LIMITS: Limits = Limits { nano_usd: 10_000_000_000, requests: 100_000 };
/// Requests on each node when one dies.
const EACH: usize = 20;
/// How soon nothing may be held any more, once the node is ready. Holds end by time after an hour.
const SOON: Duration = Duration::from_secs(10);

/// Answers that take seconds, so that a node which dies has all of its requests before it.
fn slow() -> Script {
    Script { latency_ms: 2_500, completion_tokens: 40, token_interval_ms: 10, ..Script::default() }
}

/// Limits, and a limit of concurrency that is not reached.
fn policy() -> admin::Policy {
    admin::Policy { concurrent_requests: Some(1_000), ..LIMITS.policy() }
}

/// What Redis keeps of a key.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// Charged and held by dimension: `s` nano-dollars, `r` requests.
    counters: BTreeMap<char, (u64, u64)>,
    /// Reservations that are open.
    open: u64,
    /// Requests that are believed to run.
    running: u64,
}

impl Kept {
    fn of(cluster: &Cluster, id: &str) -> Self {
        let name = |what: &str| format!("kf1:{{{}}}:{what}", id.trim_start_matches("vk_"));
        let count =
            |command: &str, what: &str| cluster.redis("redis", &[command, &name(what)]).parse().unwrap_or(u64::MAX);
        let books = cluster.redis("redis", &["HGETALL", &name("books")]);
        let lines: Vec<&str> = books.lines().collect();
        let counters = lines.chunks_exact(2).filter(|pair| pair[0].contains('.')).map(|pair| {
            let numbers: Vec<u64> = pair[1].split(' ').map(|number| number.parse().unwrap()).collect();
            (pair[0].chars().nth(1).unwrap(), (numbers[0], numbers[1]))
        });
        Self { counters: counters.collect(), open: count("HLEN", "open"), running: count("ZCARD", "leases") }
    }

    fn holds(&self) -> u64 {
        self.counters.values().map(|(_, held)| held).sum::<u64>() + self.open + self.running
    }

    /// Nothing is held, and so much is charged.
    fn settled(charge: Limits) -> Self {
        let counters = BTreeMap::from([('s', (charge.nano_usd, 0)), ('r', (charge.requests, 0))]);
        Self { counters, open: 0, running: 0 }
    }
}

/// Requests on every node, every other one streamed, until the provider has them all.
async fn in_the_middle(cluster: &Arc<Cluster>, token: &str) -> JoinSet<Outcome> {
    let (before, mut clients) = (cluster.provider.request_count(), JoinSet::new());
    for number in 0..3 * EACH {
        let (cluster, token) = (Arc::clone(cluster), token.to_owned());
        clients.spawn(async move {
            loop {
                let outcome = attempt(&cluster, number % 3, &token, &ask(60, number / 3 % 2 == 0)).await;
                // Redis may answer too late on a machine that does too much at once.
                if outcome.code != "enforcement_unavailable" {
                    break outcome;
                }
            }
        });
    }
    let all = async || cluster.provider.request_count() >= before + 3 * EACH as u64;
    cluster.eventually("all requests are at the provider", all).await;
    clients
}

/// Waits until nothing of the key is held any more, and says how long that took.
async fn until_nothing_is_held(cluster: &Cluster, id: &str) -> Duration {
    let begin = Instant::now();
    loop {
        let kept = Kept::of(cluster, id);
        if kept.holds() == 0 {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < SOON, "I-9: still held after {SOON:?}: {kept:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The charge is the provider's bill for what was answered, and the bound of what nobody saw the end of: in Redis, in the ledger, in the chain.
async fn assert_the_books_agree(cluster: &Cluster, keys: &Keys, seen: &[Outcome], orphans: usize) {
    let entries = reconciled(cluster, keys, seen).await;
    let (unresolved, completed): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.outcome == "unresolved");
    assert_eq!(unresolved.len(), orphans, "{:?}", kinds(seen));
    assert!(unresolved.iter().all(|entry| entry.cost_nano_usd == entry.bound_nano_usd && entry.cost_nano_usd > 0));
    let exact = |entry: &&admin::RequestEntry| {
        entry.cost_nano_usd == entry.input_tokens * INPUT_NANO + entry.output_tokens * OUTPUT_NANO
    };
    assert!(completed.iter().filter(|entry| entry.outcome == "completed").all(exact), "{completed:?}");
    let charge = charged(&entries);
    assert_eq!(Kept::of(cluster, &keys.ids[0]), Kept::settled(charge), "I-20: Redis and the chain");
    assert_eq!(balance(cluster, &keys.ids[0], "spend").await.settled, charge.nano_usd, "I-20: ledger and chain");
    let bill = billed(cluster);
    // What was asked for and not answered yet when its node died is not on the bill.
    assert!(bill.requests <= charge.requests);
    let of_completed: u64 = completed.iter().map(|entry| entry.cost_nano_usd).sum();
    assert!(of_completed <= bill.nano_usd && bill.nano_usd <= charge.nano_usd, "{of_completed} {bill:?} {charge:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_9_i_20_a_node_that_was_killed_leaves_nothing_held_in_redis_once_it_is_back() {
    let cluster = Arc::new(Cluster::start(Script::default(), Plan::default()).await);
    let keys = Keys::one(cluster.create_key("killed", policy()).await, LIMITS);
    for node in 0..3 {
        cluster.serves(node, &keys.tokens[0]).await;
    }
    cluster.provider.set_script(slow());
    let clients = in_the_middle(&cluster, &keys.tokens[0]).await;
    assert!(Kept::of(&cluster, &keys.ids[0]).open >= 3 * EACH as u64);
    let first = cluster.pid("node-1");
    cluster.kill("node-1");
    let seen = clients.join_all().await;
    assert_eq!(kinds(&seen).get("200"), Some(&(2 * EACH)), "the other nodes did not notice: {:?}", kinds(&seen));
    cluster
        .eventually("the node is started again", async || cluster.pid("node-1").is_some_and(|pid| Some(pid) != first))
        .await;
    cluster.all_ready().await;
    let took = until_nothing_is_held(&cluster, &keys.ids[0]).await;
    eprintln!("recovery: nothing is held {took:?} after the node was ready");
    assert_the_books_agree(&cluster, &keys, &seen, EACH).await;
    cluster.provider.set_script(Script::default());
    cluster.serves(0, &keys.tokens[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_9_also_when_redis_does_not_answer_at_the_restart_and_the_node_is_killed_again() {
    let cluster = Arc::new(Cluster::start(Script::default(), Plan::default()).await);
    let keys = Keys::one(cluster.create_key("unlucky", policy()).await, LIMITS);
    for node in 0..3 {
        cluster.serves(node, &keys.tokens[0]).await;
    }
    cluster.provider.set_script(slow());
    let clients = in_the_middle(&cluster, &keys.tokens[0]).await;
    // Redis stands still while the node dies twice; what lasts longest of the others ends meanwhile, too.
    cluster.signal("redis", "-STOP");
    for _ in 0..2 {
        let first = cluster.pid("node-1");
        cluster.kill("node-1");
        cluster
            .eventually("the node is started again", async || {
                cluster.pid("node-1").is_some_and(|pid| Some(pid) != first)
            })
            .await;
        sleep(Duration::from_millis(700)).await;
    }
    let seen = clients.join_all().await;
    cluster.signal("redis", "-CONT");
    cluster.all_ready().await;
    let took = until_nothing_is_held(&cluster, &keys.ids[0]).await;
    eprintln!("recovery: nothing is held {took:?} after Redis answered and the node was ready");
    assert_the_books_agree(&cluster, &keys, &seen, EACH).await;
    cluster.provider.set_script(Script::default());
    cluster.serves(0, &keys.tokens[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_9_also_while_the_control_plane_is_down_and_the_node_cannot_serve() {
    let cluster = Arc::new(Cluster::start(Script::default(), Plan::default()).await);
    let keys = Keys::one(cluster.create_key("alone", policy()).await, LIMITS);
    for node in 0..3 {
        cluster.serves(node, &keys.tokens[0]).await;
    }
    cluster.provider.set_script(slow());
    let clients = in_the_middle(&cluster, &keys.tokens[0]).await;
    cluster.hold_down("control-plane").await;
    cluster.kill("node-1");
    let seen = clients.join_all().await;
    let took = until_nothing_is_held(&cluster, &keys.ids[0]).await;
    assert!(!cluster.is_ready(0).await, "it knows no key");
    eprintln!("recovery: nothing is held {took:?} after the last answer, without a control plane");
    cluster.release("control-plane");
    cluster.all_ready().await;
    assert_the_books_agree(&cluster, &keys, &seen, EACH).await;
    cluster.provider.set_script(Script::default());
    cluster.serves(0, &keys.tokens[0]).await;
}
