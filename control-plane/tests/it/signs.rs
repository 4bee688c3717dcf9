//! Silent nodes: what they hold stays written off, and nobody is told to wait for it.

use std::time::Duration;

use keyforge_control_plane::ledger::signs::SILENCE;
use keyforge_control_plane::ledger::{Granted, Membership};
use keyforge_control_plane::store::{nodes, sql};
use keyforge_shared::id::NodeId;
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::period::Window;

use crate::rig::{NODE, Rig, ask, boot, spend_per};

/// What the `n`th boot is granted for a life of its own: granted, elsewhere, and the part of that which is expected back.
async fn acquire(rig: &Rig, n: u8, counter: CounterId) -> (Granted, [u64; 3]) {
    let granted = rig.ledger.acquire(&ask(n, n, counter, 100)).await.unwrap();
    let grant = granted.grants[0];
    (granted, [grant.granted, grant.elsewhere, grant.unsettled])
}

#[tokio::test]
async fn i_9_nobody_waits_for_a_node_that_never_comes_back_and_its_grants_stay_written_off() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Month, 100)).await;
    let month = rig.counter(key, Dimension::Spend, Window::Month);
    let (gone, all) = acquire(&rig, 1, month).await;
    assert_eq!(all, [100, 0, 0]);
    rig.clock.advance(SILENCE);
    assert_eq!(acquire(&rig, 2, month).await.1, [0, 100, 100], "it may be starting again");
    rig.clock.advance(Duration::from_nanos(1));
    assert_eq!(acquire(&rig, 2, month).await.1, [0, 100, 0], "it is spent, as far as anybody knows");
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].outstanding, 100);
    // Whoever comes back after all is expected again, and what it did not spend is free.
    rig.ledger.hear_of(&[boot(1)]).await.unwrap();
    assert_eq!(acquire(&rig, 2, month).await.1, [0, 100, 100]);
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 1, 30)]).await.unwrap();
    let membership = Membership { key: key.id, epoch: gone.epoch, serial: gone.serial };
    assert_eq!(rig.ledger.leave(boot(1), 1, &[membership]).await.unwrap(), 1);
    assert_eq!(acquire(&rig, 2, month).await.1, [70, 30, 0]);
}

#[tokio::test]
async fn i_9_a_node_that_is_there_and_asks_for_nothing_is_expected() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Month, 100)).await;
    let month = rig.counter(key, Dimension::Spend, Window::Month);
    acquire(&rig, 1, month).await;
    for _ in 0..5 {
        rig.clock.advance(SILENCE);
        rig.ledger.hear_of(&[boot(1), boot(9)]).await.unwrap();
        assert_eq!(acquire(&rig, 2, month).await.1, [0, 100, 100]);
    }
}

#[tokio::test]
async fn a_note_of_whose_boot_it_is_goes_when_nobody_needs_it_and_the_boot_stays_its_nodes() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Month, 100)).await;
    let (shipped, closed, crashed) = (boot(1), boot(2), boot(3));
    let claim = async |boot, node| {
        let mut tx = rig.store.write().await.unwrap();
        nodes::claim_boot(&mut tx, boot, node).await.unwrap();
        tx.commit().await.unwrap();
    };
    let owner = async |boot| nodes::boot_owner(&mut rig.store.read().await.unwrap(), boot).await.unwrap();
    for boot in [shipped, closed, crashed] {
        claim(boot, NODE).await;
    }
    rig.ship(shipped, &[rig.record(key, shipped, 1, 1, 30)]).await.unwrap();
    rig.ledger.close_boot(closed, 0).await.unwrap();
    rig.ledger.hear_of(&[]).await.unwrap();
    let noted = "SELECT boot_id FROM node_boots";
    let noted = sql::query(noted).fetch_all(&mut rig.store.read().await.unwrap()).await.unwrap();
    let noted: Vec<Vec<u8>> = noted.iter().map(|row| row.try_get(0).unwrap()).collect();
    assert_eq!(noted, [crashed.as_bytes().to_vec()], "its node may still come with its records");
    let other = NodeId::from_bytes([9; 16]);
    claim(shipped, other).await;
    assert_eq!((owner(shipped).await, owner(crashed).await), (Some(NODE), Some(NODE)));
}
