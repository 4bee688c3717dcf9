//! The seal of the replicated state where it is stored: whoever lacks the audit root key cannot change workspaces, keys, models, credentials or
//! operators unnoticed.
//!
//! ```text
//! K_s  = HKDF-Expand(R, "kf/state/seal/v1" || deployment_id)
//! tag  = HMAC(K_s, 0x00 || "keyforge/state/record/v1\0" || record digest)
//! sum  = sum of all tags modulo 2^256, little-endian
//! seal = HMAC(K_s, 0x01 || "keyforge/state/seal/v1\0" || deployment_id || u64 revision || sum || operators)
//! ```
//!
//! The sum does not depend on an order, so that a change costs as much as what it changes. It is over tags and not over the digests themselves,
//! which everybody can compute: among enough made-up records, some would make up for any change of a plain sum (a generalised birthday attack).

use hashbrown::HashMap;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::id::DeploymentId;
use crate::secret::Key256;
use crate::state::{Change, Resource, ResourceId, SetHash, State};

const KEY_DOMAIN: &[u8] = b"kf/state/seal/v1";
const RECORD_DOMAIN: &[u8] = b"keyforge/state/record/v1\0";
const SEAL_DOMAIN: &[u8] = b"keyforge/state/seal/v1\0";

/// The sum of the tags of a set. It stays in memory: only the seal over it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealSum(SetHash);

/// The key that seals the state of one deployment.
pub struct SealKey {
    mac: Hmac<Sha256>,
    deployment: DeploymentId,
}

impl SealKey {
    /// Derives the key of `deployment` from its audit root key.
    #[must_use]
    pub fn derive(root: &Key256, deployment: DeploymentId) -> Self {
        Self { mac: root.expand(&[KEY_DOMAIN, deployment.as_bytes()]).hmac(), deployment }
    }

    /// The sum over a whole state.
    #[must_use]
    pub fn sum(&self, state: &State) -> SealSum {
        let mut sum = SetHash::default();
        for resource in state.resources() {
            sum.add(&self.tag(&resource));
        }
        SealSum(sum)
    }

    /// The sum that `state`, which has `sum`, will have after `changes` in that order.
    #[must_use]
    pub fn sum_after(&self, sum: SealSum, state: &State, changes: &[Change]) -> SealSum {
        let SealSum(mut sum) = sum;
        let mut touched: HashMap<ResourceId, Option<[u8; 32]>> = HashMap::new();
        for change in changes {
            let (id, after) = match change {
                Change::Upsert(resource) => (resource.id(), Some(self.tag(resource))),
                Change::Remove(id) => (id.clone(), None),
            };
            let held = || state.get(&id).map(|resource| self.tag(&resource));
            let before = touched.get(&id).copied().unwrap_or_else(held);
            if let Some(tag) = before {
                sum.remove(&tag);
            }
            if let Some(tag) = after {
                sum.add(&tag);
            }
            touched.insert(id, after);
        }
        SealSum(sum)
    }

    /// The seal of a state at `revision` with `sum`, beside operators whose digest is `operators`.
    #[must_use]
    pub fn seal(&self, revision: u64, sum: SealSum, operators: &[u8; 32]) -> [u8; 32] {
        let parts = [self.deployment.as_bytes().as_slice(), &revision.to_be_bytes(), sum.0.as_bytes(), operators];
        self.mac(1, SEAL_DOMAIN, &parts)
    }

    /// Whether `stored` is the seal of all that, in constant time.
    #[must_use]
    pub fn holds(&self, stored: &[u8], revision: u64, sum: SealSum, operators: &[u8; 32]) -> bool {
        self.seal(revision, sum, operators).as_slice().ct_eq(stored).into()
    }

    fn tag(&self, resource: &Resource) -> [u8; 32] {
        self.mac(0, RECORD_DOMAIN, &[&resource.digest()])
    }

    fn mac(&self, kind: u8, domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.mac.clone();
        mac.update(&[kind]);
        mac.update(domain);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::ProviderName;
    use crate::id::{ChainId, CredentialId, KeyId, WorkspaceId};
    use crate::policy::Policy;
    use crate::state::{CredentialRecord, KeyRecord, KeyStatus};
    use crate::token::TokenDigest;

    const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 16]);

    fn key() -> SealKey {
        SealKey::derive(&Key256::new([7; 32]), DEPLOYMENT)
    }

    fn virtual_key(number: u8, status: KeyStatus) -> Resource {
        let id = KeyId::from_ascii(format!("key{number:09}").as_bytes()).unwrap();
        let (digest, chain) = (TokenDigest([number; 32]), ChainId::from_bytes([number; 16]));
        let (name, policy) = ("k".to_owned(), Arc::new(Policy::default()));
        let workspace = WorkspaceId::from_bytes([0; 16]);
        let status_revision = 0;
        Resource::Key(Arc::new(KeyRecord {
            id,
            digest,
            name,
            status,
            status_revision,
            policy,
            chain,
            workspace,
            former: None,
        }))
    }

    fn credential(number: u8, base_url: &str) -> Resource {
        Resource::Credential(Arc::new(CredentialRecord {
            id: CredentialId::from_bytes([number; 16]),
            provider: ProviderName("openai".to_owned()),
            pool: "default".to_owned(),
            base_url: base_url.to_owned(),
            limit_group: "g".to_owned(),
            secret_version: 1,
            enabled: true,
            weight: 1,
        }))
    }

    fn change() -> impl Strategy<Value = Change> {
        (0u8..4, 0u8..5).prop_map(|(number, action)| match action {
            0 => Change::Upsert(virtual_key(number, KeyStatus::Active)),
            1 => Change::Upsert(virtual_key(number, KeyStatus::Revoked)),
            2 => Change::Upsert(credential(number, "https://a.example")),
            3 => Change::Remove(credential(number, "").id()),
            _ => Change::Remove(virtual_key(number, KeyStatus::Active).id()),
        })
    }

    proptest! {
        #[test]
        fn sum_told_before_a_commit_is_the_one_after_it_however_often_a_record_is_touched(
            commits in proptest::collection::vec(proptest::collection::vec(change(), 0..8), 0..12)
        ) {
            let (key, mut state) = (key(), State::default());
            let mut sum = key.sum(&state);
            for changes in commits {
                sum = key.sum_after(sum, &state, &changes);
                state.commit(changes);
                prop_assert!(sum == key.sum(&state));
            }
        }
    }

    /// Computed with Python's `hmac` and `hashlib` from the formulas above.
    #[test]
    fn seal_of_an_empty_state_is_what_another_implementation_computes() {
        let key = key();
        let seal = key.seal(3, key.sum(&State::default()), &[9; 32]);
        assert_eq!(hex::encode(seal), "6a79ed5fba46a559e4602a4dcb9b936c3a1efdaf9d6892d70133a9aa334b3b0d");
    }

    #[test]
    fn seal_holds_for_its_deployment_root_revision_set_and_operators_alone() {
        let state = |resource| State::from_snapshot(3, [resource]);
        let (key, held) = (key(), state(credential(1, "https://a.example")));
        let (sum, operators) = (key.sum(&held), [9; 32]);
        let seal = key.seal(3, sum, &operators);
        assert!(key.holds(&seal, 3, sum, &operators));
        assert!(!key.holds(&seal, 4, sum, &operators));
        assert!(!key.holds(&seal, 3, sum, &[8; 32]));
        assert!(!key.holds(&seal[..31], 3, sum, &operators));
        assert!(!key.holds(&[], 3, sum, &operators));
        let moved = state(credential(1, "https://b.example"));
        assert!(!key.holds(&seal, 3, key.sum(&moved), &operators));
        for other in [
            SealKey::derive(&Key256::new([8; 32]), DEPLOYMENT),
            SealKey::derive(&Key256::new([7; 32]), DeploymentId::from_bytes([2; 16])),
        ] {
            assert!(!other.holds(&seal, 3, sum, &operators));
            assert!(other.sum(&held) != sum, "tags are keyed");
        }
    }
}
