//! Pools: which credentials of a provider a request may use, and in which order.
//!
//! Requests go round all credentials of the model's provider that are enabled and whose secret the node holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Remembers whose turn it is.
#[derive(Default)]
pub struct Pools {
    turn: AtomicUsize,
}

impl Pools {
    /// The credentials that can serve `provider` now, the one whose turn it is first.
    #[must_use]
    pub fn candidates(&self, replica: &Replica, provider: &ProviderName) -> Vec<Candidate> {
        let usable = replica.credentials(|credential| credential.enabled && credential.provider == *provider);
        let with_secret = |credential: Arc<CredentialRecord>| {
            let authorization = replica.secrets.get(credential.id, credential.secret_version)?;
            Some(Candidate { credential, authorization })
        };
        let mut candidates: Vec<_> = usable.into_iter().filter_map(with_secret).collect();
        if candidates.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len();
            candidates.rotate_left(turn);
        }
        candidates
    }
}
