//! Gaps: a node declares that records of a boot are lost for good, and the chains say so.
//!
//! Saying the same again changes nothing. Nothing is freed by a gap: what the ledger had granted to that boot stays written off for good.

use std::collections::{BTreeMap, BTreeSet};

use keyforge_shared::audit::gap::GapRecord;
use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::subject::Subject;
use keyforge_shared::id::{BootId, ChainId, NodeId, RequestId};
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;

use super::intake::IntakeError;
use super::{Audit, AuditError};
use crate::store::locks::{self, Hold};
use crate::store::sql::Conn;
use crate::store::{Store, StoreError, boots, chains, entries, epochs, ledger};

/// How far back a repeated report is looked for. One that comes later than that is recorded twice, which says nothing false.
const REPEATS: u32 = 500;
/// Requests that one entry names at most, so that it fits into any answer; the rest follows in further ones.
const NAMED: usize = 5_000;

#[derive(Default)]
struct Missing {
    requests: Vec<RequestId>,
    charged: NanoUsd,
}

impl Missing {
    /// What one entry each tells of it: the money is told of in the first.
    fn in_parts(mut self) -> Vec<Self> {
        let mut further = Vec::new();
        while self.requests.len() > NAMED {
            let requests = self.requests.split_off(self.requests.len() - NAMED);
            further.push(Self { requests, charged: NanoUsd::ZERO });
        }
        further.push(self);
        further.reverse();
        further
    }
}

impl Audit {
    /// Writes a gap entry to every chain that is known to miss records of `boot`: those of keys that still hold money of an epoch that the
    /// boot has not left, and those where other attempts at `requests` were chained. What can be attributed to no chain goes to the administrators'.
    ///
    /// # Errors
    /// [`IntakeError::ForeignBoot`] when the boot is another node's; [`IntakeError::Audit`].
    pub async fn report_gap(
        &self,
        store: &Store,
        node: NodeId,
        boot: BootId,
        requests: &[RequestId],
    ) -> Result<(), IntakeError> {
        let mut tx = store.write().await?;
        let now = self.clock.now();
        locks::life(&mut tx, boot, Hold::Alone).await?;
        let known = boots::hold(&mut tx, boot, node, now).await?;
        if known.node != node {
            return Err(IntakeError::ForeignBoot(boot));
        }
        let mut missing: Vec<_> = self.attribute(&mut tx, boot, requests).await?.into_iter().collect();
        // In the order in which everybody takes chains.
        missing.sort_unstable_by_key(|(chain, _)| (*chain == self.admin_chain, *chain));
        for (chain, missing) in missing {
            for part in missing.in_parts() {
                let record = GapRecord {
                    subject: Subject { deployment: self.deployment, chain, node, boot },
                    last_seq: known.watermark,
                    at: now,
                    charged: part.charged,
                    requests: part.requests,
                };
                if !is_recorded(&mut tx, &record).await? {
                    self.append(&mut tx, chain, record.encode()).await?;
                }
            }
        }
        boots::declare_lost(&mut tx, boot, now).await?;
        tx.commit().await.map_err(StoreError::from)?;
        tracing::warn!(%node, %boot, watermark = known.watermark, requests = requests.len(), "audit records are lost for good");
        Ok(())
    }

    async fn attribute(
        &self,
        conn: &mut Conn,
        boot: BootId,
        requests: &[RequestId],
    ) -> Result<BTreeMap<ChainId, Missing>, AuditError> {
        let mut chains_missing: BTreeMap<ChainId, Missing> = BTreeMap::new();
        for (key, epoch) in epochs::of_boot(conn, boot).await? {
            let Some(chain) = chains::chain_of_key(conn, key).await? else { continue };
            // The same money stands in the books of every window, so the largest remainder is all of it.
            let books = ledger::all_books(conn, key).await?;
            let open = books.iter().filter(|(counter, of, _)| *of == epoch && counter.dimension == Dimension::Spend);
            let charged = open.map(|(_, _, books)| books.granted.saturating_sub(books.settled)).max().unwrap_or(0);
            let missing = chains_missing.entry(chain).or_default();
            missing.charged = missing.charged.saturating_add(NanoUsd::new(charged));
        }
        let mut unknown: BTreeSet<RequestId> = requests.iter().copied().collect();
        for (request, chain) in entries::chains_of_requests(conn, boot, requests).await? {
            unknown.remove(&request);
            chains_missing.entry(chain).or_default().requests.push(request);
        }
        if !unknown.is_empty() || chains_missing.is_empty() {
            chains_missing.entry(self.admin_chain).or_default().requests.extend(unknown);
        }
        for missing in chains_missing.values_mut() {
            missing.requests.sort_unstable();
        }
        Ok(chains_missing)
    }
}

/// Whether the chain already ends with, or nearly with, the same statement.
async fn is_recorded(conn: &mut Conn, record: &GapRecord) -> Result<bool, StoreError> {
    let recent = entries::before(conn, record.subject.chain, i64::MAX, REPEATS).await?;
    Ok(recent.iter().any(|row| match Record::decode(&row.record) {
        Ok(Record::Gap(before)) => GapRecord { at: record.at, charged: record.charged, ..before } == *record,
        Ok(Record::Request(_) | Record::Admin(_) | Record::Unchained(_)) | Err(_) => false,
    }))
}
