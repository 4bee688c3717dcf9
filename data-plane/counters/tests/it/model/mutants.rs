//! Each rule of the protocol is needed: without it the checker finds a broken promise, and a short way to it.

use super::bugs::Bug;
use super::check::search;
use super::protocol::Protocol;
use super::world::Budget;

const SMALL: Protocol = Protocol::SMALL;
const NOTHING: Budget = Budget::NOTHING;

/// The checker finds a violation of `promise` (as its name begins) within so many steps.
#[expect(clippy::print_stdout, reason = "the trace is what a mutant is for")]
fn is_found(protocol: Protocol, promise: &str, steps: usize) {
    let Some(violation) = search(&protocol, 400_000).ok().and_then(|found| found.violation) else {
        unreachable!("{promise} is broken, and the checker did not notice");
    };
    println!("{}\n{} steps: {:#?}\n{:#?}", violation.promise, violation.trace.len(), violation.trace, violation.state);
    assert!(violation.promise.starts_with(promise), "{}", violation.promise);
    assert!(violation.trace.len() <= steps, "{} steps", violation.trace.len());
}

#[test]
fn a_ledger_that_forgets_the_old_life_is_found() {
    is_found(SMALL.without(Bug::OldLifeForgotten).with(Budget { losses: 1, ..NOTHING }), "I-4", 5);
}

#[test]
fn a_return_before_the_ceiling_is_lowered_is_found() {
    is_found(SMALL.without(Bug::ReturnedBeforeLowered).with(Budget { give_backs: 1, ..NOTHING }), "I-6", 6);
}

#[test]
fn a_boot_that_is_used_again_and_closed_with_nothing_written_is_found() {
    let protocol = Protocol { ships_late: true, ..SMALL.without(Bug::BootReused) };
    is_found(protocol.with(Budget { crashes: 1, ..NOTHING }), "I-9", 7);
}

#[test]
fn a_grant_that_is_applied_in_any_order_is_found() {
    is_found(SMALL.without(Bug::NoGrantSerial).with(Budget { give_backs: 1, ..NOTHING }), "I-6", 11);
}

#[test]
fn a_claw_back_that_leaves_older_answers_valid_is_found() {
    let protocol = Protocol { joins_first: true, ..SMALL.without(Bug::NoFloor) };
    is_found(protocol.with(Budget { give_backs: 1, ..NOTHING }), "I-6", 15);
}

#[test]
fn a_delayed_grant_that_opens_the_books_of_a_lost_life_is_found() {
    is_found(SMALL.without(Bug::NoLifeCheck).with(Budget { losses: 1, ..NOTHING }), "I-6", 10);
}

#[test]
fn a_leave_that_ends_a_later_join_is_found() {
    is_found(SMALL.without(Bug::NoMemberSerial).with(Budget { retirements: 1, ..NOTHING }), "I-6", 11);
}

#[test]
fn books_of_an_earlier_moment_that_are_used_on_are_found() {
    is_found(SMALL.without(Bug::NoFence).with(Budget { losses: 1, ..NOTHING }), "I-6", 7);
}

#[test]
fn a_fence_that_a_primary_keeps_through_a_demotion_is_found() {
    is_found(SMALL.without(Bug::FenceIsRunId).with(Budget { failovers: 2, ..NOTHING }), "I-6", 7);
}

#[test]
fn an_epoch_that_closes_before_its_records_are_chained_is_found() {
    let protocol = Protocol { ships_late: true, ..SMALL.without(Bug::ClosedUnchained) };
    is_found(protocol.with(Budget { retirements: 1, ..NOTHING }), "I-6", 8);
}

#[test]
fn a_known_reservation_that_is_admitted_again_in_any_epoch_is_found() {
    let budget = Budget { timeouts: 1, retirements: 1, ..NOTHING };
    is_found(SMALL.without(Bug::KnownBeforeEpoch).with(budget), "I-7", 8);
}

#[test]
fn a_repeated_command_that_begins_the_same_life_twice_is_found() {
    let budget = Budget { losses: 1, timeouts: 1, ..NOTHING };
    is_found(SMALL.without(Bug::LifeRepeated).with(budget), "I-6", 12);
}

#[test]
fn a_node_that_holds_its_epoch_open_only_once_admitted_is_found() {
    let protocol = Protocol { slow_asks: true, ..SMALL.without(Bug::PassAfterAdmission) };
    is_found(protocol.with(Budget { retirements: 1, ..NOTHING }), "I-6", 9);
}
