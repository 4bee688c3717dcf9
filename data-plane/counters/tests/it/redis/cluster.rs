//! Three servers that share the keys.

use std::time::Duration;

use keyforge_counters::{CounterError, CounterStore, RedisCounters, Verdict};
use keyforge_runtime::shutdown::Shutdown;

use super::{Account, PATIENT, comes, goes, settings};
use crate::redis_server::{RedisCluster, eventually};

async fn start(cluster: &RedisCluster) -> RedisCounters {
    // One address is enough to find the others.
    let settings = super::RedisSettings { cluster: true, ..settings(vec![cluster.urls().remove(0)], PATIENT) };
    RedisCounters::start(settings, &Shutdown::new()).await.unwrap()
}

fn slot(cluster: &RedisCluster, account: &Account<'_>) -> u16 {
    cluster.nodes()[0].ask(&["CLUSTER", "KEYSLOT", &account.name("books")])
}

#[tokio::test]
async fn keys_live_on_the_server_of_their_slot() {
    let cluster = RedisCluster::start();
    let store = start(&cluster).await;
    assert!(*store.availability().borrow());
    let mut owners = [0; 3];
    for number in 0..24 {
        let account = Account::open(&store, &format!("shared{number:06}"), 1).await;
        assert!(account.is_admitted(1).await);
        let owner = cluster.owner(slot(&cluster, &account));
        let there: u64 = cluster.nodes()[owner].ask(&["EXISTS", &account.name("books"), &account.name("open")]);
        assert_eq!(there, 2);
        owners[owner] += 1;
    }
    assert!(owners.iter().all(|keys| *keys > 0), "{owners:?}");
}

#[tokio::test]
async fn i_6_a_key_whose_slot_moved_begins_a_new_life_on_its_new_server() {
    let cluster = RedisCluster::start();
    let store = start(&cluster).await;
    let account = Account::new(&store, "moving000000");
    let life = account.life().await;
    account.grant(life, 5).await;
    assert!(account.is_admitted(1).await);

    let slot = slot(&cluster, &account);
    let to = (cluster.owner(slot) + 1) % 3;
    cluster.begin_move(slot, to);
    let error = store.reserve(account.ask(1, 2)).await.unwrap_err();
    assert!(matches!(error, CounterError::Unavailable(_)), "no script can see keys on two servers: {error}");
    cluster.finish_move(slot, to);

    // The server that had the slot says so, and the question goes on to the one that has it now.
    let Verdict::NotJoined(second) = account.reserve(3).await else { panic!("another run's books were believed") };
    assert_ne!(second, life);
    account.grant(second, 5).await;
    assert!(account.is_admitted(4).await);
    assert_eq!(account.requests().await, (0, 1));
}

#[tokio::test]
async fn a_new_server_that_stands_still_keeps_no_slot_from_being_found() {
    let cluster = RedisCluster::start();
    // Connecting to a server that stands still takes longer.
    let timeout = Duration::from_millis(700);
    let settings = super::RedisSettings { cluster: true, ..settings(vec![cluster.urls().remove(0)], timeout) };
    let store = RedisCounters::start(settings, &Shutdown::new()).await.unwrap();
    let number = (0..).find(|number| {
        let account = Account::new(&store, &format!("behind{number:06}"));
        cluster.owner(slot(&cluster, &account)) == 1
    });
    let account = Account::open(&store, &format!("behind{:06}", number.unwrap()), 5).await;
    let slot = slot(&cluster, &account);
    cluster.begin_move(slot, 2);
    cluster.finish_move(slot, 2);
    eventually("all know of the move", || cluster.owner(slot) == 2);

    // The first server, which tells the map, is from now on at an address where nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    cluster.nodes()[0].ask::<()>(&["CONFIG", "SET", "cluster-announce-port", &port]);
    let Verdict::NotJoined(_) = account.reserve(1).await else { panic!("another run's books were believed") };
    drop(silent);
}

#[tokio::test]
async fn a_server_that_names_a_neighbour_on_another_host_is_refused_without_tls() {
    let cluster = RedisCluster::start();
    cluster.nodes()[0].ask::<()>(&["CONFIG", "SET", "cluster-announce-ip", "192.0.2.7"]);
    eventually("it tells", || {
        format!("{:?}", cluster.nodes()[0].ask::<redis::Value>(&["CLUSTER", "SLOTS"])).contains("192.0.2.7")
    });
    let settings = super::RedisSettings { cluster: true, ..settings(vec![cluster.urls().remove(0)], PATIENT) };
    let error = RedisCounters::start(settings, &Shutdown::new()).await.unwrap_err();
    assert!(
        matches!(&error, super::RedisStartError::Plaintext { address } if address.starts_with("192.0.2.7")),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_is_gone_costs_only_its_own_keys() {
    let mut cluster = RedisCluster::start();
    let store = start(&cluster).await;
    let mut accounts = Vec::new();
    for number in 0..12 {
        accounts.push(Account::open(&store, &format!("losing{number:06}"), 100).await);
    }
    let owners: Vec<_> = accounts.iter().map(|account| cluster.owner(slot(&cluster, account))).collect();
    // A cluster that misses a server stops serving when it notices, after five seconds; until then the others go on.
    let mut available = store.availability();
    cluster.stop(2);
    goes(&mut available).await;
    for (account, owner) in accounts.iter().zip(owners) {
        let answer = tokio::time::timeout(Duration::from_secs(1), store.reserve(account.ask(1, 1))).await.unwrap();
        match owner {
            2 => assert!(matches!(answer, Err(CounterError::Unavailable(_))), "{answer:?}"),
            _ => assert!(matches!(answer, Ok(Verdict::Admitted(_))), "{answer:?}"),
        }
    }
    cluster.run(2);
    eventually("the cluster is whole", || {
        cluster.nodes().iter().all(|node| node.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    });
    comes(&mut available).await;
}
