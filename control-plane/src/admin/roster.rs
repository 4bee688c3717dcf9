//! The operators of a deployment as of one revision, in memory.
//!
//! It is loaded under a seal that held and changed by this program alone: a row that somebody else wrote into the database gives nobody access.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use keyforge_shared::id::{OperatorId, WorkspaceId};
use keyforge_shared::name;
use keyforge_shared::token::TokenDigest;

use crate::store::operators::{self, Operator};

/// All operators, revoked ones included.
pub struct Roster {
    by_name: BTreeMap<String, Arc<Operator>>,
    by_token: HashMap<TokenDigest, Arc<Operator>>,
    digest: [u8; 32],
}

impl Roster {
    /// These operators.
    #[must_use]
    pub fn new(operators: impl IntoIterator<Item = Operator>) -> Self {
        Self::of(operators.into_iter().map(Arc::new).collect())
    }

    fn of(operators: Vec<Arc<Operator>>) -> Self {
        Self {
            digest: operators::digest(operators.iter().map(Arc::as_ref)),
            by_token: operators.iter().map(|operator| (operator.digest, Arc::clone(operator))).collect(),
            by_name: operators.into_iter().map(|operator| (operator.name.clone(), operator)).collect(),
        }
    }

    /// The same with this operator in the place of the one of the same id, or beside all others.
    #[must_use]
    pub fn with(&self, operator: Operator) -> Self {
        let others = self.by_name.values().filter(|other| other.id != operator.id).cloned();
        Self::of(others.chain([Arc::new(operator.clone())]).collect())
    }

    /// SHA-256 over all of them, which goes into the state's seal.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whose token has this digest.
    #[must_use]
    pub fn by_token(&self, digest: &TokenDigest) -> Option<&Arc<Operator>> {
        self.by_token.get(digest)
    }

    /// The operator of this id or name.
    #[must_use]
    pub fn named(&self, text: &str) -> Option<&Arc<Operator>> {
        match text.parse::<OperatorId>() {
            Ok(id) => self.by_name.values().find(|operator| operator.id == id),
            Err(_) => self.by_name.get(text),
        }
    }

    /// The name among these that looks like `name`.
    #[must_use]
    pub fn alike(&self, name: &str) -> Option<&str> {
        let skeleton = name::skeleton(name);
        self.by_name.keys().find(|other| name::skeleton(other) == skeleton).map(String::as_str)
    }

    /// Up to `count` operators by name, after the one named `after`; an empty name is before all.
    #[must_use]
    pub fn page(&self, after: &str, count: usize) -> Vec<Arc<Operator>> {
        self.by_name.values().filter(|operator| operator.name.as_str() > after).take(count).cloned().collect()
    }

    /// How many are owners of the whole deployment for good.
    #[must_use]
    pub fn lasting_owners(&self) -> usize {
        self.by_name.values().filter(|operator| operator.is_lasting_owner()).count()
    }

    /// How many who are not revoked are bound to this workspace.
    #[must_use]
    pub fn bound_to(&self, workspace: WorkspaceId) -> usize {
        let bound = |operator: &&Arc<Operator>| operator.workspace == Some(workspace) && operator.revoked_at.is_none();
        self.by_name.values().filter(bound).count()
    }
}
