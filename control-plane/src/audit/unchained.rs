//! What a node ships and no virtual key's chain can take is passed over, and told of in the administrators' chain.
//!
//! A database that was put back to a backup knows neither the keys that were made since nor how far each life has shipped. A node that ran on
//! still ships what it did for those keys, and may no longer have what it was told to be chained. Neither holds up what comes after it: the
//! numbers are passed over in the transaction that moves the life's watermark, and one entry of that transaction names them, with what is known
//! of them. Nothing is passed over without one, so stocktaking still finds every number of a life, and a record that is shipped again is still
//! compared with the one that came first.

use std::collections::BTreeMap;

use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::audit::subject::Subject;
use keyforge_shared::audit::unchained::{Unchained, UnchainedRecord};
use keyforge_shared::id::{BootId, ChainId, NodeId};
use sha2::{Digest as _, Sha256};

use super::{Audit, AuditError};
use crate::store::StoreError;
use crate::store::entries::{self, Origin};
use crate::store::sql::Conn;

/// Most records that one entry names, so that a page of entries stays small. A batch is cut before one more.
const MOST: usize = 500;
/// Entries about a boot that are read at a time.
const PAGE: u32 = 100;

/// What of one batch is passed over.
pub(super) struct Passed {
    /// First and last number of what is at neither side any more.
    lost: Option<(u64, u64)>,
    records: Vec<Unchained>,
}

impl Passed {
    /// Nothing yet but `lost`: first and last number of what is at neither side any more.
    pub const fn after(lost: Option<(u64, u64)>) -> Self {
        Self { lost, records: Vec::new() }
    }

    /// Whether no more records fit.
    pub fn is_full(&self) -> bool {
        self.records.len() >= MOST
    }

    /// Adds a record, of which `bytes` are the canonical bytes.
    pub fn add(&mut self, record: &RequestRecord, bytes: &[u8]) {
        self.records.push(Unchained {
            node_seq: record.node_seq,
            chain: record.chain,
            request: record.request,
            cost: record.cost,
            digest: Sha256::digest(bytes).into(),
        });
    }

    /// How many records there are.
    pub const fn records(&self) -> u64 {
        self.records.len() as u64
    }

    /// How many numbers are lost.
    pub fn lost(&self) -> u64 {
        self.lost.map_or(0, |(first, last)| last.saturating_sub(first).saturating_add(1))
    }
}

impl Audit {
    /// Tells of what was passed over, if anything was, in the caller's transaction.
    pub(super) async fn tell(
        &self,
        conn: &mut Conn,
        (node, boot): (NodeId, BootId),
        passed: Passed,
    ) -> Result<(), AuditError> {
        if passed.lost.is_none() && passed.records.is_empty() {
            return Ok(());
        }
        let (lost_from, lost_through) = passed.lost.unwrap_or((0, 0));
        let record = UnchainedRecord {
            subject: Subject { deployment: self.deployment, chain: self.admin_chain, node, boot },
            at: self.clock.now(),
            lost_from,
            lost_through,
            records: passed.records,
        };
        let about = Origin { node, boot, node_seq: None };
        self.append_about(conn, self.admin_chain, record.encode(), Some(about)).await
    }
}

/// What the administrators' chain tells of one boot.
#[derive(Default)]
pub(super) struct Told {
    lost: Vec<(u64, u64)>,
    digests: BTreeMap<u64, Vec<[u8; 32]>>,
}

impl Told {
    /// Runs of first and last numbers. A number that is told of twice is in two.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs = self.lost.clone();
        for (seq, digests) in &self.digests {
            match runs.last_mut() {
                Some((_, last)) if digests.len() == 1 && last.checked_add(1) == Some(*seq) => *last = *seq,
                _ => runs.extend(digests.iter().map(|_| (*seq, *seq))),
            }
        }
        runs
    }

    /// Whether `bytes` are those that were passed over as record `seq`, or that one is told of as lost.
    pub fn has(&self, seq: u64, bytes: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        self.lost.iter().any(|(first, last)| (*first..=*last).contains(&seq))
            || self.digests.get(&seq).is_some_and(|digests| digests.contains(&digest))
    }
}

/// Reads what the administrators' chain, `admin`, tells of a boot. What cannot be read there is told of nothing; the verification of that chain
/// names it.
pub(super) async fn told_of(conn: &mut Conn, admin: ChainId, boot: &[u8]) -> Result<Told, StoreError> {
    let (mut told, mut after) = (Told::default(), i64::MIN);
    loop {
        let rows = entries::about_boot(conn, (admin, boot), after, PAGE).await?;
        let Some((last, _)) = rows.last() else { return Ok(told) };
        after = *last;
        for (_, record) in &rows {
            let Ok(Record::Unchained(record)) = Record::decode(record) else { continue };
            if record.lost_from > 0 {
                told.lost.push((record.lost_from, record.lost_through));
            }
            for one in &record.records {
                told.digests.entry(one.node_seq).or_default().push(one.digest);
            }
        }
    }
}

/// What records name, each chain with how many records and what they cost in nano-dollars, by chain.
#[must_use]
pub fn by_chain(record: &UnchainedRecord) -> BTreeMap<ChainId, (u64, u64)> {
    let mut chains: BTreeMap<ChainId, (u64, u64)> = BTreeMap::new();
    for one in &record.records {
        let (records, cost) = chains.entry(one.chain).or_default();
        *records += 1;
        *cost = cost.saturating_add(one.cost.nanos());
    }
    chains
}
