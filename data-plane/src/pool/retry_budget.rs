//! How much may be tried again: a fifth of what is tried at all, so that a provider in trouble is not asked several times as much.
//!
//! Pure: a bucket that every request fills a little and every further attempt empties by one.

/// What a request adds.
const PART: f64 = 0.2;
/// So much may be saved up, and is there at the start: a quiet provider's first refusals are replayed as well.
const MOST: f64 = 100.0;

/// The budget of one provider.
#[derive(Clone, Copy, Debug)]
pub struct RetryBudget(f64);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(MOST)
    }
}

impl RetryBudget {
    /// A request's first attempt.
    pub fn earn(&mut self) {
        self.0 = (self.0 + PART).min(MOST);
    }

    /// A further attempt, if the budget allows it.
    #[must_use]
    pub fn spend(&mut self) -> bool {
        let allowed = self.0 >= 1.0;
        if allowed {
            self.0 -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_a_fifth_is_tried_again() {
        let mut budget = RetryBudget::default();
        let mut replays = 0;
        for _ in 0..10_000 {
            budget.earn();
            replays += usize::from(budget.spend());
        }
        assert!((2_000..=2_100).contains(&replays), "{replays}");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let mut budget = RetryBudget::default();
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), 100);
    }
}
