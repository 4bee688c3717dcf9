//! The whole escrow against the truth: whatever goes wrong between nodes, stores and the ledger, what is granted, written off and settled stays
//! within the limits, and the books end as what was spent.

use keyforge_control_plane::store::{ledger as rows, sql};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::Window;
use proptest::prelude::*;

use crate::escrow_steps::step;
use crate::escrow_world::{KEY_DAY, KEY_REQUESTS, TEAM_DAY, TEAM_MONTH, TEAM_REQUESTS, TEAM_TOTAL, World};

/// The limit over which a counter's truth must never be, however it was lowered meanwhile.
const fn ceiling(counter: &CounterId) -> u64 {
    match (counter.scope, counter.dimension, counter.window) {
        (Scope::Key, Dimension::Requests, _) => KEY_REQUESTS,
        (Scope::Key, Dimension::Spend, _) => KEY_DAY,
        (Scope::Workspace, Dimension::Requests, _) => TEAM_REQUESTS,
        (Scope::Workspace, Dimension::Spend, Window::Month) => TEAM_MONTH,
        (Scope::Workspace, Dimension::Spend, Window::Total) => TEAM_TOTAL,
        (Scope::Workspace, Dimension::Spend, _) => TEAM_DAY,
    }
}

/// The truth of the limit that a counter is under: for a workspace's over all keys.
fn truth_of(world: &World, counter: &CounterId) -> u64 {
    let same = |other: &&CounterId| match counter.scope {
        Scope::Key => *other == counter,
        Scope::Workspace => CounterId { key: counter.key, ..**other } == *counter,
    };
    world.truth.iter().filter(|(other, _)| same(other)).map(|(_, truth)| truth).sum()
}

async fn check(world: &World) {
    let mut tx = world.rig.store.read().await.unwrap();
    for counter in world.truth.keys() {
        let (truth, limit) = (truth_of(world, counter), ceiling(counter));
        assert!(truth <= limit, "I-1: {counter:?}: {truth} of {limit}");
        let sums = rows::sums(&mut tx, counter, None, Timestamp::from_nanos(0)).await.unwrap();
        // What was admitted before a limit is in no store's counter of it, and counts once it is chained.
        let before = if counter.window == Window::Total { world.unlimited } else { 0 };
        assert!(sums.written_off() <= limit + before, "I-4: {counter:?}: {sums:?} of {limit}");
        assert!(sums.written_off() >= truth, "I-6: {counter:?}: {sums:?}, but {truth} is spent or held");
        assert!(sums.settled <= truth + before, "{counter:?}: {sums:?}, but {truth} is spent or held");
        assert!(sums.expected <= sums.outstanding, "{sums:?}");
    }
    let open = sql::query(
        "SELECT key_id, epoch FROM epochs WHERE (state = 'open') <> EXISTS \
         (SELECT 1 FROM epoch_members WHERE epoch_members.key_id = epochs.key_id AND epoch_members.epoch = epochs.epoch)",
    )
    .fetch_all(&mut tx)
    .await
    .unwrap();
    let open: Vec<(String, i64)> = open.iter().map(|row| (row.try_get(0).unwrap(), row.try_get(1).unwrap())).collect();
    assert!(open.is_empty(), "open without a member, or closed with one: {open:?}");
}

async fn finish(mut world: World) {
    let any_lost = world.end().await;
    check(&world).await;
    let mut tx = world.rig.store.read().await.unwrap();
    for counter in world.truth.keys() {
        let sums = rows::sums(&mut tx, counter, None, Timestamp::from_nanos(0)).await.unwrap();
        assert_eq!(sums.expected, 0, "{counter:?}");
        let before = if counter.window == Window::Total { world.unlimited } else { 0 };
        if !any_lost {
            assert_eq!((sums.settled, sums.outstanding), (truth_of(&world, counter) + before, 0), "I-9: {counter:?}");
        }
    }
    drop(tx);
    for (key, _) in &world.keys {
        assert_eq!(world.rig.ledger.reconcile(key.id).await.unwrap(), []);
    }
    assert_eq!(world.rig.faults().await, []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn i_1_i_4_i_6_i_9_a_workspaces_limit_holds_over_keys_lives_and_nodes_whatever_happens(
        steps in proptest::collection::vec(step(), 1..140),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
                check(&world).await;
            }
            finish(world).await;
        });
    }
}
