//! Names for new lives: books whose life has ended begin the one that the question brought along.
//!
//! No name is given twice: it begins with random bytes of this process and ends with a number that rises.

use std::sync::atomic::{AtomicU64, Ordering};

use keyforge_shared::id::LifeId;

/// Where the names come from.
pub(super) struct Lives {
    /// Of this process; its last six bytes are replaced.
    seed: [u8; 16],
    given: AtomicU64,
}

impl Lives {
    /// A source that shares no name with any other.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { seed: *LifeId::generate()?.as_bytes(), given: AtomicU64::new(0) })
    }

    /// The next name. After 2^48 of them, thousands of years from here, they repeat.
    pub(super) fn next(&self) -> LifeId {
        let mut bytes = self.seed;
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        bytes[10..].copy_from_slice(&number.to_be_bytes()[2..]);
        LifeId::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_life_is_named_twice_by_one_process_or_two() {
        let (one, other) = (Lives::new().unwrap(), Lives::new().unwrap());
        let names: HashSet<_> = (0..1_000).flat_map(|_| [one.next(), other.next()]).collect();
        assert_eq!(names.len(), 2_000);
    }
}
