//! The vault keys at hand, each under its term: one seals, the others are for reading.
//!
//! Which one seals is the database's word, the same for all control planes that share it; which ones are at hand, and which one is wanted to seal,
//! is the configuration's.

use std::sync::Arc;

use keyforge_shared::id::{DeploymentId, KekId};

use super::kek::Kek;

/// A vault key at hand.
#[derive(Clone)]
pub struct HeldKey {
    /// Its number among the vault keys that the deployment has had.
    pub term: u32,
    /// What tells it from others.
    pub id: KekId,
    /// The key.
    pub kek: Arc<Kek>,
    /// Whether the configuration names it. It did when the process began, for every key at hand.
    pub configured: bool,
}

/// The vault keys at hand.
pub struct Keyring {
    current: HeldKey,
    others: Vec<HeldKey>,
    wanted: u32,
}

impl Keyring {
    /// The keys of a configuration, with the terms that they have in `deployment`: the wanted one, and those for reading. The one of the term
    /// `sealing` seals; `None` when it is not among them.
    #[must_use]
    pub fn new(
        deployment: DeploymentId,
        (wanted, previous): (&Arc<Kek>, &[Arc<Kek>]),
        term_of: impl Fn(KekId) -> u32,
        sealing: u32,
    ) -> Option<Self> {
        let held = |kek: &Arc<Kek>| {
            let id = kek.id(deployment);
            HeldKey { term: term_of(id), id, kek: Arc::clone(kek), configured: true }
        };
        let wanted = held(wanted);
        let term = wanted.term;
        let (current, others): (Vec<_>, Vec<_>) =
            std::iter::once(wanted).chain(previous.iter().map(held)).partition(|held| held.term == sealing);
        current.into_iter().next().map(|current| Self { current, others, wanted: term })
    }

    /// One key alone, which has the first term.
    #[must_use]
    pub fn of_one(deployment: DeploymentId, kek: Arc<Kek>) -> Self {
        let current = HeldKey { term: 1, id: kek.id(deployment), kek, configured: true };
        Self { current, others: Vec::new(), wanted: 1 }
    }

    /// The key that seals.
    #[must_use]
    pub const fn current(&self) -> &HeldKey {
        &self.current
    }

    /// The key that the configuration wants to seal.
    #[must_use]
    pub fn wanted(&self) -> &HeldKey {
        self.of_term(self.wanted).unwrap_or(&self.current)
    }

    /// The key of a term.
    #[must_use]
    pub fn of_term(&self, term: u32) -> Option<&HeldKey> {
        self.all().find(|held| held.term == term)
    }

    /// Every key, the one that seals first.
    pub fn all(&self) -> impl Iterator<Item = &HeldKey> {
        std::iter::once(&self.current).chain(&self.others)
    }

    /// The same keys, of which that of another term seals; `None` when it is not at hand.
    pub(super) fn sealing_with(&self, term: u32) -> Option<Self> {
        let (current, others): (Vec<_>, Vec<_>) = self.all().cloned().partition(|held| held.term == term);
        current.into_iter().next().map(|current| Self { current, others, wanted: self.wanted })
    }

    /// These keys, and those of `earlier` that they lack, for reading.
    pub(super) fn and_for_reading(mut self, earlier: &Self) -> Self {
        let lacking = earlier.all().filter(|held| self.of_term(held.term).is_none());
        let lacking: Vec<_> = lacking.map(|held| HeldKey { configured: false, ..held.clone() }).collect();
        self.others.extend(lacking);
        self
    }
}
