//! Checks: the lives of books, and the ledger's answers to them.

use keyforge_counters::{ClawBack, CounterError, RateLeft};

use super::*;

fn sorted(claw: Option<ClawBack>) -> Option<ClawBack> {
    claw.map(|mut claw| {
        claw.holdings.sort_by_key(|(counter, _)| *counter);
        claw
    })
}

fn stranger() -> LifeId {
    LifeId::from_bytes([7; 16])
}

async fn grant<H: Harness>(bench: &Bench<'_, H>, life: LifeId, epoch: u32, serial: u64, grants: &[Grant]) {
    let set = GrantSet { life, epoch, serial, grants: grants.to_vec() };
    bench.store().grant(bench.key, &set).await.unwrap();
}

pub async fn i_6_books_without_an_epoch_name_their_life<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.life().await;
    assert_eq!(bench.life().await, life, "all who ask are told the same");
    let named = Ask { epoch: 1, ..bench.ask(1, 1) };
    assert_eq!(bench.put(&named).await, Verdict::NotJoined(life), "they are in no epoch yet");
    assert_ne!(bench.other().life().await, life);
    assert!(bench.report().await.is_empty());
    assert_eq!(bench.store().claw_back(bench.key).await.unwrap(), None);
    assert_eq!(bench.store().life(bench.key).await.unwrap(), None);
    assert_eq!(bench.join(1, 10, 100).await, life);
    assert_eq!(bench.store().life(bench.key).await.unwrap(), Some(life));
    assert_eq!(bench.life().await, life, "who names no epoch has not joined");
    assert_eq!(bench.put(&Ask { epoch: 2, ..bench.ask(1, 1) }).await, Verdict::NotJoined(life));
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
    bench.admit(&named).await;
}

pub async fn i_6_a_new_life_has_nothing_of_the_old_one<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(3, 10, 100).await;
    for number in 1..=3 {
        bench.admit(&bench.ask(number, 10)).await;
    }
    bench.settle(2, 5).await;
    bench.advance(TTL);
    bench.sweep().await;
    bench.admit(&bench.ask(4, 10)).await;
    assert_eq!(bench.sums().await, [(3, 1, 2), (25, 10, 20)], "one settled, two expired, one open");
    let next = bench.store().vacate(bench.key, life).await.unwrap();
    assert_ne!(next, life);
    assert_eq!(bench.store().life(bench.key).await.unwrap(), None);
    assert!(bench.report().await.is_empty());
    assert_eq!(bench.store().claw_back(bench.key).await.unwrap(), None);
    assert_eq!(bench.put(&bench.ask(5, 1)).await, Verdict::NotJoined(next));
    assert_eq!(bench.join(4, 2, 20).await, next);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
    bench.advance(TTL);
    bench.sweep().await;
    assert_eq!(bench.sums().await, [(0, 0, 0); 2], "nothing of the old life expires into the new one");
    assert_eq!(bench.settle(1, 5).await, Settled::Unknown, "nor is it settled there");
    assert_eq!(bench.settle(4, 5).await, Settled::Unknown);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}

pub async fn i_6_grants_are_for_one_life_and_one_epoch<H: Harness>(bench: &Bench<'_, H>) {
    let set = |life, epoch| GrantSet { life, epoch, serial: 9, grants: vec![bench.slice(SPEND, 1_000)] };
    let first = bench.life().await;
    let refused = bench.store().grant(bench.key, &set(stranger(), 1)).await;
    assert!(matches!(refused, Err(CounterError::Life { current, .. }) if current == first), "{refused:?}");
    let refused = bench.store().grant(bench.key, &set(first, 0)).await;
    assert!(matches!(refused, Err(CounterError::Epoch { given: 0, current: 0, .. })), "{refused:?}");
    assert!(bench.report().await.is_empty());
    bench.join(2, 10, 100).await;
    for epoch in [0, 1, 3] {
        let refused = bench.store().grant(bench.key, &set(first, epoch)).await;
        assert!(matches!(refused, Err(CounterError::Epoch { given, current: 2, .. }) if given == epoch), "{refused:?}");
    }
    let second = bench.store().vacate(bench.key, first).await.unwrap();
    let refused = bench.store().grant(bench.key, &set(first, 2)).await;
    assert!(matches!(refused, Err(CounterError::Life { current, .. }) if current == second), "{refused:?}");
    assert!(bench.report().await.is_empty());
    bench.join(5, 10, 100).await;
    let refused = bench.store().grant(bench.key, &set(first, 5)).await;
    assert!(matches!(refused, Err(CounterError::Life { current, .. }) if current == second), "{refused:?}");
    assert_eq!(bench.books(SPEND).await.granted, 100);
}

pub async fn i_6_an_open_reservation_is_answered_again_in_its_epoch_alone<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    let ask = bench.ask(1, 10);
    bench.admit(&ask).await;
    for epoch in [0, 2] {
        assert_eq!(
            bench.put(&Ask { epoch, ..ask.clone() }).await,
            Verdict::NotJoined(life),
            "it would settle elsewhere"
        );
    }
    bench.store().freeze(bench.key, ONCE).await.unwrap();
    bench.admit(&ask).await;
    bench.store().unfreeze(bench.key, LATER).await.unwrap();
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 10, 0)]);
    let free = bench.ask_rates(2, Rates::default());
    bench.admit(&free).await;
    bench.admit(&Ask { epoch: 7, ..free }).await;
    bench.settle(1, 5).await;
    assert_eq!(bench.put(&Ask { epoch: 0, ..ask }).await, Verdict::Duplicate, "what is over is over in any epoch");
}

pub async fn a_freeze_is_lifted_by_a_later_revision_alone<H: Harness>(bench: &Bench<'_, H>) {
    let (store, key) = (bench.store(), bench.key);
    assert!(!store.unfreeze(key, 100).await.unwrap(), "nothing to lift");
    let freeze = |revision, lasting| Freeze { revision, lasting };
    store.freeze(key, freeze(20, false)).await.unwrap();
    store.freeze(key, freeze(15, true)).await.unwrap();
    for (number, too_early) in [(1, 16), (2, 20)] {
        assert!(!store.unfreeze(key, too_early).await.unwrap(), "{too_early}");
        assert_eq!(bench.put(&bench.ask_rates(number, Rates::default())).await, Verdict::Frozen);
    }
    assert!(store.unfreeze(key, 21).await.unwrap());
    bench.admit(&bench.ask_rates(3, Rates::default())).await;
    // What was said earlier may arrive later: whoever is refused by it lifts it again.
    store.freeze(key, freeze(20, false)).await.unwrap();
    assert!(store.unfreeze(key, 21).await.unwrap());
}

pub async fn a_life_is_given_up_once<H: Harness>(bench: &Bench<'_, H>) {
    let fresh = bench.store().vacate(bench.key, stranger()).await.unwrap();
    assert_eq!(bench.life().await, fresh, "books that nobody had asked for");
    bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    assert_eq!(bench.store().vacate(bench.key, stranger()).await.unwrap(), fresh);
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 10, 0)], "it was another life that was given up");
    let second = bench.store().vacate(bench.key, fresh).await.unwrap();
    assert_eq!(bench.store().vacate(bench.key, fresh).await.unwrap(), second, "a delayed copy ends nothing");
    assert_eq!(bench.life().await, second);
}

pub async fn a_settlement_of_another_epoch_is_refused<H: Harness>(bench: &Bench<'_, H>) {
    let settle = |epoch, number| bench.store().settle(bench.key, epoch, reservation(number), settlement(5));
    assert!(matches!(settle(1, 1).await, Err(CounterError::Epoch { given: 1, current: 0, .. })));
    let life = bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.store().vacate(bench.key, life).await.unwrap();
    assert!(matches!(settle(1, 1).await, Err(CounterError::Epoch { given: 1, current: 0, .. })));
    bench.join(2, 10, 100).await;
    bench.admit(&bench.ask(2, 10)).await;
    assert!(matches!(settle(1, 1).await, Err(CounterError::Epoch { given: 1, current: 2, .. })));
    let cancelled = bench.store().settle(bench.key, 3, reservation(2), Settlement::CANCELLED).await;
    assert!(matches!(cancelled, Err(CounterError::Epoch { given: 3, current: 2, .. })));
    let shrunk = bench.store().shrink(bench.key, 1, reservation(2), NanoUsd::ZERO, Some(0)).await;
    assert!(matches!(shrunk, Err(CounterError::Epoch { given: 1, current: 2, .. })));
    assert_eq!(bench.sums().await, [(0, 1, 0), (0, 10, 0)]);
    bench.admit(&bench.ask(3, 10)).await;
    assert_eq!(settle(2, 3).await.unwrap(), Settled::Done { over_bound: false }, "a refusal marks no id");
}

pub async fn a_reservation_is_found_by_its_id_alone<H: Harness>(bench: &Bench<'_, H>) {
    bench.join(6, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    assert!(bench.store().shrink(bench.key, 0, reservation(1), NanoUsd::new(4), None).await.unwrap());
    let cancel = |number| bench.store().settle(bench.key, 0, reservation(number), Settlement::CANCELLED);
    assert_eq!(cancel(1).await.unwrap(), Settled::Done { over_bound: false });
    assert_eq!(cancel(2).await.unwrap(), Settled::Unknown);
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::Duplicate);
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}

pub async fn the_latest_answer_of_the_ledger_counts<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    let granted = async || (bench.books(REQUESTS).await.granted, bench.books(SPEND).await.granted);
    grant(bench, life, 1, 5, &[bench.slice(SPEND, 150)]).await;
    grant(bench, life, 1, 4, &[bench.slice(REQUESTS, 12), bench.slice(SPEND, 900)]).await;
    assert_eq!(granted().await, (12, 150), "each counter has a latest answer of its own");
    grant(bench, life, 1, 5, &[bench.slice(SPEND, 901)]).await;
    assert_eq!(granted().await, (12, 150), "the same answer again");
    let elsewhere = Grant { elsewhere: 7, ..bench.slice(SPEND, 150) };
    grant(bench, life, 1, 6, &[elsewhere]).await;
    grant(bench, life, 1, 3, &[bench.slice(SPEND, 902)]).await;
    let books = bench.books(SPEND).await;
    assert_eq!((books.granted, books.elsewhere), (150, 7), "an older answer does not know better");
    bench.admit(&bench.ask(1, 40)).await;
    grant(bench, life, 1, 8, &[bench.slice(SPEND, 60)]).await;
    assert_eq!(granted().await, (12, 60), "a later one may be lower");
    assert_eq!(short(bench.put(&bench.ask(2, 21)).await), [(1, 20)]);
    grant(bench, life, 1, 9, &[bench.slice(SPEND, 30)]).await;
    assert_eq!(short(bench.put(&bench.ask(2, 1)).await), [(1, 0)], "lower than what is held");
    grant(bench, life, 1, 10, &[bench.slice(SPEND, 500), bench.slice(SPEND, 70)]).await;
    assert_eq!(granted().await, (12, 500), "one answer says one thing of a counter");
}

pub async fn joining_needs_no_grants<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.life().await;
    grant(bench, life, 4, 11, &[]).await;
    let empty = Some(ClawBack { life, epoch: 4, serial: 11, holdings: Vec::new() });
    assert_eq!(bench.store().claw_back(bench.key).await.unwrap(), empty);
    bench.epoch.set(4);
    assert_eq!(bench.put(&bench.ask(1, 1)).await, Verdict::NoBooks(vec![0, 1]));
    grant(bench, life, 4, 11, &[bench.slice(SPEND, 5)]).await;
    assert!(bench.report().await.is_empty(), "a claw-back made it void");
    grant(bench, life, 4, 12, &[bench.slice(SPEND, 5)]).await;
    grant(bench, life, 4, 10, &[]).await;
    assert_eq!(bench.store().claw_back(bench.key).await.unwrap().unwrap().serial, 12);
}

pub async fn a_grant_for_another_key_is_refused<H: Harness>(bench: &Bench<'_, H>) {
    let other = bench.other();
    let life = other.life().await;
    let grants = vec![other.slice(REQUESTS, 5), bench.slice(SPEND, 5)];
    let refused = other.store().grant(other.key, &GrantSet { life, epoch: 1, serial: 1, grants: grants.clone() }).await;
    let named =
        matches!(refused, Err(CounterError::ForeignCounter { key, owner }) if key == other.key && owner == bench.key);
    assert!(named, "{refused:?}");
    assert!(other.report().await.is_empty());
    assert_eq!(other.store().claw_back(other.key).await.unwrap(), None, "nothing was applied");
    let refused = other.store().grant(other.key, &GrantSet { life: stranger(), epoch: 0, serial: 1, grants }).await;
    assert!(matches!(refused, Err(CounterError::ForeignCounter { .. })), "looked at first: {refused:?}");
}

pub async fn clawing_back_leaves_what_is_used_or_held<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(5, 10, 100).await;
    bench.admit(&bench.ask(1, 30)).await;
    bench.admit(&bench.ask(2, 20)).await;
    bench.settle(1, 10).await;
    let holdings = vec![(bench.counter(REQUESTS), 2), (bench.counter(SPEND), 30)];
    let expected = Some(ClawBack { life, epoch: 5, serial: 1, holdings });
    for _ in 0..2 {
        assert_eq!(sorted(bench.store().claw_back(bench.key).await.unwrap()), expected, "asked again, the same");
    }
    assert_eq!(short(bench.put(&bench.ask(3, 1)).await), [(0, 0), (1, 0)]);
    bench.settle(2, 5).await;
    assert_eq!(short(bench.put(&bench.ask(3, 16)).await), [(0, 0), (1, 15)], "what was held stays granted");
    grant(bench, life, 5, 2, &[bench.slice(REQUESTS, 3), bench.slice(SPEND, 31)]).await;
    bench.admit(&bench.ask(3, 16)).await;
}

pub async fn clawing_back_makes_earlier_answers_void<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    grant(bench, life, 1, 7, &[bench.slice(REQUESTS, 20)]).await;
    let holdings = vec![(bench.counter(REQUESTS), 0), (bench.counter(SPEND), 0)];
    let expected = Some(ClawBack { life, epoch: 1, serial: 7, holdings });
    assert_eq!(sorted(bench.store().claw_back(bench.key).await.unwrap()), expected);
    let weekly = bench.slice((Dimension::Spend, Window::Week), 50);
    grant(bench, life, 1, 6, &[bench.slice(SPEND, 500), weekly]).await;
    grant(bench, life, 1, 7, &[bench.slice(SPEND, 500), weekly]).await;
    assert_eq!(bench.report().await.len(), 2, "a counter is not begun by a void answer");
    assert_eq!(bench.books(SPEND).await.granted, 0);
    grant(bench, life, 1, 8, &[bench.slice(SPEND, 500), weekly]).await;
    assert_eq!(bench.report().await.len(), 3);
    assert_eq!(bench.books(SPEND).await.granted, 500);
    let next = bench.store().vacate(bench.key, life).await.unwrap();
    grant(bench, next, 2, 1, &[bench.slice(SPEND, 500)]).await;
    assert_eq!(bench.books(SPEND).await.granted, 500, "the answers of another epoch are numbered anew");
}

pub async fn a_frozen_key_reserves_nothing_and_still_settles<H: Harness>(bench: &Bench<'_, H>) {
    let life = bench.join(1, 10, 100).await;
    bench.admit(&bench.ask(1, 10)).await;
    bench.store().freeze(bench.key, ONCE).await.unwrap();
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::Frozen);
    assert_eq!(bench.put(&bench.ask_rates(2, Rates::default())).await, Verdict::Frozen);
    bench.admit(&bench.ask(1, 10)).await;
    assert_eq!(bench.settle(1, 10).await, Settled::Done { over_bound: false });
    bench.store().vacate(bench.key, life).await.unwrap();
    bench.join(2, 10, 100).await;
    assert_eq!(bench.put(&bench.ask(2, 10)).await, Verdict::Frozen, "a new life does not thaw");
    bench.store().unfreeze(bench.key, LATER).await.unwrap();
    bench.admit(&bench.ask(2, 10)).await;
    let other = bench.other();
    other.store().unfreeze(other.key, LATER).await.unwrap();
    other.store().freeze(other.key, ONCE).await.unwrap();
    assert_eq!(other.put(&other.ask_rates(1, Rates::default())).await, Verdict::Frozen, "books nobody had asked for");
    other.life().await;
}

pub async fn a_key_without_limits_needs_no_epoch<H: Harness>(bench: &Bench<'_, H>) {
    let rates = Rates { requests_per_minute: Some(1), ..Rates::default() };
    let ask = |number| Ask { epoch: 9, ..bench.ask_rates(number, rates) };
    let requests = Some(RateLeft { remaining: 0, reset: Duration::from_secs(60) });
    let admission = bench.admit(&ask(1)).await;
    assert_eq!((admission.rates.requests, admission.counters.len()), (requests, 0));
    assert_eq!(bench.admit(&ask(1)).await, admission, "asked again");
    assert!(matches!(bench.put(&ask(2)).await, Verdict::RateLimited(_)));
    assert_eq!(bench.settle(1, 10).await, Settled::Done { over_bound: false });
    assert_eq!(bench.settle(1, 10).await, Settled::Duplicate);
    assert_eq!(bench.put(&ask(1)).await, Verdict::Duplicate);
    assert!(bench.report().await.is_empty());
    bench.advance(Duration::from_secs(60));
    bench.admit(&ask(3)).await;
    bench.join(1, 1, 1).await;
    let settled = bench.store().settle(bench.key, 0, reservation(3), settlement(10)).await.unwrap();
    assert_eq!(settled, Settled::Done { over_bound: false }, "a first limit forgets no request");
    assert_eq!(bench.sums().await, [(0, 0, 0); 2]);
}
