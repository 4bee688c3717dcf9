//! Silent nodes: what they hold stays written off, and nobody is told to wait for it.

use std::time::Duration;

use keyforge_control_plane::ledger::signs::SILENCE;
use keyforge_control_plane::ledger::{Granted, Membership};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::period::Window;

use crate::ledger::ask;
use crate::rig::{Rig, boot, spend_per};

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
