//! Two control planes on one PostgreSQL server, three nodes that reach either through a load balancer, and agents all the while. Whichever of the three is
//! killed, nothing that was acknowledged is lost, nothing is granted twice, and agents are told nothing but what is documented.

mod balancer;
mod site;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::BodyExt;
use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_shared::clock::{Clock as _, SystemClock};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use self::balancer::Routing;
use self::site::{NODES, Site};
use super::agents::{Crowd, ask, assert_only, attempt, crowd, kinds};
use super::books::{Keys, Limits, Watch, balance, billed, chain, charged, nothing_is_locked_up, outcomes, reconciled};
use super::chance::Chance;
use super::deployment::{Deployment, PATIENCE};
use super::seconds;

const LIMITS: Limits = Limits { nano_usd: 1_000_000_000, requests: 1_000 };
const AGENTS: usize = 40;
/// Tokens of an answer: a thousand answers come close to the cap, so that either limit may be the first.
const TOKENS: u64 = 95;
/// How long a key that was revoked at one control plane may live on at a node of the other.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long a change takes to the nodes of the other control plane that the database tells of it: well below the second after which that one looks by itself.
const TOLD: Duration = Duration::from_millis(500);

/// Revocations in a row.
const ROUNDS: usize = 7;
/// How long receipts wait, in milliseconds.
const LONG: u32 = 10_000;

/// All that agents may be told here. Nodes and Redis stay, so that no answer breaks; and nothing is away for as long as a state may be old.
const DOCUMENTED: [&str; 4] = ["200", "402 budget_exceeded", "429 limit_settling", "503 enforcement_unavailable"];

/// What is killed, and started again some time later.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Replica(usize),
    Database,
}

/// Places of a key's chain that were seen taken, and by what. Whatever an operator sees is committed, and so is what any node was told is acknowledged.
#[derive(Default)]
struct Chronicle(BTreeMap<u64, Vec<u8>>);

impl Chronicle {
    /// Reads the chain at a control plane that is up: what was there is there, and the same.
    async fn read(&mut self, at: &Deployment, id: &str) {
        let chain = read_again(at, id).await;
        let now: BTreeMap<u64, Vec<u8>> = chain.into_iter().map(|entry| (entry.seq, entry.hash)).collect();
        for (seq, hash) in &self.0 {
            assert_eq!(now.get(seq), Some(hash), "I-16: entry {seq} is gone or another one");
        }
        self.0 = now;
    }
}

/// Reads a chain; a control plane whose database was away says so, and is asked again.
async fn read_again(at: &Deployment, id: &str) -> Vec<admin::Entry> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match chain(at, id).await {
            Ok(chain) => return chain,
            Err(status) => assert!(status.code() == Code::Unavailable && Instant::now() < deadline, "{status}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

impl Fault {
    async fn happen(self, site: &mut Site, chance: &mut Chance, chronicle: &mut Chronicle, id: &str) {
        let away = Duration::from_millis(chance.between(100, 1_500));
        chronicle.read(&site.at[0], id).await;
        match self {
            Self::Replica(which) => {
                site.replicas[which].kill().await;
                // Everything that the dead one acknowledged, to its last word.
                chronicle.read(&site.at[1 - which], id).await;
                sleep(away).await;
                site.replicas[which].start().await;
                site.spread();
            }
            Self::Database => {
                site.database.kill().unwrap();
                sleep(away).await;
                site.database.run().unwrap();
            }
        }
        for at in &site.at {
            chronicle.read(at, id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_1_i_16_i_17_i_20_killing_either_control_plane_or_their_database_loses_nothing_and_grants_nothing_twice() {
    let mut chance = Chance::seeded();
    let slow =
        Script { fill: true, latency_ms: 300, token_interval_ms: 10, record_requests: false, ..Script::default() };
    let mut site = Site::start(slow.clone(), Routing::InTurn).await;
    let deployment = Arc::clone(&site.at[0]);
    let keys = Keys::one(deployment.create_key("shared", LIMITS.policy()).await, LIMITS);
    for node in 0..NODES {
        deployment.serves(node, &keys.tokens[0]).await;
    }
    let watch = Watch::start(&deployment, LIMITS);
    let (begin, length) = (Instant::now(), seconds(12, 60));
    let end = begin + length;
    let agents = tokio::spawn({
        let (deployment, tokens) = (Arc::clone(&deployment), keys.tokens.clone());
        // So that the key's requests last for all of it.
        let plan = Crowd { agents: AGENTS, tokens: TOKENS, rest: length / 30, end };
        async move { crowd(&deployment, &tokens, plan).await }
    });

    let (mut chronicle, mut deck) = (Chronicle::default(), Vec::new());
    let mut kills = 0;
    // Each at least once, however slow the machine is.
    while kills < 3 || Instant::now() < end - Duration::from_secs(1) {
        sleep(Duration::from_millis(chance.between(200, 1_200))).await;
        if deck.is_empty() {
            deck = vec![Fault::Replica(0), Fault::Replica(1), Fault::Database];
            chance.shuffle(&mut deck);
        }
        let (fault, before) = (deck.pop().unwrap(), Instant::now());
        fault.happen(&mut site, &mut chance, &mut chronicle, &keys.ids[0]).await;
        kills += 1;
        let (at, took, chained) = ((before - begin).as_millis(), before.elapsed().as_millis(), chronicle.0.len());
        eprintln!("{at:>6} ms {fault:?}, over in {took} ms, chained {chained}, billed {:?}", billed(&deployment));
    }
    let seen = agents.await.unwrap();
    eprintln!("replicas: {:?} over {kills} kills", kinds(&seen));
    assert_only(&seen, &DOCUMENTED);
    assert!(kinds(&seen)["200"] > 100, "agents were served all the while: {:?}", kinds(&seen));

    deployment.provider.set_script(Script { latency_ms: 0, token_interval_ms: 0, ..slow });
    let entries = nothing_is_locked_up(&deployment, &keys, TOKENS, seen).await;
    watch.assert_never_over().await;
    eprintln!("replicas: charged {:?}, billed {:?}, {:?}", charged(&entries), billed(&deployment), outcomes(&entries));
    assert_eq!(site.errors(), [""; 0]);
    for at in &site.at {
        chronicle.read(at, &keys.ids[0]).await;
        assert_eq!(charged(&reconciled(at, &keys, &[]).await), charged(&entries), "both tell the same");
        for dimension in ["spend", "requests"] {
            let books = balance(at, &keys.ids[0], dimension).await;
            assert!(books.settled + books.granted <= books.limit, "I-1: {books:?}");
        }
    }
}

/// Revokes a key, and gives the receipt.
async fn revoke(at: &Deployment, id: &str) -> admin::Receipt {
    let mut operator = KeyServiceClient::new(at.admin().await);
    let request = admin::RevokeKeyRequest { id: id.to_owned(), wait_ms: Some(LONG) };
    timeout(PATIENCE, operator.revoke_key(request)).await.unwrap().unwrap().into_inner().receipt.unwrap()
}

/// Whether every node has told that it has done it.
fn is_certain(receipt: &admin::Receipt) -> bool {
    let nodes = u32::try_from(NODES).unwrap();
    (receipt.nodes_acked, receipt.nodes_total) == (nodes, nodes)
        && receipt.nodes_pending.is_empty()
        && receipt.control_planes_pending.is_empty()
        && receipt.effective_by_ms <= SystemClock.now().millis()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_13_the_other_control_plane_is_told_of_a_revocation_and_does_not_find_it_when_it_looks() {
    let site = Site::start(Script::default(), Routing::Home).await;
    // A single node follows the other control plane, which looks at its beats too. Each revocation but the first comes just after such a look, so
    // that the next one is almost a second away.
    let at = &site.at[0];
    let mut keys = Vec::new();
    for _ in 0..ROUNDS {
        let (token, id) = at.create_key("doomed", admin::Policy::default()).await;
        for node in 0..NODES {
            at.serves(node, &token).await;
        }
        keys.push(id);
    }
    assert_eq!(site.at.each_ref().map(|at| connected(at)), [2, 1]);
    let mut took = Vec::new();
    for id in &keys {
        let receipt = revoke(at, id).await;
        assert!(is_certain(&receipt), "{receipt:?}");
        took.push(Duration::from_micros(receipt.took_us));
    }
    eprintln!("all nodes had done it after {took:?}");
    // A busy host may be late twice; beats make up for a word that was lost in less than half of the rounds.
    took.sort_unstable();
    assert!(took[ROUNDS - 3] < TOLD, "the other one found some of them by itself: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_13_receipts_count_nodes_whose_connections_are_at_different_control_planes() {
    let site = Site::start(Script::default(), Routing::InTurn).await;
    for round in 0..4 {
        let at = &site.at[round % 2];
        let (token, id) = at.create_key("doomed", admin::Policy::default()).await;
        for node in 0..NODES {
            at.serves(node, &token).await;
        }
        let receipt = revoke(at, &id).await;
        eprintln!("round {round}: {receipt:?}");
        assert!(is_certain(&receipt), "round {round}: {receipt:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_13_a_revocation_that_was_made_is_found_made_by_whichever_control_planes_the_nodes_have_gone_to() {
    let site = Site::start(Script::default(), Routing::InTurn).await;
    let at = &site.at[0];
    let (token, id) = at.create_key("doomed", admin::Policy::default()).await;
    for node in 0..NODES {
        at.serves(node, &token).await;
    }
    let receipt = revoke(at, &id).await;
    assert!(is_certain(&receipt), "{receipt:?}");
    for round in 0..6 {
        site.spread_and_settle().await;
        for (number, at) in site.at.iter().enumerate() {
            let again = revoke(at, &id).await;
            eprintln!("round {round}, at {number}: {again:?}");
            assert!(is_certain(&again), "round {round}, at {number}: {again:?}");
        }
    }
}

/// How many nodes are connected to a control plane itself.
fn connected(at: &Deployment) -> usize {
    let listed = at.cli_json(&["node", "list"]);
    let is_here = |node: &&Value| node["connected"] == true && node["control_plane"].is_null();
    listed.as_array().unwrap().iter().filter(is_here).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_13_a_key_that_is_revoked_at_one_control_plane_is_dead_at_once_at_the_nodes_of_the_other() {
    let site = Site::start(Script { fill: true, token_interval_ms: 50, ..Script::default() }, Routing::Home).await;
    // One node follows the second control plane, and the others the first.
    for (at, followers) in site.at.iter().zip([2, 1]) {
        // Without limits, so that no counter that nodes share tells them.
        let (token, id) = at.create_key("doomed", admin::Policy::default()).await;
        let mut running = Vec::new();
        for node in 0..NODES {
            let mut stream = at.open(node, &token, &ask(1_000, true)).await.unwrap().into_body();
            assert!(stream.frame().await.unwrap().unwrap().is_data(), "the stream runs");
            running.push(stream);
        }
        assert_eq!(connected(at), followers);
        let mut operator = KeyServiceClient::new(at.admin().await);
        let begin = Instant::now();
        let dying = (0..NODES).map(async |node| {
            at.eventually("the node refuses the key", async || !at.lists_models(node, &token).await).await;
            begin.elapsed()
        });
        let cutting =
            running.into_iter().map(async |stream| (stream.collect().await.unwrap().to_bytes(), begin.elapsed()));
        let revoking = operator.revoke_key(admin::RevokeKeyRequest { id: id.clone(), wait_ms: None });
        let all = async { tokio::join!(revoking, join_all(dying), join_all(cutting)) };
        let (answer, dead, cut) = timeout(PATIENCE, all).await.unwrap();
        let receipt = answer.unwrap().into_inner().receipt.unwrap();
        eprintln!(
            "revoked: dead after {dead:?}, cut after {:?}, {receipt:?}",
            cut.iter().map(|it| it.1).collect::<Vec<_>>()
        );
        assert_eq!((receipt.nodes_acked, receipt.nodes_total, receipt.streams_cut), (3, 3, 3), "{receipt:?}");
        assert_eq!(receipt.control_planes_pending, [""; 0], "{receipt:?}");
        assert!(dead.iter().all(|took| *took < AT_ONCE), "{dead:?}");
        for (rest, took) in cut {
            let rest = String::from_utf8_lossy(&rest);
            assert!(took < AT_ONCE && rest.contains("invalid_api_key") && !rest.contains("[DONE]"), "{took:?}: {rest}");
        }
        for node in 0..NODES {
            assert_eq!(attempt(at, node, &token, &ask(16, false)).await.kind(), "401 invalid_api_key");
        }
    }
}
