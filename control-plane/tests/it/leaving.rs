//! Leaving an epoch and giving back: only what every record is there for comes back, once, and nothing is given back over a later grant.

use keyforge_control_plane::audit::list::{self, Order};
use keyforge_control_plane::ledger::{Acquire, GiveBack, Granted, LedgerError, Membership};
use keyforge_shared::audit::record::Record;
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;

use crate::rig::{Key, NODE, Rig, acquire, ask, boot, life, spend_per, told};

/// The `n`th boot says that it used the epoch of the `n`th life for the last time.
async fn leave(rig: &Rig, n: u8, key: Key, granted: &Granted, last_seq: u64) -> Result<u64, LedgerError> {
    let membership = Membership { key: key.id, epoch: granted.epoch, serial: granted.serial };
    rig.ledger.leave(boot(n), last_seq, &[membership]).await
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
    let entries = list::entries(&rig.store, key.chain, (Order::OldestFirst, None), 10).await.unwrap();
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
