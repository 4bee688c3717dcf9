//! A pool: the credentials that can serve one model, each with its places in the registry.

use std::sync::Arc;

use keyforge_shared::catalog::Model;
use keyforge_shared::provider;
use keyforge_shared::state::CredentialRecord;
use sha2::{Digest, Sha256};

use super::family;
use super::line::Line;
use super::registry::{BudgetAt, GateAt, GateName, LimitAt, Registry};
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

/// A credential of a pool.
pub struct Member {
    /// The credential with its secret.
    pub candidate: Candidate,
    /// The gates that its requests pass: credential, right, limit, host.
    pub gates: [GateAt; Self::GATES],
    /// What is left of its limit group's limits.
    pub limit: LimitAt,
    /// What agents know it by: the same for all requests, and of no use to anybody else.
    pub slot: String,
}

impl Member {
    /// How many gates a request passes.
    pub const GATES: usize = 4;
    /// The place of the credential's gate.
    pub const CREDENTIAL: usize = 0;
    /// The place of the gate of its right to a family.
    pub const RIGHT: usize = 1;
    /// The place of its limit group's gate.
    pub const LIMIT: usize = 2;
    /// The place of its host's gate.
    pub const HOST: usize = 3;

    fn new(candidate: Candidate, family: &str, registry: &mut Registry) -> Self {
        let record = &candidate.credential;
        let (id, version, provider) = (record.id, record.secret_version, record.provider.0.clone());
        let (group, url, family) = (record.limit_group.clone(), record.base_url.clone(), family.to_owned());
        let limit = registry.limit_at(&provider, &group, &family);
        let names = [
            GateName::Credential(id, version),
            GateName::Right(id, version, family.clone()),
            GateName::Limit(provider.clone(), group, family.clone()),
            GateName::Host(provider, url, family),
        ];
        let slot = Sha256::digest([b"keyforge pool slot".as_slice(), id.as_bytes()].concat());
        let slot = slot.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let gates = names.map(|name| registry.gate_at(&name));
        registry.used(record, &gates, limit);
        Self { slot, gates, limit, candidate }
    }
}

/// The credentials that can serve one model, as of one revision of the state.
pub struct Pool {
    /// Of the state.
    pub revision: u64,
    /// The provider's name.
    pub provider: String,
    /// Models that share their limits with this one.
    pub family: String,
    /// The credentials.
    pub members: Vec<Member>,
    /// How much may be tried again.
    pub budget: BudgetAt,
    /// Where requests wait.
    pub line: Arc<Line>,
    /// Whether every credential that is enabled has its secret.
    pub is_whole: bool,
}

impl Pool {
    /// The family that a model belongs to.
    #[must_use]
    pub fn family_of(model: &Model) -> String {
        family::of(provider::of(&model.provider.0).api, &model.upstream_name).into_owned()
    }

    /// All enabled credentials of the model's provider whose secret the node holds.
    #[must_use]
    pub fn new(replica: &Replica, model: &Model, line: Arc<Line>, registry: &mut Registry) -> Self {
        let revision = replica.revision();
        let provider = model.provider.0.clone();
        let family = Self::family_of(model);
        let usable = replica.credentials(|credential| credential.enabled && credential.provider == model.provider);
        let enabled = usable.len();
        let with_secret = |credential: Arc<CredentialRecord>| {
            let authorization = replica.secrets.get(credential.id, credential.secret_version)?;
            Some(Candidate { credential, authorization })
        };
        let candidates = usable.into_iter().filter_map(with_secret);
        let members: Vec<_> = candidates.map(|candidate| Member::new(candidate, &family, registry)).collect();
        let budget = registry.budget_at(&provider);
        Self { revision, provider, family, is_whole: members.len() == enabled, members, budget, line }
    }
}
