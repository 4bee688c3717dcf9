//! After a backup was restored: what the restored database cannot chain is passed over and told of, and holds up nothing else.

use keyforge_control_plane::audit::intake::{IntakeError, Taken};
use keyforge_control_plane::audit::list::{self, Order};
use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::audit::unchained::UnchainedRecord;
use keyforge_shared::id::ChainId;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::policy::Policy;
use sha2::{Digest as _, Sha256};

use crate::rig::{ADMIN_CHAIN, Key, NODE, Rig, boot};

/// A key that was made after the backup: nothing here knows its chain.
fn newer(key: Key) -> Key {
    Key { chain: ChainId::from_bytes([0x99; 16]), ..key }
}

/// Five records, of which the second and the third are of a newer key.
fn mixed(rig: &Rig, key: Key) -> Vec<RequestRecord> {
    let of = |seq| if matches!(seq, 2 | 3) { newer(key) } else { key };
    (1..=5).map(|seq| rig.record(of(seq), boot(1), seq, 0, 10 + seq)).collect()
}

async fn told(rig: &Rig) -> Vec<UnchainedRecord> {
    let entries = list::entries(&rig.store, ADMIN_CHAIN, (Order::OldestFirst, None), 500).await.unwrap();
    let told = entries.into_iter().filter_map(|entry| match entry.record {
        Record::Unchained(record) => Some(record),
        Record::Request(_) | Record::Admin(_) | Record::Gap(_) => None,
    });
    told.collect()
}

async fn chained(rig: &Rig, key: Key) -> Vec<u64> {
    let entries = list::entries(&rig.store, key.chain, (Order::OldestFirst, None), 500).await.unwrap();
    let numbers = entries.into_iter().filter_map(|entry| match entry.record {
        Record::Request(record) => Some(record.node_seq),
        Record::Admin(_) | Record::Gap(_) | Record::Unchained(_) => None,
    });
    numbers.collect()
}

async fn assert_no_fault(rig: &Rig) {
    let faults = rig.faults().await;
    assert!(faults.is_empty(), "{faults:?}");
}

#[tokio::test]
async fn i_17_records_of_a_key_that_a_backup_lacks_are_told_of_and_hold_up_no_others() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let records = mixed(&rig, key);
    let taken = rig.ship_taken(boot(1), &records, false).await.unwrap();
    assert_eq!(taken, Taken { watermark: 5, unchained: 2, lost: 0 });
    assert_eq!(chained(&rig, key).await, [1, 4, 5]);

    let told = told(&rig).await;
    assert_eq!(told.len(), 1, "one entry for a batch");
    assert_eq!(
        (told[0].subject.node, told[0].subject.boot, told[0].lost_from, told[0].lost_through),
        (NODE, boot(1), 0, 0)
    );
    for (one, record) in told[0].records.iter().zip(&records[1..3]) {
        assert_eq!((one.node_seq, one.chain, one.request), (record.node_seq, newer(key).chain, record.request));
        assert_eq!((one.cost, one.digest), (record.cost, Sha256::digest(record.encode()).into()));
    }
    assert_no_fault(&rig).await;
}

#[tokio::test]
async fn i_17_what_was_passed_over_is_told_of_once_however_often_it_is_shipped() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let records = mixed(&rig, key);
    for range in [0..2, 0..5, 1..3, 2..5, 0..5] {
        rig.ship(boot(1), &records[range]).await.unwrap();
    }
    let told = told(&rig).await;
    assert_eq!(told.iter().map(|one| one.records.len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(chained(&rig, key).await, [1, 4, 5]);

    let mut rewritten = records.clone();
    rewritten[2].cost = NanoUsd::new(1);
    let error = rig.ship(boot(1), &rewritten).await.unwrap_err();
    assert!(matches!(error, IntakeError::Rewritten { seq: 3 }), "{error}");
    // Nor does it become another key's afterwards.
    rewritten[2] = rig.record(key, boot(1), 3, 0, 13);
    let error = rig.ship(boot(1), &rewritten).await.unwrap_err();
    assert!(matches!(error, IntakeError::Rewritten { seq: 3 }), "{error}");
    assert_no_fault(&rig).await;
}

#[tokio::test]
async fn a_life_that_ships_nothing_that_can_be_chained_goes_on_as_well() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let mut records: Vec<_> = (1..=1_200).map(|seq| rig.record(newer(key), boot(1), seq, 0, 1)).collect();
    // One that names the administrators' own chain is none of theirs.
    records[0].chain = ADMIN_CHAIN;
    let mut watermark = 0;
    let mut batches = Vec::new();
    while watermark < 1_200 {
        let taken = rig.ship_taken(boot(1), &records[watermark..], false).await.unwrap();
        batches.push(taken.unchained);
        watermark = usize::try_from(taken.watermark).unwrap();
    }
    assert_eq!(batches, [500, 500, 200], "an entry names so many at most");
    assert_eq!(rig.ship(boot(1), &[rig.record(key, boot(1), 1_201, 0, 1)]).await.unwrap(), 1_201);
    assert_eq!(rig.ship(boot(1), &records).await.unwrap(), 1_201);
    assert_eq!(told(&rig).await.len(), 3);
    assert_no_fault(&rig).await;
}

#[tokio::test]
async fn what_is_gone_on_both_sides_is_told_of_only_when_its_node_says_so() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let records: Vec<_> = (1..=9).map(|seq| rig.record(key, boot(1), seq, 0, 1)).collect();
    rig.ship(boot(1), &records[..2]).await.unwrap();
    let error = rig.ship_taken(boot(1), &records[6..], false).await.unwrap_err();
    assert!(matches!(error, IntakeError::Sequence { first: 7, due: 3 }), "{error}");
    assert!(told(&rig).await.is_empty());
    for lost in [4, 0] {
        let taken = rig.ship_taken(boot(1), &records[6..], true).await.unwrap();
        assert_eq!(taken, Taken { watermark: 9, unchained: 0, lost });
    }
    assert_eq!(chained(&rig, key).await, [1, 2, 7, 8, 9]);
    let told = told(&rig).await;
    assert_eq!((told.len(), told[0].lost_from, told[0].lost_through), (1, 3, 6));
    // They turned up after all: too late to be chained, but no reason to stop.
    assert_eq!(rig.ship(boot(1), &records).await.unwrap(), 9);
    assert_no_fault(&rig).await;
}

#[tokio::test]
async fn i_18_stocktaking_misses_what_is_neither_chained_nor_told_of() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let mut records = mixed(&rig, key);
    rig.ship(boot(1), &records).await.unwrap();
    records.extend((9..=12).map(|seq| rig.record(key, boot(1), seq, 0, 1)));
    rig.ship_taken(boot(1), &records[5..], true).await.unwrap();
    assert_no_fault(&rig).await;
    rig.tamper("UPDATE boots SET watermark = 13").await;
    let fault = rig.faults().await.remove(0).fault;
    assert!(fault.contains("only 12 are chained"), "{fault}");
    rig.tamper("UPDATE boots SET watermark = 12").await;
    assert_no_fault(&rig).await;
    // The boot that the entry is about is not what its record says.
    rig.tamper("UPDATE entries SET boot_id = NULL WHERE node_seq IS NULL AND seq = 1").await;
    let faults = rig.faults().await;
    assert_eq!(faults[0].first_bad_seq, Some(1), "{faults:?}");
    assert!(faults.iter().any(|verdict| verdict.fault.contains("number 2 is not chained")), "{faults:?}");
}
