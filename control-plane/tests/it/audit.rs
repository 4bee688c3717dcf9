//! I-18 on the real store: whatever is changed in the database without the audit root key is found, and the first bad entry is named.

use keyforge_control_plane::audit::AdminAct;
use keyforge_control_plane::audit::list::{self, Order};
use keyforge_control_plane::audit::verify::Selection;
use keyforge_control_plane::ledger::{Acquire, Want};
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::audit::record::Record;
use keyforge_shared::id::{LifeId, OperatorId};
use keyforge_shared::limit::Dimension;
use keyforge_shared::period::Window;

use crate::rig::{ADMIN_CHAIN, Key, Rig, boot, spend_per};

/// Two keys with twenty entries each, and two acts of administration.
async fn filled() -> (Rig, [Key; 2]) {
    let rig = Rig::new().await;
    let keys =
        [rig.key(1, spend_per(Window::Day, 1_000_000)).await, rig.key(2, spend_per(Window::Day, 1_000_000)).await];
    for (n, key) in (1u8..).zip(keys) {
        let wants = vec![Want { counter: rig.counter(key, Dimension::Spend, Window::Day), amount: 100 }];
        let life = LifeId::from_bytes([n; 16]);
        let granted = rig.ledger.acquire(&Acquire { boot: boot(n), life, key: key.id, wants }).await.unwrap();
        let records: Vec<_> = (1..=20).map(|seq| rig.record(key, boot(n), seq, granted.epoch, 10)).collect();
        rig.ship(boot(n), &records).await.unwrap();
    }
    for target in ["vk_one", "vk_two"] {
        let mut tx = rig.store.write().await.unwrap();
        let act = AdminAct {
            operator: OperatorId::from_bytes([4; 16]),
            peer: "192.0.2.1:9".to_owned(),
            method: "keys/Revoke",
            target: target.to_owned(),
            outcome: AdminOutcome::Done,
            detail: String::new(),
        };
        rig.audit.append_admin(&mut tx, act).await.unwrap();
        tx.commit().await.unwrap();
    }
    (rig, keys)
}

#[tokio::test]
async fn untouched_chains_hold_and_each_has_a_verdict() {
    let (rig, keys) = filled().await;
    let verdicts = rig.verify(Selection::All).await;
    let mut counts: Vec<_> = verdicts.iter().map(|verdict| (verdict.key.clone(), verdict.entries)).collect();
    counts.sort();
    assert_eq!(counts, [(String::new(), 2), (keys[0].id.to_string(), 20), (keys[1].id.to_string(), 20)]);
    assert!(rig.faults().await.is_empty());
    let one = rig.verify(Selection::One(ADMIN_CHAIN)).await;
    assert_eq!((one.len(), one[0].entries), (1, 2));
}

#[tokio::test]
async fn administration_is_listed_as_it_was_done() {
    let (rig, _) = filled().await;
    let entries = list::entries(&rig.store, ADMIN_CHAIN, (Order::OldestFirst, Some(1)), 10).await.unwrap();
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    let Record::Admin(record) = &entry.record else { panic!("{entry:?}") };
    assert_eq!((entry.seq, record.method.as_str(), record.target.as_str()), (2, "keys/Revoke", "vk_two"));
}

#[tokio::test]
async fn i_18_every_change_to_what_is_stored_names_the_first_bad_entry() {
    // What is done to the database, and which entry of the first key's chain is the first bad one; 0 is its genesis.
    let cases: [(&str, u64); 22] = [
        (
            "UPDATE entries SET record = CAST(substr(record, 1, 60) || x'00' || substr(record, 62) AS BLOB) WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7",
            7,
        ),
        ("UPDATE entries SET hash = zeroblob(32) WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        ("UPDATE entries SET hash = x'00' WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        ("UPDATE entries SET t_cp = t_cp + 1 WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        ("UPDATE entries SET key_epoch = 1 WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        ("UPDATE entries SET key_epoch = -1 WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        (
            "UPDATE entries SET node_id = zeroblob(16) WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7",
            7,
        ),
        ("UPDATE entries SET boot_id = NULL WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        ("UPDATE entries SET node_seq = 99 WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        ("DELETE FROM entries WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 7),
        ("DELETE FROM entries WHERE chain_id = x'01010101010101010101010101010101' AND seq > 17", 18),
        ("DELETE FROM entries WHERE chain_id = x'01010101010101010101010101010101'", 1),
        (
            "UPDATE entries SET seq = CASE seq WHEN 7 THEN 8 ELSE 7 END WHERE chain_id = x'01010101010101010101010101010101' AND seq IN (7, 8)",
            7,
        ),
        ("UPDATE entries SET seq = -7 WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7", 0),
        (
            "INSERT INTO entries (chain_id, seq, t_cp, key_epoch, record, hash) SELECT chain_id, seq, t_cp, key_epoch, record, hash FROM entries WHERE chain_id = x'01010101010101010101010101010101' AND seq = 7",
            7,
        ),
        (
            "INSERT INTO entries (chain_id, seq, t_cp, key_epoch, record, hash) SELECT chain_id, 21, t_cp, key_epoch, record, hash FROM entries WHERE chain_id = x'01010101010101010101010101010101' AND seq = 20",
            21,
        ),
        (
            "UPDATE entries SET chain_id = x'01010101010101010101010101010101' WHERE chain_id = x'02020202020202020202020202020202' AND seq = 20",
            20,
        ),
        (
            "UPDATE chains SET genesis = zeroblob(length(genesis)) WHERE chain_id = x'01010101010101010101010101010101'",
            0,
        ),
        ("UPDATE chains SET genesis_hash = zeroblob(32) WHERE chain_id = x'01010101010101010101010101010101'", 0),
        ("UPDATE chains SET key_id = 'key000000002' WHERE chain_id = x'01010101010101010101010101010101'", 0),
        ("UPDATE chains SET head_time = head_time + 1 WHERE chain_id = x'01010101010101010101010101010101'", 20),
        (
            "UPDATE chains SET head_seq = 19, head_hash = (SELECT hash FROM entries WHERE entries.chain_id = chains.chain_id AND seq = 19) WHERE chain_id = x'01010101010101010101010101010101'",
            20,
        ),
    ];
    for (sql, bad) in cases {
        let (rig, keys) = filled().await;
        assert!(rig.tamper(sql).await > 0, "{sql}");
        let verdicts = rig.verify(Selection::One(keys[0].chain)).await;
        assert_eq!(verdicts[0].first_bad_seq, Some(bad), "{sql}: {verdicts:?}");
        assert!(!verdicts[0].fault.is_empty(), "{sql}");
        let others = rig.verify(Selection::One(ADMIN_CHAIN)).await;
        assert_eq!(others[0].first_bad_seq, None, "{sql}: {others:?}");
    }
}

#[tokio::test]
async fn i_18_chains_that_are_gone_and_entries_that_belong_nowhere_are_reported() {
    let (rig, keys) = filled().await;
    rig.tamper("DELETE FROM chains WHERE chain_id = x'01010101010101010101010101010101'").await;
    let faults = rig.faults().await;
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults.iter().all(|verdict| verdict.chain == keys[0].chain.to_string()));
    assert!(faults.iter().any(|verdict| verdict.key == keys[0].id.to_string() && verdict.first_bad_seq == Some(0)));
    assert!(faults.iter().any(|verdict| verdict.first_bad_seq == Some(1) && verdict.fault.contains("no chain")));

    let (rig, keys) = filled().await;
    rig.tamper(
        "UPDATE entries SET chain_id = zeroblob(3) WHERE chain_id = x'01010101010101010101010101010101' AND seq = 5",
    )
    .await;
    let faults = rig.faults().await;
    let named: Vec<_> = faults.iter().map(|verdict| (verdict.key.as_str(), verdict.first_bad_seq)).collect();
    assert_eq!(named, [("", Some(5)), (keys[0].id.to_string().as_str(), Some(5))], "{faults:?}");

    let (rig, _) = filled().await;
    rig.tamper("DELETE FROM chains WHERE key_id IS NULL").await;
    let faults = rig.faults().await;
    assert!(faults.iter().any(|verdict| verdict.chain == ADMIN_CHAIN.to_string() && verdict.first_bad_seq == Some(0)));

    let (rig, keys) = filled().await;
    rig.tamper("DELETE FROM grants WHERE key_id = 'key000000001'").await;
    rig.tamper("DELETE FROM epoch_members WHERE key_id = 'key000000001'").await;
    rig.tamper("DELETE FROM epochs WHERE key_id = 'key000000001'").await;
    rig.tamper("DELETE FROM virtual_keys WHERE key_id = 'key000000001'").await;
    let faults = rig.faults().await;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!((faults[0].key.as_str(), faults[0].first_bad_seq), (keys[0].id.to_string().as_str(), Some(0)));
}

#[tokio::test]
async fn i_20_a_changed_ledger_is_found_although_every_hash_holds() {
    for (sql, words) in [
        ("UPDATE grants SET settled = settled - 10 WHERE key_id = 'key000000001'", "settled 190, the entries say 200"),
        ("UPDATE grants SET settled = settled + 1 WHERE key_id = 'key000000001'", "settled 201, the entries say 200"),
        ("DELETE FROM grants WHERE key_id = 'key000000001'", "no books"),
    ] {
        let (rig, keys) = filled().await;
        rig.tamper(sql).await;
        let faults = rig.faults().await;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].fault.contains(words), "{faults:?}");
        assert_eq!((faults[0].first_bad_seq, faults[0].entries), (None, 20));
        assert!(!rig.ledger.reconcile(keys[0].id).await.unwrap().is_empty());
        assert!(rig.ledger.reconcile(keys[1].id).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn verification_sees_one_state_of_a_chain_that_grows_meanwhile() {
    let (rig, keys) = filled().await;
    let rig = std::sync::Arc::new(rig);
    let growing = {
        let (rig, key) = (rig.clone(), keys[0]);
        async move {
            for seq in 21..=60 {
                rig.ship(boot(1), &[rig.record(key, boot(1), seq, 1, 10)]).await.unwrap();
            }
        }
    };
    let verifying = async {
        for _ in 0..20 {
            let faults = rig.faults().await;
            assert!(faults.is_empty(), "{faults:?}");
        }
    };
    tokio::join!(growing, verifying);
    assert_eq!(rig.verify(Selection::One(keys[0].chain)).await[0].entries, 60);
}
