//! Intake: records of nodes arrive at least once and are chained exactly once.
//!
//! One batch is one transaction: records are checked, those above the boot's watermark are linked to their chains, and usage, ledger and
//! watermark move with them. The answer is given after the commit, which is on disk. A record that is not what its batch says is refused with its
//! number; nothing after it is chained either, and nothing is ever dropped. What no key's chain can take although it is sound is passed over and
//! told of ([`super::unchained`]), so that it holds up nothing else. A key whose request cost more than its bound is noted in the same
//! transaction as one to be paused, so that neither a crash nor a hang-up after the commit can lose that.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use keyforge_shared::audit::canonical::DecodeError;
use keyforge_shared::audit::request::{Flags, Outcome, PrivateTag, RequestRecord};
use keyforge_shared::id::{BootId, ChainId, KeyId, NodeId};

use super::chain::Tail;
use super::unchained::{self, Passed};
use super::{Audit, AuditError};
use crate::ledger::settle;
use crate::store::entries::{self, NewEntry, Origin};
use crate::store::locks::{self, Hold};
use crate::store::sql::Conn;
use crate::store::usage::{self, DayUsage, UsageSums};
use crate::store::{Store, StoreError, boots, chains, keys, overspent};

/// Why a batch was refused. Nothing of it was chained.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The database failed, or a chain was tampered with.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The batch begins after the record that is due.
    #[error("record {first} of the boot came, but record {due} is due: ship from there")]
    Sequence {
        /// Number of the batch's first record.
        first: u64,
        /// The number after the watermark.
        due: u64,
    },
    /// Not the canonical bytes of a request record.
    #[error("record {seq} cannot be read: {source}")]
    Unreadable {
        /// Its number.
        seq: u64,
        /// Why.
        source: DecodeError,
    },
    /// It does not say what the batch says about it.
    #[error("record {seq} names another {field} than its batch")]
    Contradiction {
        /// Its number.
        seq: u64,
        /// Which field.
        field: &'static str,
    },
    /// Another record was chained under its number.
    #[error("record {seq} is not the one that was chained under this number: a node does not rewrite what it shipped")]
    Rewritten {
        /// Its number.
        seq: u64,
    },
    /// The boot is another node's.
    #[error("{0} belongs to another node")]
    ForeignBoot(BootId),
}

impl From<StoreError> for IntakeError {
    fn from(error: StoreError) -> Self {
        Self::Audit(error.into())
    }
}

/// Records of one life as a node ships them.
pub struct Batch {
    /// Who ships.
    pub node: NodeId,
    /// The life.
    pub boot: BootId,
    /// Number of the first record.
    pub first_seq: u64,
    /// Nothing before that number is kept by the node any more.
    pub earlier_gone: bool,
    /// Canonical bytes, numbers rising by one.
    pub records: Vec<Vec<u8>>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Every record of the boot up to this number is chained or told of, and on disk.
    pub watermark: u64,
    /// Records that were passed over, because they name no virtual key's chain.
    pub unchained: u64,
    /// Numbers that were passed over, because their records are gone on both sides.
    pub lost: u64,
}

/// Chains open for extension, each with its key.
type Tails = HashMap<ChainId, (Tail, KeyId)>;

struct Shipped {
    record: RequestRecord,
    bytes: Vec<u8>,
}

/// Takes what nodes ship.
pub struct Intake {
    store: Store,
    audit: Arc<Audit>,
}

impl Intake {
    /// An intake that chains with `audit` in `store`.
    #[must_use]
    pub const fn new(store: Store, audit: Arc<Audit>) -> Self {
        Self { store, audit }
    }

    /// Chains the records of a batch, skipping those that are chained already, and passes over what no key's chain can take.
    ///
    /// # Errors
    /// [`IntakeError`]; nothing was chained then.
    pub async fn ship(&self, batch: Batch) -> Result<Taken, IntakeError> {
        let Batch { node, boot, first_seq, earlier_gone, .. } = batch;
        let shipped = self.decode(batch)?;
        let mut tx = self.store.write().await?;
        let known = boots::hold(&mut tx, boot, node, self.audit.clock.now()).await?;
        if known.node != node {
            return Err(IntakeError::ForeignBoot(boot));
        }
        let due = known.watermark.saturating_add(1);
        if first_seq == 0 || (first_seq > due && !earlier_gone) {
            return Err(IntakeError::Sequence { first: first_seq, due });
        }
        let lost = (first_seq > due).then(|| (due, first_seq - 1));
        let mut fresh = self.skip_known(&mut tx, boot, known.watermark, shipped).await?;
        let tails = self.tails(&mut tx, &fresh).await?;
        let passed = pass_over(&mut fresh, &tails, lost);
        let last = fresh.last().map(|shipped| shipped.record.node_seq).or(lost.map(|(_, last)| last));
        let taken =
            Taken { watermark: last.unwrap_or(known.watermark), unchained: passed.records(), lost: passed.lost() };
        self.chain(&mut tx, tails, fresh).await?;
        self.audit.tell(&mut tx, (node, boot), passed).await?;
        if taken.watermark > known.watermark {
            boots::set_watermark(&mut tx, boot, taken.watermark).await?;
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(taken)
    }

    fn decode(&self, Batch { node, boot, first_seq, records, .. }: Batch) -> Result<Vec<Shipped>, IntakeError> {
        let deployment = self.audit.deployment;
        let numbered =
            records.into_iter().enumerate().map(|(index, bytes)| (first_seq.saturating_add(index as u64), bytes));
        numbered
            .map(|(seq, bytes)| {
                let record = RequestRecord::decode(&bytes).map_err(|source| IntakeError::Unreadable { seq, source })?;
                let claims = [
                    ("deployment_id", record.deployment == deployment),
                    ("node_id", record.node == node),
                    ("boot_id", record.boot == boot),
                    ("node_seq", record.node_seq == seq),
                ];
                match claims.into_iter().find(|(_, agrees)| !agrees) {
                    Some((field, _)) => Err(IntakeError::Contradiction { seq, field }),
                    None => Ok(Shipped { record, bytes }),
                }
            })
            .collect()
    }

    /// The chains of these records open for extension, each with its key. Their books are held with them.
    async fn tails(&self, conn: &mut Conn, fresh: &[Shipped]) -> Result<Tails, IntakeError> {
        let chains: BTreeSet<ChainId> = fresh.iter().map(|shipped| shipped.record.chain).collect();
        let chains: Vec<ChainId> = chains.into_iter().collect();
        let workspaces = keys::workspaces_of(conn, &chains).await?;
        locks::workspaces(conn, &workspaces, Hold::Shared).await?;
        let tails = self.audit.tails(conn, &chains).await?;
        let owned = tails.into_iter().filter_map(|tail| Some((tail.head().chain, (tail.head().key?, tail))));
        Ok(owned.map(|(chain, (key, tail))| (chain, (tail, key))).collect())
    }

    /// Leaves the records above the watermark, after proving that those below it are the ones that were chained or told of.
    async fn skip_known(
        &self,
        conn: &mut Conn,
        boot: BootId,
        watermark: u64,
        mut shipped: Vec<Shipped>,
    ) -> Result<Vec<Shipped>, IntakeError> {
        let fresh = shipped.split_off(shipped.partition_point(|shipped| shipped.record.node_seq <= watermark));
        let (Some(first), Some(last)) = (shipped.first(), shipped.last()) else { return Ok(fresh) };
        let stored = entries::of_boot(conn, boot, first.record.node_seq, last.record.node_seq).await?;
        let stored: HashMap<u64, Vec<u8>> = stored.into_iter().collect();
        shipped.retain(|Shipped { record, bytes }| stored.get(&record.node_seq) != Some(bytes));
        if shipped.is_empty() {
            return Ok(fresh);
        }
        let told = unchained::told_of(conn, self.audit.admin_chain, boot.as_bytes()).await?;
        for Shipped { record, bytes } in &shipped {
            let seq = record.node_seq;
            if stored.contains_key(&seq) || !told.has(seq, bytes) {
                tracing::error!(%boot, seq, "a record differs from the one that came first under its number, or that one is gone");
                return Err(IntakeError::Rewritten { seq });
            }
        }
        Ok(fresh)
    }

    /// Chains those records that have a chain among `tails`.
    async fn chain(&self, conn: &mut Conn, mut tails: Tails, fresh: Vec<Shipped>) -> Result<(), IntakeError> {
        if tails.is_empty() {
            return Ok(());
        }
        let mut linked: Vec<NewEntry> = Vec::with_capacity(fresh.len());
        let mut charged: Vec<(KeyId, RequestRecord)> = Vec::with_capacity(fresh.len());
        for Shipped { record, bytes } in fresh {
            let (chain, seq) = (record.chain, record.node_seq);
            let Some((tail, key)) = tails.get_mut(&chain) else { continue };
            let origin = Origin { node: record.node, boot: record.boot, node_seq: Some(seq) };
            linked.push(tail.link(bytes, Some(origin)));
            charged.push((*key, record));
        }
        entries::insert(conn, linked).await?;
        let heads: Vec<_> = tails.into_values().map(|(tail, _)| tail.sealed()).collect();
        chains::set_heads(conn, &heads).await?;
        usage::add(conn, &sums_by_day(&charged)).await?;
        settle::from_records(conn, &charged).await?;
        for (key, record) in charged.iter().filter(|(_, record)| record.flags.has(Flags::BOUND_EXCEEDED)) {
            overspent::note(conn, *key, record.request).await?;
        }
        Ok(())
    }
}

/// Takes note of the records that name none of `tails`. Records that do not fit in one entry stay for the next batch.
fn pass_over(fresh: &mut Vec<Shipped>, tails: &Tails, lost: Option<(u64, u64)>) -> Passed {
    let mut passed = Passed::after(lost);
    let mut taken = fresh.len();
    for (index, Shipped { record, bytes }) in fresh.iter().enumerate() {
        if tails.contains_key(&record.chain) {
            continue;
        }
        if passed.is_full() {
            taken = index;
            break;
        }
        passed.add(record, bytes);
    }
    fresh.truncate(taken);
    passed
}

fn sums_by_day(charged: &[(KeyId, RequestRecord)]) -> Vec<DayUsage> {
    let mut days: HashMap<(KeyId, u32, &str), UsageSums> = HashMap::new();
    for (key, record) in charged {
        let counted = record.takes_from_request_quota();
        let one = UsageSums {
            requests: u64::from(counted),
            refused: u64::from(record.outcome == Outcome::Refused),
            input_tokens: record.input_tokens,
            cache_read_tokens: record.cache_read_tokens,
            cache_write_tokens: record.cache_write_tokens,
            output_tokens: record.output_tokens,
            reasoning_tokens: record.private_u64(PrivateTag::REASONING_TOKENS).unwrap_or(0),
            cost: record.cost.nanos(),
        };
        let sums = days.entry((*key, record.period, record.model.as_str())).or_default();
        *sums = sums.plus(&one);
    }
    let day = |((key, day, model), sums): ((KeyId, u32, &str), UsageSums)| DayUsage {
        key,
        day,
        model: model.to_owned(),
        sums,
    };
    days.into_iter().map(day).collect()
}
