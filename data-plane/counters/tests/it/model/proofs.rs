//! The protocol keeps its promises, in every state that can be reached within the bounds of each test.

use super::check::search;
use super::promises::sight::{
    ALL_SPENT, BURNT, OLD_GRANT, ORPHAN, REST_SPENT, TAKEN_BACK, TWO_LIVES, TWO_MEMBERS, TWO_SERVERS,
};
use super::protocol::Protocol;
use super::world::Budget;

/// More states than this would take longer than a test should.
const MOST: usize = 400_000;
const SMALL: Protocol = Protocol::SMALL;
const NOTHING: Budget = Budget::NOTHING;

/// Every promise holds in every state, and all of `must_see` was seen.
fn holds(protocol: Protocol, must_see: u32) {
    holds_within(protocol, must_see, MOST);
}

#[expect(clippy::print_stdout, reason = "how much was seen is part of what a proof says")]
fn holds_within(protocol: Protocol, must_see: u32, most: usize) {
    let Ok(found) = search(&protocol, most) else {
        unreachable!("more than {most} states: not all of them were visited");
    };
    println!("{} states, up to {} steps deep, sights {:b}", found.states, found.depth, found.sights);
    assert!(found.violation.is_none(), "{:#?}", found.violation);
    assert_eq!(must_see & !found.sights, 0, "the bounds are too small to show what this is about");
}

#[test]
fn i_1_two_nodes_spend_a_cap_to_the_last_unit_and_not_beyond() {
    holds(Protocol { cap: 4, requests: 3, ..SMALL }, ALL_SPENT | TWO_MEMBERS);
}

#[test]
fn i_1_requests_of_different_size_share_a_cap() {
    holds(Protocol { amounts: &[1, 2], ..SMALL }, ALL_SPENT | TWO_MEMBERS);
}

#[test]
fn i_6_lost_books_give_nothing_back() {
    holds(SMALL.with(Budget { losses: 1, timeouts: 1, ..NOTHING }), TWO_MEMBERS | OLD_GRANT);
}

#[test]
fn i_6_books_that_are_lost_twice_give_nothing_back() {
    holds(Protocol { lives: 3, cap: 4, ..SMALL }.with(Budget { losses: 2, ..NOTHING }), TWO_LIVES | ALL_SPENT);
}

#[test]
fn i_6_a_repeated_message_revives_nothing() {
    holds(SMALL.with(Budget { losses: 1, repeats: 1, ..NOTHING }), OLD_GRANT);
}

#[test]
fn i_6_a_failover_splits_the_nodes_and_not_the_cap() {
    holds(Protocol { cap: 4, ..SMALL }.with(Budget { failovers: 1, turns: 1, ..NOTHING }), TWO_SERVERS | TWO_LIVES);
}

#[test]
fn i_6_a_primary_that_returns_to_its_role_begins_new_lives() {
    holds(Protocol { lives: 3, ..SMALL }.with(Budget { failovers: 2, turns: 1, ..NOTHING }), TWO_MEMBERS);
}

#[test]
fn i_4_what_is_given_back_is_granted_once() {
    holds(SMALL.with(Budget { give_backs: 1, timeouts: 1, ..NOTHING }), TAKEN_BACK);
}

#[test]
fn i_4_a_greedy_grant_is_given_back_and_granted_to_who_joined_first() {
    let protocol = Protocol { is_greedy: true, joins_first: true, ..SMALL };
    holds(protocol.with(Budget { give_backs: 2, ..NOTHING }), TAKEN_BACK | TWO_MEMBERS);
}

#[test]
fn i_4_a_return_that_meets_a_loss_returns_nothing_twice() {
    holds(SMALL.with(Budget { give_backs: 1, losses: 1, ..NOTHING }), TAKEN_BACK | OLD_GRANT);
}

#[test]
fn i_7_who_leaves_and_joins_again_is_a_member() {
    holds(SMALL.with(Budget { retirements: 1, timeouts: 1, ..NOTHING }), TWO_MEMBERS);
}

#[test]
fn i_7_who_asks_holds_its_epoch_open() {
    holds(Protocol { slow_asks: true, ..SMALL }.with(Budget { retirements: 1, ..NOTHING }), TWO_MEMBERS);
}

#[test]
fn i_9_the_rest_of_a_life_that_ended_is_spent_again() {
    let protocol = Protocol { cap: 4, requests: 3, ships_late: true, ..SMALL };
    holds(protocol.with(Budget { retirements: 1, ..NOTHING }), REST_SPENT);
}

#[test]
fn i_9_a_lost_life_returns_its_rest_when_its_members_have_left() {
    holds(SMALL.with(Budget { losses: 1, retirements: 1, ..NOTHING }), TWO_MEMBERS | OLD_GRANT);
}

#[test]
fn i_9_a_crashed_node_returns_what_it_did_not_spend() {
    holds(Protocol { ships_late: true, ..SMALL }.with(Budget { crashes: 1, timeouts: 1, ..NOTHING }), TWO_MEMBERS);
}

#[test]
fn i_9_an_expired_reservation_is_charged_until_the_truth_arrives() {
    holds(SMALL.with(Budget { expiries: 1, timeouts: 1, ..NOTHING }), ORPHAN);
}

#[test]
fn i_9_a_node_that_never_returns_burns_no_more_than_it_was_granted() {
    holds(SMALL.with(Budget { lost_nodes: 1, timeouts: 1, ..NOTHING }), BURNT);
}

/// A boot can be a member without having heard so. Nobody else may then say that it spends nothing, so the life stays open as long as that boot.
#[test]
fn i_9_a_join_that_was_not_heard_of_keeps_its_life_open_while_the_boot_lives() {
    let protocol = SMALL.with(Budget { timeouts: 1, ..NOTHING });
    holds(protocol, TWO_MEMBERS);
    let found = search(&Protocol { boots_end: false, ..protocol }, MOST).expect("few states");
    let violation = found.violation.expect("the life stays open");
    assert!(violation.promise.starts_with("I-9"), "{}", violation.promise);
}

/// Larger bounds, for a machine with time and memory: minutes each.
#[test]
#[ignore = "takes minutes: cargo nextest run -p keyforge-counters --run-ignored all -E 'test(larger)'"]
fn larger_i_1_every_fault_of_stores_together() {
    let budget = Budget { losses: 1, failovers: 1, turns: 2, give_backs: 1, ..NOTHING };
    holds_within(Protocol { lives: 3, ..SMALL }.with(budget), TAKEN_BACK | OLD_GRANT, 40_000_000);
}

#[test]
#[ignore = "takes minutes, see above"]
fn larger_i_1_every_fault_of_nodes_together() {
    let budget = Budget { crashes: 1, retirements: 1, timeouts: 1, repeats: 1, ..NOTHING };
    holds_within(Protocol { ships_late: true, cap: 4, ..SMALL }.with(budget), TWO_MEMBERS, 40_000_000);
}

#[test]
#[ignore = "takes minutes, see above"]
fn larger_i_4_returns_among_late_and_repeated_messages() {
    let budget = Budget { give_backs: 2, timeouts: 1, repeats: 1, ..NOTHING };
    holds_within(Protocol { joins_first: true, ..SMALL }.with(budget), TAKEN_BACK, 40_000_000);
}
