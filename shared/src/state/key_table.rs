//! The keys of the replicated state, packed: a node may hold a million of them, of which one request looks at one.
//!
//! Records lie in chunks that copies of a state share until one of them is changed, so that a copy for a snapshot costs a few pointers and no
//! writer waits for its reader. Two indices hold positions, one by token digest and one by id. Policies and workspaces that many keys have are held
//! once, and the former token, which few keys have, apart: with an index of its own. A record never moves; the place of one that is gone is used
//! again.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use smol_str::SmolStr;

use super::record::{FormerToken, KeyRecord, KeyStatus, key_digest, policy_digest};
use crate::id::{ChainId, KeyId, WorkspaceId};
use crate::policy::Policy;
use crate::token::TokenDigest;

/// Records of one chunk: a change copies one chunk if a copy of the state still reads it. They fill 32 KiB, which allocators give without waste.
const CHUNK: u32 = (32 * 1024 / size_of::<Option<Packed>>()) as u32;
/// Policies that nobody has any more are looked for when their number has doubled since, from here on.
const FEW_POLICIES: usize = 64;

#[derive(Clone, Debug)]
struct Packed {
    digest: TokenDigest,
    id: KeyId,
    chain: ChainId,
    /// Up to 23 bytes lie here: among a million keys, each place more that a look-up reads is a wait for memory.
    name: SmolStr,
    policy: Arc<Policy>,
    status_revision: u64,
    /// Position in `workspaces`.
    workspace: u32,
    status: KeyStatus,
}

/// A run of records.
#[derive(Clone, Debug, Default)]
struct Chunk {
    slots: Vec<Option<Packed>>,
    /// The former tokens of those that have one, by their place in the chunk.
    formers: Vec<(u32, FormerToken)>,
}

impl Chunk {
    fn former(&self, place: u32) -> Option<&FormerToken> {
        let at = self.formers.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        self.formers.get(at).map(|(_, former)| former)
    }

    fn set_former(&mut self, place: u32, former: Option<FormerToken>) {
        match (self.formers.binary_search_by_key(&place, |(place, _)| *place), former) {
            (Ok(at), Some(former)) => self.formers[at].1 = former,
            (Ok(at), None) => drop(self.formers.remove(at)),
            (Err(at), Some(former)) => self.formers.insert(at, (place, former)),
            (Err(_), None) => {}
        }
    }
}

/// All keys. A clone shares the records and copies the indices.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyTable {
    records: Records,
    by_digest: HashTable<u32>,
    /// By the digest of the former token, where there is one.
    by_former: HashTable<u32>,
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
    chunks: Vec<Arc<Chunk>>,
    workspaces: Vec<WorkspaceId>,
    used: usize,
    len: usize,
}

impl Records {
    /// Every record, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = KeyRecord> + Send + use<'_> {
        self.chunks.iter().flat_map(|chunk| self.of(chunk))
    }

    /// The records of one chunk, from 0; `None` after the last.
    pub(super) fn chunk(&self, number: usize) -> Option<impl Iterator<Item = KeyRecord>> {
        self.chunks.get(number).map(|chunk| self.of(chunk))
    }

    fn of<'a>(&'a self, chunk: &'a Chunk) -> impl Iterator<Item = KeyRecord> + Send + use<'a> {
        (0..).zip(&chunk.slots).filter_map(|(place, slot)| Some(self.unpack(slot.as_ref()?, chunk.former(place))))
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn chunks(&self) -> usize {
        self.chunks.len()
    }

    fn slot(&self, position: u32) -> Option<&Packed> {
        let (chunk, place) = split(position);
        self.chunks.get(chunk)?.slots.get(place as usize)?.as_ref()
    }

    fn former(&self, position: u32) -> Option<&FormerToken> {
        let (chunk, place) = split(position);
        self.chunks.get(chunk)?.former(place)
    }

    fn get(&self, position: u32) -> Option<KeyRecord> {
        self.slot(position).map(|packed| self.unpack(packed, self.former(position)))
    }

    fn take(&mut self, position: u32) -> Option<(Packed, Option<FormerToken>)> {
        let (chunk, place) = split(position);
        let chunk = Arc::make_mut(self.chunks.get_mut(chunk)?);
        let packed = chunk.slots.get_mut(place as usize)?.take()?;
        let former = chunk.former(place).copied();
        chunk.set_former(place, None);
        self.len -= 1;
        Some((packed, former))
    }

    fn put(&mut self, free: Option<u32>, packed: Packed, former: Option<FormerToken>) -> u32 {
        self.len += 1;
        let position = free.unwrap_or_else(|| position_of(self.used));
        let (chunk, place) = split(position);
        if chunk == self.chunks.len() {
            self.chunks.push(Arc::new(Chunk { slots: Vec::with_capacity(CHUNK as usize), formers: Vec::new() }));
        }
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            let chunk = Arc::make_mut(chunk);
            match chunk.slots.get_mut(place as usize) {
                Some(slot) => *slot = Some(packed),
                None => {
                    // A chunk that was shared was copied to its length alone.
                    chunk.slots.reserve_exact(CHUNK as usize - chunk.slots.len());
                    chunk.slots.push(Some(packed));
                    self.used += 1;
                }
            }
            chunk.set_former(place, former);
        }
        position
    }

    fn unpack(&self, packed: &Packed, former: Option<&FormerToken>) -> KeyRecord {
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
            former: former.copied().map(Box::new),
        }
    }
}

/// The number of the chunk, and the place in it.
const fn split(position: u32) -> (usize, u32) {
    ((position / CHUNK) as usize, position % CHUNK)
}

/// A table holds fewer than 2^32 keys: each takes more than a hundred bytes.
fn position_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl KeyTable {
    pub(super) const fn records(&self) -> &Records {
        &self.records
    }

    /// The key whose token, or whose former token, has this digest.
    pub(super) fn by_digest(&self, digest: &TokenDigest) -> Option<KeyRecord> {
        let (hash, records) = (self.hasher.hash_one(digest), &self.records);
        let own = |position: &u32| records.slot(*position).is_some_and(|packed| packed.digest == *digest);
        let former = |position: &u32| records.former(*position).is_some_and(|former| former.digest == *digest);
        let position = self.by_digest.find(hash, own).or_else(|| self.by_former.find(hash, former))?;
        records.get(*position)
    }

    pub(super) fn by_id(&self, id: KeyId) -> Option<KeyRecord> {
        self.position(id).and_then(|position| self.records.get(position))
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
            name: SmolStr::new(&key.name),
            policy,
            status_revision: key.status_revision,
            workspace,
            status: key.status,
        };
        let former = key.former.as_deref().copied();
        let position = self.records.put(self.free.pop(), packed, former);
        let Self { records, by_digest, by_former, by_id, hasher, .. } = self;
        if let Some(former) = former {
            let digest_of =
                |position: &u32| records.former(*position).map_or(0, |former| hasher.hash_one(former.digest));
            by_former.insert_unique(hasher.hash_one(former.digest), position, digest_of);
        }
        let digest_of = |position: &u32| records.slot(*position).map_or(0, |packed| hasher.hash_one(packed.digest));
        by_digest.insert_unique(hasher.hash_one(key.digest), position, digest_of);
        let id_of = |position: &u32| records.slot(*position).map_or(0, |packed| hasher.hash_one(packed.id));
        by_id.insert_unique(hasher.hash_one(key.id), position, id_of);
        key_digest(key, &policy_digest)
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, id: KeyId) -> Option<KeyRecord> {
        let position = self.position(id)?;
        let (packed, former) = self.records.take(position)?;
        let Self { by_digest, by_former, by_id, hasher, .. } = self;
        let former_hash = former.map(|former| (by_former, hasher.hash_one(former.digest)));
        for (index, hash) in [(by_digest, hasher.hash_one(packed.digest)), (by_id, hasher.hash_one(packed.id))]
            .into_iter()
            .chain(former_hash)
        {
            if let Ok(entry) = index.find_entry(hash, |held| *held == position) {
                entry.remove();
            }
        }
        self.free.push(position);
        Some(self.records.unpack(&packed, former.as_ref()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_never_rotated_takes_no_room_for_a_former_token() {
        assert!(size_of::<Option<Packed>>() <= 120, "{} bytes", size_of::<Option<Packed>>());
        assert_eq!(Chunk::default().formers.capacity(), 0);
    }
}
