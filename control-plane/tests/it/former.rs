//! A limit that takes the place of another one: what was granted under that one, and is not settled, counts against it from its first moment.

use std::time::Duration;

use keyforge_control_plane::ledger::{GiveBack, Granted};
use keyforge_control_plane::store::ledger as rows;
use keyforge_shared::audit::request::{Flags, RequestRecord};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::WorkspaceId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::Window;

use crate::rig::{Key, Rig, ask, boot, life, requests_per, spend_per};

const TEAM: WorkspaceId = WorkspaceId::from_bytes([0x7e; 16]);

/// Granted to the life, spent elsewhere, and the part of that which is expected to come back.
fn told(granted: &Granted) -> (u64, u64, u64) {
    (granted.grants[0].granted, granted.grants[0].elsewhere, granted.grants[0].unsettled)
}

/// The record of an attempt that was admitted under one limit in epoch 1.
fn under(rig: &Rig, key: Key, seq: u64, cost: u64, counter: &CounterId) -> RequestRecord {
    let record = rig.record(key, boot(1), seq, 1, cost);
    RequestRecord { flags: Flags::USAGE_KNOWN.under([counter]), ..record }
}

/// The first boot's books keep `ceiling` of a counter.
async fn give_back(rig: &Rig, counter: CounterId, granted: &Granted, ceiling: u64) {
    let given = GiveBack {
        boot: boot(1),
        life: life(1),
        key: counter.key,
        epoch: granted.epoch,
        serial: granted.serial,
        holdings: vec![(counter, ceiling)],
    };
    rig.ledger.give_back(&given).await.unwrap();
}

#[tokio::test]
async fn i_1_what_was_spent_under_the_limit_per_day_and_is_not_chained_counts_in_the_limit_in_total() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 100)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let before = rig.ledger.acquire(&ask(1, 1, day, 100)).await.unwrap();
    assert_eq!(told(&before), (100, 0, 0));
    // 54 of it are spent, in records that have not come yet.
    rig.change(key, |record| record.policy = spend_per(Window::Total, 100).into()).await;
    let total = rig.counter(key, Dimension::Spend, Window::Total);
    let first = rig.ledger.acquire(&ask(1, 1, total, 1)).await.unwrap();
    assert_eq!(told(&first), (0, 100, 100), "all of it may be spent");
    give_back(&rig, day, &first, 54).await;
    let second = rig.ledger.acquire(&ask(1, 1, total, 40)).await.unwrap();
    assert_eq!(told(&second), (46, 54, 54));

    // The records come: what they spent moves from one kind of elsewhere into the other, and nothing becomes free.
    rig.ship(boot(1), &[under(&rig, key, 1, 54, &day)]).await.unwrap();
    let third = rig.ledger.acquire(&ask(1, 1, total, 40)).await.unwrap();
    assert_eq!((told(&third), third.grants[0].available), ((46, 54, 0), 0));
    // What is spent under the new limit releases nothing of the old one either.
    rig.ship(boot(1), &[under(&rig, key, 2, 46, &total)]).await.unwrap();
    let fourth = rig.ledger.acquire(&ask(1, 1, total, 40)).await.unwrap();
    assert_eq!((told(&fourth), fourth.grants[0].available), ((46, 54, 0), 0));
    let mut read = rig.store.read().await.unwrap();
    let sums = rows::sums(&mut read, &total, None, Timestamp::from_nanos(0)).await.unwrap();
    assert_eq!((sums.settled, sums.outstanding), (100, 0));
    drop(read);
    assert_eq!(rig.ledger.reconcile(key.id).await.unwrap(), []);
    assert_eq!(rig.faults().await, []);
}

#[tokio::test]
async fn i_1_a_node_that_is_away_holds_back_a_quota_that_took_the_place_of_its_own() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 9)).await;
    let day = rig.counter(key, Dimension::Requests, Window::Day);
    rig.ledger.acquire(&ask(1, 1, day, 9)).await.unwrap();
    rig.change(key, |record| record.policy = requests_per(Window::Week, 9).into()).await;
    let week = rig.counter(key, Dimension::Requests, Window::Week);
    let other = rig.ledger.acquire(&ask(2, 2, week, 1)).await.unwrap();
    assert_eq!(told(&other), (0, 9, 9));
    // It comes back, has served two, and gives the rest back.
    let records = [1, 2].map(|seq| under(&rig, key, seq, 1, &day));
    rig.ship(boot(1), &records).await.unwrap();
    let joined = rig.ledger.acquire(&ask(1, 1, week, 0)).await.unwrap();
    give_back(&rig, day, &joined, 2).await;
    let other = rig.ledger.acquire(&ask(2, 2, week, 9)).await.unwrap();
    assert_eq!(told(&other), (7, 2, 0));
    assert_eq!(rig.ledger.reconcile(key.id).await.unwrap(), []);
}

#[tokio::test]
async fn i_1_a_workspaces_new_limit_is_held_back_by_what_all_its_keys_were_granted_under_the_former_one() {
    let rig = Rig::new().await;
    rig.workspace(TEAM, "team", &spend_per(Window::Day, 100)).await;
    let (one, other) = (rig.key_in(TEAM, 1, Default::default()).await, rig.key_in(TEAM, 2, Default::default()).await);
    let of = |key, window| CounterId { scope: Scope::Workspace, ..rig.counter(key, Dimension::Spend, window) };
    rig.ledger.acquire(&ask(1, 1, of(one, Window::Day), 15)).await.unwrap();
    rig.change_workspace(TEAM, &spend_per(Window::Month, 100)).await;
    let granted = rig.ledger.acquire(&ask(2, 2, of(other, Window::Month), 100)).await.unwrap();
    assert_eq!(told(&granted), (40, 60, 60));
    // A month that begins later than any node can have gone on with the former limit has nothing to do with it.
    rig.clock.advance(Duration::from_hours(24 * 40));
    let later = rig.ledger.acquire(&ask(2, 2, of(other, Window::Month), 100)).await.unwrap();
    assert_eq!(told(&later), (100, 0, 0));
}

#[tokio::test]
async fn what_is_granted_under_limits_that_stay_is_not_held_against_a_new_one() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Month, 1_000)).await;
    let month = rig.counter(key, Dimension::Spend, Window::Month);
    rig.ledger.acquire(&ask(1, 1, month, 900)).await.unwrap();
    rig.change(key, |record| {
        let policy = std::sync::Arc::make_mut(&mut record.policy);
        policy.spend_limits.extend(spend_per(Window::Day, 100).spend_limits);
    })
    .await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let granted = rig.ledger.acquire(&ask(1, 1, day, 100)).await.unwrap();
    assert_eq!(told(&granted), (100, 0, 0));
    // What was admitted before the limit is not in the life's counter of it: it counts beside what the life was granted.
    rig.ship(boot(1), &[under(&rig, key, 1, 30, &month)]).await.unwrap();
    let again = rig.ledger.acquire(&ask(1, 1, day, 1)).await.unwrap();
    assert_eq!(told(&again), (100, 30, 0), "the life may spend 70");
}
