//! The ledger: nobody is granted more than the limit, whatever stores, nodes and time do, and books end as the truth.

use std::time::Duration;

use keyforge_control_plane::ledger::{Acquire, GiveBack, Grant, Granted, LedgerError, Membership, Want};
use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::{Clock as _, Timestamp};
use keyforge_shared::id::LifeId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, CivilDay, Window, ZoneName};
use keyforge_shared::policy::{Policy, Raise, RequestLimit, SpendLimit};
use keyforge_shared::state::KeyStatus;

use crate::rig::{Key, NODE, Rig, boot, requests_per, spend_per};

pub fn life(n: u8) -> LifeId {
    LifeId::from_bytes([0x40 + n; 16])
}

pub fn ask(boot_number: u8, life_number: u8, counter: CounterId, amount: u64) -> Acquire {
    let wants = vec![Want { counter, amount }];
    Acquire { boot: boot(boot_number), life: life(life_number), key: counter.key, wants }
}

/// The `n`th boot asks for the `n`th life.
async fn acquire(rig: &Rig, n: u8, counter: CounterId, amount: u64) -> Result<Granted, LedgerError> {
    rig.ledger.acquire(&ask(n, n, counter, amount)).await
}

/// The `n`th boot says that it used the epoch of the `n`th life for the last time.
async fn leave(rig: &Rig, n: u8, key: Key, granted: &Granted, last_seq: u64) -> Result<u64, LedgerError> {
    let membership = Membership { key: key.id, epoch: granted.epoch, serial: granted.serial };
    rig.ledger.leave(boot(n), last_seq, &[membership]).await
}

fn told(granted: &Granted) -> (u64, u64, u64) {
    let Grant { granted, elsewhere, available, .. } = granted.grants[0];
    (granted, elsewhere, available)
}

#[tokio::test]
async fn a_grant_is_four_needs_or_an_eighth_and_never_more_than_is_left() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 8_000)).await;
    let counter = rig.counter(key, Dimension::Spend, Window::Day);
    let first = acquire(&rig, 1, counter, 10).await.unwrap();
    assert_eq!((first.epoch, first.grants[0].granted, first.grants[0].available), (1, 1_000, 7_000));
    assert_eq!(first.grants[0].period, Calendar::utc().period(Window::Day, counter.first_day));
    let second = acquire(&rig, 2, counter, 500).await.unwrap();
    assert_eq!((second.epoch, second.grants[0].granted, second.grants[0].limit), (2, 2_000, 8_000));
    assert_eq!((second.grants[0].elsewhere, second.grants[0].unsettled), (1_000, 1_000));
    let all = acquire(&rig, 1, counter, u64::MAX).await.unwrap();
    assert_eq!((all.epoch, all.grants[0].granted, all.grants[0].available), (1, 6_000, 0));
    let nothing = acquire(&rig, 2, counter, 1).await.unwrap();
    assert_eq!((nothing.grants[0].granted, nothing.grants[0].elsewhere), (2_000, 6_000));
    assert_eq!(nothing.holders, [], "what other lives of the same key hold is not theirs to ask back");
}

#[tokio::test]
async fn only_limits_of_an_active_key_in_a_present_period_are_granted() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 100)).await;
    let day = rig.counter(key, Dimension::Requests, Window::Day);
    let ask = |counter| acquire(&rig, 1, counter, 1);
    for other in [
        CounterId { window: Window::Total, first_day: CivilDay::default(), ..day },
        CounterId { dimension: Dimension::Spend, ..day },
        CounterId { scope: Scope::Workspace, ..day },
    ] {
        assert!(matches!(ask(other).await, Err(LedgerError::NoSuchLimit(_))), "{other:?}");
    }
    for days in [-1, 1] {
        let other = CivilDay::from_number(day.first_day.number().checked_add_signed(days).unwrap());
        let other = CounterId { first_day: other, ..day };
        assert!(matches!(ask(other).await, Err(LedgerError::WrongPeriod(_))), "{days}");
    }
    for status in [KeyStatus::Frozen, KeyStatus::Revoked] {
        rig.change(key, |record| record.status = status).await;
        assert!(matches!(ask(day).await, Err(LedgerError::NotActive(_))), "{status:?}");
    }
    rig.change(key, |record| record.status = KeyStatus::Active).await;
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).expires_at = Some(rig.clock.now())).await;
    assert!(matches!(ask(day).await, Err(LedgerError::NotActive(_))));
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).expires_at = None).await;
    let granted = ask(day).await.unwrap();
    assert_eq!((granted.epoch, granted.serial), (1, 1), "what was refused left nothing behind");
    let stranger = keyforge_shared::id::KeyId::from_ascii(b"nobodynobody").unwrap();
    assert!(matches!(ask(CounterId { key: stranger, ..day }).await, Err(LedgerError::UnknownKey(_))));
}

#[tokio::test]
async fn the_next_period_is_staged_ten_minutes_early_and_begins_with_its_whole_limit() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 80)).await;
    let today = rig.counter(key, Dimension::Requests, Window::Day);
    let tomorrow = CounterId { first_day: CivilDay::from_number(today.first_day.number() + 1), ..today };
    let midnight = Calendar::utc().period(Window::Day, tomorrow.first_day).start;
    acquire(&rig, 1, today, 100).await.unwrap();
    rig.clock.set(Timestamp::from_nanos(midnight.nanos() - 600_000_000_001));
    assert!(matches!(acquire(&rig, 1, tomorrow, 1).await, Err(LedgerError::WrongPeriod(_))));
    rig.clock.advance(Duration::from_millis(1));
    let staged = acquire(&rig, 1, tomorrow, 1).await.unwrap();
    assert_eq!((staged.grants[0].granted, staged.grants[0].available), (10, 70));
    assert_eq!(staged.grants[0].period.start, midnight);
    rig.clock.set(midnight.saturating_add(Duration::from_mins(9)));
    assert_eq!(acquire(&rig, 1, today, 1).await.unwrap().grants[0].available, 0);
    rig.clock.advance(Duration::from_mins(2));
    assert!(matches!(acquire(&rig, 1, today, 1).await, Err(LedgerError::WrongPeriod(_))));
}

#[tokio::test]
async fn i_6_closing_waits_for_every_record_and_then_gives_back_exactly_what_was_not_spent() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Month, 1_000)).await;
    let month = rig.counter(key, Dimension::Spend, Window::Month);
    let first = acquire(&rig, 1, month, 1_000).await.unwrap();
    let records = [rig.record(key, boot(1), 1, 1, 30), rig.record(key, boot(1), 2, 1, 20)];
    rig.ship(boot(1), &records[..1]).await.unwrap();
    let early = leave(&rig, 1, key, &first, 2).await.unwrap_err();
    assert!(matches!(early, LedgerError::NotShipped { last_seq: 2, watermark: 1 }), "{early}");
    let early = rig.ledger.close_boot(boot(1), 2).await.unwrap_err();
    assert!(matches!(early, LedgerError::NotShipped { last_seq: 2, watermark: 1 }), "{early}");
    let second = acquire(&rig, 2, month, 1).await.unwrap();
    assert_eq!(told(&second), (0, 1_000, 0));
    assert_eq!(second.grants[0].unsettled, 970);
    rig.ship(boot(1), &records).await.unwrap();
    assert_eq!(leave(&rig, 1, key, &first, 2).await.unwrap(), 1);
    assert_eq!(leave(&rig, 1, key, &first, 2).await.unwrap(), 0);
    assert_eq!(rig.ledger.close_boot(boot(1), 2).await.unwrap(), 0);
    let after = acquire(&rig, 2, month, 1_000).await.unwrap();
    assert_eq!(told(&after), (950, 50, 0));
    assert_eq!(after.grants[0].unsettled, 0);
    assert!(matches!(rig.ledger.acquire(&ask(2, 1, month, 1)).await, Err(LedgerError::Over(over)) if over == life(1)));
    let balance = rig.ledger.balance(key.id).await.unwrap();
    assert_eq!((balance[0].limit, balance[0].settled, balance[0].outstanding), (1_000, 50, 950));
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn two_boots_in_one_life_share_its_grants_and_the_last_one_closes_it() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let first = rig.ledger.acquire(&ask(1, 1, day, 100)).await.unwrap();
    let second = rig.ledger.acquire(&ask(2, 1, day, 100)).await.unwrap();
    assert_eq!((first.epoch, first.serial, told(&first)), (1, 1, (400, 0, 600)));
    assert_eq!((second.epoch, second.serial, told(&second)), (1, 2, (800, 0, 200)));
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 300)]).await.unwrap();
    rig.ship(boot(2), &[rig.record(key, boot(2), 1, 1, 200)]).await.unwrap();
    assert_eq!(leave(&rig, 1, key, &first, 1).await.unwrap(), 0);
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].outstanding, 300);
    assert_eq!(rig.ledger.close_boot(boot(2), 1).await.unwrap(), 1);
    let balance = rig.ledger.balance(key.id).await.unwrap()[0];
    assert_eq!((balance.settled, balance.outstanding), (500, 0));
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn joining_grants_nothing_keeps_an_epoch_open_and_refuses_no_return() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let first = acquire(&rig, 1, day, 100).await.unwrap();
    let join = Acquire { boot: boot(2), life: life(1), key: key.id, wants: Vec::new() };
    let joined = rig.ledger.acquire(&join).await.unwrap();
    assert_eq!((joined.epoch, joined.serial, joined.grants.len()), (1, 2, 0));
    let mut given = GiveBack {
        boot: boot(3),
        life: life(1),
        key: key.id,
        epoch: 1,
        serial: first.serial,
        holdings: vec![(day, 150)],
    };
    // The books have applied the first answer; what came after it told no grants.
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].outstanding, 150);
    given.holdings = vec![(day, 120)];
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].outstanding, 120);
    given.serial = 1_000;
    assert!(matches!(rig.ledger.give_back(&given).await, Err(LedgerError::Overtaken(_))), "no such answer was given");
    assert_eq!(leave(&rig, 1, key, &first, 0).await.unwrap(), 0);
    assert_eq!(told(&acquire(&rig, 3, day, 1_000).await.unwrap()), (880, 120, 0));
    assert_eq!(leave(&rig, 2, key, &joined, 0).await.unwrap(), 1);
    assert_eq!(told(&acquire(&rig, 3, day, 1_000).await.unwrap()), (1_000, 0, 0));
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn i_6_a_leave_that_comes_after_a_rejoin_leaves_nothing() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let before = acquire(&rig, 1, day, 10).await.unwrap();
    let join = Acquire { boot: boot(1), life: life(1), key: key.id, wants: Vec::new() };
    let renewed = rig.ledger.acquire(&join).await.unwrap();
    assert_eq!(leave(&rig, 1, key, &before, 0).await.unwrap(), 0);
    // Still a member: what it spends now is under its grant, and nobody else has it.
    assert_eq!(told(&acquire(&rig, 2, day, 1_000).await.unwrap()), (875, 125, 0));
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 100)]).await.unwrap();
    assert!(matches!(leave(&rig, 1, key, &renewed, 2).await, Err(LedgerError::NotShipped { .. })));
    assert_eq!(leave(&rig, 1, key, &renewed, 1).await.unwrap(), 1);
    assert_eq!(told(&acquire(&rig, 2, day, 1_000).await.unwrap()), (900, 100, 0));
    // The other order: it left, so the epoch is over, and it begins anew.
    assert!(matches!(rig.ledger.acquire(&join).await, Err(LedgerError::Over(_))));
}

#[tokio::test]
async fn i_7_a_boot_that_was_closed_is_served_no_more_and_a_life_is_one_epoch_of_its_key() {
    let rig = Rig::new().await;
    let keys = [rig.key(1, spend_per(Window::Day, 1_000)).await, rig.key(2, spend_per(Window::Day, 1_000)).await];
    let [day, other] = keys.map(|key| rig.counter(key, Dimension::Spend, Window::Day));
    acquire(&rig, 1, day, 10).await.unwrap();
    // It never shipped anything, so no row of it exists.
    for closed in [1, 0] {
        assert_eq!(rig.ledger.close_boot(boot(1), 0).await.unwrap(), closed);
    }
    for counter in [day, other] {
        for n in [1, 2] {
            let late = rig.ledger.acquire(&ask(1, n, counter, 1)).await;
            assert!(matches!(late, Err(LedgerError::BootOver(over)) if over == boot(1)), "{late:?}");
        }
    }
    assert_eq!(rig.ledger.acquire(&ask(2, 2, day, 1)).await.unwrap().epoch, 2);
    assert_eq!(rig.ledger.acquire(&ask(2, 2, other, 1)).await.unwrap().epoch, 1);
}

#[tokio::test]
async fn a_late_entry_of_a_closed_epoch_is_booked_and_nothing_more_is_granted_for_it() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 100)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let first = acquire(&rig, 1, day, 100).await.unwrap();
    assert_eq!(leave(&rig, 1, key, &first, 0).await.unwrap(), 1);
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 60)]).await.unwrap();
    let balance = rig.ledger.balance(key.id).await.unwrap();
    assert_eq!((balance[0].settled, balance[0].outstanding), (60, 0));
    assert_eq!(acquire(&rig, 2, day, 100).await.unwrap().grants[0].granted, 40);
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 1, 30)]).await.unwrap();
    assert_eq!(acquire(&rig, 3, day, 100).await.unwrap().grants[0].granted, 0);
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn i_6_lost_records_keep_an_epoch_open_and_what_it_holds_written_off() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 100)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let lost = acquire(&rig, 1, day, 10).await.unwrap();
    let other = rig.ledger.acquire(&ask(2, 1, day, 1)).await.unwrap();
    assert_eq!(told(&other), (47, 0, 53));
    rig.audit.report_gap(&rig.store, NODE, boot(1), &[]).await.unwrap();
    assert_eq!(leave(&rig, 1, key, &lost, 0).await.unwrap(), 0);
    assert_eq!(rig.ledger.close_boot(boot(1), 0).await.unwrap(), 0);
    assert!(matches!(acquire(&rig, 1, day, 1).await, Err(LedgerError::BootOver(_))));
    let third = acquire(&rig, 3, day, 100).await.unwrap();
    assert_eq!((told(&third), third.grants[0].unsettled), ((53, 47, 0), 47));
    // The books are there, so what they do not allow any more can come back through the boot that uses them.
    let given = GiveBack {
        boot: boot(2),
        life: life(1),
        key: key.id,
        epoch: 1,
        serial: other.serial,
        holdings: vec![(day, 40)],
    };
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(leave(&rig, 2, key, &other, 0).await.unwrap(), 0);
    let third = acquire(&rig, 3, day, 100).await.unwrap();
    // Nobody is left who could settle or return it, so nobody is told to wait for it.
    assert_eq!((told(&third), third.grants[0].unsettled), ((60, 40, 0), 0));
    let entries = keyforge_control_plane::audit::list::entries(&rig.store, key.chain, 0, 10).await.unwrap();
    let Record::Gap(gap) = &entries[0].record else { panic!("{entries:?}") };
    assert_eq!(gap.charged, NanoUsd::new(47));
}

#[tokio::test]
async fn i_4_a_return_that_arrives_after_a_later_grant_is_refused() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    let first = acquire(&rig, 1, day, 100).await.unwrap();
    let late = GiveBack {
        boot: boot(1),
        life: life(1),
        key: key.id,
        epoch: first.epoch,
        holdings: vec![(day, 0)],
        serial: first.serial,
    };
    // Even when the later answer told nothing new: it could still be applied, and would raise the ceiling again.
    for n in [1, 2] {
        rig.ledger.acquire(&ask(n, 1, day, 100)).await.unwrap();
        assert!(matches!(rig.ledger.give_back(&late).await, Err(LedgerError::Overtaken(_))));
    }
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].outstanding, 1_000);
}

#[tokio::test]
async fn giving_back_lowers_only_the_named_open_epoch_and_never_below_what_is_settled() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    acquire(&rig, 1, day, 250).await.unwrap();
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 300)]).await.unwrap();
    let give = |n: u8, epoch, ceiling| {
        let holdings = vec![(day, ceiling)];
        let given = GiveBack { boot: boot(1), life: life(n), key: key.id, epoch, holdings, serial: 1 };
        let ledger = rig.ledger.clone();
        async move { ledger.give_back(&given).await }
    };
    assert!(matches!(give(2, 1, 0).await, Err(LedgerError::WrongEpoch { .. })));
    assert!(matches!(give(1, 2, 0).await, Err(LedgerError::WrongEpoch { .. })));
    let outstanding = async || rig.ledger.balance(key.id).await.unwrap()[0].outstanding;
    // Once or twice, and the older one after the newer: the lowest ceiling stands, which is what the books have.
    for (ceiling, left) in [(5_000, 700), (400, 100), (400, 100), (500, 100), (10, 0)] {
        give(1, 1, ceiling).await.unwrap();
        assert_eq!(outstanding().await, left);
    }
    let again = acquire(&rig, 1, day, 100).await.unwrap();
    assert_eq!(told(&again), (700, 0, 300), "what is settled stays granted, so that the new slice is on top of it");
    leave(&rig, 1, key, &again, 1).await.unwrap();
    assert!(matches!(give(1, 1, 0).await, Err(LedgerError::Over(_))));
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

#[tokio::test]
async fn a_lowered_limit_grants_nothing_until_it_is_reached_from_below_and_a_raised_one_the_rest() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Requests, Window::Day);
    let first = acquire(&rig, 1, day, 50).await.unwrap();
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).request_limits[0].requests = 100).await;
    let lowered = acquire(&rig, 1, day, 50).await.unwrap();
    assert_eq!((lowered.grants[0].granted, lowered.grants[0].limit, lowered.grants[0].available), (200, 100, 0));
    assert_eq!(acquire(&rig, 2, day, 1).await.unwrap().grants[0].granted, 0);
    let given = GiveBack {
        boot: boot(1),
        life: life(1),
        key: key.id,
        epoch: first.epoch,
        holdings: vec![(day, 30)],
        serial: lowered.serial,
    };
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(told(&acquire(&rig, 2, day, 100).await.unwrap()), (70, 30, 0));
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).request_limits[0].requests = 150).await;
    assert_eq!(told(&acquire(&rig, 1, day, 100).await.unwrap()), (80, 70, 0));
}

#[tokio::test]
async fn a_raised_limit_is_granted_until_its_end_and_from_then_on_the_ledger_grants_by_the_one_before() {
    let rig = Rig::new().await;
    let until = rig.clock.now().saturating_add(Duration::from_secs(60));
    let raise = Raise { dimension: Dimension::Requests, window: Window::Day, amount: 50, until };
    let key = rig.key(1, Policy { raises: [raise].into(), ..requests_per(Window::Day, 100) }).await;
    let day = rig.counter(key, Dimension::Requests, Window::Day);
    let first = acquire(&rig, 1, day, 120).await.unwrap();
    assert_eq!((first.grants[0].limit, first.grants[0].granted, first.grants[0].available), (150, 150, 0));
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].limit, 150);
    rig.clock.set(until);
    let ended = acquire(&rig, 1, day, 1).await.unwrap();
    assert_eq!((ended.grants[0].limit, ended.grants[0].granted, ended.grants[0].available), (100, 150, 0));
    assert_eq!(acquire(&rig, 2, day, 1).await.unwrap().grants[0].granted, 0, "nothing until it is given back");
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].limit, 100);
    let (boot, life, serial) = (boot(1), life(1), ended.serial);
    let holdings = vec![(day, 80)];
    rig.ledger.give_back(&GiveBack { boot, life, key: key.id, epoch: first.epoch, holdings, serial }).await.unwrap();
    assert_eq!(told(&acquire(&rig, 2, day, 100).await.unwrap()), (20, 80, 0));
}

/// A key whose days are those of `zone`.
async fn key_in_zone(rig: &Rig, n: u8, zone: &str, windows: &[Window]) -> Key {
    let limits = windows.iter().map(|window| RequestLimit { requests: 100, window: *window }).collect();
    let time_zone = Some(ZoneName::new(zone).unwrap());
    rig.key(n, Policy { request_limits: limits, time_zone, ..Policy::default() }).await
}

/// A moment of the form `2026-03-28T23:00:00Z`, to the minute.
fn at(text: &str) -> Timestamp {
    let (day, time) = text.split_once('T').unwrap();
    let [hours, minutes] = [&time[..2], &time[3..5]].map(|digits| digits.parse::<u64>().unwrap());
    let midnight = Calendar::utc().period(Window::Day, day.parse().unwrap()).start;
    midnight.saturating_add(Duration::from_mins(hours * 60 + minutes))
}

#[tokio::test]
async fn i_11_periods_begin_where_the_calendar_of_the_key_says_also_when_its_clocks_are_changed() {
    // Zone, window, first day, and the first moment of it and after it.
    let cases = [
        ("Europe/Berlin", Window::Day, "2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("Europe/Berlin", Window::Day, "2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("Europe/Berlin", Window::Week, "2026-03-23", "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("Europe/Berlin", Window::Month, "2026-10-01", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),
        // The clocks went from 24:00 to 01:00, so the day began at 01:00.
        ("America/Sao_Paulo", Window::Day, "2018-11-04", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
        ("Asia/Tokyo", Window::Day, "2026-11-23", "2026-11-22T15:00:00Z", "2026-11-23T15:00:00Z"),
        ("Asia/Tokyo", Window::Month, "2026-12-01", "2026-11-30T15:00:00Z", "2026-12-31T15:00:00Z"),
    ];
    for (zone, window, day, start, end) in cases {
        let rig = Rig::new().await;
        let key = key_in_zone(&rig, 1, zone, &[window]).await;
        let first_day = day.parse().unwrap();
        let counter = CounterId { first_day, ..rig.counter(key, Dimension::Requests, window) };
        let (start, end) = (at(start), at(end));
        let minutes = |moment: Timestamp, minutes: i64| Timestamp::from_millis(moment.millis() + minutes * 60_000);
        for (now, is_present) in [
            (minutes(start, -11), false),
            (minutes(start, -9), true),
            (start, true),
            (minutes(end, -1), true),
            (minutes(end, 9), true),
            (minutes(end, 11), false),
        ] {
            rig.clock.set(now);
            match acquire(&rig, 1, counter, 1).await {
                Ok(granted) => {
                    assert!(is_present, "{zone} {window} {day} at {}", now.rfc3339());
                    assert_eq!((granted.grants[0].period.start, granted.grants[0].period.end), (start, end));
                }
                Err(LedgerError::WrongPeriod(_)) => assert!(!is_present, "{zone} {window} {day} at {}", now.rfc3339()),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn i_11_a_request_of_the_old_month_that_settles_after_the_boundary_counts_in_the_old() {
    let rig = Rig::new().await;
    let key = key_in_zone(&rig, 1, "Asia/Tokyo", &[Window::Day, Window::Month, Window::Total]).await;
    let calendar = Calendar::of(Some(&ZoneName::new("Asia/Tokyo").unwrap()));
    // 2026-11-30 23:59 in Tokyo, which is the afternoon of that day in UTC.
    rig.clock.set(at("2026-11-30T14:59:00Z"));
    let counters = |now| {
        let day = calendar.day_at(now);
        [Window::Day, Window::Month].map(|window| CounterId {
            key: key.id,
            scope: Scope::Key,
            dimension: Dimension::Requests,
            window,
            first_day: window.first_day(day),
        })
    };
    let old = counters(rig.clock.now());
    assert_eq!(old.map(|counter| counter.first_day.to_string()), ["2026-11-30", "2026-11-01"]);
    let want = |counter| Want { counter, amount: 1 };
    let mut ask = Acquire { boot: boot(1), life: life(1), key: key.id, wants: old.map(want).to_vec() };
    rig.ledger.acquire(&ask).await.unwrap();
    let period = calendar.day_at(rig.clock.now()).number();
    let slow = RequestRecord { period, ..rig.record(key, boot(1), 1, 1, 5) };

    rig.clock.advance(Duration::from_mins(5));
    let new = counters(rig.clock.now());
    assert_eq!(new.map(|counter| counter.first_day.to_string()), ["2026-12-01", "2026-12-01"]);
    ask.wants = new.map(want).to_vec();
    let granted = rig.ledger.acquire(&ask).await.unwrap();
    assert_eq!((granted.epoch, granted.grants[1].granted, granted.grants[1].available), (1, 12, 88));
    let period = calendar.day_at(rig.clock.now()).number();
    let quick = RequestRecord { period, ..rig.record(key, boot(1), 2, 1, 5) };
    rig.ship(boot(1), &[slow.clone(), quick]).await.unwrap();
    let third = RequestRecord { node_seq: 3, ..slow };
    rig.ship(boot(1), &[third]).await.unwrap();

    let mut tx = rig.store.read().await.unwrap();
    let mut settled = Vec::new();
    for counter in old.into_iter().chain(new) {
        let sums = keyforge_control_plane::store::ledger::sums(&mut tx, &counter, None, Timestamp::from_nanos(0))
            .await
            .unwrap();
        settled.push(sums.settled);
    }
    assert_eq!(settled, [2, 2, 1, 1]);
    drop(tx);
    rig.ledger.close_boot(boot(1), 3).await.unwrap();
    // What was used in both months counts in a limit over the whole life, also when that is asked for last.
    let total = CounterId { window: Window::Total, first_day: CivilDay::default(), ..old[0] };
    assert_eq!(told(&acquire(&rig, 2, total, 100).await.unwrap()), (97, 3, 0));
    assert!(rig.faults().await.is_empty());
}
