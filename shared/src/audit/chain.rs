//! The chain: each entry's hash is an HMAC-SHA256 over the hash before it, from a genesis on.
//!
//! ```text
//! h_0 = HMAC(K, 0x00 || "keyforge/audit/genesis/v1\0" || G)
//! E_i = "KFE1" || u32 len(record) || record || u64 seq || i64 t_cp || u32 key_epoch
//! h_i = HMAC(K, 0x01 || "keyforge/audit/entry/v1\0" || chain_id || u64 seq || h_(i-1) || E_i)
//! head = HMAC(K, 0x02 || "keyforge/audit/head/v1\0" || chain_id || u64 seq || h_seq)
//! K    = HKDF-Expand(R, "kf/audit/chain/v1" || chain_id || u32 key_epoch)
//! ```
//!
//! Whoever lacks K cannot change, insert, drop or swap entries unnoticed, nor shorten the chain below its sealed head. Whoever holds K can rewrite
//! all of it: the chain convinces the operator, not third parties.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::audit::canonical::{DecodeError, Reader, Writer};
use crate::audit::record::Record;
use crate::clock::Timestamp;
use crate::id::{ChainId, DeploymentId};
use crate::secret::Key256;

const GENESIS_DOMAIN: &[u8] = b"keyforge/audit/genesis/v1\0";
const ENTRY_DOMAIN: &[u8] = b"keyforge/audit/entry/v1\0";
const HEAD_DOMAIN: &[u8] = b"keyforge/audit/head/v1\0";
const COMMITMENT_DOMAIN: &[u8] = b"keyforge/audit/kc/v1\0";
const CHAIN_KEY_DOMAIN: &[u8] = b"kf/audit/chain/v1";
const GENESIS_MAGIC: [u8; 4] = *b"KFC1";
const ENTRY_MAGIC: [u8; 4] = *b"KFE1";
const FORMAT_VERSION: u16 = 1;
/// SHA-256, HMAC-SHA256, no signature yet.
const ALGORITHMS: [u8; 3] = [1, 1, 0];

/// A link's hash: what the next entry is chained to.
pub type Hash = [u8; 32];

/// The key of one chain in one key epoch.
pub struct ChainKey {
    key: Key256,
    mac: Hmac<Sha256>,
    epoch: u32,
}

impl ChainKey {
    /// Derives the key of `chain` from the audit root of `epoch`.
    #[must_use]
    pub fn derive(root: &Key256, chain: ChainId, epoch: u32) -> Self {
        let key = root.expand(&[CHAIN_KEY_DOMAIN, chain.as_bytes(), &epoch.to_be_bytes()]);
        let mac = key.hmac();
        Self { key, mac, epoch }
    }

    /// A value that commits to the key without revealing it.
    #[must_use]
    pub fn commitment(&self) -> [u8; 32] {
        Sha256::new().chain_update(COMMITMENT_DOMAIN).chain_update(self.key.expose()).finalize().into()
    }

    /// The key epoch it was derived for.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The key itself, which only the golden vectors may show.
    #[cfg(test)]
    pub(crate) fn expose_for_vectors(&self) -> &[u8; 32] {
        self.key.expose()
    }

    fn mac(&self, kind: u8, domain: &[u8], parts: &[&[u8]]) -> Hash {
        let mut mac = self.mac.clone();
        mac.update(&[kind]);
        mac.update(domain);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// How a chain began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The installation.
    pub deployment: DeploymentId,
    /// The chain.
    pub chain: ChainId,
    /// When it began, by the control plane's clock.
    pub created: Timestamp,
    /// SHA-256 of the policy that its key began with; zero for the administrators' chain.
    pub policy_digest: [u8; 32],
    /// Key epoch it began in.
    pub key_epoch: u32,
    /// [`ChainKey::commitment`] of its first key.
    pub key_commitment: [u8; 32],
    /// Public key that signs checkpoints over it; empty while there is none.
    pub checkpoint_key: Vec<u8>,
    /// The chain that it continues, with that chain's last hash; zero for none.
    pub previous: (ChainId, Hash),
}

impl Genesis {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_magic(&GENESIS_MAGIC);
        writer.raw(self.deployment.as_bytes()).raw(self.chain.as_bytes()).u16(FORMAT_VERSION).raw(&ALGORITHMS);
        writer.i64(self.created.nanos()).raw(&self.policy_digest).u32(self.key_epoch).raw(&self.key_commitment);
        writer.bytes(&self.checkpoint_key).raw(self.previous.0.as_bytes()).raw(&self.previous.1);
        writer.finish()
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`DecodeError`] for every other sequence of bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::after_magic(bytes, &GENESIS_MAGIC)?;
        let (deployment, chain) = (DeploymentId::from_bytes(reader.array()?), ChainId::from_bytes(reader.array()?));
        if reader.u16()? != FORMAT_VERSION {
            return Err(DecodeError::Value("version"));
        }
        if reader.array()? != ALGORITHMS {
            return Err(DecodeError::Value("algorithms"));
        }
        let genesis = Self {
            deployment,
            chain,
            created: Timestamp::from_nanos(reader.i64()?),
            policy_digest: reader.array()?,
            key_epoch: reader.u32()?,
            key_commitment: reader.array()?,
            checkpoint_key: reader.bytes()?.to_vec(),
            previous: (ChainId::from_bytes(reader.array()?), reader.array()?),
        };
        reader.finish()?;
        Ok(genesis)
    }

    /// `h_0`: the hash that the first entry is chained to.
    #[must_use]
    pub fn hash(&self, key: &ChainKey) -> Hash {
        key.mac(0, GENESIS_DOMAIN, &[&self.encode()])
    }
}

/// One link: a record with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Place in the chain, from 1 without gaps.
    pub seq: u64,
    /// When the control plane chained it; never earlier than the entry before.
    pub t_cp: Timestamp,
    /// Key epoch that it was chained in.
    pub key_epoch: u32,
    /// The record's canonical bytes.
    pub record: Vec<u8>,
}

impl Entry {
    /// The canonical bytes `E_i`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_magic(&ENTRY_MAGIC);
        writer.bytes(&self.record).u64(self.seq).i64(self.t_cp.nanos()).u32(self.key_epoch);
        writer.finish()
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`DecodeError`] for every other sequence of bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::after_magic(bytes, &ENTRY_MAGIC)?;
        let record = reader.bytes()?.to_vec();
        let entry =
            Self { seq: reader.u64()?, t_cp: Timestamp::from_nanos(reader.i64()?), key_epoch: reader.u32()?, record };
        reader.finish()?;
        Ok(entry)
    }

    /// `h_i`: this entry's hash after `previous`.
    #[must_use]
    pub fn hash(&self, key: &ChainKey, chain: ChainId, previous: &Hash) -> Hash {
        key.mac(1, ENTRY_DOMAIN, &[chain.as_bytes(), &self.seq.to_be_bytes(), previous, &self.encode()])
    }
}

/// The seal of a chain's head, so that its end cannot be moved back without the key.
#[must_use]
pub fn head_seal(key: &ChainKey, chain: ChainId, seq: u64, hash: &Hash) -> Hash {
    key.mac(2, HEAD_DOMAIN, &[chain.as_bytes(), &seq.to_be_bytes(), hash])
}

/// Where a chain breaks, and how. `seq` 0 is the genesis.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("entry {seq}: {fault}")]
pub struct Broken {
    /// The first entry that is not what was chained.
    pub seq: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a link.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Fault {
    /// Its hash does not follow from its content and the entry before.
    #[error("content or hash was changed")]
    Hash,
    /// The next entry stored is another one.
    #[error("missing: it was deleted or moved")]
    Missing,
    /// Its place is taken already, or is before the first.
    #[error("stored more than once, or numbered out of place")]
    Twice,
    /// There are entries after the sealed head.
    #[error("stored after the chain's sealed head: it was inserted")]
    AfterHead,
    /// The record is not canonical, or belongs to another chain.
    #[error("the record cannot be read or belongs to another chain")]
    Record,
    /// The control plane's time went backwards.
    #[error("its time is before that of the entry before it")]
    Time,
    /// The seal of the head does not fit the head.
    #[error("the chain's head was changed")]
    Head,
    /// What is stored beside the record contradicts it.
    #[error("what is stored beside the record contradicts it")]
    Index,
}

/// Walks a chain from its genesis and stops at the first link that does not hold.
pub struct Verifier<'a> {
    key: &'a ChainKey,
    chain: ChainId,
    seq: u64,
    hash: Hash,
    t_cp: Timestamp,
}

impl<'a> Verifier<'a> {
    /// Starts at the genesis, which must be that of `chain`, carry `stored` as its hash, and commit to `key`.
    ///
    /// # Errors
    /// [`Broken`] at entry 0.
    pub fn start(key: &'a ChainKey, chain: ChainId, genesis: &[u8], stored: &Hash) -> Result<Self, Broken> {
        let broken = |fault| Broken { seq: 0, fault };
        let genesis = Genesis::decode(genesis).map_err(|_| broken(Fault::Record))?;
        if genesis.chain != chain || genesis.key_commitment != key.commitment() {
            return Err(broken(Fault::Record));
        }
        let hash = genesis.hash(key);
        if !same(&hash, stored) {
            return Err(broken(Fault::Hash));
        }
        Ok(Self { key, chain, seq: 0, hash, t_cp: genesis.created })
    }

    /// Takes the next stored entry with its stored hash, and gives its record back.
    ///
    /// # Errors
    /// [`Broken`] naming the first entry that does not hold.
    pub fn next(&mut self, entry: &Entry, stored: &Hash) -> Result<Record, Broken> {
        let expected = self.seq + 1;
        let broken = |fault| Broken { seq: expected, fault };
        if entry.seq < expected {
            return Err(Broken { seq: entry.seq, fault: Fault::Twice });
        }
        if entry.seq != expected {
            return Err(broken(Fault::Missing));
        }
        let hash = entry.hash(self.key, self.chain, &self.hash);
        if entry.key_epoch != self.key.epoch() || !same(&hash, stored) {
            return Err(broken(Fault::Hash));
        }
        let record = Record::decode(&entry.record).map_err(|_| broken(Fault::Record))?;
        if record.chain() != self.chain {
            return Err(broken(Fault::Record));
        }
        if entry.t_cp < self.t_cp {
            return Err(broken(Fault::Time));
        }
        (self.seq, self.hash, self.t_cp) = (expected, hash, entry.t_cp);
        Ok(record)
    }

    /// Ends at the sealed head. Returns how many entries hold.
    ///
    /// # Errors
    /// [`Broken`] when entries are missing before the head or stand after it, or when the head itself was changed.
    pub fn finish(self, head_seq: u64, head_hash: &Hash, seal: &Hash) -> Result<u64, Broken> {
        if !same(&head_seal(self.key, self.chain, head_seq, head_hash), seal) {
            return Err(Broken { seq: self.seq, fault: Fault::Head });
        }
        match self.seq.cmp(&head_seq) {
            std::cmp::Ordering::Less => Err(Broken { seq: self.seq + 1, fault: Fault::Missing }),
            std::cmp::Ordering::Greater => Err(Broken { seq: head_seq + 1, fault: Fault::AfterHead }),
            std::cmp::Ordering::Equal if same(&self.hash, head_hash) => Ok(self.seq),
            std::cmp::Ordering::Equal => Err(Broken { seq: self.seq, fault: Fault::Head }),
        }
    }
}

fn same(a: &Hash, b: &Hash) -> bool {
    a.ct_eq(b).into()
}
