//! Grants of the ledger: nobody is granted more than the limit, and each in its own period, whatever changes and whichever calendar the key has.

use std::time::Duration;

use keyforge_control_plane::ledger::{Acquire, GiveBack, LedgerError, Want};
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::{Clock as _, Timestamp};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::{Calendar, CivilDay, Window, ZoneName};
use keyforge_shared::policy::{Policy, Raise, RequestLimit};
use keyforge_shared::state::KeyStatus;

use crate::rig::{Key, Rig, acquire, boot, life, requests_per, spend_per, told};

#[tokio::test]
async fn a_grant_is_four_needs_or_an_eighth_and_never_more_than_is_left() {
    let rig = Rig::new().await;
    let key = rig.key(1, spend_per(Window::Day, 8_000)).await;
    let counter = rig.counter(key, Dimension::Spend, Window::Day);
    let first = acquire(&rig, 1, counter, 10).await.unwrap();
    assert_eq!((first.epoch, first.grants[0].granted, first.grants[0].available), (1, 1_000, 7_000));
    assert_eq!(first.grants[0].period, Calendar::utc().period(Window::Day, counter.first_day));
    let second = acquire(&rig, 2, counter, 500).await.unwrap();
    assert_eq!((second.epoch, second.grants[0].granted, second.grants[0].limit), (2, 2_000, 8_000));
    assert_eq!((second.grants[0].elsewhere, second.grants[0].unsettled), (1_000, 1_000));
    let all = acquire(&rig, 1, counter, u64::MAX).await.unwrap();
    assert_eq!((all.epoch, all.grants[0].granted, all.grants[0].available), (1, 6_000, 0));
    let nothing = acquire(&rig, 2, counter, 1).await.unwrap();
    assert_eq!((nothing.grants[0].granted, nothing.grants[0].elsewhere), (2_000, 6_000));
    assert_eq!(nothing.holders, [], "what other lives of the same key hold is not theirs to ask back");
}

#[tokio::test]
async fn only_limits_of_an_active_key_in_a_present_period_are_granted() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 100)).await;
    let day = rig.counter(key, Dimension::Requests, Window::Day);
    let ask = |counter| acquire(&rig, 1, counter, 1);
    for other in [
        CounterId { window: Window::Total, first_day: CivilDay::default(), ..day },
        CounterId { dimension: Dimension::Spend, ..day },
        CounterId { scope: Scope::Workspace, ..day },
    ] {
        assert!(matches!(ask(other).await, Err(LedgerError::NoSuchLimit(_))), "{other:?}");
    }
    for days in [-1, 1] {
        let other = CivilDay::from_number(day.first_day.number().checked_add_signed(days).unwrap());
        let other = CounterId { first_day: other, ..day };
        assert!(matches!(ask(other).await, Err(LedgerError::WrongPeriod(_))), "{days}");
    }
    for status in [KeyStatus::Paused, KeyStatus::Revoked] {
        rig.change(key, |record| record.status = status).await;
        assert!(matches!(ask(day).await, Err(LedgerError::NotActive(_))), "{status:?}");
    }
    rig.change(key, |record| record.status = KeyStatus::Active).await;
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).expires_at = Some(rig.clock.now())).await;
    assert!(matches!(ask(day).await, Err(LedgerError::NotActive(_))));
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).expires_at = None).await;
    let granted = ask(day).await.unwrap();
    assert_eq!((granted.epoch, granted.serial), (1, 1), "what was refused left nothing behind");
    let stranger = keyforge_shared::id::KeyId::from_ascii(b"nobodynobody").unwrap();
    assert!(matches!(ask(CounterId { key: stranger, ..day }).await, Err(LedgerError::UnknownKey(_))));
}

#[tokio::test]
async fn the_next_period_is_staged_ten_minutes_early_and_begins_with_its_whole_limit() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 80)).await;
    let today = rig.counter(key, Dimension::Requests, Window::Day);
    let tomorrow = CounterId { first_day: CivilDay::from_number(today.first_day.number() + 1), ..today };
    let midnight = Calendar::utc().period(Window::Day, tomorrow.first_day).start;
    acquire(&rig, 1, today, 100).await.unwrap();
    rig.clock.set(Timestamp::from_nanos(midnight.nanos() - 600_000_000_001));
    assert!(matches!(acquire(&rig, 1, tomorrow, 1).await, Err(LedgerError::WrongPeriod(_))));
    rig.clock.advance(Duration::from_millis(1));
    let staged = acquire(&rig, 1, tomorrow, 1).await.unwrap();
    assert_eq!((staged.grants[0].granted, staged.grants[0].available), (10, 70));
    assert_eq!(staged.grants[0].period.start, midnight);
    rig.clock.set(midnight.saturating_add(Duration::from_mins(9)));
    assert_eq!(acquire(&rig, 1, today, 1).await.unwrap().grants[0].available, 0);
    rig.clock.advance(Duration::from_mins(2));
    assert!(matches!(acquire(&rig, 1, today, 1).await, Err(LedgerError::WrongPeriod(_))));
}

#[tokio::test]
async fn a_lowered_limit_grants_nothing_until_it_is_reached_from_below_and_a_raised_one_the_rest() {
    let rig = Rig::new().await;
    let key = rig.key(1, requests_per(Window::Day, 1_000)).await;
    let day = rig.counter(key, Dimension::Requests, Window::Day);
    let first = acquire(&rig, 1, day, 50).await.unwrap();
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).request_limits[0].requests = 100).await;
    let lowered = acquire(&rig, 1, day, 50).await.unwrap();
    assert_eq!((lowered.grants[0].granted, lowered.grants[0].limit, lowered.grants[0].available), (200, 100, 0));
    assert_eq!(acquire(&rig, 2, day, 1).await.unwrap().grants[0].granted, 0);
    let given = GiveBack {
        boot: boot(1),
        life: life(1),
        key: key.id,
        epoch: first.epoch,
        holdings: vec![(day, 30)],
        serial: lowered.serial,
    };
    rig.ledger.give_back(&given).await.unwrap();
    assert_eq!(told(&acquire(&rig, 2, day, 100).await.unwrap()), (70, 30, 0));
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).request_limits[0].requests = 150).await;
    assert_eq!(told(&acquire(&rig, 1, day, 100).await.unwrap()), (80, 70, 0));
}

#[tokio::test]
async fn a_raised_limit_is_granted_until_its_end_and_from_then_on_the_ledger_grants_by_the_one_before() {
    let rig = Rig::new().await;
    let until = rig.clock.now().saturating_add(Duration::from_secs(60));
    let raise = Raise { dimension: Dimension::Requests, window: Window::Day, amount: 50, until };
    let key = rig.key(1, Policy { raises: [raise].into(), ..requests_per(Window::Day, 100) }).await;
    let day = rig.counter(key, Dimension::Requests, Window::Day);
    let first = acquire(&rig, 1, day, 120).await.unwrap();
    assert_eq!((first.grants[0].limit, first.grants[0].granted, first.grants[0].available), (150, 150, 0));
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].limit, 150);
    rig.clock.set(until);
    let ended = acquire(&rig, 1, day, 1).await.unwrap();
    assert_eq!((ended.grants[0].limit, ended.grants[0].granted, ended.grants[0].available), (100, 150, 0));
    assert_eq!(acquire(&rig, 2, day, 1).await.unwrap().grants[0].granted, 0, "nothing until it is given back");
    assert_eq!(rig.ledger.balance(key.id).await.unwrap()[0].limit, 100);
    let (boot, life, serial) = (boot(1), life(1), ended.serial);
    let holdings = vec![(day, 80)];
    rig.ledger.give_back(&GiveBack { boot, life, key: key.id, epoch: first.epoch, holdings, serial }).await.unwrap();
    assert_eq!(told(&acquire(&rig, 2, day, 100).await.unwrap()), (20, 80, 0));
}

/// A key whose days are those of `zone`.
async fn key_in_zone(rig: &Rig, n: u8, zone: &str, windows: &[Window]) -> Key {
    let limits = windows.iter().map(|window| RequestLimit { requests: 100, window: *window }).collect();
    let time_zone = Some(ZoneName::new(zone).unwrap());
    rig.key(n, Policy { request_limits: limits, time_zone, ..Policy::default() }).await
}

/// A moment of the form `2026-03-28T23:00:00Z`, to the minute.
fn at(text: &str) -> Timestamp {
    let (day, time) = text.split_once('T').unwrap();
    let [hours, minutes] = [&time[..2], &time[3..5]].map(|digits| digits.parse::<u64>().unwrap());
    let midnight = Calendar::utc().period(Window::Day, day.parse().unwrap()).start;
    midnight.saturating_add(Duration::from_mins(hours * 60 + minutes))
}

#[tokio::test]
async fn i_11_periods_begin_where_the_calendar_of_the_key_says_also_when_its_clocks_are_changed() {
    // Zone, window, first day, and the first moment of it and after it.
    let cases = [
        ("Europe/Berlin", Window::Day, "2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("Europe/Berlin", Window::Day, "2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("Europe/Berlin", Window::Week, "2026-03-23", "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("Europe/Berlin", Window::Month, "2026-10-01", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),
        // The clocks went from 24:00 to 01:00, so the day began at 01:00.
        ("America/Sao_Paulo", Window::Day, "2018-11-04", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
        ("Asia/Tokyo", Window::Day, "2026-11-23", "2026-11-22T15:00:00Z", "2026-11-23T15:00:00Z"),
        ("Asia/Tokyo", Window::Month, "2026-12-01", "2026-11-30T15:00:00Z", "2026-12-31T15:00:00Z"),
    ];
    for (zone, window, day, start, end) in cases {
        let rig = Rig::new().await;
        let key = key_in_zone(&rig, 1, zone, &[window]).await;
        let first_day = day.parse().unwrap();
        let counter = CounterId { first_day, ..rig.counter(key, Dimension::Requests, window) };
        let (start, end) = (at(start), at(end));
        let minutes = |moment: Timestamp, minutes: i64| Timestamp::from_millis(moment.millis() + minutes * 60_000);
        for (now, is_present) in [
            (minutes(start, -11), false),
            (minutes(start, -9), true),
            (start, true),
            (minutes(end, -1), true),
            (minutes(end, 9), true),
            (minutes(end, 11), false),
        ] {
            rig.clock.set(now);
            match acquire(&rig, 1, counter, 1).await {
                Ok(granted) => {
                    assert!(is_present, "{zone} {window} {day} at {}", now.rfc3339());
                    assert_eq!((granted.grants[0].period.start, granted.grants[0].period.end), (start, end));
                }
                Err(LedgerError::WrongPeriod(_)) => assert!(!is_present, "{zone} {window} {day} at {}", now.rfc3339()),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn i_11_a_request_of_the_old_month_that_settles_after_the_boundary_counts_in_the_old() {
    let rig = Rig::new().await;
    let key = key_in_zone(&rig, 1, "Asia/Tokyo", &[Window::Day, Window::Month, Window::Total]).await;
    let calendar = Calendar::of(Some(&ZoneName::new("Asia/Tokyo").unwrap()));
    // 2026-11-30 23:59 in Tokyo, which is the afternoon of that day in UTC.
    rig.clock.set(at("2026-11-30T14:59:00Z"));
    let counters = |now| {
        let day = calendar.day_at(now);
        [Window::Day, Window::Month].map(|window| CounterId {
            key: key.id,
            scope: Scope::Key,
            dimension: Dimension::Requests,
            window,
            first_day: window.first_day(day),
        })
    };
    let old = counters(rig.clock.now());
    assert_eq!(old.map(|counter| counter.first_day.to_string()), ["2026-11-30", "2026-11-01"]);
    let want = |counter| Want { counter, amount: 1 };
    let mut ask = Acquire { boot: boot(1), life: life(1), key: key.id, wants: old.map(want).to_vec() };
    rig.ledger.acquire(&ask).await.unwrap();
    let period = calendar.day_at(rig.clock.now()).number();
    let slow = RequestRecord { period, ..rig.record(key, boot(1), 1, 1, 5) };

    rig.clock.advance(Duration::from_mins(5));
    let new = counters(rig.clock.now());
    assert_eq!(new.map(|counter| counter.first_day.to_string()), ["2026-12-01", "2026-12-01"]);
    ask.wants = new.map(want).to_vec();
    let granted = rig.ledger.acquire(&ask).await.unwrap();
    assert_eq!((granted.epoch, granted.grants[1].granted, granted.grants[1].available), (1, 12, 88));
    let period = calendar.day_at(rig.clock.now()).number();
    let quick = RequestRecord { period, ..rig.record(key, boot(1), 2, 1, 5) };
    rig.ship(boot(1), &[slow.clone(), quick]).await.unwrap();
    let third = RequestRecord { node_seq: 3, ..slow };
    rig.ship(boot(1), &[third]).await.unwrap();

    let mut tx = rig.store.read().await.unwrap();
    let mut settled = Vec::new();
    for counter in old.into_iter().chain(new) {
        let sums = keyforge_control_plane::store::ledger::sums(&mut tx, &counter, None, Timestamp::from_nanos(0))
            .await
            .unwrap();
        settled.push(sums.settled);
    }
    assert_eq!(settled, [2, 2, 1, 1]);
    drop(tx);
    rig.ledger.close_boot(boot(1), 3).await.unwrap();
    // What was used in both months counts in a limit over the whole life, also when that is asked for last.
    let total = CounterId { window: Window::Total, first_day: CivilDay::default(), ..old[0] };
    assert_eq!(told(&acquire(&rig, 2, total, 100).await.unwrap()), (97, 3, 0));
    assert!(rig.faults().await.is_empty());
}
