//! What the keys of a workspace may use together: granted to each from one limit, counted over all of them, and asked back when one runs short.

use std::time::Duration;

use keyforge_control_plane::ledger::{GiveBack, Granted, Holder, LedgerError};
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::Clock as _;
use keyforge_shared::id::WorkspaceId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, CivilDay, Window, ZoneName};
use keyforge_shared::policy::{Policy, RequestLimit, SpendLimit};

use crate::rig::{Key, NODE, Rig, ask, boot, life, spend_per};

const TEAM: WorkspaceId = WorkspaceId::from_bytes([0x7e; 16]);

/// A workspace with `limits`, and `count` keys in it that have none of their own.
async fn team(count: u8, limits: &Policy) -> (Rig, Vec<Key>) {
    let rig = Rig::new().await;
    rig.workspace(TEAM, "team", limits).await;
    let mut keys = Vec::new();
    for n in 1..=count {
        keys.push(rig.key_in(TEAM, n, Policy::default()).await);
    }
    (rig, keys)
}

fn shared(rig: &Rig, key: Key, window: Window) -> CounterId {
    CounterId { scope: Scope::Workspace, ..rig.counter(key, Dimension::Spend, window) }
}

fn told(granted: &Granted) -> (u64, u64, u64, u64) {
    let grant = granted.grants[0];
    (grant.granted, grant.elsewhere, grant.unsettled, grant.available)
}

/// The `n`th boot asks for the `n`th life of a key.
async fn acquire(rig: &Rig, n: u8, counter: CounterId, amount: u64) -> Granted {
    rig.ledger.acquire(&ask(n, n, counter, amount)).await.unwrap()
}

#[tokio::test]
async fn i_4_a_workspaces_limit_is_granted_once_over_all_its_keys() {
    let (rig, keys) = team(3, &spend_per(Window::Day, 1_000)).await;
    let day = |n: usize| shared(&rig, keys[n], Window::Day);
    assert_eq!(told(&acquire(&rig, 1, day(0), 100).await), (400, 0, 0, 600));
    assert_eq!(told(&acquire(&rig, 2, day(1), 100).await), (400, 400, 400, 200));
    assert_eq!(told(&acquire(&rig, 3, day(2), 100).await), (200, 800, 800, 0));
    rig.ship(boot(1), &[rig.record(keys[0], boot(1), 1, 1, 50)]).await.unwrap();
    assert_eq!(told(&acquire(&rig, 3, day(2), 1).await), (200, 800, 750, 0));
    assert_eq!(rig.ledger.close_boot(boot(1), 1).await.unwrap(), 1);
    assert_eq!(told(&acquire(&rig, 3, day(2), 1_000).await), (550, 450, 400, 0));
    // A key of another workspace, and one that comes later.
    let stranger = rig.key(9, spend_per(Window::Day, 1_000)).await;
    let refused = rig.ledger.acquire(&ask(9, 9, shared(&rig, stranger, Window::Day), 1)).await;
    assert!(matches!(refused, Err(LedgerError::NoSuchLimit(_))), "{refused:?}");
    let newcomer = rig.key_in(TEAM, 4, Policy::default()).await;
    assert_eq!(told(&acquire(&rig, 4, shared(&rig, newcomer, Window::Day), 1).await), (0, 1_000, 950, 0));
    for key in keys {
        let balance = rig.ledger.balance(key.id).await.unwrap()[0];
        assert_eq!((balance.counter.scope, balance.settled, balance.outstanding), (Scope::Workspace, 50, 950));
    }
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn a_key_is_under_its_own_limit_and_its_workspaces_at_once() {
    let (rig, _) = team(0, &spend_per(Window::Day, 1_000)).await;
    let key = rig.key_in(TEAM, 1, spend_per(Window::Day, 300)).await;
    let mut question = ask(1, 1, rig.counter(key, Dimension::Spend, Window::Day), 500);
    question.wants.push(keyforge_control_plane::ledger::Want { counter: shared(&rig, key, Window::Day), amount: 500 });
    let granted = rig.ledger.acquire(&question).await.unwrap();
    let told: Vec<_> = granted.grants.iter().map(|grant| (grant.counter.scope, grant.limit, grant.granted)).collect();
    assert_eq!(told, [(Scope::Key, 300, 300), (Scope::Workspace, 1_000, 1_000)]);
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 120)]).await.unwrap();
    let settled: Vec<_> = rig.ledger.balance(key.id).await.unwrap().iter().map(|balance| balance.settled).collect();
    assert_eq!(settled, [120, 120]);
}

#[tokio::test]
async fn what_others_hold_of_a_workspaces_limit_is_named_asked_back_and_granted_again() {
    let (rig, keys) = team(3, &spend_per(Window::Day, 1_000)).await;
    let [first, second, third] = [0, 1, 2].map(|n| shared(&rig, keys[n], Window::Day));
    assert!(acquire(&rig, 1, first, 150).await.holders.is_empty(), "what is needed is there");
    acquire(&rig, 2, second, 25).await;
    rig.ship(boot(2), &[rig.record(keys[1], boot(2), 1, 1, 30)]).await.unwrap();
    let short = acquire(&rig, 3, third, 900).await;
    assert_eq!(told(&short), (300, 700, 670, 0));
    let holder = |n: usize, unsettled| {
        let number = u8::try_from(n).unwrap() + 1;
        Holder { key: keys[n].id, life: life(number), epoch: 1, unsettled }
    };
    assert_eq!(short.holders, [holder(0, 600), holder(1, 70)]);
    // The third boot finds both lives in its own store. Of the first one 100 are used or held there.
    for (n, ceiling) in [(0, 100), (1, 30)] {
        let counter = shared(&rig, keys[n], Window::Day);
        let Holder { key, life, epoch, .. } = short.holders[n];
        let given = GiveBack { boot: boot(3), life, key, epoch, serial: 1, holdings: vec![(counter, ceiling)] };
        rig.ledger.give_back(&given).await.unwrap();
    }
    let again = acquire(&rig, 3, third, 900).await;
    assert_eq!(told(&again), (870, 130, 100, 0));
    assert_eq!(again.holders, [holder(0, 100)]);
    // Its owner has its records, and nobody has what is left of a boot whose records are lost.
    rig.audit.report_gap(&rig.store, NODE, boot(1), &[]).await.unwrap();
    let last = acquire(&rig, 3, third, 900).await;
    assert_eq!((told(&last), last.holders), ((870, 130, 0, 0), Vec::new()));
    assert!(rig.ledger.reconcile(keys[0].id).await.unwrap().is_empty());
}

#[tokio::test]
async fn at_most_eight_holders_are_named_and_those_with_most_first() {
    let both = Policy {
        request_limits: vec![RequestLimit { requests: 1_000, window: Window::Day }],
        ..spend_per(Window::Day, 10_000)
    };
    let (rig, keys) = team(12, &both).await;
    for (n, key) in (1u8..).zip(&keys[..11]) {
        acquire(&rig, n, shared(&rig, *key, Window::Day), 1_000 - u64::from(n)).await;
        let requests = CounterId { dimension: Dimension::Requests, ..shared(&rig, *key, Window::Day) };
        acquire(&rig, n, requests, 10).await;
    }
    let mut question = ask(12, 12, shared(&rig, keys[11], Window::Day), 9_000);
    let requests = CounterId { dimension: Dimension::Requests, ..question.wants[0].counter };
    question.wants.push(keyforge_control_plane::ledger::Want { counter: requests, amount: 1_000 });
    let short = rig.ledger.acquire(&question).await.unwrap();
    let named: Vec<_> = short.holders.iter().map(|holder| holder.unsettled).collect();
    assert_eq!(named.len(), 8);
    assert!(named.is_sorted_by(|one, next| one >= next), "{named:?}");
    let mut lives: Vec<_> = short.holders.iter().map(|holder| holder.life).collect();
    lives.dedup();
    assert_eq!(lives.len(), 8);
    assert_eq!(short.holders[0].key, keys[0].id);
}

#[tokio::test]
async fn a_workspaces_limit_that_comes_later_counts_what_all_its_keys_used_before() {
    let (rig, _) = team(0, &Policy::default()).await;
    let limited = rig.key_in(TEAM, 1, spend_per(Window::Day, 1_000)).await;
    let free = rig.key_in(TEAM, 2, Policy::default()).await;
    let idle = rig.key_in(TEAM, 3, Policy::default()).await;
    let outside = rig.key(4, Policy::default()).await;
    acquire(&rig, 1, rig.counter(limited, Dimension::Spend, Window::Day), 10).await;
    acquire(&rig, 2, rig.counter(limited, Dimension::Spend, Window::Day), 10).await;
    let ship = async |n: u8, records: &[RequestRecord]| rig.ship(boot(n), records).await.unwrap();
    ship(1, &[rig.record(limited, boot(1), 1, 1, 70)]).await;
    ship(2, &[rig.record(limited, boot(2), 1, 2, 20), rig.record(free, boot(2), 2, 0, 300)]).await;
    ship(3, &[rig.record(outside, boot(3), 1, 0, 5_000)]).await;
    rig.ledger.close_boot(boot(1), 1).await.unwrap();
    rig.clock.advance(Duration::from_hours(24));
    ship(2, &[rig.record(free, boot(2), 3, 0, 10)]).await;

    rig.change_workspace(TEAM, &spend_per(Window::Month, 1_000)).await;
    let month = |key| shared(&rig, key, Window::Month);
    // Whoever asks first, also a key that never used anything: 70 and 20 of epochs, 310 without one.
    assert_eq!(told(&acquire(&rig, 5, month(idle), 10).await), (75, 400, 0, 525));
    assert_eq!(told(&acquire(&rig, 2, month(limited), 10).await), (65, 475, 75, 460));
    ship(2, &[rig.record(limited, boot(2), 4, 2, 5), rig.record(free, boot(2), 5, 0, 7)]).await;
    assert_eq!(told(&acquire(&rig, 5, month(idle), 1_000).await), (528, 472, 60, 0));
    let balance = rig.ledger.balance(free.id).await.unwrap()[0];
    assert_eq!((balance.settled, balance.outstanding), (412, 588));
    // On a later day the limit of a day counts from nothing, although the month does not. Until then it is held back by what was granted of the month.
    rig.change_workspace(TEAM, &spend_per(Window::Day, 1_000)).await;
    rig.clock.advance(Duration::from_hours(24));
    assert_eq!(told(&acquire(&rig, 5, shared(&rig, idle, Window::Day), 0).await), (51, 588, 528, 361));
    rig.clock.advance(Duration::from_hours(24));
    assert_eq!(told(&acquire(&rig, 5, shared(&rig, idle, Window::Day), 1_000).await), (1_000, 0, 0, 0));
    for key in [limited, free, idle, outside] {
        assert_eq!(rig.ledger.reconcile(key.id).await.unwrap(), []);
    }
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn a_workspaces_limit_follows_the_calendar_of_each_of_its_keys() {
    let (rig, keys) = team(1, &spend_per(Window::Day, 1_000)).await;
    let time_zone = Some(ZoneName::new("Asia/Tokyo").unwrap());
    let tokyo = Calendar::of(time_zone.as_ref());
    let eastern = rig.key_in(TEAM, 2, Policy { time_zone, ..Policy::default() }).await;
    // 20:00 on the 22nd in UTC is 05:00 on the 23rd in Tokyo: the limit for the 23rd is another one.
    rig.clock.advance(Duration::from_hours(14));
    let first_day = tokyo.day_at(rig.clock.now());
    let (here, there) = (shared(&rig, keys[0], Window::Day), shared(&rig, eastern, Window::Day));
    let there = CounterId { first_day, ..there };
    assert_eq!(there.first_day, CivilDay::from_number(here.first_day.number() + 1));
    assert_eq!(told(&acquire(&rig, 1, here, 1_000).await), (1_000, 0, 0, 0));
    assert_eq!(told(&acquire(&rig, 2, there, 150).await), (600, 0, 0, 400));
    let refused = rig.ledger.acquire(&ask(2, 2, CounterId { first_day: here.first_day, ..there }, 1)).await;
    assert!(matches!(refused, Err(LedgerError::WrongPeriod(_))), "{refused:?}");
    let record = RequestRecord { period: first_day.number(), ..rig.record(eastern, boot(2), 1, 1, 25) };
    rig.ship(boot(2), &[record]).await.unwrap();
    // When it is the 23rd in UTC as well, both take from the same limit.
    rig.clock.advance(Duration::from_hours(5));
    rig.ledger.hear_of(&[boot(2)]).await.unwrap();
    assert_eq!(shared(&rig, keys[0], Window::Day).first_day, first_day);
    assert_eq!(told(&acquire(&rig, 1, shared(&rig, keys[0], Window::Day), 1_000).await), (400, 600, 575, 0));
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn a_lowered_workspace_limit_grants_nothing_and_a_raised_one_the_rest() {
    let (rig, keys) = team(2, &spend_per(Window::Month, 1_000)).await;
    let [first, second] = [0, 1].map(|n| shared(&rig, keys[n], Window::Month));
    acquire(&rig, 1, first, 100).await;
    rig.change_workspace(TEAM, &spend_per(Window::Month, 300)).await;
    let grant = acquire(&rig, 2, second, 10).await.grants[0];
    assert_eq!((grant.granted, grant.limit, grant.elsewhere, grant.available), (0, 300, 400, 0));
    rig.change_workspace(TEAM, &spend_per(Window::Month, 500)).await;
    assert_eq!(told(&acquire(&rig, 2, second, 1_000).await), (100, 400, 400, 0));
    let total = SpendLimit { amount: NanoUsd::new(450), window: Window::Total };
    let mut both = spend_per(Window::Month, 500);
    both.spend_limits.push(total);
    rig.change_workspace(TEAM, &both).await;
    assert_eq!(told(&acquire(&rig, 1, shared(&rig, keys[0], Window::Total), 100).await), (400, 0, 0, 50));
}

#[tokio::test]
async fn i_20_books_that_were_moved_to_another_workspace_are_found() {
    let (rig, keys) = team(1, &spend_per(Window::Day, 1_000)).await;
    let day = shared(&rig, keys[0], Window::Day);
    acquire(&rig, 1, day, 100).await;
    rig.ship(boot(1), &[rig.record(keys[0], boot(1), 1, 1, 30)]).await.unwrap();
    assert!(rig.faults().await.is_empty());
    rig.tamper("UPDATE grants SET workspace_id = zeroblob(16) WHERE scope = 'workspace'").await;
    let faults = rig.faults().await;
    assert!(faults.len() == 1 && faults[0].fault.contains("workspace_id"), "{faults:?}");
    rig.tamper("UPDATE grants SET workspace_id = (SELECT workspace_id FROM virtual_keys), settled = 29").await;
    let faults = rig.faults().await;
    assert!(faults.len() == 1 && faults[0].fault.contains("settled 29, the entries say 30"), "{faults:?}");
    assert!(faults[0].fault.contains("under the limit of the workspace, in epoch 1"), "{faults:?}");
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release -p keyforge-control-plane --test it -- --ignored --nocapture acquiring"]
async fn acquiring_stays_fast_in_a_workspace_of_many_keys_with_many_closed_epochs() {
    const EPOCHS: u8 = 100;
    let (rig, _) = team(0, &spend_per(Window::Month, 1 << 52)).await;
    let mut keys = Vec::new();
    for n in 1..=150 {
        keys.push(rig.key_in(TEAM, n, Policy::default()).await);
    }
    for n in 1..=EPOCHS {
        for key in &keys {
            rig.ledger.acquire(&ask(n, n, shared(&rig, *key, Window::Month), 1)).await.unwrap();
        }
        if n < EPOCHS {
            rig.ledger.close_boot(boot(n), 0).await.unwrap();
        }
    }
    let clock = keyforge_shared::clock::SystemClock;
    let mut micros = [0; 2];
    let lone = rig.key(200, spend_per(Window::Month, 1 << 52)).await;
    for _ in &keys {
        let start = clock.monotonic_nanos();
        rig.ledger.acquire(&ask(EPOCHS, EPOCHS, rig.counter(lone, Dimension::Spend, Window::Month), 1)).await.unwrap();
        micros[0] += (clock.monotonic_nanos() - start) / 1_000;
    }
    for key in &keys {
        let start = clock.monotonic_nanos();
        rig.ledger.acquire(&ask(EPOCHS, EPOCHS, shared(&rig, *key, Window::Month), 1)).await.unwrap();
        micros[1] += (clock.monotonic_nanos() - start) / 1_000;
    }
    let [alone, shared] = micros.map(|all| all / keys.len() as u64);
    println!("{alone} microseconds for a question of one key alone, {shared} for one among {}", keys.len());
    assert!(shared < alone + 2_000, "{alone} and {shared}");
}
