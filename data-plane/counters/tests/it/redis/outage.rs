//! A server that cannot be reached: nobody waits for it, nothing is admitted, and it is found again.

use std::time::Duration;

use keyforge_counters::redis::RedisSettings;
use keyforge_counters::{CounterError, CounterStore, Settled, Settlement, Verdict};
use tokio::time::Instant;

use super::{Account, PATIENT, comes, goes, start};
use crate::conformance::reservation;
use crate::log::Log;
use crate::redis_server::RedisServer;

const TIMEOUT: Duration = RedisSettings::DEFAULT_TIMEOUT;
/// What a busy machine may add.
const SLACK: Duration = Duration::from_millis(200);

async fn is_unavailable(account: &Account<'_>, number: u32) -> Duration {
    let before = Instant::now();
    unavailable(account, number).await;
    before.elapsed()
}

async fn unavailable(account: &Account<'_>, number: u32) -> CounterError {
    match account.store.reserve(account.ask(1, number)).await {
        Err(error @ CounterError::Unavailable(_)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_question_that_was_surely_not_asked_is_told_from_one_without_an_answer() {
    let mut server = RedisServer::start();
    let store = start(&server, TIMEOUT).await.unwrap();
    let account = Account::open(&store, "notasked0000", 1_000).await;
    let mut available = store.availability();
    server.pause();
    let error = unavailable(&account, 1).await;
    assert!(!error.was_surely_not_asked(), "it may still be decided: {error}");
    // One late answer is no proof; a server that answers nobody is taken for gone.
    let mut questions = 1;
    while !unavailable(&account, 2).await.was_surely_not_asked() {
        questions += 1;
    }
    assert!((2..=4).contains(&questions), "{questions} were asked before there was no link");
    goes(&mut available).await;
    server.resume();
    comes(&mut available).await;
    let refused = store.settle(account.key, 7, reservation(3), Settlement::CANCELLED).await.unwrap_err();
    assert!(matches!(refused, CounterError::Epoch { .. }) && !refused.was_surely_not_asked(), "{refused}");
    server.stop();
    goes(&mut available).await;
    assert!(unavailable(&account, 4).await.was_surely_not_asked());
}

#[tokio::test]
async fn a_server_that_stands_still_costs_a_few_timeouts_and_then_nothing() {
    let server = RedisServer::start();
    let store = start(&server, TIMEOUT).await.unwrap();
    let account = Account::open(&store, "standing0000", 1_000).await;
    let mut available = store.availability();
    assert!(*available.borrow_and_update());

    server.pause();
    let first = is_unavailable(&account, 1).await;
    assert!((TIMEOUT..TIMEOUT + SLACK).contains(&first), "{first:?}");
    let before = Instant::now();
    for number in 2..102 {
        is_unavailable(&account, number).await;
    }
    assert!(before.elapsed() < SLACK, "a hundred refusals took {:?}", before.elapsed());
    goes(&mut available).await;

    server.resume();
    comes(&mut available).await;
    assert!(matches!(account.reserve(200).await, Verdict::Admitted(_)), "the data is the same, and so is the life");
}

#[tokio::test]
async fn the_log_says_once_that_it_went_and_once_that_it_is_back() {
    let log = Log::here();
    let server = RedisServer::start();
    let store = start(&server, TIMEOUT).await.unwrap();
    let account = Account::open(&store, "logged000000", 1_000).await;
    let mut available = store.availability();
    for round in 1..=2 {
        server.pause();
        for number in 1..10 {
            is_unavailable(&account, number).await;
        }
        goes(&mut available).await;
        server.resume();
        comes(&mut available).await;
        log.wait_for("available again", round).await;
        let gone = log.lines("the counter store is unavailable");
        assert_eq!((gone.len(), log.lines("available again").len()), (round, round));
        assert!(gone[round - 1].contains("no answer to anyone within"), "{}", gone[round - 1]);
        assert!(gone[round - 1].contains(&server.port().to_string()), "{}", gone[round - 1]);
    }
}

#[tokio::test]
async fn the_log_says_once_that_memory_ran_out_and_once_that_there_is_some_and_what_runs_is_settled_meanwhile() {
    let log = Log::here();
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "nomemory0000", 10).await;
    let mut available = store.availability();
    assert!(account.is_admitted(1).await && account.is_admitted(2).await);

    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    for running in 1..=2 {
        for number in 3..6 {
            assert!(unavailable(&account, number).await.was_surely_not_asked(), "there is nothing to cancel");
        }
        assert_eq!(account.settle(1, reservation(running)).await, Settled::Done { over_bound: false });
        goes(&mut available).await;
    }
    let gone = log.lines("the counter store is unavailable");
    assert_eq!((gone.len(), log.lines("available again").len()), (1, 0), "{gone:?}");
    assert!(gone[0].contains("OOM") && gone[0].contains(&server.port().to_string()), "{}", gone[0]);
    // Who starts now is told without asking for anything.
    let late = start(&server, PATIENT).await.unwrap();
    assert!(!*late.availability().borrow());

    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    comes(&mut available).await;
    comes(&mut late.availability()).await;
    assert!(account.is_admitted(7).await);
    let words = ["the counter store is unavailable", "available again"];
    assert_eq!(words.map(|words| log.lines(words).len()), [2, 2], "one line for each store and change");
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_missed_before_anybody_asks() {
    let log = Log::here();
    let (full, alone) = (RedisServer::start(), RedisServer::start());
    let stores = (start(&full, PATIENT).await.unwrap(), start(&alone, PATIENT).await.unwrap());
    let (mut one, mut other) = (stores.0.availability(), stores.1.availability());
    assert!(*one.borrow_and_update() && *other.borrow_and_update());
    full.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    alone.ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    goes(&mut one).await;
    goes(&mut other).await;
    let words = ["the counter store is unavailable", "OOM", "NOREPLICAS"];
    log.wait_for(words[0], 2).await;
    assert_eq!(words.map(|words| log.lines(words).len()), [2, 1, 1]);
    alone.ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    comes(&mut other).await;
}

#[tokio::test]
async fn a_question_that_was_delayed_is_refused_when_it_arrives() {
    let server = RedisServer::start();
    let store = start(&server, TIMEOUT).await.unwrap();
    let account = Account::open(&store, "delayed00000", 1_000).await;
    assert!(account.is_admitted(1).await);
    let evaluated = || -> String { server.ask(&["INFO", "commandstats"]) };
    let count = |stats: String| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=").map(str::to_owned));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    let before = count(evaluated());
    let mut available = store.availability();
    available.borrow_and_update();
    server.pause();
    is_unavailable(&account, 2).await;
    // Longer than the question allows.
    tokio::time::sleep(TIMEOUT * 5).await;
    server.resume();
    comes(&mut available).await;
    crate::redis_server::eventually("the question arrives", || count(evaluated()) > before);
    assert_eq!(account.requests().await, (0, 1), "nobody waits for it, so it must not hold anything");
}

#[tokio::test]
async fn a_time_of_its_own_that_is_ahead_refuses_nobody() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::new(&store, "aheadoftime0");
    account.grant(account.life().await, 10).await;
    let ahead: (u64, u64) = server.ask(&["TIME"]);
    let ahead = ((ahead.0 + 60) * 1_000).to_string();
    server.ask::<()>(&["HSET", &account.name("books"), "tm", &ahead]);
    assert!(account.is_admitted(1).await, "what the store believed of the clock is corrected once");
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_found_when_it_is() {
    let mut server = RedisServer::prepare(&[]);
    let store = start(&server, TIMEOUT).await.unwrap();
    let mut available = store.availability();
    assert!(!*available.borrow_and_update());
    let account = Account::new(&store, "notthereyet0");
    let took = is_unavailable(&account, 1).await;
    assert!(took < SLACK, "{took:?}");
    server.run();
    comes(&mut available).await;
    account.grant(account.life().await, 1).await;
    assert!(account.is_admitted(1).await);
}

#[tokio::test]
async fn a_server_that_ends_is_missed_before_anybody_asks() {
    let mut server = RedisServer::start();
    let store = start(&server, TIMEOUT).await.unwrap();
    let mut available = store.availability();
    server.stop();
    goes(&mut available).await;
    let took = is_unavailable(&Account::new(&store, "missed000000"), 1).await;
    assert!(took < TIMEOUT, "{took:?}");
}

#[tokio::test]
async fn i_6_a_server_that_may_evict_from_now_on_is_not_used() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "evicting0000", 5).await;
    let mut available = store.availability();
    server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    goes(&mut available).await;
    assert!(unavailable(&account, 1).await.was_surely_not_asked());
    server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    comes(&mut available).await;
    assert!(account.is_admitted(1).await);
}
