//! What was used before a limit counts against it, however much it is, and reading it holds nobody up.

use std::time::Duration;

use keyforge_control_plane::ledger::{Acquire, Ledger, LedgerError, Reading, Want};
use keyforge_control_plane::store::{StoreError, ledger as rows};
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::{Clock as _, Timestamp};
use keyforge_shared::id::WorkspaceId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::{Calendar, CivilDay, Window};
use keyforge_shared::policy::Policy;

use crate::rig::{Key, Rig, ask, boot, life, requests_per, spend_per};

const TEAM: WorkspaceId = WorkspaceId::from_bytes([0x7e; 16]);

/// A rig whose ledger reads one entry at a time, and four where others wait.
async fn slow_reader() -> Rig {
    let mut rig = Rig::new().await;
    let reading = Reading { page: 1, in_write: 4 };
    rig.ledger = Ledger::with_reading(rig.store.clone(), rig.clock.clone(), reading);
    rig
}

/// Ships records of the `n`th boot that cost 2 each and name no epoch.
async fn ship(rig: &Rig, key: Key, n: u8, seqs: std::ops::RangeInclusive<u64>) {
    let records: Vec<_> = seqs.map(|seq| rig.record(key, boot(n), seq, 0, 2)).collect();
    rig.ship(boot(n), &records).await.unwrap();
}

async fn is_known(rig: &Rig, counter: &CounterId) -> bool {
    rows::is_known(&mut rig.store.read().await.unwrap(), counter).await.unwrap()
}

#[tokio::test]
async fn history_that_takes_longer_to_read_than_the_asker_waits_is_read_all_the_same_and_holds_no_writer_up() {
    let rig = slow_reader().await;
    let key = rig.key(1, Policy::default()).await;
    ship(&rig, key, 1, 1..=300).await;
    rig.change(key, |record| record.policy = spend_per(Window::Total, 10_000).into()).await;
    let total = rig.counter(key, Dimension::Spend, Window::Total);
    let question = ask(1, 1, total, 10_000);
    let mut shipped = 300;
    while !is_known(&rig, &total).await {
        // Somebody asks, and gives up while entries come. Should that have been before the reading began, which nobody sees, there is another one later.
        if (shipped - 300) % 3_000 == 0 {
            tokio::select! {
                biased;
                granted = rig.ledger.acquire(&question) => panic!("{granted:?} before anything else was written"),
                () = ship(&rig, key, 1, shipped + 1..=shipped + 9) => {}
            }
            shipped += 9;
        }
        // Nobody asks any more, and entries come as before.
        shipped += 1;
        ship(&rig, key, 1, shipped..=shipped).await;
        // A reader that is slower than a writer who never rests would never come to the end.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let grant = rig.ledger.acquire(&question).await.unwrap().grants[0];
    assert_eq!((grant.granted, grant.elsewhere), (10_000u64.saturating_sub(2 * shipped), 2 * shipped));
    assert_eq!(rig.ledger.reconcile(key.id).await.unwrap(), []);
    assert_eq!(rig.faults().await, []);
}

#[tokio::test]
async fn i_4_keys_of_a_workspace_that_ask_at_once_while_entries_come_are_granted_what_history_leaves() {
    let rig = slow_reader().await;
    rig.workspace(TEAM, "team", &Policy::default()).await;
    let mut keys = Vec::new();
    for n in [1, 2, 3] {
        let key = rig.key_in(TEAM, n, Policy::default()).await;
        ship(&rig, key, n, 1..=40).await;
        keys.push(key);
    }
    rig.change_workspace(TEAM, &spend_per(Window::Month, 400)).await;
    let month = |key: Key| CounterId { scope: Scope::Workspace, ..rig.counter(key, Dimension::Spend, Window::Month) };
    let later = async {
        for seq in 41..=50 {
            ship(&rig, keys[2], 3, seq..=seq).await;
        }
    };
    let questions = [ask(1, 1, month(keys[0]), 400), ask(2, 2, month(keys[1]), 400)];
    let (first, second, ()) = tokio::join!(rig.ledger.acquire(&questions[0]), rig.ledger.acquire(&questions[1]), later);
    let grants = [first.unwrap().grants[0], second.unwrap().grants[0]];
    // 240 were used before; of what came meanwhile as much counts as was chained when the first grant was made.
    let granted: u64 = grants.iter().map(|grant| grant.granted).sum();
    assert!((140..=160).contains(&granted) && grants.iter().any(|grant| grant.granted == 0), "{grants:?}");
    let mut tx = rig.store.read().await.unwrap();
    assert_eq!(rows::sums(&mut tx, &month(keys[0]), None, Timestamp::from_nanos(0)).await.unwrap().settled, 260);
    drop(tx);
    for key in keys {
        assert_eq!(rig.ledger.reconcile(key.id).await.unwrap(), []);
    }
}

#[tokio::test]
async fn several_limits_with_long_histories_are_answered_in_one_ask() {
    let rig = slow_reader().await;
    let key = rig.key(1, Policy::default()).await;
    ship(&rig, key, 1, 1..=30).await;
    rig.change(key, |record| {
        record.policy = spend_per(Window::Day, 100).into();
        std::sync::Arc::make_mut(&mut record.policy).request_limits = requests_per(Window::Total, 100).request_limits;
    })
    .await;
    let counters = [(Dimension::Spend, Window::Day), (Dimension::Requests, Window::Total)]
        .map(|(dimension, window)| rig.counter(key, dimension, window));
    let wants = counters.map(|counter| Want { counter, amount: 100 }).to_vec();
    let granted = rig.ledger.acquire(&Acquire { boot: boot(2), life: life(1), key: key.id, wants }).await.unwrap();
    let told: Vec<_> = granted.grants.iter().map(|grant| (grant.granted, grant.elsewhere)).collect();
    assert_eq!((granted.epoch, granted.serial, told), (1, 1, vec![(40, 60), (70, 30)]));
}

#[tokio::test]
async fn i_4_removed_sums_of_usage_do_not_raise_what_a_later_limit_grants() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    ship(&rig, key, 1, 1..=30).await;
    assert_eq!(rig.tamper("DELETE FROM usage_by_day").await, 1);
    rig.change(key, |record| record.policy = spend_per(Window::Month, 100).into()).await;
    let month = rig.counter(key, Dimension::Spend, Window::Month);
    let grant = rig.ledger.acquire(&ask(1, 1, month, 100)).await.unwrap().grants[0];
    assert_eq!((grant.granted, grant.elsewhere), (40, 60));
}

#[tokio::test]
async fn reading_goes_back_to_an_hour_before_the_period_and_no_further() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let tomorrow = CivilDay::from_number(rig.today().number() + 1);
    let midnight = Calendar::utc().period(Window::Day, tomorrow).start;
    let before = |minutes: i64| Timestamp::from_millis(midnight.millis() - minutes * 60_000);
    // Nodes whose clocks are ahead, by more than an hour and by less, and one whose clock is right.
    for (seq, minutes) in [(1, 61), (2, 59), (3, 1)] {
        rig.clock.set(before(minutes));
        let ahead = RequestRecord { period: tomorrow.number(), ..rig.record(key, boot(1), seq, 0, 7) };
        let record = if seq == 3 { rig.record(key, boot(1), seq, 0, 1) } else { ahead };
        rig.ship(boot(1), &[record]).await.unwrap();
    }
    rig.clock.set(before(-1));
    rig.ship(boot(1), &[rig.record(key, boot(1), 4, 0, 20)]).await.unwrap();
    rig.change(key, |record| record.policy = spend_per(Window::Day, 100).into()).await;
    // Whoever read this would fail.
    assert_eq!(rig.tamper("UPDATE entries SET record = x'00' WHERE seq = 1 AND node_seq = 1").await, 1);
    let day = rig.counter(key, Dimension::Spend, Window::Day);
    assert_eq!(day.first_day, Calendar::utc().day_at(rig.clock.now()));
    let grant = rig.ledger.acquire(&ask(2, 1, day, 100)).await.unwrap().grants[0];
    assert_eq!((grant.granted, grant.elsewhere), (73, 27));
}

#[tokio::test]
async fn history_that_cannot_be_read_grants_nothing_and_is_told() {
    let rig = slow_reader().await;
    let key = rig.key(1, Policy::default()).await;
    ship(&rig, key, 1, 1..=30).await;
    assert_eq!(rig.tamper("UPDATE entries SET record = x'00' WHERE node_seq = 3").await, 1);
    rig.change(key, |record| record.policy = spend_per(Window::Total, 100).into()).await;
    let total = rig.counter(key, Dimension::Spend, Window::Total);
    for _ in 0..2 {
        let refused = rig.ledger.acquire(&ask(1, 1, total, 1)).await;
        let is_told = matches!(&refused, Err(LedgerError::History(error)) if matches!(**error, StoreError::Corrupt(_)));
        assert!(is_told && !is_known(&rig, &total).await, "{refused:?}");
    }
}
