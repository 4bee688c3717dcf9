//! Checks: what counters admit, hold, charge and give back.

use keyforge_counters::Concurrency;

use super::*;

pub async fn i_1_the_grant_is_admitted_and_not_one_more<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 3, 100).await;
    let admission = bench.admit(&bench.ask(1, 60)).await;
    assert_eq!(admission.counters, [standing(2, 0, 1), standing(40, 0, 60)]);
    assert_eq!(bench.put(&bench.ask(2, 41)).await, Verdict::Short(vec![(1, standing(40, 0, 60))]));
    bench.admit(&bench.ask(3, 40)).await;
    bench.admit(&bench.ask(4, 0)).await;
    assert_eq!(short(bench.put(&bench.ask(5, 1)).await), [(0, 0), (1, 0)], "all that is short is named");
}

pub async fn i_1_an_expired_reservation_stays_charged_until_its_truth_arrives<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    for (number, spend) in [(1, 60), (2, 20), (3, 20)] {
        bench.admit(&bench.ask(number, spend)).await;
    }
    bench.advance(TTL - Duration::from_millis(1));
    bench.sweep().await;
    assert_eq!(bench.sums().await, [(0, 3, 0), (0, 100, 0)], "not a millisecond early");
    bench.advance_millis(1);
    let Verdict::Short(needs) = bench.put(&bench.ask(4, 1)).await else { panic!("expiry frees nothing") };
    assert_eq!(needs, [(1, Standing { orphaned: 100, ..standing(0, 100, 0) })]);
    assert_eq!(bench.sums().await, [(3, 0, 3), (100, 0, 100)]);
    assert_eq!(bench.settle(1, 25).await, Settled::AfterExpiry { over_bound: false });
    assert_eq!(bench.settle(2, 21).await, Settled::AfterExpiry { over_bound: true });
    assert_eq!(bench.cancel(3).await, Settled::AfterExpiry { over_bound: false });
    assert_eq!(bench.sums().await, [(2, 0, 0), (46, 0, 0)]);
    assert_eq!(bench.settle(1, 25).await, Settled::Duplicate);
}

pub async fn i_1_a_lowered_limit_holds_at_once<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    let grants = vec![Grant { elsewhere: 30, ..bench.slice(SPEND, 100) }];
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 2, grants }).await.unwrap();
    bench.admit(&bench.ask(1, 20)).await;
    let mut lowered = bench.ask(2, 21);
    lowered.needs[1].limit = 70;
    let left = Standing { elsewhere: 30, ..standing(20, 0, 20) };
    assert_eq!(bench.put(&lowered).await, Verdict::Short(vec![(1, left)]), "70 less 30 elsewhere less 20 held");
    lowered.needs[1].limit = 10;
    assert_eq!(short(bench.put(&lowered).await), [(1, 0)], "below what is elsewhere");
    lowered.needs[1].limit = 71;
    assert_eq!(free(&bench.admit(&lowered).await)[1], 0);
}

pub async fn i_1_a_slice_of_the_workspace_limits_its_key<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    let (counter, period) = counter_at(bench.key, Scope::Workspace, SPEND, START);
    let mut ask = bench.ask(1, 60);
    ask.needs.push(Need { counter, period, limit: 1_000, amount: 60 });
    assert_eq!(bench.put(&ask).await, Verdict::NoBooks(vec![2]), "the key's own spend is another counter");
    let grants = vec![Grant { counter, period, granted: 70, elsewhere: 900 }];
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 2, grants }).await.unwrap();
    let admission = bench.admit(&ask).await;
    assert_eq!(admission.counters[1..], [standing(40, 0, 60), Standing { elsewhere: 900, ..standing(10, 0, 60) }]);
    ask.id = reservation(2);
    assert_eq!(short(bench.put(&ask).await), [(1, 40), (2, 10)]);
    bench.settle(1, 15).await;
    let books = bench.report().await;
    assert_eq!(books.iter().map(|books| (books.used, books.held)).collect::<Vec<_>>(), [(1, 0), (15, 0), (15, 0)]);
}

pub async fn i_2_a_refusal_takes_from_no_counter_and_no_rate<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    let concurrency = Some(Concurrency { limit: 1, lease: TTL });
    let rated = |number, spend| Ask {
        rates: Rates { requests_per_minute: Some(1), concurrency, ..Rates::default() },
        ..bench.ask(number, spend)
    };
    assert_eq!(short(bench.put(&rated(1, 101)).await), [(1, 100)]);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
    bench.admit(&rated(2, 10)).await;
    assert!(matches!(bench.put(&rated(3, 10)).await, Verdict::RateLimited(_)));
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 10, 0)]);
    bench.admit(&bench.ask(1, 90)).await;
}

pub async fn i_3_a_cost_above_its_bound_is_booked_and_reported<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 50)).await;
    assert_eq!(bench.settle(1, 50).await, Settled::Done { over_bound: false });
    bench.admit(&bench.ask(2, 50)).await;
    assert_eq!(bench.settle(2, 70).await, Settled::Done { over_bound: true });
    assert_eq!(bench.sums().await[1], (120, 0, 0));
    assert_eq!(bench.put(&bench.ask(3, 1)).await, Verdict::Short(vec![(1, standing(0, 120, 0))]));
    let holdings = bench.store().claw_back(bench.key).await.unwrap().unwrap().holdings;
    assert!(holdings.contains(&(bench.counter(SPEND), 100)), "no ceiling is raised: {holdings:?}");
}

pub async fn i_5_a_reservation_asked_again_takes_once<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    let rates = Rates { requests_per_minute: Some(2), ..Rates::default() };
    let ask = Ask { rates, ..bench.ask(1, 60) };
    let first = bench.admit(&ask).await;
    for _ in 0..3 {
        assert_eq!(bench.admit(&ask).await, first, "the same answer");
    }
    assert_eq!(first.rates.requests.unwrap().remaining, 1);
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 60, 0)]);
    let second_attempt = ReservationId { attempt: 2, ..ask.id };
    bench.admit(&Ask { id: second_attempt, ..bench.ask(1, 30) }).await;
    assert_eq!(bench.sums().await, [(0, 2, 0), (0, 90, 0)], "another attempt is another reservation");
    assert_eq!(free(&bench.admit(&ask).await), [8, 10], "asked again, it says how things stand now");
}

pub async fn i_5_what_is_over_is_never_admitted_again<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    for number in 1..=3 {
        bench.admit(&bench.ask(number, 10)).await;
    }
    bench.settle(1, 4).await;
    bench.cancel(2).await;
    bench.advance_millis(59_999);
    for number in 1..=2 {
        assert_eq!(bench.put(&bench.ask(number, 10)).await, Verdict::Duplicate);
    }
    bench.advance(TTL);
    bench.sweep().await;
    assert_eq!(bench.put(&bench.ask(3, 10)).await, Verdict::Duplicate, "expired and charged");
    bench.settle(3, 9).await;
    assert_eq!(bench.put(&bench.ask(3, 10)).await, Verdict::Duplicate, "expired and settled");
    assert_eq!(bench.sums().await, [(2, 0, 0), (13, 0, 0)]);
}

pub async fn i_5_a_settlement_counts_once<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 60)).await;
    assert_eq!(bench.settle(1, 40).await, Settled::Done { over_bound: false });
    assert_eq!(bench.settle(1, 40).await, Settled::Duplicate);
    assert_eq!(bench.cancel(1).await, Settled::Duplicate);
    assert_eq!(bench.sums().await, [(1, 0, 0), (40, 0, 0)]);
}

pub async fn i_5_an_unknown_settlement_keeps_its_reservation_out<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    assert_eq!(bench.cancel(1).await, Settled::Unknown);
    assert_eq!(bench.settle(2, 50).await, Settled::Unknown);
    assert_eq!(bench.settle(2, 50).await, Settled::Duplicate);
    for number in 1..=2 {
        assert_eq!(bench.put(&bench.ask(number, 10)).await, Verdict::Duplicate);
    }
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}

pub async fn i_6_a_counter_without_books_is_refused<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.life().await;
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 1, grants: Vec::new() }).await.unwrap();
    bench.epoch.set(1);
    assert_eq!(bench.put(&bench.ask(1, 0)).await, Verdict::NoBooks(vec![0, 1]));
    let grants = vec![bench.slice(REQUESTS, 0)];
    bench.store().grant(bench.key, &GrantSet { life, epoch: 1, serial: 2, grants }).await.unwrap();
    assert_eq!(
        bench.put(&bench.ask(1, 0)).await,
        Verdict::NoBooks(vec![1]),
        "what is missing comes before what is short"
    );
    assert_eq!(bench.books(REQUESTS).await.held, 0);
    assert!(bench.other().report().await.is_empty());
}

pub async fn i_9_cancelling_and_settling_leave_no_hold<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 100, 10_000).await;
    for number in 0..30 {
        bench.admit(&bench.ask(number, 100)).await;
        if number % 7 == 0 {
            bench.advance(TTL);
        }
    }
    bench.sweep().await;
    let mut actual = (0, 0);
    for number in 0..30 {
        let uncounted = Settlement { counted: false, ..settlement(5) };
        match number % 3 {
            0 => {
                bench.cancel(number).await;
            }
            1 => {
                bench.store().settle(bench.key, 1, reservation(number), uncounted).await.unwrap();
                actual.1 += 5;
            }
            _ => {
                bench.settle(number, u64::from(number)).await;
                actual = (actual.0 + 1, actual.1 + u64::from(number));
            }
        }
    }
    assert_eq!(bench.sums().await, [(actual.0, 0, 0), (actual.1, 0, 0)]);
}

pub async fn i_12_keys_do_not_touch_each_other<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    let other = bench.other();
    assert!(matches!(other.put(&Ask { epoch: 1, ..other.ask(1, 1) }).await, Verdict::NotJoined(_)));
    other.join(7, 5, 50).await;
    let rates = Rates { requests_per_minute: Some(1), ..Rates::default() };
    other.admit(&Ask { rates, ..other.ask(1, 50) }).await;
    bench.admit(&Ask { rates, ..bench.ask(1, 100) }).await;
    bench.store().freeze(bench.key, ONCE).await.unwrap();
    assert_eq!(other.settle(1, 30).await, Settled::Done { over_bound: false });
    other.admit(&other.ask(2, 20)).await;
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 100, 0)]);
    assert_eq!(other.sums().await, [(1, 1, 0), (30, 20, 0)]);
    let stolen = Ask { needs: bench.ask(3, 1).needs, ..other.ask(3, 1) };
    assert_eq!(other.put(&stolen).await, Verdict::NoBooks(vec![0, 1]), "another key's counters are not in its books");
}

pub async fn shrinking_lowers_the_hold_and_never_raises_it<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 80)).await;
    let shrink = |number, bound| bench.store().shrink(bench.key, 1, reservation(number), NanoUsd::new(bound), None);
    assert!(shrink(1, 30).await.unwrap());
    assert!(!shrink(1, 50).await.unwrap());
    assert!(!shrink(1, 30).await.unwrap());
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 30, 0)]);
    bench.admit(&bench.ask(2, 70)).await;
    assert_eq!(bench.settle(1, 31).await, Settled::Done { over_bound: true }, "the lowered bound counts");
    assert!(!shrink(1, 1).await.unwrap(), "it is over");
    assert!(!shrink(9, 1).await.unwrap(), "it never was");
    assert_eq!(bench.sums().await, [(1, 1, 0), (31, 70, 0)]);
    bench.advance(TTL);
    bench.sweep().await;
    assert!(!shrink(2, 1).await.unwrap(), "it was charged");
    assert_eq!(bench.sums().await, [(2, 0, 1), (101, 0, 70)]);
}

/// The largest amounts that policies allow, and those of a key that lives for long.
pub async fn large_amounts_are_exact<H: Harness>(bench: &Bench<'_, H>) {
    const LARGE: u64 = 9_000_000_000_000_000;
    bench.join(u32::MAX, LARGE, LARGE).await;
    bench.admit(&bench.ask(1, LARGE - 1)).await;
    assert_eq!(short(bench.put(&bench.ask(2, 2)).await), [(1, 1)]);
    assert_eq!(bench.settle(1, LARGE - 3).await, Settled::Done { over_bound: false });
    let mut ask = bench.ask(3, 2);
    ask.needs[1].limit = LARGE;
    assert_eq!(bench.admit(&ask).await.counters[1], standing(1, LARGE - 3, 2));
    assert_eq!(bench.settle(3, 1).await, Settled::Done { over_bound: false });
    assert_eq!(bench.sums().await[1], (LARGE - 2, 0, 0));
    assert_eq!(bench.books(SPEND).await.granted, LARGE);
    let claw = bench.store().claw_back(bench.key).await.unwrap().unwrap();
    assert_eq!(claw.epoch, u32::MAX);
    assert!(claw.holdings.contains(&(bench.counter(SPEND), LARGE - 2)), "{claw:?}");
}

pub async fn no_limit_at_all_is_a_limit<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 0, 0).await;
    assert_eq!(short(bench.put(&bench.ask(1, 0)).await), [(0, 0)], "nothing fits where nothing is asked");
    assert_eq!(short(bench.put(&bench.ask(1, 1)).await), [(0, 0), (1, 0)]);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}
