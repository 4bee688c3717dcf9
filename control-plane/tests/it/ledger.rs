//! The ledger: nobody is granted more than the limit, whatever stores, nodes and time do, and books end as the truth.

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_control_plane::ledger::{Acquire, GiveBack, Granted, LedgerError, Want};
use keyforge_control_plane::store::ledger as rows;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::{Clock as _, Timestamp};
use keyforge_shared::id::{BootId, CounterStoreId};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;
use keyforge_shared::policy::{Policy, RequestLimit, SpendLimit};
use keyforge_shared::state::KeyStatus;
use proptest::prelude::*;

use crate::rig::{Key, NODE, Rig, boot, requests_per, spend_per};

fn store(n: u8) -> CounterStoreId {
    CounterStoreId::from_bytes([n; 16])
}

fn counter(rig: &Rig, key: Key, dimension: Dimension, window: Window) -> CounterId {
    CounterId { key: key.id, dimension, window, period_start: window.period_at(rig.clock.now()).start }
}

async fn acquire(rig: &Rig, n: u8, counter: CounterId, amount: u64) -> Result<Granted, LedgerError> {
    let wants = vec![Want { counter, amount }];
    rig.ledger.acquire(&Acquire { boot: boot(n), store: store(n), key: counter.key, wants }).await
}

#[tokio::test]
async fn a_grant_is_four_needs_or_an_eighth_and_never_more_than_is_left() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 8_000)).await;
    let counter = counter(&rig, key, Dimension::Spend, Window::Day);
    let first = acquire(&rig, 1, counter, 10).await.unwrap();
    assert_eq!((first.epoch, first.grants[0].granted, first.grants[0].available), (1, 1_000, 7_000));
    let second = acquire(&rig, 2, counter, 500).await.unwrap();
    assert_eq!((second.epoch, second.grants[0].granted), (2, 2_000));
    assert_eq!((second.grants[0].elsewhere, second.grants[0].limit), (1_000, 8_000));
    let all = acquire(&rig, 1, counter, u64::MAX).await.unwrap();
    assert_eq!((all.epoch, all.grants[0].granted, all.grants[0].available), (1, 6_000, 0));
    let nothing = acquire(&rig, 2, counter, 1).await.unwrap();
    assert_eq!((nothing.grants[0].granted, nothing.grants[0].elsewhere), (2_000, 6_000));
}

#[tokio::test]
async fn only_limits_of_an_active_key_in_a_present_period_are_granted() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 100)).await;
    let day = counter(&rig, key, Dimension::Requests, Window::Day);
    let ask = |counter| acquire(&rig, 1, counter, 1);
    let other = CounterId { window: Window::Week, ..day };
    assert!(matches!(ask(other).await, Err(LedgerError::NoSuchLimit(_))));
    let other = CounterId { dimension: Dimension::Spend, ..day };
    assert!(matches!(ask(other).await, Err(LedgerError::NoSuchLimit(_))));
    for hours in [-24, 24] {
        let start = Timestamp::from_millis(day.period_start.millis() + hours * 3_600_000);
        let other = CounterId { period_start: start, ..day };
        assert!(matches!(ask(other).await, Err(LedgerError::WrongPeriod(_))), "{hours}");
    }
    let middle = CounterId { period_start: rig.clock.now(), ..day };
    assert!(matches!(ask(middle).await, Err(LedgerError::WrongPeriod(_))));
    for status in [KeyStatus::Frozen, KeyStatus::Revoked] {
        rig.change(key, |record| record.status = status).await;
        assert!(matches!(ask(day).await, Err(LedgerError::NotActive(_))), "{status:?}");
    }
    rig.change(key, |record| record.status = KeyStatus::Active).await;
    rig.change(key, |record| record.policy.expires_at = Some(rig.clock.now())).await;
    assert!(matches!(ask(day).await, Err(LedgerError::NotActive(_))));
    rig.change(key, |record| record.policy.expires_at = None).await;
    assert!(ask(day).await.is_ok());
    let stranger = keyforge_shared::id::KeyId::from_ascii(b"nobodynobody").unwrap();
    assert!(matches!(ask(CounterId { key: stranger, ..day }).await, Err(LedgerError::UnknownKey(_))));
}

#[tokio::test]
async fn the_next_period_is_staged_ten_minutes_early_and_begins_with_its_whole_limit() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 80)).await;
    let today = counter(&rig, key, Dimension::Requests, Window::Day);
    let tomorrow = CounterId { period_start: Window::Day.period_at(rig.clock.now()).end, ..today };
    acquire(&rig, 1, today, 100).await.unwrap();
    rig.clock.set(Timestamp::from_nanos(tomorrow.period_start.nanos() - 600_000_000_001));
    assert!(matches!(acquire(&rig, 1, tomorrow, 1).await, Err(LedgerError::WrongPeriod(_))));
    rig.clock.advance(Duration::from_millis(1));
    let staged = acquire(&rig, 1, tomorrow, 1).await.unwrap();
    assert_eq!((staged.grants[0].granted, staged.grants[0].available), (10, 70));
    rig.clock.set(tomorrow.period_start.saturating_add(Duration::from_mins(9)));
    assert_eq!(acquire(&rig, 1, today, 1).await.unwrap().grants[0].available, 0);
    rig.clock.advance(Duration::from_mins(2));
    assert!(matches!(acquire(&rig, 1, today, 1).await, Err(LedgerError::WrongPeriod(_))));
}

#[tokio::test]
async fn closing_waits_for_every_record_and_then_frees_what_was_not_spent() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Month, 1_000)).await;
    let month = counter(&rig, key, Dimension::Spend, Window::Month);
    acquire(&rig, 1, month, 1_000).await.unwrap();
    let records = [rig.record(key, boot(1), 1, 1, 30), rig.record(key, boot(1), 2, 1, 20)];
    rig.ship(boot(1), &records[..1]).await.unwrap();
    let early = rig.ledger.close_store(store(1), boot(1), 2).await.unwrap_err();
    assert!(matches!(early, LedgerError::NotShipped { last_seq: 2, watermark: 1 }), "{early}");
    assert_eq!(acquire(&rig, 2, month, 1).await.unwrap().grants[0].granted, 0);
    rig.ship(boot(1), &records).await.unwrap();
    assert_eq!(rig.ledger.close_store(store(1), boot(1), 2).await.unwrap(), 1);
    assert_eq!(rig.ledger.close_store(store(1), boot(1), 2).await.unwrap(), 0);
    let after = acquire(&rig, 2, month, 1_000).await.unwrap().grants[0];
    assert_eq!((after.granted, after.elsewhere, after.available), (950, 50, 0));
    assert!(matches!(acquire(&rig, 1, month, 1).await, Err(LedgerError::Over(_))));
    let balance = rig.ledger.balance(key.id).await.unwrap();
    assert_eq!((balance[0].limit, balance[0].settled, balance[0].outstanding), (1_000, 50, 950));
}

#[tokio::test]
async fn a_late_entry_of_a_closed_epoch_is_booked_and_nothing_more_is_granted_for_it() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 100)).await;
    let day = counter(&rig, key, Dimension::Spend, Window::Day);
    acquire(&rig, 1, day, 100).await.unwrap();
    rig.ledger.close_store(store(1), boot(1), 0).await.unwrap();
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 60)]).await.unwrap();
    let balance = rig.ledger.balance(key.id).await.unwrap();
    assert_eq!((balance[0].settled, balance[0].outstanding), (60, 0));
    assert_eq!(acquire(&rig, 2, day, 100).await.unwrap().grants[0].granted, 40);
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 1, 30)]).await.unwrap();
    assert_eq!(acquire(&rig, 3, day, 100).await.unwrap().grants[0].granted, 0);
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_store_belongs_to_one_boot_and_lost_records_keep_its_grants_written_off() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 100)).await;
    let day = counter(&rig, key, Dimension::Spend, Window::Day);
    acquire(&rig, 1, day, 10).await.unwrap();
    let thief = Acquire { boot: boot(2), store: store(1), key: key.id, wants: vec![Want { counter: day, amount: 1 }] };
    assert!(matches!(rig.ledger.acquire(&thief).await, Err(LedgerError::Foreign { .. })));
    assert!(matches!(rig.ledger.close_store(store(1), boot(2), 0).await, Err(LedgerError::Foreign { .. })));
    rig.audit.report_gap(&rig.store, NODE, boot(1), &[]).await.unwrap();
    assert_eq!(rig.ledger.close_store(store(1), boot(1), 0).await.unwrap(), 0);
    assert!(matches!(acquire(&rig, 1, day, 1).await, Err(LedgerError::Over(_))));
    assert_eq!(acquire(&rig, 2, day, 100).await.unwrap().grants[0].granted, 60);
    let entries = keyforge_control_plane::audit::list::entries(&rig.store, key.chain, 0, 10).await.unwrap();
    let keyforge_shared::audit::record::Record::Gap(gap) = &entries[0].record else { panic!("{entries:?}") };
    assert_eq!(gap.charged, NanoUsd::new(40));
}

#[tokio::test]
async fn i_4_a_return_that_arrives_after_a_later_grant_is_refused() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = counter(&rig, key, Dimension::Spend, Window::Day);
    let first = acquire(&rig, 1, day, 100).await.unwrap();
    let late = GiveBack {
        boot: boot(1),
        store: store(1),
        key: key.id,
        epoch: first.epoch,
        holdings: vec![(day, 0)],
        serial: first.serial,
    };
    acquire(&rig, 1, day, 100).await.unwrap();
    assert!(matches!(rig.ledger.give_back(&late).await, Err(LedgerError::Overtaken(_))));
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].outstanding, 800);
}

#[tokio::test]
async fn giving_back_lowers_only_the_own_open_epoch_and_never_below_what_is_settled() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = counter(&rig, key, Dimension::Spend, Window::Day);
    acquire(&rig, 1, day, 250).await.unwrap();
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 300)]).await.unwrap();
    let give = |n: u8, epoch, ceiling, serial| {
        let holdings = vec![(day, ceiling)];
        let given = GiveBack { boot: boot(n), store: store(n), key: key.id, epoch, holdings, serial };
        let ledger = rig.ledger.clone();
        async move { ledger.give_back(&given).await }
    };
    assert!(matches!(give(2, 1, 0, 1).await, Err(LedgerError::Foreign { .. })));
    assert!(matches!(give(1, 2, 0, 1).await, Err(LedgerError::Foreign { .. })));
    let outstanding = async || rig.ledger.balance(key.id).await.unwrap()[0].outstanding;
    give(1, 1, 5_000, 1).await.unwrap();
    assert_eq!(outstanding().await, 700);
    give(1, 1, 400, 2).await.unwrap();
    assert_eq!(outstanding().await, 100);
    give(1, 1, 10, 3).await.unwrap();
    assert_eq!(outstanding().await, 0);
    rig.ledger.close_store(store(1), boot(1), 1).await.unwrap();
    assert!(matches!(give(1, 1, 0, 4).await, Err(LedgerError::Over(_))));
}

#[tokio::test]
async fn a_limit_that_comes_later_counts_what_the_open_epoch_used_before() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    let day = counter(&rig, key, Dimension::Spend, Window::Day);
    acquire(&rig, 1, day, 100).await.unwrap();
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 70)]).await.unwrap();
    let total = SpendLimit { amount: NanoUsd::new(100), window: Window::Total };
    rig.change(key, |record| record.policy.spend_limits.push(total)).await;
    let granted = acquire(&rig, 1, counter(&rig, key, Dimension::Spend, Window::Total), 100).await.unwrap();
    assert_eq!((granted.epoch, granted.grants[0].granted), (1, 30));
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 1, 5)]).await.unwrap();
    assert!(rig.faults().await.is_empty());
}

/// A key with 1,000 per day, of which the first store was granted 500 and has shipped `used`, and then a limit of 100 in all.
async fn with_a_later_limit(rig: &Rig, used: u64) -> (Key, CounterId) {
    let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
    acquire(rig, 1, counter(rig, key, Dimension::Spend, Window::Day), 125).await.unwrap();
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, used)]).await.unwrap();
    add_total(rig, key).await;
    (key, counter(rig, key, Dimension::Spend, Window::Total))
}

async fn add_total(rig: &Rig, key: Key) {
    let total = SpendLimit { amount: NanoUsd::new(100), window: Window::Total };
    rig.change(key, |record| record.policy.spend_limits.push(total)).await;
}

#[tokio::test]
async fn i_1_i_4_a_limit_that_comes_later_is_granted_once_whatever_is_still_unshipped() {
    let rig = Rig::new().await;
    let (key, total) = with_a_later_limit(&rig, 70).await;
    let told = |granted: Granted| {
        let grant = granted.grants[0];
        (grant.granted, grant.elsewhere, grant.available)
    };
    // The store counts from nothing, so that 30 is all it may ever spend, and 70 is spent elsewhere.
    for _ in 0..3 {
        assert_eq!(told(acquire(&rig, 1, total, 100).await.unwrap()), (30, 70, 0));
        assert_eq!(told(acquire(&rig, 2, total, 100).await.unwrap()), (0, 100, 0));
    }
    let balance = async || {
        let balances = rig.ledger.balance(key.id).await.unwrap();
        let total = balances.iter().find(|balance| balance.counter == total).unwrap();
        (total.settled, total.outstanding)
    };
    assert_eq!(balance().await, (70, 30));
    // It keeps 10, and the other store can have the 20. The serial is that of its fourth answer.
    let mut given =
        GiveBack { boot: boot(1), store: store(1), key: key.id, epoch: 1, holdings: vec![(total, 10)], serial: 4 };
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(balance().await, (70, 10));
    assert_eq!(told(acquire(&rig, 2, total, 100).await.unwrap()), (20, 80, 0));
    assert_eq!(told(acquire(&rig, 1, total, 100).await.unwrap()), (10, 90, 0));
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 1, 4)]).await.unwrap();
    assert_eq!(balance().await, (74, 26));
    (given.holdings, given.serial) = (vec![(total, 4)], 6);
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(balance().await, (74, 20));
    rig.ledger.close_store(store(1), boot(1), 2).await.unwrap();
    assert_eq!(told(acquire(&rig, 2, total, 100).await.unwrap()), (26, 74, 0));
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn i_4_a_limit_that_comes_later_counts_what_every_store_used_before_whoever_asks_first() {
    for first in [1, 3, 4] {
        let rig = Rig::new().await;
        let key = rig.key(1, spend_per(Window::Day, 1_000)).await;
        let day = counter(&rig, key, Dimension::Spend, Window::Day);
        for (life, cost) in [(1, 20), (2, 30), (3, 10)] {
            assert_eq!(acquire(&rig, life, day, 25).await.unwrap().epoch, u32::from(life));
            rig.ship(boot(life), &[rig.record(key, boot(life), 1, u32::from(life), cost)]).await.unwrap();
        }
        rig.ledger.close_store(store(2), boot(2), 1).await.unwrap();
        add_total(&rig, key).await;
        let total = counter(&rig, key, Dimension::Spend, Window::Total);
        for life in [first, 1, 3, 4] {
            let (granted, elsewhere) = if life == first { (40, 60) } else { (0, 100) };
            let grant = acquire(&rig, life, total, 100).await.unwrap().grants[0];
            assert_eq!((grant.granted, grant.elsewhere, grant.available), (granted, elsewhere, 0), "{first}, {life}");
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
        let grant = acquire(&rig, 1, total, 100).await.unwrap().grants[0];
        assert_eq!((grant.granted, grant.elsewhere, grant.available), (4, 80, 0));
        let grant = acquire(&rig, 2, total, 100).await.unwrap().grants[0];
        assert_eq!((grant.granted, grant.elsewhere, grant.available), (10, 290, 0));
    }
    rig.ledger.close_store(store(1), boot(1), 3).await.unwrap();
    assert_eq!(acquire(&rig, 3, total, 1).await.unwrap().grants[0].granted, 0);
    assert!(rig.ledger.reconcile(key.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lowered_limit_grants_nothing_until_it_is_reached_from_below() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 1_000)).await;
    let day = counter(&rig, key, Dimension::Requests, Window::Day);
    acquire(&rig, 1, day, 50).await.unwrap();
    rig.change(key, |record| record.policy.request_limits[0].requests = 100).await;
    let grant = acquire(&rig, 1, day, 50).await.unwrap().grants[0];
    assert_eq!((grant.granted, grant.limit, grant.available), (200, 100, 0));
    assert_eq!(acquire(&rig, 2, day, 1).await.unwrap().grants[0].granted, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Acquire { life: usize, amount: u64 },
    Spend { life: usize, cost: u64 },
    Ship { life: usize, again: u64 },
    GiveBack { life: usize },
    Close { life: usize },
    Crash { life: usize },
    Wait { minutes: u64 },
    Limit,
}

fn step() -> impl Strategy<Value = Step> {
    let life = 0usize..3;
    prop_oneof![
        4 => (life.clone(), 1u64..600).prop_map(|(life, amount)| Step::Acquire { life, amount }),
        8 => (life.clone(), 0u64..500).prop_map(|(life, cost)| Step::Spend { life, cost }),
        3 => (life.clone(), 0u64..5).prop_map(|(life, again)| Step::Ship { life, again }),
        2 => life.clone().prop_map(|life| Step::GiveBack { life }),
        2 => life.clone().prop_map(|life| Step::Close { life }),
        1 => life.prop_map(|life| Step::Crash { life }),
        1 => (1u64..1_000).prop_map(|minutes| Step::Wait { minutes }),
        3 => Just(Step::Limit),
    ]
}

/// A counter store and its node's spool, as an honest node keeps them.
struct Life {
    boot: BootId,
    store: CounterStoreId,
    epoch: u32,
    serial: u64,
    ceilings: BTreeMap<CounterId, u64>,
    used: BTreeMap<CounterId, u64>,
    records: Vec<RequestRecord>,
}

struct World {
    rig: Rig,
    key: Key,
    policy: Policy,
    lives: Vec<Life>,
    crashed: Vec<Life>,
    truth: BTreeMap<CounterId, u64>,
    /// What was spent before the limit in all came, and what of it was chained by then.
    unlimited: u64,
    chained_then: Option<u64>,
    born: u8,
}

const DAY: u64 = 6_000;
const MONTH: u64 = 15_000;
/// Comes in mid-life.
const TOTAL: u64 = 1_000;

impl World {
    async fn new() -> Self {
        let policy = Policy {
            request_limits: vec![RequestLimit { requests: 40, window: Window::Day }],
            spend_limits: vec![
                SpendLimit { amount: NanoUsd::new(DAY), window: Window::Day },
                SpendLimit { amount: NanoUsd::new(MONTH), window: Window::Month },
            ],
            ..Policy::default()
        };
        let rig = Rig::new().await;
        let key = rig.key(1, policy.clone()).await;
        let mut world = Self {
            rig,
            key,
            policy,
            lives: Vec::new(),
            crashed: Vec::new(),
            truth: BTreeMap::new(),
            unlimited: 0,
            chained_then: None,
            born: 0,
        };
        for _ in 0..3 {
            let life = world.birth();
            world.lives.push(life);
        }
        world
    }

    fn birth(&mut self) -> Life {
        self.born += 1;
        Life {
            boot: boot(self.born),
            store: store(self.born),
            epoch: 0,
            serial: 0,
            ceilings: BTreeMap::new(),
            used: BTreeMap::new(),
            records: Vec::new(),
        }
    }

    fn counters(&self) -> Vec<(CounterId, u64)> {
        keyforge_shared::limit::touched(self.key.id, &self.policy, self.rig.clock.now())
            .map(|touched| (touched.counter, touched.limit))
            .collect()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { life, amount } => self.acquire(life, amount).await,
            Step::Spend { life, cost } => self.spend(life, cost),
            Step::Ship { life, again } => {
                let life = &self.lives[life];
                ship(&self.rig, life, again).await;
            }
            Step::GiveBack { life } => self.give_back(life).await,
            Step::Close { life } => self.close(life).await,
            Step::Crash { life } => {
                let next = self.birth();
                let dead = std::mem::replace(&mut self.lives[life], next);
                self.crashed.push(dead);
            }
            Step::Wait { minutes } => self.rig.clock.advance(Duration::from_mins(minutes)),
            Step::Limit => self.limit().await,
        }
        self.check().await;
    }

    async fn limit(&mut self) {
        if self.chained_then.is_some() {
            return;
        }
        let mut tx = self.rig.store.read().await.unwrap();
        let mut chained = 0;
        for month in self.truth.keys().filter(|counter| counter.window == Window::Month) {
            chained += rows::sums(&mut tx, month, 0).await.unwrap().settled;
        }
        self.chained_then = Some(chained);
        self.policy.spend_limits.push(SpendLimit { amount: NanoUsd::new(TOTAL), window: Window::Total });
        self.rig.change(self.key, |record| record.policy = self.policy.clone()).await;
    }

    async fn acquire(&mut self, life: usize, amount: u64) {
        let need = |counter: &CounterId| if counter.dimension == Dimension::Spend { amount } else { 1 };
        let wants =
            self.counters().iter().map(|(counter, _)| Want { counter: *counter, amount: need(counter) }).collect();
        let life = &mut self.lives[life];
        let ask = Acquire { boot: life.boot, store: life.store, key: self.key.id, wants };
        let granted = self.rig.ledger.acquire(&ask).await.unwrap();
        assert!(life.epoch == 0 || life.epoch == granted.epoch);
        life.epoch = granted.epoch;
        life.serial = granted.serial;
        for grant in granted.grants {
            assert!(life.ceilings.get(&grant.counter).is_none_or(|before| *before <= grant.granted));
            life.ceilings.insert(grant.counter, grant.granted);
        }
    }

    fn spend(&mut self, life: usize, cost: u64) {
        let counters = self.counters();
        let life = &mut self.lives[life];
        let amount = |counter: &CounterId| if counter.dimension == Dimension::Spend { cost } else { 1 };
        let fits = counters.iter().all(|(counter, _)| {
            let used = life.used.get(counter).copied().unwrap_or(0);
            life.ceilings.get(counter).is_some_and(|ceiling| used + amount(counter) <= *ceiling)
        });
        if !fits {
            return;
        }
        if self.chained_then.is_none() {
            self.unlimited += cost;
        }
        for (counter, _) in &counters {
            *life.used.entry(*counter).or_default() += amount(counter);
            *self.truth.entry(*counter).or_default() += amount(counter);
        }
        let seq = life.records.len() as u64 + 1;
        life.records.push(self.rig.record(self.key, life.boot, seq, life.epoch, cost));
    }

    async fn give_back(&mut self, life: usize) {
        let life = &mut self.lives[life];
        if life.epoch == 0 {
            return;
        }
        for (counter, ceiling) in &mut life.ceilings {
            *ceiling = life.used.get(counter).copied().unwrap_or(0);
        }
        let holdings = life.ceilings.iter().map(|(counter, ceiling)| (*counter, *ceiling)).collect();
        let (epoch, serial) = (life.epoch, life.serial);
        let given = GiveBack { boot: life.boot, store: life.store, key: self.key.id, epoch, holdings, serial };
        self.rig.ledger.give_back(&given).await.unwrap();
        life.serial += 1;
    }

    async fn close(&mut self, life: usize) {
        let dead = &self.lives[life];
        let chained = self.chained(dead.boot).await;
        let closed = self.rig.ledger.close_store(dead.store, dead.boot, dead.records.len() as u64).await;
        if chained < dead.records.len() as u64 {
            assert!(matches!(closed, Err(LedgerError::NotShipped { .. })), "{closed:?}");
        } else {
            assert_eq!(closed.unwrap(), u64::from(dead.epoch > 0));
            let next = self.birth();
            self.lives[life] = next;
        }
    }

    async fn chained(&self, boot: BootId) -> u64 {
        let mut tx = self.rig.store.read().await.unwrap();
        let known = keyforge_control_plane::store::boots::get(&mut tx, boot).await.unwrap();
        known.map_or(0, |known| known.watermark)
    }

    async fn check(&self) {
        let mut tx = self.rig.store.read().await.unwrap();
        for (counter, truth) in &self.truth {
            let limit = match (counter.dimension, counter.window) {
                (Dimension::Requests, _) => 40,
                // The store's own counter begins with the limit; what was chained before is spent for it all the same.
                (Dimension::Spend, Window::Total) => TOTAL.saturating_sub(self.chained_then.unwrap_or(0)),
                (Dimension::Spend, Window::Month) => MONTH,
                (Dimension::Spend, _) => DAY,
            };
            assert!(*truth <= limit, "I-1: {counter:?}: {truth} of {limit}");
            if counter.window == Window::Total {
                let sums = rows::sums(&mut tx, counter, 0).await.unwrap();
                let (chained, all) = (self.chained_then.unwrap_or(0), self.unlimited + truth);
                assert!(sums.written_off() <= TOTAL.max(self.unlimited) + self.unlimited - chained, "I-4: {sums:?}");
                assert!(sums.settled <= all, "{sums:?}, but {all} was spent");
                assert!(sums.written_off() >= chained + truth, "{sums:?}, but {chained} and {truth} were spent");
                continue;
            }
            let sums = rows::sums(&mut tx, counter, 0).await.unwrap();
            assert!(sums.written_off() <= limit, "I-4: {counter:?}: {sums:?} of {limit}");
            assert!(sums.settled <= *truth, "{counter:?}: {sums:?}, but {truth} was spent");
            assert!(sums.written_off() >= *truth, "{counter:?}: {sums:?}, but {truth} was spent");
        }
    }

    async fn finish(mut self) {
        let lives: Vec<_> = self.lives.drain(..).chain(self.crashed.drain(..)).collect();
        for life in &lives {
            ship(&self.rig, life, 0).await;
            self.rig.ledger.close_store(life.store, life.boot, life.records.len() as u64).await.unwrap();
        }
        self.check().await;
        let mut tx = self.rig.store.read().await.unwrap();
        for (counter, truth) in &self.truth {
            let sums = rows::sums(&mut tx, counter, 0).await.unwrap();
            assert_eq!(sums.outstanding, 0, "{counter:?}");
            if counter.window != Window::Total {
                assert_eq!(sums.settled, *truth, "{counter:?}");
            }
        }
        drop(tx);
        assert!(self.rig.ledger.reconcile(self.key.id).await.unwrap().is_empty());
        assert!(self.rig.faults().await.is_empty());
    }
}

async fn ship(rig: &Rig, life: &Life, again: u64) {
    let mut tx = rig.store.read().await.unwrap();
    let known = keyforge_control_plane::store::boots::get(&mut tx, life.boot).await.unwrap();
    drop(tx);
    let from = usize::try_from(known.map_or(0, |known| known.watermark).saturating_sub(again)).unwrap();
    let records = life.records[from..].iter().map(RequestRecord::encode).collect();
    rig.intake.ship(NODE, life.boot, from as u64 + 1, records).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn i_4_no_sequence_of_grants_crashes_and_closings_gives_more_than_the_limit(steps in proptest::collection::vec(step(), 1..70)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
            }
            world.finish().await;
        });
    }
}
