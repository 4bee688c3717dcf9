//! The keys of the replicated state, packed: a node may hold a million of them, of which one request looks at one.
//!
//! Records lie in chunks that copies of a state share until one of them is changed, so that a copy for a snapshot costs a few pointers and no
//! writer waits for its reader. Two indices hold positions, one by token digest and one by id. Policies and workspaces that many keys have are held
//! once. A record never moves; the place of one that is gone is used again.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::record::{KeyRecord, KeyStatus, key_digest, policy_digest};
use crate::id::{ChainId, KeyId, WorkspaceId};
use crate::policy::Policy;
use crate::token::TokenDigest;

/// Records of one chunk: a change copies one chunk if a copy of the state still reads it.
const CHUNK: usize = 256;
/// Policies that nobody has any more are looked for when their number has doubled since, from here on.
const FEW_POLICIES: usize = 64;

#[derive(Clone, Debug)]
struct Packed {
    digest: TokenDigest,
    id: KeyId,
    chain: ChainId,
    name: Box<str>,
    policy: Arc<Policy>,
    status_revision: u64,
    /// Position in `workspaces`.
    workspace: u32,
    status: KeyStatus,
}

type Chunk = Arc<Vec<Option<Packed>>>;

/// All keys. A clone shares the records and copies the indices.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyTable {
    records: Records,
    by_digest: HashTable<u32>,
    by_id: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: Vec<u32>,
    policies: HashMap<[u8; 32], Arc<Policy>>,
    policies_swept: usize,
    /// Positions in the records' `workspaces`.
    workspaces: HashMap<WorkspaceId, u32>,
}

/// The records without the indices: what is read from end to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    chunks: Vec<Chunk>,
    workspaces: Vec<WorkspaceId>,
    used: usize,
    len: usize,
}

impl Records {
    /// Every record, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = KeyRecord> + Send + use<'_> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter_map(|slot| Some(self.unpack(slot.as_ref()?)))
    }

    /// The records of one chunk, from 0; `None` after the last.
    pub(super) fn chunk(&self, number: usize) -> Option<impl Iterator<Item = KeyRecord>> {
        Some(self.chunks.get(number)?.iter().filter_map(|slot| Some(self.unpack(slot.as_ref()?))))
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn chunks(&self) -> usize {
        self.chunks.len()
    }

    fn slot(&self, position: u32) -> Option<&Packed> {
        let position = position as usize;
        self.chunks.get(position / CHUNK)?.get(position % CHUNK)?.as_ref()
    }

    fn slot_mut(&mut self, position: u32) -> Option<&mut Option<Packed>> {
        let position = position as usize;
        Arc::make_mut(self.chunks.get_mut(position / CHUNK)?).get_mut(position % CHUNK)
    }

    fn put(&mut self, free: Option<u32>, packed: Packed) -> u32 {
        self.len += 1;
        if let Some(position) = free {
            if let Some(slot) = self.slot_mut(position) {
                *slot = Some(packed);
            }
            return position;
        }
        if self.used.is_multiple_of(CHUNK) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            let chunk = Arc::make_mut(chunk);
            // A chunk that was shared was copied to its length alone.
            chunk.reserve_exact(CHUNK - chunk.len());
            chunk.push(Some(packed));
        }
        self.used += 1;
        position_of(self.used - 1)
    }

    fn unpack(&self, packed: &Packed) -> KeyRecord {
        KeyRecord {
            id: packed.id,
            digest: packed.digest,
            name: packed.name.to_string(),
            status: packed.status,
            status_revision: packed.status_revision,
            policy: Arc::clone(&packed.policy),
            chain: packed.chain,
            workspace: self
                .workspaces
                .get(packed.workspace as usize)
                .copied()
                .unwrap_or(WorkspaceId::from_bytes([0; 16])),
        }
    }
}

/// A table holds fewer than 2^32 keys: each takes more than a hundred bytes.
fn position_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl KeyTable {
    pub(super) const fn records(&self) -> &Records {
        &self.records
    }

    pub(super) fn by_digest(&self, digest: &TokenDigest) -> Option<KeyRecord> {
        let held = |position: &u32| self.records.slot(*position).is_some_and(|packed| packed.digest == *digest);
        let position = self.by_digest.find(self.hasher.hash_one(digest), held)?;
        self.records.slot(*position).map(|packed| self.records.unpack(packed))
    }

    pub(super) fn by_id(&self, id: KeyId) -> Option<KeyRecord> {
        self.position(id).and_then(|position| self.records.slot(position)).map(|packed| self.records.unpack(packed))
    }

    fn position(&self, id: KeyId) -> Option<u32> {
        let held = |position: &u32| self.records.slot(*position).is_some_and(|packed| packed.id == id);
        self.by_id.find(self.hasher.hash_one(id), held).copied()
    }

    /// Makes room for so many keys at once, so that the indices need not grow by doubling.
    pub(super) fn reserve(&mut self, more: usize) {
        let Self { records, by_digest, by_id, hasher, .. } = self;
        let digest_of = |position: &u32| records.slot(*position).map_or(0, |packed| hasher.hash_one(packed.digest));
        by_digest.reserve(more, digest_of);
        by_id.reserve(more, |position| records.slot(*position).map_or(0, |packed| hasher.hash_one(packed.id)));
    }

    /// Adds a key that is not there, and gives the digest of its record.
    pub(super) fn insert(&mut self, key: &KeyRecord) -> [u8; 32] {
        let (policy, policy_digest) = self.interned(&key.policy);
        let workspace = self.workspace(key.workspace);
        let packed = Packed {
            digest: key.digest,
            id: key.id,
            chain: key.chain,
            name: key.name.as_str().into(),
            policy,
            status_revision: key.status_revision,
            workspace,
            status: key.status,
        };
        let position = self.records.put(self.free.pop(), packed);
        let Self { records, by_digest, by_id, hasher, .. } = self;
        let digest_of = |position: &u32| records.slot(*position).map_or(0, |packed| hasher.hash_one(packed.digest));
        by_digest.insert_unique(hasher.hash_one(key.digest), position, digest_of);
        let id_of = |position: &u32| records.slot(*position).map_or(0, |packed| hasher.hash_one(packed.id));
        by_id.insert_unique(hasher.hash_one(key.id), position, id_of);
        key_digest(key, &policy_digest)
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, id: KeyId) -> Option<KeyRecord> {
        let position = self.position(id)?;
        let packed = self.records.slot_mut(position)?.take()?;
        self.records.len -= 1;
        for (index, hash) in [
            (&mut self.by_digest, self.hasher.hash_one(packed.digest)),
            (&mut self.by_id, self.hasher.hash_one(packed.id)),
        ] {
            if let Ok(entry) = index.find_entry(hash, |held| *held == position) {
                entry.remove();
            }
        }
        self.free.push(position);
        Some(self.records.unpack(&packed))
    }

    fn interned(&mut self, policy: &Arc<Policy>) -> (Arc<Policy>, [u8; 32]) {
        let digest = policy_digest(policy);
        if let Some(held) = self.policies.get(&digest) {
            return (Arc::clone(held), digest);
        }
        if self.policies.len() > 2 * self.policies_swept.max(FEW_POLICIES) {
            self.policies.retain(|_, policy| Arc::strong_count(policy) > 1);
            self.policies_swept = self.policies.len();
        }
        self.policies.insert(digest, Arc::clone(policy));
        (Arc::clone(policy), digest)
    }

    fn workspace(&mut self, id: WorkspaceId) -> u32 {
        let Self { records, workspaces, .. } = self;
        *workspaces.entry(id).or_insert_with(|| {
            records.workspaces.push(id);
            position_of(records.workspaces.len() - 1)
        })
    }
}
