//! The seal that tells, at start, whether workspaces, keys, models, credentials or operators were changed by something other than this program.
//!
//! It is written in the transaction of every change. What goes into it comes from memory, where it was loaded under a seal that held, and never
//! from rows that somebody may have changed meanwhile: such a change is found at the next start, and is not sealed before.

use keyforge_shared::state::{Change, State};
use keyforge_shared::state_seal::{SealKey, SealSum};

use super::deployment::OpenError;
use super::roster::Roster;
use crate::audit::Audit;
use crate::store::deployment::Deployment;

/// Seals states of one deployment.
pub struct StateSeal {
    key: SealKey,
}

impl StateSeal {
    /// Seals for the deployment of `audit`.
    #[must_use]
    pub fn new(audit: &Audit) -> Self {
        Self { key: audit.state_seal_key() }
    }

    /// The sum over a state, from which its seal and that of the next one follow.
    #[must_use]
    pub fn sum(&self, state: &State) -> SealSum {
        self.key.sum(state)
    }

    /// The sum that `state`, which has `sum`, will have after `changes`.
    #[must_use]
    pub fn sum_after(&self, sum: SealSum, state: &State, changes: &[Change]) -> SealSum {
        self.key.sum_after(sum, state, changes)
    }

    /// What is to be stored beside the state at `revision`, with these operators.
    #[must_use]
    pub fn seal(&self, revision: u64, sum: SealSum, roster: &Roster) -> [u8; 32] {
        self.key.seal(revision, sum, roster.digest())
    }

    /// Whether `stored` is the seal of the state with this sum at `revision`, with operators of this digest.
    #[must_use]
    pub fn holds(&self, revision: u64, sum: SealSum, operators: &[u8; 32], stored: &[u8]) -> bool {
        self.key.holds(stored, revision, sum, operators)
    }

    /// Refuses a state, or operators, that are not the ones that were sealed.
    ///
    /// # Errors
    /// [`OpenError::StateChanged`].
    pub fn check(&self, deployment: &Deployment, sum: SealSum, roster: &Roster) -> Result<(), OpenError> {
        let holds = self.holds(deployment.revision, sum, roster.digest(), &deployment.state_seal);
        if holds { Ok(()) } else { Err(OpenError::StateChanged) }
    }
}
