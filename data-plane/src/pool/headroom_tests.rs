//! What is believed to be left of a limit, against a provider whose bucket the test keeps.

use proptest::prelude::*;

use super::*;

const WALL: Timestamp = Timestamp::from_millis(1_795_341_600_000);
const SMALL: Need = Need { input: 10, output: 0 };

fn at(millis: u64) -> Moment {
    Moment::default().plus(Duration::from_millis(millis))
}

fn window(dimension: Dimension, limit: u64, remaining: u64, full_in_ms: u64) -> Window {
    let resets_at = Some(WALL.saturating_add(Duration::from_millis(full_in_ms)));
    Window { dimension, limit, remaining, resets_at }
}

fn told(readings: &[Window]) -> Headroom {
    let mut headroom = Headroom::default();
    let sent = headroom.send(SMALL, at(0));
    headroom.answered(sent);
    headroom.told(sent, readings, at(0), WALL);
    headroom
}

#[test]
fn nothing_is_limited_before_anything_is_known() {
    let headroom = Headroom::default();
    assert_eq!(headroom.fits(Need { input: u64::MAX, output: 1 }, at(0)), Ok(()));
    assert!((headroom.ratio(at(0)) - 1.0).abs() < f64::EPSILON);
    assert_eq!(headroom.per_second(SMALL, at(0)), None);
}

#[test]
fn what_was_used_comes_back_evenly_until_the_moment_that_was_stated() {
    let headroom = told(&[window(Dimension::Requests, 100, 0, 10_000)]);
    assert!((headroom.ratio(at(5_000)) - 0.5).abs() < 1e-9);
    assert!((headroom.ratio(at(60_000)) - 1.0).abs() < 1e-9);
    // One request and a tenth, of ten a second.
    assert_eq!(headroom.fits(SMALL, at(0)), Err(at(110)));
    assert_eq!(headroom.fits(SMALL, at(111)), Ok(()));
    assert!((headroom.per_second(SMALL, at(0)).unwrap() - 10.0).abs() < 1e-9);
}

#[test]
fn what_is_on_its_way_counts_until_a_statement_must_have_counted_it() {
    let mut headroom = told(&[window(Dimension::Requests, 100, 4, 1_000_000)]);
    let first = headroom.send(SMALL, at(10));
    let _second = headroom.send(SMALL, at(20));
    assert_eq!(headroom.fits(SMALL, at(20)), Ok(()));
    let third = headroom.send(SMALL, at(30));
    assert!(headroom.fits(SMALL, at(30)).is_err(), "three on their way, four were left");
    headroom.answered(third);
    headroom.told(third, &[window(Dimension::Requests, 100, 2, 1_000_000)], at(40), WALL);
    assert_eq!(headroom.fits(SMALL, at(40)), Ok(()), "those that left before the third had arrived before it");
    // A statement made earlier arrives later, with more left.
    headroom.answered(first);
    headroom.told(first, &[window(Dimension::Requests, 100, 90, 1_000_000)], at(50), WALL);
    assert!(headroom.ratio(at(50)) < 0.03);
    assert_eq!(headroom.in_flight(), 0);
}

#[test]
fn the_tightest_limit_decides_and_a_request_larger_than_the_limit_waits_for_all_of_it() {
    let headroom = told(&[
        window(Dimension::Requests, 100, 99, 1_000),
        window(Dimension::Tokens, 1_000, 100, 9_000),
        window(Dimension::OutputTokens, 1_000, 500, 9_000),
    ]);
    assert!((headroom.ratio(at(0)) - 0.1).abs() < 1e-9);
    assert_eq!(headroom.fits(Need { input: 50, output: 50 }, at(0)), Err(at(100)));
    assert_eq!(headroom.fits(Need { input: 5_000, output: 50 }, at(0)), Err(at(9_000)));
    assert_eq!(headroom.fits(Need { input: 5_000, output: 50 }, at(9_000)), Ok(()));
}

#[test]
fn without_statements_a_refusal_teaches_a_rate_and_with_them_it_does_not() {
    let mut silent = Headroom::default();
    for tenth in 0..100 {
        let sent = silent.send(SMALL, at(tenth * 100));
        silent.answered(sent);
    }
    silent.refused(at(9_999));
    assert!(silent.fits(SMALL, at(9_999)).is_err());
    let mut stated = told(&[window(Dimension::Requests, 100, 50, 1_000)]);
    stated.refused(at(0));
    assert_eq!(stated.fits(SMALL, at(0)), Ok(()));
}

proptest! {
    /// A provider with an exact bucket, asked by this node alone: whoever waits as told is never refused, and the bucket is used to its rate.
    #[test]
    fn an_exact_bucket_is_neither_overdrawn_nor_left_unused(
        capacity in 2..50_u64,
        per_second in 1..200_u64,
        delay in 0..50_u64,
    ) {
        let (mut headroom, mut level, mut filled) = (Headroom::default(), capacity as f64, 0_u64);
        let (mut now, mut served) = (0_u64, 0_u64);
        while now < 60_000 {
            if let Err(ready) = headroom.fits(SMALL, at(now)) {
                let wait = ready.since(at(now)).as_millis();
                prop_assert!(wait < 10_000, "{wait}");
                now += u64::try_from(wait).unwrap().max(1);
                continue;
            }
            let sent = headroom.send(SMALL, at(now));
            level = (level + (now - filled) as f64 * per_second as f64 / 1_000.0).min(capacity as f64);
            filled = now;
            prop_assert!(level >= 1.0, "refused at {now}");
            level -= 1.0;
            served += 1;
            let full_in = ((capacity as f64 - level) * 1_000.0 / per_second as f64).ceil() as u64;
            now += delay;
            headroom.answered(sent);
            let stated = [window(Dimension::Requests, capacity, level.floor() as u64, full_in)];
            headroom.told(sent, &stated, at(now), WALL);
        }
        // One after another: the delay bounds it, too.
        let possible = (60 * per_second).min(60_000 / delay.max(1));
        prop_assert!(served * 10 >= possible * 7, "{served} of {possible}");
    }
}
