//! Checks: requests and tokens per minute, and requests at the same time.

use keyforge_counters::{Concurrency, Rate, RateLeft, RateLimited, RatesLeft, TokenRate};

use super::*;

fn per_minute(limit: u32) -> Rates {
    Rates { requests_per_minute: Some(limit), ..Rates::default() }
}

fn tokens(per_minute: u64, amount: u64) -> Rates {
    Rates { tokens: Some(TokenRate { per_minute, amount }), ..Rates::default() }
}

fn at_once(limit: u32) -> Rates {
    Rates { concurrency: Some(Concurrency { limit, lease: Duration::from_secs(30) }), ..Rates::default() }
}

fn left(remaining: u64, reset_millis: u64) -> Option<RateLeft> {
    Some(RateLeft { remaining, reset: Duration::from_millis(reset_millis) })
}

/// The rate that was full, and the wait in milliseconds.
fn limited(verdict: Verdict) -> (Rate, Option<u128>) {
    match verdict {
        Verdict::RateLimited(limited) => (limited.rate, limited.retry_after.map(|wait| wait.as_millis())),
        other => panic!("not limited: {other:?}"),
    }
}

pub async fn i_10_the_rate_counts_any_60_seconds_exactly<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 100, 100).await;
    let rated = |number| Ask { rates: per_minute(2), ..bench.ask(number, 1) };
    assert_eq!(bench.admit(&rated(1)).await.rates.requests, left(1, 60_000));
    bench.advance_millis(400);
    assert_eq!(bench.admit(&rated(2)).await.rates.requests, left(0, 60_000));
    assert_eq!(limited(bench.put(&rated(3)).await), (Rate::Requests, Some(59_600)));
    bench.advance_millis(59_599);
    assert_eq!(limited(bench.put(&rated(3)).await), (Rate::Requests, Some(1)));
    bench.advance_millis(1);
    bench.admit(&rated(3)).await;
    assert_eq!(
        limited(bench.put(&rated(4)).await),
        (Rate::Requests, Some(400)),
        "the second admission is the oldest now"
    );
    bench.admit(&Ask { rates: per_minute(3), ..rated(4) }).await;
}

pub async fn i_10_the_rate_outlives_lives_and_cancellations<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 100, 100).await;
    let rates = Rates { tokens: tokens(10, 4).tokens, ..per_minute(2) };
    let rated = |number| Ask { rates, ..bench.ask(number, 1) };
    bench.admit(&rated(1)).await;
    bench.cancel(1).await;
    bench.admit(&rated(2)).await;
    bench.store().vacate(bench.key, life).await.unwrap();
    bench.join(2, 100, 100).await;
    assert_eq!(limited(bench.put(&rated(3)).await), (Rate::Requests, Some(60_000)), "two were admitted");
    let rates = Rates { requests_per_minute: None, ..rates };
    let admission = bench.admit(&Ask { rates, ..rated(4) }).await;
    assert_eq!(admission.rates.tokens, left(2, 61_000), "the cancelled one took no tokens");
}

pub async fn i_10_the_rate_forgets_nothing_when_its_limit_is_lowered_and_raised<H: Harness>(bench: &Bench<'_, H>) {
    for number in 0..10 {
        bench.admit(&bench.ask_rates(number, per_minute(10))).await;
        bench.advance_millis(1);
    }
    let ask = |limit| bench.ask_rates(20, per_minute(limit));
    assert_eq!(limited(bench.put(&ask(3)).await), (Rate::Requests, Some(60_007 - 10)), "seven leave before the eighth");
    assert_eq!(limited(bench.put(&ask(10)).await), (Rate::Requests, Some(60_000 - 10)));
    assert_eq!(bench.admit(&ask(11)).await.rates.requests, left(0, 60_000));
    assert_eq!(limited(bench.put(&bench.ask_rates(21, per_minute(11))).await), (Rate::Requests, Some(60_000 - 10)));
    bench.advance_millis(60_000 - 10 + 4);
    assert_eq!(
        limited(bench.put(&bench.ask_rates(21, per_minute(6))).await),
        (Rate::Requests, Some(1)),
        "five have left"
    );
    assert_eq!(bench.admit(&bench.ask_rates(21, per_minute(7))).await.rates.requests, left(0, 60_000));
}

pub async fn i_10_tokens_count_61_seconds<H: Harness>(bench: &Bench<'_, H>) {
    let ask = |number, amount| bench.ask_rates(number, tokens(100, amount));
    bench.advance_millis(999);
    assert_eq!(bench.admit(&ask(1, 70)).await.rates.tokens, left(30, 60_001));
    bench.advance_millis(1);
    assert_eq!(bench.admit(&ask(2, 30)).await.rates.tokens, left(0, 61_000));
    assert_eq!(limited(bench.put(&ask(3, 1)).await), (Rate::Tokens, Some(60_000)));
    assert_eq!(limited(bench.put(&ask(3, 70)).await), (Rate::Tokens, Some(60_000)));
    assert_eq!(limited(bench.put(&ask(3, 71)).await), (Rate::Tokens, Some(61_000)));
    bench.advance_millis(59_999);
    assert_eq!(limited(bench.put(&ask(3, 1)).await), (Rate::Tokens, Some(1)));
    bench.advance_millis(1);
    assert_eq!(bench.admit(&ask(3, 70)).await.rates.tokens, left(0, 61_000));
    bench.advance_millis(1_000);
    assert_eq!(
        bench.admit(&ask(4, 0)).await.rates.tokens,
        left(30, 60_000),
        "nothing was added, and the newest is older"
    );
    bench.advance_millis(60_000);
    assert_eq!(bench.admit(&ask(5, 0)).await.rates.tokens, left(100, 0));
}

pub async fn i_10_a_clock_that_jumps_ahead_and_comes_back_clears_no_window<H: Harness>(bench: &Bench<'_, H>) {
    let rates = Rates { tokens: tokens(10, 10).tokens, concurrency: at_once(1).concurrency, ..per_minute(1) };
    let first = bench.ask_rates(1, rates);
    bench.admit(&first).await;
    let ahead = START.saturating_add(Duration::from_secs(90));
    bench.set(ahead);
    assert_eq!(
        bench.admit(&first).await.rates,
        RatesLeft { requests: left(1, 0), tokens: left(10, 0) },
        "it only looks"
    );
    bench.store().settle(bench.key, 0, reservation(1), settlement(0)).await.unwrap();
    bench.set(START);
    let again = |rates| bench.ask_rates(2, rates);
    assert_eq!(limited(bench.put(&again(per_minute(1))).await), (Rate::Requests, Some(60_000)));
    assert_eq!(limited(bench.put(&again(tokens(10, 1))).await), (Rate::Tokens, Some(61_000)));
    bench.set(ahead);
    bench.admit(&again(rates)).await;
    bench.set(START);
    let verdict = bench.put(&bench.ask_rates(3, rates)).await;
    assert_eq!(limited(verdict), (Rate::Tokens, Some(61_000)), "the time of the decision stays");
    let verdict = bench.put(&bench.ask_rates(3, at_once(1))).await;
    assert_eq!(limited(verdict), (Rate::Concurrency, None), "for leases too");
}

pub async fn a_settlement_replaces_the_tokens_in_their_own_second<H: Harness>(bench: &Bench<'_, H>) {
    let ask = |number, amount| bench.ask_rates(number, tokens(100, amount));
    let settle = |number, tokens| {
        bench.store().settle(bench.key, 0, reservation(number), Settlement { tokens, ..settlement(0) })
    };
    bench.admit(&ask(1, 60)).await;
    bench.admit(&ask(2, 10)).await;
    bench.advance_millis(5_000);
    bench.admit(&ask(3, 30)).await;
    settle(2, None).await.unwrap();
    assert_eq!(limited(bench.put(&ask(4, 1)).await), (Rate::Tokens, Some(56_000)), "unknown is charged");
    settle(1, Some(25)).await.unwrap();
    settle(1, Some(0)).await.unwrap();
    assert_eq!(bench.admit(&ask(4, 1)).await.rates.tokens, left(34, 61_000));
    settle(3, Some(80)).await.unwrap();
    assert_eq!(limited(bench.put(&ask(5, 0)).await), (Rate::Tokens, Some(56_000)), "116 of 100 count");
    bench.advance_millis(56_000);
    assert_eq!(bench.admit(&ask(5, 5)).await.rates.tokens, left(14, 61_000));
    bench.advance_millis(61_000);
    settle(4, Some(50)).await.unwrap();
    assert_eq!(bench.admit(&ask(6, 0)).await.rates.tokens, left(100, 0), "a second that counts no more");
}

pub async fn tokens_are_shrunk_with_the_bound<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 10, 100).await;
    let ask = Ask { rates: tokens(100, 90), ..bench.ask(1, 50) };
    bench.admit(&ask).await;
    let shrink = |bound, tokens| bench.store().shrink(bench.key, 1, reservation(1), NanoUsd::new(bound), tokens);
    let count = async || bench.admit(&ask).await.rates.tokens.unwrap().remaining;
    assert!(shrink(20, None).await.unwrap());
    assert_eq!((count().await, bench.books(SPEND).await.held), (10, 20));
    assert!(shrink(20, Some(40)).await.unwrap());
    assert_eq!((count().await, bench.books(SPEND).await.held), (60, 20));
    assert!(!shrink(20, Some(70)).await.unwrap(), "never raised");
    assert!(!shrink(30, Some(40)).await.unwrap());
    assert_eq!((count().await, bench.books(SPEND).await.held), (60, 20));
    let truth = Settlement { tokens: Some(45), ..settlement(20) };
    let settled = bench.store().settle(bench.key, 1, reservation(1), truth).await.unwrap();
    assert_eq!(settled, Settled::Done { over_bound: false }, "tokens beyond their bound are no money");
    let next = bench.admit(&bench.ask_rates(2, tokens(100, 5))).await;
    assert_eq!(next.rates.tokens.unwrap().remaining, 50);
}

pub async fn what_never_fits_is_told_no_time<H: Harness>(bench: &Bench<'_, H>) {
    assert_eq!(limited(bench.put(&bench.ask_rates(1, per_minute(0))).await), (Rate::Requests, None));
    assert_eq!(limited(bench.put(&bench.ask_rates(1, tokens(100, 101))).await), (Rate::Tokens, None));
    assert_eq!(limited(bench.put(&bench.ask_rates(1, at_once(0))).await), (Rate::Concurrency, None));
    bench.admit(&bench.ask_rates(1, tokens(100, 100))).await;
    assert_eq!(limited(bench.put(&bench.ask_rates(2, tokens(100, 101))).await), (Rate::Tokens, None));
    assert_eq!(limited(bench.put(&bench.ask_rates(2, tokens(100, 100))).await), (Rate::Tokens, Some(61_000)));
}

pub async fn a_refusal_says_what_is_left_of_each_rate<H: Harness>(bench: &Bench<'_, H>) {
    let rates = |requests, amount| Rates {
        requests_per_minute: Some(requests),
        tokens: tokens(100, amount).tokens,
        concurrency: at_once(2).concurrency,
    };
    bench.admit(&bench.ask_rates(1, rates(3, 40))).await;
    bench.advance_millis(250);
    let admission = bench.admit(&bench.ask_rates(2, rates(3, 40))).await;
    assert_eq!(admission.rates, RatesLeft { requests: left(1, 60_000), tokens: left(20, 60_750) });
    bench.advance_millis(250);
    let refused = |rate, retry_after: Option<u64>, requests, tokens| {
        let left = RatesLeft { requests: left(requests, 59_750), tokens: left(tokens, 60_500) };
        Verdict::RateLimited(RateLimited { rate, retry_after: retry_after.map(Duration::from_millis), left })
    };
    let ask = |requests, amount| bench.ask_rates(3, rates(requests, amount));
    assert_eq!(bench.put(&ask(3, 21)).await, refused(Rate::Tokens, Some(60_500), 1, 20));
    assert_eq!(bench.put(&ask(3, 20)).await, refused(Rate::Concurrency, None, 1, 20));
    assert_eq!(bench.put(&ask(2, 20)).await, refused(Rate::Requests, Some(59_500), 0, 20));
    assert_eq!(bench.put(&ask(1, 20)).await, refused(Rate::Requests, Some(59_750), 0, 20));
    let Verdict::RateLimited(only) = bench.put(&bench.ask_rates(3, per_minute(1))).await else { panic!() };
    assert_eq!(only.left, RatesLeft { requests: left(0, 59_750), tokens: None });
}

pub async fn concurrency_counts_what_runs<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 100, 100).await;
    let ask = |number| Ask { rates: at_once(2), ..bench.ask(number, 1) };
    let full = async |number| assert_eq!(limited(bench.put(&ask(number)).await), (Rate::Concurrency, None));
    bench.admit(&ask(1)).await;
    bench.admit(&ask(1)).await;
    bench.admit(&ask(2)).await;
    full(3).await;
    bench.settle(1, 1).await;
    bench.admit(&ask(4)).await;
    full(5).await;
    bench.cancel(2).await;
    bench.admit(&ask(5)).await;
    full(6).await;
    bench.advance_millis(29_999);
    full(6).await;
    bench.advance_millis(1);
    bench.admit(&ask(6)).await;
    assert_eq!(bench.sums().await[0], (1, 3, 0), "whoever renews no lease is charged like all others");
}

pub async fn a_lease_ends_however_its_request_ended<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 100, 100).await;
    let ask = |number| Ask { rates: at_once(1), ..bench.ask(number, 1) };
    bench.admit(&ask(1)).await;
    bench.store().vacate(bench.key, life).await.unwrap();
    bench.join(2, 100, 100).await;
    assert_eq!(limited(bench.put(&ask(2)).await), (Rate::Concurrency, None), "what runs outlives the books");
    assert!(bench.store().settle(bench.key, 1, reservation(1), settlement(1)).await.is_err());
    bench.admit(&ask(2)).await;
    bench.settle(2, 1).await;
    bench.admit(&ask(3)).await;
    bench.cancel(3).await;
    bench.store().renew(bench.key, &[reservation(9)], TTL).await.unwrap();
    assert_eq!(limited(bench.put(&ask(4)).await), (Rate::Concurrency, None));
    assert_eq!(bench.settle(9, 1).await, Settled::Unknown);
    bench.admit(&ask(4)).await;
}

pub async fn a_renewal_that_comes_after_the_settlement_revives_nothing<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 100, 100).await;
    let ask = |number| Ask { rates: at_once(1), ..bench.ask(number, 1) };
    let renew = async |numbers: &[u32]| {
        let ids: Vec<_> = numbers.iter().map(|number| reservation(*number)).collect();
        bench.store().renew(bench.key, &ids, Duration::from_secs(30)).await.unwrap();
    };
    bench.admit(&ask(1)).await;
    bench.settle(1, 1).await;
    bench.settle(2, 1).await;
    renew(&[1, 2]).await;
    bench.admit(&ask(3)).await;
    bench.cancel(3).await;
    renew(&[3, 4, 1]).await;
    assert_eq!(limited(bench.put(&ask(5)).await), (Rate::Concurrency, None), "the others are renewed all the same");
    bench.cancel(4).await;
    bench.admit(&ask(5)).await;
    bench.advance(TTL);
    bench.sweep().await;
    renew(&[5]).await;
    assert_eq!(limited(bench.put(&ask(6)).await), (Rate::Concurrency, None), "what expired may still run");
    assert_eq!(bench.settle(5, 1).await, Settled::AfterExpiry { over_bound: false });
    bench.advance_millis(59_999);
    renew(&[5]).await;
    bench.admit(&ask(6)).await;
    bench.cancel(6).await;
    bench.advance_millis(1);
    renew(&[5]).await;
    assert_eq!(limited(bench.put(&ask(7)).await), (Rate::Concurrency, None), "remembered for a minute");
}

pub async fn a_lease_is_renewed_and_found_again<H: Harness>(bench: &Bench<'_, H>) {
    let ask = |number| bench.ask_rates(number, at_once(2));
    let renew = async |numbers: &[u32], seconds| {
        let ids: Vec<_> = numbers.iter().map(|number| reservation(*number)).collect();
        bench.store().renew(bench.key, &ids, Duration::from_secs(seconds)).await.unwrap();
    };
    bench.admit(&ask(1)).await;
    bench.admit(&ask(2)).await;
    bench.advance_millis(20_000);
    renew(&[1, 2], 30).await;
    renew(&[], 30).await;
    bench.advance_millis(29_999);
    assert_eq!(limited(bench.put(&ask(3)).await), (Rate::Concurrency, None));
    renew(&[2], 1).await;
    bench.advance_millis(1);
    bench.admit(&ask(3)).await;
    assert_eq!(limited(bench.put(&ask(4)).await), (Rate::Concurrency, None));
    renew(&[1], 30).await;
    bench.advance_millis(999);
    assert_eq!(limited(bench.put(&ask(4)).await), (Rate::Concurrency, None), "one that was forgotten counts again");
    let other = bench.other();
    other.store().renew(other.key, &[reservation(9)], Duration::from_secs(5)).await.unwrap();
    let alone = other.ask_rates(1, at_once(1));
    assert_eq!(limited(other.put(&alone).await), (Rate::Concurrency, None), "also where the store forgot everything");
    other.advance_millis(5_000);
    other.admit(&alone).await;
}

pub async fn whoever_waits_as_long_as_told_is_admitted<H: Harness>(bench: &Bench<'_, H>) {
    let rates =
        |amount| Rates { tokens: tokens(1_000, amount).tokens, concurrency: at_once(3).concurrency, ..per_minute(2) };
    bench.admit(&bench.ask_rates(1, rates(100))).await;
    bench.advance_millis(25_000);
    bench.admit(&bench.ask_rates(2, rates(800))).await;
    let (small, big) = (bench.ask_rates(3, rates(100)), bench.ask_rates(3, rates(500)));
    assert_eq!(limited(bench.put(&small).await), (Rate::Requests, Some(35_000)), "its tokens fit");
    assert_eq!(limited(bench.put(&big).await), (Rate::Tokens, Some(61_000)), "the second's tokens leave last");
    bench.advance_millis(35_000);
    assert_eq!(limited(bench.put(&big).await), (Rate::Tokens, Some(26_000)), "there is room for a request");
    bench.advance_millis(26_000);
    bench.admit(&big).await;
}

pub async fn of_rates_that_are_full_the_longest_wait_is_told<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(1, 1, 100).await;
    let rates =
        Rates { requests_per_minute: Some(1), tokens: tokens(10, 10).tokens, concurrency: at_once(1).concurrency };
    bench.admit(&Ask { rates, ..bench.ask(1, 1) }).await;
    assert_eq!(short(bench.put(&Ask { rates, ..bench.ask(2, 1) }).await), [(0, 0)], "counters come before rates");
    let put = async |rates| limited(bench.put(&bench.ask_rates(2, rates)).await);
    assert_eq!(put(rates).await, (Rate::Tokens, Some(61_000)));
    let never = Rates { tokens: tokens(10, 11).tokens, ..rates };
    assert_eq!(put(never).await, (Rate::Tokens, None), "what never fits is waited for longest");
    assert_eq!(put(Rates { requests_per_minute: Some(0), ..rates }).await, (Rate::Requests, None));
    assert_eq!(put(Rates { requests_per_minute: Some(0), ..never }).await, (Rate::Requests, None), "the first of two");
    let rates = Rates { tokens: tokens(20, 10).tokens, ..rates };
    assert_eq!(put(rates).await, (Rate::Requests, Some(60_000)), "a place among what runs has no time");
    let rates = Rates { requests_per_minute: Some(2), ..rates };
    assert_eq!(put(rates).await, (Rate::Concurrency, None));
    let rates = Rates { concurrency: at_once(2).concurrency, ..rates };
    let admission = bench.admit(&bench.ask_rates(2, rates)).await;
    let full = RatesLeft { requests: left(0, 60_000), tokens: left(0, 61_000) };
    assert_eq!(admission.rates, full, "no refusal took anything");
}
