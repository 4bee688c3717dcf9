//! The records of a state at one revision, taken out of it without copying the keys: whoever reads them holds up nobody who changes it.

use std::sync::Arc;

use super::key_table::Records;
use super::{CredentialRecord, KeyRecord, Resource, SetHash, State, WorkspaceRecord};
use crate::catalog::Model;

/// The records of a state at one revision, detached from it: the state can change while they are read.
pub struct Contents {
    revision: u64,
    set_hash: SetHash,
    workspaces: Vec<Arc<WorkspaceRecord>>,
    keys: Records,
    models: Vec<Arc<Model>>,
    credentials: Vec<Arc<CredentialRecord>>,
}

impl Contents {
    /// The revision.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Hash of the set.
    #[must_use]
    pub const fn set_hash(&self) -> SetHash {
        self.set_hash
    }

    /// How many records there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.workspaces.len() + self.keys.len() + self.models.len() + self.credentials.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records in parts of bounded length but for the first and the last two, from 0; `None` after the last. Workspaces come before the keys that
    /// name them.
    #[must_use]
    pub fn part(&self, number: usize) -> Option<Vec<Resource>> {
        let Some(number) = number.checked_sub(1) else {
            return Some(self.workspaces.iter().cloned().map(Resource::Workspace).collect());
        };
        if let Some(keys) = self.keys.chunk(number) {
            return Some(keys.map(|key| Resource::Key(Arc::new(key))).collect());
        }
        match number - self.keys.chunks() {
            0 => Some(self.models.iter().cloned().map(Resource::Model).collect()),
            1 => Some(self.credentials.iter().cloned().map(Resource::Credential).collect()),
            _ => None,
        }
    }

    /// Every record, part by part.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + use<'_> {
        (0..).map_while(|number| self.part(number)).flatten()
    }

    /// The workspaces.
    pub fn workspaces(&self) -> impl Iterator<Item = &Arc<WorkspaceRecord>> {
        self.workspaces.iter()
    }

    /// All keys, each once, in no order that means anything.
    pub fn keys(&self) -> impl Iterator<Item = KeyRecord> {
        self.keys.iter()
    }

    /// The credentials.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<CredentialRecord>> {
        self.credentials.iter()
    }
}

impl State {
    /// The records as they are now, to be read while the state goes on. It costs a few pointers, not a copy of the keys.
    #[must_use]
    pub fn contents(&self) -> Contents {
        Contents {
            revision: self.revision,
            set_hash: self.set_hash,
            workspaces: self.workspaces.values().cloned().collect(),
            keys: self.keys.records().clone(),
            models: self.models.values().cloned().collect(),
            credentials: self.credentials.values().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::super::{Change, KeyStatus};
    use super::*;
    use crate::id::KeyId;
    use crate::token::TokenDigest;

    #[test]
    fn what_was_taken_out_of_a_state_does_not_change_with_it() {
        let mut state = State::with_room(1, 600);
        let ids: Vec<_> = (0..600_u32).map(|number| format!("k{number:011}")).collect();
        let numbered = |at: usize, status| {
            let mut digest = [7; 32];
            digest[..8].copy_from_slice(&at.to_le_bytes());
            let Resource::Key(key) = key(1, status) else { panic!("not a key") };
            let id = KeyId::from_ascii(ids[at].as_bytes()).unwrap();
            Resource::Key(Arc::new(KeyRecord { id, digest: TokenDigest(digest), ..(*key).clone() }))
        };
        (0..600).for_each(|at| state.add(numbered(at, KeyStatus::Active)));
        let contents = state.contents();
        state.commit((0..600).map(|at| Change::Upsert(numbered(at, KeyStatus::Revoked))).collect());
        state.commit((0..300).map(|at| Change::Remove(numbered(at, KeyStatus::Revoked).id())).collect());
        assert_eq!((contents.len(), state.key_count(), contents.revision(), state.revision()), (600, 300, 1, 3));
        let mut of_contents = State::with_room(1, 0);
        contents.resources().for_each(|resource| of_contents.add(resource));
        assert_eq!(of_contents.set_hash(), contents.set_hash());
        assert!(of_contents.keys().all(|key| key.status == KeyStatus::Active));
        (0..300).for_each(|at| state.add(numbered(at, KeyStatus::Active)));
        assert_eq!((state.key_count(), state.contents().keys.chunks()), (600, 3), "places are used again");
    }
}
