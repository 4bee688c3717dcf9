//! Which of those that can serve a request does: of two drawn by weight, the one with more left.
//!
//! Two draws, and not the best of all, so that nodes which know the same do not all choose the same. How fast answers came never counts: nothing
//! answers as fast as a refusal.
//!
//! Pure: chance is given.

/// One that can serve a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eligible {
    /// Which.
    pub index: usize,
    /// How often it is drawn, compared with the others; from 1.
    pub weight: u32,
    /// The part of its limits that is left, from 0 to 1.
    pub left: f64,
    /// Requests on their way to it.
    pub in_flight: usize,
}

/// Chooses one; `None` when there is none. `chance` gives numbers from 0 to 1, without 1.
#[must_use]
pub fn choose(eligible: &[Eligible], mut chance: impl FnMut() -> f64) -> Option<usize> {
    let first = draw(eligible, None, chance())?;
    let Some(second) = draw(eligible, Some(first), chance()) else { return Some(eligible[first].index) };
    let (one, other) = (eligible[first], eligible[second]);
    let load = |one: &Eligible| one.in_flight as f64 / f64::from(one.weight.max(1));
    let order = one.left.total_cmp(&other.left).then(load(&other).total_cmp(&load(&one)));
    Some(if order.is_lt() { other.index } else { one.index })
}

/// Draws one by weight, other than `without`.
fn draw(eligible: &[Eligible], without: Option<usize>, chance: f64) -> Option<usize> {
    let others = || eligible.iter().enumerate().filter(|(at, _)| Some(*at) != without);
    let total: u64 = others().map(|(_, one)| u64::from(one.weight.max(1))).sum();
    let mut point = chance * total as f64;
    let mut last = None;
    for (at, one) in others() {
        last = Some(at);
        point -= f64::from(one.weight.max(1));
        if point < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chance::Chance;
    use super::*;

    fn one(index: usize, weight: u32, left: f64) -> Eligible {
        Eligible { index, weight, left, in_flight: 0 }
    }

    fn counts(eligible: &[Eligible], draws: usize) -> Vec<usize> {
        let mut chance = Chance::seeded(7);
        let mut counts = vec![0; eligible.len()];
        for _ in 0..draws {
            counts[choose(eligible, || chance.draw()).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn of_two_the_one_with_more_left_is_chosen() {
        assert_eq!(counts(&[one(0, 1, 0.2), one(1, 1, 0.9)], 100), [0, 100]);
        let mut busy = one(0, 1, 0.5);
        busy.in_flight = 3;
        assert_eq!(counts(&[busy, one(1, 1, 0.5)], 100), [0, 100], "of equals the one with less to do");
        assert_eq!(choose(&[], || 0.5), None);
        assert_eq!(choose(&[one(4, 1, 0.0)], || 0.5), Some(4));
    }

    #[test]
    fn equals_are_chosen_by_weight() {
        let counts = counts(&[one(0, 1, 1.0), one(1, 2, 1.0), one(2, 7, 1.0)], 10_000);
        assert!((800..1_200).contains(&counts[0]) && (6_700..7_300).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn the_worst_of_many_is_never_chosen_and_no_other_takes_all() {
        let eligible: Vec<_> = (0..10).map(|index| one(index, 1, index as f64 / 10.0)).collect();
        let counts = counts(&eligible, 10_000);
        assert_eq!(counts[0], 0);
        assert!(counts[9] < 3_000, "{counts:?}");
    }

    proptest! {
        #[test]
        fn whatever_is_chosen_was_eligible(
            all in prop::collection::vec((1..100_u32, 0.0..=1.0_f64, 0..50_usize), 1..12),
            seed in any::<u64>(),
        ) {
            let eligible: Vec<_> = all.iter().enumerate()
                .map(|(at, &(weight, left, in_flight))| Eligible { index: 100 + at, weight, left, in_flight })
                .collect();
            let mut chance = Chance::seeded(seed);
            let chosen = choose(&eligible, || chance.draw()).unwrap();
            prop_assert!((100..100 + all.len()).contains(&chosen));
        }
    }
}
