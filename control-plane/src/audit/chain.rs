//! Extends chains: reads the head, proves its seal, links records to it, and seals the new head.
//!
//! A head that does not carry its seal stops its chain: nothing is ever linked to bytes that somebody else wrote.

use keyforge_shared::audit::chain::{ChainKey, Entry, head_seal};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::ChainId;

use super::{Audit, AuditError};
use crate::store::chains::{self, Head};
use crate::store::entries::{self, NewEntry, Origin};
use crate::store::sql::Conn;

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

    /// The new head under its seal, to be written with the entries.
    pub(super) fn sealed(mut self) -> Head {
        self.head.seal = head_seal(&self.key, self.head.chain, self.head.seq, &self.head.hash);
        self.head
    }
}

impl Audit {
    /// Opens chains for extension, which nobody else extends until the transaction ends. Those that do not exist are left out.
    pub(super) async fn tails(&self, conn: &mut Conn, chains: &[ChainId]) -> Result<Vec<Tail>, AuditError> {
        let heads = chains::heads(conn, chains).await?;
        heads.into_iter().map(|head| self.tail(head)).collect()
    }

    fn tail(&self, head: Head) -> Result<Tail, AuditError> {
        let (chain, key) = (head.chain, self.chain_key(head.chain));
        if head_seal(&key, chain, head.seq, &head.hash) != head.seal {
            tracing::error!(%chain, seq = head.seq, "the head of an audit chain was tampered with; nothing is chained to it");
            return Err(AuditError::Tampered(chain));
        }
        // The wall clock may step back; a chain's time never does.
        let now = self.clock.now().max(head.time);
        Ok(Tail { key, head, now })
    }

    /// Chains one record that the control plane itself wrote.
    pub(super) async fn append(&self, conn: &mut Conn, chain: ChainId, record: Vec<u8>) -> Result<(), AuditError> {
        self.append_about(conn, chain, record, None).await
    }

    /// Chains one record that the control plane itself wrote about a node's life.
    pub(super) async fn append_about(
        &self,
        conn: &mut Conn,
        chain: ChainId,
        record: Vec<u8>,
        life: Option<Origin>,
    ) -> Result<(), AuditError> {
        let mut tails = self.tails(conn, &[chain]).await?;
        let mut tail = tails.pop().ok_or(AuditError::UnknownChain(chain))?;
        let entry = tail.link(record, life);
        entries::insert(conn, vec![entry]).await?;
        Ok(chains::set_heads(conn, &[tail.sealed()]).await?)
    }
}
