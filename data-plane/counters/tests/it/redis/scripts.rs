//! What each script leaves behind in Redis, as docs/redis.md tells it to people.

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_counters::{Concurrency, CounterStore, Rates, Settled, Settlement, TokenRate, Verdict};
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;

use super::{Account, PATIENT, start};
use crate::conformance::reservation;
use crate::redis_server::RedisServer;

const ID_1: &str = "req_00000001000000000000000000000000.00001";

fn field(account: &Account<'_>, dimension: Dimension) -> String {
    let need = account.needs.iter().find(|need| need.counter.dimension == dimension).unwrap();
    let letters = if dimension == Dimension::Requests { "krt" } else { "ksm" };
    format!("{letters}.{}", need.counter.first_day.number())
}

#[tokio::test]
async fn books_and_reservations_are_written_as_the_manual_says() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::new(&store, "layout000000");
    let life = account.life().await;
    account.grant(life, 4).await;
    assert!(account.is_admitted(1).await);

    let books: BTreeMap<String, String> = server.ask(&["HGETALL", &account.name("books")]);
    let (requests, spend) = (field(&account, Dimension::Requests), field(&account, Dimension::Spend));
    assert_eq!(books["life"], life.to_string());
    assert_eq!(books["run"].len(), 40);
    assert_eq!((books["epoch"].as_str(), books["serial"].as_str()), ("1", "1"));
    assert_eq!(books[&requests], "0 1 0 4 0 1 9223372036854");
    let end = account.needs[1].period.end.millis();
    assert_eq!(books[&spend], format!("0 25 0 100 0 1 {end}"));

    let record: String = server.ask(&["HGET", &account.name("open"), ID_1]);
    assert_eq!(record, format!("{requests}=1 {spend}=25"));
    let expiry: u64 = server.ask(&["ZSCORE", &account.name("expiry"), ID_1]);
    assert_eq!(expiry, books["tm"].parse::<u64>().unwrap() + 600_000);
    assert_eq!(
        server.ask::<Vec<u64>>(&["LRANGE", &account.name("rpm"), "0", "-1"]),
        [books["tm"].parse::<u64>().unwrap()]
    );

    assert!(store.shrink(account.key, 1, reservation(1), NanoUsd::new(20), None).await.unwrap());
    assert_eq!(server.ask::<String>(&["HGET", &account.name("open"), ID_1]), format!("{requests}=1 {spend}=20"));
    assert_eq!(account.settle(1, reservation(1)).await, Settled::Done { over_bound: false });
    let books: BTreeMap<String, String> = server.ask(&["HGETALL", &account.name("books")]);
    assert_eq!(books[&requests], "1 0 0 4 0 1 9223372036854");
    assert_eq!(books[&spend], format!("10 0 0 100 0 1 {end}"));
    assert_eq!(server.ask::<u64>(&["EXISTS", &account.name("open"), &account.name("expiry")]), 0);
    let remembered: i64 = server.ask(&["PTTL", &account.name(&format!("m:{ID_1}"))]);
    assert!((1..=60_000).contains(&remembered), "{remembered}");

    let back = store.claw_back(account.key).await.unwrap().unwrap();
    assert_eq!((back.life, back.epoch, back.serial, back.holdings.len()), (life, 1, 1, 2));
    let books: BTreeMap<String, String> = server.ask(&["HGETALL", &account.name("books")]);
    assert_eq!((books[&requests].as_str(), books["floor"].as_str()), ("1 0 0 1 0 1 9223372036854", "1"));
}

#[tokio::test]
async fn rates_and_expired_reservations_are_written_as_the_manual_says() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    let account = Account::open(&store, "layout000001", 4).await;
    let lease = Duration::from_secs(30);
    let rates = Rates {
        requests_per_minute: None,
        tokens: Some(TokenRate { per_minute: 1_000, amount: 300 }),
        concurrency: Some(Concurrency { limit: 5, lease }),
    };
    let ask = super::Reserve { rates, expires_after: Duration::ZERO, ..account.ask(1, 1) };
    assert!(matches!(store.reserve(ask).await.unwrap(), Verdict::Admitted(_)));
    let kept: BTreeMap<String, u64> = server.ask(&["HGETALL", &account.name("tpm")]);
    let oldest = kept["oldest"].to_string();
    assert_eq!((kept["total"], kept[&oldest], kept.len()), (300, 300, 3));
    let until: u64 = server.ask(&["ZSCORE", &account.name("leases"), ID_1]);
    let made: u64 = server.ask(&["HGET", &account.name("books"), "tm"]);
    assert_eq!(until, made + 30_000);

    // It has expired already, and the next question finds it.
    assert!(account.is_admitted(2).await);
    assert_eq!(server.ask::<u64>(&["HEXISTS", &account.name("open"), ID_1]), 0);
    let record: String = server.ask(&["HGET", &account.name("orphans"), ID_1]);
    let (requests, spend) = (field(&account, Dimension::Requests), field(&account, Dimension::Spend));
    assert_eq!(record, format!("{requests}=1 {spend}=25 t.{oldest}=300"));
    assert!(server.ask::<Option<u64>>(&["ZSCORE", &account.name("orphaned"), ID_1]).is_some());
    let settlement = Settlement { cost: NanoUsd::new(7), counted: true, tokens: Some(40) };
    let settled = store.settle(account.key, 1, reservation(1), settlement).await.unwrap();
    assert_eq!(settled, Settled::AfterExpiry { over_bound: false });
    let kept: BTreeMap<String, u64> = server.ask(&["HGETALL", &account.name("tpm")]);
    assert_eq!((kept["total"], kept[&oldest]), (40, 40));
    assert_eq!(
        server.ask::<u64>(&["EXISTS", &account.name("orphans"), &account.name("orphaned"), &account.name("leases")]),
        0
    );

    store.renew(account.key, &[reservation(2), reservation(3)], lease).await.unwrap();
    assert_eq!(server.ask::<u64>(&["ZCARD", &account.name("leases")]), 2);
}

#[tokio::test]
async fn i_1_many_nodes_admit_exactly_what_was_granted() {
    let server = RedisServer::start();
    let (one, other) = (start(&server, PATIENT).await.unwrap(), start(&server, PATIENT).await.unwrap());
    let account = Account::open(&one, "manynodes000", 20).await;
    let there = Account::new(&other, "manynodes000");
    assert_eq!(account.life().await, there.life().await, "both are told the same life");
    let mut admitted = 0;
    for round in 0..4 {
        let numbers = (round * 32)..(round * 32 + 16);
        let asks = numbers.flat_map(|number| [account.is_admitted(number), there.is_admitted(number + 16)]);
        admitted += join_all(asks).await.into_iter().filter(|admitted| *admitted).count();
    }
    assert_eq!(admitted, 20);
    assert_eq!(account.requests().await, (0, 20));
}

/// Polls all futures until each has ended.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(context) {
                *output = Some(ready);
            }
        }
        if futures.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}
