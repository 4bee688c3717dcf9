//! Verification: walks chains from their genesis and names the first entry that is not what was chained.
//!
//! Beside the hashes it checks what they do not cover: the columns stored beside each record, chains without a key, keys without a chain,
//! entries without a chain, whether the ledger's books are the sum of the entries, whether every record that nodes shipped is chained, and
//! whether every key that was made is there. One chain is read in one consistent state of the
//! database, page by page, so that memory stays bounded however long the chain is.

use keyforge_shared::audit::chain::{Broken, ChainKey, Entry, Fault, Hash, Verifier};
use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::subject::Subject;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, KeyId, WorkspaceId};

use std::collections::VecDeque;
use std::sync::Arc;

use super::Audit;
use super::completeness::{self, Acts};
use crate::ledger::evidence::Tally;
use crate::store::chains::{self, StoredChain, Stray};
use crate::store::entries::{self, StoredEntry};
use crate::store::sql::Conn;
use crate::store::{Store, StoreError, ledger};

const PAGE: u32 = 1_000;
/// Most strays of a kind that are named one by one.
const STRAYS: u32 = 100;

/// What became of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The chain as text, even when its stored id is none.
    pub chain: String,
    /// Its key as `vk_…`; empty for the administrators' chain and for strays.
    pub key: String,
    /// How many entries hold, from the first on.
    pub entries: u64,
    /// The first entry that does not hold, 0 for the genesis; `None` when all do.
    pub first_bad_seq: Option<u64>,
    /// What is wrong: with that entry, between ledger and entries, or missing although it must be there. Empty when nothing is.
    pub fault: String,
}

/// Which chains to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that there are, and all that there should be.
    All,
    /// Those of a workspace's virtual keys.
    Workspace(WorkspaceId),
    /// One.
    One(ChainId),
}

/// A walk over chains; give it up at any time.
pub struct Verification {
    store: Store,
    audit: Arc<Audit>,
    ready: VecDeque<Verdict>,
    next: Next,
}

enum Next {
    Strays,
    After(Vec<u8>),
    BootAfter(Vec<u8>),
    InAfter(WorkspaceId, Vec<u8>),
    One(ChainId),
    Done,
}

impl Verification {
    /// A walk that has not begun.
    #[must_use]
    pub const fn new(store: Store, audit: Arc<Audit>, selection: Selection) -> Self {
        let next = match selection {
            Selection::All => Next::Strays,
            Selection::Workspace(workspace) => Next::InAfter(workspace, Vec::new()),
            Selection::One(chain) => Next::One(chain),
        };
        Self { store, audit, ready: VecDeque::new(), next }
    }

    /// The verdict on the next chain; `None` after the last.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails. What is stored in it is never an error but a verdict.
    pub async fn next(&mut self) -> Result<Option<Verdict>, StoreError> {
        loop {
            if let Some(verdict) = self.ready.pop_front() {
                return Ok(Some(verdict));
            }
            let next = std::mem::replace(&mut self.next, Next::Done);
            if matches!(next, Next::Done) {
                return Ok(None);
            }
            let mut tx = self.store.read().await?;
            match next {
                Next::Done => return Ok(None),
                Next::Strays => {
                    self.next = Next::After(Vec::new());
                    self.ready = self.strays(&mut tx).await?;
                }
                Next::One(chain) => self.ready.push_back(self.verify_one(&mut tx, chain).await?),
                Next::InAfter(workspace, last) => {
                    let Some(chain) = chains::chain_in_after(&mut tx, workspace, &last).await? else { continue };
                    self.ready.push_back(self.verify_one(&mut tx, chain).await?);
                    self.next = Next::InAfter(workspace, chain.as_bytes().to_vec());
                }
                Next::After(last) => {
                    let Some(id) = chains::chain_after(&mut tx, &last).await? else {
                        self.next = Next::BootAfter(Vec::new());
                        continue;
                    };
                    if let Some(stored) = chains::chain(&mut tx, &id).await? {
                        self.ready.push_back(self.audit.verify_chain(&mut tx, &stored).await?);
                    }
                    self.next = Next::After(id);
                }
                Next::BootAfter(last) => {
                    let Some((boot, fault)) =
                        completeness::boot_after(&mut tx, self.audit.admin_chain(), &last).await?
                    else {
                        continue;
                    };
                    if !fault.is_empty() {
                        self.ready.push_back(of_no_entry(self.audit.admin_chain(), fault));
                    }
                    self.next = Next::BootAfter(boot);
                }
            }
        }
    }

    async fn verify_one(&self, conn: &mut Conn, chain: ChainId) -> Result<Verdict, StoreError> {
        match chains::chain(conn, chain.as_bytes()).await? {
            Some(stored) => self.audit.verify_chain(conn, &stored).await,
            None => Ok(absent(chain.to_string())),
        }
    }

    async fn strays(&self, conn: &mut Conn) -> Result<VecDeque<Verdict>, StoreError> {
        let mut verdicts = VecDeque::new();
        let admin = self.audit.admin_chain();
        if chains::chain(conn, admin.as_bytes()).await?.is_none() {
            verdicts.push_back(absent(admin.to_string()));
        }
        for stray in chains::strays(conn, STRAYS).await? {
            verdicts.push_back(match stray {
                Stray::Key(chain, key) => Verdict { key: format!("vk_{key}"), ..absent(name(&chain)) },
                Stray::Entries(chain, seq) => Verdict {
                    first_bad_seq: Some(u64::try_from(seq).unwrap_or(0)),
                    fault: "these entries belong to no chain: they were moved or inserted, or their chain was deleted"
                        .to_owned(),
                    ..absent(name(&chain))
                },
            });
        }
        Ok(verdicts)
    }
}

fn absent(chain: String) -> Verdict {
    let fault = "the chain does not exist: it was deleted".to_owned();
    Verdict { chain, key: String::new(), entries: 0, first_bad_seq: Some(0), fault }
}

/// What is wrong with the whole rather than with one chain is told beside the administrators' chain, and names no entry.
fn of_no_entry(admin: ChainId, fault: String) -> Verdict {
    Verdict { chain: admin.to_string(), key: String::new(), entries: 0, first_bad_seq: None, fault }
}

fn name(chain: &[u8]) -> String {
    ChainId::from_slice(chain).map_or_else(|| format!("{chain:02x?}"), |chain| chain.to_string())
}

impl Audit {
    async fn verify_chain(&self, conn: &mut Conn, stored: &StoredChain) -> Result<Verdict, StoreError> {
        let key = stored.key_id.as_ref().or(stored.owner.as_ref()).map_or_else(String::new, |key| format!("vk_{key}"));
        let mut found = Found::default();
        let mut verdict =
            Verdict { chain: name(&stored.chain_id), key, entries: 0, first_bad_seq: None, fault: String::new() };
        match self.walk(conn, stored, &mut found).await? {
            Ok(entries) => verdict.entries = entries,
            Err(broken) => {
                verdict.entries = broken.seq.saturating_sub(1);
                verdict.first_bad_seq = Some(broken.seq);
                verdict.fault = broken.fault.to_string();
                return Ok(verdict);
            }
        }
        let key = stored.key_id.as_ref().and_then(|key| KeyId::from_ascii(key.as_bytes()).ok());
        if let Some(key) = key {
            verdict.fault = match ledger::all_books(conn, key).await {
                Ok(books) => found.tally.mismatches(&books).first().map_or_else(String::new, ToString::to_string),
                Err(StoreError::Corrupt(column)) => format!("the ledger holds an impossible value in {column}"),
                Err(error) => return Err(error),
            };
        } else {
            verdict.fault = found.acts.fault(conn).await?;
        }
        Ok(verdict)
    }

    async fn walk(
        &self,
        conn: &mut Conn,
        stored: &StoredChain,
        found: &mut Found,
    ) -> Result<Result<u64, Broken>, StoreError> {
        let begun = match self.begin(stored) {
            Ok(begun) => begun,
            Err(broken) => return Ok(Err(broken)),
        };
        let mut verifier = match begun.verifier() {
            Ok(verifier) => verifier,
            Err(broken) => return Ok(Err(broken)),
        };
        let (mut at, mut seq, mut time) = ((i64::MIN, i64::MIN), 0, None);
        loop {
            let rows = entries::after(conn, &stored.chain_id, at, PAGE).await?;
            let Some(last) = rows.last() else { break };
            at = (last.seq, last.entry_id);
            time = Some(last.t_cp);
            for row in rows {
                match check(&mut verifier, seq, row) {
                    Ok(Record::Request(record)) => found.tally.add(&record),
                    Ok(Record::Admin(act)) => found.acts.add(conn, &act).await?,
                    Ok(Record::Gap(_) | Record::Unchained(_)) => {}
                    Err(broken) => return Ok(Err(broken)),
                }
                seq += 1;
            }
        }
        let held = verifier.finish(begun.head.0, &begun.head.1, &begun.head.2);
        let created = begun.created;
        Ok(held.and_then(|held| {
            let agrees = time.map_or(created, Timestamp::from_nanos).nanos() == stored.head_time;
            if agrees { Ok(held) } else { Err(Broken { seq: held, fault: Fault::Head }) }
        }))
    }

    /// Reads a chain's own row, and checks whose chain it is.
    fn begin<'a>(&self, stored: &'a StoredChain) -> Result<Begun<'a>, Broken> {
        let broken = |fault| Broken { seq: 0, fault };
        let hash = |bytes: &[u8]| bytes.try_into().map_err(|_| broken(Fault::Head));
        let chain = ChainId::from_slice(&stored.chain_id).ok_or(broken(Fault::Record))?;
        let is_admin = chain == self.admin_chain;
        if stored.key_id != stored.owner || stored.key_id.is_none() != is_admin {
            return Err(broken(Fault::Index));
        }
        let genesis =
            keyforge_shared::audit::chain::Genesis::decode(&stored.genesis).map_err(|_| broken(Fault::Record))?;
        if genesis.deployment != self.deployment {
            return Err(broken(Fault::Record));
        }
        let head_seq = u64::try_from(stored.head_seq).map_err(|_| broken(Fault::Head))?;
        Ok(Begun {
            key: self.chain_key(chain),
            chain,
            genesis: &stored.genesis,
            genesis_hash: stored.genesis_hash.as_slice().try_into().map_err(|_| broken(Fault::Hash))?,
            created: genesis.created,
            head: (head_seq, hash(&stored.head_hash)?, hash(&stored.head_seal)?),
        })
    }
}

/// What the records of a chain say about what else must be stored.
#[derive(Default)]
struct Found {
    tally: Tally,
    acts: Acts,
}

struct Begun<'a> {
    key: ChainKey,
    chain: ChainId,
    genesis: &'a [u8],
    genesis_hash: Hash,
    created: Timestamp,
    head: (u64, Hash, Hash),
}

impl Begun<'_> {
    fn verifier(&self) -> Result<Verifier<'_>, Broken> {
        Verifier::start(&self.key, self.chain, self.genesis, &self.genesis_hash)
    }
}

/// Checks one row after `held` entries that hold: its link, and its columns against its record.
fn check(verifier: &mut Verifier<'_>, held: u64, row: StoredEntry) -> Result<Record, Broken> {
    let broken = |fault| Broken { seq: held + 1, fault };
    let beside = (row.node_id, row.boot_id, row.node_seq);
    let entry = Entry {
        // A negative place comes before the first.
        seq: u64::try_from(row.seq).unwrap_or(0),
        t_cp: Timestamp::from_nanos(row.t_cp),
        key_epoch: u32::try_from(row.key_epoch).map_err(|_| broken(Fault::Index))?,
        record: row.record,
    };
    let hash = row.hash.as_slice().try_into().map_err(|_| broken(Fault::Hash))?;
    let record = verifier.next(&entry, &hash)?;
    let expected = match &record {
        Record::Request(record) => (
            Some(record.node.as_bytes().to_vec()),
            Some(record.boot.as_bytes().to_vec()),
            Some(i64::try_from(record.node_seq).map_err(|_| broken(Fault::Index))?),
        ),
        Record::Unchained(record) => {
            let Subject { node, boot, .. } = record.subject;
            (Some(node.as_bytes().to_vec()), Some(boot.as_bytes().to_vec()), None)
        }
        Record::Admin(_) | Record::Gap(_) => (None, None, None),
    };
    if beside == expected { Ok(record) } else { Err(broken(Fault::Index)) }
}
