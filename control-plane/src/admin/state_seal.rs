//! The seal that tells, at start, whether workspaces, keys, models, credentials or operators were changed by something other than this program.
//!
//! It is written in the transaction of every change. What goes into it comes from memory, where it was loaded under a seal that held, and never
//! from rows that somebody may have changed meanwhile: such a change is found at the next start, and is not sealed before.

use std::collections::HashMap;

use keyforge_shared::id::OperatorId;
use keyforge_shared::state::{Change, State};
use keyforge_shared::state_seal::{SealKey, SealSum};
use keyforge_shared::token::TokenDigest;

use super::deployment::OpenError;
use crate::audit::Audit;
use crate::store::deployment::Deployment;
use crate::store::operators::{self, Operator};

/// Seals states of one deployment.
pub struct StateSeal {
    key: SealKey,
    operators: HashMap<TokenDigest, OperatorId>,
    operators_digest: [u8; 32],
}

impl StateSeal {
    /// A seal for the deployment of `audit` with these operators.
    #[must_use]
    pub fn new(audit: &Audit, operators: &[Operator]) -> Self {
        Self {
            key: audit.state_seal_key(),
            operators: operators.iter().map(|operator| (operator.digest, operator.id)).collect(),
            operators_digest: operators::digest(operators),
        }
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

    /// What is to be stored beside the state at `revision`.
    #[must_use]
    pub fn seal(&self, revision: u64, sum: SealSum) -> [u8; 32] {
        self.key.seal(revision, sum, &self.operators_digest)
    }

    /// Whether `stored` is the seal of the state with this sum at `revision`.
    #[must_use]
    pub fn holds(&self, revision: u64, sum: SealSum, stored: &[u8]) -> bool {
        self.key.holds(stored, revision, sum, &self.operators_digest)
    }

    /// Refuses a state that is not the one that was sealed.
    ///
    /// # Errors
    /// [`OpenError::StateChanged`].
    pub fn check(&self, deployment: &Deployment, sum: SealSum) -> Result<(), OpenError> {
        if self.holds(deployment.revision, sum, &deployment.state_seal) { Ok(()) } else { Err(OpenError::StateChanged) }
    }

    /// The operator whose token has this digest.
    #[must_use]
    pub fn operator(&self, digest: &TokenDigest) -> Option<OperatorId> {
        self.operators.get(digest).copied()
    }
}
