//! Where audit records go. The contract is the control plane's: records are taken at least once and chained exactly once.

use std::future::Future;

use bytes::Bytes;
use keyforge_shared::id::{BootId, NodeId, RequestId};

/// Why a sink did not do what it was asked. Nothing is known about whether it did it all the same.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct SinkError {
    /// Whether the same call can succeed later without anybody's help.
    pub retryable: bool,
    /// What went wrong, for the log.
    pub message: String,
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Number of its first record.
    pub seq: u64,
    /// Nothing before that number is kept here any more: it was acknowledged once. What the sink lacks of it is lost, and it is to go on without.
    pub earlier_gone: bool,
}

impl Begin {
    /// A batch of a life that has all that is due.
    #[must_use]
    pub const fn at(seq: u64) -> Self {
        Self { seq, earlier_gone: false }
    }
}

/// Takes the records of a node's lives.
pub trait AuditSink: Send + Sync + 'static {
    /// Ships records of one life, in order and without gaps. Returns the number up to which every record of that life is chained or told of as one
    /// that cannot be, and durable. Records that are known already are ignored;
    /// an empty batch only asks for that number.
    fn ship(
        &self,
        node: NodeId,
        boot: BootId,
        begin: Begin,
        records: &[Bytes],
    ) -> impl Future<Output = Result<u64, SinkError>> + Send;

    /// Says that after `last_seq` records of that life are lost for good, and which requests may be concerned. Records
    /// that are shipped later go on at `last_seq + 1`. May be said more than once.
    fn report_gap(
        &self,
        node: NodeId,
        boot: BootId,
        last_seq: u64,
        requests: &[RequestId],
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Says that the life `boot` is over and that `last_seq` is its last record: it leaves every epoch and joins none any
    /// more. May be said more than once.
    fn close_boot(&self, boot: BootId, last_seq: u64) -> impl Future<Output = Result<(), SinkError>> + Send;
}
