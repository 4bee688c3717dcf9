//! Admission with a real Redis server that is shared, away, or slow.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyforge_counters::redis::RedisSettings;
use keyforge_counters::{CounterStore, Counters, RedisCounters};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::SystemClock;
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::period::Window;
use keyforge_shared::policy::Policy;
use keyforge_shared::state::Resource;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::fixture::{admit, admitted, body, books, commit, leaving, refused};
use super::super::settle::{Charge, Ending};
use crate::fixture::{FakeLedger, Node, Parts, key, key_id, model, quota, workspace};
use crate::rejection::Rejection;

/// A Redis server of one test, which ends with it.
struct Server {
    port: u16,
    directory: tempfile::TempDir,
    process: Option<Child>,
}

impl Server {
    /// One that does not run yet.
    fn prepared() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, directory: tempfile::tempdir().unwrap(), process: None }
    }

    async fn started() -> Self {
        let mut server = Self::prepared();
        server.start();
        eventually("the server listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.is_ok()
        })
        .await;
        server
    }

    fn start(&mut self) {
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.process = Some(process.expect("redis-server is installed"));
    }

    fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// What it answers to a command.
    async fn says(&self, command: &str) -> String {
        let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn counters(&self, timeout: Duration) -> Arc<Counters> {
        self.counters_in("", timeout).await
    }

    async fn counters_in(&self, path: &str, timeout: Duration) -> Arc<Counters> {
        let settings = RedisSettings {
            urls: vec![format!("redis://127.0.0.1:{}{path}", self.port)],
            cluster: false,
            username: None,
            password: None,
            timeout,
        };
        Arc::new(Counters::Redis(RedisCounters::start(settings, &Shutdown::new()).await.unwrap()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let all = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), all).await.is_ok(), "not in time: {what}");
}

/// A ledger with this quota of the first key, served.
async fn ledger(requests: u64, slice: u64) -> (Arc<FakeLedger>, String) {
    let ledger = Arc::new(FakeLedger::default());
    {
        let mut state = ledger.0.lock();
        state.limits = BTreeMap::from([((Scope::Key, Dimension::Requests, Window::Day), requests)]);
        (state.slice, state.chained) = (slice, u64::MAX);
    }
    let url = ledger.serve().await;
    (ledger, url)
}

fn state(requests: u64) -> Vec<Resource> {
    let unlimited = key(2, Policy::default());
    vec![workspace(Vec::new(), Vec::new()), key(1, quota(requests)), unlimited, model()]
}

/// A node that waits for the store as long as it does by default.
async fn node(server: &Server, url: &str, requests: u64) -> Node {
    node_with(server, url, requests, RedisSettings::DEFAULT_TIMEOUT).await
}

/// A node that waits for the store as long as a busy machine may need.
async fn patient_node(server: &Server, url: &str, requests: u64) -> Node {
    node_with(server, url, requests, Duration::from_secs(5)).await
}

async fn node_with(server: &Server, url: &str, requests: u64, timeout: Duration) -> Node {
    let counters = server.counters(timeout).await;
    let Counters::Redis(redis) = &*counters else { panic!("not redis") };
    let store_up = redis.availability();
    let clock = Arc::new(SystemClock);
    let store_patience = timeout + Duration::from_millis(5);
    Parts { url: url.to_owned(), clock, counters, store_up, store_patience, state: state(requests) }.build()
}

#[tokio::test]
async fn what_is_counted_in_a_numbered_database_is_there_and_in_no_other() {
    let server = Server::started().await;
    let (_ledger, url) = ledger(100, 10).await;
    let counters = server.counters_in("/3", Duration::from_secs(5)).await;
    let Counters::Redis(redis) = &*counters else { panic!("not redis") };
    let (store_up, clock, store_patience) = (redis.availability(), Arc::new(SystemClock), Duration::from_secs(5));
    let node = Parts { url, clock, counters, store_up, store_patience, state: state(100) }.build();
    eventually("the key works", async || admit(&node, 1, &body(5)).await.is_ok()).await;
    let keyspace = server.says("INFO keyspace").await;
    assert!(keyspace.contains("db3:") && !keyspace.contains("db0:"), "{keyspace}");
}

async fn nothing_is_held(node: &Node) -> bool {
    let books = node.plane.counters.books(key_id(1)).await;
    node.plane.settlements.waiting() == 0 && books.is_ok_and(|books| books.iter().all(|book| book.held == 0))
}

#[tokio::test]
async fn while_the_store_is_away_keys_with_limits_are_refused_at_once_and_others_are_served() {
    let mut server = Server::prepared();
    let (_ledger, url) = ledger(100, 10).await;
    let node = node(&server, &url, 100).await;
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(refused(&node, 1, &body(5)).await, Rejection::EnforcementUnavailable);
        assert!(asked.elapsed() < Duration::from_millis(150), "{:?}", asked.elapsed());
    }
    drop(admitted(&node, 2, &body(5)).await);
    assert_eq!(node.plane.settlements.waiting(), 0, "what was never asked is not taken back");
    server.start();
    eventually("keys with limits work again", async || admit(&node, 1, &body(5)).await.is_ok()).await;
}

#[tokio::test]
async fn i_9_a_question_that_nobody_answered_is_taken_back() {
    let server = Server::started().await;
    let (_ledger, url) = ledger(100, 10).await;
    let node = node(&server, &url, 100).await;
    eventually("the store is up", async || node.plane.store_is_up()).await;
    commit(&node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    server.signal("-STOP");
    let asked = Instant::now();
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::EnforcementUnavailable);
    assert!(asked.elapsed() < Duration::from_millis(150), "{:?}", asked.elapsed());
    // An agent that hangs up while it waits leaves nothing behind either.
    let request = body(5);
    drop(tokio::time::timeout(Duration::from_millis(1), admit(&node, 1, &request)).await);
    server.signal("-CONT");
    eventually("the hold is gone", async || nothing_is_held(&node).await).await;
    eventually("the store is up", async || node.plane.store_is_up()).await;
    assert_eq!(books(&node, 1, Dimension::Requests).await.used, 1);
}

#[tokio::test]
async fn i_9_a_question_is_taken_back_although_another_part_of_the_store_is_away() {
    let server = Server::started().await;
    let (_ledger, url) = ledger(100, 10).await;
    let counters = server.counters(RedisSettings::DEFAULT_TIMEOUT).await;
    // As with a cluster of which another server is away all the time.
    let store_up = tokio::sync::watch::Sender::new(false).subscribe();
    let (clock, store_patience) = (Arc::new(SystemClock), RedisSettings::DEFAULT_TIMEOUT + Duration::from_millis(5));
    let node = Parts { url, clock, counters, store_up, store_patience, state: state(100) }.build();
    eventually("the key works", async || admit(&node, 1, &body(5)).await.is_ok()).await;
    eventually("nothing is held", async || nothing_is_held(&node).await).await;
    server.signal("-STOP");
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::EnforcementUnavailable);
    server.signal("-CONT");
    eventually("the hold is gone", async || nothing_is_held(&node).await).await;
}

#[tokio::test]
async fn a_node_can_wait_until_the_store_was_told_everything() {
    let server = Server::started().await;
    let (_ledger, url) = ledger(100, 10).await;
    let node = node(&server, &url, 100).await;
    eventually("the store is up", async || node.plane.store_is_up()).await;
    let running = commit(&node, 1, &body(5)).await;
    server.signal("-STOP");
    running.settle(Ending::new(Charge::NotBilled, 400));
    let mut all_told = std::pin::pin!(node.plane.settlements.all_told());
    let waits = tokio::time::timeout(Duration::from_millis(200), all_told.as_mut()).await;
    assert!(waits.is_err(), "the store does not answer");
    server.signal("-CONT");
    assert!(tokio::time::timeout(Duration::from_secs(20), all_told).await.is_ok());
    let told = books(&node, 1, Dimension::Requests).await;
    assert_eq!((told.held, told.used), (0, 1));
}

#[tokio::test]
async fn what_ended_while_the_store_was_away_is_told_when_it_is_back() {
    let server = Server::started().await;
    let (_ledger, url) = ledger(100, 10).await;
    let node = node(&server, &url, 100).await;
    eventually("the store is up", async || node.plane.store_is_up()).await;
    let running = commit(&node, 1, &body(5)).await;
    server.signal("-STOP");
    let ended = Instant::now();
    running.settle(Ending::new(Charge::NotBilled, 400));
    assert!(ended.elapsed() < Duration::from_millis(100), "nobody waits for the store");
    let recorded = node.plane.spool.status();
    assert_eq!((recorded.open, recorded.untold), (0, 1), "it is recorded all the same");
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.signal("-CONT");
    eventually("the store knows", async || nothing_is_held(&node).await).await;
    assert_eq!(books(&node, 1, Dimension::Requests).await.used, 1);
    eventually("and that is known", async || node.plane.spool.status().untold == 0).await;
}

#[tokio::test]
async fn i_1_two_nodes_that_share_a_store_admit_exactly_the_quota() {
    let server = Server::started().await;
    let (ledger, url) = ledger(20, 3).await;
    let (one, other) = (patient_node(&server, &url, 20).await, patient_node(&server, &url, 20).await);
    eventually("the store is up", async || one.plane.store_is_up() && other.plane.store_is_up()).await;
    let request = body(5);
    let asked = (0..64).map(|number| admit(if number % 2 == 0 { &one } else { &other }, 1, &request));
    let answers = join_all(asked).await;
    let count = |wanted: fn(&Result<_, Rejection>) -> bool| answers.iter().filter(|answer| wanted(answer)).count();
    let (admitted, settling) = (count(Result::is_ok), count(|answer| matches!(answer, Err(Rejection::Settling(_)))));
    let others: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert_eq!((admitted, settling), (20, 44), "{others:?}");
    assert_eq!((ledger.memberships(one.boot), ledger.memberships(other.boot)), (1, 1), "of one epoch");
    assert_eq!(ledger.0.lock().epochs.len(), 1);
    drop(answers);
    eventually("everything is given back", async || nothing_is_held(&one).await && nothing_is_held(&other).await).await;
}

#[tokio::test]
async fn i_6_books_that_are_lost_give_nothing_back_until_everybody_has_left_them() {
    let server = Server::started().await;
    let (ledger, url) = ledger(20, 5).await;
    let (one, other) = (patient_node(&server, &url, 20).await, patient_node(&server, &url, 20).await);
    eventually("the store is up", async || one.plane.store_is_up() && other.plane.store_is_up()).await;
    for node in [&one, &other] {
        commit(node, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    let flushed = Command::new("redis-cli").args(["-p", &server.port.to_string(), "flushall"]).output().unwrap();
    assert!(flushed.status.success());
    // Five were granted to each node that joined the life that is gone; ten are left.
    for _ in 0..10 {
        commit(&one, 1, &body(5)).await.settle(Ending::new(Charge::NotBilled, 400));
    }
    assert!(matches!(refused(&one, 1, &body(5)).await, Rejection::Settling(_)), "eight may come back");
    leaving(&one).sweep().await;
    let closed = || ledger.0.lock().epochs.values().filter(|epoch| epoch.closed).count();
    assert_eq!(closed(), 0, "the other node has not heard of it");
    let leaving = leaving(&other);
    eventually("a node that is not asked looks for itself", async || {
        leaving.sweep().await;
        closed() == 1
    })
    .await;
}

/// A way to the server on which every answer takes `delay`, however many there are.
async fn long_way(server: &Server, delay: Duration) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), server.port);
    let shutdown = Shutdown::new();
    let lead = shutdown.clone();
    drop(shutdown.spawn_background("way", async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let ((mut asked, mut answers), (mut answered, mut questions)) = (near.into_split(), far.into_split());
            drop(lead.spawn_background("there", async move { tokio::io::copy(&mut asked, &mut questions).await }));
            drop(lead.spawn_background("back", async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(count @ 1..) = answered.read(&mut bytes).await {
                    tokio::time::sleep(delay).await;
                    answers.write_all(&bytes[..count]).await.unwrap();
                }
            }));
        }
    }));
    port
}

#[tokio::test]
async fn leases_of_many_keys_are_renewed_at_the_same_time() {
    let server = Server::started().await;
    let delay = Duration::from_millis(20);
    let near = Server { port: long_way(&server, delay).await, directory: tempfile::tempdir().unwrap(), process: None };
    let counters = near.counters(Duration::from_secs(5)).await;
    let leases = crate::leases::Leases::default();
    let request = keyforge_shared::id::RequestId::generate().unwrap();
    let id = keyforge_counters::ReservationId { request, attempt: 1 };
    let _running: Vec<_> = (0..200).map(|number| leases.enter(key_id(number), id)).collect();
    eventually("the store is up", async || counters.life(key_id(1)).await.is_ok()).await;
    let begun = Instant::now();
    leases.renew(&counters).await;
    // One after the other they take four seconds.
    assert!(begun.elapsed() < 100 * delay, "{:?}", begun.elapsed());
    assert!(counters.life(key_id(1)).await.is_ok());
}

#[tokio::test]
async fn a_key_that_must_stop_stops_while_the_store_is_away_and_stays_stopped_when_it_is_back() {
    let mut server = Server::prepared();
    let (_ledger, url) = ledger(100, 10).await;
    let node = node(&server, &url, 100).await;
    node.plane.settlements.freeze(key_id(1), 1);
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::KeyPaused);
    server.start();
    eventually("the store has taken it over", async || !node.plane.settlements.is_frozen(key_id(1))).await;
    assert_eq!(refused(&node, 1, &body(5)).await, Rejection::KeyPaused);
    node.plane.settlements.unfreeze(key_id(1), 2);
    eventually("the key works again", async || admit(&node, 1, &body(5)).await.is_ok()).await;
}
