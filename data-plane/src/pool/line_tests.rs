//! Who is next, who is sent away, and that those who come back as told are served.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

fn key(number: u8) -> KeyId {
    KeyId::from_ascii(format!("key{number:09}").as_bytes()).unwrap()
}

fn at(millis: u64) -> Moment {
    Moment::default().plus(Duration::from_millis(millis))
}

fn wish(number: u8, now: u64, ready: u64, per_second: f64) -> Wish {
    Wish { key: key(number), now: at(now), ready: at(ready), per_second, patience: Duration::from_secs(10) }
}

fn place(line: &Arc<Line>, number: u8) -> Place {
    match line.join(wish(number, 0, 0, 1_000.0)) {
        Granted::Place(place) => place,
        Granted::Later(wait) => panic!("sent away for {wait:?}"),
    }
}

#[test]
fn a_key_is_served_in_its_order_and_keys_in_turn() {
    let line = Arc::new(Line::default());
    let order = [1, 1, 1, 2, 3, 2];
    let mut places: Vec<_> = order.iter().map(|number| Some((*number, place(&line, *number)))).collect();
    let mut served = Vec::new();
    while !line.is_empty() {
        let next = places.iter().position(|place| place.as_ref().is_some_and(|(_, place)| place.is_next())).unwrap();
        served.push((places[next].take().unwrap().0, next));
    }
    assert_eq!(served, [(1, 0), (2, 3), (3, 4), (1, 1), (2, 5), (1, 2)]);
}

#[tokio::test]
async fn whoever_is_next_is_woken_and_nobody_waits_behind_one_who_left() {
    let line = Arc::new(Line::default());
    let (first, second, third) = (place(&line, 1), place(&line, 2), place(&line, 3));
    assert_eq!(first.next().now_or_never(), Some(()));
    assert_eq!(third.next().now_or_never(), None);
    drop(second);
    {
        let woken = third.next();
        tokio::pin!(woken);
        assert!(woken.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(woken.now_or_never(), Some(()));
    }
    drop(third);
    assert!(line.is_empty() && line.0.lock().waiting.is_empty());
}

#[test]
fn a_wait_beyond_patience_is_told_instead_and_the_moment_kept_free() {
    let line = Arc::new(Line::default());
    let mut waiting = Vec::new();
    let mut told = Vec::new();
    // Ten a second, and two hundred come at once: a hundred can wait.
    for number in 0..200 {
        match line.join(wish(number, 0, 0, 10.0)) {
            Granted::Place(place) => waiting.push(place),
            Granted::Later(wait) => told.push((number, wait)),
        }
    }
    assert_eq!((waiting.len(), told.len()), (101, 99));
    assert_eq!(told[0].1, Duration::from_millis(10_100));
    assert!(told.windows(2).all(|two| two[0].1 < two[1].1), "each its own moment");
    waiting.clear();
    for (number, wait) in told {
        let now = u64::try_from(wait.as_millis()).unwrap();
        let granted = line.join(wish(number, now, now + 9_000, 10.0));
        assert!(matches!(granted, Granted::Place(_)), "{number} came back as told");
    }
}

#[test]
fn a_pool_that_is_shut_for_a_while_is_not_taken_for_a_slow_one() {
    let line = Arc::new(Line::default());
    // Shut for five seconds, and then a hundred a second.
    let wishes = [wish(1, 0, 5_000, 100.0), wish(2, 2_000, 2_000, 100.0), wish(3, 2_000, 2_000, 100.0)];
    let places: Vec<_> = wishes.into_iter().map(|wish| line.join(wish)).collect();
    assert!(places.iter().all(|granted| matches!(granted, Granted::Place(_))), "all are served within ten seconds");
}

#[test]
fn no_moment_is_kept_free_for_more_than_a_minute_and_asking_again_and_again_keeps_no_more_free() {
    let line = Arc::new(Line::default());
    let far = wish(1, 0, 59_000, 100.0);
    for _ in 0..10_000 {
        let Granted::Later(wait) = line.join(far) else { panic!("nothing is ready for a minute") };
        assert!(wait <= Duration::from_secs(60));
    }
    assert_eq!(line.0.lock().promised, MOST_PROMISES_OF_KEY);
    let Granted::Later(_) = line.join(wish(2, 200_000, 220_000, 10.0)) else { panic!("still not") };
    assert_eq!(line.0.lock().promised, 1, "what nobody came for is forgotten");
}

/// A wish of a key that waits for nothing.
fn hammering(number: u8, now: u64, per_second: f64) -> Wish {
    Wish { patience: Duration::ZERO, ..wish(number, now, now + 500, per_second) }
}

#[test]
fn a_key_that_hammers_and_never_comes_back_starves_no_other() {
    let line = Arc::new(Line::default());
    for _ in 0..1_000 {
        assert!(matches!(line.join(hammering(1, 0, 1.0)), Granted::Later(_)));
    }
    let Granted::Place(place) = line.join(wish(2, 0, 500, 1.0)) else { panic!("a key keeps all from the others") };
    drop(place);
    for second in 1..60 {
        let now = second * 1_000;
        // A place that it gets it leaves at once.
        (0..100).for_each(|_| drop(line.join(hammering(1, now, 1.0))));
        let Granted::Place(place) = line.join(wish(2, now, now + 500, 1.0)) else { panic!("after {second} s") };
        place.served(at(now + 500));
    }
}

#[test]
fn moments_that_nobody_came_for_and_places_that_were_left_are_free_again() {
    let line = Arc::new(Line::default());
    let soon = |now: u64| Wish { patience: Duration::from_millis(100), ..wish(2, now, now, 10.0) };
    let places: Vec<_> = (0..50).map(|_| line.join(wish(1, 0, 0, 10.0))).collect();
    assert!(matches!(line.join(soon(0)), Granted::Later(_)), "five seconds are taken");
    drop(places);
    let line = Arc::new(Line::default());
    let places: Vec<_> = (0..50).map(|_| line.join(wish(1, 0, 0, 10.0))).collect();
    drop(places);
    assert!(matches!(line.join(soon(0)), Granted::Place(_)), "and given back by those who left");
    let line = Arc::new(Line::default());
    for number in 3..103 {
        assert!(matches!(line.join(hammering(number, 0, 1.0)), Granted::Later(_)));
    }
    assert!(matches!(line.join(soon(1_000)), Granted::Later(_)), "a minute is promised");
    let far = 80_000;
    assert!(matches!(line.join(soon(far)), Granted::Place(_)), "and nobody came");
    assert_eq!(line.0.lock().promised, 0);
}

#[test]
fn the_line_is_bounded_for_each_key_and_for_all() {
    let line = Arc::new(Line::default());
    let join = |number: u8| match line.join(wish(number, 0, 0, 100_000.0)) {
        Granted::Place(place) => Some(place),
        Granted::Later(_) => None,
    };
    let mut places: Vec<_> = (0..1_000).filter_map(|_| join(1)).collect();
    assert_eq!(places.len(), MOST_OF_KEY);
    for number in 2..20 {
        places.extend((0..1_000).filter_map(|_| join(number)));
    }
    assert_eq!((places.len(), line.waiting()), (MOST_WAITING, MOST_WAITING));
}

#[test]
fn who_must_wait_for_minutes_is_told_so_and_keeps_nobody_else_out_until_then() {
    let line = Arc::new(Line::default());
    for number in 1..100 {
        let Granted::Later(wait) = line.join(wish(number, 0, 600_000, 1.0)) else { panic!("waits for minutes") };
        assert_eq!(wait, Duration::from_secs(600));
    }
    assert_eq!(line.0.lock().promised, 0);
    let early = line.join(wish(1, 1_000, 1_500, 1.0));
    assert!(matches!(early, Granted::Place(_)), "another credential was added");
}

proptest! {
    /// Whatever joins and leaves: one is next as long as anyone waits, and nothing is left behind.
    #[test]
    fn one_is_next_as_long_as_anyone_waits(steps in prop::collection::vec((0..6_u8, any::<bool>(), 0..32_usize), 1..200)) {
        let line = Arc::new(Line::default());
        let mut places: Vec<Place> = Vec::new();
        for (number, joins, which) in steps {
            if joins || places.is_empty() {
                places.push(place(&line, number));
            } else {
                places.remove(which % places.len());
            }
            prop_assert_eq!(line.waiting(), places.len());
            prop_assert_eq!(places.iter().filter(|place| place.is_next()).count(), usize::from(!places.is_empty()));
        }
        places.clear();
        let state = line.0.lock();
        prop_assert!(state.keys.is_empty() && state.waiting.is_empty() && state.count == 0);
    }
}
