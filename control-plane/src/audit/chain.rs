//! Extends chains: reads the head, proves its seal, links records to it, and seals the new head.
//!
//! A head that does not carry its seal stops its chain: nothing is ever linked to bytes that somebody else wrote.

use keyforge_shared::audit::chain::{ChainKey, Entry, head_seal};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::ChainId;
use sqlx::SqliteConnection;

use super::{Audit, AuditError};
use crate::store::chains::{self, Head};
use crate::store::entries::{self, NewEntry, Origin};

/// A chain open for extension within one transaction.
pub(super) struct Tail {
    key: ChainKey,
    head: Head,
    now: Timestamp,
}

impl Tail {
    /// The head as it stands.
    pub(super) const fn head(&self) -> &Head {
        &self.head
    }

    /// Links one more record.
    pub(super) fn link(&mut self, record: Vec<u8>, origin: Option<Origin>) -> NewEntry {
        let seq = self.head.seq + 1;
        let entry = Entry { seq, t_cp: self.now, key_epoch: self.key.epoch(), record };
        let hash = entry.hash(&self.key, self.head.chain, &self.head.hash);
        (self.head.seq, self.head.hash, self.head.time) = (seq, hash, self.now);
        NewEntry {
            chain: self.head.chain,
            seq,
            origin,
            t_cp: entry.t_cp,
            key_epoch: entry.key_epoch,
            record: entry.record,
            hash,
        }
    }

    /// Seals the new head and writes it.
    pub(super) async fn save(mut self, conn: &mut SqliteConnection) -> Result<(), AuditError> {
        self.head.seal = head_seal(&self.key, self.head.chain, self.head.seq, &self.head.hash);
        Ok(chains::set_head(conn, &self.head).await?)
    }
}

impl Audit {
    /// Opens a chain for extension; `None` when there is no such chain.
    pub(super) async fn tail(&self, conn: &mut SqliteConnection, chain: ChainId) -> Result<Option<Tail>, AuditError> {
        let Some(head) = chains::head(conn, chain).await? else { return Ok(None) };
        let key = self.chain_key(chain);
        if head_seal(&key, chain, head.seq, &head.hash) != head.seal {
            tracing::error!(%chain, seq = head.seq, "the head of an audit chain was tampered with; nothing is chained to it");
            return Err(AuditError::Tampered(chain));
        }
        // The wall clock may step back; a chain's time never does.
        let now = self.clock.now().max(head.time);
        Ok(Some(Tail { key, head, now }))
    }

    /// Chains one record that the control plane itself wrote.
    pub(super) async fn append(
        &self,
        conn: &mut SqliteConnection,
        chain: ChainId,
        record: Vec<u8>,
    ) -> Result<(), AuditError> {
        let mut tail = self.tail(conn, chain).await?.ok_or(AuditError::UnknownChain(chain))?;
        let entry = tail.link(record, None);
        entries::insert(conn, vec![entry]).await?;
        tail.save(conn).await
    }
}
