//! Orders that are ahead of the state, sets that take one another's place, and streams that are cut.

use std::sync::mpsc;

use keyforge_shared::state::{FormerToken, KeyStatus, Standing};

use super::*;
use crate::fixture::{key, key_id, quota, workspace};

const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 16]);

fn state(revision: u64, keys: impl IntoIterator<Item = Resource>) -> State {
    let mut state = State::with_room(revision, 2);
    state.add(workspace(Vec::new(), Vec::new()));
    keys.into_iter().for_each(|key| state.add(key));
    state
}

fn at(replica: &Replica, state: State) {
    let hash = state.set_hash();
    replica.replace(DEPLOYMENT, state, hash).unwrap();
}

fn order(revision: u64, number: u8, status: KeyStatus, spent: bool) -> Order {
    Order { revision, key: key_id(number), standing: Standing { status, spent } }
}

fn status(replica: &Replica, number: u8) -> (KeyStatus, u64) {
    let key = replica.key(key_id(number)).unwrap();
    assert_eq!(replica.key_by_digest(&key.digest).as_ref(), Some(&key));
    (key.status, key.status_revision)
}

fn with_status(number: u8, status: KeyStatus, status_revision: u64) -> Resource {
    let Resource::Key(record) = key(number, quota(5)) else { panic!("not a key") };
    Resource::Key(Arc::new(KeyRecord { status, status_revision, ..(*record).clone() }))
}

#[test]
fn an_order_holds_ahead_of_the_state_also_when_an_older_snapshot_comes_after_it() {
    let replica = Replica::default();
    at(&replica, state(5, [key(1, quota(5)), key(2, quota(5))]));
    let (changes, _) = replica.carry_out(order(9, 1, KeyStatus::Revoked, false));
    assert_eq!(changes.keys.len(), 1);
    assert_eq!((status(&replica, 1), status(&replica, 2)), ((KeyStatus::Revoked, 9), (KeyStatus::Active, 0)));
    // A snapshot that was taken before the order was given, and was long on its way.
    at(&replica, state(8, [key(1, quota(5)), key(2, quota(5))]));
    assert_eq!(status(&replica, 1), (KeyStatus::Revoked, 9));
    // The state has caught up, and is right from here on.
    at(&replica, state(10, [with_status(1, KeyStatus::Active, 10), key(2, quota(5))]));
    assert_eq!(status(&replica, 1), (KeyStatus::Active, 10));
    assert!(replica.held.read().orders.is_empty());
    let (changes, _) = replica.carry_out(order(9, 1, KeyStatus::Revoked, false));
    assert!(changes.keys.is_empty(), "an order that the state contains changes nothing");
    assert_eq!(status(&replica, 1), (KeyStatus::Active, 10));
}

#[test]
fn a_key_whose_order_is_undone_changes_also_when_its_record_is_the_same_in_both_sets() {
    let paused = || [with_status(1, KeyStatus::Paused, 90), key(2, quota(5))];
    let replica = Replica::default();
    at(&replica, state(120, paused()));
    drop(replica.carry_out(order(121, 1, KeyStatus::Active, false)));
    assert_eq!(status(&replica, 1).0, KeyStatus::Active);
    let replace = |revision| {
        let state = state(revision, paused());
        let hash = state.set_hash();
        replica.replace(DEPLOYMENT, state, hash).unwrap().keys
    };
    assert!(replace(120).is_empty(), "the order is ahead of this set, too");
    let changes = replace(100);
    let statuses: Vec<_> =
        changes.iter().map(|change| [&change.before, &change.now].map(|key| key.as_ref().unwrap().status)).collect();
    assert_eq!(statuses, [[KeyStatus::Active, KeyStatus::Paused]]);
}

#[test]
fn i_13_orders_are_carried_out_over_a_set_of_a_past_that_was_undone_and_it_tells_nothing_until_it_is_replaced() {
    let replica = Replica::default();
    at(&replica, state(120, [key(1, quota(5)), key(2, quota(5))]));
    drop(replica.carry_out(order(121, 2, KeyStatus::Revoked, false)));
    let (_, _, told) = replica.numbered_position();
    assert!(replica.stands_on(100) && replica.disown(told) && !replica.stands_on(100));
    let (changes, _) = replica.carry_out(order(101, 1, KeyStatus::Revoked, false));
    assert_eq!((changes.keys.len(), status(&replica, 1)), (1, (KeyStatus::Revoked, 101)));
    // The order of the undone past does not outlive it.
    at(&replica, state(100, [key(1, quota(5)), key(2, quota(5))]));
    assert!(replica.stands_on(100));
    assert_eq!((status(&replica, 1).0, status(&replica, 2).0), (KeyStatus::Revoked, KeyStatus::Active));
    assert!(!replica.disown(told), "that set is gone already");
    let (changes, _) = replica.carry_out(order(100, 2, KeyStatus::Revoked, false));
    assert!(changes.keys.is_empty() && replica.stands_on(100));
}

#[test]
fn i_13_a_set_that_goes_back_before_the_orders_stream_is_there_undoes_the_orders_of_then() {
    let replica = Replica::default();
    at(&replica, state(118, [key(1, quota(5))]));
    drop(replica.carry_out(order(119, 1, KeyStatus::Active, false)));
    at(&replica, state(100, [with_status(1, KeyStatus::Revoked, 100)]));
    assert_eq!(status(&replica, 1).0, KeyStatus::Revoked);
}

#[test]
fn an_order_to_stop_a_key_ends_both_of_its_tokens() {
    let replica = Replica::default();
    let Resource::Key(record) = key(1, quota(5)) else { panic!("not a key") };
    let former = FormerToken { digest: TokenDigest([99; 32]), until: Some(Timestamp::MAX) };
    let rotated = KeyRecord { former: Some(Box::new(former)), ..(*record).clone() };
    at(&replica, state(5, [Resource::Key(Arc::new(rotated))]));
    drop(replica.carry_out(order(9, 1, KeyStatus::Revoked, false)));
    for digest in [record.digest, former.digest] {
        assert_eq!(replica.key_by_digest(&digest).unwrap().status, KeyStatus::Revoked);
    }
}

#[test]
fn an_order_is_carried_out_and_seen_in_the_middle_of_a_snapshot_being_compared_with_what_is_held() {
    let replica = Arc::new(Replica::default());
    at(&replica, state(5, [key(1, quota(5))]));
    let next = state(8, [key(1, quota(6))]);
    let hash = next.set_hash();
    let compare = |held: &Contents, next: &State| {
        let ordered = Arc::clone(&replica);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            drop(ordered.carry_out(order(9, 1, KeyStatus::Revoked, false)));
            tell.send(status(&ordered, 1)).unwrap();
        });
        let seen = told.recv_timeout(Duration::from_secs(20)).expect("nobody waits for the comparison");
        assert_eq!(seen, (KeyStatus::Revoked, 9));
        differences(held, next)
    };
    let changes = replica.replace_by(DEPLOYMENT, next, hash, compare).unwrap();
    let told: Vec<_> = changes.keys.into_iter().map(|change| (change.before.unwrap(), change.now.unwrap())).collect();
    let [(before, now)] = told.as_slice() else { panic!("not one change") };
    assert_eq!((before.status, now.status), (KeyStatus::Revoked, KeyStatus::Revoked), "both are as it was ordered");
    assert_eq!(now.policy.request_limits, quota(6).request_limits);
}

#[test]
fn of_two_orders_the_later_one_counts_whichever_comes_first() {
    let replica = Replica::default();
    at(&replica, state(5, [key(1, quota(5))]));
    drop(replica.carry_out(order(8, 1, KeyStatus::Active, false)));
    drop(replica.carry_out(order(7, 1, KeyStatus::Paused, false)));
    assert_eq!(status(&replica, 1).0, KeyStatus::Active);
    drop(replica.carry_out(order(9, 1, KeyStatus::Active, true)));
    let zeroed = replica.key(key_id(1)).unwrap();
    assert!(zeroed.policy.has_nothing_left() && zeroed.policy.request_limits.len() == 2, "{:?}", zeroed.policy);
    drop(replica.carry_out(order(10, 1, KeyStatus::Active, false)));
    assert_eq!(replica.key(key_id(1)).unwrap().policy.request_limits, quota(5).request_limits);
}

#[test]
fn streams_are_cut_once_and_counted_whether_the_order_or_the_state_comes_first() {
    for order_first in [true, false] {
        let replica = Replica::default();
        at(&replica, state(5, [key(1, quota(5))]));
        let streams = [replica.running.enter(key_id(1)), replica.running.enter(key_id(1))];
        let stop = order(6, 1, KeyStatus::Revoked, false);
        let next = || state(6, [with_status(1, KeyStatus::Revoked, 6)]);
        if order_first {
            assert_eq!(replica.carry_out(stop).1, 2);
            at(&replica, next());
        } else {
            at(&replica, next());
        }
        assert_eq!(replica.carry_out(stop).1, 2, "asked again");
        assert!(streams.iter().all(|stream| stream.cut().is_cancelled()));
    }
}
