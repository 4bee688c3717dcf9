//! What was lost, or may have been, begins a new life.

use keyforge_counters::{CounterError, CounterStore, Settled, Settlement, Verdict};
use keyforge_shared::id::LifeId;
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;

use super::{Account, PATIENT, comes, goes, start};
use crate::conformance::{LATER, ONCE, reservation};
use crate::redis_server::{RedisServer, eventually};

async fn new_life(account: &Account<'_>, before: LifeId) -> LifeId {
    let Verdict::NotJoined(life) = account.reserve(100).await else { panic!("the old epoch is still served") };
    assert_ne!(life, before);
    assert_eq!(account.reserve(101).await, Verdict::NotJoined(life), "all who ask are told the same");
    life
}

#[tokio::test]
async fn i_6_data_that_was_flushed_gives_nothing_back() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::new(&store, "flushed00000");
    let life = account.life().await;
    account.grant(life, 1).await;
    assert!(account.is_admitted(1).await);
    server.flush();
    let second = new_life(&account, life).await;
    assert!(matches!(
        store.settle(account.key, 1, reservation(1), super::Settlement::CANCELLED).await,
        Err(CounterError::Epoch { given: 1, current: 0, .. })
    ));
    assert_eq!(store.books(account.key).await.unwrap(), []);
    account.grant(second, 1).await;
    assert_eq!(account.requests().await, (0, 0));
}

#[tokio::test]
async fn i_6_books_that_were_deleted_take_their_reservations_with_them() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::new(&store, "deleted00000");
    let life = account.life().await;
    account.grant(life, 2).await;
    assert!(account.is_admitted(1).await);
    server.ask::<()>(&["DEL", &account.name("books")]);
    let second = new_life(&account, life).await;
    let left: u64 = server.ask(&["EXISTS", &account.name("open"), &account.name("expiry")]);
    assert_eq!(left, 0, "what the old life held would be settled into the new one");
    account.grant(second, 2).await;
    assert_eq!(account.settle(0, reservation(1)).await, Settled::Unknown);
    assert_eq!(account.requests().await, (0, 0));
}

#[tokio::test]
async fn i_6_a_server_that_started_again_with_its_data_is_not_believed() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = start(&server, PATIENT).await.unwrap();
    let mut available = store.availability();
    let account = Account::new(&store, "restarted000");
    let life = account.life().await;
    account.grant(life, 2).await;
    assert!(account.is_admitted(1).await);
    server.stop();
    goes(&mut available).await;
    server.run();
    comes(&mut available).await;
    let kept: u64 = server.ask(&["EXISTS", &account.name("books"), &account.name("open")]);
    assert_eq!(kept, 2, "the server has kept everything");

    assert_eq!(store.books(account.key).await.unwrap(), []);
    assert_eq!(store.claw_back(account.key).await.unwrap(), None);
    let error = store.settle(account.key, 1, reservation(1), super::Settlement::CANCELLED).await.unwrap_err();
    assert!(matches!(error, CounterError::Epoch { given: 1, current: 0, .. }), "{error}");
    let error = store.shrink(account.key, 1, reservation(1), super::NanoUsd::ZERO, None).await.unwrap_err();
    assert!(matches!(error, CounterError::Epoch { given: 1, current: 0, .. }), "{error}");
    assert_eq!(account.settle(0, reservation(1)).await, Settled::Unknown);
    let second = new_life(&account, life).await;
    account.grant(second, 1).await;
    assert_eq!(account.requests().await, (0, 0));
}

#[tokio::test]
async fn a_freeze_and_the_pace_outlive_a_restart_with_data() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "frozen000000", 2).await;
    assert!(account.is_admitted(1).await);
    store.freeze(account.key, ONCE).await.unwrap();
    let mut available = store.availability();
    server.stop();
    goes(&mut available).await;
    server.run();
    comes(&mut available).await;
    let life = account.life().await;
    account.grant(life, 1).await;
    assert_eq!(account.reserve(2).await, Verdict::Frozen);
    let logged: u64 = server.ask(&["LLEN", &account.name("rpm")]);
    assert_eq!(logged, 1);
    store.unfreeze(account.key, LATER).await.unwrap();
    assert!(account.is_admitted(3).await);
}

#[tokio::test]
async fn i_6_a_server_that_started_again_without_its_data_gives_nothing_back() {
    let mut server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::new(&store, "forgetful000");
    let life = account.life().await;
    account.grant(life, 1).await;
    assert!(account.is_admitted(1).await);
    server.restart();
    let second = loop {
        match store.reserve(account.ask(1, 2)).await {
            Ok(Verdict::NotJoined(second)) => break second,
            Err(CounterError::Unavailable(_)) => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    };
    assert_ne!(second, life);
    assert_eq!(store.books(account.key).await.unwrap(), []);
}

#[tokio::test]
async fn i_6_a_primary_that_returns_to_its_role_is_not_believed() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let [first_port, second_port] = [first.port(), second.port()].map(|port| port.to_string());
    second.ask::<()>(&["REPLICAOF", "127.0.0.1", &first_port]);
    let follows =
        |server: &RedisServer| server.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up");
    eventually("the second follows the first", || follows(&second));
    let store = start(&first, PATIENT).await.unwrap();
    let account = Account::new(&store, "failedback00");
    let life = account.life().await;
    account.grant(life, 2).await;
    let run_id = || -> String {
        let info: String = first.ask(&["INFO", "server"]);
        info.lines().find(|line| line.starts_with("run_id:")).unwrap().to_owned()
    };
    let before = run_id();
    eventually("the second has the books", || second.ask::<u64>(&["EXISTS", &account.name("books")]) == 1);

    // The second takes over before it has heard of what the first admits now, and the first follows it.
    second.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    assert!(account.is_admitted(1).await);
    first.ask::<()>(&["REPLICAOF", "127.0.0.1", &second_port]);
    eventually("the first follows the second", || follows(&first));
    assert!(matches!(store.reserve(account.ask(1, 2)).await, Err(CounterError::Unavailable(_))));
    let mut available = store.availability();
    goes(&mut available).await;
    first.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    comes(&mut available).await;

    assert_eq!(run_id(), before, "the process is the same, and its data is not");
    assert_eq!(server_held(&first, &account), 0, "the reservation is lost");
    assert!(matches!(account.reserve(3).await, Verdict::NotJoined(second) if second != life));
}

/// How many reservations are open in the server, whatever the store believes of them.
fn server_held(server: &RedisServer, account: &Account<'_>) -> u64 {
    server.ask(&["HLEN", &account.name("open")])
}

/// Makes a server a replica and a primary again: its data stays, and nobody can know that all of it did.
fn demote_and_promote(server: &RedisServer) {
    server.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    server.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
}

#[tokio::test]
async fn i_6_a_promotion_is_known_to_the_very_next_question_whichever_it_is() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let mut accounts = Vec::new();
    for question in 0..8 {
        let account = Account::new(&store, &format!("promoted{question:04}"));
        let life = account.life().await;
        account.grant(life, 5).await;
        assert!(account.is_admitted(1).await);
        accounts.push((account, life));
    }
    demote_and_promote(&server);

    let is_over = |error| matches!(error, CounterError::Epoch { given: 1, current: 0, .. });
    for (question, (account, life)) in accounts.iter().enumerate() {
        let (key, life) = (account.key, *life);
        match question {
            0 => assert!(matches!(account.reserve(2).await, Verdict::NotJoined(second) if second != life)),
            1 => assert!(is_over(store.settle(key, 1, reservation(1), Settlement::CANCELLED).await.unwrap_err())),
            2 => assert!(is_over(store.shrink(key, 1, reservation(1), NanoUsd::ZERO, None).await.unwrap_err())),
            3 => assert_eq!(store.claw_back(key).await.unwrap(), None),
            4 => assert_eq!(store.life(key).await.unwrap(), None),
            5 => assert_eq!(store.books(key).await.unwrap(), []),
            6 => assert_ne!(store.vacate(key, LifeId::from_bytes([0; 16])).await.unwrap(), life),
            _ => {
                let grants = super::GrantSet { life, epoch: 1, serial: 2, grants: Vec::new() };
                let error = store.grant(key, &grants).await.unwrap_err();
                assert!(matches!(error, CounterError::Life { current, .. } if current != life), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn i_6_nodes_that_met_a_server_before_and_after_its_promotion_do_not_end_each_others_lives() {
    let server = RedisServer::start();
    let before = start(&server, PATIENT).await.unwrap();
    let old = Account::open(&before, "twonodes0000", 100).await;
    assert!(old.is_admitted(0).await);
    demote_and_promote(&server);
    let after = start(&server, PATIENT).await.unwrap();
    let new = Account::new(&after, "twonodes0000");
    let life = new.life().await;
    assert_eq!(old.life().await, life, "both are told the same life");
    new.grant(life, 100).await;
    for number in 1..20 {
        assert!(old.is_admitted(2 * number).await);
        assert!(new.is_admitted(2 * number + 1).await);
        assert_eq!(old.settle(1, reservation(2 * number + 1)).await, Settled::Done { over_bound: false });
    }
    assert_eq!(new.requests().await, (19, 19));
    assert_eq!((before.life(old.key).await.unwrap(), after.life(new.key).await.unwrap()), (Some(life), Some(life)));
}

#[tokio::test]
async fn i_6_a_replica_that_takes_writes_decides_nothing() {
    let server = RedisServer::start_with(&["--replica-read-only", "no"]);
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "demoted00000", 5).await;
    server.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = store.reserve(account.ask(1, 1)).await.unwrap_err();
    assert!(matches!(&error, CounterError::Unavailable(_)) && error.to_string().contains("primary"), "{error}");
    assert_eq!(server_held(&server, &account), 0);
    let mut available = store.availability();
    goes(&mut available).await;
}

#[tokio::test]
async fn grants_and_vacations_of_books_that_were_lost_name_the_new_life() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::new(&store, "lostbooks000");
    let life = account.life().await;
    server.flush();
    let grants = super::GrantSet { life, epoch: 1, serial: 1, grants: Vec::new() };
    let Err(CounterError::Life { current, .. }) = store.grant(account.key, &grants).await else {
        panic!("a grant of a lost life was applied")
    };
    assert_ne!(current, life);
    assert_eq!(account.life().await, current);
    server.flush();
    let next = store.vacate(account.key, current).await.unwrap();
    assert_ne!(next, current);
    assert_eq!(account.life().await, next);
}

#[tokio::test]
async fn keys_that_nobody_asks_about_go_but_not_a_freeze() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "expiring0000", 2).await;
    assert!(account.is_admitted(1).await);
    let days = |name: &str| server.ask::<i64>(&["PTTL", &account.name(name)]) / 86_400_000;
    for name in ["books", "open", "expiry", "rpm"] {
        assert!((34..=35).contains(&days(name)), "{name} stays {} days", days(name));
    }
    store.freeze(account.key, ONCE).await.unwrap();
    assert_eq!(server.ask::<i64>(&["PTTL", &account.name("books")]), -1, "a freeze stays");
    let life = store.vacate(account.key, LifeId::from_bytes([0; 16])).await.unwrap();
    store.vacate(account.key, life).await.unwrap();
    assert_eq!(server.ask::<i64>(&["PTTL", &account.name("books")]), -1, "also over lives");
    store.unfreeze(account.key, LATER).await.unwrap();
    assert!((34..=35).contains(&days("books")));
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_given_to_it_again() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "scripts00000", 2).await;
    server.ask::<()>(&["SCRIPT", "FLUSH"]);
    assert!(account.is_admitted(1).await);
    server.ask::<()>(&["SCRIPT", "FLUSH"]);
    assert_eq!(account.settle(1, reservation(1)).await, Settled::Done { over_bound: false });
    assert_eq!(account.requests().await, (1, 0));
}

#[tokio::test]
async fn i_1_settling_goes_on_when_the_server_has_no_memory_left() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "fullmemory00", 3).await;
    let mut available = store.availability();
    assert!(account.is_admitted(1).await && *available.borrow_and_update());
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(matches!(store.reserve(account.ask(1, 2)).await, Err(CounterError::Unavailable(_))));
    goes(&mut available).await;
    assert_eq!(account.requests().await, (0, 1), "what was refused took nothing");
    assert!(store.shrink(account.key, 1, reservation(1), NanoUsd::new(20), None).await.unwrap());
    let stays: i64 = server.ask(&["PTTL", &account.name("open")]);
    assert!(stays > 0, "shrinking keeps the time at which it would go");
    store.freeze(account.key, ONCE).await.unwrap();
    assert_eq!(account.settle(1, reservation(1)).await, Settled::Done { over_bound: false });
    let cancelled = store.settle(account.key, 1, reservation(2), Settlement::CANCELLED).await.unwrap();
    assert_eq!(cancelled, Settled::Unknown, "what may still arrive is kept out");
    assert_eq!(account.requests().await, (1, 0));
    store.unfreeze(account.key, LATER).await.unwrap();
    let back = store.claw_back(account.key).await.unwrap().unwrap();
    assert!(
        back.holdings.iter().any(|(counter, left)| (counter.dimension, *left) == (Dimension::Spend, 10)),
        "{back:?}"
    );
    let next = store.vacate(account.key, back.life).await.unwrap();
    assert_ne!(next, back.life);
    assert!(!*available.borrow(), "what gives something back says nothing of memory");
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    comes(&mut available).await;
    account.grant(next, 3).await;
    assert!(account.is_admitted(3).await);
}

#[tokio::test]
async fn i_1_nothing_is_admitted_when_the_server_has_no_memory_left() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let (mut known, mut fresh) = (Account::new(&store, "fullmemory01"), Account::new(&store, "fullmemory02"));
    // Without limits but a rate: the reservation is the only thing that has to be written.
    for account in [&mut known, &mut fresh] {
        account.needs.clear();
    }
    let expired = super::Reserve { expires_after: std::time::Duration::ZERO, ..known.ask(0, 1) };
    assert!(matches!(store.reserve(expired).await.unwrap(), Verdict::Admitted(_)));
    // The key's own time is ahead of the clock, so that a question need not move it on.
    let ahead: (u64, u64) = server.ask(&["TIME"]);
    server.ask::<()>(&["HSET", &known.name("books"), "tm", &((ahead.0 + 60) * 1_000).to_string()]);

    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    for account in [&known, &fresh] {
        let error = store.reserve(account.ask(0, 2)).await.unwrap_err();
        assert!(matches!(&error, CounterError::Unavailable(_)) && error.to_string().contains("memory"), "{error}");
        assert!(store.renew(account.key, &[reservation(2)], PATIENT).await.is_err());
    }
    assert_eq!(server.ask::<u64>(&["EXISTS", &fresh.name("books"), &fresh.name("open"), &fresh.name("rpm")]), 0);
    assert_eq!(server.ask::<u64>(&["HEXISTS", &known.name("open"), "req_00000001000000000000000000000000.00001"]), 1);
    assert_eq!((server_held(&server, &known), server.ask::<u64>(&["LLEN", &known.name("rpm")])), (1, 1));

    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    for account in [&known, &fresh] {
        assert!(matches!(store.reserve(account.ask(0, 2)).await.unwrap(), Verdict::Admitted(_)));
    }
}
