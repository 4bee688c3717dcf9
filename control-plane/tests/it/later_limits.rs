//! A limit that comes when something was used already: it counts what every life used before, and is granted once.

use keyforge_control_plane::ledger::GiveBack;
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;
use keyforge_shared::policy::{Policy, SpendLimit};

use crate::rig::{Key, Rig, acquire, boot, life, spend_per, told};

/// A key with 1,000 per day, of which the first life was granted 500 and has shipped `used`, and then a limit of 100 in all.
async fn with_a_later_limit(rig: &Rig, used: u64) -> (Key, CounterId) {
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    acquire(rig, 1, rig.counter(key, Dimension::Spend, Window::Day), 125).await.unwrap();
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, used)]).await.unwrap();
    add_total(rig, key).await;
    (key, rig.counter(key, Dimension::Spend, Window::Total))
}

async fn add_total(rig: &Rig, key: Key) {
    let total = SpendLimit { amount: NanoUsd::new(100), window: Window::Total };
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).spend_limits.push(total)).await;
}

#[tokio::test]
async fn a_limit_that_comes_later_counts_what_the_open_epoch_used_before() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    acquire(&rig, 1, day, 100).await.unwrap();
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 70)]).await.unwrap();
    add_total(&rig, key).await;
    let granted = acquire(&rig, 1, rig.counter(key, Dimension::Spend, Window::Total), 100).await.unwrap();
    assert_eq!((granted.epoch, granted.grants[0].granted), (1, 30));
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 1, 5)]).await.unwrap();
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn a_first_limit_counts_what_a_key_without_limits_used_before_and_what_still_runs() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let mut records: Vec<_> = (1..=1_500).map(|seq| rig.record(key, boot(1), seq, 0, 2)).collect();
    rig.ship(boot(1), &records[..1_400]).await.unwrap();
    rig.change(key, |record| record.policy = spend_per(Window::Month, 10_000).into()).await;
    let month = rig.counter(key, Dimension::Spend, Window::Month);
    let granted = acquire(&rig, 1, month, 100).await.unwrap();
    assert_eq!(told(&granted), (900, 2_800, 6_300));
    // These were admitted before the limit came, and name no epoch.
    rig.ship(boot(1), &records[1_400..]).await.unwrap();
    records.clear();
    let grant = acquire(&rig, 1, month, 10_000).await.unwrap();
    assert_eq!(told(&grant), (7_000, 3_000, 0));
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn i_1_i_4_a_limit_that_comes_later_is_granted_once_whatever_is_still_unshipped() {
    let rig = Rig::new().await;
    let (key, total) = with_a_later_limit(&rig, 70).await;
    // The life counts from nothing, so that 30 is all it may ever spend, and 70 is spent elsewhere.
    for _ in 0..3 {
        assert_eq!(told(&acquire(&rig, 1, total, 100).await.unwrap()), (30, 70, 0));
        assert_eq!(told(&acquire(&rig, 2, total, 100).await.unwrap()), (0, 100, 0));
    }
    let balance = async || {
        let balances = rig.ledger.balance(key.id).await.unwrap();
        let total = balances.iter().find(|balance| balance.counter == total).unwrap();
        (total.settled, total.outstanding)
    };
    assert_eq!(balance().await, (70, 30));
    // It keeps 10, and the other life can have the 20. The serial is that of its fourth answer.
    let mut given =
        GiveBack { boot: boot(1), life: life(1), key: key.id, epoch: 1, holdings: vec![(total, 10)], serial: 4 };
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(balance().await, (70, 10));
    assert_eq!(told(&acquire(&rig, 2, total, 100).await.unwrap()), (20, 80, 0));
    let last = acquire(&rig, 1, total, 100).await.unwrap();
    assert_eq!(told(&last), (10, 90, 0));
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 1, 4)]).await.unwrap();
    assert_eq!(balance().await, (74, 26));
    (given.holdings, given.serial) = (vec![(total, 4)], last.serial);
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(balance().await, (74, 20));
    rig.ledger.close_boot(boot(1), 2).await.unwrap();
    assert_eq!(told(&acquire(&rig, 2, total, 100).await.unwrap()), (26, 74, 0));
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn i_4_a_limit_that_comes_later_counts_what_every_life_used_before_whoever_asks_first() {
    for first in [1, 3, 4] {
        let rig = Rig::new().await;
        let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
        let day = rig.counter(key, Dimension::Spend, Window::Day);
        for (n, cost) in [(1, 20), (2, 30), (3, 10)] {
            assert_eq!(acquire(&rig, n, day, 25).await.unwrap().epoch, u32::from(n));
            rig.ship(boot(n), &[rig.record(key, boot(n), 1, u32::from(n), cost)]).await.unwrap();
        }
        rig.ledger.close_boot(boot(2), 1).await.unwrap();
        add_total(&rig, key).await;
        let total = rig.counter(key, Dimension::Spend, Window::Total);
        for n in [first, 1, 3, 4] {
            let (granted, elsewhere) = if n == first { (40, 60) } else { (0, 100) };
            assert_eq!(told(&acquire(&rig, n, total, 100).await.unwrap()), (granted, elsewhere, 0), "{first}, {n}");
        }
        assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_was_admitted_before_a_limit_counts_against_it_once_chained_and_never_turns_into_more() {
    let rig = Rig::new().await;
    let (key, total) = with_a_later_limit(&rig, 70).await;
    assert_eq!(acquire(&rig, 1, total, 1).await.unwrap().grants[0].granted, 4);
    // Admitted before the limit was there, so in no counter of it, and far more than the limit has left.
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 1, 20)]).await.unwrap();
    let grant = acquire(&rig, 2, total, 100).await.unwrap().grants[0];
    assert_eq!((grant.granted, grant.elsewhere), (10, 90));
    rig.ship(boot(1), &[rig.record(key, boot(1), 3, 1, 200)]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(told(&acquire(&rig, 1, total, 100).await.unwrap()), (4, 80, 0));
        assert_eq!(told(&acquire(&rig, 2, total, 100).await.unwrap()), (10, 290, 0));
    }
    rig.ledger.close_boot(boot(1), 3).await.unwrap();
    assert_eq!(acquire(&rig, 3, total, 1).await.unwrap().grants[0].granted, 0);
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_epoch_that_used_nothing_yet_is_settled_too_once_anybody_asked_for_the_limit() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    acquire(&rig, 1, day, 10).await.unwrap();
    acquire(&rig, 2, day, 10).await.unwrap();
    add_total(&rig, key).await;
    let total = rig.counter(key, Dimension::Spend, Window::Total);
    assert_eq!(told(&acquire(&rig, 1, total, 5).await.unwrap()), (20, 0, 80));
    // The second life never asked for the limit in all; what it admitted before counts all the same, and is kept apart when it asks.
    rig.ship(boot(2), &[rig.record(key, boot(2), 1, 2, 50)]).await.unwrap();
    assert_eq!(told(&acquire(&rig, 1, total, 100).await.unwrap()), (50, 50, 0));
    rig.ship(boot(2), &[rig.record(key, boot(2), 2, 2, 7)]).await.unwrap();
    assert_eq!(told(&acquire(&rig, 2, total, 100).await.unwrap()), (0, 107, 0));
    rig.ledger.close_boot(boot(2), 2).await.unwrap();
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
    assert!(rig.faults().await.is_empty());
}
