//! Checks: the order of what is looked at, and what time does.

use keyforge_counters::CounterError;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3_600);

pub async fn i_11_a_request_is_charged_to_the_period_of_its_reservation<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.admit(&bench.ask(2, 10)).await;
    let (today, period) = counter_at(bench.key, Scope::Key, REQUESTS, START);
    bench.set(Timestamp::from_millis(period.end.millis() - 1));
    bench.admit(&bench.ask(3, 10)).await;
    bench.set(period.end);
    assert_eq!(bench.put(&bench.ask(4, 10)).await, Verdict::OutsidePeriod { now: period.end });
    let (tomorrow, period) = counter_at(bench.key, Scope::Key, REQUESTS, period.end);
    let grants = vec![Grant { counter: tomorrow, period, granted: 10, elsewhere: 0 }];
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 2, grants }).await.unwrap();
    let mut ask = bench.ask(4, 10);
    ask.needs[0] = Need { counter: tomorrow, period, limit: u64::MAX, amount: 1 };
    bench.admit(&ask).await;
    for number in 1..=4 {
        bench.settle(number, 10).await;
    }
    let books = bench.report().await;
    let used = |counter| books.iter().find(|books| books.counter == counter).unwrap().used;
    assert_eq!((used(today), used(tomorrow), used(bench.counter(SPEND))), (3, 1, 40));
}

pub async fn delayed_and_misplaced_questions_are_refused<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    let ask = bench.ask(1, 10);
    let on_time = bench.ask(9, 0);
    let question = Reserve { not_after: Some(START), ..bench.question(&on_time) };
    assert!(matches!(bench.store().reserve(question).await.unwrap(), Verdict::Admitted(_)));
    bench.cancel(9).await;
    let question = Reserve { not_after: Some(START), ..bench.question(&ask) };
    bench.advance_millis(1);
    assert_eq!(bench.store().reserve(question).await.unwrap(), Verdict::Late);
    let month = counter_at(bench.key, Scope::Key, SPEND, START).1;
    bench.set(month.end);
    assert_eq!(bench.put(&ask).await, Verdict::OutsidePeriod { now: month.end });
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);

    let early = bench.other();
    early.join(1, 10, 100).await;
    let (counter, period) = counter_at(early.key, Scope::Key, REQUESTS, START.saturating_add(DAY));
    early.set(Timestamp::from_millis(period.start.millis() - 1));
    let next = Ask { needs: vec![Need { counter, period, limit: 9, amount: 1 }], ..early.ask(2, 10) };
    let outside = Verdict::OutsidePeriod { now: early.now.get() };
    assert_eq!(early.put(&next).await, outside, "a period that has not begun");
    early.set(period.start);
    assert_eq!(early.put(&next).await, Verdict::NoBooks(vec![0]));
}

/// Each question has every reason to be refused that comes after the one that is named.
pub async fn questions_are_answered_in_the_order_of_their_checks<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 0, 100).await;
    let rates = Rates { requests_per_minute: Some(0), ..Rates::default() };
    let mut ask = Ask { rates, ..bench.ask(1, 10) };
    let (counter, period) = counter_at(bench.key, Scope::Key, (Dimension::Spend, Window::Week), START);
    ask.needs.push(Need { counter, period, limit: 10, amount: 1 });
    bench.cancel(1).await;
    bench.store().freeze(bench.key, ONCE).await.unwrap();
    let tomorrow = counter_at(bench.key, Scope::Key, REQUESTS, START).1.end;
    bench.set(tomorrow.saturating_add(DAY));
    let late = |ask: &Ask| Reserve { not_after: Some(START), ..bench.question(ask) }.not_after;
    let put =
        async |ask: &Ask| bench.store().reserve(Reserve { not_after: late(ask), ..bench.question(ask) }).await.unwrap();
    bench.settle(2, 0).await;
    assert_eq!(put(&Ask { id: reservation(2), epoch: 0, ..ask.clone() }).await, Verdict::Duplicate);
    ask.id = reservation(3);
    assert_eq!(put(&Ask { epoch: 2, ..ask.clone() }).await, Verdict::NotJoined(life));
    assert_eq!(put(&ask).await, Verdict::Frozen);
    bench.store().unfreeze(bench.key, LATER).await.unwrap();
    bench.set(START);
    assert!(matches!(bench.put(&ask).await, Verdict::NoBooks(_)), "what was not looked at moved no time");
    bench.set(tomorrow);
    assert_eq!(put(&ask).await, Verdict::Late);
    bench.set(START);
    assert_eq!(bench.put(&ask).await, Verdict::OutsidePeriod { now: tomorrow }, "what came too late did");
    ask.needs.remove(0);
    assert_eq!(bench.put(&ask).await, Verdict::NoBooks(vec![1]));
    ask.needs[1] = bench.need(SPEND, 101);
    ask.needs.remove(0);
    assert_eq!(short(bench.put(&ask).await), [(0, 100)]);
    ask.needs[0].amount = 100;
    assert!(matches!(bench.put(&ask).await, Verdict::RateLimited(_)));
    bench.admit(&Ask { rates: Rates::default(), ..ask }).await;
}

pub async fn a_clock_set_back_changes_no_decision<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    let tomorrow = counter_at(bench.key, Scope::Key, REQUESTS, START).1.end;
    bench.set(tomorrow);
    let outside = Verdict::OutsidePeriod { now: tomorrow };
    assert_eq!(bench.put(&bench.ask(2, 10)).await, outside);
    bench.set(START);
    assert_eq!(bench.put(&bench.ask(2, 10)).await, outside, "yesterday does not come back");
    let ask = bench.ask(3, 10);
    let monthly = Ask { needs: vec![ask.needs[1]], ..ask };
    bench.admit(&monthly).await;
    bench.set(tomorrow.saturating_add(TTL));
    bench.sweep().await;
    assert_eq!(bench.sums().await[1], (20, 0, 20), "both expired on the clock that never goes back");
    let other = bench.other();
    other.join(1, 10, 100).await;
    other.admit(&other.ask(1, 10)).await;
}

pub async fn only_decisions_move_the_time_of_a_key<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.set(START.saturating_add(40 * DAY));
    bench.settle(1, 5).await;
    bench.settle(2, 5).await;
    bench.store().renew(bench.key, &[reservation(30)], TTL).await.unwrap();
    assert!(!bench.store().shrink(bench.key, 1, reservation(1), NanoUsd::ZERO, None).await.unwrap());
    let grants = vec![bench.slice(SPEND, 120)];
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 2, grants }).await.unwrap();
    bench.store().claw_back(bench.key).await.unwrap();
    let grants = vec![bench.slice(SPEND, 130)];
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 3, grants }).await.unwrap();
    assert_eq!(bench.put(&Ask { epoch: 0, ..bench.ask(3, 1) }).await, Verdict::NotJoined(life));
    assert_eq!(bench.put(&bench.ask(1, 1)).await, Verdict::Duplicate);
    bench.set(START);
    let mut ask = bench.ask(4, 1);
    ask.needs.remove(0);
    assert_eq!(bench.admit(&ask).await.counters, [standing(124, 5, 1)], "the counter was not dropped meanwhile");
    assert_eq!(bench.put(&bench.ask(2, 1)).await, Verdict::Duplicate, "remembered for longer, and not for less");
}

pub async fn eight_expired_reservations_are_charged_at_a_time<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 100, 1_000).await;
    for number in 0..20 {
        bench.admit(&bench.ask(number, 10)).await;
    }
    bench.advance(TTL);
    for charged in [8, 16, 20, 20] {
        bench.sweep().await;
        assert_eq!(bench.sums().await[0], (charged, 20 - charged, charged));
    }
    bench.advance(DAY);
    bench.sweep().await;
    assert_eq!(bench.settle(7, 4).await, Settled::Unknown, "the eight oldest are forgotten");
    assert_eq!(
        bench.settle(8, 4).await,
        Settled::AfterExpiry { over_bound: false },
        "and no more than eight at a time"
    );
    bench.sweep().await;
    assert_eq!(bench.settle(16, 4).await, Settled::Unknown, "the ninth was settled, so eight more are 9 to 16");
    assert_eq!(bench.settle(17, 4).await, Settled::AfterExpiry { over_bound: false });
    bench.sweep().await;
    assert_eq!(bench.settle(19, 4).await, Settled::Unknown);
    assert_eq!(bench.sums().await, [(20, 0, 18), (188, 0, 180)], "only what was settled is orphaned no more");
}

pub async fn the_first_to_expire_is_charged_first<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 100, 1_000).await;
    for number in 1..=9 {
        let life = Duration::from_secs(u64::from(100 - number));
        bench.admit(&Ask { life, ..bench.ask(number, 10) }).await;
    }
    bench.advance(DAY);
    bench.sweep().await;
    assert_eq!(bench.settle(1, 1).await, Settled::Done { over_bound: false }, "the last to expire is still open");
    assert_eq!(bench.settle(2, 1).await, Settled::AfterExpiry { over_bound: false });
    assert_eq!(bench.sums().await, [(9, 0, 7), (72, 0, 70)]);
}

pub async fn what_was_charged_is_forgotten_after_a_day<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    for number in 1..=3 {
        bench.admit(&bench.ask(number, 10)).await;
    }
    bench.advance(TTL);
    bench.sweep().await;
    bench.advance(DAY - Duration::from_millis(1));
    bench.sweep().await;
    assert_eq!(bench.settle(1, 4).await, Settled::AfterExpiry { over_bound: false });
    bench.advance_millis(1);
    assert_eq!(bench.settle(2, 4).await, Settled::AfterExpiry { over_bound: false }, "nobody looked yet");
    bench.sweep().await;
    assert_eq!(bench.sums().await, [(3, 0, 1), (18, 0, 10)], "what is forgotten stays charged, and orphaned");
    assert_eq!(bench.settle(3, 4).await, Settled::Unknown);
    bench.advance(30 * DAY);
    bench.sweep().await;
    assert_eq!(bench.sums().await, [(3, 0, 1), (18, 0, 10)], "these books never learn what it cost");
    let standing = Standing { orphaned: 10, ..standing(82, 18, 0) };
    let mut ask = bench.ask(4, 83);
    ask.needs.remove(0);
    ask.needs[0].period.end = Timestamp::MAX;
    assert_eq!(bench.put(&ask).await, Verdict::Short(vec![(0, standing)]), "and say so to whoever is short");
}

pub async fn what_is_orphaned_ends_with_the_life_of_the_books<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.advance(TTL);
    bench.sweep().await;
    bench.advance(DAY);
    bench.sweep().await;
    assert_eq!(bench.sums().await, [(1, 0, 1), (10, 0, 10)]);
    bench.store().vacate(bench.key, life).await.unwrap();
    bench.join(2, 10, 100).await;
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
    assert_eq!(bench.settle(1, 4).await, Settled::Unknown);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}

pub async fn an_id_is_remembered_for_a_minute<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.settle(1, 4).await;
    bench.cancel(2).await;
    bench.advance_millis(30_000);
    assert_eq!(bench.settle(1, 4).await, Settled::Duplicate);
    bench.advance_millis(29_999);
    assert_eq!(bench.put(&bench.ask(1, 10)).await, Verdict::Duplicate);
    assert_eq!(bench.settle(2, 4).await, Settled::Duplicate);
    bench.advance_millis(1);
    assert_eq!(bench.settle(1, 4).await, Settled::Unknown, "a minute from the settlement, whatever came since");
    assert_eq!(bench.put(&bench.ask(1, 10)).await, Verdict::Duplicate);
    bench.admit(&bench.ask(2, 10)).await;
    assert_eq!(bench.settle(2, 10).await, Settled::Done { over_bound: false });
    assert_eq!(bench.sums().await, [(2, 0, 0), (14, 0, 0)]);
}

pub async fn long_past_counters_are_dropped_with_a_grant<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.settle(1, 4).await;
    let serial = Cell::new(1);
    let join_again = async || {
        serial.set(serial.get() + 1);
        let set = GrantSet { life, epoch: 1, serial: serial.get(), grants: Vec::new() };
        bench.store().grant(bench.key, &set).await.unwrap();
    };
    let end = counter_at(bench.key, Scope::Key, REQUESTS, START).1.end;
    bench.set(end.saturating_add(DAY - Duration::from_millis(1)));
    bench.sweep().await;
    join_again().await;
    assert_eq!(bench.report().await.len(), 2);
    bench.advance_millis(1);
    join_again().await;
    assert_eq!(bench.report().await.len(), 2, "the key's own time has not moved");
    bench.sweep().await;
    assert_eq!(bench.report().await.len(), 2, "only a grant drops");
    join_again().await;
    assert_eq!(bench.report().await.len(), 1);
    assert_eq!(bench.books(SPEND).await.used, 4);
    let grants = vec![bench.slice(REQUESTS, 10)];
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 100, grants }).await.unwrap();
    assert_eq!(bench.report().await.len(), 1, "a grant that is as old is dropped at once");
    let mut ask = bench.ask(2, 1);
    ask.needs[0].period = Period { start: START, end: Timestamp::MAX };
    assert_eq!(bench.put(&ask).await, Verdict::NoBooks(vec![0]));
    let claw = bench.store().claw_back(bench.key).await.unwrap().unwrap();
    assert_eq!(claw.holdings, [(bench.counter(SPEND), 4)]);
    assert!(matches!(
        bench.store().settle(bench.key, 2, reservation(1), settlement(1)).await,
        Err(CounterError::Epoch { given: 2, current: 1, .. })
    ));
}

pub async fn a_past_counter_that_still_holds_is_kept<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    bench.admit(&Ask { life: 100 * DAY, ..bench.ask(1, 10) }).await;
    bench.admit(&bench.ask(2, 10)).await;
    let month = counter_at(bench.key, Scope::Key, SPEND, START).1;
    bench.set(month.end.saturating_add(DAY));
    bench.sweep().await;
    let join_again = async |serial| {
        let set = GrantSet { life, epoch: 1, serial, grants: Vec::new() };
        bench.store().grant(bench.key, &set).await.unwrap();
    };
    join_again(2).await;
    assert_eq!(bench.sums().await, [(1, 1, 1), (10, 10, 10)]);
    assert_eq!(bench.settle(1, 3).await, Settled::Done { over_bound: false });
    assert_eq!(bench.sums().await, [(2, 0, 1), (13, 0, 10)]);
    join_again(3).await;
    assert!(bench.report().await.is_empty(), "what is only charged does not keep it");
    assert_eq!(bench.settle(2, 3).await, Settled::AfterExpiry { over_bound: false }, "nor is it missed");
    assert!(bench.report().await.is_empty());
}

pub async fn durations_are_cut_to_milliseconds<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    bench.admit(&Ask { life: Duration::from_nanos(1_999_999), ..bench.ask(1, 10) }).await;
    bench.admit(&Ask { life: Duration::ZERO, ..bench.ask(2, 10) }).await;
    bench.sweep().await;
    assert_eq!(bench.sums().await[1], (10, 10, 10));
    bench.advance(Duration::from_nanos(999_999));
    bench.sweep().await;
    assert_eq!(bench.sums().await[1], (10, 10, 10));
    bench.set(Timestamp::from_nanos(START.nanos() + 1_000_000));
    bench.sweep().await;
    assert_eq!(bench.sums().await[1], (20, 0, 20));
}
