//! Pools: which credentials of a provider a request may use, and in which order.
//!
//! Requests spread evenly over all credentials of the model's provider that are enabled and whose secret the node holds.

use std::sync::Arc;

use keyforge_shared::catalog::ProviderName;
use keyforge_shared::state::CredentialRecord;

use crate::replica::Replica;
use crate::replica::secrets::Authorization;

/// A credential with its secret.
#[derive(Clone)]
pub struct Candidate {
    /// The credential.
    pub credential: Arc<CredentialRecord>,
    /// The header that carries its secret.
    pub authorization: Arc<Authorization>,
}

/// The credentials that can serve `provider` now. Which is first depends on `spread`, a number that is as good as random.
#[must_use]
pub fn candidates(replica: &Replica, provider: &ProviderName, spread: u64) -> Vec<Candidate> {
    let usable = replica.credentials(|credential| credential.enabled && credential.provider == *provider);
    let with_secret = |credential: Arc<CredentialRecord>| {
        let authorization = replica.secrets.get(credential.id, credential.secret_version)?;
        Some(Candidate { credential, authorization })
    };
    let mut candidates: Vec<_> = usable.into_iter().filter_map(with_secret).collect();
    if let Some(turn) = usize::try_from(spread).ok().and_then(|spread| spread.checked_rem(candidates.len())) {
        candidates.rotate_left(turn);
    }
    candidates
}
